//! What a database is asked: the configured query within another one.

use std::fmt::Write as _;

use super::plan::Extent;
use crate::config::SourceConfig;

/// The kinds of database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Engine {
    Postgres,
    Sqlite,
}

/// Places of the columns in what is asked.
pub(super) const VALUE: usize = 0;
pub(super) const RECORD: usize = 1;
pub(super) const REGION: usize = 2;
pub(super) const EXPIRES: usize = 3;
pub(super) const WATERMARK: usize = 4;
/// The watermark's type, as the engine calls it.
pub(super) const WATERMARK_TYPE: usize = 5;
pub(super) const COLUMNS: usize = 6;

/// The most characters of each column: one more than any that is good. What a row holds is bounded
/// before it leaves the database.
const LENGTHS: [u32; WATERMARK] = [1025, 129, 9, 65];
/// The most characters of a watermark.
pub(super) const MAX_WATERMARK: usize = 256;

/// The query alone: for the names and types of its columns.
pub(super) fn shape(query: &str) -> String {
    // The line break ends a comment at the end of the query.
    format!("SELECT * FROM (\n{query}\n) AS source")
}

/// Types of a watermark that PostgreSQL can compare with its text, and their names in SQL.
pub(super) const POSTGRES_WATERMARKS: [(&str, &str); 8] = [
    ("INT2", "smallint"),
    ("INT4", "integer"),
    ("INT8", "bigint"),
    ("TEXT", "text"),
    ("VARCHAR", "text"),
    ("DATE", "date"),
    ("TIMESTAMP", "timestamp"),
    ("TIMESTAMPTZ", "timestamptz"),
];

/// The rows of a run, every column as text, and the watermark in growing order. `watermark_type` is
/// that of the column, on PostgreSQL; with `since` there is one parameter, the watermark.
pub(super) fn rows(
    engine: Engine,
    source: &SourceConfig,
    watermark_type: &str,
    extent: Extent,
    since: bool,
) -> String {
    let columns = &source.columns;
    let mut sql = String::from("SELECT ");
    for (column, length) in [
        Some(&columns.value),
        columns.record.as_ref(),
        columns.region.as_ref(),
        columns.expires.as_ref(),
    ]
    .into_iter()
    .zip(LENGTHS)
    {
        // Writing into a text does not fail.
        let _ = match (column.map(|name| quoted(name)), engine) {
            (None, _) => write!(sql, "NULL, "),
            (Some(name), Engine::Postgres) => write!(sql, "left(({name})::text, {length}), "),
            (Some(name), Engine::Sqlite) => {
                write!(sql, "substr(CAST({name} AS TEXT), 1, {length}), ")
            }
        };
    }
    let mark = columns.watermark.as_ref().map(|name| quoted(name));
    sql.push_str(&match (&mark, engine) {
        (None, _) => "NULL, NULL".into(),
        (Some(mark), Engine::Postgres) => postgres_watermark(mark, watermark_type),
        (Some(mark), Engine::Sqlite) => sqlite_watermark(mark),
    });
    let _ = write!(sql, "\nFROM (\n{}\n) AS source", source.query);
    let Some(mark) = mark else {
        return sql;
    };
    match (extent, since, engine) {
        (Extent::Whole, ..) => {}
        (Extent::Changes, false, _) => {
            let _ = write!(sql, "\nWHERE {mark} IS NOT NULL");
        }
        (Extent::Changes, true, Engine::Postgres) => {
            let name = sql_name(watermark_type);
            let _ = write!(sql, "\nWHERE {mark} >= CAST($1::text AS {name})");
        }
        (Extent::Changes, true, Engine::Sqlite) => {
            let _ = write!(sql, "\nWHERE {mark} >= $1");
        }
    }
    let nulls = match engine {
        Engine::Postgres => " NULLS FIRST",
        Engine::Sqlite => "",
    };
    let _ = write!(sql, "\nORDER BY {mark}{nulls}");
    sql
}

fn sqlite_watermark(mark: &str) -> String {
    let length = MAX_WATERMARK + 1;
    format!("substr(CAST({mark} AS TEXT), 1, {length}), typeof({mark})")
}

/// A time to come does not become the watermark: one wrong row would hide all later changes.
fn postgres_watermark(mark: &str, type_name: &str) -> String {
    let name = sql_name(type_name);
    let value = match type_name {
        "DATE" | "TIMESTAMP" | "TIMESTAMPTZ" => {
            let now = format!("CAST(now() AS {name})");
            format!("CASE WHEN {mark} > {now} THEN {now} ELSE {mark} END")
        }
        _ => mark.to_owned(),
    };
    let length = MAX_WATERMARK + 1;
    format!("left(({value})::text, {length}), '{type_name}'::text")
}

fn sql_name(type_name: &str) -> &'static str {
    let known = POSTGRES_WATERMARKS.iter().find(|(t, _)| *t == type_name);
    known.map_or("text", |(_, name)| name)
}

/// A column's name as SQL writes it.
fn quoted(name: &str) -> String {
    format!("source.\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::sources::testing::config;

    #[test]
    fn the_query_stands_on_lines_of_its_own_and_names_are_quoted() {
        let mut source = config("sqlite:/x.db", "SELECT 1 -- all");
        source.columns.value = "a \"b\"".into();
        source.columns.watermark = Some("at".into());
        let sql = rows(Engine::Postgres, &source, "DATE", Extent::Changes, true);
        assert!(
            sql.contains("left((source.\"a \"\"b\"\"\")::text, 1025), left("),
            "{sql}"
        );
        assert!(
            sql.contains("FROM (\nSELECT 1 -- all\n) AS source\nWHERE"),
            "{sql}"
        );
        assert!(
            sql.ends_with(
                "source.\"at\" >= CAST($1::text AS date)\nORDER BY source.\"at\" NULLS FIRST"
            ),
            "{sql}"
        );
        assert!(shape(&source.query).contains("-- all\n)"));
        let sql = rows(Engine::Sqlite, &source, "", Extent::Whole, false);
        assert!(sql.ends_with("AS source\nORDER BY source.\"at\""), "{sql}");
    }
}
