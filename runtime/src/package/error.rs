//! [`PackageError`]: one variant for each thing that a package promises and a reader checks.

use super::SourceError;
use crate::text::TextError;
use haikuq_format::manifest::{MANIFEST_FILE, ManifestError};
use haikuq_format::shard::ShardError;

/// Why a package cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// A file is missing or unreadable.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The manifest is larger than any real one.
    #[error("{MANIFEST_FILE} is larger than {limit} bytes")]
    ManifestTooLarge {
        /// [`super::MAX_MANIFEST_BYTES`].
        limit: u64,
    },
    /// The manifest is malformed, of another version, or contradicts itself.
    #[error("{MANIFEST_FILE}: {0}")]
    Manifest(#[from] ManifestError),
    /// There is no such shard.
    #[error("the package has {count} shards, no shard {index} (counted from 0)")]
    NoSuchShard {
        /// What was asked for.
        index: usize,
        /// Number of shards.
        count: usize,
    },
    /// The manifest lists no such file.
    #[error("{MANIFEST_FILE} lists no file {file}")]
    NotListed {
        /// What was asked for.
        file: String,
    },
    /// A file is shorter than the manifest says.
    #[error("{file} is truncated: {found} bytes, expected {expected}; copy or download it again")]
    Truncated {
        /// Its name.
        file: String,
        /// Bytes by the manifest.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// A file is longer than the manifest says.
    #[error("{file} is longer than the expected {expected} bytes; copy or download it again")]
    TooLong {
        /// Its name.
        file: String,
        /// Bytes by the manifest.
        expected: u64,
    },
    /// A file's content is not what the manifest says.
    #[error("{file} is corrupt: its SHA-256 is {found}, expected {expected}; copy or download it again")]
    Hash {
        /// Its name.
        file: String,
        /// Hash by the manifest, lower-case hexadecimal.
        expected: String,
        /// Hash of what is there.
        found: String,
    },
    /// A shard is no valid safetensors file or its entries are not aligned.
    #[error("{file}: {source}")]
    Shard {
        /// Its name.
        file: String,
        /// What is wrong with its header.
        source: ShardError,
    },
    /// A plane of the manifest has no entry in its shard.
    #[error("{file} has no entry {entry}, which the manifest puts at byte {offset}")]
    MissingEntry {
        /// The shard.
        file: String,
        /// The plane's entry.
        entry: String,
        /// Its offset by the manifest.
        offset: u64,
    },
    /// An entry of a shard belongs to no plane of the manifest.
    #[error("{file} has an entry {entry} at byte {offset} that is no plane of the manifest")]
    UnexpectedEntry {
        /// The shard.
        file: String,
        /// The entry.
        entry: String,
        /// Its offset in the shard.
        offset: u64,
    },
    /// An entry lies elsewhere than the manifest says.
    #[error("{file}: entry {entry} lies at byte {found}, expected {expected}")]
    EntryOffset {
        /// The shard.
        file: String,
        /// The entry.
        entry: String,
        /// Offset by the manifest, from the start of the file.
        expected: u64,
        /// Offset in the shard.
        found: u64,
    },
    /// An entry has another size than the manifest says.
    #[error("{file}: entry {entry} has {found} bytes, expected {expected}")]
    EntrySize {
        /// The shard.
        file: String,
        /// The entry.
        entry: String,
        /// Padded size by the manifest.
        expected: u64,
        /// Size in the shard.
        found: u64,
    },
    /// A tokenizer, chat template or generation setting of the package is malformed.
    #[error(transparent)]
    Text(#[from] TextError),
}

impl PackageError {
    /// Whether this copy of a file is damaged, so that another one may be right.
    pub(super) fn is_of_copy(&self) -> bool {
        matches!(self, Self::Truncated { .. } | Self::TooLong { .. } | Self::Hash { .. })
    }
}
