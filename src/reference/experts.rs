//! Mixtures of experts: which of them a token uses, with which weights, and the sum of what they make of it, with gradients.

use super::ReferenceError;
use super::layer::Projection;
use super::numbers::{numbers, with_numbers};
use super::observe::Routing;
use super::weights::Weights;
use crate::zeros::zeros;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Device, Layout, Result, Shape, Tensor};
use haikuq_format::spec::{Experts, Scores};
use rayon::prelude::*;

/// A router's weights.
pub(super) struct Router {
    spec: Experts,
    logits: Projection,
    selection_bias: Option<Vec<f32>>,
}

impl Router {
    /// `layer` is the prefix of its tensors' names, with the dot.
    pub(super) fn load(spec: Experts, layer: &str, weights: &mut Weights) -> std::result::Result<Self, ReferenceError> {
        let logits = Projection::load(weights, &format!("{layer}router"), spec.router_bias)?;
        let bias = weights.take_if(spec.selection_bias, &format!("{layer}router.selection_bias"))?;
        let selection_bias = bias.map(|bias| with_numbers(&bias, <[f32]>::to_vec)).transpose()?;
        Ok(Self { spec, logits, selection_bias })
    }

    /// Logits `[tokens, router_rows]` of `x` `[tokens, hidden_size]`.
    pub(super) fn logits(&self, x: &Tensor) -> Result<Tensor> {
        self.logits.forward_unobserved(x)
    }

    /// The experts that tokens of these logits use.
    pub(super) fn choose(&self, logits: &Tensor) -> Result<Routing> {
        let (all, n) = (self.spec.num_experts, self.spec.num_routed());
        let mut chosen = vec![Vec::new(); all];
        with_numbers(logits, |logits| {
            for (token, logits) in logits.chunks_exact(self.spec.router_rows()).enumerate() {
                let logits = &logits[..n];
                let keys = match &self.selection_bias {
                    None => logits.to_vec(),
                    Some(bias) => scores(&self.spec, logits).iter().zip(bias).map(|(score, bias)| score + bias).collect(),
                };
                let mut order: Vec<usize> = (0..n).collect();
                // Equal ones stay in their order.
                order.sort_by(|&a, &b| keys[b].total_cmp(&keys[a]));
                order[..self.spec.num_chosen()].iter().copied().chain(n..all).for_each(|e| chosen[e].push(token as u32));
            }
        })?;
        Ok(Routing { chosen, also: vec![Vec::new(); all] })
    }

    /// The weights of all experts for tokens of these logits, `[tokens, num_experts]`: 0 of those that are not chosen.
    pub(super) fn weights(&self, logits: &Tensor, routing: &Routing) -> Result<Tensor> {
        let mut chosen = vec![false; logits.dim(0)? * self.spec.num_experts];
        for (expert, tokens) in routing.chosen.iter().enumerate() {
            tokens.iter().for_each(|token| chosen[*token as usize * self.spec.num_experts + expert] = true);
        }
        logits.apply_op1(RoutingWeights { spec: self.spec, chosen })
    }
}

/// Scores of a token's experts. Those of softmax are relative to the largest logit.
fn scores(spec: &Experts, logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |a, l| a.max(*l));
    let score = |l: &f32| match spec.scores {
        Scores::Softmax => (l - largest).exp(),
        Scores::Sigmoid => sigmoid(*l),
    };
    logits.iter().map(score).collect()
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

struct RoutingWeights {
    spec: Experts,
    chosen: Vec<bool>,
}

impl RoutingWeights {
    /// Scores of the experts that a token chooses among, and what they are divided by.
    fn scores(&self, logits: &[f32], chosen: &[bool]) -> (Vec<f32>, f32) {
        let scores = scores(&self.spec, logits);
        let total = match (self.spec.normalized, self.spec.scores) {
            (true, _) => {
                self.spec.epsilon + scores.iter().zip(chosen).filter(|(_, chosen)| **chosen).map(|(s, _)| s).sum::<f32>()
            }
            (false, Scores::Softmax) => scores.iter().sum(),
            (false, Scores::Sigmoid) => 1.0,
        };
        (scores, total)
    }
}

impl CustomOp1 for RoutingWeights {
    fn name(&self) -> &'static str {
        "weights of experts"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (logits, n, routed, rows) =
            (numbers(logits, layout)?, self.spec.num_experts, self.spec.num_routed(), self.spec.router_rows());
        let mut out = vec![0.0; self.chosen.len()];
        for ((out, logits), chosen) in out.chunks_exact_mut(n).zip(logits.chunks_exact(rows)).zip(self.chosen.chunks_exact(n)) {
            let (scores, total) = self.scores(&logits[..routed], &chosen[..routed]);
            out[routed..].fill(logits.get(routed).map_or(1.0, |l| sigmoid(*l)));
            for ((weight, score), _) in out.iter_mut().zip(scores).zip(chosen).filter(|(_, chosen)| **chosen) {
                *weight = self.spec.scale * (score / total);
            }
        }
        Ok((CpuStorage::F32(out), (self.chosen.len() / n, n).into()))
    }

    /// With `w = scale × s / n`: a score's gradient is `scale × g / n`, less `Σ g w / n` where it is a part of `n`.
    fn bwd(&self, logits: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (all, n, spec, rows) = (self.spec.num_experts, self.spec.num_routed(), &self.spec, self.spec.router_rows());
        let mut out = vec![0.0; logits.elem_count()];
        with_numbers(logits, |logits| {
            with_numbers(&gradient.contiguous()?, |gradient| {
                let tokens = out.chunks_exact_mut(rows).zip(logits.chunks_exact(rows)).zip(gradient.chunks_exact(all));
                for (((out, logits), gradient), chosen) in tokens.zip(self.chosen.chunks_exact(all)) {
                    if let Some(gate) = logits.get(n).map(|l| sigmoid(*l)) {
                        out[n] = gate * (1.0 - gate) * gradient[n..].iter().sum::<f32>();
                    }
                    let (scores, total) = self.scores(&logits[..n], &chosen[..n]);
                    let of = |e: usize| if chosen[e] { spec.scale * gradient[e] / total } else { 0.0 };
                    let shared: f32 = (0..n).map(|e| of(e) * scores[e] / total).sum();
                    for e in 0..n {
                        let is_part = if spec.normalized { chosen[e] } else { spec.scores == Scores::Softmax };
                        let of_score = of(e) - if is_part { shared } else { 0.0 };
                        let slope = match spec.scores {
                            Scores::Softmax => scores[e],
                            Scores::Sigmoid => scores[e] * (1.0 - scores[e]),
                        };
                        out[e] = of_score * slope;
                    }
                }
                Result::Ok(())
            })
        })???;
        Ok(Some(Tensor::from_vec(out, logits.shape(), &Device::Cpu)?))
    }
}

/// Rows `rows` of `x` `[n, columns]`.
pub(super) fn gathered(x: &Tensor, rows: Vec<u32>) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Gathered { rows })
}

struct Gathered {
    rows: Vec<u32>,
}

impl CustomOp1 for Gathered {
    fn name(&self) -> &'static str {
        "rows of a mixture's input"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((_, columns), x) = (layout.shape().dims2()?, numbers(x, layout)?);
        let mut out = zeros(self.rows.len() * columns);
        let rows = out.par_chunks_mut(columns).zip(&self.rows);
        rows.for_each(|(out, row)| out.copy_from_slice(&x[*row as usize * columns..][..columns]));
        Ok((CpuStorage::F32(out), (self.rows.len(), columns).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (columns, mut out) = (x.dim(1)?, zeros::<f32>(x.elem_count()));
        with_numbers(&gradient.contiguous()?, |gradient| {
            for (row, gradient) in self.rows.iter().zip(gradient.chunks_exact(columns)) {
                let out = &mut out[*row as usize * columns..][..columns];
                out.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
            }
        })?;
        Ok(Some(Tensor::from_vec(out, x.shape(), &Device::Cpu)?))
    }
}

/// What a mixture's experts make of its tokens, summed up with their weights.
pub(super) struct Combined {
    tokens: usize,
    columns: usize,
    routing: Routing,
    weights: Tensor,
    /// Of each expert, where gradients go through them.
    outputs: Vec<Tensor>,
    /// The sum, where they do not.
    sum: Vec<f32>,
}

impl Combined {
    /// Nothing yet, for `weights` `[tokens, num_experts]` and outputs of `columns` numbers.
    pub(super) fn new(weights: Tensor, columns: usize, routing: Routing) -> Result<Self> {
        let tokens = weights.dim(0)?;
        let sum = if weights.track_op() { Vec::new() } else { zeros(tokens * columns) };
        Ok(Self { tokens, columns, routing, weights, outputs: Vec::new(), sum })
    }

    /// Adds what an expert makes of its tokens, and of those that were computed with them.
    pub(super) fn add(&mut self, expert: usize, output: Tensor) -> Result<()> {
        let (tokens, columns) = (&self.routing.chosen[expert], self.columns);
        if self.weights.track_op() {
            self.outputs.push(output.narrow(0, 0, tokens.len())?);
            return Ok(());
        }
        let experts = self.routing.chosen.len();
        with_numbers(&self.weights, |weights| {
            with_numbers(&output.contiguous()?, |output| {
                for (token, output) in tokens.iter().zip(output.chunks_exact(columns)) {
                    let (token, sum) = (*token as usize, &mut self.sum);
                    let weight = weights[token * experts + expert];
                    sum[token * columns..][..columns].iter_mut().zip(output).for_each(|(sum, y)| *sum += weight * y);
                }
            })
        })??;
        Ok(())
    }

    /// The sum `[tokens, columns]`. All experts that tokens chose were added in order.
    pub(super) fn finish(self) -> Result<Tensor> {
        let shape = (self.tokens, self.columns);
        if !self.weights.track_op() {
            return Tensor::from_vec(self.sum, shape, &Device::Cpu);
        }
        let outputs = Tensor::cat(&self.outputs, 0)?;
        let pairs = |(expert, tokens): (usize, &Vec<u32>)| tokens.iter().map(|t| (*t as usize, expert)).collect::<Vec<_>>();
        let pairs = self.routing.chosen.iter().enumerate().flat_map(pairs).collect();
        outputs.contiguous()?.apply_op2(&self.weights, Sum { pairs, tokens: self.tokens })
    }
}

/// Sums of `[pairs, columns]` with weights `[tokens, experts]`.
struct Sum {
    /// Token and expert of each row.
    pairs: Vec<(usize, usize)>,
    tokens: usize,
}

impl CustomOp2 for Sum {
    fn name(&self) -> &'static str {
        "sum of experts"
    }

    fn cpu_fwd(&self, y: &CpuStorage, of_y: &Layout, weights: &CpuStorage, of_weights: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((_, columns), (_, experts)) = (of_y.shape().dims2()?, of_weights.shape().dims2()?);
        let (y, weights) = (numbers(y, of_y)?, numbers(weights, of_weights)?);
        let mut out = zeros(self.tokens * columns);
        for ((token, expert), y) in self.pairs.iter().zip(y.chunks_exact(columns)) {
            let weight = weights[token * experts + expert];
            out[token * columns..][..columns].iter_mut().zip(y).for_each(|(sum, y)| *sum += weight * y);
        }
        Ok((CpuStorage::F32(out), (self.tokens, columns).into()))
    }

    fn bwd(&self, y: &Tensor, weights: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (columns, experts) = (y.dim(1)?, weights.dim(1)?);
        let (mut of_y, mut of_weights) = (zeros(y.elem_count()), vec![0.0; weights.elem_count()]);
        with_numbers(y, |y| {
            with_numbers(weights, |weights| {
                with_numbers(&gradient.contiguous()?, |gradient| {
                    let rows = of_y.chunks_exact_mut(columns).zip(y.chunks_exact(columns));
                    for ((token, expert), (of_y, y)) in self.pairs.iter().zip(rows) {
                        let (at, gradient) = (token * experts + expert, &gradient[token * columns..][..columns]);
                        of_y.iter_mut().zip(gradient).for_each(|(of_y, g)| *of_y = weights[at] * g);
                        of_weights[at] = y.iter().zip(gradient).map(|(y, g)| y * g).sum::<f32>();
                    }
                    Result::Ok(())
                })
            })
        })????;
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), &Device::Cpu).map(Some);
        Ok((tensor(of_y, y)?, tensor(of_weights, weights)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;
    use haikuq_runtime::sampling::uniform;

    fn random(seed: u64, rows: usize, columns: usize) -> Tensor {
        let values = (0..(rows * columns) as u64).map(|i| 2.0 * uniform(seed, i) - 1.0).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    /// Two of five experts of four tokens, by logits that are far enough apart for small changes to choose no others.
    fn routing() -> (Tensor, Routing) {
        let logits = (0..4).flat_map(|t| (0..5).map(move |e| ((t * 3 + e * 2) % 5) as f32 * 0.4 - 1.0)).collect();
        let chosen = (0..5).map(|e| (0..4).filter(|t| (t * 3 + e * 2) % 5 > 2).map(|t| t as u32).collect()).collect();
        (Tensor::from_vec(logits, (4, 5), &Device::Cpu).unwrap(), Routing { chosen, also: vec![Vec::new(); 5] })
    }

    fn all() -> Vec<Experts> {
        let mut all = Vec::new();
        for scores in [Scores::Softmax, Scores::Sigmoid] {
            for normalized in [false, true] {
                let mut experts = Experts::new(5, 2, scores);
                (experts.normalized, experts.scale) = (normalized, 1.7);
                experts.epsilon = if normalized && scores == Scores::Sigmoid { 0.1 } else { 0.0 };
                all.push(experts);
            }
        }
        all
    }

    #[test]
    fn experts_are_those_that_the_kernels_twin_chooses() {
        let (logits, routing) = routing();
        let numbers = logits.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let projection = Projection::from_weight(random(1, 5, 3));
        for (spec, bias) in all().into_iter().flat_map(|spec| [(spec, None), (spec, Some(vec![0.0, 2.0, 0.0, -1.0, 0.1]))]) {
            if bias.is_some() && spec.scores == Scores::Softmax {
                continue;
            }
            let router = Router { spec, logits: projection.clone(), selection_bias: bias.clone() };
            let found = router.choose(&logits).unwrap();
            if bias.is_none() {
                assert_eq!(found.chosen, routing.chosen);
            }
            let weights = router.weights(&logits, &found).unwrap().to_vec2::<f32>().unwrap();
            for (token, logits) in numbers.chunks_exact(5).enumerate() {
                let mut expected = [0.0f32; 5];
                for (e, weight) in haikuq_runtime::kernels::experts::choose_cpu(&spec, logits, bias.as_deref()) {
                    expected[e] = weight;
                    assert!(found.chosen[e].contains(&(token as u32)));
                }
                weights[token].iter().zip(expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-6, "{a} {b}"));
            }
        }
    }

    #[test]
    fn gradients_are_differences() {
        let (logits, routing) = routing();
        let rows: usize = routing.chosen.iter().map(Vec::len).sum();
        for spec in all() {
            let router = Router { spec, logits: Projection::from_weight(random(1, 5, 3)), selection_bias: None };
            let mix = |logits: &Tensor, y: &Tensor| {
                let weights = router.weights(logits, &routing).unwrap();
                let mut combined = Combined::new(weights, 3, routing.clone()).unwrap();
                let mut first = 0;
                for (expert, tokens) in routing.chosen.iter().enumerate() {
                    combined.add(expert, y.narrow(0, first, tokens.len()).unwrap()).unwrap();
                    first += tokens.len();
                }
                let probe = random(5, 4, 3);
                combined.finish().unwrap().mul(&probe).unwrap().sum_all().unwrap()
            };
            let inputs = [logits.clone(), random(2, rows, 3)];
            let variables = inputs.each_ref().map(|x| Var::from_tensor(x).unwrap());
            let gradients = mix(&variables[0], &variables[1]).backward().unwrap();
            for (which, input) in inputs.iter().enumerate() {
                let gradient = gradients.get(&variables[which]).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let numbers = input.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                for (i, expected) in gradient.iter().enumerate() {
                    let at = |by: f32| {
                        let mut moved = numbers.clone();
                        moved[i] += by;
                        let mut inputs = inputs.clone();
                        inputs[which] = Tensor::from_vec(moved, input.shape(), &Device::Cpu).unwrap();
                        mix(&inputs[0], &inputs[1]).to_scalar::<f32>().unwrap()
                    };
                    let difference = (at(1e-2) - at(-1e-2)) / 2e-2;
                    assert!((difference - expected).abs() < 2e-3, "{spec:?}, input {which}, {i}: {difference}, not {expected}");
                }
            }
        }
    }

    #[test]
    fn gathered_rows_give_their_gradients_back() {
        let x = Var::from_tensor(&random(3, 3, 2)).unwrap();
        let y = gathered(&x, vec![2, 0, 2]).unwrap();
        let expected = x.to_vec2::<f32>().unwrap();
        assert_eq!(y.to_vec2::<f32>().unwrap(), [expected[2].clone(), expected[0].clone(), expected[2].clone()]);
        let by = Tensor::new(&[[1.0f32, 2.0], [3.0, 4.0], [5.0, 6.0]], &Device::Cpu).unwrap();
        let gradients = y.mul(&by).unwrap().sum_all().unwrap().backward().unwrap();
        let of_x = gradients.get(&x).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(of_x, [[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]]);
    }
}
