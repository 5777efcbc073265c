//! The choice of a candidate: operation, shape and profile decide, numerics and pins restrict.

use super::attend::AttendShape;
use super::attention::{AttentionShape, Scores};
use super::candidate::{Candidate, Kind, Numerics};
use super::project::ProjectShape;
use super::tables;
use crate::device::{GpuError, Profile};
use crate::program::{Output, Phase};
use haikuq_format::scheme::{Bits, Codebook, Grouped, Offset, ScaleType, Scheme};
use serde::Serialize;
use std::collections::BTreeMap;

/// What restricts the choice.
#[derive(Clone, Debug, Default)]
pub struct Restrictions {
    /// Exact candidates alone.
    pub exact: bool,
    /// Names of candidates by operation: where a pinned candidate fits a shape, it is taken.
    pub pins: BTreeMap<String, String>,
}

impl Restrictions {
    /// Exact candidates alone.
    pub fn exact() -> Self {
        Self { exact: true, ..Self::default() }
    }

    fn allows(&self, numerics: Numerics) -> bool {
        !self.exact || numerics == Numerics::Exact
    }
}

/// The first of `table` that fits: the pinned one where there is one, else in order.
///
/// # Errors
/// [`GpuError::Validation`] if none fits.
pub fn choose<K: Kind>(
    table: &'static [&'static Candidate<K>],
    profile: &Profile,
    shape: &K::Shape,
    restrictions: &Restrictions,
) -> Result<&'static Candidate<K>, GpuError> {
    let fits = |c: &&&'static Candidate<K>| restrictions.allows(c.numerics) && (c.fits)(profile, shape);
    let pinned = restrictions.pins.get(K::NAME).and_then(|name| table.iter().filter(fits).find(|c| c.name == name));
    pinned.or_else(|| table.iter().find(fits)).copied().ok_or_else(|| {
        let names: Vec<_> = table.iter().map(|c| c.name).collect();
        GpuError::Validation(format!("no way of doing the operation {} fits this device: {}", K::NAME, names.join(", ")))
    })
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
    let group = Grouped { bits: Bits::B4, group: 32, scale: ScaleType::F16, offset: Offset::None, codebook: Codebook::Uniform };
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
