//! What the tests of sources share.

use std::time::Duration;

use sotto_common::selector::Policy;

use crate::config::{Columns, SourceConfig, SourceDatabase};

/// A source of e-mail addresses in the column `value`, with the record in `id`.
pub(crate) fn config(database: &str, query: &str) -> SourceConfig {
    SourceConfig {
        dataset: "suspects".into(),
        policy: Policy::Email,
        database: match database.strip_prefix("sqlite:") {
            Some(path) => SourceDatabase::Sqlite(path.into()),
            None => SourceDatabase::Postgres {
                url: database.parse().expect("a URL"),
                password: None,
            },
        },
        query: query.into(),
        columns: Columns {
            value: "value".into(),
            record: Some("id".into()),
            region: None,
            watermark: None,
            expires: None,
        },
        region: String::new(),
        every: None,
        full_every: Duration::from_hours(24),
        timeout: Duration::from_mins(1),
        allow_shrink: false,
    }
}
