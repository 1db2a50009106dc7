-- What people decide about hits, and when a hit was touched last. As in ../postgres.

-- When its state changed last; none in rows from before this column, which is then first_seen.
ALTER TABLE hits ADD COLUMN touched_at INTEGER;
CREATE INDEX hits_untouched ON hits (community, epoch, coalesce(touched_at, first_seen))
    WHERE state IN ('NEW', 'UNDER_REVIEW');

-- The decisions that were taken, as the prober signed them.
CREATE TABLE hit_feedback (
    hit BLOB NOT NULL REFERENCES hits (id),
    statement BLOB NOT NULL,           -- H of the signed body
    decision TEXT NOT NULL,
    envelope BLOB NOT NULL,            -- sotto.v1.DsseEnvelope of the HitFeedback
    taken_at INTEGER NOT NULL,
    PRIMARY KEY (hit, statement)
) STRICT;
