-- How far the log's own jobs have come, by place in the tree: instead of two indexes, which every entry paid
-- for. As in ../postgres.

DROP INDEX log_entries_to_erase;
DROP INDEX log_entries_by_key;

CREATE TABLE log_upkeep (
    community TEXT PRIMARY KEY NOT NULL,
    erased INTEGER NOT NULL,               -- no entry below this place has its opening
    sealed INTEGER NOT NULL,               -- every opening below this place is sealed under `sealed_under`
    sealed_under BLOB                     -- prefix of what a key has sealed
) STRICT;
INSERT INTO log_upkeep (community, erased, sealed)
SELECT community,
       coalesce((SELECT min(place) FROM log_entries
                 WHERE log_entries.community = log_sizes.community AND place IS NOT NULL
                   AND opening IS NOT NULL), size),
       0
FROM log_sizes;
