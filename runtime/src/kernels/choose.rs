//! The choice of a candidate: operation, shape and profile decide, numerics restrict.
//!
//! A pin comes before a measurement, a measurement before the table's order.

use super::attend::AttendShape;
use super::attention::{AttentionShape, Scores};
use super::candidate::{Candidate, Kind, Numerics};
use super::measured::{MARGIN, Measured, Times};
use super::project::ProjectShape;
use super::tables;
use crate::device::{GpuError, Profile};
use crate::program::{Output, Phase};
use haikuq_format::scheme::{Bits, Grouped, Scheme};
use serde::Serialize;
use std::collections::BTreeMap;

/// What restricts the choice.
#[derive(Clone, Debug, Default)]
pub struct Restrictions {
    /// Exact candidates alone.
    pub exact: bool,
    /// Names of candidates by operation: where a pinned candidate can do a shape, it is taken.
    pub pins: BTreeMap<String, String>,
    /// Times of candidates on the device.
    pub measured: Measured,
}

/// By which means a candidate was chosen.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Means {
    /// It is the first of the table that fits.
    Table,
    /// By times on the device.
    Measured {
        /// What it takes.
        microseconds: f64,
        /// Whom it was compared with: the table's choice, or the fastest other one where that is the table's choice itself.
        other: &'static str,
        /// What that takes.
        other_microseconds: f64,
    },
    /// It was asked for.
    Pinned,
}

/// A candidate, and by which means it was chosen.
#[derive(Debug)]
pub struct Decision<K: Kind> {
    /// The candidate.
    pub candidate: &'static Candidate<K>,
    /// How it was chosen.
    pub by: Means,
}

impl Restrictions {
    /// Exact candidates alone.
    pub fn exact() -> Self {
        Self { exact: true, ..Self::default() }
    }

    fn allows(&self, numerics: Numerics) -> bool {
        !self.exact || numerics == Numerics::Exact
    }

    fn times<K: Kind>(&self, shape: &K::Shape) -> Option<&Times> {
        // Most devices and shapes have none, and a name takes longer to write than a list to see that it is empty.
        let known = !self.measured.entries.is_empty();
        known.then(|| K::measured_as(shape, self.exact)).flatten().and_then(|name| self.measured.find(K::NAME, &name))
    }
}

/// The pinned candidate of `table` where it can, else the fastest where times are known, else the first that fits.
///
/// # Errors
/// [`GpuError::Validation`] if none fits.
pub fn decide<K: Kind>(
    table: &'static [&'static Candidate<K>],
    profile: &Profile,
    shape: &K::Shape,
    restrictions: &Restrictions,
) -> Result<Decision<K>, GpuError> {
    let able = able(table, profile, shape, restrictions);
    if let Some(name) = restrictions.pins.get(K::NAME)
        && let Some(candidate) = able.iter().find(|c| c.name == name)
    {
        return Ok(Decision { candidate, by: Means::Pinned });
    }
    let Some(first) = able.first().filter(|c| (c.fits)(profile, shape)) else {
        let names: Vec<_> = table.iter().map(|c| c.name).collect();
        let why = format!("no way of doing the operation {} fits this device: {}", K::NAME, names.join(", "));
        return Err(GpuError::Validation(why));
    };
    let by_table = Decision { candidate: first, by: Means::Table };
    let Some(times) = restrictions.times::<K>(shape) else { return Ok(by_table) };
    let timed = able[1..].iter().filter_map(|c| Some((*c, times.of(c.name)?)));
    let (Some(own), Some((other, best))) = (times.of(first.name), timed.min_by(|a, b| a.1.total_cmp(&b.1))) else {
        return Ok(by_table);
    };
    let ((candidate, microseconds), (other, other_microseconds)) =
        if best * MARGIN < own { ((other, best), (*first, own)) } else { ((*first, own), (other, best)) };
    Ok(Decision { candidate, by: Means::Measured { microseconds, other: other.name, other_microseconds } })
}

/// What [`decide`] decides for.
///
/// # Errors
/// [`GpuError::Validation`] if none fits.
pub fn choose<K: Kind>(
    table: &'static [&'static Candidate<K>],
    profile: &Profile,
    shape: &K::Shape,
    restrictions: &Restrictions,
) -> Result<&'static Candidate<K>, GpuError> {
    decide(table, profile, shape, restrictions).map(|d| d.candidate)
}

/// The candidates that can do a shape and are allowed: the table's choice, if there is one, and then the others in order.
pub fn able<K: Kind>(
    table: &'static [&'static Candidate<K>],
    profile: &Profile,
    shape: &K::Shape,
    restrictions: &Restrictions,
) -> Vec<&'static Candidate<K>> {
    let can =
        |c: &&'static Candidate<K>| restrictions.allows(c.numerics) && ((c.fits)(profile, shape) || (c.can)(profile, shape));
    let mut able: Vec<_> = table.iter().copied().filter(can).collect();
    if let Some(first) = able.iter().position(|c| (c.fits)(profile, shape)) {
        able[..=first].rotate_right(1);
    }
    able
}

/// Checks pins: `operation=candidate`, each of a table.
///
/// # Errors
/// The operation or candidate that does not exist, with those that do.
pub fn check_pins(pins: &BTreeMap<String, String>) -> Result<(), String> {
    let tables = tables::names();
    for (operation, candidate) in pins {
        let Some((_, names)) = tables.iter().find(|(name, _)| name == operation) else {
            let known: Vec<_> = tables.iter().map(|(name, _)| *name).collect();
            return Err(format!("there is no operation {operation:?} to pin; there are {}", known.join(", ")));
        };
        if !names.contains(&candidate.as_str()) {
            return Err(format!("operation {operation} has no candidate {candidate:?}; it has {}", names.join(", ")));
        }
    }
    Ok(())
}

/// A candidate that a device gets for a typical shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TypicalChoice {
    /// What is done, in words.
    pub task: &'static str,
    /// The operation.
    pub operation: &'static str,
    /// The candidate.
    pub candidate: &'static str,
    /// What it does to numbers.
    pub numerics: Numerics,
}

/// What a device gets for the shapes of a model of 3B parameters in 4 bits: for those who ask what it can do.
///
/// # Errors
/// [`GpuError::Validation`] if nothing fits.
pub fn typical(profile: &Profile) -> Result<Vec<TypicalChoice>, GpuError> {
    fn one<K: Kind>(
        task: &'static str,
        table: &'static [&'static Candidate<K>],
        profile: &Profile,
        shape: &K::Shape,
    ) -> Result<TypicalChoice, GpuError> {
        let found = choose(table, profile, shape, &Restrictions::default())?;
        Ok(TypicalChoice { task, operation: K::NAME, candidate: found.name, numerics: found.numerics })
    }
    let group = Grouped::new(Bits::B4, 32);
    let product = |tokens, phase| ProjectShape {
        rows: 16384,
        columns: 3072,
        tokens,
        phase,
        scheme: Scheme::Grouped(group),
        output: Output::Store,
        bias: false,
        norm: phase == Phase::Decode,
    };
    let attention = |tokens, phase| AttendShape {
        tokens,
        phase,
        attention: AttentionShape { num_heads: 24, num_kv_heads: 8, head_dim: 128, max_pages: 128, cache_f16: true },
        scores: Scores { scale: 1.0, window: None, softcap: None },
    };
    Ok(vec![
        one("products of a prompt", tables::PROJECT, profile, &product(512, Phase::Prefill))?,
        one("attention of a prompt", tables::ATTEND, profile, &attention(512, Phase::Prefill))?,
        one("products of a token", tables::PROJECT, profile, &product(1, Phase::Decode))?,
        one("attention of a token", tables::ATTEND, profile, &attention(1, Phase::Decode))?,
    ])
}
