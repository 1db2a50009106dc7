//! The kernel of x86-64 machines with vector AES: two blocks in each register, 16 in flight, and the
//! five head positions of a tag tested at once.

use core::arch::x86_64::{
    __m256i, _mm_aeskeygenassist_si128, _mm_loadu_si128, _mm_shuffle_epi32, _mm_slli_si128,
    _mm_storeu_si128, _mm_xor_si128, _mm256_add_epi64, _mm256_aesenc_epi128,
    _mm256_aesenclast_epi128, _mm256_andnot_si256, _mm256_blendv_ps, _mm256_broadcastsi128_si256,
    _mm256_castps_si256, _mm256_castsi256_ps, _mm256_loadu_si256, _mm256_movemask_ps,
    _mm256_mul_epu32, _mm256_or_si256, _mm256_permute4x64_epi64, _mm256_permutevar8x32_epi32,
    _mm256_set_m128i, _mm256_set1_epi32, _mm256_set1_epi64x, _mm256_setr_epi8, _mm256_setr_epi32,
    _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi32, _mm256_slli_epi64,
    _mm256_sllv_epi32, _mm256_srli_epi32, _mm256_srli_epi64, _mm256_srlv_epi32,
    _mm256_storeu_si256, _mm256_unpackhi_epi64, _mm256_unpacklo_epi64, _mm256_xor_si256,
};

use sotto_common::filter::Salt;
use sotto_common::secret::{Secret, Tag};
use zeroize::Zeroize as _;

use super::bodies::Bodies;
use super::{AHEAD, GROUP, KEPT, Line, View, of_tags, request};

/// Round keys of AES-128, the salt itself the first.
const ROUNDS: usize = 11;

/// The round keys of a salt, on a machine that has what the kernel needs.
pub(super) struct Schedule(Secret<{ ROUNDS * 16 }>);

/// Round keys, each in both halves of a register.
type RoundKeys = [__m256i; ROUNDS];

/// The heads of a group.
#[derive(Clone, Copy)]
struct Heads {
    /// The second half of `A_0`: line and head positions.
    words: [u64; GROUP],
    /// Which line of all.
    lines: [u64; GROUP],
}

impl Schedule {
    /// None where the machine lacks one of the instructions.
    pub(super) fn new(salt: &Salt) -> Option<Self> {
        let all = is_x86_feature_detected!("aes")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("vaes");
        // SAFETY: the machine has AES instructions.
        #[expect(unsafe_code, reason = "instructions that were looked for")]
        all.then(|| Self(Secret::new(unsafe { expand(salt.expose()) })))
    }
}

/// Tests tags as [`super::Kernel::test`] says.
pub(super) fn test(schedule: &Schedule, view: &View<'_>, tags: &[Tag], mut hit: impl FnMut(usize)) {
    // SAFETY: a schedule is only made where the machine has these instructions.
    #[expect(unsafe_code, reason = "instructions that were looked for")]
    unsafe {
        test_here(schedule, view, tags, &mut hit);
    }
}

#[target_feature(enable = "aes,avx2,vaes")]
fn test_here(schedule: &Schedule, view: &View<'_>, tags: &[Tag], hit: &mut impl FnMut(usize)) {
    let keys = broadcast(schedule);
    let pages = view.params.pages();
    let lines = view.lines();
    let mut bodies = Bodies::new(view, tags);
    let (full, rest) = tags.as_chunks::<GROUP>();
    let mut last = [Tag::new([0; Tag::LEN]); GROUP];
    last[..rest.len()].copy_from_slice(rest);
    let mut kept = [Heads {
        words: [0; GROUP],
        lines: [0; GROUP],
    }; KEPT];
    let groups = tags.len().div_ceil(GROUP);
    for group in 0..groups + AHEAD {
        if group < groups {
            let tags = full.get(group).unwrap_or(&last);
            find(&keys, pages, tags, &mut kept[group % KEPT]);
        }
        let fresh = &kept[group % KEPT];
        let again = &kept[(group + KEPT - AHEAD / 2) % KEPT];
        let ready = &kept[(group + KEPT - AHEAD) % KEPT];
        let mut passed = 0;
        for i in 0..GROUP {
            request(&lines[index(fresh.lines[i])]);
            request(&lines[index(again.lines[i])]);
            let line = &lines[index(ready.lines[i])];
            passed |= u32::from(passes(line, ready.words[i])) << i;
        }
        let Some(from) = group.checked_sub(AHEAD).map(|ready| ready * GROUP) else {
            continue;
        };
        passed = of_tags(passed, tags.len() - from);
        while passed != 0 {
            let i = passed.trailing_zeros() as usize;
            passed &= passed - 1;
            bodies.push(from + i, index(ready.lines[i]), hit);
        }
    }
    bodies.finish(hit);
    last.zeroize();
}

#[expect(clippy::cast_possible_truncation, reason = "x86-64 has 64 bits")]
const fn index(line: u64) -> usize {
    line as usize
}

/// protocol §5.1, the first two points, for a group.
#[target_feature(enable = "aes,avx2,vaes")]
#[inline]
fn find(keys: &RoundKeys, pages: u32, tags: &[Tag; GROUP], heads: &mut Heads) {
    let blocks = encrypt(keys, tags);
    // Each half of a block is a number with its most significant byte first.
    let swap = _mm256_setr_epi8(
        7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8, //
        7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8,
    );
    let factor = _mm256_set1_epi64x(i64::from(pages));
    let out = heads.words.as_chunks_mut::<4>().0.iter_mut();
    let out = out.zip(heads.lines.as_chunks_mut::<4>().0);
    for (blocks, (words, lines)) in blocks.as_chunks::<2>().0.iter().zip(out) {
        let one = _mm256_shuffle_epi8(blocks[0], swap);
        let two = _mm256_shuffle_epi8(blocks[1], swap);
        // The unpacked halves are those of blocks 0, 2, 1, 3.
        let high = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_unpacklo_epi64(one, two));
        let low = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_unpackhi_epi64(one, two));
        // (high · pages) >> 64 by 32-bit halves: no sum exceeds 64 bits.
        let carry = _mm256_srli_epi64::<32>(_mm256_mul_epu32(high, factor));
        let upper = _mm256_mul_epu32(_mm256_srli_epi64::<32>(high), factor);
        let page = _mm256_srli_epi64::<32>(_mm256_add_epi64(upper, carry));
        let line = _mm256_or_si256(_mm256_slli_epi64::<6>(page), _mm256_srli_epi64::<58>(low));
        // SAFETY: both arrays are of 32 bytes.
        #[expect(unsafe_code, reason = "stores of vectors")]
        unsafe {
            _mm256_storeu_si256(words.as_mut_ptr().cast(), low);
            _mm256_storeu_si256(lines.as_mut_ptr().cast(), line);
        }
    }
}

/// `A_0` of each tag, two in a register.
#[target_feature(enable = "aes,avx2,vaes")]
#[inline]
fn encrypt(keys: &RoundKeys, tags: &[Tag; GROUP]) -> [__m256i; GROUP / 2] {
    let mut blocks = [_mm256_setzero_si256(); GROUP / 2];
    for (block, [one, two]) in blocks.iter_mut().zip(tags.as_chunks().0) {
        // SAFETY: a tag is 16 bytes.
        #[expect(unsafe_code, reason = "loads of vectors")]
        let pair = unsafe {
            _mm256_set_m128i(
                _mm_loadu_si128(two.expose().as_ptr().cast()),
                _mm_loadu_si128(one.expose().as_ptr().cast()),
            )
        };
        *block = _mm256_xor_si256(pair, keys[0]);
    }
    for key in &keys[1..ROUNDS - 1] {
        for block in &mut blocks {
            *block = _mm256_aesenc_epi128(*block, *key);
        }
    }
    for block in &mut blocks {
        *block = _mm256_aesenclast_epi128(*block, keys[ROUNDS - 1]);
    }
    blocks
}

/// Whether the five head positions of a word are set in their line: one lane each, the last three
/// lanes the same as the fifth.
#[target_feature(enable = "avx2")]
#[inline]
fn passes(line: &Line, word: u64) -> bool {
    // A position is bits 49 − 9i to 57 − 9i of the word, within two of its bytes.
    let pairs = _mm256_setr_epi8(
        6, 7, -1, -1, 5, 6, -1, -1, 3, 4, -1, -1, 2, 3, -1, -1, //
        1, 2, -1, -1, 1, 2, -1, -1, 1, 2, -1, -1, 1, 2, -1, -1,
    );
    let shifts = _mm256_setr_epi32(1, 0, 7, 6, 5, 5, 5, 5);
    let word = _mm256_set1_epi64x(word.cast_signed());
    // Bits above the nine of the position stay: what follows looks at the low nine.
    let position = _mm256_srlv_epi32(_mm256_shuffle_epi8(word, pairs), shifts);
    // SAFETY: a line is 64 bytes, two loads of 32.
    #[expect(unsafe_code, reason = "loads of vectors")]
    let [low, high] = unsafe {
        [
            _mm256_loadu_si256(line.as_ptr().cast()),
            _mm256_loadu_si256(line.as_ptr().add(32).cast()),
        ]
    };
    // Which of eight times 32 bits, in either half of the line; bit 8 says which half.
    let which = _mm256_srli_epi32::<5>(position);
    let bits = _mm256_blendv_ps(
        _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(low, which)),
        _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(high, which)),
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(position)),
    );
    // The bit of the low five bits becomes the sign: shifted up by 31 less that many.
    let by = _mm256_andnot_si256(position, _mm256_set1_epi32(31));
    let signs = _mm256_sllv_epi32(_mm256_castps_si256(bits), by);
    _mm256_movemask_ps(_mm256_castsi256_ps(signs)) == 0xff
}

#[target_feature(enable = "avx2")]
#[inline]
fn broadcast(schedule: &Schedule) -> RoundKeys {
    let mut keys = [_mm256_setzero_si256(); ROUNDS];
    for (key, bytes) in keys.iter_mut().zip(schedule.0.expose().as_chunks::<16>().0) {
        // SAFETY: a round key is 16 bytes.
        #[expect(unsafe_code, reason = "loads of vectors")]
        let half = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
        *key = _mm256_broadcastsi128_si256(half);
    }
    keys
}

/// The key schedule of AES-128 (FIPS 197 §5.2).
#[target_feature(enable = "aes")]
fn expand(salt: &[u8; 16]) -> [u8; ROUNDS * 16] {
    let mut bytes = [0; ROUNDS * 16];
    let keys = bytes.as_chunks_mut::<16>().0;
    keys[0] = *salt;
    // SAFETY: a salt is 16 bytes.
    #[expect(unsafe_code, reason = "loads of vectors")]
    let mut key = unsafe { _mm_loadu_si128(salt.as_ptr().cast()) };
    macro_rules! rounds {
        ($($round:literal: $constant:literal),*) => {$(
            // The last word, rotated, substituted and with its constant, in all four places.
            let last = _mm_aeskeygenassist_si128::<$constant>(key);
            let last = _mm_shuffle_epi32::<0xff>(last);
            // Each word becomes the sum of itself and those before it.
            for _ in 0..3 {
                key = _mm_xor_si128(key, _mm_slli_si128::<4>(key));
            }
            key = _mm_xor_si128(key, last);
            // SAFETY: a round key is 16 bytes.
            #[expect(unsafe_code, reason = "stores of vectors")]
            unsafe {
                _mm_storeu_si128(keys[$round].as_mut_ptr().cast(), key);
            }
        )*};
    }
    rounds!(1: 0x01, 2: 0x02, 3: 0x04, 4: 0x08, 5: 0x10, 6: 0x20, 7: 0x40, 8: 0x80, 9: 0x1b, 10: 0x36);
    bytes
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};
    use sotto_common::filter::{Class, FilterParams, LINE_LEN, Locator};

    use super::super::LINES;
    use super::*;

    /// The lines of a group's heads.
    fn lines(schedule: &Schedule, pages: u32, tags: &[Tag; GROUP]) -> [u64; GROUP] {
        let mut heads = Heads {
            words: [0; GROUP],
            lines: [0; GROUP],
        };
        // SAFETY: a schedule is only made where the machine has these instructions.
        #[expect(unsafe_code, reason = "instructions that were looked for")]
        unsafe {
            find(&broadcast(schedule), pages, tags, &mut heads);
        }
        heads.lines
    }

    /// No carry of the product is seen in small filters.
    #[test]
    fn heads_are_found_in_the_largest_filters_too() {
        let seed = rand::random();
        let mut rng = StdRng::seed_from_u64(seed);
        let salt = Salt::new(rng.random());
        let Some(schedule) = Schedule::new(&salt) else {
            eprintln!("NOT TESTED: this machine has no vector AES");
            return;
        };
        let params = FilterParams::new(Class::MAX, 64).expect("parameters");
        let locator = Locator::new(params, &salt);
        for _ in 0..100_000 / GROUP {
            let tags: [Tag; GROUP] = std::array::from_fn(|_| Tag::new(rng.random()));
            let mut expected = [0; GROUP];
            locator.heads(&tags, |i, head| {
                let in_page = head.line_offset() / LINE_LEN;
                expected[i] = (head.page() as usize * LINES + in_page) as u64;
            });
            let found = lines(&schedule, params.pages(), &tags);
            assert_eq!(found, expected, "seed {seed}");
        }
    }
}
