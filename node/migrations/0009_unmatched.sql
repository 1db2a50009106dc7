-- Of a FOLLOWED_UP hit: when it was first probed without a match since it matched last, as the broker
-- tells it (workflow.md "Hit").
ALTER TABLE hits ADD COLUMN unmatched_since INTEGER;
