//! A log made up for tests: a broker that can be made to lie, with everything signed as it should be.

use std::time::Duration;

use prost::Message as _;
use prost::bytes::Bytes;
use sha2::{Digest as _, Sha256};
use sotto_common::dsse::SigningKey;
use sotto_common::epoch::{Gms, KeySchedule};
use sotto_common::followup::FollowUpState;
use sotto_common::followup::codes::{HandlingCode, Item, TimeLimit};
use sotto_common::followup::record::NO_PREVIOUS;
use sotto_common::followup::step::{
    AnswerClear, ItemOutcome, Outcomes, StepClear, StepDetail, Terms,
};
use sotto_common::hit::{HitDecision, HitFeedback, HitState};
use sotto_common::ids::{
    CommunityId, EntryId, Epoch, FollowUpId, HitId, NodeId, PublicationId, SessionId,
};
use sotto_common::log::action::Action;
use sotto_common::log::checkpoint::{LogKey, LogSigner};
use sotto_common::log::cosignature::Cosigner;
use sotto_common::log::edge::RightEdge;
use sotto_common::log::entry::{Batch, Change, Entry, Statement, Step};
use sotto_common::log::leaf::{Leaf, Opening, OpeningNonce};
use sotto_common::log::merkle::{MerkleHash, TreeHead};
use sotto_common::membership::{
    KemKey, KeyConfirmation, KeyStatement, Manifest, ManifestPolicy, MemberKeys, PolicyProfile,
    Profile,
};
use sotto_common::random::os_rng;
use sotto_common::sealed::HpkeKeyPair;
use sotto_common::secret::{Secret, Tag};
use sotto_common::selector::Policy;
use sotto_common::time::Timestamp;
use sotto_proto::convert::log::write_entry;
use sotto_proto::{convert, v1};

use super::export::{ExportWriter, Head};

pub(super) const NOW: Timestamp = Timestamp::from_seconds(1_789_500_000);
pub(super) const PROBER: &str = "nl-fiu";
pub(super) const HOLDER: &str = "de-bka";
pub(super) const BROKER: &str = "spiffe://sotto.example/broker/b-1";
pub(super) const OPERATOR: &str = "spiffe://sotto.example/operator/alice";

const DOMAIN: &str = "sotto.example";
const NODES: [(&str, u8); 2] = [(PROBER, 1), (HOLDER, 2)];

/// A community and the entries of its log, an entry a minute.
pub(super) struct History {
    pub(super) entries: Vec<Entry>,
    pub(super) manifest: v1::DsseEnvelope,
    pub(super) hits: [HitId; 2],
    pub(super) publication: PublicationId,
    session: SessionId,
    follow_up: FollowUpId,
    last_body: [u8; 32],
    seq: u32,
    pub(super) members: Vec<MemberKeys>,
}

pub(super) fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

pub(super) fn community() -> CommunityId {
    "euro-cyber".parse().unwrap()
}

pub(super) fn epoch() -> Epoch {
    Epoch::new(1).unwrap()
}

pub(super) fn log() -> LogSigner {
    let origin = "broker.example/sotto/euro-cyber".parse().unwrap();
    LogSigner::new(origin, SigningKey::from_seed(&Secret::new([9; 32])))
}

pub(super) fn log_key() -> LogKey {
    log().key().clone()
}

pub(super) fn signing(name: &str) -> SigningKey {
    let seed = NODES.iter().find(|(node, _)| *node == name).unwrap().1;
    SigningKey::from_seed(&Secret::new([seed; 32]))
}

fn cosigner((name, seed): (&str, u8)) -> Cosigner {
    let signing = SigningKey::from_seed(&Secret::new([seed + 100; 32]));
    Cosigner::new(DOMAIN, node(name), signing).unwrap()
}

/// A signed statement as an entry has it.
#[expect(clippy::unnecessary_wraps, reason = "as an entry has it")]
pub(super) fn statement(envelope: &v1::DsseEnvelope) -> Option<Statement> {
    Some(Statement {
        digest: Sha256::digest(&envelope.payload).into(),
        envelope: Some(envelope.encode_to_vec()),
    })
}

fn member((name, seed): (&str, u8)) -> MemberKeys {
    let hpke = HpkeKeyPair::generate(&mut os_rng());
    MemberKeys {
        node: node(name),
        signing: signing(name).verifying_key(),
        cosigning: *cosigner((name, seed)).key().note_key().key(),
        hpke: vec![KemKey {
            kem: 0x20,
            key: hpke.public().to_bytes(),
        }],
    }
}

fn manifest(members: Vec<MemberKeys>) -> Manifest {
    let gms = Gms::from_secret(Secret::new([1; 32]));
    let policy = Policy::Phone;
    let (k, prior) = (30, 0.01);
    Manifest {
        community: community(),
        epoch: epoch(),
        custodian: node(PROBER),
        members,
        key_commitment: KeySchedule::derive(&gms, &community(), epoch()).key_commitment(),
        policies: vec![ManifestPolicy {
            policy,
            canary_tags: vec![Tag::new([1; 16])],
            forms: [2; 32],
        }],
        profile: Profile::new(vec![PolicyProfile { policy, k, prior }]).unwrap(),
        not_before: NOW,
        not_after: NOW.plus(Duration::from_hours(24)),
    }
}

impl History {
    /// One epoch, one filter, one session, two hits, one follow-up, from their beginning to their end.
    pub(super) fn whole() -> Self {
        let members: Vec<_> = NODES.map(member).to_vec();
        let manifest = convert::sign(manifest(members.clone()), &signing(PROBER));
        let mut rng = os_rng();
        let mut history = Self {
            entries: Vec::new(),
            manifest,
            hits: [NOW, NOW].map(|now| HitId::generate(now, &mut rng)),
            publication: PublicationId::generate(NOW, &mut rng),
            session: SessionId::generate(NOW, &mut rng),
            follow_up: FollowUpId::generate(NOW, &mut rng),
            last_body: NO_PREVIOUS,
            seq: 0,
            members,
        };
        history.found_community();
        history.publish();
        history.probe();
        history.decide(HitDecision::BeginReview, HitState::New);
        history.decide(HitDecision::Confirm, HitState::UnderReview);
        history.ask();
        history.expire();
        history.end();
        history
    }

    pub(super) fn add(&mut self, action: Action, actor: &str) -> &mut Entry {
        let minutes = i64::try_from(self.entries.len()).unwrap();
        let at = Timestamp::from_seconds(NOW.seconds() + 60 * minutes);
        let id = EntryId::generate(at, &mut os_rng());
        let actor = if actor.starts_with("spiffe:") {
            actor.to_owned()
        } else {
            format!("spiffe://{DOMAIN}/node/{actor}")
        };
        let actor = actor.parse().unwrap();
        let entry = Entry::new(id, action, actor, community(), at, "sotto-broker/0.0.0");
        self.entries.push(entry);
        self.entries.last_mut().unwrap()
    }

    fn found_community(&mut self) {
        self.add(Action::CreateCommunity, OPERATOR);
        for (name, _) in NODES {
            self.add(Action::EnrolNode, OPERATOR).object.node = Some(node(name));
        }
        for keys in self.members.clone() {
            let name = keys.node.to_string();
            let keys = KeyStatement {
                keys,
                community: community(),
                valid_from: epoch(),
            };
            let signed = convert::sign(keys, &signing(&name));
            self.add(Action::SubmitKeys, &name).statement = statement(&signed);
        }
        let digest: [u8; 32] = Sha256::digest(&self.manifest.payload).into();
        let opened = self.add(Action::OpenEpoch, PROBER);
        opened.object.epoch = Some(epoch());
        opened.statement = Some(Statement {
            digest,
            envelope: None,
        });
        let kid = manifest(self.members.clone()).kid();
        for (name, _) in NODES {
            let confirmation = KeyConfirmation {
                community: community(),
                epoch: epoch(),
                node: node(name),
                kid,
                manifest_digest: digest,
            };
            let signed = convert::sign(confirmation, &signing(name));
            let confirmed = self.add(Action::ConfirmEpoch, name);
            confirmed.object.epoch = Some(epoch());
            confirmed.statement = statement(&signed);
        }
        // By the last member that has confirmed.
        self.add(Action::ActivateEpoch, HOLDER).object.epoch = Some(epoch());
        let limits = self.add(Action::SetLimits, OPERATOR);
        limits.object.node = Some(node(PROBER));
        limits.object.policy = Some(Policy::Phone);
        limits.limits = Some((100, 12));
        // So long before the first batch that none was counted meanwhile.
        limits.at = limits.at.minus(Duration::from_mins(1));
    }

    fn publish(&mut self) {
        for action in [Action::AnnouncePublication, Action::ActivatePublication] {
            self.publication(action);
        }
    }

    pub(super) fn publication(&mut self, action: Action) {
        let id = self.publication;
        let object = &mut self.add(action, HOLDER).object;
        object.publication = Some(id);
        object.epoch = Some(epoch());
        object.policy = Some(Policy::Phone);
        object.version = Some(1);
    }

    fn probe(&mut self) {
        let (session, hits) = (self.session, self.hits);
        let opened = &mut self.add(Action::OpenSession, PROBER).object;
        opened.session = Some(session);
        opened.policy = Some(Policy::Phone);
        opened.epoch = Some(epoch());
        self.batch(0, 60);
        for hit in hits {
            self.found(Action::FindHit, hit);
        }
    }

    pub(super) fn batch(&mut self, number: u32, refs: u64) {
        let session = self.session;
        let answered = self.add(Action::AnswerBatch, PROBER);
        answered.object.session = Some(session);
        answered.object.policy = Some(Policy::Phone);
        answered.object.epoch = Some(epoch());
        answered.batch = Some(Batch {
            number,
            refs,
            matches: 2,
            tags_digest: [3; 32],
            answer_digest: [4; 32],
        });
    }

    pub(super) fn found(&mut self, action: Action, hit: HitId) {
        let found = self.add(action, PROBER);
        found.recipient = Some(node(PROBER));
        found.object.node = Some(node(HOLDER));
        found.object.hit = Some(hit);
        found.object.epoch = Some(epoch());
        found.object.policy = Some(Policy::Phone);
        found.object.version = Some(1);
    }

    pub(super) fn moved(
        &mut self,
        action: Action,
        actor: &str,
        hit: HitId,
        (from, to): (HitState, HitState),
    ) -> &mut Entry {
        let moved = self.add(action, actor);
        moved.object.hit = Some(hit);
        moved.change = Some(Change {
            from: from.to_string(),
            to: to.to_string(),
        });
        moved
    }

    pub(super) fn feedback(&self, decision: HitDecision) -> HitFeedback {
        HitFeedback {
            node: node(PROBER),
            community: community(),
            hit: self.hits[0],
            decision,
            decided_at: NOW,
        }
    }

    fn decide(&mut self, decision: HitDecision, from: HitState) {
        let signed = convert::sign(self.feedback(decision), &signing(PROBER));
        let (hit, states) = (self.hits[0], (from, decision.state()));
        self.moved(Action::DecideHit, PROBER, hit, states).statement = statement(&signed);
    }

    /// A follow-up with everything that leads to an answer.
    fn ask(&mut self) {
        use FollowUpState as S;
        let (hit, limit) = (self.hits[0], TimeLimit::Ordinary);
        let terms = Terms::new(limit, None, "A.1", vec![Item::Identity]).unwrap();
        let outcomes = Outcomes::new(vec![(Item::Identity, ItemOutcome::Provided)]).unwrap();
        let answer = AnswerClear {
            outcomes,
            handling: HandlingCode::H1,
            attachments: Vec::new(),
        };
        self.step(StepDetail::Submit(terms), S::Draft, S::Submitted);
        let followed = (HitState::Confirmed, HitState::FollowedUp);
        self.moved(Action::FollowUpHit, PROBER, hit, followed);
        self.step(StepDetail::Held, S::Submitted, S::Held);
        self.step(StepDetail::Particulars, S::Held, S::Received);
        self.step(StepDetail::Accept, S::Received, S::Accepted);
        self.step(StepDetail::Answer(answer), S::Accepted, S::Answered);
        self.step(StepDetail::Close, S::Answered, S::Closed);
        let closed = (HitState::FollowedUp, HitState::Closed);
        self.moved(Action::FollowUpHit, PROBER, hit, closed);
    }

    fn step(&mut self, detail: StepDetail, from: FollowUpState, to: FollowUpState) {
        let step = detail.step();
        let by_requester = step.by() == sotto_common::followup::Party::Requester;
        let (sender, recipient) = if by_requester {
            (PROBER, HOLDER)
        } else {
            (HOLDER, PROBER)
        };
        let (follow_up, hit) = (self.follow_up, self.hits[0]);
        let clear = StepClear {
            community: community(),
            follow_up,
            hit,
            seq: self.seq,
            previous: self.last_body,
            sender: node(sender),
            recipient: node(recipient),
            made_at: NOW,
            state: to,
            detail,
        };
        // What is sealed is not in the log, and the digest of the whole may be any.
        self.last_body = Sha256::digest(self.seq.to_be_bytes()).into();
        let (digest, number) = (self.last_body, self.seq);
        self.seq += 1;
        let taken = self.add(Action::TakeStep, sender);
        taken.recipient = Some(node(recipient));
        taken.object.follow_up = Some(follow_up);
        taken.object.hit = Some(hit);
        taken.change = Some(Change {
            from: from.to_string(),
            to: to.to_string(),
        });
        taken.step = Some(Step {
            number,
            clear: v1::FollowUpClear::from(&clear).encode_to_vec(),
        });
        taken.detail = step.to_string();
        taken.statement = Some(Statement {
            digest,
            envelope: None,
        });
    }

    fn expire(&mut self) {
        let (hit, states) = (self.hits[1], (HitState::New, HitState::Expired));
        self.moved(Action::ExpireHit, BROKER, hit, states);
    }

    fn end(&mut self) {
        let session = self.session;
        self.add(Action::CloseSession, PROBER).object.session = Some(session);
        self.publication(Action::WithdrawPublication);
        let auditor = "spiffe://sotto.example/auditor/bob";
        self.add(Action::Read, auditor).detail = "ListEntries".into();
    }

    /// The broker tells, so long after the beginning, how many openings it has erased.
    pub(super) fn erased(&mut self, count: usize, after: Duration) {
        let erased = self.add(Action::EraseOpenings, BROKER);
        erased.at = NOW.plus(after);
        erased.detail = count.to_string();
    }

    /// The place of the n-th entry of an action, from 0.
    pub(super) fn nth(&self, action: Action, n: usize) -> usize {
        let entries = self.entries.iter().enumerate();
        let mut places = entries.filter(|(_, entry)| entry.action == action);
        places.nth(n).unwrap().0
    }

    /// The entries behind leaves.
    pub(super) fn logged(&self) -> Vec<v1::LoggedEntry> {
        let entries = (0..).zip(&self.entries);
        entries.map(|(index, entry)| logged(index, entry)).collect()
    }

    /// The file of these entries, under a checkpoint of their tree that both nodes have cosigned.
    pub(super) fn file(&self, logged: &[v1::LoggedEntry]) -> Vec<u8> {
        self.file_under(head(logged), logged)
    }

    /// The same under the checkpoint of another tree.
    pub(super) fn file_under(&self, head: TreeHead, logged: &[v1::LoggedEntry]) -> Vec<u8> {
        let head = Head {
            note: note(head, &NODES),
            manifests: vec![self.manifest.clone()],
        };
        file_of(head, logged)
    }
}

/// A file, however it begins.
pub(super) fn file_of(head: Head, logged: &[v1::LoggedEntry]) -> Vec<u8> {
    let mut writer = ExportWriter::begin(Vec::new(), head).unwrap();
    for entry in logged {
        writer.put(entry.clone()).unwrap();
    }
    writer.into_inner()
}

/// A checkpoint that some have cosigned.
pub(super) fn note(head: TreeHead, by: &[(&str, u8)]) -> Bytes {
    let mut signed = log().sign(head);
    for witness in by {
        let cosignature = cosigner(*witness).cosign(signed.checkpoint(), NOW);
        signed.put_cosignature(cosignature).unwrap();
    }
    signed.to_string().into()
}

/// Size and root of a tree of these leaves.
pub(super) fn head(logged: &[v1::LoggedEntry]) -> TreeHead {
    let mut edge = RightEdge::new();
    edge.append(logged.iter().map(|entry| MerkleHash::of_leaf(&entry.leaf)));
    edge.head()
}

/// An entry behind its leaf.
pub(super) fn logged(leaf_index: u64, entry: &Entry) -> v1::LoggedEntry {
    let nonce = OpeningNonce::generate(&mut os_rng());
    let opening = Opening::new(nonce, write_entry(entry));
    v1::LoggedEntry {
        leaf_index,
        leaf: Leaf::new(entry.action.kind(), entry.at, &opening)
            .to_bytes()
            .into(),
        // The nonce goes to whoever may read the entry.
        nonce: opening.nonce().secret().expose().to_vec().into(),
        entry: opening.entry().to_vec().into(),
    }
}

/// An entry whose opening is gone.
pub(super) fn erase(logged: &mut v1::LoggedEntry) {
    logged.nonce = Bytes::new();
    logged.entry = Bytes::new();
}
