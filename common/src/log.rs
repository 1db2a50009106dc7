//! The audit log (protocol §11): one append-only Merkle tree for each community, which an auditor
//! can believe without believing the broker.
//!
//! A newcomer begins at [`action`], everything that is logged, [`entry`], what is said of it, and
//! [`leaf`], what of that is public. [`merkle`] has the
//! hashes, [`tile`] and [`bundle`] how tree and leaves are stored, [`reader`] the one way to read
//! them, [`edge`] how a tree grows. [`proof`] makes and verifies inclusion and consistency without
//! ever holding a tree. [`origin`], [`note`] and [`checkpoint`] are what the broker signs,
//! [`cosignature`] what the nodes sign, [`witness`] what a node checks before it does, [`quorum`]
//! whether enough of them have, and [`receipt`] the file that proves one entry to anybody. [`planted`]
//! measures what no proof shows: that hits are not left out.
//!
//! The formats are those of RFC 6962 and c2sp.org, so that tools of others can check the log.

pub mod action;
pub mod bundle;
pub mod checkpoint;
pub mod cosignature;
pub mod edge;
pub mod entry;
pub mod kind;
pub mod leaf;
pub mod merkle;
pub mod note;
pub mod origin;
pub mod planted;
pub mod proof;
pub mod quorum;
pub mod reader;
pub mod receipt;
mod subtree;
mod text;
pub mod tile;
pub mod witness;
