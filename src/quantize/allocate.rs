//! Bits where they matter: a scheme for each matrix, so that all together lose least at a given size.
//!
//! The cost of a matrix with a scheme is estimated from measurements: the calibration's sensitivities say what an error
//! of each row and column costs in nats ([`crate::calibrate::Sensitivity`]), and quantizing some of its rows says how
//! large errors are. The choice is the multiple-choice knapsack problem. For a price λ of a bit each matrix by itself
//! takes the scheme with the least `loss + λ × bits`; λ is found by bisection so that the total just fits. The rest of
//! the budget goes to the upgrades that gain most a bit. That is optimal up to the last upgrade (H. Everett,
//! "Generalized Lagrange Multiplier Method", 1963).

use super::{RecipeError, relative_error, serves, store_rows};
use crate::calibrate::Sensitivity;
use haikuq_format::align;
use haikuq_format::layout::plane_sizes;
use haikuq_format::scheme::Scheme;
use haikuq_format::spec::{PerLayerEmbedding, TensorSpec};
use rayon::prelude::*;

/// Rows of a matrix that are quantized to see how large its errors are, at most.
const SAMPLE_ROWS: usize = 256;

/// Weights of samples that are quantized at the same time, about.
const SAMPLED: usize = 1 << 25;

/// Rows taken together, as [`super::lanes`] does.
const BLOCK: usize = 16;

/// How much smaller errors become by correcting one in another, for schemes that calibrated quantization serves:
/// measured on SmolLM2-135M, about the same for all matrices.
const CORRECTED: f64 = 0.5;

/// A choice of schemes.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    /// The scheme of each tensor, in order.
    pub schemes: Vec<Scheme>,
    /// What each is expected to cost, in nats of KL divergence a token.
    pub losses: Vec<f64>,
}

/// One way to store a matrix.
#[derive(Clone, Copy, Debug)]
struct Stored {
    scheme: Scheme,
    bits: f64,
    loss: f64,
}

/// All that a matrix's errors are estimated from.
struct Sampled {
    /// Its number among the tensors.
    tensor: usize,
    rows: usize,
    columns: usize,
    energy: f64,
    importance: Vec<f32>,
    sample: Vec<f32>,
}

impl Sampled {
    fn stored(&self, scheme: Scheme) -> Stored {
        let Self { rows, columns, energy, .. } = *self;
        let bytes: u64 = plane_sizes(scheme, rows, columns).iter().map(|p| align(p.words as u64 * 4)).sum();
        let error = error(scheme, &self.sample, columns, &self.importance);
        Stored { scheme, bits: bytes as f64 * 8.0, loss: 0.5 * energy * error }
    }
}

/// Chooses a scheme for each matrix whose scheme in `fixed` is open, such that all matrices have at most `bits` a
/// weight. `read` gives a matrix's weights and its sensitivity.
///
/// # Errors
/// If even the smallest schemes need more, or weights cannot be read.
pub fn allocate<E: From<RecipeError>>(
    name: &str,
    tensors: &[TensorSpec],
    fixed: &[Option<Scheme>],
    candidates: &[Scheme],
    bits: f64,
    mut read: impl FnMut(&TensorSpec) -> Result<(Vec<f32>, Sensitivity), E>,
) -> Result<Allocation, E> {
    let mut options: Vec<Vec<Stored>> = Vec::with_capacity(tensors.len());
    let (mut weights, mut open) = (0usize, Vec::new());
    for (tensor, fixed) in tensors.iter().zip(fixed) {
        // What is not weighed against the rest.
        let apart = !tensor.class.is_quantized() || tensor.name == PerLayerEmbedding::TABLE;
        if let Some(scheme) = fixed.filter(|_| apart) {
            options.push(vec![Stored { scheme, bits: 0.0, loss: 0.0 }]);
            continue;
        }
        let (rows, columns) = (tensor.shape[0], tensor.shape[1]);
        weights += rows * columns;
        let (matrix, sensitivity) = read(tensor)?;
        open.push(Sampled {
            tensor: options.len(),
            rows,
            columns,
            energy: energy(&matrix, columns, &sensitivity),
            importance: importance(columns, &sensitivity),
            sample: sample(&matrix, columns),
        });
        drop(matrix);
        let choice = fixed.as_ref().map_or(candidates, std::slice::from_ref);
        options.push(choice.iter().map(|&scheme| Stored { scheme, bits: 0.0, loss: 0.0 }).collect());
        if open.iter().map(|sampled| sampled.sample.len()).sum::<usize>() >= SAMPLED {
            estimate(&mut options, std::mem::take(&mut open));
        }
    }
    estimate(&mut options, open);
    let budget = bits * weights as f64;
    let least: f64 = options.iter().map(|o| o.iter().map(|o| o.bits).fold(f64::INFINITY, f64::min)).sum();
    if least > budget {
        let why = format!(
            "a target of {bits} bits a weight cannot be met: the smallest schemes of all matrices need {:.3}",
            least / weights as f64
        );
        return Err(RecipeError::Text { name: name.into(), why }.into());
    }
    let chosen = solve(&options, budget);
    let pick = |f: fn(&Stored) -> f64| options.iter().zip(&chosen).map(move |(o, &i)| f(&o[i])).collect();
    Ok(Allocation { schemes: options.iter().zip(&chosen).map(|(o, &i)| o[i].scheme).collect(), losses: pick(|o| o.loss) })
}

/// Fills in bits and losses of the options of some matrices.
fn estimate(options: &mut [Vec<Stored>], sampled: Vec<Sampled>) {
    // Many matrices at a time, since learning one's table keeps few threads busy.
    let schemes = sampled.iter().flat_map(|matrix| options[matrix.tensor].iter().map(move |o| (matrix, o.scheme)));
    let stored: Vec<Stored> = schemes.collect::<Vec<_>>().into_par_iter().map(|(matrix, scheme)| matrix.stored(scheme)).collect();
    let mut stored = stored.into_iter();
    for matrix in &sampled {
        options[matrix.tensor].iter_mut().zip(&mut stored).for_each(|(option, stored)| *option = stored);
    }
}

/// The best index of each list within the budget.
fn solve(options: &[Vec<Stored>], budget: f64) -> Vec<usize> {
    let at_price = |price: f64| -> Vec<usize> {
        let cost = |o: &Stored| o.loss + price * o.bits;
        let cheapest = |list: &Vec<Stored>| {
            (0..list.len()).min_by(|&a, &b| cost(&list[a]).total_cmp(&cost(&list[b])).then(list[a].bits.total_cmp(&list[b].bits)))
        };
        options.iter().map(|list| cheapest(list).unwrap_or(0)).collect()
    };
    let total = |chosen: &[usize]| options.iter().zip(chosen).map(|(o, &i)| o[i].bits).sum::<f64>();
    // Prices from far too low to far too high, halved in their logarithm.
    let (mut low, mut high) = (-80.0f64, 20.0f64);
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if total(&at_price(middle.exp())) <= budget { high = middle } else { low = middle }
    }
    let mut chosen = at_price(high.exp());
    if total(&chosen) > budget {
        let smallest = |list: &Vec<Stored>| (0..list.len()).min_by(|&a, &b| list[a].bits.total_cmp(&list[b].bits)).unwrap_or(0);
        chosen = options.iter().map(smallest).collect();
    }
    let mut left = budget - total(&chosen);
    loop {
        let upgrades = options.iter().enumerate().flat_map(|(t, list)| {
            let now = list[chosen[t]];
            (0..list.len()).filter_map(move |i| {
                let (more, gain) = (list[i].bits - now.bits, now.loss - list[i].loss);
                (more > 0.0 && more <= left && gain > 0.0).then_some((gain / more, t, i, more))
            })
        });
        let Some((_, t, i, more)) = upgrades.max_by(|a, b| a.0.total_cmp(&b.0)) else { return chosen };
        chosen[t] = i;
        left -= more;
    }
}

/// `coupling × Σ_r output[r] Σ_c input[c] w_rc²`, with what looking rows up adds: the cost of errors as large as the weights.
fn energy(matrix: &[f32], columns: usize, sensitivity: &Sensitivity) -> f64 {
    let weighted = |row: &[f32], by: &[f32]| row.iter().zip(by).map(|(w, d)| f64::from(w * w * d)).sum::<f64>();
    let rows = matrix.len() / columns;
    let of_rows: Vec<f64> = matrix
        .par_chunks_exact(columns)
        .zip(&sensitivity.output)
        .map(|(row, &g)| f64::from(g) * weighted(row, &sensitivity.input))
        .collect();
    let multiplied: f64 = of_rows.iter().sum();
    // Rows are looked up as often as the model expects them, where that is known, else all alike.
    let expected: f64 = sensitivity.output.iter().map(|&g| f64::from(g)).sum();
    let frequency = |r: usize| match sensitivity.output.get(r) {
        Some(&g) if expected > 0.0 => f64::from(g) / expected,
        _ => 1.0 / rows as f64,
    };
    let rows = matrix.par_chunks_exact(columns).enumerate();
    let looked_up: Vec<f64> = rows.map(|(r, row)| frequency(r) * weighted(row, &sensitivity.lookup)).collect();
    f64::from(sensitivity.coupling) * multiplied + looked_up.iter().sum::<f64>()
}

/// What a squared error of a column costs, up to a factor.
fn importance(columns: usize, sensitivity: &Sensitivity) -> Vec<f32> {
    let by = if sensitivity.input.is_empty() { &sensitivity.lookup } else { &sensitivity.input };
    if by.len() == columns { by.clone() } else { vec![1.0; columns] }
}

/// Blocks of rows from all over the matrix.
fn sample(matrix: &[f32], columns: usize) -> Vec<f32> {
    let blocks = (matrix.len() / columns).div_ceil(BLOCK);
    let wanted = blocks.min(SAMPLE_ROWS / BLOCK);
    let block = |i: usize| {
        let first = i * blocks / wanted * BLOCK * columns;
        &matrix[first..matrix.len().min(first + BLOCK * columns)]
    };
    (0..wanted).flat_map(block).copied().collect()
}

/// Part of the energy that `scheme` loses.
fn error(scheme: Scheme, sample: &[f32], columns: usize, importance: &[f32]) -> f64 {
    match scheme {
        Scheme::Grouped(g) if serves(g) => CORRECTED * relative_error(g, sample, columns, importance),
        // A matrix that a scheme cannot hold at all is refused when it is stored.
        _ => {
            store_rows(scheme, columns, sample).map_or(f64::INFINITY, |s| s.squared_error / s.squared_norm.max(f64::MIN_POSITIVE))
        }
    }
}
