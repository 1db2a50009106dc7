-- The audit log of the community as this node follows it (protocol §11).

-- The largest checkpoint of a log that was found consistent: the node cosigns nothing that it has not
-- stored here. `note`: the signed note as it came.
CREATE TABLE log_checkpoints (
    origin    TEXT PRIMARY KEY,
    tree_size INTEGER NOT NULL,
    root      BLOB NOT NULL,
    note      BLOB NOT NULL,
    stored_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What the log has signed that contradicts itself or a hit. `known`: the note that was found consistent,
-- empty if there was none; `offered`: the one that does not go with it; `proof`: the hashes that failed, one
-- after the other; `entry`: the logged entry that does not fit, sealed. The alarm stands while any row has
-- no `cleared_at`.
CREATE TABLE log_evidence (
    evidence_id INTEGER PRIMARY KEY,
    at          INTEGER NOT NULL,
    what        TEXT NOT NULL,
    log_key     TEXT NOT NULL,
    known       BLOB NOT NULL,
    offered     BLOB NOT NULL,
    proof       BLOB NOT NULL,
    subject     TEXT NOT NULL,
    entry       BLOB,
    cleared_at  INTEGER
) STRICT;

-- A hit is verified once its entry was proved to be in the log.
ALTER TABLE hits ADD COLUMN leaf_index INTEGER;
ALTER TABLE hits ADD COLUMN verified_at INTEGER;
CREATE INDEX hits_unverified ON hits (hit_id) WHERE verified_at IS NULL;

-- Every batch that was answered, so that its digests in the log can be opened to an auditor. `opening`: nonce,
-- pairs as they were sent, and answer, sealed. `leaf_index` is NULL if the broker gave none.
CREATE TABLE probed_batches (
    batch_id      INTEGER PRIMARY KEY,
    session_id    BLOB NOT NULL,
    number        INTEGER NOT NULL,
    epoch         INTEGER NOT NULL,
    leaf_index    INTEGER,
    tags_digest   BLOB NOT NULL,
    answer_digest BLOB NOT NULL,
    opening       BLOB NOT NULL,
    answered_at   INTEGER NOT NULL,
    verified_at   INTEGER,
    UNIQUE (session_id, number)
) STRICT;
CREATE INDEX probed_batches_unverified ON probed_batches (batch_id)
    WHERE verified_at IS NULL AND leaf_index IS NOT NULL;
CREATE INDEX probed_batches_by_age ON probed_batches (epoch, answered_at);
