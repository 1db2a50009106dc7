//! What to ask next of the datasets of one policy that are probed by themselves, as a function of
//! what was asked, of what is under way, and of what the holders have active.
//!
//! Datasets share one quota. Of what is equally urgent, the dataset goes first that was not served
//! for longest, so that none waits for ever behind one that always has something; what is asked
//! again though nothing has changed goes on in all datasets side by side.

use std::collections::BTreeMap;
use std::time::Duration;

use sotto_common::ids::{Epoch, NodeId};
use sotto_common::time::{CLOCK_SKEW, Timestamp};

use crate::app::catalogue::{Holders, Layers};
use crate::store::{Cover, ProbeKind, ProbeSession, SelectorId};

/// Parts of a refresh.
const PARTS: u32 = 24;

/// What is asked, and of whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Question {
    /// Why; the first are asked first.
    pub(crate) kind: ProbeKind,
    /// The selector after which it begins.
    pub(crate) after: SelectorId,
    /// Whom, in the order of their ids.
    pub(crate) targets: Vec<NodeId>,
    /// For a sweep or a refresh: what they have active now.
    pub(crate) layers: BTreeMap<NodeId, Layers>,
}

/// A dataset, as far as the plan goes by it.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// Its row.
    pub(crate) dataset: i64,
    /// Its selectors.
    pub(crate) selectors: u64,
    /// The last of them.
    pub(crate) last_selector: SelectorId,
    /// How far each holder was asked.
    pub(crate) covers: Vec<Cover>,
}

/// A session that is under way.
#[derive(Clone, Debug)]
pub(crate) struct UnderWay {
    kind: ProbeKind,
    dataset: i64,
    targets: Vec<NodeId>,
    started_at: Timestamp,
    total: u64,
    probed: u64,
}

impl UnderWay {
    /// What the plan goes by of a session.
    pub(crate) fn of(session: &ProbeSession) -> Self {
        Self {
            kind: session.kind,
            dataset: session.dataset,
            targets: session.key.targets.clone(),
            started_at: session.started_at,
            total: session.total,
            probed: session.probed,
        }
    }

    /// Whether its holders were all asked for everything since it began: a sweep has taken them
    /// along.
    pub(crate) fn is_overtaken(&self, covers: &[Cover]) -> bool {
        let since = |target: &NodeId| {
            let mut of = covers.iter().filter(|cover| cover.holder == *target);
            of.any(|cover| !cover.is_begun_only() && cover.swept_at > self.started_at)
        };
        self.kind == ProbeKind::Refresh && self.targets.iter().all(since)
    }
}

/// When what has not changed is asked again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pace {
    /// So long after it was asked.
    pub(crate) begins_after: Duration,
    /// Spread over this time.
    pub(crate) spread: Duration,
}

impl Pace {
    /// Everything within `every`, with a twentieth of it to spare: spread over its last fifth, or
    /// over more of it if the quota of a day is small beside the refs of all datasets together.
    pub(crate) fn new(every: Duration, refs: u64, daily_quota: Option<u64>) -> Self {
        const DAY: Duration = Duration::from_hours(24);
        let needed = daily_quota.map_or(Duration::ZERO, |quota| {
            // A quarter more: new selectors and changed holders want something of each day too.
            let days = refs
                .saturating_mul(5)
                .div_ceil(quota.max(1).saturating_mul(4));
            DAY.saturating_mul(u32::try_from(days).unwrap_or(u32::MAX))
        });
        let spread = needed.max(every / 5).min(every * 9 / 10);
        Self {
            begins_after: (every * 19 / 20).saturating_sub(spread),
            spread,
        }
    }
}

/// What is done next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// The session of this index goes on, until so many of its selectors were asked.
    GoOn(usize, u64),
    /// A session of this dataset is begun, and goes on until so many were asked.
    Begin(usize, Question, u64),
}

/// What is known of a policy.
pub(crate) struct Scene<'a> {
    pub(crate) subjects: &'a [Subject],
    pub(crate) under_way: &'a [UnderWay],
    pub(crate) holders: &'a Holders,
    pub(crate) epoch: Epoch,
    pub(crate) pace: Pace,
    pub(crate) now: Timestamp,
}

/// Least is asked first: its kind; what is under way before another of its kind; how long it has
/// waited; how far it is, in thousandths.
type Rank = (ProbeKind, bool, i64, u64);

/// What is asked next, and when to look again if it is nothing, or when it is done.
pub(crate) fn next(scene: &Scene<'_>) -> (Option<Next>, Option<Timestamp>) {
    let mut plan = Plan::default();
    scene.go_on(&mut plan);
    scene.begin(&mut plan);
    (plan.first.map(|(_, next)| next), plan.wake)
}

/// The most urgent so far.
#[derive(Default)]
struct Plan {
    first: Option<(Rank, Next)>,
    wake: Option<Timestamp>,
}

impl Plan {
    fn offer(&mut self, rank: Rank, next: Next) {
        if self.first.as_ref().is_none_or(|(best, _)| rank < *best) {
            self.first = Some((rank, next));
        }
    }

    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

impl Scene<'_> {
    /// Offers what is under way.
    fn go_on(&self, plan: &mut Plan) {
        for (i, session) in self.under_way.iter().enumerate() {
            let kind = session.kind;
            if kind != ProbeKind::Refresh {
                let rank = (kind, false, session.started_at.micros(), 0);
                plan.offer(rank, Next::GoOn(i, u64::MAX));
                continue;
            }
            let of = |subject: &&Subject| subject.dataset == session.dataset;
            let covers = self.subjects.iter().find(of).map(|s| &s.covers[..]);
            let due = self.due(
                covers.unwrap_or_default(),
                &session.targets,
                session.started_at,
            );
            let (allowed, more_at) = allowance(session.total, due, self.now, self.pace.spread);
            if session.probed < allowed {
                let part = session.probed.saturating_mul(1000) / session.total.max(1);
                // Not before others that are not begun: they go on side by side.
                plan.offer((kind, true, due.micros(), part), Next::GoOn(i, allowed));
            } else {
                plan.wake_at(more_at);
            }
        }
    }

    /// Offers what could be begun.
    fn begin(&self, plan: &mut Plan) {
        for (i, subject) in self.subjects.iter().enumerate() {
            let is_under_way = |kind| {
                let mut of = self.under_way.iter();
                of.any(|session| session.dataset == subject.dataset && session.kind == kind)
            };
            if let Some(at) = self.next_refresh(subject)
                && !is_under_way(ProbeKind::Refresh)
            {
                plan.wake_at(at);
            }
            let questions = self.questions(subject).into_iter();
            for question in questions.filter(|question| !is_under_way(question.kind)) {
                let kind = question.kind;
                let (waits_since, allowed) = match kind {
                    // Ids of selectors count up over all datasets: the oldest that was not asked.
                    ProbeKind::New => (question.after, u64::MAX),
                    ProbeKind::Refresh => {
                        let due = self.due(&subject.covers, &question.targets, self.now);
                        let spread = self.pace.spread;
                        let (allowed, _) = allowance(subject.selectors, due, self.now, spread);
                        (due.micros(), allowed)
                    }
                    ProbeKind::Asked | ProbeKind::Sweep => (self.served_at(subject), u64::MAX),
                };
                let rank = (kind, true, waits_since, 0);
                plan.offer(rank, Next::Begin(i, question, allowed));
            }
        }
    }

    /// What is to be asked of a dataset now, first things first.
    pub(crate) fn questions(&self, subject: &Subject) -> Vec<Question> {
        let (last, holders) = (subject.last_selector, self.holders);
        let covered: Vec<_> = self.covered(subject).collect();
        let is_new = |cover: &&&Cover| cover.last_selector < last;
        let behind: Vec<_> = covered.iter().filter(is_new).collect();
        let mut questions = Vec::new();
        if let Some(after) = behind.iter().map(|cover| cover.last_selector).min() {
            questions.push(Question {
                kind: ProbeKind::New,
                after,
                targets: behind.iter().map(|cover| cover.holder.clone()).collect(),
                layers: BTreeMap::new(),
            });
        }
        let as_asked = |holder: &NodeId, layers: &Layers| {
            let cover = covered.iter().find(|cover| cover.holder == *holder);
            cover.filter(|cover| cover.layers == *layers).copied()
        };
        let changed = |(holder, layers): &(&NodeId, &Layers)| as_asked(holder, layers).is_none();
        let is_old = |(holder, layers): &(&NodeId, &Layers)| {
            as_asked(holder, layers).is_some_and(|cover| {
                let due = cover.swept_at.plus(self.pace.begins_after);
                due <= self.now || self.is_ahead(cover)
            })
        };
        let copied = |(holder, layers): (&NodeId, &Layers)| (holder.clone(), *layers);
        let changed: BTreeMap<_, _> = holders.iter().filter(changed).map(copied).collect();
        let old: BTreeMap<_, _> = holders.iter().filter(is_old).map(copied).collect();
        let (kind, layers) = if changed.is_empty() {
            (ProbeKind::Refresh, old)
        } else {
            // A ref counts once against the quota, of however many it is asked: who is due to be
            // asked again is taken along, and never waits behind those who change every day.
            (ProbeKind::Sweep, changed.into_iter().chain(old).collect())
        };
        if !layers.is_empty() {
            questions.push(Question {
                kind,
                after: 0,
                targets: layers.keys().cloned().collect(),
                layers,
            });
        }
        questions
    }

    fn covered<'a>(&'a self, subject: &'a Subject) -> impl Iterator<Item = &'a Cover> {
        let known =
            |cover: &&Cover| cover.epoch == self.epoch && self.holders.contains_key(&cover.holder);
        subject.covers.iter().filter(known)
    }

    /// In the future: noted by a clock that was ahead, and set back since.
    fn is_ahead(&self, cover: &Cover) -> bool {
        cover.swept_at > self.now.plus(CLOCK_SKEW)
    }

    /// When the next holder is due that was not asked for long.
    fn next_refresh(&self, subject: &Subject) -> Option<Timestamp> {
        let whole = self.covered(subject).filter(|cover| !cover.is_begun_only());
        whole
            .map(|cover| cover.swept_at.plus(self.pace.begins_after))
            .min()
    }

    /// When a dataset was last begun to be asked for everything; long ago if it never was.
    fn served_at(&self, subject: &Subject) -> i64 {
        let begun = subject.covers.iter().filter(|cover| !self.is_ahead(cover));
        let begun = begun.map(|cover| cover.swept_at.micros()).max();
        begun.unwrap_or(i64::MIN)
    }

    /// Since when these holders are due, at the latest `by`.
    fn due(&self, covers: &[Cover], targets: &[NodeId], by: Timestamp) -> Timestamp {
        let asked = covers.iter().filter(|cover| {
            cover.epoch == self.epoch && targets.contains(&cover.holder) && !self.is_ahead(cover)
        });
        let due = asked.map(|cover| cover.swept_at.plus(self.pace.begins_after));
        due.min().map_or(by, |due| due.min(by))
    }
}

/// How many of `total` selectors of a refresh may have been asked by now, and when it may go on:
/// its parts are spread evenly over `spread`. Without a bound once all of it may have been asked.
fn allowance(total: u64, due: Timestamp, now: Timestamp, spread: Duration) -> (u64, Timestamp) {
    let part = (spread / PARTS).max(Duration::from_secs(1));
    let begun = now.since(due).as_micros() / part.as_micros() + 1;
    let begun = u32::try_from(begun).unwrap_or(PARTS).min(PARTS);
    let allowed = if begun == PARTS || total == 0 {
        u64::MAX
    } else {
        total.saturating_mul(begun.into()).div_ceil(PARTS.into())
    };
    (allowed, due.plus(part * begun))
}

#[cfg(test)]
mod tests;
