//! Publishing as a node does (protocol §5, §6), with room for what an honest node would not do.

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use sotto_common::dsse::StatementKind;
use sotto_common::filter::{self, Class};
use sotto_common::followup::codes::HandlingCode;
use sotto_common::ids::PublicationId;
use sotto_common::publication::{FilterHeader, FilterLabels, LayerRole};
use sotto_common::random::os_rng;
use sotto_common::secret::{Selector, Tag};
use sotto_common::selector::Policy;
use sotto_common::selector::forms;
use sotto_proto::{convert, v1};
use tonic::Status;

use crate::node::canary_tags;
use crate::refusal::pause;
use crate::sandbox::NEVER;
use crate::{COMMUNITY, TestNode};

/// Bytes in a chunk, unless a test says otherwise: several chunks even for a small filter.
const CHUNK: usize = 4096;
/// Bytes in a chunk of a large filter: each is answered once it is durable.
const LARGE_CHUNK: usize = 1024 * 1024;

/// A filter that is not published yet; tests change what they like.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Its header, to be signed.
    pub header: FilterHeader,
    /// Its bits.
    pub bits: Vec<u8>,
}

impl Draft {
    /// The same header over other bits.
    #[must_use]
    pub fn with_bits(mut self, bits: Vec<u8>) -> Self {
        self.header.digest = Sha256::digest(&bits).into();
        self.bits = bits;
        self
    }

    /// As a supplement of the base of this version.
    #[must_use]
    pub fn supplementing(mut self, base: u64) -> Self {
        self.header.role = LayerRole::SupplementOf(base);
        self
    }

    /// For these probers only.
    #[must_use]
    pub fn only_for(mut self, audience: &[&str]) -> Self {
        let nodes = audience.iter().map(|node| node.parse().expect("a node id"));
        self.header.audience = nodes.collect();
        self
    }

    /// With a unit to turn to, and how its hits may be handled.
    #[must_use]
    pub fn labelled(mut self, unit: &str, how: &str) -> Self {
        let labels = FilterLabels::new(unit, Some(HandlingCode::H3), how);
        self.header.labels = labels.expect("labels");
        self
    }

    /// The id of the publication.
    pub fn id(&self) -> PublicationId {
        self.header.publication
    }
}

impl TestNode {
    /// A filter of these values, the canaries among them, in the latest epoch, as the next version.
    pub async fn draft(&self, policy: Policy, values: &[Selector]) -> Draft {
        let key = self.keys(self.latest_epoch()).schedule.tag_key(policy);
        let tags = values.iter().map(|value| key.tag(value)).collect();
        self.draft_of_tags(policy, tags).await
    }

    /// As [`Self::draft`], of tags.
    pub async fn draft_of_tags(&self, policy: Policy, mut tags: Vec<Tag>) -> Draft {
        let number = self.latest_epoch();
        tags.extend(canary_tags(&self.keys(number).schedule, policy));
        let class = Class::smallest_for(tags.len() as u64).expect("a class");
        let version = self.last_version(number, policy).await.expect("a version") + 1;
        self.draft_in(number, policy, tags, class, version)
    }

    /// A filter of exactly these tags in this epoch, class and version.
    pub fn draft_in(
        &self,
        number: u32,
        policy: Policy,
        tags: Vec<Tag>,
        class: Class,
        version: u64,
    ) -> Draft {
        let keys = self.keys(number);
        let k = keys.manifest.profile.policy(policy).expect("a policy").k;
        let filter = filter::build(tags, class, k, &mut os_rng()).expect("a filter");
        let header = FilterHeader {
            holder: self.id().clone(),
            publication: PublicationId::generate(self.now(), &mut os_rng()),
            community: keys.manifest.community.clone(),
            epoch: keys.manifest.epoch,
            policy,
            forms: forms(policy),
            kid: keys.schedule.kid(),
            params: filter.params(),
            salt: filter.salt().clone(),
            role: LayerRole::Base,
            version,
            digest: filter.digest(),
            audience: std::collections::BTreeSet::new(),
            created_at: self.now(),
            expires_at: keys.manifest.not_after,
            labels: FilterLabels::default(),
        };
        Draft {
            header,
            bits: filter.bits().to_vec(),
        }
    }

    /// The last accepted version of its filters.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn last_version(&self, number: u32, policy: Policy) -> Result<u64, Status> {
        let listed = self.list_publications(number).await?;
        let mut versions = listed.last_versions.iter();
        let last = versions.find(|row| row.policy == policy.name());
        Ok(last.map_or(0, |row| row.version))
    }

    /// Its publications in an epoch.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn list_publications(
        &self,
        number: u32,
    ) -> Result<v1::ListPublicationsResponse, Status> {
        let request = v1::ListPublicationsRequest {
            community: COMMUNITY.into(),
            epoch: number,
            policy: String::new(),
        };
        let response = self.publications().list_publications(request).await?;
        Ok(response.into_inner())
    }

    /// Announces a draft; returns how many bytes the broker has already.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn announce(&self, draft: &Draft) -> Result<u64, Status> {
        let header = convert::sign(draft.header.clone(), self.signing_key());
        self.announce_signed(header).await
    }

    /// Announces a header that the domain's types would not let through.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn announce_wire(&self, header: &v1::FilterHeader) -> Result<u64, Status> {
        let kind = StatementKind::FilterHeader;
        let signed = self.signing_key().sign(kind, header.encode_to_vec());
        self.announce_signed(signed.into()).await
    }

    /// Announces a signed header.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn announce_signed(&self, header: v1::DsseEnvelope) -> Result<u64, Status> {
        let request = v1::CreatePublicationRequest {
            community: COMMUNITY.into(),
            header: Some(header),
        };
        let response = self.publications().create_publication(request).await?;
        Ok(response.into_inner().acknowledged)
    }

    /// Sends the bits from an offset on, in chunks; `acknowledged` sees each acknowledgement.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn upload(
        &self,
        draft: &Draft,
        offset: u64,
        acknowledged: impl FnMut(u64),
    ) -> Result<(), Status> {
        self.upload_in(CHUNK, draft, offset, acknowledged).await
    }

    async fn upload_in(
        &self,
        chunk_len: usize,
        draft: &Draft,
        offset: u64,
        mut acknowledged: impl FnMut(u64),
    ) -> Result<(), Status> {
        let start = usize::try_from(offset).expect("fits");
        let mut at = offset;
        let chunks: Vec<_> = draft.bits[start..]
            .chunks(chunk_len)
            .map(|data| {
                let chunk = chunk(draft, at, data);
                at += data.len() as u64;
                chunk
            })
            .collect();
        let stream = tokio_stream::iter(chunks);
        let response = self.publications().upload_publication(stream).await?;
        let mut answers = response.into_inner();
        while let Some(answer) = answers.message().await? {
            acknowledged(answer.acknowledged);
        }
        Ok(())
    }

    /// Sends one chunk; returns what is acknowledged then.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn upload_chunk(
        &self,
        draft: &Draft,
        offset: u64,
        data: &[u8],
    ) -> Result<u64, Status> {
        let stream = tokio_stream::iter([chunk(draft, offset, data)]);
        let response = self.publications().upload_publication(stream).await?;
        let answer = response.into_inner().message().await?;
        Ok(answer.expect("an answer").acknowledged)
    }

    /// Activates what was uploaded.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn activate(&self, id: PublicationId) -> Result<v1::Publication, Status> {
        let request = v1::ActivatePublicationRequest {
            community: COMMUNITY.into(),
            publication_id: id.as_bytes().to_vec().into(),
        };
        let response = self.publications().activate_publication(request).await?;
        Ok(response.into_inner().publication.expect("a publication"))
    }

    /// Withdraws a publication.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn withdraw(&self, id: PublicationId) -> Result<(), Status> {
        let request = v1::WithdrawPublicationRequest {
            community: COMMUNITY.into(),
            publication_id: id.as_bytes().to_vec().into(),
        };
        let response = self.publications().withdraw_publication(request).await;
        response.map(drop)
    }

    /// Announces, uploads and activates a draft.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn publish_draft(&self, draft: &Draft) -> Result<v1::Publication, Status> {
        let acknowledged = self.announce(draft).await?;
        self.upload(draft, acknowledged, |_| ()).await?;
        self.activate(draft.id()).await
    }

    /// As [`Self::publish_draft`], for a large filter: in chunks as a node sends them.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn publish_large(&self, draft: &Draft) -> Result<v1::Publication, Status> {
        let acknowledged = self.announce(draft).await?;
        self.upload_in(LARGE_CHUNK, draft, acknowledged, |_| ())
            .await?;
        self.activate(draft.id()).await
    }

    /// As [`Self::publish_draft`], over what passes: a broker that is killed, or that has lost its
    /// place among the others.
    pub async fn publish_through(&self, draft: &Draft) {
        let published = async {
            while let Err(status) = self.publish_draft(draft).await {
                pause(&status).await;
            }
        };
        let in_time = tokio::time::timeout(NEVER, published).await;
        in_time.expect("it has not passed for minutes");
    }

    /// Publishes a new base of these values; returns its id.
    pub async fn publish(&self, policy: Policy, values: &[Selector]) -> PublicationId {
        let draft = self.draft(policy, values).await;
        self.publish_draft(&draft).await.expect("published");
        draft.id()
    }

    /// Publishes a supplement of these values to the base of this version; returns its id.
    pub async fn supplement(
        &self,
        policy: Policy,
        base: u64,
        values: &[Selector],
    ) -> PublicationId {
        let draft = self.draft(policy, values).await.supplementing(base);
        self.publish_draft(&draft).await.expect("published");
        draft.id()
    }
}

fn chunk(draft: &Draft, offset: u64, data: &[u8]) -> v1::UploadPublicationRequest {
    v1::UploadPublicationRequest {
        community: COMMUNITY.into(),
        publication_id: draft.id().as_bytes().to_vec().into(),
        offset,
        data: data.to_vec().into(),
    }
}
