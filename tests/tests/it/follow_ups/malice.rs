//! A requester that keeps to no rule: whatever it sends, in whatever order, it reads no answer
//! without two people at the holder (workflow.md "Follow-up").

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use sotto_common::followup::codes::{HandlingCode, RefusalGround, TimeLimit};
use sotto_common::followup::record::NO_PREVIOUS;
use sotto_common::followup::step::{
    AnswerClear, Outcomes, StepClear, StepDetail, StepStatement, Terms,
};
use sotto_common::followup::{FollowUpState, FollowUpStep, Party, transition};
use sotto_common::hit::HitDecision;
use sotto_common::ids::{FollowUpId, HitId, NodeId, Role};
use sotto_common::membership::{KeyStatement, MemberKeys};
use sotto_common::random::os_rng;
use sotto_common::sealed::{HpkePublicKey, Suite};
use sotto_common::selector::Policy::Phone;
use sotto_proto::convert::follow_up::{make_step, open_step};
use sotto_proto::{convert, v1};
use sotto_tests::desk::{PEOPLE, SECRET_ANSWER, answer};
use sotto_tests::follow_up::{ITEMS, outcomes};
use sotto_tests::node::community;
use sotto_tests::sandbox::profile;
use sotto_tests::seed;
use sotto_tests::{COMMUNITY, Sandbox, TestNode, Unit, phones};

use super::life::until;

use FollowUpState as S;
use FollowUpStep as T;

/// Attempts of one run.
const ATTEMPTS: usize = 400;

/// A node that speaks the protocol by hand, and a real unit, with one epoch.
struct World {
    _sandbox: Sandbox,
    nl: TestNode,
    de: Unit,
    de_keys: MemberKeys,
    hits: Vec<HitId>,
}

impl World {
    async fn new() -> Self {
        let sandbox = Sandbox::empty().await;
        let operator = sandbox.operator();
        let created = operator.create_community(profile(), &["nl-fiu"]).await;
        created.expect("created");
        for name in ["nl-fiu", "de-bka"] {
            operator.enrol(name).await.expect("enrolled");
        }
        let nl = sandbox.node("nl-fiu");
        nl.submit_keys().await.expect("taken");
        let home = sandbox.path("de-bka");
        let settings = "[service.publisher]\ndebounce = '20ms'\npatience = '200ms'\n";
        let lab = sandbox.shared_lab();
        let mut de = Unit::install(&lab, &home, "de-bka", &sandbox.url(), settings);
        de.start(Arc::new(sandbox.clock.clone())).await;
        let de_keys = keys_of(&nl, "de-bka").await;
        let pinned = v1::PinMemberRequest {
            node_id: "nl-fiu".into(),
            fingerprint: nl.member_keys().signing.fingerprint().to_string(),
            replace: false,
        };
        de.admin().pin_member(pinned).await.expect("pinned");
        let rows = [nl.member_keys(), de_keys.clone()];
        let (gms, manifest) = nl.plan_epoch(1, &profile(), &rows);
        let sealed = nl.seal_epoch(&gms, &manifest);
        nl.membership().open_epoch(sealed).await.expect("opened");
        nl.join_epoch(1).await.expect("confirmed");
        // The unit takes the epoch by itself, or by this.
        let request = v1::FetchEpochRequest { epoch: 1 };
        de.admin().fetch_epoch(request).await.expect("taken");
        let mut world = Self {
            _sandbox: sandbox,
            nl,
            de,
            de_keys,
            hits: Vec::new(),
        };
        world.find_hits().await;
        world
    }

    /// Three confirmed hits of `nl` on `de`.
    async fn find_hits(&mut self) {
        let values = phones(0..3);
        let texts = values.iter().map(|v| v.expose().to_owned()).collect();
        let done = self.de.import("numbers", "phone/1", &texts, false);
        done.await.expect("imported");
        self.de.publish().await.expect("published");
        self.nl.find(Phone, &values).await;
        let refs = self.nl.pairs(Phone, &values);
        let mut hits = self.nl.hits().await.expect("listed");
        hits.sort_by_key(|hit| {
            refs.iter()
                .position(|(_, own)| own.as_bytes()[..] == hit.record_ref)
        });
        for hit in hits {
            for decision in [HitDecision::BeginReview, HitDecision::Confirm] {
                self.nl.decide(&hit, decision).await.expect("taken");
            }
            self.hits
                .push(HitId::from_slice(&hit.hit_id).expect("a hit"));
        }
        assert_eq!(self.hits.len(), 3);
    }
}

/// The keys that a node has stated, as soon as it has.
async fn keys_of(by: &TestNode, name: &str) -> MemberKeys {
    let mut found = None;
    until(async || {
        let request = v1::ListNodesRequest {
            community: COMMUNITY.into(),
        };
        let listed = by.membership().list_nodes(request).await.expect("listed");
        let nodes = listed.into_inner().nodes.into_iter();
        let statement = nodes
            .filter(|node| node.node_id == name)
            .find_map(|node| node.key_statement);
        found = statement.map(|signed| {
            let read: KeyStatement = convert::read_unverified(&signed).expect("a statement");
            read.keys
        });
        found.is_some()
    })
    .await;
    found.expect("stated")
}

/// What the requester tries with.
struct Attacker<'w> {
    world: &'w World,
    rng: StdRng,
    ids: Vec<FollowUpId>,
    /// Every statement that it has made or seen.
    seen: Vec<v1::DsseEnvelope>,
}

impl Attacker<'_> {
    fn de(&self) -> NodeId {
        self.world.de_keys.node.clone()
    }

    /// A step of any kind, well made for the follow-up as it stands, by either party's name.
    async fn clear(&mut self, step: T) -> StepClear {
        let which = self.rng.random_range(0..self.ids.len());
        let (id, hit) = (self.ids[which], self.world.hits[which]);
        let nl = self.world.nl.id().clone();
        let told = self.world.nl.follow_up(id).await.ok();
        let stands = told.and_then(|told| told.follow_up);
        let state = stands
            .as_ref()
            .map_or(S::Draft, |f| f.state().domain().expect("a state"));
        let previous = stands.as_ref().map_or(NO_PREVIOUS, |f| {
            f.last_body[..].try_into().expect("32 bytes")
        });
        let as_due = step.by() == Party::Requester || self.rng.random();
        let (sender, recipient) = match (step.by(), as_due) {
            (Party::Holder, true) => (self.de(), nl),
            _ => (nl, self.de()),
        };
        StepClear {
            community: community(),
            follow_up: id,
            hit,
            seq: stands.map_or(0, |f| f.next_seq),
            previous,
            sender,
            recipient,
            made_at: self.world.nl.now(),
            state: transition(state, step).unwrap_or(S::Answered),
            detail: self.detail(step),
        }
    }

    fn detail(&self, step: T) -> StepDetail {
        let terms = Terms::new(TimeLimit::Ordinary, None, "A.1", ITEMS.to_vec()).expect("terms");
        match step {
            T::Submit => StepDetail::Submit(terms),
            T::Held => StepDetail::Held,
            T::NotHeld => StepDetail::NotHeld,
            T::Particulars => StepDetail::Particulars,
            T::Accept => StepDetail::Accept,
            T::Refuse => {
                StepDetail::Refuse(Outcomes::refuse_all(&terms, RefusalGround::NotAvailable))
            }
            T::RequestClarification => StepDetail::RequestClarification,
            T::Reply => StepDetail::Reply,
            T::AwaitJudicialAuthorisation => StepDetail::AwaitJudicialAuthorisation {
                new_date: self.world.nl.now().plus(Duration::from_hours(99)),
            },
            T::Answer => StepDetail::Answer(AnswerClear {
                outcomes: outcomes(),
                handling: HandlingCode::H0,
                attachments: Vec::new(),
            }),
            T::Withdraw => StepDetail::Withdraw,
            T::Close => StepDetail::Close,
        }
    }

    /// Signed by the attacker, sealed to whoever it names.
    async fn signed(&mut self, step: T) -> v1::DsseEnvelope {
        let clear = self.clear(step).await;
        let content = self.content(&clear);
        let key = &self.world.de_keys.hpke[0].key;
        let suite = Suite::X25519Sha256ChaCha20Poly1305;
        let key = HpkePublicKey::from_slice(suite, key).expect("a key");
        let made = make_step(clear, content.as_deref(), &key, &mut os_rng());
        convert::sign(made.expect("a step"), self.world.nl.signing_key())
    }

    fn content(&self, clear: &StepClear) -> Option<Vec<u8>> {
        clear.step().sealing().part()?;
        let which = self.ids.iter().position(|id| *id == clear.follow_up);
        let value = &phones(0..3)[which.unwrap_or(0)];
        Some(match clear.step() {
            T::Submit => {
                let tag = self.world.nl.tag(1, Phone, value);
                let tags = vec![tag.expose().to_vec().into()];
                v1::FollowUpRequest { tags }.encode_to_vec()
            }
            T::Particulars => v1::FollowUpParticulars {
                selector: value.expose().into(),
                ..Default::default()
            }
            .encode_to_vec(),
            _ => v1::FollowUpMessage {
                text: "please".into(),
            }
            .encode_to_vec(),
        })
    }

    /// Makes a request as any requester does, and waits until the unit has said that it holds the
    /// number; returns the states on the way. However slow the machine, what is tried after it does
    /// not end every request before the unit comes to it.
    async fn makes_one_request(&mut self) -> BTreeSet<i32> {
        let request = self.signed(T::Submit).await;
        let submitted = self.world.nl.submit_step(request).await;
        submitted.expect("taken");
        let held = v1::FollowUpState::Held as i32;
        let mut reached = BTreeSet::new();
        until(async || {
            for id in &self.ids {
                if let Ok(told) = self.world.nl.follow_up(*id).await {
                    let state = told.follow_up.expect("given").state();
                    reached.insert(state as i32);
                }
            }
            reached.contains(&held)
        })
        .await;
        reached
    }

    /// One thing or another.
    async fn try_something(&mut self) {
        let step = *T::ALL.choose(&mut self.rng).expect("some");
        let envelope = match self.rng.random_range(0..10) {
            0..5 => self.signed(step).await,
            5 if !self.seen.is_empty() => self.seen.choose(&mut self.rng).expect("some").clone(),
            // A statement of its own with other bytes in it.
            6 => {
                let mut envelope = self.signed(step).await;
                let mut payload = envelope.payload.to_vec();
                let at = self.rng.random_range(0..payload.len());
                payload[at] ^= 1 << self.rng.random_range(0..8);
                envelope.payload = payload.into();
                envelope
            }
            7 => return self.reach_for_files().await,
            _ => return self.one_person_acts().await,
        };
        self.seen.push(envelope.clone());
        let _ = self.world.nl.submit_step(envelope).await;
    }

    /// Files that were never given.
    async fn reach_for_files(&mut self) {
        let id = *self.ids.choose(&mut self.rng).expect("some");
        let place = v1::AttachmentPlace {
            community: COMMUNITY.into(),
            follow_up_id: id.as_bytes().to_vec().into(),
            attachment_id: id.as_bytes().to_vec().into(),
            offset: 0,
        };
        let request = v1::DownloadAttachmentRequest { place: Some(place) };
        let mut service = self.world.nl.follow_up_service();
        if let Ok(stream) = service.download_attachment(request).await {
            let mut stream = stream.into_inner();
            while let Ok(Some(part)) = stream.message().await {
                assert!(part.chunk.is_empty(), "a file without an answer");
            }
        }
    }

    /// One person at the holder, in every role that there is, does all that one person can.
    async fn one_person_acts(&mut self) {
        let id = *self.ids.choose(&mut self.rng).expect("some");
        let id = id.as_bytes();
        let de = &self.world.de;
        let step = *[T::Accept, T::Answer, T::Accept]
            .choose(&mut self.rng)
            .expect("some");
        let _ = de.propose(id, step, answer()).await;
        let Ok(Some(case)) = de.case(id).await else {
            return;
        };
        let Some(view) = case.follow_up.filter(|view| view.proposal.is_some()) else {
            return;
        };
        let alone = de.person(Role::Approver, PEOPLE[0]);
        let approved = de.approve_as(alone, &view).await;
        approved.expect_err("whoever drafts does not approve");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_order_of_calls_by_a_malicious_requester_yields_an_answer_without_two_people() {
    let world = World::new().await;
    let mut rng = seed::rng();
    let mut attacker = Attacker {
        ids: (0..world.hits.len())
            .map(|_| FollowUpId::generate(world.nl.now(), &mut os_rng()))
            .collect(),
        seen: Vec::new(),
        rng: rand::SeedableRng::from_rng(&mut rng),
        world: &world,
    };
    let mut reached = attacker.makes_one_request().await;
    for _ in 0..ATTEMPTS {
        attacker.try_something().await;
        for id in attacker.ids.clone() {
            let Ok(told) = world.nl.follow_up(id).await else {
                continue;
            };
            let state = told.follow_up.as_ref().expect("given").state();
            reached.insert(state as i32);
            for step in told.steps {
                let signed = step.statement.expect("kept");
                let read: StepStatement = convert::read_unverified(&signed).expect("a step");
                let by_two = matches!(read.clear.step(), T::Accept | T::Refuse | T::Answer);
                assert!(!by_two, "{} without two people", read.clear.step());
                if read.clear.recipient == *world.nl.id() {
                    let opened = open_step(&read, world.nl.hpke()).expect("to this node");
                    let opened = opened.map(|bytes| bytes.to_vec()).unwrap_or_default();
                    let secret = SECRET_ANSWER.as_bytes();
                    assert!(!opened.windows(secret.len()).any(|w| w == secret));
                }
                attacker.seen.push(signed);
            }
        }
    }
    // The run is worth something only if it came as far as one party can bring it.
    let received = v1::FollowUpState::Received as i32;
    let held = v1::FollowUpState::Held as i32;
    println!("states reached: {reached:?}");
    assert!(
        reached.contains(&received) || reached.contains(&held),
        "{reached:?}"
    );
}
