//! What an operator asks a running broker of follow-ups: figures, never what stands in one.

use clap::{Args, Subcommand};
use serde_json::json;
use sotto_common::service::client::unary;
use sotto_common::service::tls::MAX_MESSAGE;
use sotto_common::time::Timestamp;
use sotto_proto::convert;
use sotto_proto::v1;
use sotto_proto::v1::follow_up_service_client::FollowUpServiceClient;
use tonic::transport::Channel;

use super::operator::{Client, answer, date};
use super::{Fault, Result};

/// Columns of the figures of art. 18 of Directive (EU) 2023/977.
pub(super) const REQUESTS: [&str; 15] = [
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
    "refusals",
    "overdue",
    "overdue_judicial",
    "median_seconds",
    "percentile_90_seconds",
];

#[derive(Debug, Subcommand)]
pub(super) enum FollowUpsCommand {
    /// Show the yearly figures of Directive (EU) 2023/977, art. 18: requests by requester, holder and
    /// urgency, answers, refusals by ground, limits exceeded, times to answer.
    #[command(after_help = "Examples:
  sotto-broker --client operator.toml followups stats euro-cyber --year 2026
  sotto-broker --client operator.toml --output csv followups stats euro-cyber --month 2026-03
  sotto-broker --client operator.toml followups stats euro-cyber --from 2026-01-01 --to 2026-02-15

Requests count by the day on which they were submitted. Times are seconds from RECEIVED on.")]
    Stats {
        community: String,
        #[command(flatten)]
        range: Range,
    },
    /// Show how often each holder's node did not hold what its filters had matched, beside what the
    /// filters' false-positive probability explains. What is raised needs a question to that unit.
    #[command(after_help = "Examples:
  sotto-broker --client operator.toml followups presence euro-cyber
  sotto-broker --client operator.toml --output json followups presence euro-cyber --since 2026-01-01

`probability` is that of so many NOT_HELD or more by chance; below 0.001 the row is raised.")]
    Presence {
        community: String,
        /// Only requests submitted on this UTC day or later, e.g. 2026-01-31.
        #[arg(long, value_name = "DAY")]
        since: Option<String>,
    },
}

/// Which requests count; without any of these, all of them.
#[derive(Debug, Args)]
pub(super) struct Range {
    /// Submitted on this UTC day or later, e.g. 2026-01-31.
    #[arg(long, value_name = "DAY", conflicts_with_all = ["year", "month"])]
    from: Option<String>,
    /// Submitted before this UTC day.
    #[arg(long, value_name = "DAY", conflicts_with_all = ["year", "month"])]
    to: Option<String>,
    /// Submitted in this year.
    #[arg(long, conflicts_with = "month", value_parser = clap::value_parser!(u16).range(1970..9999))]
    year: Option<u16>,
    /// Submitted in this month, e.g. 2026-03.
    #[arg(long, value_name = "YEAR-MONTH")]
    month: Option<String>,
}

impl Range {
    /// First instant, and the one after the last.
    pub(super) fn bounds(&self) -> Result<(Option<Timestamp>, Option<Timestamp>)> {
        if let Some(year) = self.year {
            let begins = |year: u16| date("--year", &format!("{year:04}-01-01"));
            return Ok((Some(begins(year)?), Some(begins(year + 1)?)));
        }
        if let Some(month) = &self.month {
            return month_bounds(month).map(|(from, to)| (Some(from), Some(to)));
        }
        let day = |option, day: &Option<String>| {
            let day = day.as_deref();
            day.map(|day| date(option, day)).transpose()
        };
        Ok((day("--from", &self.from)?, day("--to", &self.to)?))
    }
}

fn month_bounds(month: &str) -> Result<(Timestamp, Timestamp)> {
    let wrong = || Fault {
        text: "--month is a month such as 2026-03".to_owned(),
        code: 2,
    };
    let (year, number) = month.split_once('-').ok_or_else(wrong)?;
    let parse = |text: &str| text.parse::<u16>().map_err(|_| wrong());
    let (year, number) = (parse(year)?, parse(number)?);
    let begins = |year: u16, month: u16| {
        date("--month", &format!("{year:04}-{month:02}-01")).map_err(|_| wrong())
    };
    let next = if number == 12 {
        (year + 1, 1)
    } else {
        (year, number + 1)
    };
    Ok((begins(year, number)?, begins(next.0, next.1)?))
}

impl Client {
    fn follow_up_service(&self) -> FollowUpServiceClient<Channel> {
        FollowUpServiceClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(super) async fn follow_ups(&self, command: FollowUpsCommand) -> Result<()> {
        match command {
            FollowUpsCommand::Stats { community, range } => {
                let (from, to) = range.bounds()?;
                let request = v1::ListFollowUpStatisticsRequest {
                    community,
                    from: from.map(convert::to_timestamp),
                    to: to.map(convert::to_timestamp),
                };
                let mut service = self.follow_up_service();
                let listed = answer(service.list_follow_up_statistics(unary(request)).await)?;
                self.print_statistics(&listed.rows)
            }
            FollowUpsCommand::Presence { community, since } => {
                let since = since.map(|since| date("--since", &since)).transpose()?;
                let request = v1::ListPresenceRatesRequest {
                    community,
                    since: since.map(convert::to_timestamp),
                };
                let mut service = self.follow_up_service();
                let listed = answer(service.list_presence_rates(unary(request)).await)?;
                let rows = listed.rows.iter().map(|row| {
                    json!({"holder": row.holder, "policy": row.policy, "checked": row.checked,
                           "not_held": row.not_held, "expected": row.expected,
                           "probability": row.probability, "raised": row.raised})
                });
                let columns = [
                    "holder",
                    "policy",
                    "checked",
                    "not_held",
                    "expected",
                    "probability",
                    "raised",
                ];
                self.print(&columns, rows.collect())
            }
        }
    }

    fn print_statistics(&self, rows: &[v1::FollowUpStatistic]) -> Result<()> {
        let rows = rows.iter().map(|row| {
            let limit = row.time_limit().domain();
            json!({"requester": row.requester, "holder": row.holder,
                   "time_limit": limit.map_or("?", |limit| limit.as_str()),
                   "sent": row.sent, "received": row.received, "answered": row.answered,
                   "refused": row.refused, "withdrawn": row.withdrawn,
                   "not_held": row.not_held, "open": row.open, "refusals": refusals(row),
                   "overdue": row.overdue, "overdue_judicial": row.overdue_judicial,
                   "median_seconds": seconds(row.median_time_to_answer),
                   "percentile_90_seconds": seconds(row.percentile_90_time_to_answer)})
        });
        self.print(&REQUESTS, rows.collect())
    }
}

/// `GROUND=requests`, a space between.
fn refusals(row: &v1::FollowUpStatistic) -> String {
    let refusals = row.refusals.iter().map(|refusal| {
        let ground = refusal.ground().domain();
        let ground = ground.map_or("?", |ground| ground.as_str());
        format!("{ground}={}", refusal.requests)
    });
    refusals.collect::<Vec<_>>().join(" ")
}

fn seconds(time: Option<prost_types::Duration>) -> Option<i64> {
    time.map(|time| time.seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_goes_from_its_first_day_to_that_of_the_next() {
        let day = |day| date("--day", day).expect("a day");
        for (month, from, to) in [
            ("2026-03", "2026-03-01", "2026-04-01"),
            ("2026-12", "2026-12-01", "2027-01-01"),
        ] {
            assert_eq!(month_bounds(month).expect("a month"), (day(from), day(to)));
        }
        for wrong in ["2026", "2026-13", "2026-00", "march", "2026-03-01", ""] {
            assert_eq!(month_bounds(wrong).expect_err("refused").code, 2, "{wrong}");
        }
    }
}
