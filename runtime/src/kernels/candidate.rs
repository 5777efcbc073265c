//! [`Candidate`]: one way of doing an operation. Each operation has a table of them, the best first ([`super::tables`]);
//! [`super::choose`] picks from it.

use crate::device::{Dispatch, Gpu, GpuError, Profile};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a token's numbers may depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Numerics {
    /// f32 activations and sums; nothing but the numbers of a token's own sequence decides its bits.
    Exact,
    /// Activations may be rounded to 8-bit integers or f16, products may be of f16 (sums are of f32 or whole numbers), and the
    /// last digits may differ between batches.
    Fast,
}

impl fmt::Display for Numerics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Exact { "exact" } else { "fast" })
    }
}

/// An operation that has candidates.
pub trait Kind: 'static {
    /// Its name, for pins and profiles.
    const NAME: &'static str;
    /// What decides between candidates: sizes and kinds, no buffers.
    type Shape;
    /// What a candidate is bound to.
    type Job<'a>;

    /// The name under which times of a shape's candidates are kept. Shapes of one name take the same candidate where it was
    /// measured; for those without a name the table decides. `exact`: only exact candidates are in question.
    fn measured_as(_shape: &Self::Shape, _exact: bool) -> Option<String> {
        None
    }
}

/// One way of doing an operation.
pub struct Candidate<K: Kind> {
    /// Its name: that of its files.
    pub name: &'static str,
    /// What it does to numbers.
    pub numerics: Numerics,
    /// Whether it works for a shape on a device, and loses no more than it may: then a pin or a measurement may take it.
    pub can: fn(&Profile, &K::Shape) -> bool,
    /// Whether it also is meant for them: the table's judgement, where nothing was measured.
    pub fits: fn(&Profile, &K::Shape) -> bool,
    /// Bytes that it needs to work in; [`Candidate::NO_SCRATCH`] for none. Scratch memory is zero before its first use, and
    /// all operations of a step use the same.
    pub scratch: fn(&Profile, &K::Shape) -> u64,
    /// Compiles (once) and binds it.
    pub bind: for<'a> fn(&Gpu, &K::Job<'a>) -> Result<Vec<Dispatch>, GpuError>,
}

impl<K: Kind> Candidate<K> {
    /// For candidates that need no scratch memory.
    pub const NO_SCRATCH: fn(&Profile, &K::Shape) -> u64 = |_, _| 0;
}

impl<K: Kind> fmt::Debug for Candidate<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", K::NAME, self.name)
    }
}
