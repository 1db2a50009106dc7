//! The node as a service that is left alone: real nodes, real lists, a real broker (protocol §5.4,
//! §6, §7; workflow.md "Hit").

mod flows;
mod labels;
mod restored;
mod scene;
mod sharing;
mod simulation;
mod soak;
mod sources;
mod world;
