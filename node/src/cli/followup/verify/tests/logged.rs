//! Bundles with what the audit log says of their steps.

use sotto_common::log::checkpoint::{LogSigner, SignedCheckpoint};
use sotto_common::log::cosignature::Cosigner;
use sotto_common::log::entry::Entry;
use sotto_common::log::leaf::{Leaf, Opening, OpeningNonce};
use sotto_common::log::merkle::MerkleHash;
use sotto_common::log::receipt::Receipt;

use super::*;
use crate::follow_up::logged::{HIT, SUMMARY, opening_path, receipt_path, write_opening};
use crate::testing;

/// A bundle whose steps and hit are in a log.
struct Logged {
    folder: TempDir,
    key: SigningKey,
    signer: LogSigner,
    steps: Vec<StepFacts>,
    hit: HitFacts,
}

impl Logged {
    fn new() -> Self {
        let (folder, key) = bundle();
        let opened = Bundle::open(folder.path()).expect("a bundle");
        let manifest = manifest(&opened).expect("a manifest");
        let (follow_up, steps) = chain(&opened, &manifest).expect("a chain");
        let hit = HitFacts {
            community: follow_up.community,
            hit: follow_up.hit,
            epoch: manifest.epoch,
            requester: follow_up.requester,
            holder: follow_up.holder,
        };
        let logged = Self {
            folder,
            key,
            signer: testing::log_signer(),
            steps,
            hit,
        };
        logged.log(&logged.entries());
        logged
    }

    /// What a broker logs: the steps, and the hit.
    fn entries(&self) -> Vec<Entry> {
        let steps = self.steps.iter().map(testing::step_entry);
        steps.chain([testing::hit_entry(&self.hit)]).collect()
    }

    /// Writes the proofs of these entries, in the place of those before.
    fn log(&self, entries: &[Entry]) {
        let (signed, proved) = testing::logged(&self.signer, entries);
        self.write(&signed, proved);
    }

    fn write(&self, signed: &SignedCheckpoint, proved: Vec<v1::ProvedEntry>) {
        let names = self.steps.iter().map(StepFacts::name);
        let names = names.chain([HIT.to_owned()]);
        for (name, proved) in names.zip(proved) {
            let logged = proved.entry.expect("an entry");
            let hash = |hash: &prost::bytes::Bytes| MerkleHash::from_slice(hash).expect("a hash");
            let hashes = proved.hashes.iter().map(hash).collect();
            let leaf = Leaf::parse(&logged.leaf).expect("a leaf");
            let receipt = Receipt::new(&leaf, logged.leaf_index, hashes, signed);
            let nonce = OpeningNonce::from_slice(&logged.nonce).expect("a nonce");
            let opening = Opening::new(nonce, logged.entry.to_vec());
            self.put(&receipt_path(&name), receipt.to_string().as_bytes());
            self.put(&opening_path(&name), &write_opening(&opening));
        }
        self.put(CHECKPOINT, signed.to_string().as_bytes());
    }

    fn put(&self, name: &str, content: &[u8]) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, content).expect("written");
        self.seal();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.folder.path().join(name)).expect("read")
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.folder.path().join(name)).expect("removed");
        self.seal();
    }

    /// As its exporter: a signed list of digests hides no change from what follows.
    fn seal(&self) {
        seal(self.folder.path(), &self.key);
    }

    fn verified(&self, key: Option<&LogKey>) -> Result<Inclusion> {
        self.witnessed(key, &WitnessArgs::default())
    }

    fn witnessed(&self, key: Option<&LogKey>, witnesses: &WitnessArgs) -> Result<Inclusion> {
        let opened = Bundle::open(self.folder.path())?;
        check(&opened, key, witnesses).map(|verified| verified.inclusion)
    }

    /// Writes the proofs under a checkpoint that these witnesses stand behind.
    fn cosigned(&self, by: &[Cosigner]) {
        let (mut signed, proved) = testing::logged(&self.signer, &self.entries());
        for cosigner in by {
            let at = Timestamp::from_seconds(60_000);
            let cosignature = cosigner.cosign(signed.checkpoint(), at);
            signed.put_cosignature(cosignature).expect("put");
        }
        self.write(&signed, proved);
    }

    fn refused(&self) -> String {
        match self.verified(Some(self.signer.key())) {
            Err(Fault::Failed { text, .. }) => text,
            Err(other) => panic!("{other:?}"),
            Ok(found) => panic!("must fail: {found:?}"),
        }
    }
}

const SUBMIT: &str = "000-SUBMIT";
const WITHDRAW: &str = "001-WITHDRAW";

#[test]
fn the_log_says_the_same_of_every_step_and_the_hit() {
    let logged = Logged::new();
    let found = logged.verified(Some(logged.signer.key())).expect("whole");
    assert_eq!(found.verdict(), "verified");
    assert_eq!((found.steps, found.hit), (2, true));
    let tree = found.tree.expect("a tree");
    assert_eq!((tree.size, tree.is_signed), (6, true));
    assert!(tree.cosigned.is_empty());
}

#[test]
fn without_the_key_of_the_log_it_is_said_that_nothing_shows_who_signed() {
    let logged = Logged::new();
    let found = logged.verified(None).expect("whole");
    assert_eq!(found.verdict(), "not checked, no --log-key");
    assert_eq!((found.steps, found.hit), (2, true));
    // Another log's key is no better than none, and is not what was asked for.
    let other = testing::log_signer();
    let refused = logged.verified(Some(other.key())).err();
    let text = match refused {
        Some(Fault::Failed { text, .. }) => text,
        other => panic!("{other:?}"),
    };
    assert!(text.starts_with(CHECKPOINT), "{text}");
}

#[test]
fn as_many_witnesses_as_are_asked_for_must_stand_behind_the_log() {
    let logged = Logged::new();
    let witness = |node: &str| {
        let signing = SigningKey::generate(&mut os_rng());
        let node = node.parse().expect("a node");
        Cosigner::new("sotto.test", node, signing).expect("a witness")
    };
    let cosigners = ["at-bk", "de-bka", "fr-pj"].map(witness);
    let keys: Vec<_> = cosigners.iter().map(|by| by.key().clone()).collect();
    logged.cosigned(&cosigners[..2]);
    let key = logged.signer.key();
    let outcome = |quorum| logged.witnessed(Some(key), &WitnessArgs::of(keys.clone(), quorum));
    let found = outcome(Some(2)).expect("enough");
    assert_eq!(found.cosignatures(), "verified, 2 where 2 must");
    assert_eq!(found.tree.expect("a tree").cosigned, ["at-bk", "de-bka"]);
    // All that are given must, unless a number is told.
    for quorum in [None, Some(3)] {
        let text = match outcome(quorum) {
            Err(Fault::Failed { text, .. }) => text,
            other => panic!("{other:?}"),
        };
        assert!(text.starts_with(CHECKPOINT), "{text}");
        assert!(text.contains("2 of the witnesses"), "{text}");
    }
}

#[test]
fn without_witnesses_it_is_said_that_cosignatures_were_not_checked() {
    let logged = Logged::new();
    let found = logged.verified(None).expect("whole");
    assert_eq!(found.cosignatures(), "not checked, no --log-key");
    let found = logged.verified(Some(logged.signer.key())).expect("whole");
    let told = found.cosignatures();
    assert!(told.starts_with("not checked, no --witness: 0 "), "{told}");
}

#[test]
fn what_is_missing_is_told_and_is_no_failure() {
    let logged = Logged::new();
    for path in [receipt_path(WITHDRAW), opening_path(WITHDRAW)] {
        logged.remove(&path);
    }
    let summary = format!("Some.\n\nMissing: {WITHDRAW}: not yet\n");
    logged.put(SUMMARY, summary.as_bytes());
    let found = logged.verified(Some(logged.signer.key())).expect("whole");
    assert_eq!(found.verdict(), "verified for 1 of 2 steps");
    assert_eq!(found.missing, ["001-WITHDRAW: not yet"]);
}

#[test]
fn an_altered_receipt_or_opening_is_refused_and_named() {
    let logged = Logged::new();
    let (receipt, opening) = (receipt_path(SUBMIT), opening_path(SUBMIT));
    let whole = String::from_utf8(logged.read(&receipt)).expect("UTF-8");
    let other = String::from_utf8(logged.read(&receipt_path(WITHDRAW))).expect("UTF-8");
    for (changed, why) in [
        (whole.replace("index 3\n", "index 2\n"), "not proved"),
        (whole.replace("\n6\n", "\n7\n"), "another checkpoint"),
        (whole.replace("tlog-proof@v1", "tlog-proof@v2"), "line 1"),
        // The leaf of another step under its own proof: the opening is not of it.
        (other, "does not open"),
    ] {
        logged.put(&receipt, changed.as_bytes());
        let text = logged.refused();
        assert!(text.contains(SUBMIT) && text.contains(why), "{text}");
    }
    logged.put(&receipt, whole.as_bytes());
    let text = logged.read(&opening);
    for changed in [logged.read(&opening_path(WITHDRAW)), b"{}".to_vec()] {
        logged.put(&opening, &changed);
        let refused = logged.refused();
        assert!(refused.starts_with(&opening), "{refused}");
    }
    logged.put(&opening, &text);
    assert!(logged.verified(None).is_ok());
    logged.remove(&opening);
    let refused = logged.refused();
    assert!(refused.starts_with(&opening), "{refused}");
}

#[test]
fn a_receipt_of_another_step_is_refused() {
    let logged = Logged::new();
    for path in [receipt_path, opening_path] {
        logged.put(&path(WITHDRAW), &logged.read(&path(SUBMIT)));
    }
    let text = logged.refused();
    assert!(text.starts_with(&receipt_path(WITHDRAW)), "{text}");
    assert!(text.contains("another number"), "{text}");

    let logged = Logged::new();
    for path in [receipt_path, opening_path] {
        logged.put(&path("002-CLOSE"), &logged.read(&path(SUBMIT)));
    }
    assert!(logged.refused().contains("of no step"));
}

#[test]
fn a_log_that_says_something_else_is_found_out() {
    type Change = fn(&mut [Entry]);
    let changes: [(&str, Change); 5] = [
        ("clear part", |e| {
            e[1].step.as_mut().expect("one").clear.push(0);
        }),
        ("digest of the statement", |e| {
            e[0].statement.as_mut().expect("one").digest = [9; 32];
        }),
        ("sender", |e| {
            e[0].actor = "spiffe://sotto.test/node/fr-pj".parse().expect("an id");
        }),
        ("requester", |e| e[2].recipient = None),
        ("holder", |e| e[2].object.node = None),
    ];
    for (field, change) in changes {
        let logged = Logged::new();
        let mut entries = logged.entries();
        change(&mut entries);
        logged.log(&entries);
        let text = logged.refused();
        assert!(text.contains(&format!("another {field} ")), "{text}");
    }
}

#[test]
fn of_an_erased_follow_up_the_log_still_says_who_took_which_step() {
    let logged = Logged::new();
    let told = |previous: &str| {
        serde_json::json!({
            "follow_up": { "shared": {
                "follow_up_id": logged.steps[0].follow_up.to_string(),
                "community": "euro-cyber",
                "hit_id": logged.hit.hit.to_string(),
                "requester": "nl-fiu",
                "holder": "de-bka",
                "state": "WITHDRAWN",
                "erased": true,
            } },
            "steps": [
                { "seq": 0, "step": "SUBMIT", "sender": "nl-fiu", "previous": "00".repeat(32) },
                { "seq": 1, "step": "WITHDRAW", "sender": "nl-fiu", "previous": previous },
            ],
        })
    };
    for name in [SUBMIT, WITHDRAW] {
        logged.remove(&format!("statements/{name}.pb"));
    }
    logged.put(ERASED, b"It was erased.");
    let digest = hex::encode(logged.steps[0].digest.expect("kept"));
    logged.put("follow-up.json", told(&digest).to_string().as_bytes());
    let found = logged.verified(Some(logged.signer.key())).expect("whole");
    assert_eq!((found.verdict().as_str(), found.hit), ("verified", true));
    let other = told(&"11".repeat(32)).to_string();
    logged.put("follow-up.json", other.as_bytes());
    assert!(logged.refused().contains("digest of the statement"));
}
