//! The audit log away from the broker (protocol §11, workflow.md "Audit"): what an auditor does with
//! an export, without a network and without believing anybody.
//!
//! [`export`] is the file, read and written message by message. [`verify`] goes through its entries
//! once and ends at the first that fails: the tree and its checkpoint, the cosignatures, the openings
//! and whether those that are missing were erased, what nodes have signed, and, entry by entry, whether
//! who acted might, and whether what is said to have happened may have happened. [`statistics`] counts what the entries say, [`html`] draws it. [`planted`] compares what was
//! planted with what was told: what is left out, no log shows.
//!
//! Memory grows with what has states (hits, sessions, publications, follow-ups), not with the file.

pub(crate) mod erasures;
pub mod export;
pub mod failure;
mod head;
pub mod html;
pub mod planted;
mod replay;
mod standing;
mod statements;
pub mod statistics;
#[cfg(test)]
mod testing;
pub mod verify;
