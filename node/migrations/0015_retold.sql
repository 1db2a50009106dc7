-- What is still to be looked at after a log was begun anew, and what is counted quickly (protocol §11).

-- 1 for a batch whose place was told before the log was begun anew: a restored log is a prefix and has it
-- there still, another has something else there, which accuses nobody.
ALTER TABLE probed_batches ADD COLUMN retold INTEGER NOT NULL DEFAULT 0;
CREATE INDEX probed_batches_unplaced ON probed_batches (answered_at) WHERE leaf_index IS NULL;
CREATE INDEX probed_batches_waiting ON probed_batches (answered_at)
    WHERE verified_at IS NULL AND leaf_index IS NOT NULL;

-- The size of the tree that too few witnesses stood behind at `few_since`; NULL while enough do.
ALTER TABLE log_checkpoints ADD COLUMN few_size INTEGER;
