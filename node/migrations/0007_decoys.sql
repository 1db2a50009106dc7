-- Batches are filled up with decoys that come again like refs of records do.

-- `decoys`: how many decoys of the dataset are in planned batches.
ALTER TABLE probe_sessions ADD COLUMN decoys INTEGER NOT NULL DEFAULT 0;
-- `pairs`: what is sent in all, 0 if the batch is not filled up; `decoy`: the first decoy in it.
ALTER TABLE probe_batches ADD COLUMN pairs INTEGER NOT NULL DEFAULT 0;
ALTER TABLE probe_batches ADD COLUMN decoy INTEGER NOT NULL DEFAULT 0;

-- Record refs that stand for nothing: what the broker tells of them is not shown.
CREATE TABLE decoys (
    record_ref BLOB PRIMARY KEY,
    epoch      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
