-- The ledger of the broker. No table holds a selector, a tag or a session nonce (protocol §7).
-- Times are microseconds since 1970, days are UTC days since 1970. Migrations only add.

CREATE TABLE communities (
    name TEXT PRIMARY KEY,
    profile BLOB NOT NULL,                 -- proposed: sotto.v1.Profile
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE custodians (
    community TEXT NOT NULL REFERENCES communities (name),
    node TEXT NOT NULL,
    PRIMARY KEY (community, node)
) STRICT;

CREATE TABLE nodes (
    community TEXT NOT NULL REFERENCES communities (name),
    node TEXT NOT NULL,
    enrolled_at INTEGER NOT NULL,
    suspended TEXT,                        -- the reason, if it is
    statement BLOB,                        -- sotto.v1.DsseEnvelope of its KeyStatement
    signing_key BLOB,                      -- the key that the first accepted statement stated
    PRIMARY KEY (community, node)
) STRICT;

CREATE TABLE limits (
    community TEXT NOT NULL,
    node TEXT NOT NULL,
    policy TEXT NOT NULL,
    daily_refs INTEGER NOT NULL,
    max_class INTEGER NOT NULL,
    PRIMARY KEY (community, node, policy)
) STRICT;

CREATE TABLE epochs (
    community TEXT NOT NULL REFERENCES communities (name),
    epoch INTEGER NOT NULL,
    state TEXT NOT NULL,
    manifest BLOB NOT NULL,                -- sotto.v1.DsseEnvelope of the EpochManifest
    custodian TEXT NOT NULL,
    kid BLOB NOT NULL,
    not_before INTEGER NOT NULL,
    not_after INTEGER NOT NULL,
    activated_at INTEGER,
    PRIMARY KEY (community, epoch)
) STRICT;

CREATE TABLE epoch_members (
    community TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    node TEXT NOT NULL,
    envelope BLOB NOT NULL,                -- sotto.v1.SealedEpochKey
    confirmation BLOB,                     -- sotto.v1.DsseEnvelope of its KeyConfirmation
    PRIMARY KEY (community, epoch, node),
    FOREIGN KEY (community, epoch) REFERENCES epochs (community, epoch)
) STRICT;

CREATE TABLE publications (
    id BLOB PRIMARY KEY,
    community TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    policy TEXT NOT NULL,
    holder TEXT NOT NULL,
    version INTEGER NOT NULL,
    supplement_of INTEGER,
    state TEXT NOT NULL,
    header BLOB NOT NULL,                  -- sotto.v1.DsseEnvelope; the salt is erased with the filter
    digest BLOB NOT NULL,
    class INTEGER NOT NULL,
    fpr REAL NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    FOREIGN KEY (community, epoch) REFERENCES epochs (community, epoch)
) STRICT;
CREATE INDEX publications_by_holder ON publications (community, epoch, policy, holder, version);
CREATE INDEX publications_by_state ON publications (state, expires_at);

-- Last accepted version of (holder, policy) in an epoch (protocol §5.3 rule 1).
CREATE TABLE versions (
    community TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    policy TEXT NOT NULL,
    holder TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (community, epoch, policy, holder)
) STRICT;

-- Digests of every salt ever accepted in a community (protocol §5.3 rule 1).
CREATE TABLE salts (
    community TEXT NOT NULL,
    digest BLOB NOT NULL,
    publication BLOB NOT NULL,
    PRIMARY KEY (community, digest)
) STRICT;

CREATE TABLE sessions (
    id BLOB PRIMARY KEY,
    community TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    policy TEXT NOT NULL,
    prober TEXT NOT NULL,
    commitment BLOB,                       -- H("sotto/v1 session" ‖ nonce), until closed
    opening BLOB NOT NULL,                 -- digest of the opening's other fields
    purpose TEXT NOT NULL,
    legal_basis TEXT NOT NULL,
    legal_basis_reference TEXT NOT NULL,
    case_ref TEXT NOT NULL,
    batches INTEGER NOT NULL DEFAULT 0,
    refs INTEGER NOT NULL DEFAULT 0,
    opened_at INTEGER NOT NULL,
    last_used_at INTEGER NOT NULL,
    closed_at INTEGER
) STRICT;
CREATE INDEX sessions_open ON sessions (community, prober) WHERE closed_at IS NULL;

-- Answers of open sessions, so that a repeated batch gets the same one (protocol §7).
CREATE TABLE batches (
    session BLOB NOT NULL REFERENCES sessions (id),
    number INTEGER NOT NULL,
    tags_digest BLOB NOT NULL,
    matches BLOB NOT NULL,
    PRIMARY KEY (session, number)
) STRICT;

CREATE TABLE quota_use (
    community TEXT NOT NULL,
    node TEXT NOT NULL,
    policy TEXT NOT NULL,
    day INTEGER NOT NULL,
    refs INTEGER NOT NULL,
    PRIMARY KEY (community, node, policy, day)
) STRICT;

CREATE TABLE hits (
    id BLOB PRIMARY KEY,
    community TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    policy TEXT NOT NULL,
    prober TEXT NOT NULL,
    record_ref BLOB NOT NULL,
    holder TEXT NOT NULL,
    state TEXT NOT NULL,
    filter_version INTEGER NOT NULL,
    fpr REAL NOT NULL,
    posterior REAL NOT NULL,
    first_seen INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    day INTEGER NOT NULL,                  -- of first_seen, for the flood guard
    UNIQUE (community, epoch, policy, prober, record_ref, holder)
) STRICT;
CREATE INDEX hits_by_prober ON hits (community, prober, id);
CREATE INDEX hits_quarantined ON hits (community, prober, holder, policy, day)
    WHERE state = 'QUARANTINED';

-- New hits per (prober, holder, policy, day): the flood guard and the holder's own counts.
CREATE TABLE hit_counts (
    community TEXT NOT NULL,
    prober TEXT NOT NULL,
    holder TEXT NOT NULL,
    policy TEXT NOT NULL,
    day INTEGER NOT NULL,
    hits INTEGER NOT NULL,
    PRIMARY KEY (community, prober, holder, policy, day)
) STRICT;

CREATE TABLE hit_events (
    community TEXT NOT NULL,
    prober TEXT NOT NULL,
    cursor INTEGER NOT NULL,
    hit BLOB NOT NULL REFERENCES hits (id),
    PRIMARY KEY (community, prober, cursor)
) STRICT, WITHOUT ROWID;

-- Releases from quarantine and suspensions: who, when, why.
CREATE TABLE operator_acts (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    operator TEXT NOT NULL,
    community TEXT NOT NULL,
    act TEXT NOT NULL,
    subject TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT;
