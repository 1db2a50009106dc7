//! The `sotto-node` program.

fn main() {}
