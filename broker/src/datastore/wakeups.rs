//! Wake-ups: something was committed that somebody waits for. A hint to look at the ledger, never
//! news by itself; one that is lost costs the wait until the next look.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

/// What was committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Signal {
    /// Events of hit streams, or what ends a stream.
    Hits,
    /// A generation of filters, a broker that has caught up with one, or what ends a catalogue.
    Filters,
    /// Events of follow-ups.
    FollowUps,
    /// A checkpoint of the audit log, or a cosignature of one.
    Checkpoints,
}

impl Signal {
    pub(crate) const ALL: [Self; 4] = [
        Self::Hits,
        Self::Filters,
        Self::FollowUps,
        Self::Checkpoints,
    ];
}

/// The wake-ups of this process; on a shared ledger those of the other brokers come in here too.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wakeups {
    hits: Arc<Channel>,
    filters: Arc<Channel>,
    follow_ups: Arc<Channel>,
    checkpoints: Arc<Channel>,
}

#[derive(Debug, Default)]
struct Channel {
    heard: watch::Sender<()>,
    /// What the other brokers are still to be told. Kept until it is taken: many become one.
    to_tell: Notify,
}

impl Wakeups {
    fn channel(&self, signal: Signal) -> &Channel {
        match signal {
            Signal::Hits => &self.hits,
            Signal::Filters => &self.filters,
            Signal::FollowUps => &self.follow_ups,
            Signal::Checkpoints => &self.checkpoints,
        }
    }

    /// After a commit: wakes who waits here, and at the other brokers.
    pub(crate) fn announce(&self, signal: Signal) {
        self.hear(signal);
        self.channel(signal).to_tell.notify_one();
    }

    /// Wakes who waits here.
    pub(crate) fn hear(&self, signal: Signal) {
        self.channel(signal).heard.send_replace(());
    }

    /// Changes with every wake-up.
    pub(crate) fn listen(&self, signal: Signal) -> watch::Receiver<()> {
        self.channel(signal).heard.subscribe()
    }

    /// Waits until the other brokers are to be told.
    pub(crate) async fn announced(&self, signal: Signal) {
        self.channel(signal).to_tell.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn what_is_announced_wakes_here_and_is_told_once_however_often() {
        let wakeups = Wakeups::default();
        let (mut hits, filters) = (
            wakeups.listen(Signal::Hits),
            wakeups.listen(Signal::Filters),
        );
        assert!(wakeups.announced(Signal::Hits).now_or_never().is_none());
        for _ in 0..3 {
            wakeups.announce(Signal::Hits);
        }
        hits.changed().await.expect("open");
        assert!(!filters.has_changed().expect("open"));
        assert!(wakeups.announced(Signal::Hits).now_or_never().is_some());
        assert!(wakeups.announced(Signal::Hits).now_or_never().is_none());
        wakeups.hear(Signal::Hits);
        assert!(hits.has_changed().expect("open"));
        assert!(wakeups.announced(Signal::Hits).now_or_never().is_none());
    }
}
