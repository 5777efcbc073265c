//! Norms with their gains and biases.

use super::ReferenceError;
use super::numbers::{numbers, with_numbers};
use super::weights::Weights;
use crate::zeros::zeros;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use haikuq_format::spec::{Norm, NormKind};
use rayon::prelude::*;

/// Rows that a thread takes at a time.
const ROWS: usize = 64;

/// A norm with its gain and bias.
pub(super) struct NormWeights {
    norm: Norm,
    gain: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl NormWeights {
    pub(super) fn load(norm: Norm, name: &str, weights: &mut Weights) -> std::result::Result<Self, ReferenceError> {
        let mut take = |part: &str| -> std::result::Result<Vec<f32>, ReferenceError> {
            Ok(weights.take(&format!("{name}.{part}"))?.to_vec1()?)
        };
        Ok(Self { norm, gain: take("gain")?, bias: norm.kind.has_bias().then(|| take("bias")).transpose()? })
    }

    /// Root mean squares over `width` numbers, and nothing else.
    pub(super) fn without_gains(epsilon: f32, width: usize) -> Self {
        Self { norm: Norm { kind: NormKind::Rms, epsilon }, gain: vec![1.0; width], bias: None }
    }

    /// Normalizes the last dimension of `x`. Gain and bias are of that size, or of so many numbers for each index of the
    /// first dimension (the heads).
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (norm, gain, bias) = (self.norm, self.gain.clone(), self.bias.clone());
        x.contiguous()?.apply_op1(Normalize { norm, gain, bias })
    }
}

struct Normalize {
    norm: Norm,
    gain: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Normalize {
    /// Calls `f` with each row of `out`, its row of `x` centred and divided by the deviation, the deviation, and where the
    /// row's gains begin.
    fn rows(&self, x: &[f32], width: usize, out: &mut [f32], f: impl Fn(&mut [f32], &[f32], f32, usize) + Sync) {
        let heads = self.gain.len() / width;
        let rows_a_head = (x.len() / width).div_ceil(heads.max(1)).max(1);
        let parts = out.par_chunks_mut(ROWS * width).zip(x.par_chunks(ROWS * width)).enumerate();
        parts.for_each(|(part, (out, x))| {
            let mut normal = zeros(width);
            for (row, (out, x)) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)).enumerate() {
                let centre = if self.norm.kind.is_centred() { mean(x, |x| x) } else { 0.0 };
                let deviation = (mean(x, |x| (x - centre) * (x - centre)) + self.norm.epsilon).sqrt();
                normal.iter_mut().zip(x).for_each(|(n, x)| *n = (x - centre) / deviation);
                f(out, &normal, deviation, (part * ROWS + row) / rows_a_head * width);
            }
        });
    }
}

impl CustomOp1 for Normalize {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = layout.dims().last().copied().unwrap_or(1);
        let x = numbers(x, layout)?;
        if self.gain.is_empty() || !self.gain.len().is_multiple_of(width) {
            candle_core::bail!("{} gains for {width} numbers", self.gain.len());
        }
        let mut out = zeros(x.len());
        self.rows(x, width, &mut out, |out, normal, _, at| {
            out.iter_mut().zip(normal).zip(&self.gain[at..]).for_each(|((y, n), gain)| *y = n * gain);
            if let Some(bias) = &self.bias {
                out.iter_mut().zip(&bias[at..]).for_each(|(y, bias)| *y += bias);
            }
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    /// With `n` the normal row and `g` the gradient of it, `g` loses its part in `n`'s direction (and its mean).
    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let width = x.dims().last().copied().unwrap_or(1);
        let mut out = with_numbers(&gradient.contiguous()?, <[f32]>::to_vec)?;
        with_numbers(x, |x| {
            self.rows(x, width, &mut out, |g, normal, deviation, at| {
                g.iter_mut().zip(&self.gain[at..]).for_each(|(g, gain)| *g *= gain);
                let along = g.iter().zip(normal).map(|(g, n)| g * n).sum::<f32>() / width as f32;
                let centre = if self.norm.kind.is_centred() { mean(g, |g| g) } else { 0.0 };
                g.iter_mut().zip(normal).for_each(|(g, n)| *g = (*g - centre - n * along) / deviation);
            });
        })?;
        Ok(Some(Tensor::from_vec(out, x.shape(), &Device::Cpu)?))
    }
}

/// The mean of `f(x)`, summed side by side.
#[inline(always)]
fn mean(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0f32; 16];
    for some in x.chunks(16) {
        sums.iter_mut().zip(some).for_each(|(sum, &x)| *sum += f(x));
    }
    sums.iter().sum::<f32>() / x.len() as f32
}
