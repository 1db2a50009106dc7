//! How a session is opened or resumed (protocol §4, §7).

use std::collections::{BTreeSet, HashSet};

use sha2::{Digest as _, Sha256};
use sotto_common::epoch::Kid;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::grounds::Grounds;
use sotto_common::ids::{NodeId, RecordRef, SessionId};
use sotto_common::membership::Manifest;
use sotto_common::probe::{MAX_BATCH, SessionNonce, session_commitment};
use sotto_common::secret::Tag;
use sotto_common::service::tls::MAX_MESSAGE;
use sotto_common::time::Timestamp;
use sotto_proto::convert::answer::{self, AtHolder};

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
    pub(crate) form: AnswerForm,
}

/// How answers are written: as their prober reads them.
#[derive(Clone, Copy)]
pub(crate) enum AnswerForm {
    /// For nodes of before.
    ByRef,
    ByHolder,
}

impl AnswerForm {
    /// A serialised `ProbeMatches`.
    pub(super) fn write(self, answer: &[AtHolder], refs: &[RecordRef]) -> Vec<u8> {
        match self {
            Self::ByRef => answer::write_by_ref(answer, refs),
            Self::ByHolder => answer::write(answer, refs.len()),
        }
    }

    /// Refuses to repeat an answer that the prober would find empty: what it was told is logged, and
    /// cannot be written otherwise now.
    pub(super) fn check_recorded(self, answer: &[u8]) -> Result<()> {
        if matches!(self, Self::ByRef) && answer::is_by_holder(answer) {
            let text = "this batch was answered by holder: open a new session";
            return Err(Error::new(ErrorCode::SessionMismatch, text));
        }
        Ok(())
    }

    fn max_pairs(self, holders: usize) -> usize {
        let widths = self.widths();
        let of_pair = (widths.of_pair + widths.of_match * holders).max(1);
        let pairs = (MAX_MESSAGE - widths.envelope) / of_pair;
        pairs.clamp(1, MAX_BATCH)
    }

    /// Those of ref never change: nodes of before resume sessions with batches that were cut by them.
    const fn widths(self) -> Widths {
        match self {
            // A record ref with its tags and lengths; name of at most 35 bytes, version, probability,
            // hit id, tags and lengths.
            Self::ByRef => Widths {
                envelope: 64 * 1024,
                of_pair: 24,
                of_match: 80,
            },
            // Some 80 bytes for each holder; a share of the bitmap, a version and a hit id.
            Self::ByHolder => Widths {
                envelope: 128 * 1024,
                of_pair: 0,
                of_match: 27,
            },
        }
    }
}

/// Most bytes of an answer.
struct Widths {
    /// Around the matches.
    envelope: usize,
    /// For a pair that matches.
    of_pair: usize,
    /// For a pair that matches one holder.
    of_match: usize,
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
    let others = manifest.members.len().saturating_sub(1);
    let holders = match opening.targets.len() {
        0 => others,
        targets => targets.min(others),
    };
    // Unwrap safety: at most 4096.
    u32::try_from(opening.form.max_pairs(holders)).unwrap_or(1)
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

#[cfg(test)]
mod tests {
    use sotto_common::ids::HitId;
    use sotto_common::membership::MAX_MEMBERS;
    use sotto_common::random::os_rng;
    use sotto_proto::convert::answer::AnsweredHit;

    use super::*;

    /// All pairs at all holders, and of each what takes most bytes.
    fn longest(holders: usize, pairs: usize) -> Vec<AtHolder> {
        let id = HitId::generate(Timestamp::from_seconds(1), &mut os_rng());
        let hit = |pair| AnsweredHit {
            pair: u16::try_from(pair).expect("below 4096"),
            // Not the same for all, of nine bytes.
            version: (i64::MAX as u64) - (pair % 2) as u64,
            id,
        };
        let at = |number| AtHolder {
            holder: format!("de-{number:032}").parse().expect("a node"),
            f_total: 0.5,
            hits: (0..pairs).map(hit).collect(),
        };
        (0..holders).map(at).collect()
    }

    #[test]
    fn the_longest_answer_is_one_message() {
        for form in [AnswerForm::ByRef, AnswerForm::ByHolder] {
            for holders in [1, 12, 13, 36, 37, 100, MAX_MEMBERS - 1] {
                let pairs = form.max_pairs(holders);
                let refs: Vec<_> = (0..pairs as u128)
                    .map(|i| RecordRef::new(i.to_be_bytes()))
                    .collect();
                let length = form.write(&longest(holders, pairs), &refs).len();
                // Number, place and lengths are around it.
                assert!(length + 64 <= MAX_MESSAGE, "{holders} holders: {length}");
                assert!(
                    pairs == MAX_BATCH || length > MAX_MESSAGE / 5 * 4,
                    "{holders}"
                );
            }
        }
    }

    #[test]
    fn batches_by_ref_are_cut_as_they_were_before() {
        let cut = [13, 19, 37].map(|holders| AnswerForm::ByRef.max_pairs(holders));
        assert_eq!(cut, [3880, 2674, 1383]);
    }
}
