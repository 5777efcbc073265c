//! Files around a conversion: what they are before it, hashing, the files that packages carry over.

use super::work::SourceNotes;
use super::{ConvertError, disk};
use crate::checkpoint::Companion;
use haikuq_files::{Fingerprint, Source, hash_file, hex};
use haikuq_format::manifest::FileEntry;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

/// A source file as it was before anything of it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SourceFile {
    #[serde(skip)]
    pub(super) path: PathBuf,
    pub(super) name: String,
    /// For telling whether it changed; no part of any package.
    pub(super) fingerprint: Fingerprint,
}

impl SourceFile {
    pub(super) fn new(Source { path, fingerprint }: Source) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { path, name, fingerprint }
    }

    /// Refuses what was made of it if it is another file by now.
    pub(super) fn check(&self) -> Result<(), ConvertError> {
        let source = Source { path: self.path.clone(), fingerprint: self.fingerprint };
        match source.is_unchanged() {
            true => Ok(()),
            false => Err(ConvertError::SourceChanged { path: source.path }),
        }
    }
}

/// Files that are hashed at once.
const HASHED_AT_ONCE: usize = 4;

/// SHA-256 of every source, in order, noted as soon as it is known; a file that changed since it was opened is an error.
pub(super) fn hash_sources(sources: &[SourceFile], mut notes: Option<SourceNotes>) -> Result<Vec<FileEntry>, ConvertError> {
    let hash = |source: &SourceFile| -> Result<FileEntry, ConvertError> {
        let entry = hash_file(&source.path)?;
        source.check()?;
        Ok(entry)
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(HASHED_AT_ONCE);
    let mut entries = Vec::with_capacity(sources.len());
    for some in sources.chunks(threads) {
        let hashed: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = some.iter().map(|source| scope.spawn(|| hash(source))).collect();
            let join =
                |thread: std::thread::ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|p| std::panic::resume_unwind(p));
            threads.into_iter().map(join).collect()
        });
        for entry in hashed {
            let entry = entry?;
            if let Some(notes) = &mut notes {
                notes.add(entries.len(), &entry.sha256)?;
            }
            entries.push(entry);
        }
    }
    Ok(entries)
}

pub(super) fn is_empty_folder(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// Entries of the files that packages carry over.
pub(super) fn companion_entries(companions: &[Companion]) -> Vec<FileEntry> {
    let entry = |Companion { name, bytes }: &Companion| FileEntry {
        name: name.clone(),
        bytes: bytes.len() as u64,
        sha256: hex(&Sha256::digest(bytes)),
    };
    companions.iter().map(entry).collect()
}

/// Writes the files that packages carry over.
pub(super) fn write_companions(companions: &[Companion], package: &Path) -> Result<(), ConvertError> {
    companions.iter().try_for_each(|c| disk::write_synced(&package.join(&c.name), &c.bytes))
}
