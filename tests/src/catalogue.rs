//! Whom a node can probe, as the broker tells it.

use std::collections::BTreeMap;

use futures::FutureExt as _;
use sotto_proto::v1;
use tonic::{Status, Streaming};

use crate::sandbox::NEVER;
use crate::{COMMUNITY, TestNode};

/// Epoch, policy and holder.
pub type Stack = (u32, String, String);

/// An open catalogue, and what has been told so far.
#[derive(Debug)]
pub struct Catalogue {
    stream: Streaming<v1::WatchCatalogueResponse>,
    /// The layers of every stack that can be probed.
    pub stacks: BTreeMap<Stack, Vec<u8>>,
    /// Whether it was told as it stood at the beginning.
    pub complete: bool,
}

impl Catalogue {
    /// Takes the next message in; returns it.
    ///
    /// # Errors
    /// The status that ends the stream.
    pub async fn next(&mut self) -> Result<v1::WatchCatalogueResponse, Status> {
        let message = tokio::time::timeout(NEVER, self.stream.message()).await;
        let message = message.expect("in time")?;
        // A stream that ends without a status was cut.
        let message = message.ok_or_else(|| Status::unavailable("the stream has ended"))?;
        self.take_in(&message);
        Ok(message)
    }

    /// Takes the next message in if there is one already; whether there was.
    ///
    /// # Errors
    /// The status that ends the stream.
    pub fn has_next(&mut self) -> Result<bool, Status> {
        let Some(message) = self.stream.message().now_or_never() else {
            return Ok(false);
        };
        let message = message?.ok_or_else(|| Status::unavailable("the stream has ended"))?;
        self.take_in(&message);
        Ok(true)
    }

    fn take_in(&mut self, message: &v1::WatchCatalogueResponse) {
        assert!(message.complete || !self.complete, "once complete, always");
        self.complete = message.complete;
        for entry in &message.entries {
            let stack = (entry.epoch, entry.policy.clone(), entry.holder.clone());
            if entry.layers.is_empty() {
                let told = self.stacks.remove(&stack);
                assert!(told.is_some(), "gone, and never told: {stack:?}");
            } else {
                assert_eq!(entry.layers.len(), 16);
                self.stacks.insert(stack, entry.layers.to_vec());
            }
        }
    }

    /// Holder and policy of every stack in an epoch.
    pub fn holders(&self, epoch: u32) -> Vec<(&str, &str)> {
        let stacks = self.stacks.keys().filter(|(of, ..)| *of == epoch);
        let mut holders: Vec<_> = stacks
            .map(|(_, policy, holder)| (holder.as_str(), policy.as_str()))
            .collect();
        holders.sort_unstable();
        holders
    }
}

impl TestNode {
    /// Its catalogue, as it stands and then as it changes.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn watch_catalogue(&self) -> Result<Catalogue, Status> {
        let request = v1::WatchCatalogueRequest {
            community: COMMUNITY.into(),
        };
        let response = self.publications().watch_catalogue(request).await?;
        Ok(Catalogue {
            stream: response.into_inner(),
            stacks: BTreeMap::new(),
            complete: false,
        })
    }

    /// Its catalogue, told as it stands.
    pub async fn catalogue(&self) -> Catalogue {
        let mut catalogue = self.watch_catalogue().await.expect("open");
        while !catalogue.complete {
            catalogue.next().await.expect("told");
        }
        catalogue
    }
}
