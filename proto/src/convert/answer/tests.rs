//! Answers there and back, and what lies in them.

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sotto_common::time::Timestamp;

use super::*;

const HOLDERS: [&str; 4] = ["de-bka", "fr-pj", "nl-fiu", "se-noa"];

fn refs(pairs: usize) -> Vec<RecordRef> {
    let number = |i: usize| RecordRef::new((i as u128).to_be_bytes());
    (0..pairs).map(number).collect()
}

/// An answer in which so many sixteenths of the pairs match each holder, under one version where that is
/// an even number.
fn answer(pairs: usize, sixteenths: &[u32], seed: u64) -> Vec<AtHolder> {
    let rng = &mut StdRng::seed_from_u64(seed);
    let mut found = Vec::new();
    for (holder, &density) in HOLDERS.iter().zip(sixteenths) {
        let mut hits = Vec::new();
        for pair in 0..pairs {
            if rng.random_range(0..16) < density {
                hits.push(AnsweredHit {
                    pair: u16::try_from(pair).expect("below 4096"),
                    version: rng.random_range(1..=1 + u64::from(density % 2)),
                    id: HitId::generate(Timestamp::from_seconds(1), rng),
                });
            }
        }
        found.push(AtHolder {
            holder: holder.parse().expect("a node"),
            f_total: f64::from(density) / 1e9,
            hits,
        });
    }
    found
}

fn matches(answer: &[AtHolder]) -> Vec<Match> {
    let mut all = Vec::new();
    for at in answer {
        all.extend(at.hits.iter().map(|hit| Match {
            pair: hit.pair.into(),
            holder: at.holder.clone(),
            version: hit.version,
            f_total: at.f_total,
            hit: hit.id,
        }));
    }
    all
}

/// The answer by holder that says this.
fn by_holder(matches: &[Match]) -> Vec<AtHolder> {
    let mut answer: Vec<AtHolder> = Vec::new();
    for one in matches {
        let hit = AnsweredHit {
            pair: u16::try_from(one.pair).expect("below 4096"),
            version: one.version,
            id: one.hit,
        };
        match answer.last_mut() {
            Some(at) if at.holder == one.holder => at.hits.push(hit),
            _ => answer.push(AtHolder {
                holder: one.holder.clone(),
                f_total: one.f_total,
                hits: vec![hit],
            }),
        }
    }
    answer
}

proptest! {
    #[test]
    fn an_answer_is_read_as_it_was_written_and_takes_the_shorter_form(
        pairs in 1usize..=700,
        sixteenths in prop::collection::vec(0u32..=16, 0..=4),
        seed: u64,
    ) {
        let answer = answer(pairs, &sixteenths, seed);
        let written = write(&answer, pairs);
        let read = read(&written.clone().into(), &refs(pairs)).expect("read");
        prop_assert_eq!(&read, &matches(&answer));
        let wire = v1::ProbeMatches::decode(&written[..]).expect("decoded");
        for at in &wire.holders {
            let (bitmap, numbers) = (pairs.div_ceil(8), at.hit_ids.len() / 8);
            match at.pairs.as_ref().expect("one of the two") {
                Pairs::Bitmap(bytes) => {
                    prop_assert_eq!(bytes.len(), bitmap);
                    prop_assert!(bitmap <= numbers);
                }
                Pairs::Numbers(bytes) => {
                    prop_assert_eq!(bytes.len(), numbers);
                    prop_assert!(numbers < bitmap);
                }
            }
        }
    }

    #[test]
    fn by_ref_an_answer_says_the_same(
        pairs in 1usize..=60,
        sixteenths in prop::collection::vec(0u32..=16, 0..=4),
        seed: u64,
    ) {
        let answer = answer(pairs, &sixteenths, seed);
        let written = write_by_ref(&answer, &refs(pairs));
        let mut read = read(&written.clone().into(), &refs(pairs)).expect("read");
        read.sort_by(|a, b| (&a.holder, a.pair).cmp(&(&b.holder, b.pair)));
        prop_assert_eq!(&read, &matches(&answer));
        prop_assert!(!is_by_holder(&written));
        prop_assert_eq!(is_by_holder(&write(&answer, pairs)), !read.is_empty());
    }

    /// Whatever is done to it: what is taken has one encoding, so that the digest in the log is of what
    /// the prober has read.
    #[test]
    fn an_answer_that_is_read_is_the_one_encoding_of_what_it_says(
        pairs in 1usize..=40,
        sixteenths in prop::collection::vec(0u32..=16, 1..=4),
        seed: u64,
        place: prop::sample::Index,
        change: u8,
        cut: bool,
    ) {
        let mut bytes = write(&answer(pairs, &sixteenths, seed), pairs);
        prop_assume!(!bytes.is_empty());
        let place = place.index(bytes.len());
        if cut {
            bytes.truncate(place);
        } else {
            bytes[place] ^= change;
        }
        if let Ok(read) = read(&bytes.clone().into(), &refs(pairs)) && is_by_holder(&bytes) {
            prop_assert_eq!(write(&by_holder(&read), pairs), bytes);
        }
    }
}

/// Pairs 1 and 9 of 40 at one holder, by numbers: four bytes against five.
fn honest() -> v1::HolderMatches {
    let id = |i| HitId::generate(Timestamp::from_seconds(i), &mut StdRng::seed_from_u64(1));
    let hit = |pair: u16| AnsweredHit {
        pair,
        version: 3,
        id: id(pair.into()),
    };
    let at = AtHolder {
        holder: "nl-fiu".parse().expect("a node"),
        f_total: 1e-9,
        hits: vec![hit(1), hit(9)],
    };
    to_wire(&at, 40)
}

fn refused(holders: Vec<v1::HolderMatches>, pairs: usize) -> Option<Misfit> {
    let refs = Vec::new();
    let bytes = v1::ProbeMatches { refs, holders }.encode_to_vec();
    read(&bytes.into(), &self::refs(pairs)).err()
}

fn numbers(of: &[u16]) -> Pairs {
    let bytes = of.iter().flat_map(|n| n.to_be_bytes());
    Pairs::Numbers(bytes.collect::<Vec<_>>().into())
}

fn bitmap(of: &[u8]) -> Pairs {
    Pairs::Bitmap(of.to_vec().into())
}

#[test]
fn refuses_pairs_that_are_none_of_the_batch() {
    assert_eq!(refused(vec![honest()], 40), None);
    // 33 pairs need five bytes, too; then pair 9 is still one of them, and 39 is not.
    assert_eq!(refused(vec![honest()], 33), None);
    let told = |pairs| v1::HolderMatches { pairs, ..honest() };
    assert_eq!(refused(vec![told(None)], 33), Some(Misfit::NoPair));
    for (pairs, why) in [
        (numbers(&[]), Misfit::NoPair),
        (bitmap(&[0; 5]), Misfit::NoPair),
        (numbers(&[1, 33]), Misfit::PairUnknown),
        (numbers(&[1, u16::MAX]), Misfit::PairUnknown),
        (numbers(&[9, 1]), Misfit::NumbersNotAscending),
        (numbers(&[9, 9]), Misfit::NumbersNotAscending),
        (Pairs::Numbers(vec![0, 1, 0].into()), Misfit::NumbersLength),
        (bitmap(&[2, 2, 0, 0]), Misfit::BitmapLength),
        (bitmap(&[2, 2, 0, 0, 0, 0]), Misfit::BitmapLength),
        (bitmap(&[2, 0, 0, 0, 2]), Misfit::PairUnknown),
        // Right, but longer than the numbers are.
        (bitmap(&[2, 2, 0, 0, 0]), Misfit::NotCanonical),
        (numbers(&[1]), Misfit::HitCount),
        (numbers(&[1, 2, 9]), Misfit::HitCount),
    ] {
        let told = told(Some(pairs));
        assert_eq!(refused(vec![told.clone()], 33), Some(why), "{told:?}");
    }
}

#[test]
fn refuses_hits_versions_and_holders_that_do_not_fit() {
    type Change = fn(&mut v1::HolderMatches);
    let cases: [(Change, Misfit); 9] = [
        (|m| m.hit_ids = m.hit_ids.slice(..16), Misfit::HitCount),
        (|m| m.hit_ids = m.hit_ids.slice(..31), Misfit::HitCount),
        (|m| m.hit_ids = vec![0; 32].into(), Misfit::HitIdForm),
        (|m| m.filter_versions.clear(), Misfit::VersionCount),
        (|m| m.filter_versions = vec![1, 2, 3], Misfit::VersionCount),
        // Said twice where once would do.
        (|m| m.filter_versions = vec![3, 3], Misfit::NotCanonical),
        (|m| m.holder = "NL FIU".into(), Misfit::HolderForm),
        (
            |m| m.false_positive_probability = f64::NAN,
            Misfit::Probability,
        ),
        (|m| m.false_positive_probability = 1.1, Misfit::Probability),
    ];
    for (change, why) in cases {
        let mut told = honest();
        change(&mut told);
        assert_eq!(refused(vec![told], 40), Some(why));
    }
    let twice = vec![honest(), honest()];
    assert_eq!(refused(twice, 40), Some(Misfit::HoldersNotAscending));
    let before = v1::HolderMatches {
        holder: "de-bka".into(),
        ..honest()
    };
    let turned = vec![honest(), before.clone()];
    assert_eq!(refused(turned, 40), Some(Misfit::HoldersNotAscending));
    assert_eq!(refused(vec![before, honest()], 40), None);
}

#[test]
fn refuses_two_forms_fields_of_its_own_and_entries_without_end() {
    let at_ref = v1::RefMatches {
        record_ref: refs(2)[1].as_bytes().to_vec().into(),
        holders: vec![],
    };
    let both = v1::ProbeMatches {
        refs: vec![at_ref],
        holders: vec![honest()],
    };
    let read = |bytes: Vec<u8>| super::read(&bytes.into(), &refs(40)).err();
    assert_eq!(read(both.encode_to_vec()), Some(Misfit::TwoForms));
    let (refs, holders) = (Vec::new(), vec![honest()]);
    let mut more = v1::ProbeMatches { refs, holders }.encode_to_vec();
    // A field 15 that is empty.
    more.extend([0x7a, 0]);
    assert_eq!(read(more), Some(Misfit::NotCanonical));
    assert_eq!(read([0x12, 0].repeat(5000)), Some(Misfit::TooManyEntries));
    // 1500 empty holders within one ref, a length of 3000 in two bytes; or one.
    let mut within = vec![0x0a, 0xb8, 0x17];
    within.extend([0x12, 0].repeat(1500));
    assert_eq!(read(within), Some(Misfit::TooManyEntries));
    assert_eq!(read(vec![0x0a, 2, 0x12, 0]), Some(Misfit::TooManyEntries));
    // Neither form, and yet not empty.
    assert_eq!(read(vec![0x7a, 0]), Some(Misfit::NotCanonical));
    assert_eq!(read(vec![0x12, 0xff]), Some(Misfit::Undecodable));
    assert_eq!(read(vec![]), None);
}

/// Bytes that any other implementation reads and writes, too.
#[test]
fn is_written_as_these_bytes() {
    let hit = |pair: u8, version| {
        let id = [1, 0x92, 0, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, pair];
        AnsweredHit {
            pair: pair.into(),
            version,
            id: HitId::from_slice(&id).expect("a UUIDv7"),
        }
    };
    let at = |holder: &str, hits| AtHolder {
        holder: holder.parse().expect("a node"),
        f_total: 0.5,
        hits,
    };
    // Of 20 refs a bitmap takes three bytes, a number two.
    let answer = [
        at("de-bka", vec![hit(17, 3)]),
        at("nl-fiu", vec![hit(0, 1), hit(9, 300)]),
    ];
    let id = |pair| format!("01920000000070008000000000000{pair:03x}");
    let (numbers, bitmap) = ("22020011", "1a03010200");
    let half = "11000000000000e03f";
    let one = format!("0a0664652d626b61{half}{numbers}2a01033210{}", id(17));
    let two = format!(
        "0a066e6c2d666975{half}{bitmap}2a0301ac023220{}{}",
        id(0),
        id(9)
    );
    let message = |of: &str| format!("12{:02x}{of}", of.len() / 2);
    let expected = message(&one) + &message(&two);
    let byte = |i| u8::from_str_radix(&expected[i..i + 2], 16).expect("hex");
    let expected: Vec<_> = (0..expected.len()).step_by(2).map(byte).collect();
    assert_eq!(write(&answer, 20), expected);
}
