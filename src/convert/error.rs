//! What can go wrong between a checkpoint and a package.

use crate::architecture::ArchitectureError;
use crate::kept::KeptError;
use crate::quantize::{RecipeError, TooLarge};
use haikuq_format::manifest::ManifestError;
use haikuq_format::shard::ShardError;
use haikuq_runtime::package::PackageError;
use std::path::PathBuf;

/// What can go wrong between a checkpoint and a package.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The checkpoint's files.
    #[error(transparent)]
    Checkpoint(#[from] crate::checkpoint::CheckpointError),
    /// The checkpoint's tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] crate::tokenizer::TokenizerError),
    /// The GPU that was asked for.
    #[error(transparent)]
    Accelerator(#[from] crate::accelerator::AcceleratorError),
    /// A calibration for a recipe that needs none.
    #[error("recipe {recipe} rounds without calibration, so --calibration has no use; q4 and q3 use it")]
    CalibrationUnused {
        /// The recipe.
        recipe: String,
    },
    /// The checkpoint.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// The recipe.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A recipe that needs a calibration and got none.
    #[error("recipe {recipe} needs a calibration")]
    NoCalibration {
        /// The recipe.
        recipe: String,
    },
    /// Activations that are not finite.
    #[error("tensor {tensor}: {source}")]
    Hessian {
        /// Canonical name.
        tensor: String,
        /// What is wrong.
        source: crate::quantize::NotPositive,
    },
    /// The calibration does not fit the plan: a bug.
    #[error("tensor {tensor} is not in the plan")]
    NotPlanned {
        /// Canonical name.
        tensor: String,
    },
    /// A staged matrix is gone.
    #[error("the quantized matrix {tensor} is no longer in the work folder; the same command with --resume makes it again")]
    NotStaged {
        /// Canonical name.
        tensor: String,
    },
    /// The reference forward failed.
    #[error(transparent)]
    Reference(#[from] crate::reference::ReferenceError),
    /// Calibrating failed.
    #[error(transparent)]
    Calibration(#[from] crate::calibrate::CalibrationError),
    /// Tensor arithmetic failed: a bug, or no memory.
    #[error("calibrated quantization: {0}")]
    Tensor(#[from] candle_core::Error),
    /// Activations cannot be kept.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// A weight that the recipe's scheme cannot hold.
    #[error(
        "tensor {tensor}: {source}; the recipe f32, or an override with scheme = \"f32\" for this tensor, stores it as it is"
    )]
    TooLarge {
        /// Canonical name.
        tensor: String,
        /// Where and how large.
        source: TooLarge,
    },
    /// A part of a conversion whose layers follow each other.
    #[error(
        "recipe {recipe} is calibrated: each layer is rounded by what the layers before it lose, so that it cannot be converted in parts; \
         q8, q4-fast and q3-fast can"
    )]
    PartOfCalibrated {
        /// The recipe.
        recipe: String,
    },
    /// More parts than there is work for.
    #[error("the package has {shards} shards, too few for {parts} parts; a smaller --shard-size makes more of them")]
    TooManyParts {
        /// The parts.
        parts: usize,
        /// The shards.
        shards: usize,
    },
    /// There is something under a part's final name already.
    #[error(
        "{path} exists already, and a part needs a new folder: choose another --out, or remove it (--resume goes on with the same part)",
        path = path.display()
    )]
    PartExists {
        /// The target.
        path: PathBuf,
    },
    /// A folder that is no part of a conversion.
    #[error("{path} is no part of a conversion: {why}", path = path.display())]
    NoPart {
        /// The folder.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// Parts that do not make a package.
    #[error("{path} does not go with the other parts: {why}", path = path.display())]
    OtherPart {
        /// The part's folder.
        path: PathBuf,
        /// How it differs.
        why: String,
    },
    /// Parts that are not all there.
    #[error("of {of} parts, {missing} not there")]
    PartsMissing {
        /// All parts.
        of: usize,
        /// The numbers of those that are missing, in words.
        missing: String,
    },
    /// A merged package cannot be written.
    #[error(transparent)]
    Staging(#[from] crate::staging::StagingError),
    /// A file cannot be read.
    #[error("cannot read {0}")]
    Read(#[from] haikuq_files::ReadError),
    /// A file cannot be read or written.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// `read`, `write`, …
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A shard cannot be written; what came before it is kept.
    #[error(
        "cannot write {path}: {source}; finished shards are kept: once the cause is gone, the same command with --resume goes on from them",
        path = path.display()
    )]
    Write {
        /// The shard.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// There is something under the final name.
    #[error(
        "{path} exists already; --force replaces it once the new package is complete (with --resume, after what an interrupted conversion has finished)",
        path = path.display()
    )]
    Exists {
        /// The target.
        path: PathBuf,
    },
    /// There is something under the final name that is not ours to replace.
    #[error("{path} exists and is no haikuq package, so it is not replaced: choose another --out", path = path.display())]
    NotOurs {
        /// The target.
        path: PathBuf,
    },
    /// The target has no name of its own.
    #[error("{path} cannot be the name of a package", path = path.display())]
    BadTarget {
        /// The target.
        path: PathBuf,
    },
    /// An interrupted conversion of the same plan.
    #[error(
        "{path} holds an interrupted conversion of the same plan, {finished} of {shards} shards done: add --resume to go on from there, or --force to start afresh",
        path = path.display()
    )]
    Unfinished {
        /// The work folder.
        path: PathBuf,
        /// Complete shards.
        finished: usize,
        /// All shards.
        shards: usize,
    },
    /// An interrupted conversion of something else.
    #[error(
        "{path} holds an interrupted conversion with another {what}: repeat that one, remove the folder, or add --force without --resume to start afresh",
        path = path.display()
    )]
    Differs {
        /// The work folder.
        path: PathBuf,
        /// `plan (recipe, shard size or version)` or `checkpoint`, and how it differs.
        what: String,
    },
    /// A folder in the way that no conversion made.
    #[error("{path} is in the way and is no interrupted conversion: move it", path = path.display())]
    NoJournal {
        /// The work folder.
        path: PathBuf,
    },
    /// Another process works in the folder.
    #[error("{path} is in use by another haikuq", path = path.display())]
    Busy {
        /// The work folder.
        path: PathBuf,
    },
    /// The target is a link.
    #[error("{path} is a link, which is not followed: name the folder that it leads to, or remove the link", path = path.display())]
    Link {
        /// The target.
        path: PathBuf,
    },
    /// The target cannot be given to another folder.
    #[error("{path} is where a disk is mounted, so no package can get this name: name a folder within it", path = path.display())]
    MountPoint {
        /// The target.
        path: PathBuf,
    },
    /// A file that is no part of the package to be replaced, and that the new package needs the name of.
    #[error("{path} is no part of the package there, and the new package has a file of that name: move it", path = path.display())]
    InTheWay {
        /// The file.
        path: PathBuf,
    },
    /// Something came into the target while it was being replaced.
    #[error(
        "{out} was moved to {replaced} to be replaced, and there is something at {out} again: move one of them",
        out = out.display(),
        replaced = replaced.display()
    )]
    TwoInPlace {
        /// The target.
        out: PathBuf,
        /// What was there before.
        replaced: PathBuf,
    },
    /// Files that belong to no package are left over.
    #[error("{path} still holds files that are no part of a package: move them, then remove the folder", path = path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// A source file changed while it was read.
    #[error(
        "{path} changed while it was converted, so the package would be of two models: once the file is complete, start again with --force",
        path = path.display()
    )]
    SourceChanged {
        /// The file.
        path: PathBuf,
    },
    /// A shard that cannot be laid out.
    #[error(transparent)]
    Layout(#[from] ShardError),
    /// A manifest that our own reader would refuse.
    #[error("the package would be invalid, so it is not made: {0}")]
    Manifest(ManifestError),
    /// A finished package that our own reader refuses: a bug, or a disk that lost something.
    #[error("the finished package cannot be read back, so it does not get its name: {0}; --force makes it anew")]
    Unreadable(PackageError),
    /// Threads cannot be started.
    #[error("cannot start {jobs} threads: {why}")]
    Threads {
        /// How many.
        jobs: usize,
        /// Why not.
        why: String,
    },
}

impl ConvertError {
    /// For `map_err`: an [`ConvertError::Io`] of `path`.
    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}
