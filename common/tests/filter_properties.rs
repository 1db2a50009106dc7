//! What must hold for every filter (protocol §5), over random ones.
//!
//! Each test prints its seed; `SOTTO_SEED=<number>` repeats a run.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sotto_common::error::ErrorCode;
use sotto_common::filter::admission::{
    AdmissionError, Facts, Measure, Meter, Offer, admit, check_bits, check_offer,
    false_positive_rate,
};
use sotto_common::filter::{
    Class, DEFAULT_K, Filter, FilterBuilder, FilterParams, LINE_LEN, Locator, PAGE_LEN, Salt,
    build, contains,
};
use sotto_common::random::{bytes, os_rng};
use sotto_common::secret::Tag;

fn seeded() -> StdRng {
    let seed = std::env::var("SOTTO_SEED")
        .ok()
        .map_or_else(|| os_rng().random(), |seed| seed.parse().expect("a number"));
    println!("SOTTO_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

fn random_tags(count: usize, rng: &mut StdRng) -> Vec<Tag> {
    (0..count).map(|_| Tag::new(bytes(rng))).collect()
}

/// An accepted publication, to be spoilt in one way at a time.
#[derive(Clone)]
struct Case {
    offer: Offer,
    canaries: Vec<Tag>,
    max_class: Class,
    k: u8,
    salt_seen: bool,
    last_version: u64,
    forms: [u8; 32],
    bits: Vec<u8>,
}

impl Case {
    fn honest(filter: &Filter, canaries: &[Tag]) -> Self {
        let params = filter.params();
        Self {
            offer: Offer {
                class: params.class().get(),
                k: params.k(),
                pages: params.pages(),
                salt: filter.salt().clone(),
                version: 4,
                digest: filter.digest(),
                forms: [7; 32],
            },
            canaries: canaries.to_vec(),
            max_class: params.class(),
            k: params.k(),
            salt_seen: false,
            last_version: 3,
            forms: [7; 32],
            bits: filter.bits().to_vec(),
        }
    }

    /// The same header, honestly signed, over other bits.
    fn with_bits(&self, bits: Vec<u8>) -> Self {
        use sha2::Digest;
        let mut case = self.clone();
        case.offer.digest = sha2::Sha256::digest(&bits).into();
        case.bits = bits;
        case
    }

    fn changed(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut case = self.clone();
        change(&mut case);
        case
    }

    fn admit(&self) -> Result<Measure, AdmissionError> {
        let facts = Facts {
            max_class: self.max_class,
            k: self.k,
            salt_seen: self.salt_seen,
            last_version: self.last_version,
            canaries: &self.canaries,
            forms: self.forms,
        };
        admit(&self.offer, &facts, &self.bits)
    }

    #[track_caller]
    fn assert_refused(&self, code: ErrorCode) {
        let outcome = self.admit();
        assert_eq!(outcome.err().map(|refusal| refusal.code()), Some(code));
    }
}

/// A filter of some random tags, the first two of them canaries.
fn honest(class: u8, k: u8, rng: &mut StdRng) -> (Filter, Vec<Tag>) {
    let class = Class::new(class).expect("a class");
    let most = usize::try_from(class.capacity()).expect("a small class");
    let count = match rng.random_range(0..4) {
        0 => most,
        _ => rng.random_range(2..=most),
    };
    let tags = random_tags(count, rng);
    let filter = build(tags.iter().copied(), class, k, rng).expect("room for the tags");
    (filter, tags)
}

#[test]
fn every_honest_filter_is_admitted_and_holds_all_its_tags() {
    let mut rng = seeded();
    for round in 0..400 {
        let (class, k) = (rng.random_range(0..=12), rng.random_range(20..=40));
        let (filter, tags) = honest(class, k, &mut rng);
        let measure = Case::honest(&filter, &tags[..2])
            .admit()
            .unwrap_or_else(|refusal| panic!("round {round}, class {class}, k {k}: {refusal}"));

        let (target, k) = (filter.params().target_popcount(), u64::from(k));
        assert!((target..target + k).contains(&measure.popcount));
        for tag in &tags {
            let found = contains(filter.bits(), filter.params(), filter.salt(), tag);
            assert!(found, "a false negative in round {round}");
        }
    }
}

#[test]
fn padding_stops_with_the_tag_that_reaches_the_target() {
    let mut rng = seeded();
    for _ in 0..100 {
        let class = Class::new(rng.random_range(0..=6)).unwrap();
        let params = FilterParams::new(class, rng.random_range(6..=64)).unwrap();
        let mut builder = FilterBuilder::new(params, Salt::generate(&mut rng));
        let held = rng.random_range(0..class.capacity() / 2);
        builder.insert_all(&random_tags(usize::try_from(held).unwrap(), &mut rng));
        let before = builder.popcount();
        let added = builder.pad(&mut rng);
        let (target, k) = (params.target_popcount(), u64::from(params.k()));
        let reached = builder.popcount();
        assert!(
            (target..target + k).contains(&reached),
            "{reached} of {target}"
        );
        assert!(added * k >= reached - before);
        assert_eq!(builder.pad(&mut rng), 0);
    }
}

#[test]
fn rejects_a_header_that_breaks_rule_1() {
    let mut rng = seeded();
    let (filter, tags) = honest(4, DEFAULT_K, &mut rng);
    let case = Case::honest(&filter, &tags[..2]);
    assert!(case.admit().is_ok());

    let class = ErrorCode::FilterClass;
    case.changed(|c| c.max_class = Class::new(3).unwrap())
        .assert_refused(class);
    case.changed(|c| c.offer.class = 61).assert_refused(class);
    case.changed(|c| c.k = 29).assert_refused(class);
    let length = ErrorCode::FilterLength;
    case.changed(|c| c.offer.pages += 1).assert_refused(length);
    case.changed(|c| c.offer.class = 0).assert_refused(length);
    case.changed(|c| c.salt_seen = true)
        .assert_refused(ErrorCode::SaltReused);
    for version in [0, 3, 5, u64::MAX] {
        let next = ErrorCode::VersionNotNext;
        case.changed(|c| c.offer.version = version)
            .assert_refused(next);
    }
}

#[test]
fn rejects_bits_of_another_length_or_digest() {
    let mut rng = seeded();
    let (filter, tags) = honest(4, DEFAULT_K, &mut rng);
    let case = Case::honest(&filter, &tags[..2]);
    let bits = filter.bits();
    for other in [
        Vec::new(),
        bits[..bits.len() - 1].to_vec(),
        bits[PAGE_LEN..].to_vec(),
        [bits, &[0]].concat(),
        [bits, &bits[..PAGE_LEN]].concat(),
    ] {
        case.with_bits(other)
            .assert_refused(ErrorCode::FilterLength);
    }
    case.changed(|c| c.offer.digest[31] ^= 1)
        .assert_refused(ErrorCode::FilterDigest);
    let at = rng.random_range(0..bits.len());
    case.changed(|c| c.bits[at] ^= 1)
        .assert_refused(ErrorCode::FilterDigest);
}

#[test]
fn rejects_saturated_and_sparse_filters() {
    let mut rng = seeded();
    let (filter, tags) = honest(4, DEFAULT_K, &mut rng);
    let case = Case::honest(&filter, &tags[..2]);
    let bits = filter.bits();
    let popcount = ErrorCode::FilterPopcount;

    case.with_bits(vec![0xff; bits.len()])
        .assert_refused(popcount);
    case.with_bits(vec![0; bits.len()]).assert_refused(popcount);

    // As many extra bits as k, anywhere: a polluted filter.
    let mut extra = bits.to_vec();
    let mut to_set = DEFAULT_K;
    while to_set > 0 {
        let (at, mask) = (
            rng.random_range(0..extra.len()),
            1 << rng.random_range(0..8),
        );
        to_set -= u8::from(extra[at] & mask == 0);
        extra[at] |= mask;
    }
    case.with_bits(extra).assert_refused(popcount);

    // Not padded.
    let mut builder = FilterBuilder::new(filter.params(), filter.salt().clone());
    builder.insert_all(&tags[..2]);
    case.with_bits(builder.finish().bits().to_vec())
        .assert_refused(popcount);
}

/// Fills whole units of `unit` bytes and empties others, so that the number of set bits stays that
/// of a padded filter.
fn lopsided(params: FilterParams, unit: usize) -> Vec<u8> {
    let mut bits = vec![0; params.pages() as usize * PAGE_LEN];
    for (index, unit) in bits.chunks_mut(unit).enumerate() {
        unit.fill(if index % 2 == 0 { 0xff } else { 0 });
    }
    bits
}

#[test]
fn rejects_a_filter_half_of_whose_pages_are_full() {
    let mut rng = seeded();
    for k in [20, 30] {
        let (filter, tags) = honest(6, k, &mut rng);
        assert_eq!(filter.params().pages() % 2, 0);
        let bits = lopsided(filter.params(), PAGE_LEN);
        Case::honest(&filter, &tags[..2])
            .with_bits(bits)
            .assert_refused(ErrorCode::FilterRate);
    }
}

#[test]
fn rejects_one_full_page_paid_for_by_the_others() {
    let mut rng = seeded();
    for k in [20, 30, 40] {
        let (filter, tags) = honest(6, k, &mut rng);
        let case = Case::honest(&filter, &tags[..2]);
        let mut bits = filter.bits().to_vec();
        bits[..PAGE_LEN].fill(0xff);
        let mut excess = Measure::of(&bits, k).popcount - filter.params().target_popcount();
        while excess > 0 {
            let (at, mask) = (
                rng.random_range(PAGE_LEN..bits.len()),
                1 << rng.random_range(0..8),
            );
            excess -= u64::from(bits[at] & mask != 0);
            bits[at] &= !mask;
        }
        case.with_bits(bits).assert_refused(ErrorCode::FilterRate);
    }
}

#[test]
fn full_lines_raise_the_rate_by_what_the_head_is_worth() {
    // Half of all lines full: heads pass with 1/2 in place of 1/32, bodies as before. Protocol
    // §5.3: full lines pass at most at the bound, and `f` says so.
    for k in [20, 30, 40] {
        let params = FilterParams::new(Class::new(6).unwrap(), k).unwrap();
        let measure = Measure::of(&lopsided(params, LINE_LEN), k);
        let expected = 0.5 * 0.5_f64.powi(i32::from(k) - 5);
        assert!((measure.rate / expected - 1.0).abs() < 1e-12);
        let bound = (-0.8 * f64::from(k)).exp2();
        let refused = measure.check(params).is_err();
        assert_eq!(refused, expected > bound, "k = {k}");
    }
}

#[test]
fn rejects_full_lines_beyond_the_bound() {
    // At k = 20 the bound is 2^-16 and full lines alone reach it; with some pages fuller than
    // others they pass it.
    let mut rng = seeded();
    let (filter, tags) = honest(6, 20, &mut rng);
    let case = Case::honest(&filter, &tags[..2]);
    let pages = filter.params().pages() as usize;
    assert_eq!(pages % 2, 0);
    let mut bits = vec![0; filter.bits().len()];
    for (index, page) in bits.chunks_mut(PAGE_LEN).enumerate() {
        // 48 and 16 lines of 64.
        let full = if index < pages / 2 { 48 } else { 16 };
        page[..full * LINE_LEN].fill(0xff);
    }
    case.with_bits(bits).assert_refused(ErrorCode::FilterRate);
}

#[test]
fn rejects_a_filter_without_its_canary_tags() {
    let mut rng = seeded();
    let (filter, tags) = honest(4, DEFAULT_K, &mut rng);
    let foreign = Tag::new(bytes(&mut rng));
    Case::honest(&filter, &[tags[0], foreign]).assert_refused(ErrorCode::CanaryMissing);

    // The right tags under another salt than the header's.
    Case::honest(&filter, &tags[..2])
        .changed(|c| c.offer.salt = Salt::generate(&mut rng))
        .assert_refused(ErrorCode::CanaryMissing);
}

#[test]
fn rejects_a_filter_of_a_drifted_normal_form() {
    let mut rng = seeded();
    let (filter, tags) = honest(4, DEFAULT_K, &mut rng);
    Case::honest(&filter, &tags[..2])
        .changed(|c| c.offer.forms[0] ^= 1)
        .assert_refused(ErrorCode::FormsMismatch);
}

#[test]
fn a_measure_by_pages_is_the_measure_of_the_whole() {
    let mut rng = seeded();
    let (filter, tags) = honest(5, 25, &mut rng);
    let mut meter = Meter::new(25);
    filter
        .bits()
        .chunks(PAGE_LEN)
        .for_each(|page| meter.page(page));
    let case = Case::honest(&filter, &tags[..2]);
    let facts = Facts {
        max_class: case.max_class,
        k: case.k,
        salt_seen: false,
        last_version: 3,
        canaries: &[],
        forms: case.forms,
    };
    let params = check_offer(&case.offer, &facts).unwrap();
    assert_eq!(params, filter.params());
    let measure = check_bits(&case.offer, params, &case.canaries, filter.bits()).unwrap();
    assert_eq!(meter.finish(), measure);
    assert!((measure.rate - false_positive_rate(filter.bits(), 25)).abs() < f64::EPSILON);
}

/// Share of random tags that are found, by the two-step test that a broker makes.
fn simulated_rate(filter: &Filter, thousands: u32, rng: &mut StdRng) -> f64 {
    let locator = Locator::new(filter.params(), filter.salt());
    let is_set = |page: u32, bit: u16| {
        let byte = page as usize * PAGE_LEN + usize::from(bit / 8);
        filter.bits()[byte] >> (bit % 8) & 1 == 1
    };
    // Distinct blocks under a random AES key are as good as random tags, and cheaper.
    let mut number = u128::from_be_bytes(bytes(rng));
    let mut tags = [Tag::new([0; 16]); 1000];
    let mut found = 0_u32;
    for _ in 0..thousands {
        for tag in &mut tags {
            // The last byte stays, since the counter of the blocks is mixed into it.
            number = number.wrapping_add(1 << 8);
            *tag = Tag::new(number.to_be_bytes());
        }
        locator.heads(&tags, |index, head| {
            if head.bits().iter().all(|&bit| is_set(head.page(), bit)) {
                let positions = locator.locate(&tags[index]);
                let hit = positions
                    .body()
                    .iter()
                    .all(|&bit| is_set(positions.page(), bit));
                found += u32::from(hit);
            }
        });
    }
    f64::from(found) / (f64::from(thousands) * 1000.0)
}

#[test]
fn the_simulated_false_positive_rate_is_the_computed_one() {
    let mut rng = seeded();
    // About 5000 and 1700 hits: 10 % are seven and four standard deviations.
    for (k, thousands) in [(12, 16_000), (16, 80_000)] {
        let class = Class::new(2).unwrap();
        let tags = random_tags(1500, &mut rng);
        let filter = build(tags, class, k, &mut rng).unwrap();
        let computed = false_positive_rate(filter.bits(), k);
        let simulated = simulated_rate(&filter, thousands, &mut rng);
        let off = (simulated / computed - 1.0).abs();
        println!("k = {k}: {simulated:.3e} found, {computed:.3e} computed");
        assert!(
            off < 0.1,
            "k = {k}: {simulated:.3e} found, {computed:.3e} computed"
        );
    }
}
