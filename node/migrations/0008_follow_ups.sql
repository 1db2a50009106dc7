-- Formal follow-ups (protocol §10, workflow.md "Follow-up"), as this node keeps them on its own.
--
-- What names or describes people is sealed: `canonical`, `records`, `particulars`, `content`,
-- `draft`, `drafters`, `name`, `texts`. The other columns are what the broker sees as well.

-- `side`: REQUESTER or HOLDER. `state`: what the steps that the broker took have made of it, for
-- queries alone: the steps are what counts. `canonical_index`: the keyed hash of the selector.
-- `particulars`: approved, and not released yet. `withdrawn_at`: of a draft that never left.
-- `closed_at`: CLOSED, by whom or what ever, or a draft taken back.
CREATE TABLE follow_ups (
    follow_up_id    BLOB PRIMARY KEY,
    side            TEXT NOT NULL,
    hit_id          BLOB NOT NULL,
    epoch           INTEGER NOT NULL,
    policy          TEXT NOT NULL,
    counterpart     TEXT NOT NULL,
    filter_version  INTEGER NOT NULL,
    matched_at      INTEGER NOT NULL,
    case_ref        TEXT NOT NULL,
    state           TEXT NOT NULL,
    canonical_index BLOB,
    canonical       BLOB,
    records         BLOB,
    particulars     BLOB,
    presence        TEXT NOT NULL,
    alarm           TEXT NOT NULL,
    unread          INTEGER NOT NULL,
    begun_at        INTEGER NOT NULL,
    withdrawn_at    INTEGER,
    closed_by_time  INTEGER,
    closed_at       INTEGER,
    erased_at       INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX follow_ups_of_value ON follow_ups (policy, canonical_index);
CREATE INDEX follow_ups_of_hit ON follow_ups (hit_id);
CREATE INDEX follow_ups_by_state ON follow_ups (state);
CREATE INDEX follow_ups_closed ON follow_ups (closed_at) WHERE erased_at IS NULL;

-- Every step of either side. `clear` stays for good; `envelope`, whose digest goes on holding the
-- chain together, and `content` are erased in time. `taken_at` is NULL while the broker has not
-- answered: such a step is this node's own.
CREATE TABLE follow_up_steps (
    follow_up_id BLOB NOT NULL REFERENCES follow_ups (follow_up_id),
    seq          INTEGER NOT NULL,
    clear        BLOB NOT NULL,
    body_digest  BLOB NOT NULL,
    envelope     BLOB,
    content      BLOB,
    taken_at     INTEGER,
    drafted_by   TEXT NOT NULL,
    approved_by  TEXT NOT NULL,
    PRIMARY KEY (follow_up_id, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX follow_up_steps_pending ON follow_up_steps (follow_up_id, seq) WHERE taken_at IS NULL;

-- Steps that were signed here and that the broker did not take, and why.
CREATE TABLE follow_up_refusals (
    refusal_id   INTEGER PRIMARY KEY,
    follow_up_id BLOB NOT NULL REFERENCES follow_ups (follow_up_id),
    step         TEXT NOT NULL,
    body_digest  BLOB NOT NULL,
    reason       TEXT NOT NULL,
    at           INTEGER NOT NULL
) STRICT;

-- What one person drafted and another has to approve; one at a time. `drafters`: every identity
-- of those who had a part in it, JSON.
CREATE TABLE follow_up_proposals (
    follow_up_id BLOB PRIMARY KEY REFERENCES follow_ups (follow_up_id),
    proposal_id  BLOB NOT NULL,
    step         TEXT NOT NULL,
    draft        BLOB NOT NULL,
    drafters     BLOB NOT NULL,
    drafted_by   TEXT NOT NULL,
    drafted_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Files that go with an answer of this node. Their sealed bytes are in the folder `attachments`
-- until the broker has all of them.
CREATE TABLE follow_up_attachments (
    attachment_id BLOB PRIMARY KEY,
    follow_up_id  BLOB NOT NULL REFERENCES follow_ups (follow_up_id),
    size          INTEGER NOT NULL,
    name          BLOB NOT NULL,
    clear         BLOB NOT NULL,
    enc           BLOB NOT NULL,
    digest        BLOB NOT NULL,
    uploaded      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX follow_up_attachments_of ON follow_up_attachments (follow_up_id);

-- What happened, for those who watch. `texts`: what a person wrote with it.
CREATE TABLE follow_up_events (
    cursor       INTEGER PRIMARY KEY AUTOINCREMENT,
    follow_up_id BLOB NOT NULL REFERENCES follow_ups (follow_up_id),
    news         TEXT NOT NULL,
    step         TEXT,
    percent      INTEGER NOT NULL,
    at           INTEGER NOT NULL,
    person       TEXT NOT NULL,
    texts        BLOB
) STRICT;

-- Every layer that was ever active: a hit is of this node's own filter only if that was active when
-- it matched (protocol §10). `ended_at`: taken back before another base took its place.
CREATE TABLE layer_history (
    publication_id BLOB PRIMARY KEY,
    policy         TEXT NOT NULL,
    epoch          INTEGER NOT NULL,
    version        INTEGER NOT NULL,
    is_base        INTEGER NOT NULL,
    active_at      INTEGER NOT NULL,
    ended_at       INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX layer_history_by_version ON layer_history (policy, epoch, version);
INSERT INTO layer_history (publication_id, policy, epoch, version, is_base, active_at)
SELECT publication_id, policy, epoch, version, supplement_of IS NULL, active_at FROM layers;
CREATE TRIGGER layers_are_remembered AFTER INSERT ON layers
BEGIN
    INSERT OR IGNORE INTO layer_history
        (publication_id, policy, epoch, version, is_base, active_at)
    VALUES (NEW.publication_id, NEW.policy, NEW.epoch, NEW.version, NEW.supplement_of IS NULL,
        NEW.active_at);
END;
