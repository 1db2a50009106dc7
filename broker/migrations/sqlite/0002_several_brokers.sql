-- What several brokers on one ledger and one object store need. As in ../postgres. A file has one
-- broker only; the tables are here so that both engines have one behaviour.

CREATE TABLE replicas (
    id BLOB PRIMARY KEY,
    joined_at INTEGER NOT NULL
) STRICT;

CREATE TABLE replica_leases (
    replica BLOB PRIMARY KEY REFERENCES replicas (id) ON DELETE CASCADE,
    generation INTEGER NOT NULL,           -- of the filters that it matches with
    lease_until INTEGER NOT NULL
) STRICT;

-- Which job which broker does, and until when.
CREATE TABLE jobs (
    name TEXT PRIMARY KEY,
    replica BLOB NOT NULL REFERENCES replicas (id) ON DELETE CASCADE,
    lease_until INTEGER NOT NULL
) STRICT;

-- Moves whenever an active filter comes or goes.
CREATE TABLE generations (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    generation INTEGER NOT NULL
) STRICT;
INSERT INTO generations (one, generation) VALUES (1, 0);

-- Filters were files of the broker before; their holders publish them again.
UPDATE publications SET state = 'EXPIRED', header = X'' WHERE state IN ('ACTIVE', 'UPLOADING');
ALTER TABLE publications ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;  -- of its last move
ALTER TABLE publications ADD COLUMN object BLOB;          -- key of its object, at rest as configured
CREATE INDEX publications_by_generation ON publications (generation);

-- What is acknowledged of an upload: one object a chunk.
CREATE TABLE chunks (
    publication BLOB NOT NULL REFERENCES publications (id),
    start INTEGER NOT NULL,
    number INTEGER NOT NULL,              -- from 0
    length INTEGER NOT NULL,
    object BLOB NOT NULL,                  -- key of its object, at rest as configured
    PRIMARY KEY (publication, start)
) STRICT;

ALTER TABLE sessions ADD COLUMN case_ref_at_rest BLOB;     -- case_ref is then empty

-- The last cursor given out to a prober: its row is locked from then to the commit.
CREATE TABLE hit_cursors (
    community TEXT NOT NULL,
    prober TEXT NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (community, prober)
) STRICT;
INSERT INTO hit_cursors (community, prober, last)
    SELECT community, prober, max(cursor) FROM hit_events GROUP BY community, prober;
