//! Name and key of the log: on one ledger always the same, since nodes and auditors know it by them.

use scoped_futures::ScopedFutureExt as _;
use sotto_common::dsse::SigningKey;
use sotto_common::error::{Error, Result};
use sotto_common::log::origin::LogName;
use sotto_common::random::os_rng;

use super::Log;
use crate::config::LogKeyFile;
use crate::datastore::Datastore;

impl Log {
    /// The log of a ledger. At the first start its key is made, where that may be, and name and key
    /// are noted in the ledger; from then on they must be these.
    ///
    /// # Errors
    /// What to do, if the key is missing, or if name or key are others than the ledger's log has.
    pub(crate) async fn open(
        store: &Datastore,
        name: LogName,
        trust_domain: &str,
        file: &LogKeyFile,
    ) -> Result<Self> {
        let known = store
            .read_tx("get_log_identity", |tx| {
                async move { tx.get_log_identity().await }.scope_boxed()
            })
            .await?;
        let signing = match file.read().map_err(Error::internal)? {
            Some(signing) => signing,
            None if known.is_none() && file.may_be_made() => {
                file.make(&mut os_rng()).map_err(Error::internal)?
            }
            None => return Err(Error::internal(missing(file, known.is_some()))),
        };
        let own = &identity(&name, &signing);
        let noted = store
            .run_tx("put_log_identity", |tx| {
                async move {
                    if let Some(noted) = tx.get_log_identity().await? {
                        return Ok(noted);
                    }
                    tx.put_log_identity(own).await?;
                    Ok(own.clone())
                }
                .scope_boxed()
            })
            .await?;
        if noted != *own {
            return Err(Error::internal(format!(
                "the audit log of this ledger has another name or key: it is `{noted}`, and \
                 `log_name` and {} give `{own}`. Nodes and auditors would take another for a \
                 forgery: set the name, and put the key back from where it was backed up",
                file.path().display(),
            )));
        }
        Ok(Self::new(name, trust_domain, signing))
    }
}

fn identity(name: &LogName, signing: &SigningKey) -> String {
    let key = hex::encode(signing.verifying_key().as_bytes());
    format!("{} {key}", name.as_str())
}

fn missing(file: &LogKeyFile, log_exists: bool) -> String {
    let path = file.path().display();
    if log_exists {
        format!(
            "{path}, the key of the audit log, is missing: put it back from where it was backed \
             up, or copy it from another broker on this ledger"
        )
    } else {
        format!(
            "{path}, the key of the audit log, is missing: make one with `(umask 077 && \
             sotto-broker ledger new-log-key > {path})`, the same for every broker on this ledger"
        )
    }
}
