//! The broker's catalogue: who has published what, as far as this node may be tested against it
//! (protocol §5.4).

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sotto_common::error::{Error, Result};
use sotto_common::ids::{Epoch, NodeId};
use sotto_common::membership::MAX_MEMBERS;
use sotto_common::random::os_rng;
use sotto_common::selector::Policy;
use sotto_proto::convert::{epoch, policy, text};
use sotto_proto::v1;

use super::App;
use crate::broker::{Backoff, refusal};

/// Names a set of layers: another set has another name.
pub(crate) type Layers = [u8; 16];

/// The holders of one policy in one epoch, and what they have active.
pub(crate) type Holders = BTreeMap<NodeId, Layers>;

/// Most entries that a broker is believed: every member, in every policy, in two epochs.
const MOST_ENTRIES: usize = 2 * MAX_MEMBERS * Policy::ALL.len();

/// The catalogue as the broker told it last.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Catalogue {
    entries: BTreeMap<(Epoch, Policy, NodeId), Layers>,
    /// False until the broker has told all of it, and while it is out of reach.
    pub(crate) complete: bool,
}

impl Catalogue {
    /// The holders of a policy in an epoch.
    pub(crate) fn holders(&self, epoch: Epoch, policy: Policy) -> Holders {
        let of = self.entries.iter();
        of.filter(|((e, p, _), _)| (*e, *p) == (epoch, policy))
            .map(|((_, _, holder), layers)| (holder.clone(), *layers))
            .collect()
    }

    /// The latest epoch that somebody has published under.
    pub(crate) fn latest_epoch(&self) -> Option<Epoch> {
        self.entries.keys().map(|(epoch, ..)| *epoch).max()
    }

    /// Takes over a message of the broker.
    fn take(&mut self, message: v1::WatchCatalogueResponse) -> Result<()> {
        for entry in message.entries {
            let key = (
                epoch(entry.epoch)?,
                policy(&entry.policy)?,
                text("holder", &entry.holder)?,
            );
            if entry.layers.is_empty() {
                self.entries.remove(&key);
                continue;
            }
            let layers = Layers::try_from(&entry.layers[..])
                .map_err(|_| Error::field("layers", "16 bytes, or none"))?;
            self.entries.insert(key, layers);
        }
        if self.entries.len() > MOST_ENTRIES {
            return Err(Error::field("entries", "more than there can be"));
        }
        self.complete |= message.complete;
        Ok(())
    }
}

/// Follows the catalogue for as long as the node runs.
pub(crate) fn keep_watching(app: Arc<App>) -> BoxFuture<'static, ()> {
    async move {
        let mut backoff = Backoff::default();
        let mut told = None;
        loop {
            match app.watch_catalogue(&mut backoff).await {
                // An orderly end: the hour of the connection, or the broker restarts.
                Ok(()) => told = None,
                Err(error) => {
                    if told != Some(error.code) {
                        tracing::info!(%error, "the catalogue is not followed at the moment");
                    }
                    told = Some(error.code);
                }
            }
            app.catalogue.send_if_modified(|now| {
                let was = now.complete;
                now.complete = false;
                was
            });
            tokio::time::sleep(backoff.pause(&mut os_rng())).await;
        }
    }
    .boxed()
}

impl App {
    async fn watch_catalogue(&self, backoff: &mut Backoff) -> Result<()> {
        let request = v1::WatchCatalogueRequest {
            community: self.community.to_string(),
        };
        let mut client = self.broker.publications();
        let answer = client.watch_catalogue(request).await;
        let mut messages = answer.map_err(|status| refusal(&status))?.into_inner();
        self.online.send_modify(|connections| *connections += 1);
        let mut now = Catalogue::default();
        while let Some(message) = messages.message().await.map_err(|s| refusal(&s))? {
            now.take(message)?;
            backoff.reset();
            if now.complete {
                self.catalogue.send_if_modified(|last| {
                    let changed = *last != now;
                    if changed {
                        last.clone_from(&now);
                    }
                    changed
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(holder: &str, layers: &[u8]) -> v1::CatalogueEntry {
        v1::CatalogueEntry {
            epoch: 1,
            policy: "phone/1".into(),
            holder: holder.into(),
            layers: layers.to_vec().into(),
        }
    }

    fn message(entries: Vec<v1::CatalogueEntry>, complete: bool) -> v1::WatchCatalogueResponse {
        v1::WatchCatalogueResponse { entries, complete }
    }

    #[test]
    fn later_entries_take_the_place_of_earlier_ones() {
        let mut catalogue = Catalogue::default();
        let (nl, de) = (entry("nl-fiu", &[1; 16]), entry("de-bka", &[2; 16]));
        catalogue.take(message(vec![nl, de], false)).expect("taken");
        assert!(!catalogue.complete);
        let ends = message(vec![entry("nl-fiu", &[3; 16])], true);
        catalogue.take(ends).expect("taken");
        let gone = message(vec![entry("de-bka", &[])], false);
        catalogue.take(gone).expect("taken");
        assert!(catalogue.complete);
        let epoch = Epoch::new(1).expect("an epoch");
        let holders = catalogue.holders(epoch, Policy::Phone);
        assert_eq!(
            holders,
            Holders::from([("nl-fiu".parse().expect("a node"), [3; 16])])
        );
        assert!(catalogue.holders(epoch, Policy::Email).is_empty());
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        for bad in [
            entry("NL", &[1; 16]),
            entry("nl-fiu", &[1; 15]),
            v1::CatalogueEntry {
                epoch: 0,
                ..entry("nl-fiu", &[1; 16])
            },
            v1::CatalogueEntry {
                policy: "phone/9".into(),
                ..entry("nl-fiu", &[1; 16])
            },
        ] {
            assert!(Catalogue::default().take(message(vec![bad], true)).is_err());
        }
    }
}
