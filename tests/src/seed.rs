//! Chance that repeats: the seed is printed, and `SOTTO_SEED` sets it.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sotto_common::random::{bytes, os_rng};

/// A generator of a seed that is printed.
pub fn rng() -> StdRng {
    let given = std::env::var("SOTTO_SEED").ok();
    let seed = given
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| u64::from_be_bytes(bytes(&mut os_rng())));
    println!("SOTTO_SEED={seed}");
    StdRng::seed_from_u64(seed)
}
