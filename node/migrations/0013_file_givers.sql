-- Who gave a file for an answer, sealed: whoever did has drafted it, too, and does not approve it. NULL for
-- files that were given before.
ALTER TABLE follow_up_attachments ADD COLUMN given_by BLOB;
