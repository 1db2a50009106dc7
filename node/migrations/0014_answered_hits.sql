-- What binds a hit to the record that was asked for: the entry of a hit in the audit log names no record ref,
-- the answer to a batch does, and the log has its digest (protocol §11).

-- What each answer that is kept here says of hits. A hit is verified only if a verified batch is among those
-- that name it, and none names it otherwise than the hit is stored.
CREATE TABLE answered_hits (
    hit_id     BLOB NOT NULL,
    batch_id   INTEGER NOT NULL REFERENCES probed_batches (batch_id) ON DELETE CASCADE,
    epoch      INTEGER NOT NULL,
    policy     TEXT NOT NULL,
    record_ref BLOB NOT NULL,
    holder     TEXT NOT NULL,
    PRIMARY KEY (hit_id, batch_id, record_ref, holder)
) STRICT, WITHOUT ROWID;
CREATE INDEX answered_hits_by_batch ON answered_hits (batch_id);

-- Since when too few witnesses stand behind what the log shows; NULL while enough do.
ALTER TABLE log_checkpoints ADD COLUMN few_since INTEGER;
