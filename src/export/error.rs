//! What keeps a package from being exported.

use crate::architecture::ArchitectureError;
use crate::checkpoint::CheckpointError;
use crate::convert::ConvertError;
use crate::quantize::RecipeError;
use crate::reference::stored::StoredError;
use crate::staging::StagingError;
use haikuq_runtime::package::PackageError;
use std::io;
use std::path::{Path, PathBuf};

/// What keeps a package from being exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The package's weights.
    #[error(transparent)]
    Stored(#[from] StoredError),
    /// The package's other files.
    #[error("{}: {source}", path.display())]
    Package {
        /// The package.
        path: PathBuf,
        /// What is wrong with it.
        source: PackageError,
    },
    /// The config of `--checkpoint`.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The same, as a family reads it.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// The checkpoint cannot be quantized again.
    #[error("the checkpoint cannot be quantized again: {0}")]
    Convert(#[from] Box<ConvertError>),
    /// By that recipe.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// No config of a usual family says the package's decoder.
    #[error(
        "{}: no config of {classes} says this decoder, and a package keeps none: \
         name the folder of the checkpoint that it was made of (--checkpoint DIR), whose config.json does",
        path.display()
    )]
    NoConfig {
        /// The package.
        path: PathBuf,
        /// What was tried.
        classes: String,
    },
    /// `--checkpoint` is of another model.
    #[error(
        "{}: it says another decoder than the package has: {key} is {found} there and {expected} in the package; \
         name the checkpoint that the package was made of",
        path.display()
    )]
    OtherDecoder {
        /// The config.
        path: PathBuf,
        /// The first member of the spec that differs.
        key: String,
        /// What the config says.
        found: String,
        /// What the package has.
        expected: String,
    },
    /// The target cannot be written.
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// A number that the target's number format does not hold.
    #[error("tensor {tensor}: {number:e} does not fit {dtype}, whose largest number is {largest:e}; use --dtype bf16 or f32")]
    Range {
        /// Its name in the export.
        tensor: String,
        /// The number.
        number: f32,
        /// The number format.
        dtype: &'static str,
        /// Its largest number.
        largest: f32,
    },
    /// A decoder that the format or its programs do not have.
    #[error("{what} cannot be exported as {format}: {why}")]
    Refused {
        /// The class, the type or the tensor.
        what: String,
        /// The format.
        format: &'static str,
        /// Why, and what can.
        why: String,
    },
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ExportError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }
}
