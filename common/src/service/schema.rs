//! The version of a database's schema, looked at whenever it is opened.

use std::ops::Deref;

use sqlx::Acquire;
use sqlx::migrate::{Migrate, MigrateError, Migrator};

use crate::error::{Error, Result};

/// Brings a database up to date.
///
/// # Errors
/// If its schema is of a newer program, or was altered, or cannot be changed; the text, which is
/// for the operator, says what to do. `UNAVAILABLE` if a statement failed: another program may be
/// bringing it up to date at the same time, and trying again then helps.
pub async fn update<'a, A>(database: A, migrations: &Migrator) -> Result<()>
where
    A: Acquire<'a>,
    <A::Connection as Deref>::Target: Migrate,
{
    let known = migrations.iter().map(|m| m.version).max().unwrap_or(0);
    migrations.run(database).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) => Error::internal(format!(
            "the database has schema version {version}, and this program knows up to {known}: \
                 run the newer program again, or restore the backup from before the upgrade"
        )),
        MigrateError::VersionMismatch(version) => Error::internal(format!(
            "version {version} of the database's schema is not the one of this program: \
                 the database belongs to something else"
        )),
        error @ (MigrateError::Execute(_) | MigrateError::ExecuteMigration(..)) => {
            Error::unavailable(not_updated(&error))
        }
        error => Error::internal(not_updated(&error)),
    })
}

fn not_updated(error: &MigrateError) -> String {
    format!("the database's schema cannot be brought up to date: {error}")
}
