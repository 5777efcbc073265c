//! What a model family wants of a checkpoint: a list that architecture hands to readers of files whose tensors do not
//! say by themselves which weights they are.

/// The tensors of a family, for the sizes of one config.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Every tensor that a checkpoint must have.
    pub tensors: Vec<WantedTensor>,
    /// Starts every name but the head's, with its dot; the bare model goes without it.
    pub base: String,
    /// Name of the matrix that gives tokens their vectors.
    pub embedding: String,
    /// Name of the matrix that gives logits.
    pub head: String,
    /// Whether the config says that they are one; then the head is none of `tensors`.
    pub tied: bool,
}

/// One of [`Wanted`].
#[derive(Clone, Debug, PartialEq)]
pub struct WantedTensor {
    /// Its name in transformers.
    pub name: String,
    /// Its shape there.
    pub shape: Vec<usize>,
    /// Whether a matrix has a row for each input; most have one for each output.
    pub inputs_first: bool,
    /// What the model adds to every number before it uses it, such as Gemma's 1.
    pub adds: f32,
    /// Whether the model uses `-exp(x)` in its place, which exporters may have calculated.
    pub decays: bool,
}
