//! The `sotto-node` program.

use std::process::ExitCode;

use clap::Parser;
use sotto_node::cli::{self, Cli};

fn main() -> ExitCode {
    cli::run(Cli::parse())
}
