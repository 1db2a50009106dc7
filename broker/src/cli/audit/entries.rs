//! `audit ls` and `audit show`.

use clap::Args;
use serde_json::{Value, json};
use sotto_common::ids::{FollowUpId, NodeId};
use sotto_common::log::checkpoint::{Checkpoint, LogKey, SignedCheckpoint};
use sotto_common::log::entry::Entry;
use sotto_common::log::kind::{EntryKind, Verb};
use sotto_common::log::leaf::{Leaf, Opening, OpeningNonce};
use sotto_common::log::merkle::MerkleHash;
use sotto_common::log::note::Note;
use sotto_common::log::proof::verify_inclusion;
use sotto_common::service::client::unary;
use sotto_common::time::Timestamp;
use sotto_proto::convert::log::read_entry;
use sotto_proto::{convert, v1};

use super::super::operator::{Client, answer, date};
use super::super::print::{csv_row, say};
use super::super::{Fault, Output, Result};
use super::does_not_hold;

const PAGE: u32 = 1000;
const SECONDS_PER_HOUR: u64 = 3600;

const COLUMNS: [&str; 14] = [
    "index",
    "at",
    "kind",
    "verb",
    "action",
    "actor",
    "node",
    "recipient",
    "epoch",
    "policy",
    "case",
    "object",
    "change",
    "detail",
];

/// Which entries; every one that is given must hold.
#[derive(Debug, Args)]
pub(in crate::cli) struct Filter {
    /// Only of this UTC day or instant, or later: 2026-01-31, 2026-01-31T08:00:00Z.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only before this UTC day or instant.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only what this node did, got, or is about.
    #[arg(long)]
    node: Option<NodeId>,
    /// Only of this kind, e.g. `PROBE_BATCH`.
    #[arg(long, value_parser = kind)]
    kind: Option<EntryKind>,
    /// Only of this verb, e.g. DISCLOSURE.
    #[arg(long, value_parser = verb)]
    verb: Option<Verb>,
    /// Only of this case reference.
    #[arg(long, value_name = "REFERENCE")]
    case: Option<String>,
    /// Only of this follow-up.
    #[arg(long, value_name = "ID")]
    follow_up: Option<FollowUpId>,
    /// At most so many.
    #[arg(long, value_name = "NUMBER")]
    limit: Option<usize>,
}

impl Filter {
    fn request(self, community: String) -> Result<v1::ListEntriesRequest> {
        let kind = self.kind.map(v1::EntryKind::from).unwrap_or_default();
        let verb = self.verb.map(v1::Verb::from).unwrap_or_default();
        let id = self.follow_up.map(|id| id.as_bytes().to_vec().into());
        Ok(v1::ListEntriesRequest {
            community,
            since: instant("--since", self.since.as_deref())?,
            until: instant("--until", self.until.as_deref())?,
            node: self.node.map(|node| node.to_string()).unwrap_or_default(),
            kind: kind.into(),
            verb: verb.into(),
            case_ref: self.case.unwrap_or_default(),
            follow_up_id: id.unwrap_or_default(),
            page_size: PAGE,
            page_token: String::new(),
        })
    }
}

impl Client {
    /// Pages through; CSV goes out page by page, however long it is.
    pub(super) async fn ls(&self, community: String, filter: Filter) -> Result<()> {
        let mut left = filter.limit.unwrap_or(usize::MAX);
        let mut request = filter.request(community)?;
        let mut service = self.audit_service();
        let is_csv = self.output() == Output::Csv;
        if is_csv {
            say(&COLUMNS.join(","))?;
        }
        let mut rows = Vec::new();
        while left > 0 {
            let page = answer(service.list_entries(unary(request.clone())).await)?;
            for logged in page.entries.iter().take(left) {
                let row = row(logged);
                if is_csv {
                    say(&csv_row(&COLUMNS, &row))?;
                } else {
                    rows.push(row);
                }
            }
            left = left.saturating_sub(page.entries.len());
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        if is_csv {
            return Ok(());
        }
        self.print(&COLUMNS, rows)
    }

    pub(super) async fn show(
        &self,
        community: String,
        index: u64,
        key: Option<&LogKey>,
    ) -> Result<()> {
        let mut service = self.log_service();
        let request = v1::GetEntryRequest {
            community: community.clone(),
            leaf_index: index,
        };
        let shown = answer(service.get_entry(unary(request)).await)?;
        let logged = shown.entry.unwrap_or_default();
        let request = v1::GetCheckpointRequest {
            community: community.clone(),
            cosignatures: 0,
        };
        let note = answer(service.get_checkpoint(unary(request)).await)?.note;
        let checkpoint = checkpoint(&note, key)?;
        let request = v1::ProveInclusionRequest {
            community,
            leaf_index: index,
            tree_size: checkpoint.head.size,
        };
        let proof = answer(service.prove_inclusion(unary(request)).await)?;
        let faults = faults(index, &logged, &checkpoint, &proof);
        self.print_entry(&logged, &checkpoint, key.is_some(), &faults)?;
        if faults.is_empty() {
            return Ok(());
        }
        Err(does_not_hold(format!(
            "entry {index}: {}",
            faults.join("; ")
        )))
    }

    fn print_entry(
        &self,
        logged: &v1::LoggedEntry,
        checkpoint: &Checkpoint,
        is_signed: bool,
        faults: &[&str],
    ) -> Result<()> {
        let mut shown = whole(logged);
        let opening = if logged.entry.is_empty() {
            "erased"
        } else {
            "there"
        };
        let signed = if is_signed {
            "signed by the log's key"
        } else {
            "its signature was not verified: give --log-key"
        };
        shown["leaf"] = hex::encode(&logged.leaf).into();
        shown["opening"] = opening.into();
        shown["checkpoint"] = format!("{} leaves, {signed}", checkpoint.head.size).into();
        shown["verified"] = if faults.is_empty() {
            "the opening fits the leaf, the leaf is in the tree".into()
        } else {
            faults.join("; ").into()
        };
        if self.output() == Output::Json {
            return say(&shown);
        }
        let fields = shown.as_object().into_iter().flatten();
        let rows = fields.map(|(field, value)| json!({"field": field, "value": value}));
        self.print(&["field", "value"], rows.collect())
    }
}

/// What must not be.
fn faults(
    index: u64,
    logged: &v1::LoggedEntry,
    checkpoint: &Checkpoint,
    proof: &v1::ProveInclusionResponse,
) -> Vec<&'static str> {
    let mut faults = Vec::new();
    if logged.leaf_index != index || logged.leaf != proof.leaf {
        faults.push("the entry that was given is another than the one that was proved");
    }
    let nonce = OpeningNonce::from_slice(&logged.nonce);
    let opening = nonce.map(|nonce| Opening::new(nonce, logged.entry.to_vec()));
    let is_erased = logged.nonce.is_empty() && logged.entry.is_empty();
    let fits = match opening {
        None => is_erased,
        // protocol §11: a leaf ends with the digest of its opening, of whatever kind it is.
        Some(opening) => logged.leaf.last_chunk() == Some(&opening.digest()),
    };
    if !fits {
        faults.push("the opening does not fit the leaf");
    }
    let leaf = MerkleHash::of_leaf(&logged.leaf);
    let hashes = hashes(&proof.hashes);
    let proved = hashes
        .is_some_and(|hashes| verify_inclusion(&leaf, index, &checkpoint.head, &hashes).is_ok());
    if !proved {
        faults.push("the proof does not show the leaf in the tree of the checkpoint");
    }
    faults
}

/// Hashes of a proof; `None` if one is none.
pub(super) fn hashes<B: AsRef<[u8]>>(hashes: &[B]) -> Option<Vec<MerkleHash>> {
    let hashes = hashes.iter();
    hashes
        .map(|hash| MerkleHash::from_slice(hash.as_ref()))
        .collect()
}

/// A checkpoint, verified if there is a key.
fn checkpoint(note: &[u8], key: Option<&LogKey>) -> Result<Checkpoint> {
    let Some(key) = key else {
        return Ok(Note::parse(note)?.text().parse()?);
    };
    let signed = SignedCheckpoint::open(note, key);
    let signed = signed.map_err(|error| does_not_hold(format!("the checkpoint: {error}")))?;
    Ok(signed.checkpoint().clone())
}

/// A row of the list.
fn row(logged: &v1::LoggedEntry) -> Value {
    let Ok(entry) = read_entry(&logged.entry) else {
        return unread(logged);
    };
    let object = &entry.object;
    let change = entry.change.as_ref();
    json!({
        "index": logged.leaf_index,
        "at": entry.at.to_string(),
        "kind": entry.action.kind().as_str(),
        "verb": entry.action.verb().as_str(),
        "action": entry.action.as_str(),
        "actor": entry.actor.to_string(),
        "node": object.node.as_ref().map(NodeId::as_str),
        "recipient": entry.recipient.as_ref().map(NodeId::as_str),
        "epoch": object.epoch.map(sotto_common::ids::Epoch::get),
        "policy": object.policy.map(sotto_common::selector::Policy::name),
        "case": entry.grounds.as_ref().map(sotto_common::grounds::Grounds::case_ref),
        "object": main_object(&entry),
        "change": change.map(|change| format!("{} > {}", change.from, change.to)),
        "detail": entry.detail,
    })
}

/// What is left of an entry that was erased, or is not known to this version.
fn unread(logged: &v1::LoggedEntry) -> Value {
    let action = if logged.entry.is_empty() {
        "(erased)"
    } else {
        "(not known here)"
    };
    let leaf = Leaf::parse(&logged.leaf).ok();
    let hour = leaf.map(|leaf| leaf.hour().saturating_mul(SECONDS_PER_HOUR));
    let hour = hour.and_then(|seconds| i64::try_from(seconds).ok());
    json!({
        "index": logged.leaf_index,
        "at": hour.map(|seconds| Timestamp::from_seconds(seconds).to_string()),
        "kind": leaf.map(|leaf| leaf.kind().as_str()),
        "action": action,
    })
}

/// The id of what the entry is about first of all.
fn main_object(entry: &Entry) -> Option<String> {
    let object = &entry.object;
    let attachment = object.attachment.map(|id| id.to_string());
    attachment
        .or_else(|| object.follow_up.map(|id| id.to_string()))
        .or_else(|| object.hit.map(|id| id.to_string()))
        .or_else(|| object.session.map(|id| id.to_string()))
        .or_else(|| object.publication.map(|id| id.to_string()))
}

/// Every field that is there.
fn whole(logged: &v1::LoggedEntry) -> Value {
    let mut shown = row(logged);
    let Ok(entry) = read_entry(&logged.entry) else {
        return shown;
    };
    let object = &entry.object;
    let mut add = |field: &str, value: Option<Value>| {
        if let Some(value) = value {
            shown[field] = value;
        }
    };
    add("entry_id", Some(entry.id.to_string().into()));
    add("community", Some(entry.community.as_str().into()));
    add("software", Some(entry.software.as_str().into()));
    add(
        "publication",
        object.publication.map(|id| id.to_string().into()),
    );
    add("session", object.session.map(|id| id.to_string().into()));
    add("hit", object.hit.map(|id| id.to_string().into()));
    add(
        "follow_up",
        object.follow_up.map(|id| id.to_string().into()),
    );
    add(
        "attachment",
        object.attachment.map(|id| id.to_string().into()),
    );
    add("version", object.version.map(Value::from));
    if let Some(grounds) = &entry.grounds {
        add("purpose", Some(grounds.purpose().as_str().into()));
        add("legal_basis", Some(grounds.legal_basis().as_str().into()));
        add("legal_basis_reference", Some(grounds.reference().into()));
    }
    if let Some(batch) = &entry.batch {
        add("number", Some(batch.number.into()));
        add("refs", Some(batch.refs.into()));
        add("matches", Some(batch.matches.into()));
        add("tags_digest", Some(hex::encode(batch.tags_digest).into()));
        add(
            "answer_digest",
            Some(hex::encode(batch.answer_digest).into()),
        );
    }
    if let Some((refs, class)) = entry.limits {
        add("daily_refs", Some(refs.into()));
        add("max_class", Some(class.into()));
    }
    if let Some(statement) = &entry.statement {
        add(
            "statement_digest",
            Some(hex::encode(statement.digest).into()),
        );
        let envelope = statement.envelope.as_ref();
        add("statement", envelope.map(|bytes| hex::encode(bytes).into()));
    }
    if let Some(step) = &entry.step {
        add("number", Some(step.number.into()));
        add("clear", Some(hex::encode(&step.clear).into()));
    }
    shown
}

/// A UTC day, or an instant of RFC 3339.
fn instant(option: &'static str, text: Option<&str>) -> Result<Option<prost_types::Timestamp>> {
    let Some(text) = text else {
        return Ok(None);
    };
    let at = match Timestamp::parse_rfc3339(text) {
        Some(at) => at,
        None => date(option, text).map_err(|_| Fault {
            text: format!(
                "{option} is a day such as 2026-01-31 or a time such as 2026-01-31T08:00:00Z"
            ),
            code: 2,
        })?,
    };
    Ok(Some(convert::to_timestamp(at)))
}

fn kind(text: &str) -> Result<EntryKind, String> {
    let names = EntryKind::ALL.iter().map(|kind| kind.as_str());
    EntryKind::parse(text).ok_or_else(|| one_of(names))
}

fn verb(text: &str) -> Result<Verb, String> {
    let names = Verb::ALL.iter().map(|verb| verb.as_str());
    Verb::parse(text).ok_or_else(|| one_of(names))
}

fn one_of<'n>(names: impl Iterator<Item = &'n str>) -> String {
    format!("one of {}", names.collect::<Vec<_>>().join(", "))
}
