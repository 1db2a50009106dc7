-- Formal follow-ups (protocol §10). What their parties seal stays sealed here. As in ../sqlite.

CREATE TABLE follow_ups (
    id BYTEA PRIMARY KEY,
    community TEXT NOT NULL,
    epoch BIGINT NOT NULL,                -- of the hit: its keys sign and seal
    policy TEXT NOT NULL,
    hit BYTEA NOT NULL REFERENCES hits (id),
    requester TEXT NOT NULL,
    holder TEXT NOT NULL,
    filter_version BIGINT NOT NULL,       -- that matched last
    matched_at BIGINT NOT NULL,
    posterior DOUBLE PRECISION NOT NULL,   -- of the hit, when it was submitted
    state TEXT NOT NULL,
    next_seq BIGINT NOT NULL,
    last_body BYTEA NOT NULL,               -- H of the body of the last step
    time_limit TEXT NOT NULL,
    urgency TEXT,
    offence_code TEXT NOT NULL,
    items TEXT NOT NULL,                   -- codes, a space between
    outcomes TEXT,                         -- item=state[:ground or time], a space between
    clock_total BIGINT,                   -- microseconds
    clock_due BIGINT,                     -- while it runs
    clock_left BIGINT,                    -- while it stands still; below 0: so late
    overdue BIGINT NOT NULL,
    submitted_at BIGINT NOT NULL,
    received_at BIGINT,
    delayed_at BIGINT,
    ended_at BIGINT,
    closed_at BIGINT,
    presence TEXT,                         -- HELD or NOT_HELD, once the holder's node has said
    statement_bytes BIGINT NOT NULL,
    reminder BIGINT,                      -- the percent that is due next
    reminder_at BIGINT,
    erased BIGINT NOT NULL,
    FOREIGN KEY (community, epoch) REFERENCES epochs (community, epoch)
);
CREATE INDEX follow_ups_by_requester ON follow_ups (community, requester, submitted_at, id);
CREATE INDEX follow_ups_by_holder ON follow_ups (community, holder, submitted_at, id);
CREATE INDEX follow_ups_by_time ON follow_ups (community, submitted_at, id);
CREATE INDEX follow_ups_to_remind ON follow_ups (reminder_at) WHERE reminder_at IS NOT NULL;
CREATE INDEX follow_ups_to_close ON follow_ups (ended_at)
    WHERE state IN ('ANSWERED', 'REFUSED', 'WITHDRAWN');
CREATE INDEX follow_ups_to_erase ON follow_ups (community, epoch, closed_at)
    WHERE state = 'CLOSED' AND erased = 0;

CREATE TABLE follow_up_steps (
    follow_up BYTEA NOT NULL REFERENCES follow_ups (id),
    seq BIGINT NOT NULL,
    body BYTEA NOT NULL,                    -- H of the body
    clear BYTEA NOT NULL,                   -- sotto.v1.FollowUpClear as it was signed
    envelope BYTEA,                         -- sotto.v1.DsseEnvelope, until it is erased
    taken_at BIGINT NOT NULL,
    PRIMARY KEY (follow_up, seq)
);

-- The last cursor given out to a node: its row is locked from then to the commit.
CREATE TABLE follow_up_cursors (
    community TEXT NOT NULL,
    node TEXT NOT NULL,
    last BIGINT NOT NULL,
    PRIMARY KEY (community, node)
);

CREATE TABLE follow_up_events (
    community TEXT NOT NULL,
    node TEXT NOT NULL,
    cursor BIGINT NOT NULL,
    follow_up BYTEA NOT NULL REFERENCES follow_ups (id),
    kind TEXT NOT NULL,                    -- STEP, REMINDER, CLOSED or ERASED
    value BIGINT NOT NULL,                -- seq, percent, or time
    PRIMARY KEY (community, node, cursor)
);

-- Files that go with an answer: what their sender announced.
CREATE TABLE attachments (
    follow_up BYTEA NOT NULL REFERENCES follow_ups (id),
    id BYTEA NOT NULL,
    clear BYTEA NOT NULL,                   -- sotto.v1.FollowUpAttachmentClear as it was sealed with
    kem BIGINT NOT NULL,
    kdf BIGINT NOT NULL,
    aead BIGINT NOT NULL,
    enc BYTEA NOT NULL,
    digest BYTEA NOT NULL,
    sealed_size BIGINT NOT NULL,
    whole BIGINT NOT NULL,                -- 1 once all bytes are here and have the digest
    answered BIGINT NOT NULL,             -- 1 once an answer names it
    PRIMARY KEY (follow_up, id)
);

-- What is acknowledged of an attachment: one object a chunk.
CREATE TABLE attachment_chunks (
    follow_up BYTEA NOT NULL,
    attachment BYTEA NOT NULL,
    start BIGINT NOT NULL,
    length BIGINT NOT NULL,
    object BYTEA NOT NULL,                  -- key of its object, at rest as configured
    PRIMARY KEY (follow_up, attachment, start),
    FOREIGN KEY (follow_up, attachment) REFERENCES attachments (follow_up, id)
);
