//! `status`: how the node stands, and what somebody should do next.

use std::io::Write as _;

use serde_json::{Value, json};
use sotto_proto::{convert, v1};

use super::Context;
use super::client::unary;
use super::fault::Result;
use super::members::or_none;
use super::render::{Cell, List, Output, Tone, printable, record};

const ABOUT: &[&str] = &[
    "node",
    "community",
    "fingerprint",
    "broker_reachable",
    "broker_problem",
    "epochs",
    "new_hits",
    "open_hits",
    "pending_feedback",
    "unverified_hits",
];

const WHOLE: &[&str] = &[
    ABOUT[0],
    ABOUT[1],
    ABOUT[2],
    ABOUT[3],
    ABOUT[4],
    ABOUT[5],
    ABOUT[6],
    ABOUT[7],
    ABOUT[8],
    ABOUT[9],
    "log",
    "publications",
    "backlog",
    "limits",
    "next_actions",
];

const LOG: &[&str] = &[
    "audit_log",
    "tree_size",
    "checkpoint_at",
    "cosignatures",
    "quorum",
    "few_cosignatures_since",
    "unverified_open_hits",
    "unverified_open_hits_since",
    "hits_named_otherwise",
    "unverified_batches",
    "unverified_batches_since",
    "unplaced_batches",
    "unplaced_batches_since",
    "alarm",
    "problem",
];

const PUBLICATIONS: &[&str] = &[
    "published",
    "epoch",
    "version",
    "base_at",
    "supplements",
    "selectors",
    "waiting",
    "next_base_at",
    "waiting_for",
];

const BACKLOG: &[&str] = &[
    "probed",
    "policy",
    "refs_to_ask",
    "refs_to_refresh",
    "holders_that_changed",
    "complete_at",
    "waiting_for",
];

const LIMITS: &[&str] = &[
    "limits",
    "daily_refs",
    "used_today",
    "left_today",
    "max_class",
];

/// Shows how the node stands.
pub(crate) async fn run(context: &Context) -> Result<()> {
    let request = unary(v1::GetStatusRequest {});
    let answer = context.client()?.admin().get_status(request).await?;
    let status = answer.into_inner();
    if context.output == Output::Table {
        return for_people(context, &status);
    }
    let mut cells = about(&status);
    cells.extend([
        Cell::new(status.log.as_ref().map(log_value)),
        Cell::new(values(&status.publications, publication_value)),
        Cell::new(values(&status.backlog, backlog_value)),
        Cell::new(values(&status.limits, limit_value)),
        Cell::new(status.next_actions),
    ]);
    Ok(record(
        context.output,
        WHOLE,
        &cells,
        &mut context.stdout(),
    )?)
}

/// Several tables, and what to do as sentences.
fn for_people(context: &Context, status: &v1::GetStatusResponse) -> Result<()> {
    let mut out = context.stdout();
    record(context.output, ABOUT, &about(status), &mut out)?;
    if let Some(log) = &status.log {
        record(context.output, LOG, &log_cells(log), &mut out)?;
    }
    if !status.publications.is_empty() {
        let mut list = List::new(context.output, PUBLICATIONS, &mut out)?;
        for row in &status.publications {
            list.row(&publication(row))?;
        }
        list.finish()?;
    }
    if !status.backlog.is_empty() {
        let mut list = List::new(context.output, BACKLOG, &mut out)?;
        for row in &status.backlog {
            list.row(&backlog(row))?;
        }
        list.finish()?;
    }
    if !status.limits.is_empty() {
        let mut list = List::new(context.output, LIMITS, &mut out)?;
        for row in &status.limits {
            list.row(&limit(row))?;
        }
        list.finish()?;
    }
    let nothing = status.next_actions.is_empty();
    writeln!(out, "{}", if nothing { "Nothing to do." } else { "To do:" })?;
    for action in &status.next_actions {
        writeln!(out, "- {}", printable(action))?;
    }
    Ok(out.flush()?)
}

fn about(status: &v1::GetStatusResponse) -> Vec<Cell> {
    let epochs: Vec<_> = status.epochs.iter().map(u32::to_string).collect();
    let (words, tone) = if status.broker_reachable {
        ("yes", Tone::Good)
    } else {
        ("no", Tone::Bad)
    };
    vec![
        Cell::new(status.node_id.as_str()),
        Cell::new(status.community.as_str()),
        Cell::new(status.fingerprint.as_str()),
        Cell::in_words(status.broker_reachable, words).toned(tone),
        Cell::new(status.broker_problem.as_str()),
        Cell::in_words(status.epochs.clone(), or_none(&epochs.join(", "))),
        Cell::new(status.new_hits),
        Cell::new(status.open_hits),
        Cell::new(status.pending_feedback),
        Cell::new(status.unverified_hits),
    ]
}

fn log_cells(log: &v1::LogStatus) -> Vec<Cell> {
    let (words, tone) = if log.alarm {
        ("the log contradicts itself", Tone::Bad)
    } else {
        ("none", Tone::Good)
    };
    let warned = |of: bool| if of { Tone::Warning } else { Tone::Plain };
    let bad = |count: u64| if count > 0 { Tone::Bad } else { Tone::Plain };
    vec![
        Cell::new(log.origin.as_str()),
        Cell::new(log.tree_size),
        time(log.checkpoint_at),
        Cell::new(log.cosignatures).toned(warned(log.cosignatures < log.quorum)),
        Cell::new(log.quorum),
        time(log.few_cosignatures_since),
        Cell::new(log.unverified_open_hits),
        time(log.unverified_open_hits_since),
        Cell::new(log.hits_named_otherwise).toned(bad(log.hits_named_otherwise)),
        Cell::new(log.unverified_batches),
        time(log.unverified_batches_since),
        Cell::new(log.unplaced_batches).toned(warned(log.unplaced_batches > 0)),
        time(log.unplaced_batches_since),
        Cell::in_words(log.alarm, words).toned(tone),
        Cell::new(log.problem.as_str()).toned(Tone::Warning),
    ]
}

fn log_value(log: &v1::LogStatus) -> Value {
    json!({
        "origin": log.origin,
        "tree_size": log.tree_size,
        "checkpoint_at": text(log.checkpoint_at),
        "cosignatures": log.cosignatures,
        "quorum": log.quorum,
        "few_cosignatures_since": text(log.few_cosignatures_since),
        "unverified_open_hits": log.unverified_open_hits,
        "unverified_open_hits_since": text(log.unverified_open_hits_since),
        "hits_named_otherwise": log.hits_named_otherwise,
        "unverified_batches": log.unverified_batches,
        "unverified_batches_since": text(log.unverified_batches_since),
        "unplaced_batches": log.unplaced_batches,
        "unplaced_batches_since": text(log.unplaced_batches_since),
        "alarm": log.alarm,
        "problem": log.problem,
    })
}

fn publication(row: &v1::PublicationStatus) -> Vec<Cell> {
    let waiting = if row.removal_waits {
        "a removal".into()
    } else {
        row.waiting.to_string()
    };
    let tone = if row.removal_waits {
        Tone::Bad
    } else {
        Tone::Plain
    };
    vec![
        Cell::new(row.policy.as_str()),
        Cell::new(row.epoch),
        Cell::new(row.version),
        time(row.base_at),
        Cell::new(row.supplements),
        Cell::new(row.selectors),
        Cell::in_words(row.waiting, waiting).toned(tone),
        time(row.next_base_at),
        Cell::new(row.waiting_for.as_str()).toned(Tone::Warning),
    ]
}

fn backlog(row: &v1::ProbeBacklog) -> Vec<Cell> {
    vec![
        Cell::new(row.dataset.as_str()),
        Cell::new(row.policy.as_str()),
        Cell::new(row.refs),
        Cell::new(row.refresh_refs),
        Cell::texts(&row.holders),
        time(row.complete_at),
        Cell::new(row.waiting_for.as_str()).toned(Tone::Warning),
    ]
}

fn limit(row: &v1::PolicyLimits) -> Vec<Cell> {
    let left = row.daily_refs.saturating_sub(row.used_today);
    let tone = if left == 0 {
        Tone::Warning
    } else {
        Tone::Plain
    };
    vec![
        Cell::new(row.policy.as_str()),
        Cell::new(row.daily_refs),
        Cell::new(row.used_today),
        Cell::new(left).toned(tone),
        Cell::new(row.max_class),
    ]
}

fn time(at: Option<prost_types::Timestamp>) -> Cell {
    Cell::time(convert::timestamp("at", at).ok())
}

fn text(at: Option<prost_types::Timestamp>) -> Option<String> {
    Some(convert::timestamp("at", at).ok()?.to_string())
}

fn values<T>(rows: &[T], value: fn(&T) -> Value) -> Vec<Value> {
    rows.iter().map(value).collect()
}

fn publication_value(row: &v1::PublicationStatus) -> Value {
    json!({
        "policy": row.policy,
        "epoch": row.epoch,
        "version": row.version,
        "base_at": text(row.base_at),
        "last_at": text(row.last_at),
        "supplements": row.supplements,
        "selectors": row.selectors,
        "waiting": row.waiting,
        "removal_waits": row.removal_waits,
        "next_base_at": text(row.next_base_at),
        "waiting_for": row.waiting_for,
    })
}

fn backlog_value(row: &v1::ProbeBacklog) -> Value {
    json!({
        "dataset": row.dataset,
        "policy": row.policy,
        "refs": row.refs,
        "refresh_refs": row.refresh_refs,
        "holders": row.holders,
        "waiting_for": row.waiting_for,
        "complete_at": text(row.complete_at),
    })
}

fn limit_value(row: &v1::PolicyLimits) -> Value {
    json!({
        "policy": row.policy,
        "daily_refs": row.daily_refs,
        "used_today": row.used_today,
        "max_class": row.max_class,
    })
}

#[cfg(test)]
mod tests {
    use sotto_common::time::Timestamp;

    use super::*;

    #[test]
    fn people_and_machines_read_the_same_of_the_audit_log() {
        let at = Some(convert::to_timestamp(Timestamp::from_seconds(60)));
        let log = v1::LogStatus {
            tree_size: 7,
            quorum: 2,
            few_cosignatures_since: at,
            unverified_open_hits: 3,
            unverified_open_hits_since: at,
            unverified_batches: 4,
            unplaced_batches: 5,
            hits_named_otherwise: 6,
            ..Default::default()
        };
        let (cells, value) = (log_cells(&log), log_value(&log));
        assert_eq!(cells.len(), LOG.len());
        for (name, cell) in LOG.iter().zip(&cells).skip(1) {
            let told = &value[name];
            if told.is_number() {
                assert_eq!(cell.shown(), told.to_string(), "{name}");
            }
            assert!(value.get(name).is_some(), "{name}");
        }
        assert_eq!(value["few_cosignatures_since"], "1970-01-01T00:01:00Z");
        assert_eq!(value["unverified_open_hits_since"], "1970-01-01T00:01:00Z");
        assert_eq!(value["unverified_batches_since"], Value::Null);
    }
}
