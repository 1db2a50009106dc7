//! What the tests of several crates need; no part of any program.

pub mod kill;
pub mod port;
pub mod postgres;
pub mod s3;
