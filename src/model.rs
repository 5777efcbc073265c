//! The one boundary between what judges a model and what runs it.

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
