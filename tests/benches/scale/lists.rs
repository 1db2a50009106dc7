//! Lists as units have them: spelled in many ways, the same in every run; all of it invented.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use sotto_common::selector::Policy;

/// The hint of every phone list: its national spellings are Dutch.
pub(crate) const REGION: &str = "NL";

/// The seed of the lists: fixed, so that runs can be compared.
const SEED: u64 = 20_260_301;

/// A list on disk, a selector a line.
pub(crate) struct List {
    pub(crate) policy: Policy,
    pub(crate) path: PathBuf,
    pub(crate) count: u64,
}

impl List {
    /// Writes `count` selectors of a policy, all of them different and none refused.
    pub(crate) fn write(dir: &Path, policy: Policy, count: u64) -> Self {
        Self::write_range(dir, policy, 0..count)
    }

    /// As [`Self::write`], the selectors of these numbers: lists have those in common whose numbers
    /// they share.
    pub(crate) fn write_range(dir: &Path, policy: Policy, numbers: Range<u64>) -> Self {
        let (name, count) = (policy.selector_type(), numbers.end - numbers.start);
        let path = dir.join(format!("{name}-{}-{count}.txt", numbers.start));
        let mut out = BufWriter::new(File::create(&path).expect("a file"));
        let mut rng = StdRng::seed_from_u64(SEED);
        for number in numbers {
            let line = match policy {
                Policy::Domain => domain(number, &mut rng),
                _ => phone(number, &mut rng),
            };
            writeln!(out, "{line}").expect("written");
        }
        out.flush().expect("written");
        Self {
            policy,
            path,
            count,
        }
    }

    /// The region hint of its lines.
    pub(crate) fn region(policy: Policy) -> Option<&'static str> {
        policy.takes_region().then_some(REGION)
    }
}

/// Country code, first digits of its mobile numbers, and how many digits follow them.
const COUNTRIES: [(&str, &str, usize); 8] = [
    ("31", "6", 8),
    ("49", "15", 9),
    ("33", "6", 8),
    ("44", "7", 9),
    ("32", "4", 8),
    ("34", "6", 8),
    ("1", "212", 7),
    ("48", "5", 8),
];

/// A mobile number as people write it.
fn phone(number: u64, rng: &mut StdRng) -> String {
    let country = usize::try_from(number % 8).expect("below 8");
    let (code, first, digits) = COUNTRIES[country];
    // An odd factor moves numbers around below 10^7, and makes none of them equal.
    let local = number / 8 * 7_654_321 % 10_000_000;
    let national = format!("{first}{local:0digits$}");
    let (head, tail) = national.split_at(national.len() - 4);
    let (begin, middle) = head.split_at(1);
    match rng.random_range(0..10) {
        0 | 1 => format!("+{code}{national}"),
        2 => format!("+{code} {begin} {middle} {tail}"),
        3 => format!("+{code}-{begin}{middle}-{tail}"),
        4 => format!("00{code}{national}"),
        5 => format!("tel:+{code}-{begin}{middle}-{tail}"),
        6 => format!("+{code} ({begin}{middle}) {tail}"),
        7 => format!(" 00 {code} {begin}{middle}.{tail}"),
        _ if code == "31" => format!("0{begin}-{middle} {tail}"),
        _ => format!("+{code} {begin}{middle} {tail}"),
    }
}

const WORDS: [&str; 24] = [
    "secure", "login", "bank", "update", "mail", "cloud", "pay", "track", "parcel", "shop", "news",
    "verify", "account", "support", "crypto", "wallet", "invest", "free", "promo", "media",
    "service", "customer", "online", "portal",
];

/// What stands before the registered name, mostly nothing.
const HOSTS: [&str; 12] = [
    "", "", "", "", "", "www.", "www.", "mail.", "cdn-3.", "login.", "a.b.", "_dmarc.",
];

/// Public suffixes, the common ones several times.
const SUFFIXES: [&str; 32] = [
    "com",
    "com",
    "com",
    "com",
    "com",
    "com",
    "net",
    "net",
    "org",
    "nl",
    "nl",
    "de",
    "de",
    "fr",
    "eu",
    "be",
    "pl",
    "ru",
    "info",
    "xyz",
    "top",
    "online",
    "shop",
    "co.uk",
    "com.au",
    "com.br",
    "co.jp",
    "gov.uk",
    "github.io",
    "pages.dev",
    "io",
    "tokyo.jp",
];

/// Names that are not ASCII, as U-labels and as A-labels.
const IDN: [&str; 6] = [
    "münchen",
    "bücher",
    "señal",
    "пример",
    "xn--mnchen-3ya",
    "xn--bcher-kva",
];

/// A domain as people and systems write it.
fn domain(number: u64, rng: &mut StdRng) -> String {
    let mut pick = |from: &[&'static str]| *from.choose(rng).expect("not empty");
    let (host, one, two) = (pick(&HOSTS), pick(&WORDS), pick(&WORDS));
    let (suffix, idn) = (pick(&SUFFIXES), pick(&IDN));
    let name = match rng.random_range(0..50) {
        // The A-label is its own label, for it cannot be made longer.
        0 => format!("{one}{number:x}.{idn}.{suffix}"),
        1..=20 => format!("{host}{one}-{two}-{number:x}.{suffix}"),
        _ => format!("{host}{one}{number:x}.{suffix}"),
    };
    match rng.random_range(0..40) {
        0..=4 => name.to_ascii_uppercase(),
        5..=8 => name[..1].to_ascii_uppercase() + &name[1..],
        9..=11 => format!("{name}."),
        12 | 13 => name.replace('.', "[.]"),
        14 => format!("  {name} "),
        _ => name,
    }
}
