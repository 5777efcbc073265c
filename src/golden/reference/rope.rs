//! Rotary position embedding with split halves.

use candle_core::{D, Device, Result, Tensor};
use haikuq_format::spec::RopeTable;

/// Cosine and sine of some positions, each `[positions, pairs]`.
pub(super) type CosSin = (Tensor, Tensor);

/// Cosine and sine of `count` positions from `first` on, in a sequence of `end` positions.
///
/// The angle is an f32 product, as every implementation that models were trained with computes it.
pub(super) fn cos_sin(table: &RopeTable, first: usize, count: usize, end: usize) -> Result<CosSin> {
    let RopeTable { inv_freq, factor, long } = table;
    let inv_freq = long.as_ref().filter(|l| end > l.beyond).map_or(inv_freq, |l| &l.inv_freq);
    let angles = || (first..first + count).flat_map(|p| inv_freq.iter().map(move |f| p as f32 * f));
    let table = |f: fn(f32) -> f32| {
        Tensor::from_vec(angles().map(|a| f(a) * factor).collect::<Vec<_>>(), (count, inv_freq.len()), &Device::Cpu)
    };
    Ok((table(f32::cos)?, table(f32::sin)?))
}

/// Rotates `x` `[heads, positions, head_dim]`; dimensions beyond the tables' pairs stay as they are.
pub(super) fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (pairs, width) = (cos.dim(1)?, x.dim(D::Minus1)?);
    let (a, b) = (x.narrow(D::Minus1, 0, pairs)?, x.narrow(D::Minus1, pairs, pairs)?);
    let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let second = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
    if 2 * pairs == width {
        Tensor::cat(&[first, second], D::Minus1)
    } else {
        Tensor::cat(&[first, second, x.narrow(D::Minus1, 2 * pairs, width - 2 * pairs)?], D::Minus1)
    }
}
