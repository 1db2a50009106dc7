//! Columns of a row as domain types.

use sotto_common::error::{Error, Result};
use sotto_common::followup::codes::HandlingCode;
use sotto_common::ids::InvalidId;
use sotto_common::publication::FilterLabels;
use sotto_common::time::Timestamp;
use sqlx::Row as _;

use super::{Engine, EngineRow};
use crate::datastore::model::corrupt;

/// Reads a column that is its own domain type.
pub(super) fn get<'r, T: sqlx::Decode<'r, Engine> + sqlx::Type<Engine>>(
    row: &'r EngineRow,
    column: &'static str,
) -> Result<T> {
    row.try_get(column).map_err(Error::internal)
}

/// Reads a text column that parses to a domain type.
pub(super) fn text<T: std::str::FromStr<Err = InvalidId>>(
    row: &EngineRow,
    column: &'static str,
) -> Result<T> {
    get::<&str>(row, column)?
        .parse()
        .map_err(|_| corrupt(column))
}

/// Reads a bytes column that parses to a domain type.
pub(super) fn blob<T>(
    row: &EngineRow,
    column: &'static str,
    parse: impl FnOnce(&[u8]) -> Result<T, InvalidId>,
) -> Result<T> {
    parse(get::<&[u8]>(row, column)?).map_err(|_| corrupt(column))
}

/// Reads a bytes column of exactly `N` bytes.
pub(super) fn bytes<const N: usize>(row: &EngineRow, column: &'static str) -> Result<[u8; N]> {
    get::<&[u8]>(row, column)?
        .try_into()
        .map_err(|_| corrupt(column))
}

/// Reads a number column that fits its domain type.
pub(super) fn number<T: TryFrom<i64>>(row: &EngineRow, column: &'static str) -> Result<T> {
    T::try_from(get::<i64>(row, column)?).map_err(|_| corrupt(column))
}

/// Reads a time column.
pub(super) fn time(row: &EngineRow, column: &'static str) -> Result<Timestamp> {
    get(row, column).map(Timestamp::from_micros)
}

/// Reads what a filter says to those who match it; nothing where its publication is not known.
pub(super) fn labels(row: &EngineRow) -> Result<FilterLabels> {
    let written = |column| get::<Option<&str>>(row, column).map(Option::unwrap_or_default);
    let code = match written("handling_code")? {
        "" => None,
        code => Some(HandlingCode::parse(code).ok_or_else(|| corrupt("handling code"))?),
    };
    FilterLabels::new(written("contact_unit")?, code, written("handling_text")?)
        .map_err(|_| corrupt("label of a filter"))
}

/// A handling code as [`labels`] reads it.
pub(super) fn handling_column(labels: &FilterLabels) -> &'static str {
    labels.handling_code().map_or("", HandlingCode::as_str)
}

/// A count as the engines' integer; saturates.
pub(super) fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
