//! Files that go with an answer of this node; their sealed bytes are beside the store.

use scoped_futures::ScopedFutureExt as _;
use sotto_common::error::{Error, Result};
use sotto_common::ids::{AttachmentId, FollowUpId};
use sotto_common::secret::Confidential;
use sotto_common::service::sqlite::db_error;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::seals::{open, seal};
use crate::store::at_rest::AtRest;
use crate::store::{Store, damaged, signed, unsigned};

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
    /// Whether the broker has all of it.
    pub(crate) uploaded: bool,
}

fn attachment(at_rest: &AtRest, row: &SqliteRow) -> Result<StoredAttachment> {
    let bytes = |column: &str| row.try_get::<Vec<u8>, _>(column).map_err(db_error);
    let named = bytes("attachment_id")?;
    let name = open(
        at_rest,
        "follow_up_attachments",
        &named,
        "name",
        &bytes("name")?,
    )?;
    let name = std::str::from_utf8(&name).map_err(|_| damaged("name"))?;
    Ok(StoredAttachment {
        id: AttachmentId::from_slice(&named).map_err(Error::internal)?,
        follow_up: FollowUpId::from_slice(&bytes("follow_up_id")?).map_err(Error::internal)?,
        size: unsigned(row.try_get("size").map_err(db_error)?),
        name: Confidential::new(name),
        clear: bytes("clear")?,
        enc: bytes("enc")?,
        digest: bytes("digest")?.try_into().map_err(|_| damaged("digest"))?,
        uploaded: row.try_get("uploaded").map_err(db_error)?,
    })
}

impl Store {
    /// The files of a follow-up, in the order in which they were added.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn attachments(&self, follow_up: FollowUpId) -> Result<Vec<StoredAttachment>> {
        sqlx::query(
            "SELECT * FROM follow_up_attachments WHERE follow_up_id = $1 ORDER BY attachment_id",
        )
        .bind(&follow_up.as_bytes()[..])
        .fetch_all(self.db.read())
        .await
        .map_err(db_error)?
        .iter()
        .map(|row| attachment(&self.at_rest, row))
        .collect()
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

    /// Stores a file whose sealed bytes are on the disk.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn put_attachment(&self, file: &StoredAttachment) -> Result<()> {
        let name = &seal(
            &self.at_rest,
            "follow_up_attachments",
            file.id.as_bytes(),
            "name",
            file.name.expose().as_bytes(),
        );
        self.db
            .run_tx("put_attachment", |tx| {
                async move {
                    sqlx::query(
                        "INSERT INTO follow_up_attachments (attachment_id, follow_up_id, size, name,
                             clear, enc, digest, uploaded)
                         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                    )
                    .bind(&file.id.as_bytes()[..])
                    .bind(&file.follow_up.as_bytes()[..])
                    .bind(signed(file.size))
                    .bind(name)
                    .bind(&file.clear)
                    .bind(&file.enc)
                    .bind(&file.digest[..])
                    .bind(file.uploaded)
                    .execute(tx)
                    .await
                    .map_err(db_error)?;
                    Ok(())
                }
                .scope_boxed()
            })
            .await
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
