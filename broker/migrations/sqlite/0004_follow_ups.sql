-- Formal follow-ups (protocol §10). What their parties seal stays sealed here. As in ../postgres.

CREATE TABLE follow_ups (
    id BLOB PRIMARY KEY,
    community TEXT NOT NULL,
    epoch INTEGER NOT NULL,                -- of the hit: its keys sign and seal
    policy TEXT NOT NULL,
    hit BLOB NOT NULL REFERENCES hits (id),
    requester TEXT NOT NULL,
    holder TEXT NOT NULL,
    filter_version INTEGER NOT NULL,       -- that matched last
    matched_at INTEGER NOT NULL,
    posterior REAL NOT NULL,               -- of the hit, when it was submitted
    state TEXT NOT NULL,
    next_seq INTEGER NOT NULL,
    last_body BLOB NOT NULL,               -- H of the body of the last step
    time_limit TEXT NOT NULL,
    urgency TEXT,
    offence_code TEXT NOT NULL,
    items TEXT NOT NULL,                   -- codes, a space between
    outcomes TEXT,                         -- item=state[:ground or time], a space between
    clock_total INTEGER,                   -- microseconds
    clock_due INTEGER,                     -- while it runs
    clock_left INTEGER,                    -- while it stands still; below 0: so late
    overdue INTEGER NOT NULL,
    submitted_at INTEGER NOT NULL,
    received_at INTEGER,
    delayed_at INTEGER,
    ended_at INTEGER,
    closed_at INTEGER,
    presence TEXT,                         -- HELD or NOT_HELD, once the holder's node has said
    statement_bytes INTEGER NOT NULL,
    reminder INTEGER,                      -- the percent that is due next
    reminder_at INTEGER,
    erased INTEGER NOT NULL,
    FOREIGN KEY (community, epoch) REFERENCES epochs (community, epoch)
) STRICT;
CREATE INDEX follow_ups_by_requester ON follow_ups (community, requester, submitted_at, id);
CREATE INDEX follow_ups_by_holder ON follow_ups (community, holder, submitted_at, id);
CREATE INDEX follow_ups_by_time ON follow_ups (community, submitted_at, id);
CREATE INDEX follow_ups_to_remind ON follow_ups (reminder_at) WHERE reminder_at IS NOT NULL;
CREATE INDEX follow_ups_to_close ON follow_ups (ended_at)
    WHERE state IN ('ANSWERED', 'REFUSED', 'WITHDRAWN');
CREATE INDEX follow_ups_to_erase ON follow_ups (community, epoch, closed_at)
    WHERE state = 'CLOSED' AND erased = 0;

CREATE TABLE follow_up_steps (
    follow_up BLOB NOT NULL REFERENCES follow_ups (id),
    seq INTEGER NOT NULL,
    body BLOB NOT NULL,                    -- H of the body
    clear BLOB NOT NULL,                   -- sotto.v1.FollowUpClear as it was signed
    envelope BLOB,                         -- sotto.v1.DsseEnvelope, until it is erased
    taken_at INTEGER NOT NULL,
    PRIMARY KEY (follow_up, seq)
) STRICT, WITHOUT ROWID;

-- The last cursor given out to a node: its row is locked from then to the commit.
CREATE TABLE follow_up_cursors (
    community TEXT NOT NULL,
    node TEXT NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (community, node)
) STRICT;

CREATE TABLE follow_up_events (
    community TEXT NOT NULL,
    node TEXT NOT NULL,
    cursor INTEGER NOT NULL,
    follow_up BLOB NOT NULL REFERENCES follow_ups (id),
    kind TEXT NOT NULL,                    -- STEP, REMINDER, CLOSED or ERASED
    value INTEGER NOT NULL,                -- seq, percent, or time
    PRIMARY KEY (community, node, cursor)
) STRICT, WITHOUT ROWID;

-- Files that go with an answer: what their sender announced.
CREATE TABLE attachments (
    follow_up BLOB NOT NULL REFERENCES follow_ups (id),
    id BLOB NOT NULL,
    clear BLOB NOT NULL,                   -- sotto.v1.FollowUpAttachmentClear as it was sealed with
    kem INTEGER NOT NULL,
    kdf INTEGER NOT NULL,
    aead INTEGER NOT NULL,
    enc BLOB NOT NULL,
    digest BLOB NOT NULL,
    sealed_size INTEGER NOT NULL,
    whole INTEGER NOT NULL,                -- 1 once all bytes are here and have the digest
    answered INTEGER NOT NULL,             -- 1 once an answer names it
    PRIMARY KEY (follow_up, id)
) STRICT;

-- What is acknowledged of an attachment: one object a chunk.
CREATE TABLE attachment_chunks (
    follow_up BLOB NOT NULL,
    attachment BLOB NOT NULL,
    start INTEGER NOT NULL,
    length INTEGER NOT NULL,
    object BLOB NOT NULL,                  -- key of its object, at rest as configured
    PRIMARY KEY (follow_up, attachment, start),
    FOREIGN KEY (follow_up, attachment) REFERENCES attachments (follow_up, id)
) STRICT;
