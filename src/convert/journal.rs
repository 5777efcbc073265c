//! The journal of a conversion: what it is of, and what is finished.

use super::files::SourceFile;
use super::{ConvertError, PlannedShard};
use haikuq_files::{hash_file, read_at_most};
use haikuq_format::manifest::FileEntry;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Largest journal that is read: a line for each shard, and each chunk in it.
const MAX_BYTES: u64 = 256 << 20;

/// What the journal says of one shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct FinishedShard {
    pub(super) sha256: String,
    /// Squared error and squared norm of each of its chunks, as bits: decimal text would have to be parsed exactly.
    errors: Vec<(u64, u64)>,
}

impl FinishedShard {
    pub(super) fn new(sha256: String, errors: &[(f64, f64)]) -> Self {
        Self { sha256, errors: errors.iter().map(|(e, n)| (e.to_bits(), n.to_bits())).collect() }
    }

    /// Squared error and squared norm of each of its chunks.
    pub(super) fn errors(&self) -> impl Iterator<Item = (f64, f64)> {
        self.errors.iter().map(|&(e, n)| (f64::from_bits(e), f64::from_bits(n)))
    }
}

/// One line of the journal.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    Plan {
        digest: String,
        sources: Vec<SourceFile>,
    },
    /// The SHA-256 of a source, by its place in the plan's list.
    Source {
        index: usize,
        sha256: String,
    },
    Shard(FinishedShard),
}

impl Line {
    pub(super) fn to_json(&self) -> Vec<u8> {
        // Plain data: no map with other keys than text, nothing that can fail.
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

/// What a journal says.
#[derive(Default)]
pub(super) struct Journal {
    pub(super) digest: Option<String>,
    sources: Vec<SourceFile>,
    /// SHA-256 of sources by their places, of those that were hashed.
    hashes: BTreeMap<usize, String>,
    pub(super) shards: Vec<FinishedShard>,
}

impl Journal {
    pub(super) fn read(path: &Path) -> Result<Self, ConvertError> {
        let text = read_at_most(path, MAX_BYTES).map_err(ConvertError::io("read", path))?;
        let mut journal = Self::default();
        // Up to the first line that cannot be read: nothing after it was promised.
        for line in text.split_inclusive(|&b| b == b'\n').map_while(|l| serde_json::from_slice(l).ok()) {
            match line {
                Line::Plan { digest, sources } => (journal.digest, journal.sources) = (Some(digest), sources),
                Line::Source { index, sha256 } => {
                    journal.hashes.insert(index, sha256);
                }
                Line::Shard(shard) => journal.shards.push(shard),
            }
        }
        Ok(journal)
    }

    /// The sources must be those that the finished shards were made of: unchanged by all that the file system says of them, or
    /// else (a checkpoint that was moved) by their hashes, where these were known already.
    pub(super) fn check_sources(&self, root: &Path, sources: &[SourceFile]) -> Result<(), ConvertError> {
        let differs = |what: String| Err(ConvertError::Differs { path: root.into(), what });
        if self.sources.len() != sources.len() {
            let (was, is) = (self.sources.len(), sources.len());
            return differs(format!("checkpoint (of {was} files, not {is})"));
        }
        for (index, (was, is)) in self.sources.iter().zip(sources).enumerate() {
            if was.name != is.name {
                return differs(format!("checkpoint ({} in place of {})", was.name, is.name));
            }
            if was.fingerprint == is.fingerprint {
                continue;
            }
            let same_hash = |hash: &String| Ok::<_, ConvertError>(*hash == hash_file(&is.path)?.sha256);
            if was.fingerprint.bytes != is.fingerprint.bytes || !self.hashes.get(&index).map_or(Ok(false), same_hash)? {
                return differs(format!("checkpoint ({} has changed since)", is.path.display()));
            }
        }
        Ok(())
    }

    /// Sources that were hashed before must have those hashes.
    pub(super) fn check_hashes(&self, sources: &[SourceFile], hashed: &[FileEntry]) -> Result<(), ConvertError> {
        let other = |(index, hash): (&usize, &String)| hashed.get(*index).is_some_and(|h| h.sha256 != *hash);
        match self.hashes.iter().find(|&entry| other(entry)).and_then(|(index, _)| sources.get(*index)) {
            Some(source) => Err(ConvertError::SourceChanged { path: source.path.clone() }),
            None => Ok(()),
        }
    }

    /// Lines for the hashes that are known.
    pub(super) fn hash_lines(&self) -> impl Iterator<Item = Line> {
        self.hashes.iter().map(|(&index, sha256)| Line::Source { index, sha256: sha256.clone() })
    }

    /// Finished shards from the first on that are on disk with the size and hash that they had.
    pub(super) fn verified_shards(&self, package: &Path, planned: &[PlannedShard]) -> Vec<FinishedShard> {
        let good = |(shard, planned): &(&FinishedShard, &PlannedShard)| {
            let same = |file| file == planned.entry(&shard.sha256);
            let path = package.join(&planned.name);
            let is_file = std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_file());
            shard.errors.len() == planned.chunks.len() && is_file && hash_file(&path).is_ok_and(same)
        };
        self.shards.iter().zip(planned).take_while(good).map(|(shard, _)| shard.clone()).collect()
    }
}
