-- SHA-256 of a file's plaintext, sealed: by it a person's client knows what the node has already. NULL
-- for files that were added before.
ALTER TABLE follow_up_attachments ADD COLUMN content_digest BLOB;
