//! The broker of Sotto: it tests the probes of national nodes against filters that it cannot
//! read, and reports only hits.
//!
//! `rpc` authenticates, converts and calls `app`; `app` holds the use cases and calls `datastore`
//! (the ledger), `objects` (stored filters, and the sealed files of follow-ups), `cache` (copies of
//! the filters) and `matcher` (the active ones). SQL stands in `datastore` only, tonic in `rpc`, `serve`
//! and `cli` only. `audit` is for auditors, who check a log without a broker.

#![expect(
    clippy::duplicate_mod,
    reason = "`datastore/sql` is one text that both engines compile, each with its own types"
)]

mod app;
pub mod audit;
#[doc(hidden)]
pub mod bench;
mod cache;
pub mod cli;
pub mod config;
mod datastore;
mod jobs;
mod matcher;
mod objects;
mod rpc;
pub mod serve;
mod tiles;
