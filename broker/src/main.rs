//! The `sotto-broker` program: reads the command line, the library does the rest.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    sotto_broker::cli::run(sotto_broker::cli::Cli::parse())
}
