//! [`Estimate`]: how long a calibrated conversion will take on this machine, from the work that it is and how fast the
//! machine does some of it.
//!
//! The shares of a machine's speed that each step reaches were measured on a processor of 2 and one of 16 cores, and on a
//! GPU (`docs/benchmarks.md`).

use super::cost;
use crate::accelerator::Accelerator;
use crate::calibrate::{self, sensitivity};
use crate::matmul::{Peak, peak};
use crate::quantize::rounding_speed;
use crate::timings::Step;
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{TensorClass, TensorSpec};

/// How fast a machine is, measured in half a second, or a whole one with a GPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speeds {
    /// Operations a second of products on all threads.
    pub products: Peak,
    /// Weights a second for which all threads find scales and nearest codes.
    pub rounding: f64,
    /// Operations a second of f32 products on the GPU.
    pub gpu: Option<f64>,
}

impl Speeds {
    /// Measures on the threads of the current pool.
    pub fn measure(accelerator: Option<&Accelerator>) -> Self {
        Self { products: peak(), rounding: rounding_speed(), gpu: accelerator.and_then(|gpu| gpu.speed().ok()) }
    }
}

/// Expected times.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// Seconds of each step, of those that take long.
    pub steps: Vec<(Step, f64)>,
}

impl Estimate {
    /// Converting a decoder of `spec` with `candidates` schemes to choose from for each matrix.
    pub fn new(spec: &DecoderSpec, options: &calibrate::Options, candidates: usize, speeds: Speeds) -> Self {
        let length = options.window_tokens.min(spec.max_context);
        let tokens = options.windows * length;
        let matrices: Vec<TensorSpec> = spec.tensors().into_iter().filter(|t| t.class.is_quantized()).collect();
        let is_head = |t: &TensorSpec| t.name == if spec.tied_head { "embedding" } else { "head" };
        let multiplied = || matrices.iter().filter(|t| t.class != TensorClass::Embedding || is_head(t));
        // Each expert is a matrix of its own.
        let experts = |t: &TensorSpec| spec.active_share(&t.name).1;
        let sum = |flop: &dyn Fn(usize, usize) -> f64| {
            let of = |t: &TensorSpec| experts(t) as f64 * flop(t.shape[0] / experts(t) as usize, t.shape[1]);
            multiplied().map(of).sum::<f64>()
        };
        // And sees its share of the tokens.
        let sum_of_tokens = |flop: &dyn Fn(usize, usize, usize) -> f64| {
            let of = |t: &TensorSpec| {
                let (active, all) = spec.active_share(&t.name);
                all as f64 * flop(tokens * active as usize / all as usize, t.shape[0] / all as usize, t.shape[1])
            };
            multiplied().map(of).sum::<f64>()
        };
        let weights: f64 = matrices.iter().map(|t| t.shape[0] as f64 * t.shape[1] as f64).sum();
        let sampled: f64 = matrices.iter().map(|t| t.shape[0].min(256) as f64 * t.shape[1] as f64).sum();
        let sensitivities = |step: Step| {
            let steps = (1..=sensitivity::steps(spec)).filter(|s| sensitivity::step(spec, *s) == step);
            steps.map(|s| sensitivity::flop(spec, options, s)).sum::<f64>()
        };
        let forward: f64 = spec.layers.iter().map(|l| 2.0 * cost::layer(l, spec.hidden_size, options.windows, length)).sum();
        let on_either = |step: Step, flop: f64, share: f64| match speeds.gpu {
            Some(gpu) => flop / (GPU_SHARE * gpu),
            None => flop / (share * speeds.products.of(step)),
        };
        // With a GPU, products are its, and all else stays with the processor.
        let of_calibration = |step: Step, share: f64, beside_products: f64| {
            let flop = sensitivities(step);
            match speeds.gpu {
                Some(gpu) => flop / (GPU_SHARE * gpu) + flop / (beside_products * speeds.products.floats),
                None => flop / (share * speeds.products.integers),
            }
        };
        let scales = weights / (if speeds.gpu.is_some() { SCALES_SHARE } else { CODES_SHARE } * speeds.rounding);
        let steps = vec![
            (Step::CalibrationForward, of_calibration(Step::CalibrationForward, 0.65, 2.2)),
            (Step::CalibrationHead, of_calibration(Step::CalibrationHead, 0.6, 2.4)),
            (Step::CalibrationBackward, of_calibration(Step::CalibrationBackward, 0.55, 1.6)),
            (Step::Schemes, sampled * candidates as f64 / (CHOICE_SHARE * speeds.rounding) + weights * READING),
            (Step::Reading, weights * READING),
            (Step::Forward, on_either(Step::Forward, forward, 0.75)),
            (Step::Moments, on_either(Step::Moments, sum_of_tokens(&|tokens, _, columns| cost::moments(tokens, columns)), 0.75)),
            (Step::Correction, on_either(Step::Correction, sum_of_tokens(&cost::correction), 0.65)),
            (Step::Solving, on_either(Step::Solving, sum(&cost::solving), 0.55)),
            (Step::Factorization, on_either(Step::Factorization, sum(&|_, columns| cost::factorization(columns)), 0.4)),
            (Step::Codes, on_either(Step::Codes, sum(&cost::codes), 0.6) + scales),
            (Step::Packing, weights * PACKING),
            (Step::Shards, weights * WRITING),
        ];
        Self { steps }
    }

    /// Seconds of all steps.
    pub fn seconds(&self) -> f64 {
        self.steps.iter().map(|s| s.1).sum()
    }
}

/// Share of a GPU's speed that its steps reach together.
const GPU_SHARE: f64 = 0.5;

/// Weights that are rounded to see what a scheme loses, codebooks included, against [`Speeds::rounding`].
const CHOICE_SHARE: f64 = 0.8;

/// Weights that a GPU rounds, by what the processor does for it, against the same.
const SCALES_SHARE: f64 = 2.0;

/// Weights whose scales and codes are found by the processor, products aside, against the same.
const CODES_SHARE: f64 = 0.55;

/// Seconds a weight for reading, for packing, and for shards and hashes.
const READING: f64 = 0.7e-9;
const PACKING: f64 = 1.2e-9;
const WRITING: f64 = 2.4e-9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_grows_with_the_decoder_and_falls_with_speed() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/haiku-7m");
        let checkpoint = crate::checkpoint::Checkpoint::open(&folder).unwrap();
        let mut spec = crate::architecture::Decoder::from_checkpoint(checkpoint).unwrap().spec;
        let slow = Speeds { products: Peak { floats: 1e11, integers: 1e11 }, rounding: 1e7, gpu: None };
        let estimate = |spec: &DecoderSpec, speeds| Estimate::new(spec, &calibrate::Options::default(), 4, speeds).seconds();
        let seconds = estimate(&spec, slow);
        assert!((5.0..50.0).contains(&seconds), "{seconds}");
        assert!(estimate(&spec, Speeds { products: Peak { floats: 1e12, integers: 1e12 }, ..slow }) < seconds);
        assert!(estimate(&spec, Speeds { rounding: 1e8, ..slow }) < seconds);
        assert!(estimate(&spec, Speeds { gpu: Some(1e13), ..slow }) < seconds);
        spec.layers.truncate(4);
        let half = estimate(&spec, slow);
        assert!(half < 0.7 * seconds, "{half} of {seconds}");
    }
}
