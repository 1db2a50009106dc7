//! The node of Sotto: the service and the command line of one national unit.
//!
//! `rpc` adapts the three services of a node to `app`, its use cases; those work on the
//! [`store`], the [`keystore`] and the [`broker`]. Only [`serve`] puts them together. The commands of
//! people are in [`cli`].
//!
//! A hit's way into a formal follow-up is in `app/follow_ups`, on the pure `follow_up`: the node's own
//! copy of every step, replayed by the one state machine of `sotto_common::followup`. What people
//! drafted, what leaves by itself, and what the other side did each has a file there.

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
