-- What the service does by itself: publishing, probing, the life of hits.

-- Whether a dataset is in the node's filters; and why it is probed by itself, all NULL if it is not.
ALTER TABLE datasets ADD COLUMN publish INTEGER NOT NULL DEFAULT 1;
ALTER TABLE datasets ADD COLUMN probe_purpose TEXT;
ALTER TABLE datasets ADD COLUMN probe_legal_basis TEXT;
ALTER TABLE datasets ADD COLUMN probe_reference TEXT;
ALTER TABLE datasets ADD COLUMN probe_case_ref TEXT;

-- What publishing knows of a policy. `removals` counts what was taken out of the filters;
-- `next_base`: when the next base is due; `audience`: node ids with commas between, empty = all.
CREATE TABLE publishing (
    policy    TEXT PRIMARY KEY,
    removals  INTEGER NOT NULL DEFAULT 0,
    next_base INTEGER,
    audience  TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;

-- This node's layers that became active and are not known to have ended. `supplement_of` is NULL
-- for a base; the selectors after the layer before it, up to `last_selector`, are in it; a base was
-- built when `removals` was this much.
CREATE TABLE layers (
    publication_id BLOB PRIMARY KEY,
    policy         TEXT NOT NULL,
    epoch          INTEGER NOT NULL,
    version        INTEGER NOT NULL,
    supplement_of  INTEGER,
    last_selector  INTEGER NOT NULL,
    removals       INTEGER NOT NULL,
    selectors      INTEGER NOT NULL,
    class          INTEGER NOT NULL,
    bytes          INTEGER NOT NULL,
    audience       TEXT NOT NULL,
    active_at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

ALTER TABLE outbox ADD COLUMN removals INTEGER NOT NULL DEFAULT 0;

-- Up to which selector a holder was asked for a dataset, and with which set of layers when it was
-- asked for everything (CatalogueEntry.layers), and when that began.
CREATE TABLE coverage (
    dataset_id    INTEGER NOT NULL REFERENCES datasets (dataset_id) ON DELETE CASCADE,
    holder        TEXT NOT NULL,
    epoch         INTEGER NOT NULL,
    layers        BLOB NOT NULL,
    last_selector INTEGER NOT NULL,
    swept_at      INTEGER NOT NULL,
    PRIMARY KEY (dataset_id, holder)
) STRICT, WITHOUT ROWID;

-- `kind`: ASKED by a person; of the service: NEW selectors, a SWEEP of holders that have changed, a
-- REFRESH of those that were not asked for long. `first`: the selector before the first that is
-- asked. `layers`: JSON, what the holders that are swept had active at the beginning.
CREATE TABLE probe_sessions_2 (
    session_id    BLOB PRIMARY KEY,
    dataset_id    INTEGER NOT NULL REFERENCES datasets (dataset_id) ON DELETE CASCADE,
    kind          TEXT NOT NULL,
    epoch         INTEGER NOT NULL,
    nonce         BLOB NOT NULL,
    purpose       TEXT NOT NULL,
    legal_basis   TEXT NOT NULL,
    reference     TEXT NOT NULL,
    case_ref      TEXT NOT NULL,
    targets       TEXT NOT NULL,
    first         INTEGER NOT NULL,
    last_selector INTEGER NOT NULL,
    total         INTEGER NOT NULL,
    layers        TEXT NOT NULL,
    padding       INTEGER NOT NULL,
    started_at    INTEGER NOT NULL,
    next_batch    INTEGER NOT NULL DEFAULT 0,
    position      INTEGER NOT NULL DEFAULT 0,
    probed        INTEGER NOT NULL DEFAULT 0,
    matches       INTEGER NOT NULL DEFAULT 0,
    UNIQUE (dataset_id, kind, purpose, legal_basis, reference, case_ref, targets)
) STRICT, WITHOUT ROWID;
INSERT INTO probe_sessions_2 (session_id, dataset_id, kind, epoch, nonce, purpose, legal_basis,
    reference, case_ref, targets, first, last_selector, total, layers, padding, started_at,
    next_batch, position, probed, matches)
SELECT session_id, dataset_id, 'ASKED', epoch, nonce, purpose, legal_basis, reference, case_ref,
    targets, 0, last_selector, total, '{}', 0, 0, next_batch, position, probed, matches
FROM probe_sessions;
CREATE TABLE probe_batches_2 (
    session_id BLOB NOT NULL REFERENCES probe_sessions_2 (session_id) ON DELETE CASCADE,
    number     INTEGER NOT NULL,
    first      INTEGER NOT NULL,
    last       INTEGER NOT NULL,
    PRIMARY KEY (session_id, number)
) STRICT, WITHOUT ROWID;
INSERT INTO probe_batches_2 SELECT session_id, number, first, last FROM probe_batches;
DROP TABLE probe_batches;
DROP TABLE probe_sessions;
ALTER TABLE probe_sessions_2 RENAME TO probe_sessions;
ALTER TABLE probe_batches_2 RENAME TO probe_batches;
