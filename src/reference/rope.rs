//! Rotary position embedding with split halves.

use super::numbers::{numbers, with_numbers};
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use haikuq_format::spec::RopeTable;

/// Cosine and sine of some positions, each `[positions, pairs]`.
pub(super) type CosSin = (Tensor, Tensor);

/// Cosine and sine of `count` positions from `first` on, in a sequence of `end` positions.
///
/// The angle is an f32 product, as every implementation that models were trained with computes it.
pub(super) fn cos_sin(table: &RopeTable, first: usize, count: usize, end: usize) -> Result<CosSin> {
    let RopeTable { inv_freq, factor, long, .. } = table;
    let inv_freq = long.as_ref().filter(|l| end > l.beyond).map_or(inv_freq, |l| &l.inv_freq);
    let angles = || (first..first + count).flat_map(|p| inv_freq.iter().map(move |f| p as f32 * f));
    let table = |f: fn(f32) -> f32| {
        Tensor::from_vec(angles().map(|a| f(a) * factor).collect::<Vec<_>>(), (count, inv_freq.len()), &Device::Cpu)
    };
    Ok((table(f32::cos)?, table(f32::sin)?))
}

/// Rotates `x` `[heads, positions, head_dim]`; dimensions beyond the tables' pairs stay as they are.
pub(super) fn rotate(x: &Tensor, (cos, sin): &CosSin) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Rotation { cos: cos.clone(), sin: sin.clone() })
}

struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

impl CustomOp1 for Rotation {
    fn name(&self) -> &'static str {
        "rotation"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((_, positions, width), pairs) = (layout.shape().dims3()?, self.cos.dim(1)?);
        let mut out = numbers(x, layout)?.to_vec();
        let mut rotate = |cos: &[f32], sin: &[f32]| {
            for head in out.chunks_exact_mut(positions * width) {
                let angles = cos.chunks_exact(pairs).zip(sin.chunks_exact(pairs));
                for (row, (cos, sin)) in head.chunks_exact_mut(width).zip(angles) {
                    let (first, second) = row.split_at_mut(pairs);
                    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                    }
                }
            }
        };
        with_numbers(&self.cos, |cos| with_numbers(&self.sin, |sin| rotate(cos, sin)))??;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    /// The other way round.
    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        rotate(gradient, &(self.cos.clone(), self.sin.neg()?)).map(Some)
    }
}
