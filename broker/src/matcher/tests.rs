//! Which tags match whom, and what is awaited.

use std::time::Duration;

use proptest::prelude::*;
use sotto_common::filter::{Class, contains};

use super::*;

const NOW: Timestamp = Timestamp::from_seconds(1_789_500_000);

fn key() -> StackKey {
    StackKey {
        community: "euro-cyber".parse().expect("a community"),
        epoch: sotto_common::ids::Epoch::new(1).expect("from 1"),
        policy: sotto_common::selector::Policy::Phone,
    }
}

fn node(name: &str) -> NodeId {
    name.parse().expect("a node")
}

fn publication() -> PublicationId {
    PublicationId::generate(NOW, &mut sotto_common::random::os_rng())
}

fn mapped(bits: &[u8]) -> MappedFilter {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), bits).expect("written");
    MappedFilter::open(file.path(), bits.len() as u64).expect("mapped")
}

fn facts(version: u64, params: FilterParams, salt: &Salt) -> LayerFacts {
    LayerFacts {
        publication: publication(),
        version,
        audience: BTreeSet::new(),
        params,
        salt: salt.clone(),
        fpr: 1e-9,
        expires_at: NOW.plus(Duration::from_secs(1)),
    }
}

/// A layer of these bits, mapped from a file as in production.
fn layer(version: u64, params: FilterParams, salt: &Salt, bits: &[u8]) -> Arc<Layer> {
    Arc::new(Layer::new(facts(version, params, salt), mapped(bits)))
}

fn change(publication: PublicationId, layer: Option<Arc<Layer>>) -> Change {
    Change {
        key: key(),
        holder: node("de-bka"),
        publication,
        layer,
    }
}

fn probe(matcher: &Matcher, prober: &str, now: Timestamp, tags: &[Tag]) -> Vec<HolderMatches> {
    let question = Question {
        key: &key(),
        prober: &node(prober),
        targets: &BTreeSet::new(),
        now,
    };
    matcher.probe(&question, tags).expect("nothing is awaited")
}

/// For each of so many tags the version that matched; 0 = none did.
fn versions(at_holder: &HolderMatches, tags: usize) -> Vec<u64> {
    assert!(at_holder.hits.is_sorted_by(|one, next| one.tag < next.tag));
    let mut versions = vec![0; tags];
    for hit in &at_holder.hits {
        versions[hit.tag] = hit.version;
    }
    versions
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Random bits of many densities, so that head and body decide about tags in turn; k small
    /// enough that tags match at all. The broker's two stages agree with the plain matcher.
    #[test]
    fn tests_every_tag_as_the_plain_matcher_does(
        seed: [u8; 32],
        salts: [[u8; 16]; 2],
        class in 0u8..6,
        k in 6u8..=40,
        density in 1u32..=16,
    ) {
        use rand::{RngExt as _, SeedableRng as _};
        let mut rng = rand::rngs::StdRng::from_seed(seed);
        let params = FilterParams::new(Class::new(class).expect("a class"), k).expect("params");
        let length = usize::try_from(params.byte_len()).expect("small");
        let mut draw = |_| (0..length)
            .map(|_| (0..8).fold(0, |byte: u8, _| {
                (byte << 1) | u8::from(rng.random_range(0..16) < density)
            }))
            .collect::<Vec<u8>>();
        let bits: [Vec<u8>; 2] = std::array::from_fn(&mut draw);
        let salts = salts.map(Salt::new);
        let tags: Vec<_> = (0..500).map(|_| Tag::new(rng.random())).collect();

        let matcher = Matcher::default();
        let layers = [0, 1].map(|i| layer(i as u64 + 1, params, &salts[i], &bits[i]));
        let changes = layers.into_iter().map(|layer| change(layer.publication, Some(layer)));
        matcher.update(changes.collect(), 1);
        let found = versions(&probe(&matcher, "nl-fiu", NOW, &tags)[0], tags.len());
        for (i, tag) in tags.iter().enumerate() {
            let highest = [1, 0].into_iter()
                .find(|&l| contains(&bits[l], params, &salts[l], tag))
                .map_or(0, |l| l as u64 + 1);
            prop_assert_eq!(found[i], highest);
        }
    }
}

#[test]
fn threads_and_memory_change_no_answer() {
    use rand::{RngExt as _, SeedableRng as _};
    let mut rng = rand::rngs::StdRng::seed_from_u64(5);
    let params = FilterParams::new(Class::new(2).expect("a class"), 7).expect("params");
    let length = usize::try_from(params.byte_len()).expect("small");
    let bits: Vec<u8> = (0..length)
        .map(|_| rng.random::<u8>() | rng.random::<u8>())
        .collect();
    let salt = Salt::new([4; 16]);
    let tags: Vec<_> = (0..9000).map(|_| Tag::new(rng.random())).collect();
    let held = |tag| contains(&bits, params, &salt, tag);
    let held: Vec<_> = tags.iter().map(|tag| u64::from(held(tag))).collect();
    assert!(held.contains(&1) && held.contains(&0));

    // Room for one of the two.
    for (memory, room) in [(0, 0), (params.byte_len(), 1), (u64::MAX, 2)] {
        let config = MatcherConfig {
            memory: sotto_common::service::config::ByteSize(memory),
            threads: std::num::NonZeroUsize::new(3),
        };
        let matcher = Matcher::start(&config).expect("threads");
        for holder in ["de-bka", "fr-pj"] {
            let layer = layer(1, params, &salt, &bits);
            let change = change(layer.publication, Some(layer));
            let holder = node(holder);
            matcher.update(vec![Change { holder, ..change }], 1);
        }
        for loaded in [0, room] {
            assert_eq!(matcher.loaded(), loaded);
            let found = probe(&matcher, "nl-fiu", NOW, &tags);
            assert_eq!(found.len(), 2);
            let as_held = |of: &HolderMatches| versions(of, tags.len()) == held;
            assert!(found.iter().all(as_held), "{memory}");
            matcher.load();
        }
    }
}

#[test]
fn what_has_ended_gives_its_memory_to_those_that_stand() {
    let params = FilterParams::new(Class::new(0).expect("a class"), 30).expect("params");
    let matcher = Matcher::alone(params.byte_len());
    let [first, second] =
        [1, 2].map(|version| layer(version, params, &Salt::new([1; 16]), &ones(params)));
    let (gone, stays) = (first.publication, second.publication);
    let changes = [first, second].map(|layer| change(layer.publication, Some(layer)));
    matcher.update(changes.into(), 1);
    matcher.load();
    assert_eq!(matcher.loaded(), 1);
    matcher.update(vec![change(gone, None)], 2);
    matcher.load();
    assert_eq!(matcher.loaded(), 1);

    // Out of use, and in again with the bits of its file.
    matcher.withhold(stays);
    matcher.load();
    assert_eq!((matcher.loaded(), matcher.awaited().0), (0, 1));
    assert!(matcher.awaits(stays) && !matcher.awaits(gone));
    assert!(matcher.give(stays, mapped(&ones(params))));
    assert_eq!((matcher.loaded(), matcher.awaited().0), (0, 0));
    matcher.load();
    assert_eq!(matcher.loaded(), 1);
    matcher.begin(vec![], 3);
    assert_eq!(matcher.loaded(), 0);
    assert!(!matcher.give(stays, mapped(&ones(params))));

    // Once it is closed nothing is copied.
    let layer = layer(4, params, &Salt::new([1; 16]), &ones(params));
    matcher.update(vec![change(layer.publication, Some(layer))], 4);
    matcher.close();
    matcher.load();
    assert_eq!(matcher.loaded(), 0);
}

#[test]
fn a_stack_is_tested_as_long_as_it_stands_and_never_for_its_own_holder() {
    let params = FilterParams::new(Class::new(0).expect("a class"), 30).expect("params");
    let length = usize::try_from(params.byte_len()).expect("small");
    let ones = layer(3, params, &Salt::new([1; 16]), &vec![0xff; length]);
    let matcher = Matcher::default();
    let publication = ones.publication;
    matcher.update(vec![change(publication, Some(ones))], 1);
    let tags = [Tag::new([7; 16])];
    let hit = TagHit { tag: 0, version: 3 };
    assert_eq!(probe(&matcher, "nl-fiu", NOW, &tags)[0].hits, [hit]);
    assert!(probe(&matcher, "de-bka", NOW, &tags).is_empty());
    let expired = NOW.plus(Duration::from_secs(1));
    assert!(probe(&matcher, "nl-fiu", expired, &tags).is_empty());
    matcher.update(vec![change(publication, None)], 2);
    assert!(probe(&matcher, "nl-fiu", NOW, &tags).is_empty());
}

/// One stack of two layers that match everything; the second is awaited.
fn with_an_awaited_layer(params: FilterParams) -> (Matcher, PublicationId) {
    let matcher = Matcher::alone(u64::MAX);
    let salt = Salt::new([1; 16]);
    let ones = layer(1, params, &salt, &ones(params));
    let awaited = Arc::new(Layer::awaited(facts(2, params, &salt)));
    let publication = awaited.publication;
    let changes = [ones, awaited].map(|layer| change(layer.publication, Some(layer)));
    matcher.update(changes.into(), 1);
    (matcher, publication)
}

fn ones(params: FilterParams) -> Vec<u8> {
    vec![0xff; usize::try_from(params.byte_len()).expect("small")]
}

fn question<'a>(
    key: &'a StackKey,
    prober: &'a NodeId,
    targets: &'a BTreeSet<NodeId>,
) -> Question<'a> {
    Question {
        key,
        prober,
        targets,
        now: NOW,
    }
}

#[test]
fn nothing_is_answered_without_a_layer_that_is_awaited() {
    let params = FilterParams::new(Class::new(0).expect("a class"), 30).expect("params");
    let (matcher, publication) = with_an_awaited_layer(params);
    let (key, prober, other) = (key(), node("nl-fiu"), BTreeSet::from([node("fr-pj")]));
    let (all, tags) = (BTreeSet::new(), [Tag::new([7; 16])]);
    let asked = question(&key, &prober, &all);
    let found = |question: &Question<'_>| {
        let found = matcher.probe(question, &tags)?;
        let hits = found.iter().flat_map(|at_holder| &at_holder.hits);
        Some(hits.map(|hit| hit.version).collect::<Vec<_>>())
    };
    assert_eq!(found(&asked), None);
    // Those whom it does not concern are answered, and it can be seen that it is there.
    assert_eq!(found(&question(&key, &node("de-bka"), &all)), Some(vec![]));
    assert_eq!(found(&question(&key, &prober, &other)), Some(vec![]));
    assert_eq!(matcher.reach(&key.community, &prober, NOW).stacks.len(), 1);

    assert!(matcher.give(publication, mapped(&ones(params))));
    assert_eq!(found(&asked), Some(vec![2]));
    matcher.load();
    // It has bits, and keeps them.
    let zeros = vec![0; ones(params).len()];
    assert!(matcher.give(publication, mapped(&zeros)));
    assert_eq!(found(&asked), Some(vec![2]));
    matcher.withhold(publication);
    matcher.load();
    assert_eq!(found(&asked), None);
    matcher.update(vec![change(publication, None)], 2);
    assert_eq!(found(&asked), Some(vec![1]));
    assert!(!matcher.give(publication, mapped(&zeros)));
}

#[tokio::test]
async fn who_waits_for_a_layer_goes_on_once_it_is_given_or_has_ended() {
    let params = FilterParams::new(Class::new(0).expect("a class"), 30).expect("params");
    let (key, prober, all) = (key(), node("nl-fiu"), BTreeSet::new());
    let asked = question(&key, &prober, &all);
    for gives in [true, false] {
        let (matcher, publication) = with_an_awaited_layer(params);
        let waits = matcher.until_complete(&asked);
        tokio::pin!(waits);
        assert!(futures::poll!(&mut waits).is_pending());
        if gives {
            assert!(matcher.give(publication, mapped(&ones(params))));
        } else {
            matcher.update(vec![change(publication, None)], 2);
        }
        waits.await;
    }
}
