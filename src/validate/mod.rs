//! Judges a package: what it says against golden outputs, and the difference against thresholds.
//!
//! * [`compare`] runs a model over the golden windows and prompts;
//! * [`kl`] and [`metrics`] turn rows of logits into divergences and their summary;
//! * [`thresholds`] decide, [`report`] explains.

pub mod kl;
pub mod metrics;
pub mod report;
pub mod thresholds;

use crate::golden::file::{Generation, Golden};
use crate::model::{BoxError, LanguageModel};
use metrics::{CompareError, Comparison, Measured};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// What a model did with the golden windows and prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Differences of its logits.
    pub measured: Measured,
    /// Its greedy continuation of each golden prompt, in order.
    pub continuations: Vec<Vec<u32>>,
    /// How fast it was.
    pub speed: Speed,
}

/// Wall-clock speed while comparing: one sequence at a time, reading back logits included.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Tokens of all windows.
    pub scored_tokens: usize,
    /// Time they took, comparing included.
    pub score_seconds: f64,
    /// Tokens of all continuations.
    pub generated_tokens: usize,
    /// Time they took, prompts included.
    pub generate_seconds: f64,
}

/// What stops a comparison.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ValidateError {
    /// The model failed on a window.
    #[error("window {window}: {source}")]
    Window {
        /// Index of the window.
        window: usize,
        /// What the model said.
        source: BoxError,
    },
    /// The model failed on a prompt.
    #[error("prompt {prompt:?}: {source}")]
    Prompt {
        /// The prompt's text.
        prompt: String,
        /// What the model said.
        source: BoxError,
    },
    /// Its rows do not fit the golden outputs.
    #[error(transparent)]
    Compare(#[from] CompareError),
}

/// Runs `model` over the windows and prompts of `golden`; a window's positions before `first` do not count. `on_window` is called with the number of windows done.
///
/// # Errors
/// If the model fails, or its logits do not fit the golden outputs.
pub fn compare(
    model: &mut dyn LanguageModel,
    golden: &Golden,
    first: usize,
    on_window: &mut dyn FnMut(usize),
) -> Result<Outcome, ValidateError> {
    let outputs = &golden.outputs;
    let start = Instant::now();
    let mut comparison = Comparison::new(outputs, first);
    for window in 0..outputs.windows {
        let mut result = Ok(());
        let mut on_row = |position: usize, logits: &[f32]| {
            if result.is_ok() {
                result = comparison.row(window, position, logits);
            }
        };
        let scored = model.score_window(outputs.window(window), &mut on_row);
        scored.map_err(|source| ValidateError::Window { window, source })?;
        result?;
        on_window(window + 1);
    }
    let measured = comparison.finish()?;
    let score_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    // All prompts get the longest golden continuation's length: a model that does not end where it should shows.
    let max_new = golden.generations.iter().map(|g| g.greedy_ids.len()).max().unwrap_or(0);
    let continue_prompt = |g: &Generation| {
        let continued = model.generate_greedy(&g.prompt_ids, max_new);
        continued.map_err(|source| ValidateError::Prompt { prompt: g.prompt.clone(), source })
    };
    let continuations = golden.generations.iter().map(continue_prompt).collect::<Result<Vec<_>, _>>()?;
    let speed = Speed {
        scored_tokens: outputs.input_ids.len(),
        score_seconds,
        generated_tokens: continuations.iter().map(Vec::len).sum(),
        generate_seconds: start.elapsed().as_secs_f64(),
    };
    Ok(Outcome { measured, continuations, speed })
}

impl Speed {
    /// Tokens scored in a second.
    pub fn score_rate(&self) -> f64 {
        rate(self.scored_tokens, self.score_seconds)
    }

    /// Tokens generated in a second.
    pub fn generate_rate(&self) -> f64 {
        rate(self.generated_tokens, self.generate_seconds)
    }
}

fn rate(tokens: usize, seconds: f64) -> f64 {
    if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 }
}
