//! What the node asks by itself (protocol §7): new selectors at once, everything of a holder whose
//! filters have changed, and everything again before a week is over. Quota and an absent broker slow
//! it down; what is left stays planned in the store.

pub(crate) mod plan;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use sotto_common::error::{ErrorCode, Result};
use sotto_common::ids::{NodeId, SessionId};
use sotto_common::probe::SessionNonce;
use sotto_common::random::os_rng;
use sotto_common::selector::Policy;
use sotto_common::time::Timestamp;
use sotto_proto::v1;
use tokio::sync::watch;

use super::App;
use super::catalogue::Holders;
use super::epochs::EpochKeys;
use super::probe::flight::{Flown, Pilot, is_lost, opening};
use crate::broker::{Backoff, is_passing};
use crate::store::{ProbeKey, ProbeKind, ProbeSession, ProbedDataset};
use plan::{Next, Pace, Question, Scene, Subject, UnderWay};

/// A refusal that does not pass by itself is tried again after this time.
const RETRY: Duration = Duration::from_mins(5);

/// What each policy's prober waits for, in words.
pub(crate) type Waiting = BTreeMap<Policy, String>;

/// Goes on until there is something that is asked first, or as far as it may go by now.
struct Service {
    data: watch::Receiver<()>,
    yields: bool,
    allowed: u64,
}

impl Pilot for Service {
    fn room(&mut self, asked: u64) -> u64 {
        if self.yields && self.data.has_changed().unwrap_or(true) {
            return 0;
        }
        self.allowed.saturating_sub(asked)
    }

    fn told(&mut self, _: &ProbeSession) {}
}

/// Probes for as long as the node runs; policies do not wait for each other.
pub(crate) fn keep_probing(app: Arc<App>) -> BoxFuture<'static, ()> {
    async move {
        let policies = Policy::ALL.iter();
        join_all(policies.map(|&policy| keep_asking(&app, policy))).await;
    }
    .boxed()
}

async fn keep_asking(app: &App, policy: Policy) {
    let mut data = app.data.subscribe();
    let mut catalogue = app.catalogue.subscribe();
    let mut epoch = app.epoch.subscribe();
    let mut backoff = Backoff::default();
    loop {
        // Seen before anything is read: a change meanwhile wakes this at once.
        data.mark_unchanged();
        catalogue.mark_unchanged();
        epoch.mark_unchanged();
        let wake = match app.ask_what_is_due(policy, &data, &mut backoff).await {
            Ok(wake) => {
                app.waits_for(policy, String::new());
                backoff.reset();
                wake
            }
            Err(error) if error.code == ErrorCode::QuotaExhausted => {
                app.waits_for(policy, "the quota of the day".into());
                // Nothing is asked first while nothing may be asked.
                app.wait_for_quota(&error).await;
                continue;
            }
            Err(error) if is_passing(&error) || is_lost(error.code) => {
                tracing::info!(%error, %policy, "probing interrupted");
                app.waits_for(policy, format!("the broker ({})", error.code));
                tokio::time::sleep(backoff.pause(&mut os_rng())).await;
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, %policy, "not probed; trying again later");
                app.waits_for(policy, error.to_string());
                Some(app.clock.now().plus(RETRY))
            }
        };
        tokio::select! {
            () = app.sleep_until(wake) => {}
            _ = data.changed() => {}
            _ = catalogue.changed() => {}
            _ = epoch.changed() => {}
        }
    }
}

impl App {
    fn waits_for(&self, policy: Policy, what: String) {
        self.probing().insert(policy, what);
    }

    /// What each policy's prober waits for; empty = nothing.
    pub(crate) fn probing(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.probing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks everything of a policy that is to be asked now, first things first; tells when to look
    /// again.
    async fn ask_what_is_due(
        &self,
        policy: Policy,
        data: &watch::Receiver<()>,
        backoff: &mut Backoff,
    ) -> Result<Option<Timestamp>> {
        loop {
            let Some((epoch, holders)) = self.asked_now(policy).await? else {
                return Ok(None);
            };
            let (next, wake) = self.next_session(policy, &epoch, &holders).await?;
            let Some((mut session, allowed)) = next else {
                return Ok(wake);
            };
            let mut service = Service {
                data: data.clone(),
                yields: session.kind != ProbeKind::New,
                allowed,
            };
            let flown = self.fly(&mut session, &epoch, &mut service, backoff).await;
            match flown {
                Ok(Flown::ToTheEnd) => self.store.finish_session(&session).await?,
                Ok(Flown::SoFar) if data.has_changed().unwrap_or(true) => {
                    // What is new is asked first; this session goes on after it.
                    return Ok(Some(self.clock.now()));
                }
                Ok(Flown::SoFar) => {}
                Err(error) => {
                    if is_lost(error.code) {
                        self.begin_anew(&session, &epoch).await?;
                    }
                    return Err(error);
                }
            }
        }
    }

    /// When the datasets of a policy are asked again, by the broker's quota as it was last told.
    fn pace(&self, policy: Policy, datasets: &[ProbedDataset]) -> Pace {
        let of_policy = datasets.iter().filter(|d| d.policy == policy);
        let refs = of_policy.map(|dataset| dataset.selectors).sum();
        let quota = self.quotas().get(&policy).copied();
        Pace::new(self.settings.prober.refresh_every.0, refs, quota)
    }

    fn quotas(&self) -> std::sync::MutexGuard<'_, BTreeMap<Policy, u64>> {
        self.quotas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the broker what may be asked in a day; what it told before stands if it does not answer.
    async fn look_at_quotas(&self) {
        let Ok(limits) = self.limits().await else {
            return;
        };
        let row = |limits: v1::PolicyLimits| Some((limits.policy.parse().ok()?, limits.daily_refs));
        *self.quotas() = limits.into_iter().filter_map(row).collect();
    }

    /// The epoch that is asked under, and who has what active of a policy; none while either is not
    /// known, or the policy is not the epoch's.
    async fn asked_now(&self, policy: Policy) -> Result<Option<(EpochKeys, Holders)>> {
        let Some(epoch) = *self.epoch.borrow() else {
            return Ok(None);
        };
        let holders = {
            let catalogue = self.catalogue.borrow();
            if !catalogue.complete {
                return Ok(None);
            }
            catalogue.holders(epoch, policy)
        };
        let keys = self.stored_keys(epoch).await?;
        if keys.manifest.policy(policy).is_err() {
            return Ok(None);
        }
        Ok(Some((keys, holders)))
    }

    /// The session to fly next, one that is under way or a new one, and until how many of its
    /// selectors were asked; and when there may be another.
    async fn next_session(
        &self,
        policy: Policy,
        epoch: &EpochKeys,
        holders: &Holders,
    ) -> Result<(Option<(ProbeSession, u64)>, Option<Timestamp>)> {
        let mut datasets = self.store.probed_datasets().await?;
        datasets.retain(|dataset| dataset.policy == policy);
        let mut subjects = Vec::new();
        for dataset in &datasets {
            let subject = self.subject(dataset).await?;
            let gone = subject.covers.iter().map(|cover| &cover.holder);
            let gone: Vec<_> = gone
                .filter(|h| !holders.contains_key(*h))
                .cloned()
                .collect();
            if !gone.is_empty() {
                // When they are back they are asked for everything.
                self.store.delete_covers(dataset.id, &gone).await?;
            }
            subjects.push(subject);
        }
        let mut open = self
            .open_sessions(epoch, policy, &datasets, &subjects)
            .await?;
        if !datasets.is_empty() {
            self.look_at_quotas().await;
        }
        let under_way: Vec<_> = open.iter().map(UnderWay::of).collect();
        let scene = Scene {
            subjects: &subjects,
            under_way: &under_way,
            holders,
            epoch: epoch.manifest.epoch,
            pace: self.pace(policy, &datasets),
            now: self.clock.now(),
        };
        let (next, wake) = plan::next(&scene);
        let next = match next {
            None => None,
            Some(Next::GoOn(which, allowed)) => Some((open.swap_remove(which), allowed)),
            Some(Next::Begin(which, question, allowed)) => {
                let session = self.begin(&datasets[which], epoch, question).await?;
                Some((session, allowed))
            }
        };
        Ok((next, wake))
    }

    async fn subject(&self, dataset: &ProbedDataset) -> Result<Subject> {
        Ok(Subject {
            dataset: dataset.id,
            selectors: dataset.selectors,
            last_selector: dataset.last_selector,
            covers: self.store.covers(dataset.id).await?,
        })
    }

    /// The service's own sessions of a policy that still make sense; the others are given up.
    async fn open_sessions(
        &self,
        epoch: &EpochKeys,
        policy: Policy,
        datasets: &[ProbedDataset],
        subjects: &[Subject],
    ) -> Result<Vec<ProbeSession>> {
        let mut open = Vec::new();
        for session in self.store.sessions().await? {
            if session.policy != policy || session.kind == ProbeKind::Asked {
                continue;
            }
            let still_asked = datasets.iter().zip(subjects).any(|(dataset, subject)| {
                dataset.id == session.dataset
                    && dataset.grounds == session.key.grounds
                    && !UnderWay::of(&session).is_overtaken(&subject.covers)
            });
            if still_asked && session.epoch == epoch.manifest.epoch {
                open.push(session);
                continue;
            }
            self.store.delete_session(session.id).await?;
            if let Ok(epoch) = self.stored_keys(session.epoch).await {
                self.abandon_session(&epoch, &opening(&session)).await;
            }
        }
        Ok(open)
    }

    /// Begins a session; it is durable before the broker hears of it.
    async fn begin(
        &self,
        dataset: &ProbedDataset,
        epoch: &EpochKeys,
        question: Question,
    ) -> Result<ProbeSession> {
        let now = self.clock.now();
        let (after, last) = (question.after, dataset.last_selector);
        let session = ProbeSession {
            id: SessionId::generate(now, &mut os_rng()),
            kind: question.kind,
            key: ProbeKey {
                dataset: dataset.name.clone(),
                grounds: dataset.grounds.clone(),
                targets: question.targets,
            },
            dataset: dataset.id,
            policy: dataset.policy,
            epoch: epoch.manifest.epoch,
            nonce: SessionNonce::generate(&mut os_rng()),
            first: after,
            last_selector: last,
            total: self.store.count_selectors(dataset.id, after, last).await?,
            layers: question.layers,
            padding: self.settings.prober.pad_batches_to,
            started_at: now,
            next_batch: 0,
            position: after,
            decoys: 0,
            probed: 0,
            matches: 0,
        };
        self.store.put_session(&session).await?;
        Ok(session)
    }

    /// How many refs of each dataset are to be asked now, and of whom that have changed.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn backlog(&self) -> Result<Vec<Backlog>> {
        let open = self.store.sessions().await?;
        let waiting = self.probing().clone();
        let mut backlog = Vec::new();
        let datasets = self.store.probed_datasets().await?;
        for dataset in datasets.clone() {
            let subject = self.subject(&dataset).await?;
            let mut row = Backlog {
                waiting_for: waiting.get(&dataset.policy).cloned().unwrap_or_default(),
                dataset,
                refs: 0,
                refresh_refs: 0,
                holders: Vec::new(),
                complete_at: None,
            };
            let dataset = &row.dataset;
            if let Some((epoch, holders)) = self.asked_now(dataset.policy).await? {
                let scene = Scene {
                    subjects: &[],
                    under_way: &[],
                    holders: &holders,
                    epoch: epoch.manifest.epoch,
                    pace: self.pace(dataset.policy, &datasets),
                    now: self.clock.now(),
                };
                for question in scene.questions(&subject) {
                    let of = |session: &&ProbeSession| {
                        session.dataset == dataset.id && session.kind == question.kind
                    };
                    let refs = if let Some(session) = open.iter().find(of) {
                        session.total.saturating_sub(session.probed)
                    } else {
                        let after = question.after;
                        let last = dataset.last_selector;
                        self.store.count_selectors(dataset.id, after, last).await?
                    };
                    if question.kind == ProbeKind::Refresh {
                        row.refresh_refs += refs;
                    } else {
                        row.refs += refs;
                    }
                    if question.kind == ProbeKind::Sweep {
                        row.holders = question.targets;
                    }
                }
                let covers = &subject.covers;
                let complete = covers.len() == holders.len() && row.holders.is_empty();
                row.complete_at = covers
                    .iter()
                    .map(|cover| cover.swept_at)
                    .min()
                    .filter(|_| complete);
            } else if row.waiting_for.is_empty() {
                row.waiting_for = "the broker, or an active epoch".into();
            }
            backlog.push(row);
        }
        Ok(backlog)
    }
}

/// What is to be asked of one dataset.
#[derive(Clone, Debug)]
pub(crate) struct Backlog {
    /// The dataset.
    pub(crate) dataset: ProbedDataset,
    /// Record refs to be asked as soon as possible.
    pub(crate) refs: u64,
    /// Record refs to be asked again though nothing has changed.
    pub(crate) refresh_refs: u64,
    /// Holders that have changed.
    pub(crate) holders: Vec<NodeId>,
    /// What it waits for, if it waits.
    pub(crate) waiting_for: String,
    /// When everything was last asked of every holder.
    pub(crate) complete_at: Option<Timestamp>,
}
