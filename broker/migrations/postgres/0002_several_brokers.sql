-- What several brokers on one ledger and one object store need. As in ../sqlite.

-- The brokers that serve this ledger. Every transaction of a broker refers to its row (see
-- commit_marks): once the row is gone, nothing of that broker can be committed.
CREATE TABLE replicas (
    id BYTEA PRIMARY KEY,
    joined_at BIGINT NOT NULL              -- by the clock of the database, like every lease
);

-- Apart from replicas, so that renewing does not meet the transactions that refer to those.
CREATE TABLE replica_leases (
    replica BYTEA PRIMARY KEY REFERENCES replicas (id) ON DELETE CASCADE,
    generation BIGINT NOT NULL,            -- of the filters that it matches with
    lease_until BIGINT NOT NULL
);

-- Which job which broker does, and until when.
CREATE TABLE jobs (
    name TEXT PRIMARY KEY,
    replica BYTEA NOT NULL REFERENCES replicas (id) ON DELETE CASCADE,
    lease_until BIGINT NOT NULL
);

-- Moves whenever an active filter comes or goes.
CREATE TABLE generations (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    generation BIGINT NOT NULL
);
INSERT INTO generations (one, generation) VALUES (1, 0);

-- Filters were files of the broker before; their holders publish them again.
UPDATE publications SET state = 'EXPIRED', header = '' WHERE state IN ('ACTIVE', 'UPLOADING');
ALTER TABLE publications ADD COLUMN generation BIGINT NOT NULL DEFAULT 0;  -- of its last move
ALTER TABLE publications ADD COLUMN object BYTEA;         -- key of its object, at rest as configured
CREATE INDEX publications_by_generation ON publications (generation);

-- What is acknowledged of an upload: one object a chunk.
CREATE TABLE chunks (
    publication BYTEA NOT NULL REFERENCES publications (id),
    start BIGINT NOT NULL,
    number BIGINT NOT NULL,               -- from 0
    length BIGINT NOT NULL,
    object BYTEA NOT NULL,                 -- key of its object, at rest as configured
    PRIMARY KEY (publication, start)
);

ALTER TABLE sessions ADD COLUMN case_ref_at_rest BYTEA;    -- case_ref is then empty

ALTER TABLE commit_marks ADD COLUMN replica BYTEA REFERENCES replicas (id) ON DELETE CASCADE;
CREATE INDEX commit_marks_by_replica ON commit_marks (replica);
