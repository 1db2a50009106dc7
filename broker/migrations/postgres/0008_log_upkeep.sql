-- How far the log's own jobs have come, by place in the tree: instead of two indexes, which every entry paid
-- for. As in ../sqlite.

DROP INDEX log_entries_to_erase;
DROP INDEX log_entries_by_key;

CREATE TABLE log_upkeep (
    community TEXT PRIMARY KEY,
    erased BIGINT NOT NULL,               -- no entry below this place has its opening
    sealed BIGINT NOT NULL,               -- every opening below this place is sealed under `sealed_under`
    sealed_under BYTEA                     -- prefix of what a key has sealed
);
INSERT INTO log_upkeep (community, erased, sealed)
SELECT community,
       coalesce((SELECT min(place) FROM log_entries
                 WHERE log_entries.community = log_sizes.community AND place IS NOT NULL
                   AND opening IS NOT NULL), size),
       0
FROM log_sizes;
