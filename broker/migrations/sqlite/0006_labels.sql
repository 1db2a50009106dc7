-- What a filter says to those who match it: hits say it (workflow.md "Hit"). As in ../postgres. It stays
-- when the filter is gone. Empty: it says nothing, as those from before these columns.
ALTER TABLE publications ADD COLUMN contact_unit TEXT NOT NULL DEFAULT '';
ALTER TABLE publications ADD COLUMN handling_code TEXT NOT NULL DEFAULT '';
ALTER TABLE publications ADD COLUMN handling_text TEXT NOT NULL DEFAULT '';

-- Any number of publications can be announced with one version; the one that was activated has an f.
CREATE INDEX publications_by_version ON publications (community, epoch, policy, holder, version)
    WHERE fpr > 0;
