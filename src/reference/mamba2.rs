//! The Mamba 2 mixer of a layer, with gradients.
//!
//! Every position is done by itself, as the formula says ([`Mamba2`]); the way back walks through the positions again from the last,
//! with the states that the way forward went through.

use super::ReferenceError;
use super::causal_conv::CausalConv;
use super::layer::Projection;
use super::numbers::{numbers, with_numbers};
use super::vectors::{add, dot, sigmoid_of, silu_slope, softplus};
use super::weights::Weights;
use crate::zeros::zeros;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{GatedNorm, Mamba2};
use rayon::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};

/// The weights of a layer's Mamba 2 mixer.
pub(super) struct Mamba2Weights {
    pub(super) input: Projection,
    pub(super) output: Projection,
    rule: Arc<Rule>,
}

/// What a sequence keeps.
#[derive(Clone)]
pub(super) struct Mamba2State {
    /// The last columns before the convolution, `[kernel_size − 1, channels]`.
    columns: Vec<f32>,
    /// `[num_heads, head_dim, state_size]`.
    states: Vec<f32>,
}

impl Mamba2Weights {
    /// `layer` is the prefix of its tensors' names, with the dot.
    pub(super) fn load(
        spec: &DecoderSpec,
        mamba: Mamba2,
        layer: &str,
        weights: &mut Weights,
    ) -> std::result::Result<Self, ReferenceError> {
        let input = Projection::load(weights, &format!("{layer}mamba_in"), mamba.input_bias)?;
        let mut vector = |name: &str| -> std::result::Result<Vec<f32>, ReferenceError> {
            Ok(weights.take(&format!("{layer}{name}"))?.to_vec1()?)
        };
        let kernel = vector("mamba.kernel")?;
        let bias = mamba.conv_bias.then(|| vector("mamba.bias")).transpose()?;
        let [log_decay, step_bias, skip] = ["log_decay", "step_bias", "skip"].map(|part| vector(&format!("mamba.{part}")));
        let gain = mamba.norm.map(|_| vector("mamba_norm.gain")).transpose()?.unwrap_or_default();
        let rule = Rule {
            mamba,
            conv: conv_of(&mamba, kernel, bias),
            log_decay: log_decay?,
            step_bias: step_bias?,
            skip: skip?,
            gain,
            epsilon: spec.norm.epsilon,
        };
        let output = Projection::load(weights, &format!("{layer}mamba_out"), mamba.output_bias)?;
        Ok(Self { input, output, rule: Arc::new(rule) })
    }

    /// What the heads make of rows of `mamba_in` `[n, …]`, which follow those of `state`: `[n, num_heads × head_dim]`.
    pub(super) fn mix(&self, rows: &Tensor, state: &mut Option<Mamba2State>) -> Result<Tensor> {
        let after = Arc::new(Mutex::new(None));
        let op = Pass { rule: self.rule.clone(), before: state.take(), after: after.clone() };
        let out = rows.contiguous()?.apply_op1(op)?;
        *state = after.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(out)
    }
}

/// The layer's numbers.
struct Rule {
    mamba: Mamba2,
    conv: CausalConv,
    log_decay: Vec<f32>,
    step_bias: Vec<f32>,
    skip: Vec<f32>,
    /// `[num_heads × head_dim]`, where there is a norm.
    gain: Vec<f32>,
    epsilon: f32,
}

/// The convolution of inputs, `B` and `C`.
fn conv_of(mamba: &Mamba2, kernel: Vec<f32>, bias: Option<Vec<f32>>) -> CausalConv {
    let (width, first) = (mamba.input_rows(), mamba.inner_size());
    CausalConv { width, first, channels: mamba.channels(), taps: mamba.kernel_size, kernel, bias }
}

/// All that happens before states are touched.
struct Prepared {
    /// Before SiLU, `[n, channels]`.
    convolved: Vec<f32>,
    /// Inputs, `B` and `C`, `[n, channels]`.
    mixed: Vec<f32>,
    /// `[n, num_heads]`.
    steps: Vec<f32>,
    decays: Vec<f32>,
}

/// Gradients of a head, all positions one after the other.
struct OfHead {
    inputs: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    /// With respect to steps as the first matrix makes them.
    steps: Vec<f32>,
}

impl Rule {
    /// The gates of position `t`.
    fn gates<'a>(&self, rows: &'a [f32], t: usize) -> &'a [f32] {
        &rows[t * self.mamba.input_rows()..][..self.mamba.inner_size()]
    }

    /// The step of a head at position `t` before softplus, with its bias.
    fn raw_step(&self, rows: &[f32], t: usize, head: usize) -> f32 {
        let before = self.mamba.input_rows() - self.mamba.num_heads;
        rows[t * self.mamba.input_rows() + before + head] + self.step_bias[head]
    }

    fn prepare(&self, rows: &[f32], columns: &[f32]) -> Prepared {
        let mamba = &self.mamba;
        let (n, channels, heads) = (rows.len() / mamba.input_rows(), mamba.channels(), mamba.num_heads);
        let mut prepared = Prepared {
            convolved: zeros(n * channels),
            mixed: zeros(n * channels),
            steps: zeros(n * heads),
            decays: zeros(n * heads),
        };
        let of_rows = prepared.convolved.par_chunks_mut(channels).zip(prepared.mixed.par_chunks_mut(channels));
        let of_rows = of_rows.zip(prepared.steps.par_chunks_mut(heads).zip(prepared.decays.par_chunks_mut(heads)));
        of_rows.enumerate().for_each(|(t, ((convolved, mixed), (steps, decays)))| {
            self.conv.forward(rows, columns, t, convolved, mixed);
            for head in 0..heads {
                let step = softplus(self.raw_step(rows, t, head)).max(mamba.min_step);
                steps[head] = mamba.max_step.map_or(step, |max| step.min(max));
                decays[head] = (-self.log_decay[head].exp() * steps[head]).exp();
            }
        });
        prepared
    }

    /// Inputs of a head at position `t`, and `B` and `C` of its group.
    fn of_head<'a>(&self, mixed: &'a [f32], t: usize, head: usize) -> [&'a [f32]; 3] {
        let mamba = &self.mamba;
        let row = &mixed[t * mamba.channels()..][..mamba.channels()];
        let group = head / (mamba.num_heads / mamba.num_groups) * mamba.state_size;
        let of_group = |first: usize| &row[first + group..][..mamba.state_size];
        let inputs = &row[head * mamba.head_dim..][..mamba.head_dim];
        [inputs, of_group(mamba.inner_size()), of_group(mamba.inner_size() + mamba.groups_size())]
    }

    /// Outputs of a head before its gates `[n, head_dim]`; `state` becomes the last one. `seen` gets those before each position.
    fn scan(&self, prepared: &Prepared, head: usize, state: &mut [f32], mut seen: Option<&mut Vec<f32>>) -> Vec<f32> {
        let Mamba2 { num_heads, head_dim, state_size, .. } = self.mamba;
        let n = prepared.steps.len() / num_heads;
        let mut out = zeros(n * head_dim);
        for (t, out) in out.chunks_exact_mut(head_dim).enumerate() {
            if let Some(seen) = &mut seen {
                seen.extend_from_slice(state);
            }
            let (step, decay) = (prepared.steps[t * num_heads + head], prepared.decays[t * num_heads + head]);
            let [x, b, c] = self.of_head(&prepared.mixed, t, head);
            for ((row, x), out) in state.chunks_exact_mut(state_size).zip(x).zip(out) {
                row.iter_mut().zip(b).for_each(|(s, b)| *s = decay * *s + step * x * b);
                *out = dot(row, c) + self.skip[head] * x;
            }
        }
        out
    }

    /// Outputs of all heads before their gates, `[n, num_heads × head_dim]`; `states` become the last ones.
    fn scan_all(&self, prepared: &Prepared, states: &mut [f32]) -> Vec<f32> {
        let Mamba2 { num_heads, head_dim, state_size, .. } = self.mamba;
        let of_heads = states.par_chunks_mut(head_dim * state_size).enumerate();
        let heads: Vec<Vec<f32>> = of_heads.map(|(head, state)| self.scan(prepared, head, state, None)).collect();
        let mut out = zeros(prepared.steps.len() * head_dim);
        out.par_chunks_mut(num_heads * head_dim).enumerate().for_each(|(t, out)| {
            for (out, head) in out.chunks_exact_mut(head_dim).zip(&heads) {
                out.copy_from_slice(&head[t * head_dim..][..head_dim]);
            }
        });
        out
    }

    /// Numbers that are normalized together.
    fn group_width(&self) -> usize {
        self.mamba.inner_size() / self.mamba.num_groups
    }

    /// One over the root mean square.
    fn scale(&self, squares: f32) -> f32 {
        (squares / self.group_width() as f32 + self.epsilon).sqrt().recip()
    }

    /// Gates and normalizes a position's outputs `y`, in place.
    fn gate(&self, z: &[f32], y: &mut [f32]) {
        let silu = |z: f32| z * sigmoid_of(z);
        let width = self.group_width();
        for (group, (y, z)) in y.chunks_exact_mut(width).zip(z.chunks_exact(width)).enumerate() {
            let gated = |y: &mut [f32]| y.iter_mut().zip(z).for_each(|(y, z)| *y *= silu(*z));
            let normalized = |y: &mut [f32]| {
                let scale = self.scale(dot(y, y));
                y.iter_mut().zip(&self.gain[group * width..]).for_each(|(y, gain)| *y *= scale * gain);
            };
            match self.mamba.norm {
                None => gated(y),
                Some(GatedNorm::AfterGate) => {
                    gated(y);
                    normalized(y);
                }
                Some(GatedNorm::BeforeGate) => {
                    normalized(y);
                    gated(y);
                }
            }
        }
    }

    /// The way back: from `given`, of [`Rule::gate`]'s results, to the gradients of `y` and of `z`.
    fn gate_back(&self, z: &[f32], y: &[f32], given: &[f32], of_y: &mut [f32], of_z: &mut [f32]) {
        let width = self.group_width();
        for first in (0..y.len()).step_by(width) {
            let group = first..first + width;
            let gate = |i: usize| z[i] * sigmoid_of(z[i]);
            match self.mamba.norm {
                None => group.for_each(|i| {
                    of_y[i] = given[i] * gate(i);
                    of_z[i] = given[i] * y[i] * silu_slope(z[i]);
                }),
                Some(GatedNorm::AfterGate) => {
                    let scale = self.scale(group.clone().map(|i| (y[i] * gate(i)).powi(2)).sum());
                    let normed = |i: usize| y[i] * gate(i) * scale;
                    let along = group.clone().map(|i| given[i] * self.gain[i] * normed(i)).sum::<f32>() / width as f32;
                    group.for_each(|i| {
                        let of_gated = scale * (given[i] * self.gain[i] - normed(i) * along);
                        of_y[i] = of_gated * gate(i);
                        of_z[i] = of_gated * y[i] * silu_slope(z[i]);
                    });
                }
                Some(GatedNorm::BeforeGate) => {
                    let scale = self.scale(group.clone().map(|i| y[i] * y[i]).sum());
                    let of_normed = |i: usize| given[i] * self.gain[i] * gate(i);
                    let along = group.clone().map(|i| of_normed(i) * y[i] * scale).sum::<f32>() / width as f32;
                    group.for_each(|i| {
                        of_y[i] = scale * (of_normed(i) - y[i] * scale * along);
                        of_z[i] = given[i] * y[i] * scale * self.gain[i] * silu_slope(z[i]);
                    });
                }
            }
        }
    }

    fn forward(&self, rows: &[f32], state: &mut Mamba2State) -> Vec<f32> {
        let mamba = &self.mamba;
        let prepared = self.prepare(rows, &state.columns);
        let mut out = self.scan_all(&prepared, &mut state.states);
        state.columns = self.conv.keep(rows, &state.columns, rows.len() / mamba.input_rows());
        out.par_chunks_mut(mamba.inner_size()).enumerate().for_each(|(t, y)| self.gate(self.gates(rows, t), y));
        out
    }

    /// The gradient with respect to rows, of the one with respect to what [`Rule::forward`] made of them.
    fn backward(&self, rows: &[f32], before: &Mamba2State, gradient: &[f32]) -> Vec<f32> {
        let mamba = &self.mamba;
        let (inner, channels, heads) = (mamba.inner_size(), mamba.channels(), mamba.num_heads);
        let prepared = self.prepare(rows, &before.columns);
        let outputs = self.scan_all(&prepared, &mut before.states.clone());
        let (mut of_outputs, mut out) = (zeros(outputs.len()), zeros(rows.len()));
        let of_rows = of_outputs.par_chunks_mut(inner).zip(out.par_chunks_mut(mamba.input_rows())).enumerate();
        of_rows.for_each(|(t, (of_y, of_row))| {
            let at = t * inner..(t + 1) * inner;
            self.gate_back(self.gates(rows, t), &outputs[at.clone()], &gradient[at], of_y, &mut of_row[..inner]);
        });
        let of_head = |head: usize| self.head_back(rows, &prepared, before, &of_outputs, head);
        let found: Vec<OfHead> = (0..heads).into_par_iter().map(of_head).collect();
        let (dim, size) = (mamba.head_dim, mamba.state_size);
        let mut of_convolved = zeros(prepared.mixed.len());
        of_convolved.par_chunks_mut(channels).enumerate().for_each(|(t, out)| {
            for (head, found) in found.iter().enumerate() {
                out[head * dim..][..dim].copy_from_slice(&found.inputs[t * dim..][..dim]);
                let group = head / (heads / mamba.num_groups) * size;
                add(&mut out[inner + group..][..size], 1.0, &found.b[t * size..][..size]);
                add(&mut out[inner + mamba.groups_size() + group..][..size], 1.0, &found.c[t * size..][..size]);
            }
            CausalConv::before_silu(out, &prepared.convolved[t * channels..][..channels]);
        });
        out.par_chunks_mut(mamba.input_rows()).enumerate().for_each(|(t, out)| {
            self.conv.backward(&of_convolved, t, &mut out[inner..][..channels]);
            for (out, found) in out[inner + channels..].iter_mut().zip(&found) {
                *out = found.steps[t];
            }
        });
        out
    }

    /// A head's part, of the gradient `of_outputs` before gates, `[n, num_heads × head_dim]`.
    fn head_back(&self, rows: &[f32], prepared: &Prepared, before: &Mamba2State, of_outputs: &[f32], head: usize) -> OfHead {
        let Mamba2 { num_heads, head_dim, state_size, min_step, max_step, .. } = self.mamba;
        let (n, size) = (prepared.steps.len() / num_heads, head_dim * state_size);
        let mut seen = Vec::with_capacity((n + 1) * size);
        let mut last = before.states[head * size..][..size].to_vec();
        self.scan(prepared, head, &mut last, Some(&mut seen));
        seen.extend(last);
        let mut all = OfHead {
            inputs: vec![0.0; n * head_dim],
            b: vec![0.0; n * state_size],
            c: vec![0.0; n * state_size],
            steps: vec![0.0; n],
        };
        let (rate, mut of_state) = (self.log_decay[head].exp(), vec![0.0; size]);
        for t in (0..n).rev() {
            let (step, decay) = (prepared.steps[t * num_heads + head], prepared.decays[t * num_heads + head]);
            let [x, b, c] = self.of_head(&prepared.mixed, t, head);
            let given = &of_outputs[(t * num_heads + head) * head_dim..][..head_dim];
            let (earlier, state) = (&seen[t * size..][..size], &seen[(t + 1) * size..][..size]);
            let (of_b, of_c) = (&mut all.b[t * state_size..][..state_size], &mut all.c[t * state_size..][..state_size]);
            let (mut of_step, mut of_decay) = (0.0, 0.0);
            for (i, of_row) in of_state.chunks_exact_mut(state_size).enumerate() {
                let row = i * state_size..(i + 1) * state_size;
                add(of_c, given[i], &state[row.clone()]);
                add(of_row, given[i], c);
                let along = dot(of_row, b);
                all.inputs[t * head_dim + i] = self.skip[head] * given[i] + step * along;
                of_step += x[i] * along;
                add(of_b, step * x[i], of_row);
                of_decay += dot(of_row, &earlier[row]);
                of_row.iter_mut().for_each(|g| *g *= decay);
            }
            let raw = self.raw_step(rows, t, head);
            let free = softplus(raw) > min_step && max_step.is_none_or(|max| softplus(raw) < max);
            let slope = if free { sigmoid_of(raw) } else { 0.0 };
            all.steps[t] = (of_step - of_decay * decay * rate) * slope;
        }
        all
    }
}

/// A pass over some positions.
struct Pass {
    rule: Arc<Rule>,
    before: Option<Mamba2State>,
    after: Arc<Mutex<Option<Mamba2State>>>,
}

impl Pass {
    fn start(&self) -> Mamba2State {
        let Rule { mamba, conv, .. } = &*self.rule;
        let new = || Mamba2State { columns: vec![0.0; conv.kept_size()], states: vec![0.0; mamba.states_size()] };
        self.before.clone().unwrap_or_else(new)
    }
}

impl CustomOp1 for Pass {
    fn name(&self) -> &'static str {
        "Mamba 2"
    }

    fn cpu_fwd(&self, rows: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut state = self.start();
        let out = self.rule.forward(numbers(rows, layout)?, &mut state);
        *self.after.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
        Ok((CpuStorage::F32(out), (layout.shape().dims2()?.0, self.rule.mamba.inner_size()).into()))
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

    /// Rules with each norm, with groups that heads share, with a bias and steps that end.
    fn rules() -> [Arc<Rule>; 3] {
        [None, Some(GatedNorm::AfterGate), Some(GatedNorm::BeforeGate)].map(|norm| {
            let mut mamba = Mamba2::new(6, 3, 2, 5, 3);
            mamba.norm = norm;
            mamba.conv_bias = norm.is_none();
            if norm == Some(GatedNorm::BeforeGate) {
                (mamba.min_step, mamba.max_step) = (0.4, Some(1.2));
            }
            let (kernel, bias) = (random(1, mamba.channels() * 3), mamba.conv_bias.then(|| random(10, mamba.channels())));
            let gain = norm.map(|_| random(2, mamba.inner_size())).unwrap_or_default();
            let (log_decay, step_bias, skip) = (random(3, 6), random(4, 6), random(5, 6));
            Arc::new(Rule { mamba, conv: conv_of(&mamba, kernel, bias), log_decay, step_bias, skip, gain, epsilon: 1e-2 })
        })
    }

    fn pass(rule: &Arc<Rule>, before: Option<Mamba2State>) -> Pass {
        Pass { rule: rule.clone(), before, after: Arc::default() }
    }

    #[test]
    fn gradients_are_those_of_small_changes() {
        for rule in rules() {
            let (columns, inner) = (rule.mamba.input_rows(), rule.mamba.inner_size());
            let start = Mamba2State { columns: random(5, rule.conv.kept_size()), states: random(6, rule.mamba.states_size()) };
            let (values, weights) = (random(7, ROWS * columns), random(8, ROWS * inner));
            let loss = |values: &[f32]| -> f64 {
                let y = rule.forward(values, &mut start.clone());
                y.iter().zip(&weights).map(|(y, w)| f64::from(*y) * f64::from(*w)).sum()
            };
            let x = Var::from_tensor(&Tensor::from_slice(&values, (ROWS, columns), &Device::Cpu).unwrap()).unwrap();
            let weights = Tensor::from_slice(&weights, (ROWS, inner), &Device::Cpu).unwrap();
            let total = (x.apply_op1(pass(&rule, Some(start.clone()))).unwrap() * weights).unwrap().sum_all().unwrap();
            let found = total.backward().unwrap().get(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let mut ends = 0;
            for (i, found) in found.iter().enumerate() {
                let (t, head) = (i / columns, (i % columns).checked_sub(columns - rule.mamba.num_heads));
                let h = 4e-3;
                // Where a step reaches a limit, the slope jumps.
                if let Some(head) = head {
                    let step = softplus(rule.raw_step(&values, t, head));
                    let near = |limit: f32| (step - limit).abs() < 3.0 * h;
                    if near(rule.mamba.min_step) || rule.mamba.max_step.is_some_and(near) {
                        continue;
                    }
                    ends += usize::from(*found == 0.0);
                }
                let moved = |by: f32| {
                    let mut moved = values.clone();
                    moved[i] += by;
                    loss(&moved)
                };
                // Norms bend sharply, so that two points are not enough.
                let expected = (8.0 * (moved(h) - moved(-h)) - (moved(2.0 * h) - moved(-2.0 * h))) / (12.0 * f64::from(h));
                let difference = (f64::from(*found) - expected).abs();
                assert!(difference < 5e-3 * expected.abs().max(1.0), "{i}: {found} against {expected}");
            }
            assert_eq!(ends > 0, rule.mamba.max_step.is_some(), "steps at a limit have no slope");
        }
    }

    #[test]
    fn a_sequence_in_parts_is_the_sequence_at_once() {
        for rule in rules() {
            let columns = rule.mamba.input_rows();
            let rows = random(9, ROWS * columns);
            let whole = rule.forward(&rows, &mut pass(&rule, None).start());
            let (mut state, mut parts) = (pass(&rule, None).start(), Vec::new());
            for (first, n) in [(0, 1), (1, 1), (2, 4), (6, 1)] {
                parts.extend(rule.forward(&rows[first * columns..][..n * columns], &mut state));
            }
            assert_eq!(whole, parts);
        }
    }
}
