//! The pure domain of Sotto: what protocol.md and selectors.md fix byte by byte.
//!
//! Nothing here does I/O, reads a clock or draws randomness by itself; the feature `service`
//! (configuration, TLS, identity, telemetry, shutdown) is the one exception, and both daemons
//! share it. A newcomer finds protocol §2 in [`ids`], §3 in [`epoch`], §4 in [`tag`], §5 in
//! [`filter`], the digests of §7 and §11 in [`probe`], the sealing of §8 in [`sealed`], §9 in
//! [`dsse`], and selectors.md in [`selector`].

pub mod dsse;
pub mod epoch;
pub mod error;
pub mod filter;
pub mod ids;
pub mod label;
pub mod probe;
pub mod random;
pub mod sealed;
pub mod secret;
pub mod selector;
pub mod tag;
pub mod time;
