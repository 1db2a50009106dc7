//! The `sotto-broker` program.

fn main() {}
