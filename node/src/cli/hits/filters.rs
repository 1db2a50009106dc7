//! Which hits are listed.

use std::time::Duration;

use clap::Args;
use sotto_common::hit::HitState;
use sotto_common::ids::NodeId;
use sotto_common::selector::Policy;
use sotto_common::time::Timestamp;
use sotto_proto::{convert, v1};

use super::super::args;

/// Most characters of what is said for the access log (analyst.proto).
const MAX_WHY: usize = 256;

/// Why hits are read.
#[derive(Args, Debug)]
pub(crate) struct WhyArgs {
    /// Why they are read, for the access log; without it, for the cases of the hits
    #[arg(long, value_name = "TEXT", value_parser = why, default_value = "", hide_default_value = true)]
    pub(crate) why: String,
}

/// Which hits to list.
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "a flag each")]
pub(crate) struct LsArgs {
    /// Only those of this holder
    #[arg(long, value_name = "NODE", value_parser = args::node)]
    holder: Option<NodeId>,
    /// Only those of this selector type
    #[arg(long = "type", value_name = "TYPE", value_parser = args::policy)]
    policy: Option<Policy>,
    /// Only those of this dataset
    #[arg(long, value_name = "NAME")]
    dataset: Option<String>,
    /// Only those that stand in this state, e.g. NEW
    #[arg(long, value_parser = state)]
    state: Option<HitState>,
    /// Only those first seen since then: RFC 3339, a day (UTC) or a time ago, e.g. 7d or 24h
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<Since>,
    /// Only those found for this case
    #[arg(long = "case", value_name = "REF")]
    case_ref: Option<String>,
    /// Those whose record was removed here, too
    #[arg(long)]
    with_removed: bool,
    /// Only those that are verified in the audit log
    #[arg(long, conflicts_with = "unverified")]
    verified: bool,
    /// Only those that are not verified in the audit log
    #[arg(long)]
    unverified: bool,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// All of them
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    #[command(flatten)]
    why: WhyArgs,
}

impl LsArgs {
    /// The most hits to list.
    pub(super) const fn most(&self) -> u64 {
        if self.all { u64::MAX } else { self.limit }
    }

    /// The request for a first page.
    pub(super) fn request(&self, now: Timestamp) -> v1::ListRecordHitsRequest {
        let policy = self.policy.map(|policy| policy.name().to_owned());
        let holder = self.holder.as_ref().map(ToString::to_string);
        v1::ListRecordHitsRequest {
            policy: policy.unwrap_or_default(),
            holder: holder.unwrap_or_default(),
            dataset: self.dataset.clone().unwrap_or_default(),
            state: self
                .state
                .map_or(0, |state| v1::HitState::from(state).into()),
            since: self.since.map(|since| convert::to_timestamp(since.at(now))),
            case_ref: self.case_ref.clone().unwrap_or_default(),
            why: self.why.why.clone(),
            with_removed: self.with_removed,
            verified: (self.verified || self.unverified).then_some(self.verified),
            ..Default::default()
        }
    }
}

fn state(text: &str) -> Result<HitState, String> {
    HitState::parse(&text.replace('-', "_")).ok_or_else(|| {
        let codes: Vec<_> = HitState::ALL.iter().map(|code| code.as_str()).collect();
        format!("expected one of {}", codes.join(", "))
    })
}

fn why(text: &str) -> Result<String, String> {
    if text.chars().count() > MAX_WHY {
        return Err(format!("at most {MAX_WHY} characters"));
    }
    Ok(text.to_owned())
}

/// Since when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Since {
    At(Timestamp),
    Ago(Duration),
}

impl Since {
    fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => now.minus(ago),
        }
    }
}

fn since(text: &str) -> Result<Since, String> {
    let ago = |unit: char, seconds: u64| {
        let number = text.strip_suffix(unit)?;
        let digits = number.bytes().all(|b| b.is_ascii_digit());
        let seconds = digits
            .then(|| number.parse().ok())
            .flatten()
            .and_then(|n: u64| n.checked_mul(seconds));
        seconds.map(Duration::from_secs).map(Since::Ago)
    };
    Timestamp::parse_rfc3339(text)
        .or_else(|| Timestamp::parse_rfc3339(&format!("{text}T00:00:00Z")))
        .map(Since::At)
        .or_else(|| ago('d', 86_400))
        .or_else(|| ago('h', 3_600))
        .ok_or_else(|| "expected e.g. 2026-03-01T08:00:00Z, 2026-03-01, 7d or 24h".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_taken_in_any_case() {
        assert_eq!(state("under-review"), Ok(HitState::UnderReview));
        assert!(state("OPEN").is_err());
    }

    #[test]
    fn times_are_instants_days_or_times_ago() {
        let now = Timestamp::from_seconds(1_000_000);
        for (text, seconds) in [
            ("1970-01-02T00:00:01Z", 86_401),
            ("1970-01-02T01:00:01+01:00", 86_401),
            ("1970-01-02", 86_400),
            ("1d", 1_000_000 - 86_400),
            ("24h", 1_000_000 - 86_400),
            ("0h", 1_000_000),
        ] {
            let at = since(text).map(|since| since.at(now));
            assert_eq!(at, Ok(Timestamp::from_seconds(seconds)), "{text}");
        }
        for bad in [
            "",
            "d",
            "7",
            "-1d",
            "+1d",
            "7w",
            "yesterday",
            "99999999999999999999d",
            "1970-13-01",
        ] {
            assert!(since(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_said_for_the_access_log_has_a_bound() {
        assert!(why(&"é".repeat(MAX_WHY)).is_ok());
        assert!(why(&"é".repeat(MAX_WHY + 1)).is_err());
    }
}
