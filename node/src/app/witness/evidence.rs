//! The alarm: what is kept against the log, and how a supervisor ends it.

use prost::Message as _;
use sotto_common::error::{Error, Result};
use sotto_common::log::checkpoint::SignedCheckpoint;
use sotto_common::log::merkle::MerkleHash;
use sotto_proto::convert::to_timestamp;
use sotto_proto::v1;

use super::super::App;
use super::FollowedLog;
use crate::access::{Access, Why};
use crate::auth::Caller;
use crate::store::{Evidence, StoredEvidence};

/// What ending an alarm is called in the access log: the call that it came by.
const CLEAR: &str = "NodeAdminService/ClearEvidence";

/// The longest serialised entry, and leaf, that are kept: evidence is to be readable.
const MAX_ENTRY: usize = 256 * 1024;
const MAX_LEAF: usize = 1024;

/// A contradiction as it is found.
pub(crate) struct Contradiction<'a> {
    /// What failed, in words.
    pub(crate) what: String,
    /// The note that was found consistent before.
    pub(crate) known: Option<Vec<u8>>,
    /// The checkpoint that does not go with it, or under which a proof failed.
    pub(crate) offered: &'a SignedCheckpoint,
    /// The proof that failed.
    pub(crate) proof: Vec<MerkleHash>,
    /// What an entry was asked for, and the entry.
    pub(crate) about: Option<(String, v1::LoggedEntry)>,
}

impl App {
    /// Raises the alarm: keeps the evidence, and stops whatever acts on hits (protocol §11).
    ///
    /// # Errors
    /// Those of the store; the contradiction is found again then.
    pub(in crate::app) async fn raise(
        &self,
        log: &FollowedLog,
        found: Contradiction<'_>,
    ) -> Result<()> {
        let (subject, entry) = found.about.unzip();
        let evidence = Evidence {
            at: self.clock.now(),
            what: found.what,
            log_key: log.key.to_string(),
            known: found.known.unwrap_or_default(),
            offered: found.offered.to_string().into_bytes(),
            proof: found.proof,
            subject: subject.unwrap_or_default(),
            entry: entry.map(|entry| bounded(entry).encode_to_vec()),
        };
        self.store.put_evidence(&evidence).await?;
        tracing::error!(
            what = %evidence.what,
            log = %log.key.origin(),
            "the audit log contradicts itself: nothing is done on hits until a supervisor has \
             looked at `sotto-node evidence ls`"
        );
        Ok(())
    }

    /// Ends the alarm; tells how many contradictions stood. The evidence stays.
    ///
    /// # Errors
    /// `INVALID_FIELD` without a reason; those of the store.
    pub(crate) async fn clear_evidence(
        &self,
        caller: &Caller,
        reason: &str,
        begin_anew: bool,
    ) -> Result<u64> {
        let why = Why::required(reason).map_err(|error| error.about("reason"))?;
        let objects = if begin_anew {
            vec!["begin anew".to_owned()]
        } else {
            Vec::new()
        };
        let note = Access {
            at: self.clock.now(),
            person: caller.person.clone(),
            action: CLEAR.to_owned(),
            objects,
            why: why.or_cases([]),
        };
        let turn = match &self.log {
            Some(log) => Some(log.turn.lock().await),
            None => None,
        };
        let cleared = self.store.clear_evidence(&note, begin_anew).await?;
        drop(turn);
        tracing::warn!(cleared, begin_anew, "a supervisor has ended the alarm");
        // What waited meanwhile goes on.
        self.follow_ups_moved.notify_one();
        if let Some(log) = &self.log {
            log.cleared.notify_one();
        }
        Ok(cleared)
    }
}

/// An entry as it is kept: without its opening if that is longer than any that a broker writes.
fn bounded(entry: v1::LoggedEntry) -> v1::LoggedEntry {
    let mut entry = entry;
    if entry.entry.len() > MAX_ENTRY {
        entry.entry.clear();
        entry.nonce.clear();
    }
    entry.leaf.truncate(MAX_LEAF);
    entry
}

/// Evidence as the node's people get it.
///
/// # Errors
/// `INTERNAL` if the store's entry is none.
pub(crate) fn evidence_response(stored: StoredEvidence) -> Result<v1::ListEvidenceResponse> {
    let evidence = stored.evidence;
    let entry = evidence.entry.as_deref().map(v1::LoggedEntry::decode);
    let hash = |hash: &MerkleHash| hash.as_bytes().to_vec().into();
    Ok(v1::ListEvidenceResponse {
        number: stored.number,
        at: Some(to_timestamp(evidence.at)),
        what: evidence.what,
        log_key: evidence.log_key,
        known: evidence.known.into(),
        offered: evidence.offered.into(),
        hashes: evidence.proof.iter().map(hash).collect(),
        entry: entry.transpose().map_err(Error::internal)?,
        subject: evidence.subject,
        cleared_at: stored.cleared_at.map(to_timestamp),
    })
}
