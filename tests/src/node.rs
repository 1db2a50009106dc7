//! A node as the protocol sees it: keys, epochs, publications, probes, hits. No daemon, no store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use sotto_common::dsse::SigningKey;
use sotto_common::epoch::{Gms, KeySchedule};
use sotto_common::ids::{CommunityId, Epoch, NodeId, RecordRef, Role};
use sotto_common::membership::{
    KemKey, KeyConfirmation, KeyStatement, Manifest, ManifestPolicy, MemberKeys, Profile,
};
use sotto_common::random::os_rng;
use sotto_common::sealed::{HpkeKeyPair, HpkePublicKey, SealInfo, Sealed, Suite};
use sotto_common::secret::{Secret, Selector, Tag};
use sotto_common::selector::Policy;
use sotto_common::selector::{canonical_canaries, forms};
use sotto_common::tag::RecordRefKey;
use sotto_common::time::{Clock, Timestamp};
use sotto_proto::{convert, v1};
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use v1::hit_service_client::HitServiceClient;
use v1::log_service_client::LogServiceClient;
use v1::membership_service_client::MembershipServiceClient;
use v1::probe_service_client::ProbeServiceClient;
use v1::publication_service_client::PublicationServiceClient;

use crate::{COMMUNITY, Lab};

/// How long the epochs of tests last: short of the 31 days that are allowed.
const EPOCH_LASTS: Duration = Duration::from_hours(30 * 24);

/// What a node knows of an epoch whose envelope it has opened.
#[derive(Debug)]
pub struct EpochKeys {
    /// What the custodian signed.
    pub manifest: Manifest,
    /// H of the signed body.
    pub digest: [u8; 32],
    /// The keys.
    pub schedule: KeySchedule,
}

/// A node with keys of its own, and a channel with a certificate of its own.
pub struct TestNode {
    id: NodeId,
    channel: Channel,
    clock: Arc<dyn Clock>,
    own: Arc<OwnKeys>,
    epochs: Arc<Mutex<BTreeMap<Epoch, Arc<EpochKeys>>>>,
}

/// The secrets that a node has drawn.
struct OwnKeys {
    signing: SigningKey,
    cosigning: SigningKey,
    hpke: HpkeKeyPair,
    refs: RecordRefKey,
}

impl TestNode {
    /// A node of this name with new keys and a new certificate.
    pub fn new(lab: &Lab, name: &str, url: &str, clock: Arc<dyn Clock>) -> Self {
        let rng = &mut os_rng();
        Self {
            id: name.parse().expect("a node id"),
            channel: lab.channel(Role::Node, name, url),
            clock,
            own: Arc::new(OwnKeys {
                signing: SigningKey::generate(rng),
                cosigning: SigningKey::generate(rng),
                hpke: HpkeKeyPair::generate(rng),
                refs: RecordRefKey::generate(rng),
            }),
            epochs: Arc::default(),
        }
    }

    /// The same node, on a channel of its own to the broker at `url`.
    #[must_use]
    pub fn towards(&self, lab: &Lab, url: &str) -> Self {
        Self {
            id: self.id.clone(),
            channel: lab.channel(Role::Node, self.id.as_str(), url),
            clock: Arc::clone(&self.clock),
            own: Arc::clone(&self.own),
            epochs: Arc::clone(&self.epochs),
        }
    }

    /// Its id.
    pub const fn id(&self) -> &NodeId {
        &self.id
    }

    /// Its channel, for services that only some tests call.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Its key pair that others seal to.
    pub fn hpke(&self) -> &HpkeKeyPair {
        &self.own.hpke
    }

    /// Its key for statements.
    pub fn signing_key(&self) -> &SigningKey {
        &self.own.signing
    }

    /// Its key for cosignatures.
    pub fn cosigning_key(&self) -> &SigningKey {
        &self.own.cosigning
    }

    /// What its clock shows.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Its client of the membership service.
    pub fn membership(&self) -> MembershipServiceClient<Channel> {
        MembershipServiceClient::new(self.channel.clone())
    }

    /// Its client of the publication service; it sends what is too large too.
    pub fn publications(&self) -> PublicationServiceClient<Channel> {
        PublicationServiceClient::new(self.channel.clone()).max_encoding_message_size(usize::MAX)
    }

    /// Its client of the probe service; it sends what is too large too.
    pub fn probes(&self) -> ProbeServiceClient<Channel> {
        ProbeServiceClient::new(self.channel.clone()).max_encoding_message_size(usize::MAX)
    }

    /// Its client of the hit service.
    pub fn hit_service(&self) -> HitServiceClient<Channel> {
        HitServiceClient::new(self.channel.clone())
    }

    /// Its client of the log service.
    pub fn log(&self) -> LogServiceClient<Channel> {
        LogServiceClient::new(self.channel.clone())
    }

    /// Its public keys, as in its statement and in its row of a manifest.
    pub fn member_keys(&self) -> MemberKeys {
        MemberKeys {
            node: self.id.clone(),
            signing: self.own.signing.verifying_key(),
            cosigning: self.own.cosigning.verifying_key(),
            hpke: vec![KemKey {
                kem: self.own.hpke.public().suite().ids().0,
                key: self.own.hpke.public().to_bytes(),
            }],
        }
    }

    /// Hands in its key statement (protocol §8).
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn submit_keys(&self) -> Result<(), Status> {
        let statement = KeyStatement {
            keys: self.member_keys(),
            community: community(),
            valid_from: epoch(1),
        };
        let request = v1::SubmitKeyStatementRequest {
            community: COMMUNITY.into(),
            statement: Some(convert::sign(statement, &self.own.signing)),
        };
        self.membership()
            .submit_key_statement(request)
            .await
            .map(drop)
    }

    /// As custodian: a new secret and the manifest of an epoch that begins now.
    pub fn plan_epoch(
        &self,
        number: u32,
        profile: &Profile,
        members: &[MemberKeys],
    ) -> (Gms, Manifest) {
        let gms = Gms::generate(&mut os_rng());
        let schedule = KeySchedule::derive(&gms, &community(), epoch(number));
        let row = |policy: Policy| ManifestPolicy {
            policy,
            canary_tags: canary_tags(&schedule, policy),
            forms: forms(policy),
        };
        let now = self.now();
        let manifest = Manifest {
            community: community(),
            epoch: epoch(number),
            custodian: self.id.clone(),
            members: members.to_vec(),
            key_commitment: schedule.key_commitment(),
            policies: profile.policies().iter().map(|p| row(p.policy)).collect(),
            profile: profile.clone(),
            not_before: now,
            not_after: now.plus(EPOCH_LASTS),
        };
        (gms, manifest)
    }

    /// As custodian: the signed manifest, and the secret sealed to each of its members.
    pub fn seal_epoch(&self, gms: &Gms, manifest: &Manifest) -> v1::OpenEpochRequest {
        let signed = convert::sign(manifest.clone(), &self.own.signing);
        let aad = Sha256::digest(&signed.payload);
        let seal = |member: &MemberKeys| {
            let suite = Suite::X25519Sha256ChaCha20Poly1305;
            let key = HpkePublicKey::from_slice(suite, &member.hpke[0].key).expect("a key");
            let info = SealInfo::epoch_key(&manifest.community, manifest.epoch, &member.node);
            let sealed = key.seal(&info, &aad, gms.secret().expose(), &mut os_rng());
            v1::SealedEpochKey::new(&member.node, sealed.expect("sealed"))
        };
        v1::OpenEpochRequest {
            community: COMMUNITY.into(),
            envelopes: manifest.members.iter().map(seal).collect(),
            manifest: Some(signed),
        }
    }

    /// As custodian: opens an epoch for these nodes.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn open_epoch(
        &self,
        number: u32,
        profile: &Profile,
        members: &[&Self],
    ) -> Result<(), Status> {
        let rows: Vec<_> = members.iter().map(|node| node.member_keys()).collect();
        let (gms, manifest) = self.plan_epoch(number, profile, &rows);
        let request = self.seal_epoch(&gms, &manifest);
        self.membership().open_epoch(request).await.map(drop)
    }

    /// Fetches an epoch, opens its own envelope and checks the key (protocol §3, §8).
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn fetch(&self, number: u32) -> Result<Arc<EpochKeys>, Status> {
        let request = v1::GetEpochRequest {
            community: COMMUNITY.into(),
            epoch: number,
        };
        let response = self.membership().get_epoch(request).await?.into_inner();
        let signed = response.manifest.expect("a manifest");
        let manifest: Manifest = convert::read_unverified(&signed).expect("a manifest");
        let envelope = response.envelope.expect("an envelope");
        let sealed = Sealed::try_from(&envelope).expect("a sealed key");
        let digest: [u8; 32] = Sha256::digest(&signed.payload).into();
        let info = SealInfo::epoch_key(&manifest.community, manifest.epoch, &self.id);
        let opened = self.own.hpke.open(&sealed, &info, &digest).expect("mine");
        let gms = Gms::from_secret(Secret::from_slice(&opened).expect("32 bytes"));
        let schedule = KeySchedule::derive(&gms, &manifest.community, manifest.epoch);
        assert!(schedule.matches(&manifest.key_commitment));
        let keys = Arc::new(EpochKeys {
            manifest,
            digest,
            schedule,
        });
        let mut epochs = self.epochs.lock().expect("not poisoned");
        epochs.insert(keys.manifest.epoch, Arc::clone(&keys));
        Ok(keys)
    }

    /// What it would confirm of an epoch that it has fetched.
    pub fn confirmation(&self, number: u32) -> KeyConfirmation {
        let keys = self.keys(number);
        KeyConfirmation {
            community: community(),
            epoch: keys.manifest.epoch,
            node: self.id.clone(),
            kid: keys.schedule.kid(),
            manifest_digest: keys.digest,
        }
    }

    /// Sends a confirmation; returns where the epoch stands then.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn confirm(&self, confirmation: KeyConfirmation) -> Result<v1::EpochState, Status> {
        let request = v1::ConfirmEpochRequest {
            community: COMMUNITY.into(),
            confirmation: Some(convert::sign(confirmation, &self.own.signing)),
        };
        let response = self.membership().confirm_epoch(request).await?;
        Ok(response.into_inner().state())
    }

    /// Fetches an epoch and confirms its key; returns where the epoch stands then.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn join_epoch(&self, number: u32) -> Result<v1::EpochState, Status> {
        self.fetch(number).await?;
        self.confirm(self.confirmation(number)).await
    }

    /// As custodian: ends an epoch.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn end_epoch(&self, number: u32) -> Result<(), Status> {
        let request = v1::EndEpochRequest {
            community: COMMUNITY.into(),
            epoch: number,
        };
        self.membership().end_epoch(request).await.map(drop)
    }

    /// As custodian: activates an epoch with the confirmations that are there.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn close_confirmations(&self, number: u32) -> Result<(), Status> {
        let request = v1::CloseConfirmationsRequest {
            community: COMMUNITY.into(),
            epoch: number,
        };
        self.membership()
            .close_confirmations(request)
            .await
            .map(drop)
    }

    /// Its limits in every policy of the profile.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn limits(&self) -> Result<Vec<v1::PolicyLimits>, Status> {
        let request = v1::GetLimitsRequest {
            community: COMMUNITY.into(),
            node_id: String::new(),
        };
        let response = self.membership().get_limits(request).await?;
        Ok(response.into_inner().limits)
    }

    /// The keys of an epoch that it has fetched.
    pub fn keys(&self, number: u32) -> Arc<EpochKeys> {
        let epochs = self.epochs.lock().expect("not poisoned");
        Arc::clone(
            epochs
                .get(&epoch(number))
                .expect("an epoch that was fetched"),
        )
    }

    /// The number of the latest epoch that it has fetched.
    pub fn latest_epoch(&self) -> u32 {
        let epochs = self.epochs.lock().expect("not poisoned");
        let (latest, _) = epochs.last_key_value().expect("an epoch was fetched");
        latest.get()
    }

    /// The tag of a value in an epoch.
    pub fn tag(&self, number: u32, policy: Policy, value: &Selector) -> Tag {
        self.keys(number).schedule.tag_key(policy).tag(value)
    }

    /// The node's own reference to a value in an epoch.
    pub fn record_ref(&self, number: u32, policy: Policy, value: &Selector) -> RecordRef {
        let key = format!("{}#0", value.expose());
        self.own
            .refs
            .record_ref(&community(), epoch(number), policy, &key)
            .expect("a short key")
    }

    /// Its hits, all of them, page by page.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn hits(&self) -> Result<Vec<v1::Hit>, Status> {
        let mut request = v1::ListHitsRequest {
            community: COMMUNITY.into(),
            page_size: 1000,
            ..Default::default()
        };
        let mut hits = Vec::new();
        loop {
            let page = self.hit_service().list_hits(request.clone()).await?;
            let page = page.into_inner();
            hits.extend(page.hits);
            if page.next_page_token.is_empty() {
                return Ok(hits);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Its stream of hits after a cursor.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn watch(&self, cursor: u64) -> Result<Streaming<v1::WatchHitsResponse>, Status> {
        let request = v1::WatchHitsRequest {
            community: COMMUNITY.into(),
            cursor,
        };
        let response = self.hit_service().watch_hits(request).await?;
        Ok(response.into_inner())
    }

    /// The hits on its own filters, in numbers.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn holder_counts(&self) -> Result<Vec<v1::HolderCount>, Status> {
        let community = COMMUNITY.into();
        let request = v1::ListHolderCountsRequest { community };
        let response = self.hit_service().list_holder_counts(request).await?;
        Ok(response.into_inner().counts)
    }
}

/// [`COMMUNITY`] as an id.
pub fn community() -> CommunityId {
    COMMUNITY.parse().expect("a community")
}

/// An epoch's number as an id.
pub fn epoch(number: u32) -> Epoch {
    Epoch::new(number).expect("from 1")
}

/// The canary tags of a policy under an epoch's key, in the order of selectors.md.
pub fn canary_tags(schedule: &KeySchedule, policy: Policy) -> Vec<Tag> {
    let key = schedule.tag_key(policy);
    canonical_canaries(policy)
        .iter()
        .map(|value| key.tag(value))
        .collect()
}
