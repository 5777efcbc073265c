//! Calibration: what a text tells of a decoder before it is quantized.
//!
//! Quantization replaces a matrix `W` by one that differs by `ΔW`. Its cost depends on what the model does with the
//! matrix. Two things are measured, and both are mean squares over the tokens of a text:
//!
//! * of each input column `c` of a matrix: large inputs make errors in their column large;
//! * of the gradient of the model's own log-likelihood with respect to each output row `r`. With labels drawn from the
//!   model itself that is the diagonal of the Fisher information, the curvature of the KL divergence where it is zero:
//!   an error `Δy` of the output costs `KL ≈ ½ Σ_r output[r] · E[Δy_r²]` nats a token.
//!
//! Together they say what independent errors of the weights cost, `½ · coupling · Σ_rc output[r] · E[ΔW_rc²] · input[c]`
//! ([`Sensitivity::kl`]): which matrices, and which of their rows and columns, should get the bits. The windows of token
//! ids are kept with them, since calibrated rounding runs the decoder over the same text again.
//!
//! * [`text`]: where windows come from: text files, the built-in text, or a calibration made before;
//! * [`sensitivity`]: the measurement, forward and backward one layer at a time;
//! * [`file`](mod@file): calibration files, so that many conversions can share one measurement.

pub mod file;
pub mod sensitivity;
pub mod text;

use crate::kept::KeptError;
use haikuq_format::DecoderSpec;
use haikuq_format::manifest::FileEntry;
use haikuq_format::spec::{PerLayerEmbedding, TensorClass, TensorSpec};
use std::collections::BTreeMap;
use std::path::PathBuf;

pub use sensitivity::{measure, measure_on};
pub use text::{CalibrationSource, CalibrationText};

/// What a calibration text says about a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// The files of the text, with sizes and hashes; the built-in text is a file called `built-in`.
    pub text: Vec<FileEntry>,
    /// Token ids; all windows have one length.
    pub windows: Vec<Vec<u32>>,
    /// By canonical name, of every matrix but the table of all layers' numbers.
    pub sensitivities: BTreeMap<String, Sensitivity>,
    /// Tokens that the sensitivities were measured on.
    pub sensitivity_tokens: usize,
}

impl Calibration {
    /// How much text it was measured on.
    pub fn sizes(&self) -> Options {
        let window_tokens = self.windows.first().map_or(0, Vec::len);
        let sensitivity_tokens = self.sensitivity_tokens;
        Options { windows: self.windows.len(), window_tokens, sensitivity_tokens, ..Options::default() }
    }
}

/// How a decoder feels errors in one of its matrices.
#[derive(Clone, Debug, PartialEq)]
pub struct Sensitivity {
    /// Mean square of each input column. Empty for tables that are only looked up.
    pub input: Vec<f32>,
    /// Mean square of the gradient of a token's negative log-likelihood with respect to each output row, before the bias
    /// if there is one. Empty for tables that are only looked up.
    pub output: Vec<f32>,
    /// How much more the tokens with large inputs have large gradients than if the two had nothing to do with each other:
    /// the mean of a token's `|gradient|² · |input|²`, divided by the product of both means. It is far below 1 where a few
    /// tokens have huge inputs that hardly matter (the first of a sequence, often).
    pub coupling: f32,
    /// For `embedding` and `positions`: mean square of that gradient with respect to each column of the row that is
    /// looked up, so that an error `Δ` of a row costs `½ Σ_c lookup[c] · Δ_c²` nats where it is used. Else empty.
    pub lookup: Vec<f32>,
}

impl Default for Sensitivity {
    fn default() -> Self {
        Self { input: Vec::new(), output: Vec::new(), coupling: 1.0, lookup: Vec::new() }
    }
}

impl Sensitivity {
    /// Expected KL divergence in nats a token if every weight has an independent error of mean square `variance`.
    pub fn kl(&self, variance: f64) -> f64 {
        let sum = |values: &[f32]| values.iter().map(|&x| f64::from(x)).sum::<f64>();
        0.5 * variance * (f64::from(self.coupling) * sum(&self.output) * sum(&self.input) + sum(&self.lookup))
    }

    /// Its parts by name; those that are not there are empty.
    fn parts(&self) -> [(&'static str, &[f32]); 4] {
        let coupling = if self.output.is_empty() { &[] } else { std::slice::from_ref(&self.coupling) };
        [("input", &self.input), ("output", &self.output), ("coupling", coupling), ("lookup", &self.lookup)]
    }
}

/// Lengths of the parts of every matrix of a decoder, by canonical name.
fn lengths(spec: &DecoderSpec) -> BTreeMap<String, [(&'static str, usize); 4]> {
    // The table of all layers' numbers is larger than all the rest, and no bits are weighed against each other for it.
    let measured = |t: &TensorSpec| t.class.is_quantized() && t.name != PerLayerEmbedding::TABLE;
    let matrices = spec.tensors().into_iter().filter(measured);
    let lengths = matrices.map(|t| {
        let (rows, columns) = (t.shape[0], t.shape[1]);
        let looked_up = t.class == TensorClass::Embedding;
        let multiplies = !looked_up || (t.name == "embedding" && spec.tied_head);
        let given = |present: bool, n: usize| if present { n } else { 0 };
        let parts = [
            ("input", given(multiplies, columns)),
            ("output", given(multiplies, rows)),
            ("coupling", given(multiplies, 1)),
            ("lookup", given(looked_up, columns)),
        ];
        (t.name, parts)
    });
    lengths.collect()
}

/// How much text is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Windows of text at most.
    pub windows: usize,
    /// Tokens in a window; no more than the decoder's context are taken.
    pub window_tokens: usize,
    /// Tokens that sensitivities are measured on, spread over the windows.
    pub sensitivity_tokens: usize,
    /// Of the labels that are drawn from the model.
    pub seed: u64,
    /// Folder for what is kept of every layer, in place of memory.
    pub spill: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { windows: 40, window_tokens: 512, sensitivity_tokens: 2048, seed: 0, spill: None }
    }
}

/// What stops a calibration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrationError {
    /// A text file is wrong.
    #[error(transparent)]
    Text(#[from] crate::documents::DocumentError),
    /// A text that the tokenizer or its chat template refuses.
    #[error("{text}, {source}")]
    Tokenize {
        /// Name of the file.
        text: String,
        /// Which document, and what is wrong.
        source: crate::documents::DocumentError,
    },
    /// There is no tokenizer to read text with.
    #[error("a text needs the model's tokenizer: {0}")]
    Tokenizer(crate::model::BoxError),
    /// A file could not be hashed.
    #[error(transparent)]
    Read(#[from] haikuq_files::ReadError),
    /// Not one window.
    #[error("{} {} of text: not one window of {window_tokens} (at least 2)", text.join(", "), tokens_are(*tokens))]
    TooShort {
        /// Names of the text's files.
        text: Vec<String>,
        /// Tokens there are.
        tokens: usize,
        /// Tokens needed.
        window_tokens: usize,
    },
    /// The decoder could not be run.
    #[error(transparent)]
    Reference(#[from] crate::reference::ReferenceError),
    /// Tensor arithmetic failed: a bug, or no memory.
    #[error("calibration: {0}")]
    Tensor(#[from] candle_core::Error),
    /// The inputs of each layer cannot be kept.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// The decoder's numbers are broken.
    #[error("{what}: not finite; the checkpoint's numbers overflow or are broken")]
    NotFinite {
        /// The matrix and what was measured, or what else.
        what: String,
    },
    /// A calibration file is wrong.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, with names and numbers.
        why: String,
    },
}

fn tokens_are(n: usize) -> String {
    if n == 1 { "has 1 token".into() } else { format!("has {n} tokens") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn independent_errors_cost_what_inputs_and_outputs_say() {
        let matrix = Sensitivity { input: vec![1.0, 3.0], output: vec![0.5, 0.25, 0.25], coupling: 0.5, lookup: vec![] };
        assert_eq!(matrix.kl(0.1), 0.5 * 0.1 * 0.5 * 4.0);
        let table = Sensitivity { lookup: vec![2.0, 4.0], ..Sensitivity::default() };
        assert_eq!(table.kl(0.5), 1.5);
    }
}
