-- The store of one node: its selectors in clear, and what it knows of epochs, probes and hits.
-- The file has mode 0600. Times are microseconds since 1970, ids are 16 bytes.

CREATE TABLE counters (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Fingerprints that were compared out of band (protocol §8).
CREATE TABLE pins (
    node_id     TEXT PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    pinned_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Epochs whose key is in the keystore. A draft was made here and may not have reached the broker.
CREATE TABLE epochs (
    epoch      INTEGER PRIMARY KEY,
    manifest   BLOB NOT NULL,
    fetched_at INTEGER NOT NULL,
    draft      INTEGER NOT NULL
) STRICT;

CREATE TABLE datasets (
    dataset_id    INTEGER PRIMARY KEY,
    name          TEXT NOT NULL UNIQUE,
    policy        TEXT NOT NULL,
    selectors     INTEGER NOT NULL,
    last_selector INTEGER NOT NULL,
    imported_at   INTEGER NOT NULL
) STRICT;

-- Canonical values. Without a dataset: a one-off question. AUTOINCREMENT: the order of ids is the
-- order of import, and an id is never used twice.
CREATE TABLE selectors (
    selector_id INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset_id  INTEGER REFERENCES datasets (dataset_id),
    policy      TEXT NOT NULL,
    canonical   TEXT NOT NULL,
    record_id   TEXT NOT NULL,
    ordinal     INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX selectors_by_dataset ON selectors (dataset_id, canonical)
    WHERE dataset_id IS NOT NULL;
CREATE UNIQUE INDEX selectors_by_record ON selectors (dataset_id, record_id, ordinal)
    WHERE dataset_id IS NOT NULL;
CREATE UNIQUE INDEX selectors_of_checks ON selectors (policy, canonical)
    WHERE dataset_id IS NULL;

-- Rows of imports under way; they become selectors in one transaction or not at all.
CREATE TABLE staged_rows (
    import_id INTEGER NOT NULL,
    canonical TEXT NOT NULL,
    position  INTEGER NOT NULL,
    record_id TEXT NOT NULL,
    PRIMARY KEY (import_id, canonical)
) STRICT, WITHOUT ROWID;

-- What a record ref of the wire stands for (protocol §2).
CREATE TABLE record_refs (
    record_ref  BLOB PRIMARY KEY,
    selector_id INTEGER NOT NULL REFERENCES selectors (selector_id),
    epoch       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Filters that are built and not active yet; the bits are in data_dir/outbox.
CREATE TABLE outbox (
    publication_id BLOB PRIMARY KEY,
    policy         TEXT NOT NULL UNIQUE,
    epoch          INTEGER NOT NULL,
    header         BLOB NOT NULL,
    selectors      INTEGER NOT NULL,
    last_selector  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Probe sessions that are not closed (protocol §7). `position`: the last selector that is in a
-- planned batch; `last_selector`: where the probe ends.
CREATE TABLE probe_sessions (
    session_id    BLOB PRIMARY KEY,
    dataset_id    INTEGER NOT NULL REFERENCES datasets (dataset_id),
    epoch         INTEGER NOT NULL,
    nonce         BLOB NOT NULL,
    purpose       TEXT NOT NULL,
    legal_basis   TEXT NOT NULL,
    reference     TEXT NOT NULL,
    case_ref      TEXT NOT NULL,
    targets       TEXT NOT NULL,
    last_selector INTEGER NOT NULL,
    total         INTEGER NOT NULL,
    next_batch    INTEGER NOT NULL DEFAULT 0,
    position      INTEGER NOT NULL DEFAULT 0,
    probed        INTEGER NOT NULL DEFAULT 0,
    matches       INTEGER NOT NULL DEFAULT 0,
    UNIQUE (dataset_id, purpose, legal_basis, reference, case_ref, targets)
) STRICT, WITHOUT ROWID;

-- Batches that may have been sent and are not answered: they are sent again as they were.
CREATE TABLE probe_batches (
    session_id BLOB NOT NULL REFERENCES probe_sessions (session_id) ON DELETE CASCADE,
    number     INTEGER NOT NULL,
    first      INTEGER NOT NULL,
    last       INTEGER NOT NULL,
    PRIMARY KEY (session_id, number)
) STRICT, WITHOUT ROWID;

-- `cursor` is that of the last change, for WatchRecordHits.
CREATE TABLE hits (
    hit_id         BLOB PRIMARY KEY,
    cursor         INTEGER NOT NULL UNIQUE,
    epoch          INTEGER NOT NULL,
    policy         TEXT NOT NULL,
    record_ref     BLOB NOT NULL,
    holder         TEXT NOT NULL,
    state          TEXT NOT NULL,
    filter_version INTEGER NOT NULL,
    false_positive REAL NOT NULL,
    posterior      REAL NOT NULL,
    first_seen     INTEGER NOT NULL,
    last_seen      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
