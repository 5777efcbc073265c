//! The gated short convolution of a layer, with gradients.

use super::ReferenceError;
use super::layer::Projection;
use super::numbers::{numbers, with_numbers};
use super::weights::Weights;
use crate::zeros::zeros;
use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Tensor};
use haikuq_format::spec::ShortConv;
use rayon::prelude::*;
use std::sync::Arc;

/// Positions that a thread takes at a time.
const ROWS: usize = 16;

/// The weights of a layer whose mixer is a short convolution.
pub(super) struct ShortConvWeights {
    spec: ShortConv,
    pub(super) input: Projection,
    pub(super) output: Projection,
    /// `[channels, kernel_size]`.
    kernel: Arc<Vec<f32>>,
    /// `[channels]`; zeros where there is none.
    bias: Arc<Vec<f32>>,
}

impl ShortConvWeights {
    /// `layer` is the prefix of its tensors' names, with the dot.
    pub(super) fn load(spec: ShortConv, layer: &str, weights: &mut Weights) -> std::result::Result<Self, ReferenceError> {
        let input = Projection::load(weights, &format!("{layer}conv_in"), spec.bias)?;
        let kernel = weights.take(&format!("{layer}conv.kernel"))?.to_vec1()?;
        let bias = weights.take_if(spec.bias, &format!("{layer}conv.bias"))?;
        let bias = bias.map_or_else(|| Ok(zeros(spec.channels)), |bias| bias.to_vec1())?;
        let output = Projection::load(weights, &format!("{layer}conv_out"), spec.bias)?;
        Ok(Self { spec, input, output, kernel: Arc::new(kernel), bias: Arc::new(bias) })
    }

    /// `c × conv(b × x)` of the rows `b`, `c`, `x` `[n, 3 × channels]`, which follow those that `earlier` holds the last of:
    /// `[n, channels]`.
    pub(super) fn convolve(&self, bcx: &Tensor, earlier: &mut Option<Tensor>) -> Result<Tensor> {
        let (channels, kept) = (self.spec.channels, self.spec.kernel_size - 1);
        let rows = bcx.dim(0)?;
        let before = match earlier.take() {
            Some(before) => before,
            None => Tensor::from_vec(zeros::<f32>(kept * channels), (kept, channels), &Device::Cpu)?,
        };
        let bcx = bcx.contiguous()?;
        let op =
            Convolution { channels, kernel_size: self.spec.kernel_size, kernel: self.kernel.clone(), bias: self.bias.clone() };
        let out = bcx.apply_op2(&before, op)?;
        let last = with_numbers(&bcx.detach(), |bcx| {
            with_numbers(&before, |before| {
                let column = |t: usize| {
                    if t < kept { before[t * channels..][..channels].to_vec() } else { products(bcx, channels, t - kept) }
                };
                (rows..rows + kept).flat_map(column).collect::<Vec<f32>>()
            })
        })??;
        *earlier = Some(Tensor::from_vec(last, (kept, channels), &Device::Cpu)?);
        Ok(out)
    }
}

/// `b × x` of row `t`.
fn products(bcx: &[f32], channels: usize, t: usize) -> Vec<f32> {
    let row = &bcx[3 * channels * t..][..3 * channels];
    row[..channels].iter().zip(&row[2 * channels..]).map(|(b, x)| b * x).collect()
}

struct Convolution {
    channels: usize,
    kernel_size: usize,
    kernel: Arc<Vec<f32>>,
    bias: Arc<Vec<f32>>,
}

impl Convolution {
    /// `u` of all positions, those before the first included: `[kernel_size − 1 + n, channels]`.
    fn products(&self, bcx: &[f32], before: &[f32]) -> Vec<f32> {
        let mut u = before.to_vec();
        for t in 0..bcx.len() / (3 * self.channels) {
            u.extend(products(bcx, self.channels, t));
        }
        u
    }

    /// `conv(u)` of position `t`, written to `out`.
    fn at(&self, u: &[f32], t: usize, out: &mut [f32]) {
        let n = self.kernel_size;
        for (c, out) in out.iter_mut().enumerate() {
            let taps = self.kernel[c * n..][..n].iter().enumerate();
            *out = taps.fold(self.bias[c], |sum, (j, k)| k.mul_add(u[(t + j) * self.channels + c], sum));
        }
    }
}

impl CustomOp2 for Convolution {
    fn name(&self) -> &'static str {
        "gated short convolution"
    }

    fn cpu_fwd(&self, bcx: &CpuStorage, of_bcx: &Layout, before: &CpuStorage, of_before: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, channels) = (of_bcx.shape().dims2()?.0, self.channels);
        let (bcx, before) = (numbers(bcx, of_bcx)?, numbers(before, of_before)?);
        let u = self.products(bcx, before);
        let mut out = zeros(rows * channels);
        out.par_chunks_mut(ROWS * channels).enumerate().for_each(|(block, out)| {
            for (i, out) in out.chunks_exact_mut(channels).enumerate() {
                let t = block * ROWS + i;
                self.at(&u, t, out);
                let c = &bcx[(3 * t + 1) * channels..][..channels];
                out.iter_mut().zip(c).for_each(|(y, c)| *y *= c);
            }
        });
        Ok((CpuStorage::F32(out), (rows, channels).into()))
    }

    /// Columns before the first position are given, so no gradient goes there.
    fn bwd(&self, bcx: &Tensor, before: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (rows, channels, n) = (bcx.dim(0)?, self.channels, self.kernel_size);
        let mut out = zeros(bcx.elem_count());
        with_numbers(bcx, |bcx| {
            with_numbers(before, |before| {
                with_numbers(&gradient.contiguous()?, |gradient| {
                    let u = self.products(bcx, before);
                    let of_rows = out.par_chunks_mut(3 * channels).enumerate();
                    of_rows.for_each(|(t, out)| {
                        let row = &bcx[3 * channels * t..][..3 * channels];
                        let (of_b, rest) = out.split_at_mut(channels);
                        let (of_c, of_x) = rest.split_at_mut(channels);
                        self.at(&u, t, of_c);
                        of_c.iter_mut().zip(&gradient[t * channels..]).for_each(|(conv, g)| *conv *= g);
                        for c in 0..channels {
                            // Position `s` reads position `t` through its tap `n − 1 − (s − t)`.
                            let readers = (t..rows.min(t + n)).map(|s| {
                                let of_conv = gradient[s * channels + c] * bcx[(3 * s + 1) * channels + c];
                                self.kernel[c * n + n - 1 - (s - t)] * of_conv
                            });
                            let of_u: f32 = readers.sum();
                            of_b[c] = of_u * row[2 * channels + c];
                            of_x[c] = of_u * row[c];
                        }
                    });
                    Result::Ok(())
                })
            })
        })????;
        Ok((Some(Tensor::from_vec(out, bcx.shape(), &Device::Cpu)?), None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;
    use haikuq_format::DecoderSpec;
    use haikuq_format::spec::{Activation, LayerSpec, Mlp, Norm, NormKind};
    use haikuq_runtime::sampling::uniform;

    const CHANNELS: usize = 5;
    const ROWS: usize = 9;

    fn random(seed: u64, n: usize) -> Vec<f32> {
        (0..n as u64).map(|i| 2.0 * uniform(seed, i) - 1.0).collect()
    }

    fn op(kernel_size: usize) -> Convolution {
        let (kernel, bias) = (random(1, CHANNELS * kernel_size), random(2, CHANNELS));
        Convolution { channels: CHANNELS, kernel_size, kernel: Arc::new(kernel), bias: Arc::new(bias) }
    }

    fn tensor(values: Vec<f32>, columns: usize) -> Tensor {
        let rows = values.len() / columns;
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    #[test]
    fn gradients_are_those_of_small_changes() {
        for kernel_size in [2, 3, 7] {
            let before = tensor(random(3, (kernel_size - 1) * CHANNELS), CHANNELS);
            let (values, weights) = (random(4, ROWS * 3 * CHANNELS), random(5, ROWS * CHANNELS));
            let loss = |values: &[f32]| -> f64 {
                let y = tensor(values.to_vec(), 3 * CHANNELS).apply_op2(&before, op(kernel_size)).unwrap();
                let y = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                y.iter().zip(&weights).map(|(y, w)| f64::from(*y) * f64::from(*w)).sum()
            };
            let x = Var::from_tensor(&tensor(values.clone(), 3 * CHANNELS)).unwrap();
            let y = x.apply_op2(&before, op(kernel_size)).unwrap();
            let total = (y * tensor(weights.clone(), CHANNELS)).unwrap().sum_all().unwrap();
            let found = total.backward().unwrap().get(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (i, found) in found.iter().enumerate() {
                let step = |by: f32| {
                    let mut moved = values.clone();
                    moved[i] += by;
                    loss(&moved)
                };
                let expected = (step(1e-2) - step(-1e-2)) / 2e-2;
                assert!((f64::from(*found) - expected).abs() < 1e-3, "{kernel_size}, {i}: {found} against {expected}");
            }
        }
    }

    #[test]
    fn a_sequence_in_parts_is_the_sequence_at_once() {
        let spec = ShortConv::new(CHANNELS, 4);
        let norm = Norm { kind: NormKind::Rms, epsilon: 1e-6 };
        let layer = LayerSpec::new(spec, Mlp::new(2 * CHANNELS, Activation::Silu));
        let mut weights = Weights::new(&DecoderSpec::new(9, CHANNELS, 32, norm, vec![layer]), |name: &str| {
            let n = match name {
                "layers.0.conv_in" => 3 * CHANNELS * CHANNELS,
                "layers.0.conv.kernel" => CHANNELS * 4,
                _ => CHANNELS * CHANNELS,
            };
            Ok::<_, std::convert::Infallible>(random(6, n))
        });
        let conv = ShortConvWeights::load(spec, "layers.0.", &mut weights).unwrap();
        let bcx = tensor(random(7, ROWS * 3 * CHANNELS), 3 * CHANNELS);
        let whole = conv.convolve(&bcx, &mut None).unwrap().to_vec2::<f32>().unwrap();
        let (mut state, mut parts) = (None, Vec::new());
        for (first, rows) in [(0, 1), (1, 1), (2, 4), (6, 3)] {
            parts.extend(conv.convolve(&bcx.narrow(0, first, rows).unwrap(), &mut state).unwrap().to_vec2::<f32>().unwrap());
        }
        assert_eq!(whole, parts);
    }
}
