//! What the tests of this crate share.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex as StdMutex};

use prost::Message as _;
use prost_types::FileDescriptorSet;
use sotto_common::dsse::SigningKey;
use sotto_common::epoch::{Gms, KeySchedule};
use sotto_common::grounds::{Grounds, LegalBasis, Purpose};
use sotto_common::hit::HitState;
use sotto_common::ids::{EntryId, Epoch, HitId, NodeId, RecordRef, SessionId};
use sotto_common::log::action::Action;
use sotto_common::log::checkpoint::{LogSigner, SignedCheckpoint};
use sotto_common::log::edge::RightEdge;
use sotto_common::log::entry::{Entry, Statement, Step};
use sotto_common::log::leaf::{Leaf, Opening, OpeningNonce};
use sotto_common::log::merkle::MerkleHash;
use sotto_common::log::proof::ProofPlan;
use sotto_common::log::reader::TileSet;
use sotto_common::membership::{
    KemKey, Manifest, ManifestPolicy, MemberKeys, PolicyProfile, Profile,
};
use sotto_common::probe::SessionNonce;
use sotto_common::publication::FilterLabels;
use sotto_common::random::os_rng;
use sotto_common::sealed::{HpkeKeyPair, Suite};
use sotto_common::secret::{Selector, Tag};
use sotto_common::selector::{Policy, StopList};
use sotto_common::time::{MockClock, Timestamp};
use sotto_proto::convert::log::write_entry;
use sotto_proto::v1;
use tempfile::TempDir;
use tokio::sync::{Mutex, Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::app::follow_ups::attachments::Unfinished;
use crate::app::jobs::Jobs;
use crate::app::policies::Policies;
use crate::app::sources::Sources;
use crate::broker::Broker;
use crate::config::Settings;
use crate::follow_up::logged::{HitFacts, StepFacts};
use crate::hit::Hit;
use crate::keystore::Keystore;
use crate::store::{self, AnsweredBatch, StagedRow, Store};

/// A manifest of `nl-fiu` for itself, and the key it signs with.
pub(crate) fn manifest(epoch: u32) -> (SigningKey, Manifest) {
    let key = SigningKey::generate(&mut os_rng());
    let epoch = Epoch::new(epoch).expect("an epoch");
    let community = "euro-cyber".parse().expect("a community");
    let row = PolicyProfile {
        policy: Policy::Email,
        k: 30,
        prior: 1e-3,
    };
    let gms = Gms::generate(&mut os_rng());
    let hpke = HpkeKeyPair::generate(&mut os_rng());
    let manifest = Manifest {
        epoch,
        custodian: "nl-fiu".parse().expect("a node"),
        members: vec![MemberKeys {
            node: "nl-fiu".parse().expect("a node"),
            signing: key.verifying_key(),
            cosigning: SigningKey::generate(&mut os_rng()).verifying_key(),
            hpke: vec![KemKey {
                kem: Suite::X25519Sha256ChaCha20Poly1305.ids().0,
                key: hpke.public().to_bytes(),
            }],
        }],
        key_commitment: KeySchedule::derive(&gms, &community, epoch).key_commitment(),
        community,
        policies: vec![ManifestPolicy {
            policy: Policy::Email,
            canary_tags: vec![Tag::new([1; 16])],
            forms: [2; 32],
        }],
        profile: Profile::new(vec![row]).expect("a profile"),
        not_before: Timestamp::from_seconds(1_000),
        not_after: Timestamp::from_seconds(90_000),
    };
    (key, manifest)
}

/// A hit of `de-bka`; ids are in the order of `n`.
pub(crate) fn hit(n: u8, epoch: Epoch, record_ref: RecordRef) -> Hit {
    let mut id = [0; 16];
    (id[5], id[6], id[8]) = (n, 0x70, 0x80);
    Hit {
        id: HitId::from_slice(&id).expect("a UUIDv7"),
        epoch,
        policy: Policy::Email,
        record_ref,
        holder: "de-bka".parse().expect("a node"),
        state: HitState::New,
        filter_version: 1,
        false_positive: 1e-9,
        posterior: 0.999,
        first_seen: Timestamp::from_seconds(10),
        last_seen: Timestamp::from_seconds(20),
        unmatched_since: None,
        labels: FilterLabels::default(),
    }
}

/// The first batch of a session, answered without a hit.
pub(crate) fn answered(session: SessionId, epoch: Epoch) -> AnsweredBatch {
    answered_at(session, epoch, Some(3))
}

/// The same with another place in the log.
pub(crate) fn answered_at(session: SessionId, epoch: Epoch, leaf: Option<u64>) -> AnsweredBatch {
    let pairs = [(Tag::new([1; 16]), RecordRef::new([2; 16]))];
    let nonce = SessionNonce::from_slice(&[7; 32]).expect("a nonce");
    let now = Timestamp::from_seconds(5);
    AnsweredBatch::new(session, 0, epoch, &nonce, &pairs, b"", leaf, now)
}

/// Why something was asked.
pub(crate) fn grounds(case: &str) -> Grounds {
    Grounds::new(
        Some(Purpose::Detection),
        Some(LegalBasis::NationalLaw),
        "Art. 3",
        case,
    )
    .expect("valid")
}

/// Imports canonical e-mail addresses, a record each.
pub(crate) async fn import_emails(store: &Store, dataset: &str, emails: &[&str]) {
    let import = store.begin_import().await.expect("begun");
    let rows = emails
        .iter()
        .zip(0..)
        .map(|(&email, position)| staged(position, email, &format!("r{position}")))
        .collect();
    let policy = Policy::Email;
    let done = store.stage_rows(import, dataset, policy, rows).await;
    done.expect("staged");
    let now = Timestamp::from_seconds(1);
    store
        .commit_import(import, dataset, policy, false, now)
        .await
        .expect("stored");
}

/// A row of an import that names its record and does not expire.
pub(crate) fn staged(position: u64, canonical: &str, record_id: &str) -> StagedRow {
    StagedRow {
        position,
        canonical: Selector::new(canonical),
        record_id: record_id.into(),
        named: true,
        expires_at: None,
    }
}

/// The use cases of `nl-fiu` with new keys, whose broker is nowhere. It trusts `nl-fiu` and
/// `de-bka` as custodians.
pub(crate) async fn app() -> (App, TempDir) {
    app_of("nl-fiu").await
}

/// As [`app`], of another node.
pub(crate) async fn app_of(own: &str) -> (App, TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let node = |text: &str| text.parse().expect("a node");
    let cipher = store::testing::cipher(dir.path());
    let attachments = dir.path().join("attachments");
    std::fs::create_dir(&attachments).expect("made");
    let app = App {
        node: node(own),
        community: "euro-cyber".parse().expect("a community"),
        custodians: vec![node("nl-fiu"), node("de-bka")],
        outbox_dir: dir.path().join("outbox"),
        attachments_dir: attachments,
        unfinished: Unfinished::default(),
        store: Store::open(&dir.path().join("node.db"), cipher.clone())
            .await
            .expect("opened"),
        keystore: Keystore::create(&dir.path().join("keys"), cipher, &mut os_rng()).expect("made"),
        broker: Broker::nowhere(),
        policies: Arc::new(Policies::new(StopList::default())),
        clock: Arc::new(MockClock::at(Timestamp::from_seconds(2_000))),
        epoch_turn: Mutex::new(()),
        reconnected: Notify::new(),
        hit_cursor: watch::Sender::new(0),
        decided: Notify::new(),
        follow_up_cursor: watch::Sender::new(0),
        follow_ups_moved: Notify::new(),
        data: watch::Sender::new(()),
        settings: Settings::default(),
        sources: Sources::default(),
        catalogue: watch::Sender::default(),
        online: watch::Sender::default(),
        epoch: watch::Sender::default(),
        epochs_moved: Notify::new(),
        epoch_problem: StdMutex::default(),
        setbacks: StdMutex::default(),
        probing: StdMutex::default(),
        quotas: StdMutex::default(),
        log: None,
        publications: Jobs::new(tasks.clone(), stop.clone()),
        publishing: Semaphore::new(1),
        probes: Jobs::new(tasks, stop),
    };
    (app, dir)
}

/// The log of `euro-cyber` with a new key.
pub(crate) fn log_signer() -> LogSigner {
    let origin = "broker.example/sotto/euro-cyber".parse();
    LogSigner::new(
        origin.expect("an origin"),
        SigningKey::generate(&mut os_rng()),
    )
}

/// The entry of a step as a broker writes it.
pub(crate) fn step_entry(step: &StepFacts) -> Entry {
    let mut entry = entry(Action::TakeStep, &step.sender);
    entry.object.follow_up = Some(step.follow_up);
    entry.object.hit = Some(step.hit);
    entry.recipient = Some(step.recipient.clone());
    step.step.as_str().clone_into(&mut entry.detail);
    entry.statement = step.digest.map(|digest| Statement {
        digest,
        envelope: None,
    });
    entry.step = step.clear.clone().map(|clear| Step {
        number: step.seq,
        clear,
    });
    entry
}

/// The entry of a hit as a broker writes it.
pub(crate) fn hit_entry(hit: &HitFacts) -> Entry {
    let mut entry = entry(Action::FindHit, &hit.requester);
    entry.object.hit = Some(hit.hit);
    entry.object.epoch = Some(hit.epoch);
    entry.object.node = Some(hit.holder.clone());
    entry.object.policy = Some(Policy::Email);
    entry.recipient = Some(hit.requester.clone());
    entry
}

fn entry(action: Action, actor: &NodeId) -> Entry {
    let now = Timestamp::from_seconds(50_000);
    let id = EntryId::generate(now, &mut os_rng());
    let actor = format!("spiffe://sotto.test/node/{actor}").parse();
    let community = "euro-cyber".parse().expect("a community");
    let actor = actor.expect("an id");
    Entry::new(id, action, actor, community, now, "sotto-broker/0.0.0")
}

/// A log of these entries, behind three leaves of others: its checkpoint, and each entry with its
/// proof.
pub(crate) fn logged(
    signer: &LogSigner,
    entries: &[Entry],
) -> (SignedCheckpoint, Vec<v1::ProvedEntry>) {
    let open = |entry: &Entry| {
        let nonce = OpeningNonce::generate(&mut os_rng());
        let opening = Opening::new(nonce, write_entry(entry));
        let leaf = Leaf::new(entry.action.kind(), entry.at, &opening);
        (leaf, opening)
    };
    let leaves: Vec<_> = entries.iter().map(open).collect();
    let others = (0..3_u8).map(|n| MerkleHash::of_leaf(&[n]));
    let (mut tiles, mut edge) = (TileSet::new(), RightEdge::new());
    for new in edge.append(others.chain(leaves.iter().map(|(leaf, _)| leaf.hash()))) {
        tiles.insert(new.tile, new.bytes);
    }
    let head = edge.head();
    let prove = |((leaf, opening), leaf_index): (&(Leaf, Opening), u64)| {
        let plan = ProofPlan::inclusion(leaf_index, head.size).expect("in the tree");
        let proof = plan.prove(&tiles).expect("proved");
        let hash = |hash: &MerkleHash| hash.as_bytes().to_vec().into();
        v1::ProvedEntry {
            entry: Some(v1::LoggedEntry {
                leaf_index,
                leaf: leaf.to_bytes().into(),
                nonce: opening.nonce().secret().expose().to_vec().into(),
                entry: opening.entry().to_vec().into(),
            }),
            hashes: proof.iter().map(hash).collect(),
        }
    };
    let proved = leaves.iter().zip(3..).map(prove).collect();
    (signer.sign(head), proved)
}

/// The paths of every method of the node's three services.
pub(crate) fn methods() -> BTreeSet<String> {
    const SERVICES: [&str; 3] = ["AnalystService", "DatasetService", "NodeAdminService"];
    let set = FileDescriptorSet::decode(sotto_proto::FILE_DESCRIPTOR_SET).expect("decoded");
    set.file
        .iter()
        .flat_map(|file| file.service.iter().map(move |s| (file.package(), s)))
        .filter(|(_, service)| SERVICES.contains(&service.name()))
        .flat_map(|(package, service)| {
            let path = move |method: &str| format!("/{package}.{}/{method}", service.name());
            service.method.iter().map(move |m| path(m.name()))
        })
        .collect()
}
