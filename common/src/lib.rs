//! The pure domain of Sotto: what protocol.md and selectors.md fix byte by byte.
//!
//! Nothing here does I/O, reads a clock or draws randomness by itself; the feature `service`
//! (configuration, TLS, identity, telemetry, shutdown) is the one exception, and both daemons
//! share it. A newcomer finds protocol §2 in [`ids`], §3 in [`epoch`], §4 in [`tag`], §5 in
//! [`filter`], §6 in [`publication`], §7 in [`probe`] and [`hit`], §8 in [`membership`] and
//! [`sealed`], §9 in [`dsse`], §10 in [`followup`], §11 in [`log`] and [`probe`], selectors.md in
//! [`selector`], and workflow.md in [`grounds`], [`hit`], [`followup`] and [`log`].

pub mod dsse;
pub mod epoch;
pub mod error;
pub mod filter;
pub mod followup;
pub mod grounds;
pub mod hit;
pub mod ids;
pub mod label;
pub mod log;
pub mod membership;
pub mod probe;
pub mod publication;
pub mod random;
pub mod sealed;
pub mod secret;
pub mod selector;
#[cfg(feature = "service")]
pub mod service;
pub mod tag;
#[cfg(feature = "testing")]
pub mod testing;
pub mod time;
