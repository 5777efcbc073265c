//! Runs a model over windows of token ids and keeps what later comparisons need.

use crate::logits::{logsumexp, nll, top_k};
use crate::model::{BoxError, LanguageModel};

/// What a model said about `S` windows of `T` tokens. All arrays are row-major.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outputs {
    /// `S`.
    pub windows: usize,
    /// `T`: tokens in a window; each window is a sequence of its own.
    pub context: usize,
    /// `K`: logits kept at each position.
    pub top: usize,
    /// \[S, T\].
    pub input_ids: Vec<u32>,
    /// \[S, T − 1\]: negative log-likelihood of the next token, in nats.
    pub nll: Vec<f32>,
    /// \[S, T\]: log-sum-exp of all logits.
    pub logsumexp: Vec<f32>,
    /// \[S, T, K\]: ids of the largest logits, largest first.
    pub top_ids: Vec<u32>,
    /// \[S, T, K\]: those logits.
    pub top_logits: Vec<f32>,
}

/// What stops a recording.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The model failed.
    #[error("window {window}: {source}")]
    Model {
        /// Index of the window.
        window: usize,
        /// What the model said.
        source: BoxError,
    },
    /// The model's numbers are broken.
    #[error("window {window}, position {position}: the logits are not finite")]
    NotFinite {
        /// Index of the window.
        window: usize,
        /// Index within the window.
        position: usize,
    },
    /// Windows differ in length or are too short.
    #[error("window {window} has {have} tokens; all windows need the same number, at least 2 (the first has {need})")]
    Window {
        /// Index of the window.
        window: usize,
        /// Its tokens.
        have: usize,
        /// The first window's tokens.
        need: usize,
    },
    /// The model gave fewer rows of logits than a window has tokens.
    #[error("window {window}: logits of {have} positions where {need} were expected")]
    Rows {
        /// Index of the window.
        window: usize,
        /// Rows seen.
        have: usize,
        /// Rows expected.
        need: usize,
    },
}

impl Outputs {
    /// Keeps the first `windows` windows.
    pub fn truncate(&mut self, windows: usize) {
        self.windows = self.windows.min(windows);
        let (s, t, k) = (self.windows, self.context, self.top);
        self.input_ids.truncate(s * t);
        self.nll.truncate(s * t.saturating_sub(1));
        self.logsumexp.truncate(s * t);
        self.top_ids.truncate(s * t * k);
        self.top_logits.truncate(s * t * k);
    }

    /// Token ids of window `window`.
    pub fn window(&self, window: usize) -> &[u32] {
        &self.input_ids[window * self.context..(window + 1) * self.context]
    }

    /// `e^(mean nll)` over all scored tokens.
    pub fn perplexity(&self) -> f64 {
        perplexity(self.nll.iter().copied())
    }

    /// Perplexity of the tokens in each window's second half, which are predicted from at least half a window.
    pub fn second_half_perplexity(&self) -> f64 {
        let skip = (self.context / 2).saturating_sub(1);
        perplexity(self.nll.chunks_exact(self.context - 1).flat_map(|w| w[skip.min(w.len() - 1)..].iter().copied()))
    }
}

/// `e^(mean nll)` of negative log-likelihoods in nats.
pub fn perplexity(nll: impl Iterator<Item = f32>) -> f64 {
    let (mut n, mut sum) = (0u64, 0.0);
    for x in nll {
        n += 1;
        sum += f64::from(x);
    }
    (sum / n as f64).exp()
}

/// Runs `model` over `windows` (all of one length) and keeps the `top` largest logits of each position.
/// `on_window` is called with the number of windows done.
///
/// # Errors
/// See [`RecordError`].
pub fn record(
    model: &mut dyn LanguageModel,
    windows: &[Vec<u32>],
    top: usize,
    on_window: &mut dyn FnMut(usize),
) -> Result<Outputs, RecordError> {
    let context = windows.first().map_or(0, Vec::len);
    let mut out = Outputs { windows: windows.len(), context, top, ..Outputs::default() };
    for (window, ids) in windows.iter().enumerate() {
        if ids.len() != context || context < 2 {
            return Err(RecordError::Window { window, have: ids.len(), need: context });
        }
        let (mut rows, mut broken) = (0, None);
        let mut on_row = |position: usize, logits: &[f32]| {
            rows += 1;
            let lse = logsumexp(logits);
            if !lse.is_finite() {
                broken.get_or_insert(position);
                return;
            }
            out.logsumexp.push(lse as f32);
            if let Some(&next) = ids.get(position + 1) {
                out.nll.push(nll(logits, lse, next) as f32);
            }
            let largest = top_k(logits, top);
            out.top = largest.len();
            out.top_ids.extend(largest.iter().map(|t| t.0));
            out.top_logits.extend(largest.iter().map(|t| t.1));
        };
        model.score_window(ids, &mut on_row).map_err(|source| RecordError::Model { window, source })?;
        if let Some(position) = broken {
            return Err(RecordError::NotFinite { window, position });
        }
        if rows != context {
            return Err(RecordError::Rows { window, have: rows, need: context });
        }
        out.input_ids.extend_from_slice(ids);
        on_window(window + 1);
    }
    Ok(out)
}
