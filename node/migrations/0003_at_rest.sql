-- Selectors, record ids and nonces are sealed at rest; selectors can be removed and expire.
--
-- Sealing needs keys: what stands here in clear is sealed by the program when it opens the store
-- (node/src/store/at_rest/convert.rs), which then drops the columns `canonical` and `record_id`.

-- What else the cipher keeps; `sealed`: the value under the first key of the key list.
CREATE TABLE store_keys (
    name   TEXT PRIMARY KEY,
    sealed BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- A dataset that is deleted, and of which records were probed: hidden, and revived by its name.
ALTER TABLE datasets ADD COLUMN deleted_at INTEGER;

-- `record`: canonical value and record id, sealed; NULL if the row was removed. The two indexes
-- are keyed hashes of 16 bytes: one of policy and canonical value, one of policy and record id.
-- `ordinal`: of the canonical value in its record (protocol §2). A row that was probed stays when
-- it is removed, so that its ordinal never comes to stand for another value.
DROP INDEX selectors_by_dataset;
DROP INDEX selectors_by_record;
DROP INDEX selectors_of_checks;
ALTER TABLE selectors ADD COLUMN record BLOB;
ALTER TABLE selectors ADD COLUMN canonical_index BLOB;
ALTER TABLE selectors ADD COLUMN record_index BLOB;
ALTER TABLE selectors ADD COLUMN expires_at INTEGER;
ALTER TABLE selectors ADD COLUMN removed_at INTEGER;
CREATE UNIQUE INDEX selectors_by_value ON selectors (dataset_id, canonical_index)
    WHERE dataset_id IS NOT NULL AND removed_at IS NULL;
CREATE UNIQUE INDEX selectors_by_record ON selectors (dataset_id, record_index, ordinal)
    WHERE dataset_id IS NOT NULL;
CREATE UNIQUE INDEX selectors_of_checks ON selectors (canonical_index) WHERE dataset_id IS NULL;
CREATE INDEX selectors_removed ON selectors (dataset_id, canonical_index)
    WHERE removed_at IS NOT NULL;
-- These two go by selector_id within: it is the last column of every index.
CREATE INDEX selectors_of_dataset ON selectors (dataset_id)
    WHERE dataset_id IS NOT NULL AND removed_at IS NULL;
CREATE INDEX selectors_of_policy ON selectors (policy)
    WHERE dataset_id IS NOT NULL AND removed_at IS NULL;
CREATE INDEX selectors_expiring ON selectors (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX record_refs_of_selector ON record_refs (selector_id);

-- Rows of imports under way; they become selectors in one transaction or not at all. Without an
-- index by the hashes, which are in no order: rows are only ever put behind each other. `named`:
-- the importer named the record. `revived`: the removed row of the same value and record.
DROP TABLE staged_rows;
CREATE TABLE staged_rows (
    row_id          INTEGER PRIMARY KEY,
    import_id       INTEGER NOT NULL,
    position        INTEGER NOT NULL,
    canonical_index BLOB NOT NULL,
    record_index    BLOB NOT NULL,
    record          BLOB NOT NULL,
    named           INTEGER NOT NULL,
    expires_at      INTEGER,
    revived         INTEGER
) STRICT;
CREATE INDEX staged_revived ON staged_rows (import_id) WHERE revived IS NOT NULL;

-- Rows of removals under way: keyed hashes of canonical values or of record ids, and how many
-- rows asked for each.
CREATE TABLE staged_removals (
    import_id INTEGER NOT NULL,
    wanted    BLOB NOT NULL,
    asked     INTEGER NOT NULL,
    PRIMARY KEY (import_id, wanted)
) STRICT, WITHOUT ROWID;
