//! The one source of randomness. Algorithms take an rng; only the edges ask for this one.

use rand::CryptoRng;
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;

/// The random number generator of the operating system.
///
/// # Panics
/// Its use panics if the operating system cannot give randomness: nothing in Sotto may go on then.
#[must_use]
pub fn os_rng() -> impl CryptoRng + Send + Sync + Copy {
    UnwrapErr(SysRng)
}

/// `N` fresh random bytes.
pub fn bytes<const N: usize>(rng: &mut impl CryptoRng) -> [u8; N] {
    let mut out = [0; N];
    rng.fill_bytes(&mut out);
    out
}
