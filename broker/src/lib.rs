//! The broker of Sotto: it tests the probes of national nodes against filters that it cannot
//! read, and reports only hits.
//!
//! `rpc` authenticates, converts and calls `app`; `app` holds the use cases and calls `datastore`
//! (the ledger) and `matcher` (the active filters). SQL stands in `datastore` only, tonic in `rpc`
//! and `serve` only.

mod app;
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "nothing reads filters from it yet")
)]
mod cache;
pub mod cli;
pub mod config;
mod datastore;
mod filters;
mod matcher;
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "nothing keeps filters in it yet")
)]
mod objects;
mod rpc;
pub mod serve;
