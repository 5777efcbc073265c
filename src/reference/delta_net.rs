//! The gated delta net of a layer, with gradients.
//!
//! Every position is done by itself, as the formula says ([`DeltaNet`]); the way back walks through the positions again from the
//! last, with the states that the way forward went through.

use super::ReferenceError;
use super::causal_conv::CausalConv;
use super::layer::Projection;
use super::numbers::{numbers, with_numbers};
use super::vectors::{add, dot, sigmoid_of, silu_slope, softplus};
use super::weights::Weights;
use crate::zeros::zeros;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::DeltaNet;
use rayon::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};

/// Added to squares of lengths.
const LENGTH_EPSILON: f32 = 1e-6;

/// The weights of a layer whose mixer is a gated delta net.
pub(super) struct DeltaNetWeights {
    pub(super) input: Projection,
    pub(super) output: Projection,
    rule: Arc<Rule>,
}

/// What a sequence keeps.
#[derive(Clone)]
pub(super) struct DeltaState {
    /// The last columns of queries, keys and values before the convolution, `[kernel_size − 1, channels]`.
    columns: Vec<f32>,
    /// `[num_value_heads, key_dim, value_dim]`.
    states: Vec<f32>,
}

impl DeltaNetWeights {
    /// `layer` is the prefix of its tensors' names, with the dot.
    pub(super) fn load(
        spec: &DecoderSpec,
        net: DeltaNet,
        layer: &str,
        weights: &mut Weights,
    ) -> std::result::Result<Self, ReferenceError> {
        let input = Projection::load(weights, &format!("{layer}delta_in"), false)?;
        let mut vector = |name: &str| -> std::result::Result<Vec<f32>, ReferenceError> {
            Ok(weights.take(&format!("{layer}{name}"))?.to_vec1()?)
        };
        let (kernel, log_decay) = (vector("delta.kernel")?, vector("delta.log_decay")?);
        let (step_bias, gain) = (vector("delta.step_bias")?, vector("delta_norm.gain")?);
        let rule = Rule { net, conv: conv_of(&net, kernel), log_decay, step_bias, gain, epsilon: spec.norm.epsilon };
        let output = Projection::load(weights, &format!("{layer}delta_out"), false)?;
        Ok(Self { input, output, rule: Arc::new(rule) })
    }

    /// What the heads make of rows of `delta_in` `[n, …]`, which follow those of `state`: `[n, num_value_heads × value_dim]`.
    pub(super) fn mix(&self, rows: &Tensor, state: &mut Option<DeltaState>) -> Result<Tensor> {
        let after = Arc::new(Mutex::new(None));
        let op = Pass { rule: self.rule.clone(), before: state.take(), after: after.clone() };
        let out = rows.contiguous()?.apply_op1(op)?;
        *state = after.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(out)
    }
}

/// The layer's numbers.
struct Rule {
    net: DeltaNet,
    conv: CausalConv,
    log_decay: Vec<f32>,
    step_bias: Vec<f32>,
    gain: Vec<f32>,
    epsilon: f32,
}

/// The convolution of queries, keys and values.
fn conv_of(net: &DeltaNet, kernel: Vec<f32>) -> CausalConv {
    let (width, channels, taps) = (net.input_rows(), net.channels(), net.kernel_size);
    CausalConv { width, first: 0, channels, taps, kernel, bias: None }
}

/// Numbers of a row beside queries, keys and values.
struct Row<'a> {
    z: &'a [f32],
    b: &'a [f32],
    a: &'a [f32],
}

/// All that happens before states are touched.
struct Prepared {
    /// Before SiLU, `[n, channels]`.
    convolved: Vec<f32>,
    /// Lengths of queries and keys, inverted, `[n, 2 × num_key_heads]`.
    scales: Vec<f32>,
    /// `[n, channels]`: queries and keys of length 1, values.
    unit: Vec<f32>,
    /// `[n, num_value_heads]`.
    decays: Vec<f32>,
    betas: Vec<f32>,
}

impl Rule {
    fn row<'a>(&self, rows: &'a [f32], t: usize) -> Row<'a> {
        let (n, net) = (self.net.input_rows(), &self.net);
        let (z, rest) = rows[t * n..][..n][net.channels()..].split_at(net.value_size());
        let (b, a) = rest.split_at(net.num_value_heads);
        Row { z, b, a }
    }

    fn query_scale(&self) -> f32 {
        (self.net.key_dim as f32).sqrt().recip()
    }

    fn prepare(&self, rows: &[f32], columns: &[f32]) -> Prepared {
        let net = &self.net;
        let (n, channels, heads) = (rows.len() / net.input_rows(), net.channels(), net.num_value_heads);
        let mut prepared = Prepared {
            convolved: zeros(n * channels),
            scales: zeros(n * 2 * net.num_key_heads),
            unit: zeros(n * channels),
            decays: zeros(n * heads),
            betas: zeros(n * heads),
        };
        let of_rows = prepared.convolved.par_chunks_mut(channels).zip(prepared.unit.par_chunks_mut(channels));
        let of_rows = of_rows.zip(prepared.scales.par_chunks_mut(2 * net.num_key_heads));
        let of_rows = of_rows.zip(prepared.decays.par_chunks_mut(heads).zip(prepared.betas.par_chunks_mut(heads)));
        of_rows.enumerate().for_each(|(t, (((convolved, unit), scales), (decays, betas)))| {
            self.conv.forward(rows, columns, t, convolved, unit);
            for (head, scale) in unit.chunks_exact_mut(net.key_dim).zip(scales) {
                *scale = (dot(head, head) + LENGTH_EPSILON).sqrt().recip();
                head.iter_mut().for_each(|x| *x *= *scale);
            }
            let Row { a, b, .. } = self.row(rows, t);
            for h in 0..heads {
                decays[h] = (-self.log_decay[h].exp() * softplus(a[h] + self.step_bias[h])).exp();
                betas[h] = sigmoid_of(b[h]);
            }
        });
        prepared
    }

    /// Query, key and value of a value head at position `t`.
    fn of_head<'a>(&self, unit: &'a [f32], t: usize, head: usize) -> [&'a [f32]; 3] {
        let net = &self.net;
        let row = &unit[t * net.channels()..][..net.channels()];
        let key_head = head / (net.num_value_heads / net.num_key_heads) * net.key_dim;
        let of_key = |first: usize| &row[first + key_head..][..net.key_dim];
        [of_key(0), of_key(net.key_size()), &row[2 * net.key_size() + head * net.value_dim..][..net.value_dim]]
    }

    /// One position of a head: the state after it, and its output `Sᵀq`. `correction` becomes `β(v − Sᵀk)`.
    fn step(&self, [q, k, v]: [&[f32]; 3], decay: f32, beta: f32, state: &mut [f32], correction: &mut [f32], out: &mut [f32]) {
        let width = self.net.value_dim;
        correction.fill(0.0);
        for (row, k) in state.chunks_exact_mut(width).zip(k) {
            row.iter_mut().for_each(|s| *s *= decay);
            add(correction, *k, row);
        }
        correction.iter_mut().zip(v).for_each(|(d, v)| *d = beta * (v - *d));
        out.fill(0.0);
        for ((row, k), q) in state.chunks_exact_mut(width).zip(k).zip(q) {
            add(row, *k, correction);
            add(out, *q * self.query_scale(), row);
        }
    }

    /// Outputs of a head before the norm `[n, value_dim]`; `state` becomes the last one. `seen` gets those before each position.
    fn scan(&self, prepared: &Prepared, head: usize, state: &mut [f32], mut seen: Option<&mut Vec<f32>>) -> Vec<f32> {
        let (heads, width) = (self.net.num_value_heads, self.net.value_dim);
        let n = prepared.betas.len() / heads;
        let (mut out, mut correction) = (zeros(n * width), vec![0.0; width]);
        for (t, out) in out.chunks_exact_mut(width).enumerate() {
            if let Some(seen) = &mut seen {
                seen.extend_from_slice(state);
            }
            let (decay, beta) = (prepared.decays[t * heads + head], prepared.betas[t * heads + head]);
            self.step(self.of_head(&prepared.unit, t, head), decay, beta, state, &mut correction, out);
        }
        out
    }

    /// One over the root mean square of a head's output.
    fn norm(&self, out: &[f32]) -> f32 {
        (dot(out, out) / out.len() as f32 + self.epsilon).sqrt().recip()
    }

    fn forward(&self, rows: &[f32], state: &mut DeltaState) -> Vec<f32> {
        let net = &self.net;
        let (n, width) = (rows.len() / net.input_rows(), net.value_dim);
        let prepared = self.prepare(rows, &state.columns);
        let of_heads = state.states.par_chunks_mut(net.key_dim * width).enumerate();
        let heads: Vec<Vec<f32>> = of_heads.map(|(head, state)| self.scan(&prepared, head, state, None)).collect();
        state.columns = self.conv.keep(rows, &state.columns, n);
        let mut out = zeros(n * net.value_size());
        out.par_chunks_mut(net.value_size()).enumerate().for_each(|(t, out)| {
            let z = self.row(rows, t).z;
            for (head, (out, z)) in out.chunks_exact_mut(width).zip(z.chunks_exact(width)).enumerate() {
                let o = &heads[head][t * width..][..width];
                let scale = self.norm(o);
                for i in 0..width {
                    out[i] = o[i] * scale * self.gain[i] * z[i] * sigmoid_of(z[i]);
                }
            }
        });
        out
    }

    /// The gradient with respect to rows, of the one with respect to what [`Rule::forward`] made of them.
    fn backward(&self, rows: &[f32], before: &DeltaState, gradient: &[f32]) -> Vec<f32> {
        let net = &self.net;
        let (n, group) = (rows.len() / net.input_rows(), net.num_value_heads / net.num_key_heads);
        let prepared = self.prepare(rows, &before.columns);
        let of_key_head = |key_head: usize| {
            let mut all = OfKeyHead::new(net, n);
            (0..group).for_each(|i| self.head_back(rows, &prepared, before, gradient, key_head * group + i, i, &mut all));
            all
        };
        let found: Vec<OfKeyHead> = (0..net.num_key_heads).into_par_iter().map(of_key_head).collect();
        // With respect to what the convolution made.
        let channels = net.channels();
        let mut of_convolved = zeros(n * channels);
        of_convolved.par_chunks_mut(channels).enumerate().for_each(|(t, out)| {
            for (key_head, found) in found.iter().enumerate() {
                for (kind, of_unit) in [&found.queries, &found.keys].into_iter().enumerate() {
                    let first = kind * net.key_size() + key_head * net.key_dim;
                    let unit = &prepared.unit[t * channels + first..][..net.key_dim];
                    let of_unit = &of_unit[t * net.key_dim..][..net.key_dim];
                    let (scale, along) = (prepared.scales[(2 * t + kind) * net.num_key_heads + key_head], dot(unit, of_unit));
                    for i in 0..net.key_dim {
                        out[first + i] = scale * (of_unit[i] - unit[i] * along);
                    }
                }
                let width = group * net.value_dim;
                let first = 2 * net.key_size() + key_head * width;
                out[first..first + width].copy_from_slice(&found.values[t * width..][..width]);
            }
            CausalConv::before_silu(out, &prepared.convolved[t * channels..][..channels]);
        });
        let mut out = zeros(rows.len());
        out.par_chunks_mut(net.input_rows()).enumerate().for_each(|(t, out)| {
            self.conv.backward(&of_convolved, t, &mut out[..channels]);
            for (key_head, found) in found.iter().enumerate() {
                let of_z = group * net.value_dim;
                out[channels + key_head * of_z..][..of_z].copy_from_slice(&found.gates[t * of_z..][..of_z]);
                for i in 0..group {
                    let head = key_head * group + i;
                    let at = channels + net.value_size() + head;
                    out[at] = found.b[t * group + i];
                    out[at + net.num_value_heads] = found.a[t * group + i];
                }
            }
        });
        out
    }

    /// A value head's part in `all`, whose `i`-th head it is.
    #[expect(clippy::too_many_arguments, reason = "one place calls it, for each head")]
    fn head_back(
        &self,
        rows: &[f32],
        prepared: &Prepared,
        before: &DeltaState,
        gradient: &[f32],
        head: usize,
        i: usize,
        all: &mut OfKeyHead,
    ) {
        let net = &self.net;
        let (heads, width, size) = (net.num_value_heads, net.value_dim, net.key_dim * net.value_dim);
        let (n, group) = (prepared.betas.len() / heads, heads / net.num_key_heads);
        let mut seen = Vec::with_capacity(n * size);
        let mut last = before.states[head * size..][..size].to_vec();
        let outputs = self.scan(prepared, head, &mut last, Some(&mut seen));
        let mut of_state = vec![0.0; size];
        let [mut correction, mut out, mut of_out, mut of_correction, mut difference] = [(); 5].map(|()| vec![0.0; width]);
        for t in (0..n).rev() {
            let (row, own) = (self.row(rows, t), t * group + i);
            let z = &row.z[head * width..][..width];
            let o = &outputs[t * width..][..width];
            let given = &gradient[t * net.value_size() + head * width..][..width];
            let scale = self.norm(o);
            let of_gate = &mut all.gates[own * width..][..width];
            let mut along = 0.0;
            for j in 0..width {
                let normed = o[j] * scale;
                of_gate[j] = given[j] * normed * self.gain[j] * silu_slope(z[j]);
                of_out[j] = given[j] * self.gain[j] * z[j] * sigmoid_of(z[j]);
                along += of_out[j] * normed;
            }
            let along = along / width as f32;
            of_out.iter_mut().zip(o).for_each(|(g, o)| *g = scale * (*g - o * scale * along));

            let [q, k, v] = self.of_head(&prepared.unit, t, head);
            let (decay, beta) = (prepared.decays[t * heads + head], prepared.betas[t * heads + head]);
            let earlier = &seen[t * size..][..size];
            let mut state = earlier.to_vec();
            self.step([q, k, v], decay, beta, &mut state, &mut correction, &mut out);
            let (of_query, of_key) = (&mut all.queries[t * net.key_dim..], &mut all.keys[t * net.key_dim..]);
            of_correction.fill(0.0);
            for (r, (of_row, row)) in of_state.chunks_exact_mut(width).zip(state.chunks_exact(width)).enumerate() {
                of_query[r] += self.query_scale() * dot(row, &of_out);
                add(of_row, self.query_scale() * q[r], &of_out);
                add(&mut of_correction, k[r], of_row);
                of_key[r] += dot(of_row, &correction);
            }
            // `correction = β(v − m)` with `m = Sᵀk` of the decayed state.
            let of_value = &mut all.values[own * width..][..width];
            difference.copy_from_slice(&correction);
            difference.iter_mut().for_each(|d| *d /= beta.max(f32::MIN_POSITIVE));
            let of_beta = dot(&of_correction, &difference);
            of_value.iter_mut().zip(&of_correction).for_each(|(g, d)| *g = beta * d);
            let mut of_decay = 0.0;
            for (r, of_row) in of_state.chunks_exact_mut(width).enumerate() {
                let before = &earlier[r * width..][..width];
                of_key[r] -= decay * dot(before, of_value);
                add(of_row, -k[r], of_value);
                of_decay += dot(of_row, before);
                of_row.iter_mut().for_each(|g| *g *= decay);
            }
            all.b[own] = of_beta * beta * (1.0 - beta);
            let rate = self.log_decay[head].exp();
            all.a[own] = -of_decay * decay * rate * sigmoid_of(row.a[head] + self.step_bias[head]);
        }
    }
}

/// Gradients of a key head and of the value heads that share it, all positions one after the other.
struct OfKeyHead {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    gates: Vec<f32>,
    b: Vec<f32>,
    a: Vec<f32>,
}

impl OfKeyHead {
    fn new(net: &DeltaNet, n: usize) -> Self {
        let group = net.num_value_heads / net.num_key_heads;
        let [queries, keys] = [(); 2].map(|()| vec![0.0; n * net.key_dim]);
        let [values, gates] = [(); 2].map(|()| vec![0.0; n * group * net.value_dim]);
        let [b, a] = [(); 2].map(|()| vec![0.0; n * group]);
        Self { queries, keys, values, gates, b, a }
    }
}

/// A pass over some positions.
struct Pass {
    rule: Arc<Rule>,
    before: Option<DeltaState>,
    after: Arc<Mutex<Option<DeltaState>>>,
}

impl Pass {
    fn start(&self) -> DeltaState {
        let Rule { net, conv, .. } = &*self.rule;
        let new = || DeltaState { columns: vec![0.0; conv.kept_size()], states: vec![0.0; net.state_size()] };
        self.before.clone().unwrap_or_else(new)
    }
}

impl CustomOp1 for Pass {
    fn name(&self) -> &'static str {
        "gated delta net"
    }

    fn cpu_fwd(&self, rows: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut state = self.start();
        let out = self.rule.forward(numbers(rows, layout)?, &mut state);
        *self.after.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
        Ok((CpuStorage::F32(out), (layout.shape().dims2()?.0, self.rule.net.value_size()).into()))
    }

    fn bwd(&self, rows: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        let of_rows = with_numbers(rows, |rows| with_numbers(&gradient, |g| self.rule.backward(rows, &self.start(), g)))??;
        Ok(Some(Tensor::from_vec(of_rows, rows.shape(), &Device::Cpu)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;
    use haikuq_runtime::sampling::uniform;

    const ROWS: usize = 7;

    fn random(seed: u64, n: usize) -> Vec<f32> {
        (0..n as u64).map(|i| 2.0 * uniform(seed, i) - 1.0).collect()
    }

    fn rule() -> Arc<Rule> {
        let net = DeltaNet::new(2, 4, 6, 5, 3);
        let (kernel, gain) = (random(1, net.channels() * 3), random(2, 5));
        Arc::new(Rule { net, conv: conv_of(&net, kernel), log_decay: random(3, 4), step_bias: random(4, 4), gain, epsilon: 1e-5 })
    }

    fn pass(rule: &Arc<Rule>, before: Option<DeltaState>) -> Pass {
        Pass { rule: rule.clone(), before, after: Arc::default() }
    }

    #[test]
    fn gradients_are_those_of_small_changes() {
        let rule = rule();
        let columns = rule.net.input_rows();
        let start = DeltaState { columns: random(5, 2 * rule.net.channels()), states: random(6, rule.net.state_size()) };
        let (values, weights) = (random(7, ROWS * columns), random(8, ROWS * rule.net.value_size()));
        let loss = |values: &[f32]| -> f64 {
            let y = rule.forward(values, &mut start.clone());
            y.iter().zip(&weights).map(|(y, w)| f64::from(*y) * f64::from(*w)).sum()
        };
        let x = Var::from_tensor(&Tensor::from_slice(&values, (ROWS, columns), &Device::Cpu).unwrap()).unwrap();
        let weights = Tensor::from_slice(&weights, (ROWS, rule.net.value_size()), &Device::Cpu).unwrap();
        let total = (x.apply_op1(pass(&rule, Some(start.clone()))).unwrap() * weights).unwrap().sum_all().unwrap();
        let found = total.backward().unwrap().get(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (i, found) in found.iter().enumerate() {
            let moved = |by: f32| {
                let mut moved = values.clone();
                moved[i] += by;
                loss(&moved)
            };
            // Norms bend sharply, so that two points are not enough.
            let h = 4e-3;
            let expected = (8.0 * (moved(h) - moved(-h)) - (moved(2.0 * h) - moved(-2.0 * h))) / (12.0 * f64::from(h));
            let difference = (f64::from(*found) - expected).abs();
            assert!(difference < 5e-3 * expected.abs().max(1.0), "{i}: {found} against {expected}");
        }
    }

    #[test]
    fn a_sequence_in_parts_is_the_sequence_at_once() {
        let rule = rule();
        let columns = rule.net.input_rows();
        let rows = random(9, ROWS * columns);
        let whole = rule.forward(&rows, &mut pass(&rule, None).start());
        let (mut state, mut parts) = (pass(&rule, None).start(), Vec::new());
        for (first, n) in [(0, 1), (1, 1), (2, 4), (6, 1)] {
            parts.extend(rule.forward(&rows[first * columns..][..n * columns], &mut state));
        }
        assert_eq!(whole, parts);
    }
}
