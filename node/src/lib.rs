//! The node of Sotto: the service and the command line of one national unit.
//!
//! `rpc` adapts the three services of a node to `app`, its use cases; those work on the
//! [`store`], the [`keystore`] and the [`broker`]. Only [`serve`] puts them together. The commands of
//! people are in [`cli`].

pub mod access;
pub mod broker;
pub mod cli;
pub mod config;
pub mod hit;
pub mod keystore;
pub mod serve;
pub mod store;

mod app;
mod auth;
mod dossier;
mod follow_up;
mod rpc;
#[cfg(test)]
mod testing;
