-- Of a FOLLOWED_UP hit: when it was first probed without a match since it matched last. A hit that is
-- followed up is not retracted, but marked so (workflow.md "Hit").
ALTER TABLE hits ADD COLUMN unmatched_since BIGINT;
