//! Both kernels against the plain matcher, bit for bit.

use proptest::prelude::*;
use proptest::test_runner::Config;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sotto_common::filter::{Class, contains};

use super::*;

/// Miri interprets every AES round; a few cases show it every load.
const CASES: u32 = if cfg!(miri) { 3 } else { 64 };
const MOST_TAGS: usize = if cfg!(miri) { 80 } else { 700 };

fn params(class: u8, k: u8) -> FilterParams {
    FilterParams::new(Class::new(class).expect("a class"), k).expect("params")
}

/// Bytes of which each bit is set with a probability of so many sixteenths.
fn bits(params: FilterParams, density: u32, rng: &mut StdRng) -> Vec<u8> {
    let mut byte = || {
        (0..8).fold(0, |byte: u8, _| {
            (byte << 1) | u8::from(rng.random_range(0..16) < density)
        })
    };
    (0..params.byte_len()).map(|_| byte()).collect()
}

fn found(kernel: &Kernel, bits: &[u8], tags: &[Tag]) -> Vec<usize> {
    let mut found = Vec::new();
    kernel.test(bits, tags, |i| found.push(i));
    found.sort_unstable();
    found
}

proptest! {
    #![proptest_config(Config { cases: CASES, failure_persistence: None, ..Config::default() })]

    /// Random bits of many densities, so that head and body decide about tags in turn; k small
    /// enough that tags match at all; batches that fill their last group, and that do not.
    #[test]
    fn find_the_tags_that_the_plain_matcher_finds(
        seed: [u8; 32],
        salt: [u8; 16],
        class in 0u8..6,
        k in 6u8..=64,
        density in 1u32..=16,
        count in 0usize..=MOST_TAGS,
    ) {
        let mut rng = StdRng::seed_from_u64(u64::from_be_bytes(*seed.first_chunk().expect("32")));
        let (params, salt) = (params(class, k), Salt::new(salt));
        let bits = bits(params, density, &mut rng);
        let tags: Vec<_> = (0..count).map(|_| Tag::new(rng.random())).collect();
        let held = |tag: &Tag| contains(&bits, params, &salt, tag);
        let held: Vec<_> = (0..count).filter(|&i| held(&tags[i])).collect();
        prop_assert_eq!(&found(&Kernel::new(params, &salt), &bits, &tags), &held);
        prop_assert_eq!(&found(&Kernel::portable(params, &salt), &bits, &tags), &held);
    }
}

#[test]
fn full_filters_hold_every_tag_and_empty_ones_none_in_batches_of_every_length() {
    let (params, salt) = (params(0, 30), Salt::new([3; 16]));
    let length = usize::try_from(params.byte_len()).expect("small");
    let tags: Vec<_> = (0..70_u128).map(|i| Tag::new(i.to_be_bytes())).collect();
    for kernel in [Kernel::new(params, &salt), Kernel::portable(params, &salt)] {
        for count in 0..=tags.len() {
            let all: Vec<_> = (0..count).collect();
            assert_eq!(found(&kernel, &vec![0xff; length], &tags[..count]), all);
            assert_eq!(found(&kernel, &vec![0; length], &tags[..count]), [0; 0]);
        }
    }
}

#[test]
fn bits_of_another_length_hold_nothing() {
    let (params, salt) = (params(0, 30), Salt::new([3; 16]));
    let length = usize::try_from(params.byte_len()).expect("small");
    let kernel = Kernel::new(params, &salt);
    for length in [0, 1, length - 1, length + 1, length + PAGE_LEN] {
        let found = found(&kernel, &vec![0xff; length], &[Tag::new([7; 16])]);
        assert_eq!(found, [0; 0]);
    }
}
