//! What can be wrong between a config and its tensors.

use crate::checkpoint::CheckpointError;
use haikuq_format::spec::SpecError;
use std::path::PathBuf;

/// What can be wrong between a config and its tensors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchitectureError {
    /// The checkpoint's files.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A model family that nobody has added yet.
    #[error("{path}: architecture {} is not supported (supported: {known})", found.as_deref().unwrap_or("(none named)"), path = path.display())]
    Unknown {
        /// The config.
        path: PathBuf,
        /// What it names.
        found: Option<String>,
        /// What there is.
        known: String,
    },
    /// A kind of model that is known and cannot be converted.
    #[error("{path}: {found} cannot be converted: {reason}", path = path.display())]
    Refused {
        /// The config.
        path: PathBuf,
        /// The architecture.
        found: String,
        /// Why, and what can.
        reason: String,
    },
    /// A config value of another type than it should have.
    #[error("{path}: {key} is {found}, expected {expected}", path = path.display())]
    Value {
        /// The config.
        path: PathBuf,
        /// The key.
        key: String,
        /// What stands there.
        found: String,
        /// What should.
        expected: String,
    },
    /// A config value that asks for something the runtime cannot do.
    #[error("{path}: {key} {found:?} is not supported (supported: {supported})", path = path.display())]
    Unsupported {
        /// The config.
        path: PathBuf,
        /// The key.
        key: String,
        /// What stands there.
        found: String,
        /// What there is.
        supported: String,
    },
    /// The config's numbers contradict each other.
    #[error("{path}: {source}", path = path.display())]
    Spec {
        /// The config.
        path: PathBuf,
        /// How.
        source: SpecError,
    },
    /// A tensor's shape is not what the config says.
    #[error("{file}: tensor {tensor} has shape {found:?}, the config makes it {expected:?}")]
    Shape {
        /// File of the tensor.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that follows from the config.
        expected: Vec<usize>,
    },
    /// Tensors that the architecture has no place for.
    #[error(
        "{path}: {count} tensors have no place in this architecture, the first is {first}; converting without them would give another model",
        path = path.display()
    )]
    Unused {
        /// The folder.
        path: PathBuf,
        /// How many.
        count: usize,
        /// One of them.
        first: String,
    },
    /// A canonical name that the spec does not have, or rows beyond its end.
    #[error("no rows {start} to {end} of canonical tensor {name}")]
    NoSuchRows {
        /// The name.
        name: String,
        /// First row.
        start: usize,
        /// Row after the last.
        end: usize,
    },
}
