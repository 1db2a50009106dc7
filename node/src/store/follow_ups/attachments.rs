//! Files that go with an answer of this node; their sealed bytes are beside the store.

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::{AttachmentId, FollowUpId};
use sotto_common::secret::{Confidential, Secret};
use sotto_common::service::sqlite::db_error;
use sotto_common::time::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::seals::{open, seal};
use super::{Keeper, load, save, unknown};
use crate::follow_up::LocalFollowUp;
use crate::store::at_rest::AtRest;
use crate::store::{Store, damaged, signed, unsigned};

const TABLE: &str = "follow_up_attachments";

/// A file that goes with an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StoredAttachment {
    /// Its id.
    pub(crate) id: AttachmentId,
    /// The follow-up.
    pub(crate) follow_up: FollowUpId,
    /// Plaintext bytes.
    pub(crate) size: u64,
    /// Its own name, which the broker never sees.
    pub(crate) name: Confidential,
    /// The clear part as bytes.
    pub(crate) clear: Vec<u8>,
    /// The encapsulated key.
    pub(crate) enc: Vec<u8>,
    /// What the answer names.
    pub(crate) digest: [u8; 32],
    /// SHA-256 of its plaintext, which would confirm a guess of what it is; not of files of the time
    /// before it was kept.
    pub(crate) content_digest: Option<Secret<32>>,
    /// The identities of whoever gave it, who has drafted what it goes with; none of files of the time
    /// before that was kept.
    pub(crate) given_by: Vec<String>,
    /// Whether the broker has all of it.
    pub(crate) uploaded: bool,
}

/// What becomes of the files of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FileChange<'a> {
    /// One more, whose sealed bytes are on the disk.
    Put {
        /// The file.
        file: &'a StoredAttachment,
        /// Files that go with it, if they are still there.
        instead_of: &'a [AttachmentId],
    },
    /// One less.
    Delete(AttachmentId),
}

fn attachment(at_rest: &AtRest, row: &SqliteRow) -> Result<StoredAttachment> {
    let bytes = |column: &str| row.try_get::<Vec<u8>, _>(column).map_err(db_error);
    let named = bytes("attachment_id")?;
    let name = open(at_rest, TABLE, &named, "name", &bytes("name")?)?;
    let name = std::str::from_utf8(&name).map_err(|_| damaged("name"))?;
    let content: Option<Vec<u8>> = row.try_get("content_digest").map_err(db_error)?;
    let content = content
        .map(|stored| {
            let clear = open(at_rest, TABLE, &named, "content_digest", &stored)?;
            Secret::from_slice(&clear).ok_or_else(|| damaged("digest"))
        })
        .transpose()?;
    let givers: Option<Vec<u8>> = row.try_get("given_by").map_err(db_error)?;
    let givers = givers
        .map(|stored| {
            let clear = open(at_rest, TABLE, &named, "given_by", &stored)?;
            serde_json::from_slice(&clear).map_err(|_| damaged("given_by"))
        })
        .transpose()?;
    Ok(StoredAttachment {
        id: AttachmentId::from_slice(&named).map_err(Error::internal)?,
        follow_up: FollowUpId::from_slice(&bytes("follow_up_id")?).map_err(Error::internal)?,
        size: unsigned(row.try_get("size").map_err(db_error)?),
        name: Confidential::new(name),
        clear: bytes("clear")?,
        enc: bytes("enc")?,
        digest: bytes("digest")?.try_into().map_err(|_| damaged("digest"))?,
        content_digest: content,
        given_by: givers.unwrap_or_default(),
        uploaded: row.try_get("uploaded").map_err(db_error)?,
    })
}

async fn files_of(
    tx: &mut SqliteConnection,
    at_rest: &AtRest,
    follow_up: FollowUpId,
) -> Result<Vec<StoredAttachment>> {
    sqlx::query(
        "SELECT * FROM follow_up_attachments WHERE follow_up_id = $1 ORDER BY attachment_id",
    )
    .bind(&follow_up.as_bytes()[..])
    .fetch_all(tx)
    .await
    .map_err(db_error)?
    .iter()
    .map(|row| attachment(at_rest, row))
    .collect()
}

async fn put(tx: &mut SqliteConnection, at_rest: &AtRest, file: &StoredAttachment) -> Result<()> {
    let id = file.id.as_bytes();
    let sealed = |column, clear: &[u8]| seal(at_rest, TABLE, id, column, clear);
    let content = file.content_digest.as_ref();
    // The store's own columns, sealed.
    let content = content.map(|digest| sealed("content_digest", digest.expose()));
    let givers = serde_json::to_vec(&file.given_by).map_err(Error::internal)?;
    let name = sealed("name", file.name.expose().as_bytes());
    sqlx::query(
        "INSERT INTO follow_up_attachments (attachment_id, follow_up_id, size, name, clear, enc,
             digest, content_digest, given_by, uploaded)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(&id[..])
    .bind(&file.follow_up.as_bytes()[..])
    .bind(signed(file.size))
    .bind(name)
    .bind(&file.clear)
    .bind(&file.enc)
    .bind(&file.digest[..])
    .bind(content)
    .bind(sealed("given_by", &givers))
    .bind(file.uploaded)
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(())
}

/// Tells whether it was there.
async fn delete(
    tx: &mut SqliteConnection,
    follow_up: FollowUpId,
    file: AttachmentId,
) -> Result<bool> {
    let done = sqlx::query(
        "DELETE FROM follow_up_attachments WHERE attachment_id = $1 AND follow_up_id = $2",
    )
    .bind(&file.as_bytes()[..])
    .bind(&follow_up.as_bytes()[..])
    .execute(tx)
    .await
    .map_err(db_error)?;
    Ok(done.rows_affected() > 0)
}

async fn apply(
    tx: &mut SqliteConnection,
    at_rest: &AtRest,
    follow_up: FollowUpId,
    change: FileChange<'_>,
) -> Result<()> {
    match change {
        FileChange::Put { file, instead_of } => {
            for other in instead_of {
                delete(tx, follow_up, *other).await?;
            }
            put(tx, at_rest, file).await
        }
        FileChange::Delete(file) => {
            if delete(tx, follow_up, file).await? {
                return Ok(());
            }
            let text = "no such file was given for the answer";
            Err(Error::new(ErrorCode::AttachmentUnknown, text))
        }
    }
}

impl Store {
    /// The files of a follow-up, in the order in which they were added.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn attachments(&self, follow_up: FollowUpId) -> Result<Vec<StoredAttachment>> {
        self.db
            .read_tx("attachments", |tx| {
                files_of(tx, &self.at_rest, follow_up).scope_boxed()
            })
            .await
    }

    /// Changes a follow-up and the files of its answer in one transaction, so that no proposal names
    /// others than are there; tells how it is now, and the cursor of its last event. `work` sees the
    /// files as they will be, and may run twice.
    ///
    /// # Errors
    /// `FOLLOW_UP_UNKNOWN`; `ATTACHMENT_UNKNOWN` if a file that is to go is not there; what `work`
    /// refuses, or those of the store: nothing is changed then.
    pub(crate) async fn change_with_files(
        &self,
        keeper: &Keeper,
        id: FollowUpId,
        now: Timestamp,
        change: Option<FileChange<'_>>,
        work: &(dyn Fn(&mut LocalFollowUp, &[StoredAttachment]) -> Result<()> + Send + Sync),
    ) -> Result<(LocalFollowUp, u64)> {
        self.db
            .run_tx("change_with_files", |tx| {
                async move {
                    let loaded = load(tx, &self.at_rest, keeper, id).await?;
                    let mut follow_up = loaded.ok_or_else(unknown)?;
                    if let Some(change) = change {
                        apply(tx, &self.at_rest, id, change).await?;
                    }
                    let files = files_of(tx, &self.at_rest, id).await?;
                    work(&mut follow_up, &files)?;
                    let cursor = save(tx, &self.at_rest, &follow_up, now).await?;
                    Ok((follow_up, cursor))
                }
                .scope_boxed()
            })
            .await
    }

    /// The ids of all files whose sealed bytes are still needed here.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn waiting_attachments(&self) -> Result<Vec<AttachmentId>> {
        let ids: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT attachment_id FROM follow_up_attachments WHERE uploaded = 0",
        )
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?;
        let id = |bytes: &Vec<u8>| AttachmentId::from_slice(bytes).map_err(Error::internal);
        ids.iter().map(id).collect()
    }

    /// Notes that the broker has all of a file.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn set_uploaded(&self, id: AttachmentId) -> Result<()> {
        self.db
            .run_tx("set_uploaded", |tx| {
                async move {
                    sqlx::query(
                        "UPDATE follow_up_attachments SET uploaded = 1 WHERE attachment_id = $1",
                    )
                    .bind(&id.as_bytes()[..])
                    .execute(tx)
                    .await
                    .map_err(db_error)?;
                    Ok(())
                }
                .scope_boxed()
            })
            .await
    }

    /// Forgets the files of a follow-up, and their names.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn forget_attachments(&self, follow_up: FollowUpId) -> Result<()> {
        self.db
            .run_tx("forget_attachments", |tx| {
                async move {
                    sqlx::query("DELETE FROM follow_up_attachments WHERE follow_up_id = $1")
                        .bind(&follow_up.as_bytes()[..])
                        .execute(tx)
                        .await
                        .map_err(db_error)?;
                    Ok(())
                }
                .scope_boxed()
            })
            .await
    }
}
