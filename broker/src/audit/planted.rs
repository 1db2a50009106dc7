//! What became of planted selectors (`sotto_common::log::planted`): the plan of what was planted,
//! compared with what the prober was told, and with an export of the log.

mod logged;

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use sotto_common::hit::HitState;
use sotto_common::ids::HitId;
use sotto_common::log::planted::Planting;
use sotto_common::secret::Selector;
use sotto_common::time::Timestamp;

pub use logged::{LogCheck, Logged};

/// The version of a plan's file.
const VERSION: u32 = 1;

/// What was planted. It holds the selectors in clear, and not the seed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Between whom.
    pub planting: Planting,
    /// When it was made, by the auditor's clock.
    pub made_at: Timestamp,
    /// The number of the first selector.
    pub first: u32,
    /// What holder and prober have, by number.
    pub planted: Vec<Selector>,
    /// What the prober alone has.
    pub decoys: Vec<Selector>,
}

/// A plan as its file has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    version: u32,
    community: String,
    policy: String,
    prober: String,
    holder: String,
    made_at: String,
    first: u32,
    planted: Vec<String>,
    decoys: Vec<String>,
}

/// A file that is not what it should be. The text repeats nothing of it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is no plan.
    #[error("not a plan of `audit plant`")]
    Plan,
    /// It is a plan of another version.
    #[error("a plan of version {0}, which this program does not know")]
    Version(u32),
    /// It is no list of hits.
    #[error("not what `sotto-node hits ls --output json` prints")]
    Hits,
}

impl Plan {
    /// The content of its file, which is its owner's alone.
    ///
    /// # Errors
    /// Those of the serialiser; there is nothing in a plan that it refuses.
    pub fn write(&self) -> serde_json::Result<String> {
        let texts = |selectors: &[Selector]| -> Vec<String> {
            let texts = selectors.iter().map(|text| text.expose().to_owned());
            texts.collect()
        };
        let planting = &self.planting;
        let mut text = serde_json::to_string_pretty(&PlanFile {
            version: VERSION,
            community: planting.community.to_string(),
            policy: planting.policy.to_string(),
            prober: planting.prober.to_string(),
            holder: planting.holder.to_string(),
            made_at: self.made_at.to_string(),
            first: self.first,
            planted: texts(&self.planted),
            decoys: texts(&self.decoys),
        })?;
        text.push('\n');
        Ok(text)
    }

    /// Reads a plan.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn parse(text: &[u8]) -> Result<Self, Unreadable> {
        // The parser's own text may repeat some of what it has read.
        let file: PlanFile = serde_json::from_slice(text).map_err(|_| Unreadable::Plan)?;
        if file.version != VERSION {
            return Err(Unreadable::Version(file.version));
        }
        let planting = Planting {
            community: file.community.parse().map_err(|_| Unreadable::Plan)?,
            policy: file.policy.parse().map_err(|_| Unreadable::Plan)?,
            prober: file.prober.parse().map_err(|_| Unreadable::Plan)?,
            holder: file.holder.parse().map_err(|_| Unreadable::Plan)?,
        };
        let made_at = Timestamp::parse_rfc3339(&file.made_at).ok_or(Unreadable::Plan)?;
        Ok(Self {
            planting,
            made_at,
            first: file.first,
            planted: file.planted.into_iter().map(Selector::new).collect(),
            decoys: file.decoys.into_iter().map(Selector::new).collect(),
        })
    }

    /// The number of the planted selector at a place.
    fn number(&self, place: usize) -> u32 {
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        self.first.saturating_add(place)
    }

    /// Selectors in the prober's list.
    pub fn asked(&self) -> usize {
        self.planted.len() + self.decoys.len()
    }

    /// Compares the plan with the hits that the prober was told of. Hits of other policies and of
    /// other selectors are passed over.
    pub fn compare(&self, hits: &[ToldHit]) -> Comparison {
        let places: HashMap<&Selector, usize> = self.planted.iter().zip(0..).collect();
        let decoys: HashSet<&Selector> = self.decoys.iter().collect();
        let mut told: Vec<Option<&ToldHit>> = vec![None; self.planted.len()];
        let mut unplanned = 0;
        for hit in hits {
            if hit.policy != self.planting.policy.name() {
                continue;
            }
            let is_ours = hit.holder == self.planting.holder.as_str();
            match places.get(&hit.value).copied() {
                Some(place) if is_ours => {
                    // A record of two datasets has two hits: one of them is enough.
                    let known = &mut told[place];
                    if known.is_none_or(|known| known.leaf.is_none()) {
                        *known = Some(hit);
                    }
                }
                Some(_) => unplanned += 1,
                None => unplanned += usize::from(decoys.contains(&hit.value)),
            }
        }
        let mut comparison = Comparison {
            reported: Vec::new(),
            missing: Vec::new(),
            unplanned,
        };
        for (place, hit) in told.into_iter().enumerate() {
            let number = self.number(place);
            match hit {
                Some(hit) => comparison.reported.push(Reported::new(number, hit)),
                None => comparison.missing.push(number),
            }
        }
        comparison
    }

    /// The planted selector of a number.
    pub fn selector(&self, number: u32) -> Option<&Selector> {
        let place = number.checked_sub(self.first)?;
        self.planted.get(usize::try_from(place).ok()?)
    }
}

/// A hit as the prober's unit lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ToldHit {
    /// Its id.
    pub hit: HitId,
    /// Its policy.
    pub policy: String,
    /// Who holds.
    pub holder: String,
    /// Where it stands.
    pub state: Option<HitState>,
    /// The unit's own selector; empty once it was removed there.
    pub value: Selector,
    /// When the broker found it.
    pub first_seen: Option<Timestamp>,
    /// Its leaf in the log, once the unit's node has seen it proved.
    pub leaf: Option<u64>,
}

/// A hit as `sotto-node hits ls --output json` prints it, as far as it is of use here.
#[derive(Deserialize)]
struct HitRow {
    hit: String,
    policy: String,
    holder: String,
    state: String,
    value: String,
    first_seen: Option<String>,
    verified: bool,
    leaf: Option<u64>,
}

/// Reads what the prober's unit has exported.
///
/// # Errors
/// [`Unreadable::Hits`].
pub fn parse_hits(text: &[u8]) -> Result<Vec<ToldHit>, Unreadable> {
    let rows: Vec<HitRow> = serde_json::from_slice(text).map_err(|_| Unreadable::Hits)?;
    rows.into_iter().map(told).collect()
}

fn told(row: HitRow) -> Result<ToldHit, Unreadable> {
    Ok(ToldHit {
        hit: row.hit.parse().map_err(|_| Unreadable::Hits)?,
        policy: row.policy,
        holder: row.holder,
        state: HitState::parse(&row.state),
        value: Selector::new(row.value),
        first_seen: row.first_seen.as_deref().and_then(Timestamp::parse_rfc3339),
        leaf: row.leaf.filter(|_| row.verified),
    })
}

/// A planted hit that the prober was told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reported {
    /// The number of its selector.
    pub number: u32,
    /// Its id.
    pub hit: HitId,
    /// Whether it was retracted since.
    pub is_retracted: bool,
    /// When the broker found it.
    pub first_seen: Option<Timestamp>,
    /// Its leaf in the log, if the prober's node has seen it proved.
    pub leaf: Option<u64>,
}

impl Reported {
    fn new(number: u32, told: &ToldHit) -> Self {
        Self {
            number,
            hit: told.hit,
            is_retracted: told.state == Some(HitState::Retracted),
            first_seen: told.first_seen,
            leaf: told.leaf,
        }
    }
}

/// What the prober was told of what was planted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Comparison {
    /// The hits that it was told of, a selector at most once.
    pub reported: Vec<Reported>,
    /// The numbers of the others.
    pub missing: Vec<u32>,
    /// Hits on test selectors that were not planted so: on decoys, and at other holders. A filter
    /// gives some by chance.
    pub unplanned: usize,
}

impl Comparison {
    /// How many were reported, of how many.
    pub fn counts(&self) -> (u32, u32) {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let (reported, missing) = (count(self.reported.len()), count(self.missing.len()));
        (reported, reported.saturating_add(missing))
    }

    /// Hits whose entries the prober's node has seen proved.
    pub fn verified(&self) -> usize {
        let leaves = self.reported.iter().filter(|hit| hit.leaf.is_some());
        leaves.count()
    }

    /// Hits that were retracted.
    pub fn retracted(&self) -> usize {
        let retracted = self.reported.iter().filter(|hit| hit.is_retracted);
        retracted.count()
    }
}

#[cfg(test)]
mod tests;
