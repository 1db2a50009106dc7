//! What a node checks before it cosigns (protocol §11): that the log has only grown since the last
//! checkpoint that it stored. It checks, stores, and then cosigns.

use super::checkpoint::{Checkpoint, SignedCheckpoint};
use super::merkle::{MerkleHash, TreeHead};
use super::proof::{ProofError, verify_consistency};

/// How a checkpoint goes on from the stored one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// The log has grown, or is seen for the first time: store the checkpoint, then cosign it.
    Grown,
    /// The same tree as before: it may be cosigned anew, which tells that it is still the largest.
    Same,
}

/// Why a checkpoint is not cosigned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WitnessError {
    /// A checkpoint of another log.
    #[error("the checkpoint is of another log")]
    OtherLog,
    /// A checkpoint that lies behind the stored one. It may be late, and says nothing of the log.
    #[error("the checkpoint has {offered} leaves; one of {stored} is known")]
    Behind {
        /// Size of the stored tree.
        stored: u64,
        /// Size of the tree that was offered.
        offered: u64,
    },
    /// Two trees of one size: the log shows different histories.
    #[error("the log has signed two different trees of {size} leaves")]
    Forked {
        /// The size.
        size: u64,
    },
    /// Consistency is not proved.
    #[error("the log is not shown to have only grown: {0}")]
    Inconsistent(#[from] ProofError),
}

impl WitnessError {
    /// Whether the node raises an alarm and stops acting on hits (protocol §11). Both checkpoints
    /// are evidence then, and are kept with their signatures.
    pub const fn is_alarm(&self) -> bool {
        match self {
            Self::Forked { .. } | Self::Inconsistent(_) => true,
            Self::OtherLog | Self::Behind { .. } => false,
        }
    }
}

/// Checks a checkpoint against the last one that this node stored of the log, `None` if none. The
/// proof goes from the stored size to the offered one; it is empty for the first checkpoint.
///
/// # Errors
/// [`WitnessError`]; [`WitnessError::is_alarm`] says which of them accuse the log.
pub fn follow(
    stored: Option<&Checkpoint>,
    offered: &SignedCheckpoint,
    proof: &[MerkleHash],
) -> Result<Progress, WitnessError> {
    let offered = offered.checkpoint();
    if stored.is_some_and(|stored| stored.origin != offered.origin) {
        return Err(WitnessError::OtherLog);
    }
    let (old, new) = (
        stored.map_or_else(TreeHead::empty, |known| known.head),
        offered.head,
    );
    if old.size > new.size {
        return Err(WitnessError::Behind {
            stored: old.size,
            offered: new.size,
        });
    }
    if stored.is_some() && old.size == new.size {
        let size = new.size;
        return if old == new {
            Ok(Progress::Same)
        } else {
            Err(WitnessError::Forked { size })
        };
    }
    verify_consistency(&old, &new, proof)?;
    Ok(Progress::Grown)
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::LogSigner;
    use super::super::edge::RightEdge;
    use super::super::proof::ProofPlan;
    use super::super::reader::TileSet;
    use super::*;
    use crate::dsse::SigningKey;
    use crate::secret::Secret;

    fn log(name: &str) -> LogSigner {
        let origin = format!("{name}/sotto/euro-cyber").parse().unwrap();
        LogSigner::new(origin, SigningKey::from_seed(&Secret::new([7; 32])))
    }

    /// A log of `size` leaves that tells one of two histories.
    fn history(history: u8, size: u64) -> (TileSet, TreeHead) {
        let leaves =
            (0..size).map(|n| MerkleHash::of_leaf(&[&[history], &n.to_be_bytes()[..]].concat()));
        let (mut tiles, mut edge) = (TileSet::new(), RightEdge::new());
        for new in edge.append(leaves) {
            tiles.insert(new.tile, new.bytes);
        }
        (tiles, edge.head())
    }

    #[test]
    fn a_log_that_only_grows_is_followed() {
        let log = log("a.example");
        let (tiles, head) = history(0, 40);
        let first = log.sign(RightEdge::load(23, &tiles).unwrap().head());
        assert_eq!(follow(None, &first, &[]), Ok(Progress::Grown));
        let stored = first.checkpoint();
        assert_eq!(follow(Some(stored), &first, &[]), Ok(Progress::Same));
        let proof = ProofPlan::consistency(23, 40)
            .unwrap()
            .prove(&tiles)
            .unwrap();
        assert_eq!(
            follow(Some(stored), &log.sign(head), &proof),
            Ok(Progress::Grown)
        );
        let empty = log.sign(TreeHead::empty());
        assert_eq!(follow(None, &empty, &[]), Ok(Progress::Grown));
        assert_eq!(
            follow(Some(empty.checkpoint()), &first, &[]),
            Ok(Progress::Grown)
        );
    }

    #[test]
    fn a_log_that_changes_its_history_raises_an_alarm() {
        let log = log("a.example");
        let (_, told) = history(0, 23);
        let (tiles, other) = history(1, 40);
        let stored = log.sign(told).checkpoint().clone();
        let proof = ProofPlan::consistency(23, 40)
            .unwrap()
            .prove(&tiles)
            .unwrap();
        let error = follow(Some(&stored), &log.sign(other), &proof).unwrap_err();
        assert_eq!(error, WitnessError::Inconsistent(ProofError::Root));
        assert!(error.is_alarm());
        let forked = log.sign(RightEdge::load(23, &tiles).unwrap().head());
        let error = follow(Some(&stored), &forked, &[]).unwrap_err();
        assert_eq!(error, WitnessError::Forked { size: 23 });
        assert!(error.is_alarm());
    }

    #[test]
    fn a_late_checkpoint_or_one_of_another_log_accuses_nobody() {
        let (a, b) = (log("a.example"), log("b.example"));
        let (tiles, head) = history(0, 23);
        let stored = a.sign(head).checkpoint().clone();
        let late = a.sign(RightEdge::load(7, &tiles).unwrap().head());
        let error = follow(Some(&stored), &late, &[]).unwrap_err();
        assert_eq!(
            error,
            WitnessError::Behind {
                stored: 23,
                offered: 7
            }
        );
        assert!(!error.is_alarm());
        let error = follow(Some(&stored), &b.sign(head), &[]).unwrap_err();
        assert_eq!(error, WitnessError::OtherLog);
        assert!(!error.is_alarm());
    }
}
