-- The ledger of the broker. No table holds a selector, a tag or a session nonce (protocol §7).
-- Times are microseconds since 1970, days are UTC days since 1970. Migrations only add.
-- As in ../sqlite. Only what CockroachDB and YugabyteDB have too: no extensions, no advisory locks.

CREATE TABLE communities (
    name TEXT PRIMARY KEY,
    profile BYTEA NOT NULL,                 -- proposed: sotto.v1.Profile
    created_at BIGINT NOT NULL
);

CREATE TABLE custodians (
    community TEXT NOT NULL REFERENCES communities (name),
    node TEXT NOT NULL,
    PRIMARY KEY (community, node)
);

CREATE TABLE nodes (
    community TEXT NOT NULL REFERENCES communities (name),
    node TEXT NOT NULL,
    enrolled_at BIGINT NOT NULL,
    suspended TEXT,                        -- the reason, if it is
    statement BYTEA,                        -- sotto.v1.DsseEnvelope of its KeyStatement
    signing_key BYTEA,                      -- the key that the first accepted statement stated
    PRIMARY KEY (community, node)
);

CREATE TABLE limits (
    community TEXT NOT NULL,
    node TEXT NOT NULL,
    policy TEXT NOT NULL,
    daily_refs BIGINT NOT NULL,
    max_class BIGINT NOT NULL,
    PRIMARY KEY (community, node, policy)
);

CREATE TABLE epochs (
    community TEXT NOT NULL REFERENCES communities (name),
    epoch BIGINT NOT NULL,
    state TEXT NOT NULL,
    manifest BYTEA NOT NULL,                -- sotto.v1.DsseEnvelope of the EpochManifest
    custodian TEXT NOT NULL,
    kid BYTEA NOT NULL,
    not_before BIGINT NOT NULL,
    not_after BIGINT NOT NULL,
    activated_at BIGINT,
    PRIMARY KEY (community, epoch)
);

CREATE TABLE epoch_members (
    community TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    node TEXT NOT NULL,
    envelope BYTEA NOT NULL,                -- sotto.v1.SealedEpochKey
    confirmation BYTEA,                     -- sotto.v1.DsseEnvelope of its KeyConfirmation
    PRIMARY KEY (community, epoch, node),
    FOREIGN KEY (community, epoch) REFERENCES epochs (community, epoch)
);

CREATE TABLE publications (
    id BYTEA PRIMARY KEY,
    community TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    policy TEXT NOT NULL,
    holder TEXT NOT NULL,
    version BIGINT NOT NULL,
    supplement_of BIGINT,
    state TEXT NOT NULL,
    header BYTEA NOT NULL,                  -- sotto.v1.DsseEnvelope; the salt is erased with the filter
    digest BYTEA NOT NULL,
    class BIGINT NOT NULL,
    fpr DOUBLE PRECISION NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    FOREIGN KEY (community, epoch) REFERENCES epochs (community, epoch)
);
CREATE INDEX publications_by_holder ON publications (community, epoch, policy, holder, version);
CREATE INDEX publications_by_state ON publications (state, expires_at);

-- Last accepted version of (holder, policy) in an epoch (protocol §5.3 rule 1).
CREATE TABLE versions (
    community TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    policy TEXT NOT NULL,
    holder TEXT NOT NULL,
    version BIGINT NOT NULL,
    PRIMARY KEY (community, epoch, policy, holder)
);

-- Digests of every salt ever accepted in a community (protocol §5.3 rule 1).
CREATE TABLE salts (
    community TEXT NOT NULL,
    digest BYTEA NOT NULL,
    publication BYTEA NOT NULL,
    PRIMARY KEY (community, digest)
);

CREATE TABLE sessions (
    id BYTEA PRIMARY KEY,
    community TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    policy TEXT NOT NULL,
    prober TEXT NOT NULL,
    commitment BYTEA,                       -- H("sotto/v1 session" ‖ nonce), until closed
    opening BYTEA NOT NULL,                 -- digest of the opening's other fields
    purpose TEXT NOT NULL,
    legal_basis TEXT NOT NULL,
    legal_basis_reference TEXT NOT NULL,
    case_ref TEXT NOT NULL,
    batches BIGINT NOT NULL DEFAULT 0,
    refs BIGINT NOT NULL DEFAULT 0,
    opened_at BIGINT NOT NULL,
    last_used_at BIGINT NOT NULL,
    closed_at BIGINT
);
CREATE INDEX sessions_open ON sessions (community, prober) WHERE closed_at IS NULL;

-- Answers of open sessions, so that a repeated batch gets the same one (protocol §7).
CREATE TABLE batches (
    session BYTEA NOT NULL REFERENCES sessions (id),
    number BIGINT NOT NULL,
    tags_digest BYTEA NOT NULL,
    matches BYTEA NOT NULL,
    PRIMARY KEY (session, number)
);

CREATE TABLE quota_use (
    community TEXT NOT NULL,
    node TEXT NOT NULL,
    policy TEXT NOT NULL,
    day BIGINT NOT NULL,
    refs BIGINT NOT NULL,
    PRIMARY KEY (community, node, policy, day)
);

CREATE TABLE hits (
    id BYTEA PRIMARY KEY,
    community TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    policy TEXT NOT NULL,
    prober TEXT NOT NULL,
    record_ref BYTEA NOT NULL,
    holder TEXT NOT NULL,
    state TEXT NOT NULL,
    filter_version BIGINT NOT NULL,
    fpr DOUBLE PRECISION NOT NULL,
    posterior DOUBLE PRECISION NOT NULL,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    day BIGINT NOT NULL,                  -- of first_seen, for the flood guard
    UNIQUE (community, epoch, policy, prober, record_ref, holder)
);
CREATE INDEX hits_by_prober ON hits (community, prober, id);
CREATE INDEX hits_quarantined ON hits (community, prober, holder, policy, day)
    WHERE state = 'QUARANTINED';

-- New hits per (prober, holder, policy, day): the flood guard and the holder's own counts.
CREATE TABLE hit_counts (
    community TEXT NOT NULL,
    prober TEXT NOT NULL,
    holder TEXT NOT NULL,
    policy TEXT NOT NULL,
    day BIGINT NOT NULL,
    hits BIGINT NOT NULL,
    PRIMARY KEY (community, prober, holder, policy, day)
);

-- The last cursor given out to a prober: its row is locked from then to the commit.
CREATE TABLE hit_cursors (
    community TEXT NOT NULL,
    prober TEXT NOT NULL,
    last BIGINT NOT NULL,
    PRIMARY KEY (community, prober)
);

CREATE TABLE hit_events (
    community TEXT NOT NULL,
    prober TEXT NOT NULL,
    cursor BIGINT NOT NULL,
    hit BYTEA NOT NULL REFERENCES hits (id),
    PRIMARY KEY (community, prober, cursor)
);

-- Releases from quarantine and suspensions: who, when, why.
CREATE TABLE operator_acts (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at BIGINT NOT NULL,
    operator TEXT NOT NULL,
    community TEXT NOT NULL,
    act TEXT NOT NULL,
    subject TEXT NOT NULL,
    reason TEXT NOT NULL
);

-- Written by every transaction, so that one whose commit was not answered can be asked after.
CREATE TABLE commit_marks (
    id BYTEA PRIMARY KEY,
    made_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
