//! Answers to batches: which pairs match whom, as they travel in `ProbeAnswer.matches` (protocol §7).
//!
//! The digest in the audit log is over these bytes (protocol §11), so there is one encoding of what an
//! answer by holder says: [`write()`] makes it, [`read`] takes no other. Answers by ref are for probers,
//! and of brokers, that do not know those by holder.

mod misfit;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use prost::Message as _;
use prost::bytes::Bytes;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use sotto_common::ids::{HitId, NodeId, RecordRef};
use sotto_common::membership::MAX_MEMBERS;
use sotto_common::probe::MAX_BATCH;

use crate::v1;
use crate::v1::holder_matches::Pairs;

pub use misfit::Misfit;

/// The pairs of a batch that match one holder.
#[derive(Clone, PartialEq, Debug)]
pub struct AtHolder {
    /// The holder.
    pub holder: NodeId,
    /// f_total over the layers that were tested (protocol §7).
    pub f_total: f64,
    /// The pairs that match, in their order.
    pub hits: Vec<AnsweredHit>,
}

/// A pair that matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnsweredHit {
    /// Its number in the batch.
    pub pair: u16,
    /// The highest version that matched.
    pub version: u64,
    /// The hit.
    pub id: HitId,
}

/// What an answer says of one pair and one holder.
#[derive(Clone, PartialEq, Debug)]
pub struct Match {
    /// Number of the pair in the batch, below the number of its pairs.
    pub pair: usize,
    /// The holder.
    pub holder: NodeId,
    /// The highest version that matched.
    pub version: u64,
    /// f_total, from 0 to 1.
    pub f_total: f64,
    /// The hit.
    pub hit: HitId,
}

/// Writes the answer to a batch of so many pairs by holder. The holders are in the order of their
/// ids, and the numbers of pairs are below `pairs`.
pub fn write(answer: &[AtHolder], pairs: usize) -> Vec<u8> {
    let found = answer.iter().filter(|at| !at.hits.is_empty());
    let holders = found.map(|at| to_wire(at, pairs)).collect();
    let refs = Vec::new();
    v1::ProbeMatches { refs, holders }.encode_to_vec()
}

fn to_wire(at: &AtHolder, pairs: usize) -> v1::HolderMatches {
    let bitmap_len = pairs.div_ceil(8);
    let which = if size_of::<u16>() * at.hits.len() < bitmap_len {
        let numbers = at.hits.iter().flat_map(|hit| hit.pair.to_be_bytes());
        Pairs::Numbers(numbers.collect::<Vec<_>>().into())
    } else {
        let mut bitmap = vec![0u8; bitmap_len];
        for hit in &at.hits {
            bitmap[usize::from(hit.pair / 8)] |= 1 << (hit.pair % 8);
        }
        Pairs::Bitmap(bitmap.into())
    };
    let mut versions: Vec<_> = at.hits.iter().map(|hit| hit.version).collect();
    if versions.iter().all(|version| *version == versions[0]) {
        versions.truncate(1);
    }
    let ids = at.hits.iter().flat_map(|hit| *hit.id.as_bytes());
    v1::HolderMatches {
        holder: at.holder.to_string(),
        false_positive_probability: at.f_total,
        pairs: Some(which),
        filter_versions: versions,
        hit_ids: ids.collect::<Vec<_>>().into(),
    }
}

/// Writes the answer to a batch of these refs by ref.
pub fn write_by_ref(answer: &[AtHolder], refs: &[RecordRef]) -> Vec<u8> {
    let mut at_refs: Vec<Vec<v1::HolderMatch>> = vec![Vec::new(); refs.len()];
    for at in answer {
        for hit in &at.hits {
            at_refs[usize::from(hit.pair)].push(v1::HolderMatch {
                holder: at.holder.to_string(),
                filter_version: hit.version,
                false_positive_probability: at.f_total,
                hit_id: hit.id.as_bytes().to_vec().into(),
            });
        }
    }
    let found = refs.iter().zip(at_refs).filter(|(_, at)| !at.is_empty());
    let refs = found.map(|(record_ref, holders)| v1::RefMatches {
        record_ref: record_ref.as_bytes().to_vec().into(),
        holders,
    });
    let (refs, holders) = (refs.collect(), Vec::new());
    v1::ProbeMatches { refs, holders }.encode_to_vec()
}

/// Whether whoever knows answers by ref alone would find nothing in this one, though there is something.
pub fn is_by_holder(answer: &[u8]) -> bool {
    v1::ProbeMatches::decode(answer).is_ok_and(|answer| !answer.holders.is_empty())
}

/// Reads the answer to a batch of these refs, each of which stands in it once. Whether the holders
/// were asked is for the prober to tell.
///
/// # Errors
/// What no honest broker answers to the batch; nothing of the answer is to be taken then.
pub fn read(answer: &Bytes, refs: &[RecordRef]) -> Result<Vec<Match>, Misfit> {
    check_entries(answer)?;
    let wire = v1::ProbeMatches::decode(answer.clone()).map_err(|_| Misfit::Undecodable)?;
    match (wire.refs.is_empty(), wire.holders.is_empty()) {
        (false, false) => Err(Misfit::TwoForms),
        // An answer without a match is empty: this one says something, in a form of its own.
        (true, true) if !answer.is_empty() => Err(Misfit::NotCanonical),
        (_, true) => read_by_ref(wire.refs, refs),
        (true, false) => read_by_holder(answer, wire.holders, refs.len()),
    }
}

fn read_by_holder(
    answer: &[u8],
    holders: Vec<v1::HolderMatches>,
    pairs: usize,
) -> Result<Vec<Match>, Misfit> {
    let mut found: Vec<AtHolder> = Vec::with_capacity(holders.len());
    for told in holders {
        let at = at_holder(&told, pairs)?;
        if found.last().is_some_and(|last| last.holder >= at.holder) {
            return Err(Misfit::HoldersNotAscending);
        }
        found.push(at);
    }
    // The digest that is logged is of one encoding: not of the longer one of bitmap and numbers, say.
    if write(&found, pairs) != answer {
        return Err(Misfit::NotCanonical);
    }
    let all = found.into_iter().flat_map(|at| {
        let of = move |hit: AnsweredHit| Match {
            pair: hit.pair.into(),
            holder: at.holder.clone(),
            version: hit.version,
            f_total: at.f_total,
            hit: hit.id,
        };
        at.hits.into_iter().map(of)
    });
    Ok(all.collect())
}

fn at_holder(told: &v1::HolderMatches, pairs: usize) -> Result<AtHolder, Misfit> {
    let numbers = match &told.pairs {
        Some(Pairs::Bitmap(bitmap)) => of_bitmap(bitmap, pairs)?,
        Some(Pairs::Numbers(numbers)) => of_numbers(numbers, pairs)?,
        None => Vec::new(),
    };
    if numbers.is_empty() {
        return Err(Misfit::NoPair);
    }
    let (ids, rest) = told.hit_ids.as_chunks::<16>();
    if ids.len() != numbers.len() || !rest.is_empty() {
        return Err(Misfit::HitCount);
    }
    let version = |i: usize| match told.filter_versions[..] {
        [of_all] => of_all,
        _ => told.filter_versions[i],
    };
    if ![1, numbers.len()].contains(&told.filter_versions.len()) {
        return Err(Misfit::VersionCount);
    }
    let hits = numbers.into_iter().zip(ids).enumerate();
    let hits = hits.map(|(i, (pair, id))| {
        let version = version(i);
        let id = hit_id(id)?;
        Ok(AnsweredHit { pair, version, id })
    });
    Ok(AtHolder {
        holder: holder(&told.holder)?,
        f_total: probability(told.false_positive_probability)?,
        hits: hits.collect::<Result<_, Misfit>>()?,
    })
}

fn of_bitmap(bitmap: &[u8], pairs: usize) -> Result<Vec<u16>, Misfit> {
    if bitmap.len() != pairs.div_ceil(8) {
        return Err(Misfit::BitmapLength);
    }
    let bits = bitmap
        .iter()
        .flat_map(|&byte| (0..8u8).map(move |i| byte >> i & 1));
    let numbers: Vec<u16> = (0..)
        .zip(bits)
        .filter(|(_, bit)| *bit == 1)
        .map(|(i, _)| i)
        .collect();
    within(numbers, pairs)
}

fn of_numbers(bytes: &[u8], pairs: usize) -> Result<Vec<u16>, Misfit> {
    let (numbers, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Misfit::NumbersLength);
    }
    let numbers: Vec<_> = numbers.iter().map(|&n| u16::from_be_bytes(n)).collect();
    if !numbers.is_sorted_by(|one, next| one < next) {
        return Err(Misfit::NumbersNotAscending);
    }
    within(numbers, pairs)
}

/// Takes ascending numbers of pairs that the batch has.
fn within(numbers: Vec<u16>, pairs: usize) -> Result<Vec<u16>, Misfit> {
    match numbers.last() {
        Some(&last) if usize::from(last) >= pairs => Err(Misfit::PairUnknown),
        _ => Ok(numbers),
    }
}

fn read_by_ref(found: Vec<v1::RefMatches>, refs: &[RecordRef]) -> Result<Vec<Match>, Misfit> {
    let places: HashMap<_, _> = refs.iter().enumerate().map(|(i, r)| (*r, i)).collect();
    let mut seen = HashSet::new();
    let mut matches = Vec::new();
    for at_ref in found {
        let record_ref =
            RecordRef::from_slice(&at_ref.record_ref).map_err(|_| Misfit::RecordRefForm)?;
        let &pair = places.get(&record_ref).ok_or(Misfit::PairUnknown)?;
        for told in at_ref.holders {
            let holder = holder(&told.holder)?;
            if !seen.insert((pair, holder.clone())) {
                return Err(Misfit::HolderTwice);
            }
            matches.push(Match {
                pair,
                holder,
                version: told.filter_version,
                f_total: probability(told.false_positive_probability)?,
                hit: hit_id(&told.hit_id)?,
            });
        }
    }
    Ok(matches)
}

fn holder(text: &str) -> Result<NodeId, Misfit> {
    text.parse().map_err(|_| Misfit::HolderForm)
}

fn hit_id(bytes: &[u8]) -> Result<HitId, Misfit> {
    HitId::from_slice(bytes).map_err(|_| Misfit::HitIdForm)
}

fn probability(told: f64) -> Result<f64, Misfit> {
    // Not so for what is no number either.
    let is_one = (0.0..=1.0).contains(&told);
    is_one.then_some(told).ok_or(Misfit::Probability)
}

/// Refuses more entries than an answer can have before any is unpacked: an empty one takes two bytes of
/// the message, and a hundred in memory.
fn check_entries(answer: &[u8]) -> Result<(), Misfit> {
    /// Of a `HolderMatch`: probability and hit id alone.
    const SHORTEST: usize = 27;
    const REFS: u32 = 1;
    const HOLDERS_OF_REF: u32 = 2;
    let most = MAX_BATCH.max(MAX_MEMBERS);
    each_entry(answer, most, |outer, entry| {
        each_entry(entry, 1 + MAX_MEMBERS, |inner, entry| {
            let is_short = entry.len() < SHORTEST;
            if (outer, inner) == (REFS, HOLDERS_OF_REF) && is_short {
                return Err(Misfit::TooManyEntries);
            }
            Ok(())
        })
    })
}

/// Walks the fields of a message, and hands over those that hold bytes, with their numbers.
fn each_entry(
    mut rest: &[u8],
    most: usize,
    entry: impl Fn(u32, &[u8]) -> Result<(), Misfit>,
) -> Result<(), Misfit> {
    let mut entries = 0;
    while !rest.is_empty() {
        entries += 1;
        if entries > most {
            return Err(Misfit::TooManyEntries);
        }
        let (field, kind) = decode_key(&mut rest).map_err(|_| Misfit::Undecodable)?;
        if kind == WireType::LengthDelimited {
            let length = decode_varint(&mut rest).map_err(|_| Misfit::Undecodable)?;
            let length = usize::try_from(length).map_err(|_| Misfit::Undecodable)?;
            let (inside, after) = rest.split_at_checked(length).ok_or(Misfit::Undecodable)?;
            entry(field, inside)?;
            rest = after;
        } else {
            skip_field(kind, field, &mut rest, DecodeContext::default())
                .map_err(|_| Misfit::Undecodable)?;
        }
    }
    Ok(())
}
