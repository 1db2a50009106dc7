//! `followup stats`: the figures of art. 18 of Directive (EU) 2023/977.

use clap::Args;
use sotto_common::time::Timestamp;
use sotto_proto::{convert, v1};

use super::shown;
use crate::cli::client::{Client, unary};
use crate::cli::fault::Result;
use crate::cli::render::{Cell, List};
use crate::cli::{Context, args};

/// Of which time.
#[derive(Args, Debug)]
pub(crate) struct StatsArgs {
    /// Only requests submitted at or after this time: a date in UTC, or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = args::instant, conflicts_with_all = ["year", "month"])]
    from: Option<Timestamp>,
    /// Only requests submitted before this time
    #[arg(long, value_name = "TIME", value_parser = args::instant, conflicts_with_all = ["year", "month"])]
    to: Option<Timestamp>,
    /// Only those of a year, e.g. 2026
    #[arg(long, value_parser = year, conflicts_with = "month")]
    year: Option<Range>,
    /// Only those of a month, e.g. 2026-03
    #[arg(long, value_parser = month)]
    month: Option<Range>,
    /// The figures of probes and hits instead
    #[arg(long)]
    probes: bool,
}

/// From one time until before another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Range(Timestamp, Timestamp);

fn year(text: &str) -> Result<Range, String> {
    let expected = || "expected a year, e.g. 2026".to_owned();
    let year: u16 = text.parse().map_err(|_| expected())?;
    let begins = |year: u16| Timestamp::parse_rfc3339(&format!("{year:04}-01-01T00:00:00Z"));
    let range = begins(year).zip(begins(year.saturating_add(1)));
    let range = range.filter(|_| text.len() == 4);
    range.map(|(from, to)| Range(from, to)).ok_or_else(expected)
}

fn month(text: &str) -> Result<Range, String> {
    let range = || {
        let (year, month) = text.split_once('-')?;
        if (year.len(), month.len()) != (4, 2) {
            return None;
        }
        let (year, month): (u16, u8) = (year.parse().ok()?, month.parse().ok()?);
        let next = if month == 12 {
            (year + 1, 1)
        } else {
            (year, month + 1)
        };
        let begins = |(year, month): (u16, u8)| {
            Timestamp::parse_rfc3339(&format!("{year:04}-{month:02}-01T00:00:00Z"))
        };
        Some(Range(begins((year, month))?, begins(next)?))
    };
    range().ok_or_else(|| "expected a month, e.g. 2026-03".into())
}

const ROWS: &[&str] = &[
    "requester",
    "holder",
    "time_limit",
    "sent",
    "received",
    "answered",
    "refused",
    "withdrawn",
    "not_held",
    "open",
    "overdue",
    "overdue_judicial",
    "median_seconds_to_answer",
    "percentile_90_seconds_to_answer",
    "refusals",
];

const PROBES: &[&str] = &["holder", "policy", "hits", "confirmed", "false_positives"];

/// Prints the figures.
pub(super) async fn run(context: &Context, client: &Client, args: &StatsArgs) -> Result<()> {
    let range = args.year.or(args.month);
    let from = range.map(|range| range.0).or(args.from);
    let to = range.map(|range| range.1).or(args.to);
    let request = v1::GetFollowUpFiguresRequest {
        from: from.map(convert::to_timestamp),
        to: to.map(convert::to_timestamp),
    };
    let figures = client
        .analyst()
        .get_follow_up_figures(unary(request))
        .await?;
    let figures = figures.into_inner();
    let columns = if args.probes { PROBES } else { ROWS };
    let mut list = List::new(context.output, columns, context.stdout())?;
    if args.probes {
        for figure in &figures.probes {
            list.row(&probe_cells(figure))?;
        }
    } else {
        for row in &figures.rows {
            list.row(&cells(row))?;
        }
    }
    Ok(list.finish()?)
}

fn cells(row: &v1::FollowUpStatistic) -> Vec<Cell> {
    let ground =
        |count: &v1::RefusalCount| format!("{}={}", shown::refusal(count.ground()), count.requests);
    let refusals: Vec<_> = row.refusals.iter().map(ground).collect();
    let time = |time: Option<&prost_types::Duration>| match time {
        Some(time) => Cell::in_words(time.seconds, shown::words(time.seconds)),
        None => Cell::in_words(None::<i64>, ""),
    };
    vec![
        Cell::new(row.requester.as_str()),
        Cell::new(row.holder.as_str()),
        Cell::new(shown::time_limit(row.time_limit())),
        Cell::new(row.sent),
        Cell::new(row.received),
        Cell::new(row.answered),
        Cell::new(row.refused),
        Cell::new(row.withdrawn),
        Cell::new(row.not_held),
        Cell::new(row.open),
        Cell::new(row.overdue),
        Cell::new(row.overdue_judicial),
        time(row.median_time_to_answer.as_ref()),
        time(row.percentile_90_time_to_answer.as_ref()),
        Cell::texts(&refusals),
    ]
}

fn probe_cells(figure: &v1::ProbeFigure) -> [Cell; 5] {
    [
        Cell::new(figure.holder.as_str()),
        Cell::new(figure.policy.as_str()),
        Cell::new(figure.hits),
        Cell::new(figure.confirmed),
        Cell::new(figure.false_positives),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(from: &str, to: &str) -> Result<Range, String> {
        Ok(Range(args::instant(from)?, args::instant(to)?))
    }

    #[test]
    fn years_and_months_end_where_the_next_begins() {
        assert_eq!(year("2026"), range("2026-01-01", "2027-01-01"));
        assert_eq!(month("2026-03"), range("2026-03-01", "2026-04-01"));
        assert_eq!(month("2026-12"), range("2026-12-01", "2027-01-01"));
        for bad in ["", "26", "20266", "-026", "x"] {
            assert!(year(bad).is_err(), "{bad}");
        }
        for bad in ["", "2026", "2026-13", "2026-00", "2026-3", "2026-03-01"] {
            assert!(month(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_row_has_a_cell_for_every_column() {
        let row = v1::FollowUpStatistic {
            refusals: vec![v1::RefusalCount {
                ground: v1::RefusalGround::MinorOffence.into(),
                requests: 3,
            }],
            median_time_to_answer: Some(prost_types::Duration {
                seconds: 7_200,
                nanos: 0,
            }),
            ..Default::default()
        };
        let row = cells(&row);
        assert_eq!(row.len(), ROWS.len());
        assert_eq!(row[12].shown(), "2 h");
        assert_eq!(row[14].shown(), "MINOR_OFFENCE=3");
    }
}
