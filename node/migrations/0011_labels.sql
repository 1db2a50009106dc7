-- What the holder says of the filter version that matched last: a unit to turn to, and how the hit may be
-- handled (workflow.md "Hit"). It comes by the broker's stream. Empty: it says nothing.
ALTER TABLE hits ADD COLUMN contact_unit TEXT NOT NULL DEFAULT '';
ALTER TABLE hits ADD COLUMN handling_code TEXT NOT NULL DEFAULT '';
ALTER TABLE hits ADD COLUMN handling_text TEXT NOT NULL DEFAULT '';
