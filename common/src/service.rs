//! What both daemons and their command lines need to run (protocol §2, §12).
//!
//! A daemon reads its [`config`], sets up [`telemetry`], loads [`tls`], serves with
//! [`tls::server_builder`] over [`tls::Tls::incoming`], asks [`identity::peer`] who calls, and
//! drains when [`shutdown`] says so. [`pki`] is the laboratory's certificate authority,
//! [`at_rest`] seals what is sensitive in a database, [`pages`] answers tools that know nothing of
//! Sotto. The feature is for Unix-like systems: file modes and signals are part of it.

pub mod at_rest;
pub mod client;
pub mod config;
pub mod files;
pub mod https;
pub mod identity;
pub mod key_file;
pub mod metrics;
pub mod pages;
pub mod pki;
pub mod postgres;
pub mod schema;
pub mod shutdown;
pub mod sqlite;
pub mod telemetry;
pub mod tls;

#[cfg(test)]
mod testing;
