//! What happens to numbers one by one: sums, and the gates of feed-forward networks.
//!
//! candle's own operations would do, but run on threads of candle's that wait for each other, whatever the number of
//! threads that was asked for, and its sigmoid calls the C library for each number.

use super::numbers::{numbers, with_numbers};
use crate::exponentials::sigmoid;
use crate::zeros::zeros;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Device, Layout, Result, Shape, Tensor};
use haikuq_format::spec::Activation;
use rayon::prelude::*;

/// Numbers that a thread takes at a time.
const PART: usize = 1 << 14;

/// `a + b` of one shape.
pub(super) fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    a.contiguous()?.apply_op2(&b.contiguous()?, Sum)
}

/// `a · b`, number by number.
pub(super) fn gated(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    a.contiguous()?.apply_op2(&b.contiguous()?, Gated)
}

/// `x σ(x)`.
pub(super) fn silu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Silu)
}

/// `g σ(g) u` of rows in which gates `g` and `u` take turns: `[n, columns]` to `[n, columns / 2]`. One pass over memory each
/// way, since these rows are the widest that there are.
pub(super) fn silu_gated(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(SiluGated)
}

/// `g σ(1.702 g) (u + 1)` of rows in which gates `g` and `u` take turns, `g` at most 7 and `u` from −7 to 7: `[n, columns]` to `[n, columns / 2]`.
pub(super) fn clamped_gated(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(ClampedGated)
}

struct ClampedGated;

impl ClampedGated {
    /// Of a pair: gate and up as they are used, and the sigmoid.
    fn of([gate, up]: [f32; 2]) -> [f32; 3] {
        let limit = Activation::LIMIT;
        let (gate, up) = (gate.min(limit), up.clamp(-limit, limit));
        [gate, up, 1.0 / (1.0 + (-Activation::ALPHA * gate).exp())]
    }
}

impl CustomOp1 for ClampedGated {
    fn name(&self) -> &'static str {
        "clamp and gate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((n, columns), x) = (layout.shape().dims2()?, numbers(x, layout)?);
        let (pairs, mut out) = (x.as_chunks::<2>().0, zeros(x.len() / 2));
        out.par_chunks_mut(PART).zip(pairs.par_chunks(PART)).for_each(|(out, pairs)| {
            for (y, pair) in out.iter_mut().zip(pairs) {
                let [gate, up, sigmoid] = Self::of(*pair);
                *y = gate * sigmoid * (up + 1.0);
            }
        });
        Ok((CpuStorage::F32(out), (n, columns / 2).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let mut out = zeros(x.elem_count());
        with_numbers(x, |x| {
            with_numbers(&gradient.contiguous()?, |gradient| {
                let pairs = out.as_chunks_mut::<2>().0.par_iter_mut().zip(x.as_chunks::<2>().0).zip(gradient);
                pairs.for_each(|((out, pair), g)| {
                    let [gate, up, sigmoid] = Self::of(*pair);
                    let slope = sigmoid * (1.0 + Activation::ALPHA * gate * (1.0 - sigmoid));
                    // Where a number is clamped nothing follows from it.
                    let (of_gate, of_up) = (gate == pair[0], up == pair[1]);
                    *out = [if of_gate { g * slope * (up + 1.0) } else { 0.0 }, if of_up { g * gate * sigmoid } else { 0.0 }];
                });
                Result::Ok(())
            })
        })???;
        Ok(Some(Tensor::from_vec(out, x.shape(), &Device::Cpu)?))
    }
}

struct Sum;

impl CustomOp2 for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn cpu_fwd(&self, a: &CpuStorage, of_a: &Layout, b: &CpuStorage, of_b: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = pairs(numbers(a, of_a)?, numbers(b, of_b)?, |a, b| *a += b)?;
        Ok((CpuStorage::F32(out), of_a.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(gradient.clone()), Some(gradient.clone())))
    }
}

struct Gated;

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn cpu_fwd(&self, a: &CpuStorage, of_a: &Layout, b: &CpuStorage, of_b: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = pairs(numbers(a, of_a)?, numbers(b, of_b)?, |a, b| *a *= b)?;
        Ok((CpuStorage::F32(out), of_a.shape().clone()))
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(gated(gradient, &b.detach())?), Some(gated(gradient, &a.detach())?)))
    }
}

/// `f` of each number of `a` and its number of `b`.
fn pairs(a: &[f32], b: &[f32], f: impl Fn(&mut f32, f32) + Sync) -> Result<Vec<f32>> {
    if a.len() != b.len() {
        candle_core::bail!("{} numbers with {}", a.len(), b.len());
    }
    let mut out = zeros(a.len());
    out.par_chunks_mut(PART).zip(a.par_chunks(PART)).zip(b.par_chunks(PART)).for_each(|((out, a), b)| {
        out.copy_from_slice(a);
        out.iter_mut().zip(b).for_each(|(a, b)| f(a, *b));
    });
    Ok(out)
}

struct SiluGated;

/// Pairs that are looked at together.
const SOME: usize = 256;

impl CustomOp1 for SiluGated {
    fn name(&self) -> &'static str {
        "silu and gate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((n, columns), x) = (layout.shape().dims2()?, numbers(x, layout)?);
        let mut out = zeros(x.len() / 2);
        out.par_chunks_mut(PART).zip(x.par_chunks(2 * PART)).for_each(|(out, x)| {
            let mut sigmoids = [0.0f32; SOME];
            for (out, x) in out.chunks_mut(SOME).zip(x.chunks(2 * SOME)) {
                let (pairs, _) = x.as_chunks::<2>();
                sigmoids.iter_mut().zip(pairs).for_each(|(s, [gate, _])| *s = *gate);
                sigmoid(&mut sigmoids[..pairs.len()]);
                out.iter_mut().zip(pairs).zip(&sigmoids).for_each(|((y, [gate, up]), s)| *y = gate * s * up);
            }
        });
        Ok((CpuStorage::F32(out), (n, columns / 2).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let mut out = zeros(x.elem_count());
        let mut backward = |x: &[f32], gradient: &[f32]| {
            let parts = out.par_chunks_mut(2 * PART).zip(x.par_chunks(2 * PART)).zip(gradient.par_chunks(PART));
            parts.for_each(|((out, x), gradient)| {
                let mut sigmoids = [0.0f32; SOME];
                for ((out, x), gradient) in out.chunks_mut(2 * SOME).zip(x.chunks(2 * SOME)).zip(gradient.chunks(SOME)) {
                    let ((out, _), (pairs, _)) = (out.as_chunks_mut::<2>(), x.as_chunks::<2>());
                    sigmoids.iter_mut().zip(pairs).for_each(|(s, [gate, _])| *s = *gate);
                    sigmoid(&mut sigmoids[..pairs.len()]);
                    for (((out, [gate, up]), s), g) in out.iter_mut().zip(pairs).zip(&sigmoids).zip(gradient) {
                        *out = [g * up * s * (1.0 + gate * (1.0 - s)), g * gate * s];
                    }
                }
            });
        };
        with_numbers(x, |x| with_numbers(&gradient.contiguous()?, |gradient| backward(x, gradient)))??;
        Ok(Some(Tensor::from_vec(out, x.shape(), &Device::Cpu)?))
    }
}

struct Silu;

impl CustomOp1 for Silu {
    fn name(&self) -> &'static str {
        "silu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = with_sigmoids(numbers(x, layout)?, |x, sigmoid| x * sigmoid);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let slopes = with_numbers(x, |x| with_sigmoids(x, |x, sigmoid| sigmoid * (1.0 + x * (1.0 - sigmoid))))?;
        gated(gradient, &Tensor::from_vec(slopes, x.shape(), &Device::Cpu)?).map(Some)
    }
}

/// `f(x, σ(x))` of each number.
fn with_sigmoids(x: &[f32], f: impl Fn(f32, f32) -> f32 + Sync) -> Vec<f32> {
    let mut out = zeros(x.len());
    out.par_chunks_mut(PART).zip(x.par_chunks(PART)).for_each(|(out, x)| {
        out.copy_from_slice(x);
        sigmoid(out);
        out.iter_mut().zip(x).for_each(|(y, x)| *y = f(*x, *y));
    });
    out
}
