//! `audit stats`: the figures of workflow.md "Audit".

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde_json::{Value, json};
use sotto_common::log::checkpoint::Checkpoint;
use sotto_common::log::note::Note;
use sotto_common::random::os_rng;
use sotto_common::service::files::{self, Readers};
use sotto_proto::v1;
use tonic::Request;

use super::super::follow_ups::REQUESTS;
use super::super::operator::{Client, answer, refused};
use super::super::print::say;
use super::super::{Output, Result, follow_ups};
use super::about;
use crate::audit::export::ExportReader;
use crate::audit::html;
use crate::audit::statistics::{Figures, Range, Statistics};

const PROBES: [&str; 6] = ["prober", "policy", "sessions", "batches", "refs", "matches"];

const HITS: [&str; 10] = [
    "prober",
    "holder",
    "policy",
    "found",
    "quarantined",
    "confirmed",
    "false",
    "not_relevant",
    "retracted",
    "expired",
];

/// What was counted, and of what.
pub(super) struct Counted {
    title: String,
    figures: Figures,
}

/// Counts the entries of an export.
pub(super) fn of_export(file: &Path, range: &follow_ups::Range) -> Result<Counted> {
    let opened = File::open(file).map_err(|error| about(file, &error))?;
    let opened = ExportReader::open(BufReader::new(opened));
    let (head, entries) = opened.map_err(|error| about(file, &error))?;
    let checkpoint: Checkpoint = Note::parse(&head.note)?.text().parse()?;
    let mut statistics = Statistics::new(bounds(range)?);
    for entry in entries {
        statistics.take(&entry.map_err(|error| about(file, &error))?);
    }
    Ok(Counted {
        title: format!("Sotto: {}", checkpoint.origin),
        figures: statistics.finish(),
    })
}

fn bounds(range: &follow_ups::Range) -> Result<Range> {
    let (from, until) = range.bounds()?;
    Ok(Range { from, until })
}

impl Client {
    /// Counts the entries that the broker gives.
    pub(super) async fn count(
        &self,
        community: String,
        range: &follow_ups::Range,
    ) -> Result<Counted> {
        let mut statistics = Statistics::new(bounds(range)?);
        let title = format!("Sotto: {community}");
        let request = Request::new(v1::ExportEntriesRequest {
            community,
            from_index: 0,
        });
        let mut service = self.audit_service();
        let mut stream = answer(service.export_entries(request).await)?;
        while let Some(message) = stream.message().await.map_err(|status| refused(&status))? {
            for entry in &message.entries {
                statistics.take(entry);
            }
        }
        Ok(Counted {
            title,
            figures: statistics.finish(),
        })
    }
}

impl Counted {
    pub(super) fn print(&self, output: Output, html: Option<&Path>) -> Result<()> {
        if let Some(path) = html {
            let page = html::page(&self.title, &self.figures);
            files::write(path, page.as_bytes(), Readers::Owner, &mut os_rng())
                .map_err(|error| about(path, &error))?;
        }
        let (probes, hits) = (self.probes(), self.hits());
        let requests = self.requests();
        match output {
            Output::Json => {
                let unread = self.figures.unread;
                return say(
                    &json!({"probes": probes, "hits": hits, "requests": requests,
                                   "unread": unread}),
                );
            }
            // One table with the columns of all: the first says which figures a row has.
            Output::Csv => output.print(&all_columns(), labelled(probes, hits, requests))?,
            Output::Table => {
                output.print(&PROBES, probes)?;
                output.print(&HITS, hits)?;
                output.print(&REQUESTS, requests)?;
            }
        }
        if self.figures.unread > 0 {
            let text = "entries are erased, not known here, or do not fit, and are not counted";
            eprintln!("{} {text}", self.figures.unread);
        }
        Ok(())
    }

    fn probes(&self) -> Vec<Value> {
        let rows = self.figures.probes.iter().map(|(key, probes)| {
            json!({"prober": key.prober.as_str(), "policy": key.policy.name(),
                   "sessions": probes.sessions, "batches": probes.batches,
                   "refs": probes.refs, "matches": probes.matches})
        });
        rows.collect()
    }

    fn hits(&self) -> Vec<Value> {
        let rows = self.figures.hits.iter().map(|(key, hits)| {
            json!({"prober": key.prober.as_str(), "holder": key.holder.as_str(),
                   "policy": key.policy.name(), "found": hits.found,
                   "quarantined": hits.quarantined, "confirmed": hits.confirmed,
                   "false": hits.false_positives, "not_relevant": hits.not_relevant,
                   "retracted": hits.retracted, "expired": hits.expired})
        });
        rows.collect()
    }

    fn requests(&self) -> Vec<Value> {
        let seconds = |time: Option<std::time::Duration>| time.map(|time| time.as_secs());
        let rows = self.figures.requests.iter().map(|(key, line)| {
            json!({"requester": key.requester.as_str(), "holder": key.holder.as_str(),
                   "time_limit": key.limit.as_str(), "sent": line.sent,
                   "received": line.received, "answered": line.answered,
                   "refused": line.refused, "withdrawn": line.withdrawn,
                   "not_held": line.not_held, "open": line.open,
                   "refusals": html::grounds(line), "overdue": line.overdue,
                   "overdue_judicial": line.overdue_judicial,
                   "median_seconds": seconds(line.median),
                   "percentile_90_seconds": seconds(line.percentile_90)})
        });
        rows.collect()
    }
}

fn all_columns() -> Vec<&'static str> {
    let mut columns = vec!["figures"];
    for column in [&PROBES[..], &HITS[..], &REQUESTS[..]].concat() {
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    columns
}

fn labelled(probes: Vec<Value>, hits: Vec<Value>, requests: Vec<Value>) -> Vec<Value> {
    let sections = [("probes", probes), ("hits", hits), ("requests", requests)];
    let rows = sections.into_iter().flat_map(|(name, rows)| {
        rows.into_iter().map(move |mut row| {
            row["figures"] = name.into();
            row
        })
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_of_csv_are_those_of_all_figures_each_once() {
        let columns = all_columns();
        let distinct: std::collections::BTreeSet<_> = columns.iter().collect();
        assert_eq!(distinct.len(), columns.len());
        assert_eq!(columns[0], "figures");
        for column in [&PROBES[..], &HITS[..], &REQUESTS[..]].concat() {
            assert!(columns.contains(&column), "{column}");
        }
    }
}
