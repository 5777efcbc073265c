//! The one boundary between code that judges a model and code that runs it.

use haikuq_format::DecoderSpec;

/// Any error of a model's own.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Something that gives logits for token ids: the f32 [`Reference`](crate::reference::Reference), or a package on a
/// GPU.
pub trait LanguageModel {
    /// Scores `ids` as a sequence of its own: calls `on_row(position, logits)` once for each position in order, with
    /// the `vocab_size` logits of the token that follows `ids[..=position]`.
    ///
    /// # Errors
    /// The model's own, such as a token outside the vocabulary or a lost device.
    fn score_window(&mut self, ids: &[u32], on_row: &mut dyn FnMut(usize, &[f32])) -> Result<(), BoxError>;

    /// Up to `max_new` ids that follow `prompt` when each is the likeliest one (the lowest id among equals). An end
    /// token ends the result and is part of it.
    ///
    /// # Errors
    /// The model's own.
    fn generate_greedy(&mut self, prompt: &[u32], max_new: usize) -> Result<Vec<u32>, BoxError>;
}

/// The greedy continuation of `prompt` in a sequence of its own: up to `max_new` ids, an end token included, and no more than the
/// context of `spec` holds. `step` appends ids to the sequence and gives the likeliest one after them.
///
/// # Errors
/// Those of `step`.
pub fn greedy<E>(
    spec: &DecoderSpec,
    prompt: &[u32],
    max_new: usize,
    mut step: impl FnMut(&[u32]) -> Result<u32, E>,
) -> Result<Vec<u32>, E> {
    let mut ids = Vec::new();
    let mut next = step(prompt)?;
    while ids.len() < max_new {
        ids.push(next);
        // The last id needs no place: nothing is computed from it.
        let full = prompt.len() + ids.len() > spec.max_context;
        if full || ids.len() == max_new || spec.eos_token_ids.contains(&next) {
            break;
        }
        next = step(&[next])?;
    }
    Ok(ids)
}
