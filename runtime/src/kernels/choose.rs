//! The choice of a candidate: operation, shape and profile decide, numerics and pins restrict.

use super::candidate::{Candidate, Kind, Numerics};
use crate::device::{GpuError, Profile};
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
    let tables = super::tables::names();
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
