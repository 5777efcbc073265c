//! What can go wrong while a package is loaded or run.

use crate::device::GpuError;
use crate::package::PackageError;

/// An error of [`super::Decoder`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecoderError {
    /// The package is damaged or cannot be read.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The GPU failed.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The decoder needs something that this runtime does not do.
    #[error("this runtime does not support {what} (decoder spec: {field})")]
    Unsupported {
        /// The spec's field.
        field: &'static str,
        /// The feature in words.
        what: String,
    },
    /// More positions than the model was made for, or than the caller allowed.
    #[error("{needed} positions are needed, but the context ends at {limit}")]
    ContextOverflow {
        /// Positions needed.
        needed: usize,
        /// Positions allowed.
        limit: usize,
    },
    /// More sequences than were asked for at load time.
    #[error("all {0} sequences are in use; load the model with more, or free one")]
    TooManySequences(usize),
    /// A sequence that was freed, or of another decoder.
    #[error("no such sequence")]
    NoSuchSequence,
    /// A token id beyond the vocabulary.
    #[error("token id {id} is not below the vocabulary size {vocab_size}")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// The vocabulary's size.
        vocab_size: usize,
    },
    /// The logits are not numbers.
    #[error("the model's logits are not finite numbers: the checkpoint or the conversion is broken")]
    NotFinite,
    /// Nothing to do: an empty prompt or batch.
    #[error("there are no tokens to decode")]
    NoTokens,
}
