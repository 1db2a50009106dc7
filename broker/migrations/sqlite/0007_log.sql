-- The audit log (protocol §11): entries, the trees of their leaves, and what was signed of these.
-- As in ../postgres.

CREATE TABLE log_entries (
    seq INTEGER PRIMARY KEY,               -- the order in which they were put
    community TEXT NOT NULL,
    place INTEGER,                         -- in the tree of the community, once it was given one
    kind TEXT NOT NULL,
    at INTEGER NOT NULL,                   -- of an erased one the hour alone, as in its leaf
    leaf BLOB NOT NULL,
    -- All from here on is NULL once it is erased.
    id BLOB UNIQUE,
    verb TEXT,
    nodes TEXT,                            -- a space before and after each
    hit BLOB,
    follow_up BLOB,
    opening BLOB                           -- nonce and entry, at rest as configured
) STRICT;
-- An entry is in one of these two.
CREATE UNIQUE INDEX log_entries_by_place ON log_entries (community, place) WHERE place IS NOT NULL;
CREATE INDEX log_entries_without_place ON log_entries (community, seq) WHERE place IS NULL;
CREATE INDEX log_entries_to_erase ON log_entries (community, at) WHERE opening IS NOT NULL;
CREATE INDEX log_entries_by_hit ON log_entries (community, hit)
    WHERE kind = 'HIT' AND hit IS NOT NULL;
CREATE INDEX log_entries_by_follow_up ON log_entries (community, follow_up, place)
    WHERE follow_up IS NOT NULL;
-- By the key that has sealed it, so that what is under an older one is found without a search.
CREATE INDEX log_entries_by_key ON log_entries (substr(opening, 1, 5)) WHERE opening IS NOT NULL;

-- How many places were given out. Who gives out the next ones locks the row until the commit.
CREATE TABLE log_sizes (
    community TEXT PRIMARY KEY,
    size INTEGER NOT NULL
) STRICT;

-- Of each tile the widest version.
CREATE TABLE log_tiles (
    community TEXT NOT NULL,
    level INTEGER NOT NULL,
    number INTEGER NOT NULL,               -- within its level
    hashes BLOB NOT NULL,
    PRIMARY KEY (community, level, number)
) STRICT;

CREATE TABLE log_checkpoints (
    community TEXT NOT NULL,
    size INTEGER NOT NULL,
    root BLOB NOT NULL,
    signed_at INTEGER NOT NULL,
    note TEXT NOT NULL,                    -- without cosignatures
    PRIMARY KEY (community, size)
) STRICT;

CREATE TABLE log_cosignatures (
    community TEXT NOT NULL,
    size INTEGER NOT NULL,
    node TEXT NOT NULL,
    line TEXT NOT NULL,
    PRIMARY KEY (community, size, node),
    FOREIGN KEY (community, size) REFERENCES log_checkpoints (community, size)
) STRICT, WITHOUT ROWID;

-- The largest checkpoint that has had so many cosignatures: a search back to the last one with
-- enough of them would become long where witnesses stay away.
CREATE TABLE log_cosigned (
    community TEXT NOT NULL,
    cosignatures INTEGER NOT NULL,
    size INTEGER NOT NULL,
    PRIMARY KEY (community, cosignatures)
) STRICT, WITHOUT ROWID;

-- Name and public key of the log, as first used.
CREATE TABLE log_identity (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    identity TEXT NOT NULL
) STRICT;

ALTER TABLE batches ADD COLUMN entry BLOB; -- its entry in the log; none in rows from before this column
