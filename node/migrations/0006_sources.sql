-- What is known of datasets that are filled from databases of the unit. `definition` is the digest
-- of what the configuration says of the rows: with another one, everything is read again.
-- `watermark` and its type are as the database wrote them; `rows_read` counts over all runs, the
-- other numbers are those of the last one.
CREATE TABLE sources (
    dataset        TEXT PRIMARY KEY,
    definition     BLOB NOT NULL,
    watermark      TEXT,
    watermark_type TEXT,
    run_at         INTEGER NOT NULL,
    full_at        INTEGER NOT NULL,
    rows_read      INTEGER NOT NULL,
    rows           INTEGER NOT NULL,
    accepted       INTEGER NOT NULL,
    rejected       INTEGER NOT NULL,
    removed        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
