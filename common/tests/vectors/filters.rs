//! Classes, positions, bits and rates of filters (protocol §5).

use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde_json::Value;
use sha2::Sha256;
use sotto_common::filter::admission::Measure;
use sotto_common::filter::{Class, Filter, FilterBuilder, FilterParams, Locator, Salt, contains};
use sotto_common::secret::{Selector, Tag};
use sotto_common::tag::TagKey;

use crate::report::{Hex, Outcome, Rows, same};

/// `classes.json`: fields `pages_k<k>` for any `k`.
pub(crate) fn classes(file: &Value, rows: &mut Rows<'_>) {
    #[derive(Deserialize)]
    struct Row {
        class: u8,
        capacity: u64,
        #[serde(flatten)]
        pages: std::collections::BTreeMap<String, Value>,
    }
    rows.each(file, |row: Row| {
        let class = Class::new(row.class).map_err(|error| error.to_string())?;
        same("capacity", class.capacity(), row.capacity)?;
        same(
            "smallest class",
            Class::smallest_for(row.capacity),
            Some(class),
        )?;
        for (field, pages) in &row.pages {
            let Some(k) = field.strip_prefix("pages_k") else {
                continue;
            };
            let k = k.parse().map_err(|_| format!("{field}: no k"))?;
            let ours = FilterParams::new(class, k).map_err(|error| error.to_string())?;
            same(field, Some(u64::from(ours.pages())), pages.as_u64())?;
        }
        Ok(())
    });
}

#[derive(Deserialize)]
struct Row {
    class: u8,
    k: u8,
    pages: u32,
    salt: Hex<16>,
    policy: String,
    inserted: String,
    count: usize,
    unpadded_popcount: Option<u64>,
    unpadded_digest: Option<Hex<32>>,
    unpadded_fpr: Option<f64>,
    padding_tags: Option<u64>,
    popcount: Option<u64>,
    digest: Option<Hex<32>>,
    fpr: Option<f64>,
    #[serde(default)]
    positions: Vec<Position>,
    #[serde(default)]
    absent: Vec<Hex<16>>,
}

#[derive(Deserialize)]
struct Position {
    tag: Hex<16>,
    page: u32,
    bits: Vec<u16>,
}

/// `filters.json`: tags are made again from what the row says was inserted.
pub(crate) fn filters(file: &Value, rows: &mut Rows<'_>) {
    let Some(keys) = rows.keys() else { return };
    rows.each(file, |row: Row| {
        filter(&row, &keys.schedule.tag_key(&row.policy))
    });
}

fn filter(row: &Row, key: &TagKey) -> Outcome {
    let class = Class::new(row.class).map_err(|error| error.to_string())?;
    let params = FilterParams::new(class, row.k).map_err(|error| error.to_string())?;
    same("pages", params.pages(), row.pages)?;
    let salt = Salt::new(row.salt.0);
    positions(row, &Locator::new(params, &salt))?;

    let inserted = Inserted::parse(&row.inserted)?;
    let tags: Vec<_> = inserted.values().map(|value| key.tag(&value)).collect();
    same("count", tags.len(), row.count)?;
    let fill = || {
        let mut builder = FilterBuilder::new(params, salt.clone());
        builder.insert_all(&tags);
        builder
    };
    let unpadded = fill().finish();
    let theirs = (row.unpadded_popcount, row.unpadded_digest, row.unpadded_fpr);
    measures("unpadded", &unpadded, theirs)?;
    membership(&unpadded, &tags, &row.absent)?;

    let Some(padding) = &inserted.padding_key else {
        let claims = (row.padding_tags, row.popcount, row.digest);
        return same("padding without its tags", claims, (None, None, None));
    };
    let mut builder = fill();
    let mut next = 0..;
    let added = builder.pad_with(|| padding_tag(padding, next.next().unwrap_or(u64::MAX)));
    same(
        "padding_tags",
        Some(added),
        row.padding_tags.or(Some(added)),
    )?;
    let padded = builder.finish();
    measures("padded", &padded, (row.popcount, row.digest, row.fpr))?;
    membership(&padded, &tags, &row.absent)?;
    Measure::of(padded.bits(), row.k)
        .check(params)
        .map_err(|refusal| refusal.to_string())
}

fn positions(row: &Row, locator: &Locator) -> Outcome {
    for position in &row.positions {
        let ours = locator.locate(&Tag::new(position.tag.0));
        same("page", ours.page(), position.page)?;
        same("bits", ours.bits(), &position.bits[..])?;
    }
    Ok(())
}

/// Popcount, digest and rate, each where the row gives it.
fn measures(
    which: &str,
    filter: &Filter,
    theirs: (Option<u64>, Option<Hex<32>>, Option<f64>),
) -> Outcome {
    let ours = Measure::of(filter.bits(), filter.params().k());
    if let Some(popcount) = theirs.0 {
        same(&format!("{which} popcount"), ours.popcount, popcount)?;
    }
    if let Some(digest) = theirs.1 {
        same(&format!("{which} digest"), Hex(filter.digest()), digest)?;
    }
    match theirs.2 {
        // protocol §5.3: relative tolerance 1e-9.
        Some(rate) if (ours.rate - rate).abs() > rate.abs() * 1e-9 => Err(format!(
            "{which} fpr: {} here, {rate} in the vectors",
            ours.rate
        )),
        _ => Ok(()),
    }
}

fn membership(filter: &Filter, present: &[Tag], absent: &[Hex<16>]) -> Outcome {
    let holds = |tag: &Tag| contains(filter.bits(), filter.params(), filter.salt(), tag);
    if let Some(missing) = present.iter().position(|tag| !holds(tag)) {
        return Err(format!("inserted tag {missing} is not found"));
    }
    match absent.iter().position(|tag| holds(&Tag::new(tag.0))) {
        Some(found) => Err(format!("absent tag {found} is found")),
        None => Ok(()),
    }
}

/// What a row says was inserted: `<text with one %0<width>d> for <first>..<last>`, and for a padded
/// filter `, then HMAC(key = ASCII '<key>', u64(i))[0..16] for i = 0, 1, ... until full`.
struct Inserted {
    before: String,
    width: usize,
    after: String,
    range: std::ops::RangeInclusive<u64>,
    padding_key: Option<String>,
}

impl Inserted {
    fn parse(text: &str) -> Result<Self, String> {
        Self::split(text).ok_or_else(|| format!("inserted: cannot be read: {text}"))
    }

    fn split(text: &str) -> Option<Self> {
        let (values, padding) = match text.split_once(", then ") {
            Some((values, padding)) => (values, Some(padding)),
            None => (text, None),
        };
        let (template, range) = values.split_once(" for ")?;
        let (first, last) = range.split_once("..")?;
        let (before, rest) = template.split_once('%')?;
        let (width, after) = rest.split_once('d')?;
        let padding_key = match padding {
            Some(text) => {
                let (key, rest) = text.strip_prefix("HMAC(key = ASCII '")?.split_once('\'')?;
                let known = ", u64(i))[0..16] for i = 0, 1, ... until full";
                (rest == known).then_some(())?;
                Some(key.to_owned())
            }
            None => None,
        };
        Some(Self {
            before: before.into(),
            width: if width.is_empty() {
                0
            } else {
                width.parse().ok()?
            },
            after: after.into(),
            range: first.parse().ok()?..=last.parse().ok()?,
            padding_key,
        })
    }

    fn values(&self) -> impl Iterator<Item = Selector> {
        self.range.clone().map(|number| {
            let Self {
                before,
                width,
                after,
                ..
            } = self;
            Selector::new(format!("{before}{number:0width$}{after}"))
        })
    }
}

fn padding_tag(key: &str, number: u64) -> Tag {
    let mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes any key");
    let mac = mac
        .chain_update(number.to_be_bytes())
        .finalize()
        .into_bytes();
    Tag::from_slice(&mac[..16]).expect("16 bytes")
}
