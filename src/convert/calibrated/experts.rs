//! Matrices of a layer's experts: each tensor is a stack of blocks of rows, and each block has its own Hessian, of the tokens that
//! reach its expert.
//!
//! Both streams go to the experts that the original one chooses, so that an expert sees the same tokens in both. An expert that
//! fewer than [`LEAST_TOKENS`] tokens reach is calibrated with others besides, spread evenly over the text, until it has as many; their
//! outputs go nowhere. So no expert is rounded by guesswork, and none costs more than its share.

use super::super::staged::StagedMatrix;
use super::super::{ConvertError, cost};
use super::Run;
use super::correction::Original;
use crate::quantize::{SharedFit, serves};
use crate::reference::Routing;
use crate::timings::Step;
use candle_core::Tensor;
use haikuq_format::layout::{QuantizedRows, Scales};
use haikuq_format::manifest::TensorEntry;
use haikuq_format::scheme::{Grouped, Scheme};
use std::time::Instant;

/// Tokens that an expert is calibrated with at least, or all where there are fewer.
pub(super) const LEAST_TOKENS: usize = 512;

/// Rows of which a table of values is learned, at most, that lie together.
const SAMPLE_ROWS: usize = 16;

/// Weights of which a table is learned, at most.
const SAMPLE: usize = 1 << 19;

/// How far a weight may grow by correction before its scale is cut off.
const GROWTH: f32 = 1.25;

/// Gives each expert that too few of `tokens` tokens reach some of the others.
pub(super) fn with_enough_tokens(mut routing: Routing, tokens: usize) -> Routing {
    let least = LEAST_TOKENS.min(tokens);
    for (chosen, also) in routing.chosen.iter().zip(&mut routing.also) {
        let missing = least.saturating_sub(chosen.len());
        if missing > 0 {
            let mut is_chosen = vec![false; tokens];
            chosen.iter().for_each(|token| is_chosen[*token as usize] = true);
            let others: Vec<u32> = (0..tokens as u32).filter(|token| !is_chosen[*token as usize]).collect();
            *also = (0..missing).map(|i| others[i * others.len() / missing]).collect();
        }
    }
    routing
}

/// A tensor of experts' matrices, of which the first some are quantized.
pub(super) struct Stack {
    tensor: TensorEntry,
    begin: Instant,
    found: Found,
    /// Of all blocks so far: squared error and norm of weights, and of outputs.
    errors: [f64; 4],
}

enum Found {
    /// All values, which an earlier run found.
    Finished(Vec<f32>),
    /// By one table and one unit of scales.
    Rounded { fit: SharedFit, rows: Option<QuantizedRows> },
    /// Corrected weights, whose scales are searched for.
    Corrected(Vec<f32>),
}

impl Run<'_> {
    /// What there is of a tensor of `experts` experts before its first.
    pub(super) fn stack(&self, name: &str, experts: usize) -> Result<Stack, ConvertError> {
        let tensor = self.tensor(name)?;
        let found = match (self.finished(tensor)?, tensor.scheme) {
            (Some(values), _) => Found::Finished(values),
            (None, Scheme::Grouped(scheme)) if serves(scheme) => {
                let fit = self.timings.measure(Step::Codes, name, 0.0, || self.shared_fit(tensor, experts, scheme))?;
                Found::Rounded { fit, rows: None }
            }
            (None, _) => Found::Corrected(Vec::new()),
        };
        Ok(Stack { tensor: tensor.clone(), begin: Instant::now(), found, errors: [0.0; 4] })
    }

    /// The table of values and the scales that serve all experts, from rows of each and the largest weight.
    fn shared_fit(&self, tensor: &TensorEntry, experts: usize, scheme: Grouped) -> Result<SharedFit, ConvertError> {
        let (rows, columns) = (tensor.rows() / experts, tensor.columns());
        let (mut sample, mut largest) = (Vec::new(), 0.0f32);
        let blocks = (SAMPLE / (experts * SAMPLE_ROWS * columns)).clamp(1, rows.div_ceil(SAMPLE_ROWS));
        for expert in 0..experts {
            let mut weights = vec![0.0; rows * columns];
            self.weights.read_rows(&tensor.name, expert * rows..(expert + 1) * rows, &mut weights)?;
            largest = weights.iter().fold(largest, |a, w| a.max(w.abs()));
            for block in 0..blocks {
                let first = block * rows / blocks;
                sample.extend_from_slice(&weights[first * columns..(first + SAMPLE_ROWS).min(rows) * columns]);
            }
        }
        let sensitivity = self.calibration.sensitivities.get(&tensor.name);
        let importance = sensitivity.map(|s| self.weights.sensitivity(&tensor.name, s).input);
        let importance =
            importance.filter(|i| i.len() == columns && i.iter().any(|x| *x > 0.0)).unwrap_or_else(|| vec![1.0; columns]);
        Ok(SharedFit::new(scheme, &sample, columns, &importance, GROWTH * largest))
    }

    /// The values of expert `expert` as they are stored, quantized now unless an earlier run did it; arguments are as those of
    /// [`Run::matrix`]. Experts come in order.
    pub(super) fn expert(
        &self,
        stack: &mut Stack,
        expert: usize,
        weights: &[f32],
        stored: &Tensor,
        original: Option<Original>,
    ) -> Result<Vec<f32>, ConvertError> {
        if let Found::Finished(values) = &stack.found {
            return Ok(values[expert * weights.len()..(expert + 1) * weights.len()].to_vec());
        }
        let name = stack.tensor.name.as_str();
        let (hessian, corrected) = self.corrected(name, weights, stored, original, None)?;
        let (rows, columns) = (weights.len() / hessian.columns(), hessian.columns());
        let values = match &mut stack.found {
            Found::Finished(values) => std::mem::take(values),
            Found::Rounded { fit, rows: all } => {
                let failed = |source| ConvertError::Hessian { tensor: name.into(), source };
                let quantize = || fit.quantize(corrected, &hessian);
                let quantized = self.timings.measure(Step::Codes, name, cost::codes(rows, columns), quantize).map_err(failed)?;
                append(all, quantized.rows);
                quantized.values
            }
            Found::Corrected(all) => {
                // A row's scales depend on it alone, so these are the values that the whole is going to have.
                let mut block = stack.tensor.clone();
                block.shape[0] = rows;
                let values = self.timings.measure(Step::Codes, name, 0.0, || self.searched(&block, &corrected, weights))?.1;
                all.extend(corrected);
                values
            }
        };
        let of_weights = StagedMatrix::new(Vec::new(), weights, &values);
        let (lost, energy) = self.timings.measure(Step::Loss, name, 0.0, || self.losses(weights, &values, stored))?;
        let errors = [of_weights.squared_error, of_weights.squared_norm, lost, energy];
        stack.errors.iter_mut().zip(errors).for_each(|(sum, error)| *sum += error);
        Ok(values)
    }

    /// Puts a tensor of which all experts are quantized on disk.
    pub(super) fn finish_stack(&self, stack: Stack) -> Result<(), ConvertError> {
        let Stack { tensor, begin, found, errors: [squared_error, squared_norm, lost, energy] } = stack;
        let planes = match found {
            Found::Rounded { rows: Some(rows), .. } => {
                self.timings.measure(Step::Packing, &tensor.name, 0.0, || super::matrix::packed(&tensor, &rows))
            }
            Found::Corrected(corrected) => {
                let search = || self.searched(&tensor, &corrected, &corrected);
                self.timings.measure(Step::Codes, &tensor.name, 0.0, search)?.0.planes
            }
            Found::Finished(_) | Found::Rounded { rows: None, .. } => return Ok(()),
        };
        let staged = StagedMatrix { planes, squared_error, squared_norm };
        self.finish(&tensor, &staged, begin, lost / energy.max(f64::MIN_POSITIVE))
    }
}

/// Adds rows of the same scheme and table.
fn append(all: &mut Option<QuantizedRows>, more: QuantizedRows) {
    let Some(all) = all else {
        *all = Some(more);
        return;
    };
    all.codes.extend(more.codes);
    match (&mut all.scales, more.scales) {
        (Scales::F16(all), Scales::F16(more)) => all.extend(more),
        (Scales::E4M4(all), Scales::E4M4(more)) => all.extend(more),
        _ => unreachable!("one scheme has one type of scales"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_that_few_tokens_reach_get_others_from_everywhere() {
        let tokens = 2000;
        let routing = Routing { chosen: vec![(0..1000).collect(), vec![7, 1500], Vec::new()], also: vec![Vec::new(); 3] };
        let routing = with_enough_tokens(routing, tokens);
        assert_eq!((routing.chosen[0].len(), routing.also[0].len()), (1000, 0));
        for expert in [1, 2] {
            let mut all = routing.of_expert(expert);
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), LEAST_TOKENS, "each once");
            assert!(all[0] < 10 && all[LEAST_TOKENS - 1] > 1990);
        }
        let few = with_enough_tokens(Routing { chosen: vec![vec![1]], also: vec![Vec::new()] }, 3);
        assert_eq!(few.also, [[0, 2]]);
    }
}
