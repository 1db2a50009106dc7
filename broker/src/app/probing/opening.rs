//! How a session is opened or resumed (protocol §4, §7).

use std::collections::{BTreeSet, HashSet};

use sha2::{Digest as _, Sha256};
use sotto_common::epoch::Kid;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::grounds::Grounds;
use sotto_common::ids::{NodeId, SessionId};
use sotto_common::membership::Manifest;
use sotto_common::probe::{MAX_BATCH, SessionNonce, session_commitment};
use sotto_common::secret::Tag;
use sotto_common::service::tls::MAX_MESSAGE;
use sotto_common::time::Timestamp;

use crate::datastore::{SessionRecord, StackKey};

/// What opens or resumes a session, checked for its form.
pub(crate) struct Opening {
    pub(crate) id: SessionId,
    pub(crate) key: StackKey,
    pub(crate) forms: [u8; 32],
    pub(crate) kid: Kid,
    pub(crate) canary_tags: Vec<Tag>,
    pub(crate) nonce: SessionNonce,
    pub(crate) grounds: Grounds,
    pub(crate) targets: BTreeSet<NodeId>,
}

/// protocol §4: the opening carries the canaries of its key, and the forms of its code.
pub(super) fn check_opening(opening: &Opening, manifest: &Manifest) -> Result<()> {
    let row = manifest.policy(opening.key.policy)?;
    if opening.kid != manifest.kid() {
        return Err(Error::new(
            ErrorCode::KeyMismatch,
            "kid is not that of the epoch's key",
        ));
    }
    let carried: HashSet<_> = opening.canary_tags.iter().collect();
    let expected: HashSet<_> = row.canary_tags.iter().collect();
    if carried != expected {
        let text = "the canary tags are not the epoch's: the key is wrong";
        return Err(Error::new(ErrorCode::CanaryMissing, text));
    }
    if opening.forms != row.forms {
        let text = "forms is not the epoch's: the normal form has drifted";
        return Err(Error::new(ErrorCode::FormsMismatch, text));
    }
    Ok(())
}

/// protocol §7: "resumes under its id with the same nonce and opening".
pub(super) fn check_resumption(known: &SessionRecord, asked: &SessionRecord) -> Result<()> {
    if known.prober != asked.prober {
        // Another node's session is as good as unknown.
        return Err(Error::new(
            ErrorCode::SessionMismatch,
            "this session id is taken",
        ));
    }
    if known.closed {
        return Err(Error::new(
            ErrorCode::SessionUnknown,
            "the session is closed: open a new one",
        ));
    }
    if known.commitment != asked.commitment || known.opening != asked.opening {
        let text = "a session resumes with the same nonce and opening";
        return Err(Error::new(ErrorCode::SessionMismatch, text));
    }
    Ok(())
}

/// Most pairs of a batch whose answer, should every ref match every holder, is one message of
/// 4 MiB (protocol §12); 4096 at most (protocol §7).
pub(super) fn max_pairs(opening: &Opening, manifest: &Manifest) -> u32 {
    /// What is around the refs of an answer.
    const ENVELOPE: usize = 64 * 1024;
    /// A record ref with its tags and lengths.
    const REF: usize = 24;
    /// A holder: name of at most 35 bytes, version, probability, hit id, tags and lengths.
    const HOLDER: usize = 80;
    let others = manifest.members.len().saturating_sub(1);
    let holders = match opening.targets.len() {
        0 => others,
        targets => targets.min(others),
    };
    let pairs = (MAX_MESSAGE - ENVELOPE) / (REF + HOLDER * holders);
    // Unwrap safety: at most 4096.
    u32::try_from(pairs.clamp(1, MAX_BATCH)).unwrap_or(1)
}

/// The row of a session that begins.
pub(super) fn session_record(prober: &NodeId, opening: &Opening, now: Timestamp) -> SessionRecord {
    SessionRecord {
        id: opening.id,
        key: opening.key.clone(),
        prober: prober.clone(),
        commitment: Some(session_commitment(&opening.nonce)),
        opening: opening_digest(opening),
        grounds: opening.grounds.clone(),
        batches: 0,
        refs: 0,
        opened_at: now,
        closed: false,
    }
}

/// A digest of the opening's fields besides id and what the manifest fixes: a column of the
/// ledger, not part of the protocol. The nonce, which the ledger does not have, keeps a reader of
/// the ledger from guessing the case reference.
fn opening_digest(opening: &Opening) -> [u8; 32] {
    let StackKey {
        community,
        epoch,
        policy,
    } = &opening.key;
    let epoch = epoch.to_string();
    let mut fields = vec![
        community.as_str(),
        &epoch,
        policy.name(),
        opening.grounds.purpose().as_str(),
        opening.grounds.legal_basis().as_str(),
        opening.grounds.reference(),
        opening.grounds.case_ref(),
    ];
    fields.extend(opening.targets.iter().map(NodeId::as_str));
    let mut hasher = Sha256::new();
    hasher.update(opening.nonce.secret().expose());
    for field in fields {
        hasher.update((field.len() as u64).to_be_bytes());
        hasher.update(field);
    }
    hasher.finalize().into()
}
