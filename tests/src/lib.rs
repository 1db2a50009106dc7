//! The harness of Sotto's tests (style rule 12): a laboratory with an authority of its own, a
//! broker in this process on a free port under a clock that stands, or as a process of its own,
//! and nodes and operators that speak the protocol.
//!
//! [`Cluster`] is several of those processes behind a balancer.
//!
//! [`TestNode`] is written from the protocol and the `.proto` files: what it does, any other
//! implementation can do. Tests read as sentences over it; what goes wrong panics.

#![expect(
    clippy::missing_panics_doc,
    reason = "a harness: whatever it cannot do ends the test"
)]

pub mod audit;
pub mod balancer;
pub mod catalogue;
pub mod cluster;
pub mod day;
pub mod desk;
pub mod feedback;
pub mod follow_up;
pub mod lab;
pub mod ledger;
pub mod liar;
pub mod node;
pub mod operator;
pub mod probe;
pub mod process;
pub mod program;
pub mod publication;
pub mod refusal;
pub mod sandbox;
pub mod seed;
pub mod selectors;
pub mod stranger;
pub mod unit;

pub use catalogue::Catalogue;
pub use cluster::Cluster;
pub use follow_up::Case;
pub use lab::Lab;
pub use node::TestNode;
pub use operator::Operator;
pub use probe::{Probe, matched};
pub use process::BrokerProcess;
pub use publication::Draft;
pub use refusal::assert_refused;
pub use sandbox::Sandbox;
pub use selectors::{emails, phones};
pub use unit::Unit;

/// The community of every sandbox.
pub const COMMUNITY: &str = "euro-cyber";
/// The trust domain of every sandbox.
pub const TRUST_DOMAIN: &str = "sotto.test";
