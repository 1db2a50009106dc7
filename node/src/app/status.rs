//! How the node stands: its broker, its epoch, its filters, what waits, and what somebody should do.

use std::time::Duration;

use sotto_common::error::Result;
use sotto_common::membership::Manifest;
use sotto_common::publication::LayerRole;
use sotto_common::time::Timestamp;
use sotto_proto::convert::{timestamp, to_timestamp};
use sotto_proto::v1;

use super::App;
use super::publish::plan::{Step, Why, next_step};

/// An epoch that ends within this time, without a next one, is worth a word.
const SOON: Duration = Duration::from_hours(3 * 24);
/// What waits for the audit log for longer than this is worth a word: by then every witness that runs has
/// cosigned, and cosignatures of before count no more (protocol §11).
const LONG: Duration = Duration::from_hours(24);

impl App {
    /// How the node stands.
    ///
    /// # Errors
    /// Those of the store; a broker out of reach is a part of the answer.
    pub(crate) async fn status(&self) -> Result<v1::GetStatusResponse> {
        let own = self.keystore.signing().verifying_key().fingerprint();
        let mut status = v1::GetStatusResponse {
            node_id: self.node.to_string(),
            community: self.community.to_string(),
            fingerprint: own.to_string(),
            publications: self.publications_status().await?,
            backlog: self.backlog_status().await?,
            ..Default::default()
        };
        let threads = self.store.count_threads().await?;
        status.new_hits = threads.new;
        status.open_hits = threads.open;
        status.pending_feedback = threads.pending;
        status.unverified_hits = self.store.count_unverified().await?;
        status.log = self.log_status().await?;
        match self.standing().await {
            Ok((limits, epochs)) => {
                status.broker_reachable = true;
                status.limits = limits;
                status.epochs = epochs;
            }
            Err(error) => status.broker_problem = error.to_string(),
        }
        status.next_actions = self.next_actions(&status).await?;
        Ok(status)
    }

    async fn publications_status(&self) -> Result<Vec<v1::PublicationStatus>> {
        let epoch = *self.epoch.borrow();
        let setbacks = self.setbacks().clone();
        let mut rows = Vec::new();
        for policy in self.store.published_policies().await? {
            let (layers, wanted) = self.published(policy).await?;
            let step =
                epoch.and_then(|epoch| next_step(epoch, &layers, &wanted, false, self.clock.now()));
            let latest = layers.last().map(|layer| layer.epoch);
            let layers: Vec<_> = layers
                .into_iter()
                .filter(|layer| Some(layer.epoch) == latest)
                .collect();
            let base = layers.iter().rfind(|layer| layer.role == LayerRole::Base);
            let last = layers.last();
            let published: u64 = layers.iter().map(|layer| layer.selectors).sum();
            let after = last.map_or(0, |layer| layer.last_selector);
            let problem = setbacks.get(&policy).map(|setback| setback.problem.clone());
            rows.push(v1::PublicationStatus {
                policy: policy.name().to_owned(),
                epoch: last.map_or(0, |layer| layer.epoch.get()),
                version: last.map_or(0, |layer| layer.version),
                base_at: base.map(|layer| to_timestamp(layer.active_at)),
                last_at: last.map(|layer| to_timestamp(layer.active_at)),
                supplements: u32::try_from(layers.len().saturating_sub(1)).unwrap_or(u32::MAX),
                selectors: published,
                waiting: self.store.count_published(policy, after).await?,
                removal_waits: matches!(step, Some(Step::Base(Why::Removal) | Step::Withdraw(_))),
                next_base_at: wanted.next_base.map(to_timestamp),
                waiting_for: problem.unwrap_or_default(),
            });
        }
        Ok(rows)
    }

    async fn backlog_status(&self) -> Result<Vec<v1::ProbeBacklog>> {
        let rows = self.backlog().await?.into_iter();
        Ok(rows
            .map(|row| v1::ProbeBacklog {
                dataset: row.dataset.name,
                policy: row.dataset.policy.name().to_owned(),
                refs: row.refs,
                refresh_refs: row.refresh_refs,
                holders: row.holders.iter().map(ToString::to_string).collect(),
                waiting_for: row.waiting_for,
                complete_at: row.complete_at.map(to_timestamp),
            })
            .collect())
    }

    /// What somebody should do, most urgent first.
    async fn next_actions(&self, status: &v1::GetStatusResponse) -> Result<Vec<String>> {
        let log = status.log.as_ref();
        let mut actions: Vec<_> = log.and_then(log_action).into_iter().collect();
        actions.extend(
            log.into_iter()
                .flat_map(|log| waiting(log, self.clock.now())),
        );
        if !status.broker_reachable {
            actions.push(format!(
                "the broker is out of reach ({}): look at the network and at `broker` in the \
                 node's configuration; the node goes on by itself when it is back",
                status.broker_problem
            ));
        }
        actions.extend(self.epoch_problem());
        let stored = self.store.epochs().await?;
        let latest = stored.iter().find(|epoch| !epoch.draft);
        if status.broker_reachable && status.epochs.is_empty() {
            actions.push(
                "no active epoch whose key this node has: `sotto-node epoch ls` shows who is \
                 missing"
                    .into(),
            );
        }
        if let Some(epoch) = latest {
            actions.extend(ends_soon(&epoch.manifest, self.clock.now()));
        }
        for row in &status.publications {
            if row.removal_waits {
                actions.push(format!(
                    "selectors of {} that were removed still match at the broker: {}",
                    row.policy,
                    or(&row.waiting_for, "the next base is on its way")
                ));
            } else if !row.waiting_for.is_empty() {
                actions.push(format!(
                    "{} is not published: {}",
                    row.policy, row.waiting_for
                ));
            }
        }
        actions.extend(self.follow_up_actions().await?);
        actions.extend(self.source_problems());
        if status.new_hits > 0 {
            actions.push(format!(
                "{} hits are new: `sotto-node hits ls --state NEW`",
                status.new_hits
            ));
        }
        let used_up = status
            .limits
            .iter()
            .filter(|l| l.used_today >= l.daily_refs);
        actions.extend(used_up.map(|limits| {
            format!(
                "today's quota for {} is used up; probing goes on at midnight UTC, or ask the \
                 operator for more",
                limits.policy
            )
        }));
        if status.log.is_none() {
            actions.push(NO_LOG.into());
        }
        Ok(actions)
    }
}

/// What is to do at a node that follows no audit log.
const NO_LOG: &str = "hits cannot be verified, as this node follows no audit log: the operator prints its \
                      key with `sotto-broker log-key --community NAME`; set \
                      `audit_log.verifier_key` to it";

/// What somebody should do about the audit log, if anything.
fn log_action(log: &v1::LogStatus) -> Option<String> {
    if log.alarm {
        let text = "the audit log contradicts itself, and nothing is done on hits: tell the auditor; a \
                    supervisor looks at `sotto-node evidence ls` and ends the alarm with `sotto-node \
                    evidence clear --reason TEXT`";
        return Some(text.into());
    }
    let problem = &log.problem;
    (!problem.is_empty()).then(|| format!("the audit log is not followed: {problem}"))
}

/// What somebody should do about what has waited for the audit log for long.
fn waiting(log: &v1::LogStatus, now: Timestamp) -> Vec<String> {
    // Nothing is verified while an alarm stands: that is what to do then.
    if log.alarm {
        return Vec::new();
    }
    let for_long = |since: Option<prost_types::Timestamp>| {
        let since = timestamp("since", Some(since?)).ok()?;
        (since.plus(LONG) < now).then_some(since)
    };
    let mut actions = Vec::new();
    if log.hits_named_otherwise > 0 {
        actions.push(format!(
            "{} hits are told by the broker for another record or holder than its answers, whose \
             digests are in the audit log, name: act on none of them (`sotto-node hits show` says \
             which), have the operator explain it, and raise it with the supervisory authority",
            log.hits_named_otherwise
        ));
    }
    if let Some(since) = for_long(log.few_cosignatures_since) {
        actions.push(format!(
            "too few nodes have cosigned the audit log since {since} ({} of {}), so nothing new is \
             verified: ask the other units whether their nodes run and follow the log \
             (`audit_log.verifier_key`), and the operator whether cosignatures come in; if none can \
             say why, raise it with the supervisory authority",
            log.cosignatures, log.quorum
        ));
    }
    if let Some(since) = for_long(log.unverified_batches_since) {
        actions.push(format!(
            "{} batches of probes are not verified in the audit log, the first since {since}: ask the \
             operator for their entries, and raise it with the supervisory authority if there are \
             none",
            log.unverified_batches
        ));
    }
    if let Some(since) = for_long(log.unplaced_batches_since) {
        actions.push(format!(
            "{} batches of probes, the first of {since}, were answered without a place in the audit \
             log, or that log was begun anew: their hits are verified once their records are probed \
             again; ask the operator why, and raise it with the supervisory authority if it goes on",
            log.unplaced_batches
        ));
    }
    if let Some(since) = for_long(log.unverified_open_hits_since) {
        actions.push(format!(
            "{} open hits are not verified in the audit log, the first since {since}: `sotto-node hits \
             ls --unverified` lists them, `hits show` says why; ask the operator for the entries \
             of those that are not proved, and raise it with the supervisory authority if there are \
             none",
            log.unverified_open_hits
        ));
    }
    actions
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

fn ends_soon(latest: &Manifest, now: Timestamp) -> Option<String> {
    (latest.not_after <= now.plus(SOON)).then(|| {
        format!(
            "epoch {} ends at {}: a custodian opens the next one with `sotto-node epoch open`",
            latest.epoch, latest.not_after
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_worth_a_word_while_something_is_wrong_with_it() {
        let mut log = v1::LogStatus::default();
        assert_eq!(log_action(&log), None);
        log.problem = "out of reach".into();
        assert!(log_action(&log).is_some_and(|text| text.contains("out of reach")));
        log.alarm = true;
        assert!(log_action(&log).is_some_and(|text| text.contains("evidence clear")));
    }

    #[test]
    fn what_waits_for_the_log_for_more_than_a_day_is_worth_a_word_each() {
        type Since = fn(&mut v1::LogStatus, Option<prost_types::Timestamp>);
        let waits: [(Since, &str); 4] = [
            (|log, at| log.few_cosignatures_since = at, "other units"),
            (|log, at| log.unverified_batches_since = at, "batches"),
            (|log, at| log.unplaced_batches_since = at, "without a place"),
            (
                |log, at| log.unverified_open_hits_since = at,
                "--unverified",
            ),
        ];
        let now = Timestamp::from_seconds(1_000_000);
        for (set, word) in waits {
            let mut log = v1::LogStatus::default();
            set(&mut log, Some(to_timestamp(now.minus(LONG))));
            assert_eq!(waiting(&log, now), [""; 0]);
            let second = Duration::from_secs(1);
            set(&mut log, Some(to_timestamp(now.minus(LONG + second))));
            let actions = waiting(&log, now);
            assert_eq!(actions.len(), 1);
            assert!(actions[0].contains(word), "{actions:?}");
            assert!(actions[0].contains("supervisory authority"));
            log.alarm = true;
            assert_eq!(waiting(&log, now), [""; 0]);
        }
    }

    #[test]
    fn hits_that_an_answer_names_otherwise_are_worth_a_word_at_once() {
        let log = v1::LogStatus {
            hits_named_otherwise: 2,
            ..Default::default()
        };
        let actions = waiting(&log, Timestamp::from_seconds(0));
        assert!(actions[0].contains("act on none of them"), "{actions:?}");
    }
}
