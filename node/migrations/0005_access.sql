-- Who read what, when and why (Directive (EU) 2016/680 art. 25). Numbers are from 1 without gaps;
-- `objects`: JSON, a list of texts; `digest`: SHA-256 over the digest before and this entry.
-- Entries are only ever added; `why` is sealed, and sealed anew when the keys of the store change: the
-- digest is over what it says.
CREATE TABLE access_log (
    number  INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    person  TEXT NOT NULL,
    action  TEXT NOT NULL,
    objects TEXT NOT NULL,
    why     BLOB NOT NULL,
    digest  BLOB NOT NULL
) STRICT;
CREATE INDEX access_log_by_person ON access_log (person, number);

-- REPLACE deletes without asking the trigger below: a number that is taken is refused here.
CREATE TRIGGER access_log_without_gaps BEFORE INSERT ON access_log
WHEN NEW.number IS NOT (SELECT coalesce(max(number), 0) + 1 FROM access_log)
BEGIN
    SELECT RAISE(ABORT, 'entries of the access log are added one after another');
END;
CREATE TRIGGER access_log_not_changed
BEFORE UPDATE OF number, at, person, action, objects, digest ON access_log
BEGIN
    SELECT RAISE(ABORT, 'entries of the access log are never changed');
END;
CREATE TRIGGER access_log_not_deleted BEFORE DELETE ON access_log
BEGIN
    SELECT RAISE(ABORT, 'entries of the access log are never deleted');
END;
