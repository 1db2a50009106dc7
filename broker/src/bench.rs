//! Parts of the broker by themselves, in the caller's process, for `just bench`: the matcher, which
//! probing through gRPC is compared with, what bounds it, and the audit log. No part of the broker
//! uses it.

mod limit;
mod log;
mod matching;

pub use limit::Requests;
pub use log::{Logging, StoredTree};
pub use matching::{FilterMemory, Matching};
