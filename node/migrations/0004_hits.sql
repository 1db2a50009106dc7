-- The life of hits: threads over epochs, cases, decisions and their feedback (workflow.md "Hit").

-- `state` is what is shown of a hit: that of the last decision which is not at the broker, else of
-- the last one that the stream has not shown yet (`awaited`), else what the broker told (`told`).
-- `told_seen` and `awaited_seen`: the broker's last_seen when it told that state; 0 if it did not
-- tell that.
ALTER TABLE hits ADD COLUMN thread_id BLOB NOT NULL DEFAULT x'';
ALTER TABLE hits ADD COLUMN told TEXT NOT NULL DEFAULT '';
ALTER TABLE hits ADD COLUMN told_seen INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hits ADD COLUMN awaited TEXT;
ALTER TABLE hits ADD COLUMN awaited_seen INTEGER;
CREATE INDEX IF NOT EXISTS record_refs_by_selector ON record_refs (selector_id);
CREATE INDEX hits_by_ref ON hits (record_ref, holder);
CREATE INDEX hits_by_thread ON hits (thread_id, epoch);

-- Nobody could decide about hits before: the broker's state is the hit's, and the latest hit's the
-- thread's.
UPDATE hits SET told = state, thread_id = coalesce(
    (SELECT min(o.hit_id) FROM record_refs r JOIN record_refs p ON p.selector_id = r.selector_id
         JOIN hits o ON o.record_ref = p.record_ref AND o.holder = hits.holder
     WHERE r.record_ref = hits.record_ref), hit_id);

-- The hits of several epochs on one record and holder. Its id is that of its first hit; `latest` is
-- the one of the highest epoch, `state` where the thread stands.
CREATE TABLE threads (
    thread_id  BLOB PRIMARY KEY,
    latest     BLOB NOT NULL,
    state      TEXT NOT NULL,
    first_seen INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO threads (thread_id, latest, state, first_seen)
SELECT thread_id, hit_id, state, since FROM (
    SELECT *, min(first_seen) OVER (PARTITION BY thread_id) AS since,
        row_number() OVER (PARTITION BY thread_id ORDER BY epoch DESC, hit_id DESC) AS place
    FROM hits)
WHERE place = 1;

-- Why and for which case a hit was found.
CREATE TABLE hit_cases (
    hit_id      BLOB NOT NULL REFERENCES hits (hit_id) ON DELETE CASCADE,
    case_ref    TEXT NOT NULL,
    purpose     TEXT NOT NULL,
    legal_basis TEXT NOT NULL,
    reference   TEXT NOT NULL,
    found_at    INTEGER NOT NULL,
    PRIMARY KEY (hit_id, case_ref, purpose, legal_basis, reference)
) STRICT, WITHOUT ROWID;
CREATE INDEX hit_cases_by_ref ON hit_cases (case_ref);

-- Every change of a hit's state; rows are added, and nothing of them changes but `feedback`.
-- `from_state` is NULL when the hit was found. A decision has a person, a `feedback` of PENDING,
-- TAKEN or REFUSED, and its signed statement. `reason` and `second_factor_value` are sealed.
CREATE TABLE hit_history (
    event_id            INTEGER PRIMARY KEY,
    hit_id              BLOB NOT NULL REFERENCES hits (hit_id) ON DELETE CASCADE,
    at                  INTEGER NOT NULL,
    from_state          TEXT,
    to_state            TEXT NOT NULL,
    person              TEXT,
    reason              BLOB,
    second_factor       TEXT,
    second_factor_value BLOB,
    feedback            TEXT,
    envelope            BLOB
) STRICT;
CREATE INDEX hit_history_by_hit ON hit_history (hit_id, event_id);
CREATE INDEX hit_history_pending ON hit_history (event_id) WHERE feedback = 'PENDING';
INSERT INTO hit_history (event_id, hit_id, at, from_state, to_state)
SELECT row_number() OVER (ORDER BY hit_id), hit_id, first_seen, NULL, state FROM hits;
INSERT INTO counters (name, value) SELECT 'hit_event', count(*) FROM hit_history;
