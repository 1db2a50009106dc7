//! What is measured, and how much of it.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use sotto_common::selector::Policy;

use crate::stages::Stage;

/// Ratios of one run on one machine: the matcher beside the limit of the memory, lists to filters, the
/// node's store, probing, private set intersection, the audit log.
///
/// With these sizes it takes about a quarter of an hour on two cores, 4 GB of memory and 2 GB below the
/// temporary folder.
#[derive(Parser, Debug)]
#[command(name = "just bench")]
pub(crate) struct Arguments {
    /// These parts alone.
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<Part>,
    /// The matcher alone: scenes of at most so many selectors in all their filters.
    #[arg(long, default_value_t = 80_000_000)]
    pub(crate) matcher: u64,
    /// Rounds of each thing that is measured in turns with others.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) rounds: u16,
    /// Selectors in each list that becomes a filter; 0 leaves the part out.
    #[arg(long, default_value_t = 10_000_000)]
    pub(crate) selectors: u64,
    /// Selectors that go through the sealed store of a real node; 0 leaves the part out.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) store: u64,
    /// Selectors that are probed through mTLS gRPC; 0 leaves the part out.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) probes: u64,
    /// Holders that are probed.
    #[arg(long, default_value_t = 64)]
    pub(crate) holders: usize,
    /// Selectors in each holder's filter.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) filter: u64,
    /// Sessions that probe at once, beside one alone.
    #[arg(long, default_value_t = 8)]
    pub(crate) sessions: usize,
    /// Single questions, on an idle broker and on a busy one; 0 leaves them out.
    #[arg(long, default_value_t = 400)]
    pub(crate) checks: usize,
    /// Selectors in each of the two lists that go through OpenMined PSI too; 0 leaves the part out.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) psi: u64,
    /// Entries of the audit log, beside as many plain rows; 0 leaves the part out.
    #[arg(long, default_value_t = 20_000)]
    pub(crate) entries: u64,
    /// Leaves of the tree in which proofs are made; 0 leaves the part out.
    #[arg(long, default_value_t = 10_000_000)]
    pub(crate) leaves: u64,
    /// Where lists, filters and ledgers are written; they are removed again.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Where the summary and the plots are written; `bench` in Cargo's target folder unless given.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Print JSON instead of a table, too.
    #[arg(long)]
    pub(crate) json: bool,
    /// By `cargo bench`; without it, as by `cargo test --benches`, nothing is measured.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
    /// What a process of its own measures, for the one that started it.
    #[arg(long, hide = true, requires_all = ["list", "policy", "count"])]
    pub(crate) stage: Option<Stage>,
    #[arg(long, hide = true)]
    pub(crate) list: Option<PathBuf>,
    #[arg(long, hide = true)]
    pub(crate) policy: Option<Policy>,
    #[arg(long, hide = true)]
    pub(crate) count: Option<u64>,
    /// Leaves of the tree that a process of its own builds, for the one that started it.
    #[arg(long, hide = true, requires = "dir")]
    pub(crate) tree: Option<u64>,
    /// Where a process of its own lets criterion write, for the one that started it.
    #[arg(long, hide = true)]
    pub(crate) steps: Option<PathBuf>,
}

/// A part of the measurements.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Part {
    /// What a tag costs by itself, by criterion.
    Steps,
    /// The matcher in process, beside the limit of the memory and `fastbloom`.
    Matcher,
    /// Lists to filters, beside the HMAC alone.
    Lists,
    /// A list through a node's sealed store.
    Store,
    /// mTLS gRPC, beside an echo; single checks, peaks of memory, restarts.
    Probing,
    /// Two lists through nodes and broker, and through OpenMined PSI.
    Psi,
    /// Entries of the audit log, beside plain rows.
    Entries,
    /// Proofs from stored tiles.
    Proofs,
}

impl Arguments {
    /// Whether a part is measured, as large as the arguments have it.
    pub(crate) fn has(&self, part: Part) -> bool {
        let size = match part {
            Part::Steps => 1,
            Part::Matcher => self.matcher,
            Part::Lists => self.selectors,
            Part::Store => self.store,
            Part::Probing => self.probes,
            Part::Psi => self.psi,
            Part::Entries => self.entries,
            Part::Proofs => self.leaves,
        };
        size > 0 && (self.only.is_empty() || self.only.contains(&part))
    }
}
