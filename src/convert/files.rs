//! Files around a conversion: what there is before it, hashing, synced writing.

use super::ConvertError;
use crate::checkpoint::Companion;
use crate::files::{hash_file, hex};
use haikuq_format::manifest::{FileEntry, MANIFEST_FILE};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A source file as the file system describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SourceFile {
    #[serde(skip)]
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) bytes: u64,
    /// Nanoseconds since 1970, for telling whether a file changed; no part of any package.
    pub(super) modified: u64,
}

impl SourceFile {
    /// Whether two descriptions are of one unchanged file, wherever its folder lies now.
    pub(super) fn same(&self, other: &Self) -> bool {
        (&self.name, self.bytes, self.modified) == (&other.name, other.bytes, other.modified)
    }
}

pub(super) fn stat_all(paths: &[PathBuf]) -> Result<Vec<SourceFile>, ConvertError> {
    paths.iter().map(|path| stat(path)).collect()
}

fn stat(path: &Path) -> Result<SourceFile, ConvertError> {
    let metadata = fs::metadata(path).map_err(ConvertError::io("read", path))?;
    let since_epoch = metadata.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
    Ok(SourceFile {
        path: path.into(),
        name: file_name(path),
        bytes: metadata.len(),
        modified: since_epoch.map_or(0, |d| d.as_nanos() as u64),
    })
}

/// SHA-256 of every source, in order; a file that changed since it was described is an error.
pub(super) fn hash_sources(sources: &[SourceFile]) -> Result<Vec<FileEntry>, ConvertError> {
    let hash = |source: &SourceFile| {
        let entry = hash_file(&source.path)?;
        if entry.bytes != source.bytes || !stat(&source.path)?.same(source) {
            return Err(ConvertError::SourceChanged { file: source.name.clone() });
        }
        Ok(entry)
    };
    sources.iter().map(hash).collect()
}

/// Refuses a target that is there already, unless it is a package and may be replaced, or an empty folder.
pub(super) fn check_target(out: &Path, force: bool) -> Result<(), ConvertError> {
    if out.file_name().is_none() {
        return Err(ConvertError::BadTarget { path: out.into() });
    }
    if fs::symlink_metadata(out).is_err() || is_empty_folder(out) {
        return Ok(());
    }
    match (out.join(MANIFEST_FILE).is_file(), force) {
        (true, true) => Ok(()),
        (true, false) => Err(ConvertError::Exists { path: out.into() }),
        (false, _) => Err(ConvertError::NotOurs { path: out.into() }),
    }
}

fn is_empty_folder(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// Writes the files that packages carry over, and describes them.
pub(super) fn write_companions(companions: &[Companion], package: &Path) -> Result<Vec<FileEntry>, ConvertError> {
    let write = |Companion { name, bytes }: &Companion| {
        write_synced(&package.join(name), bytes)?;
        Ok(FileEntry { name: name.clone(), bytes: bytes.len() as u64, sha256: hex(&Sha256::digest(bytes)) })
    };
    companions.iter().map(write).collect()
}

/// Writes a file and waits until it is on disk.
pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), ConvertError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| ConvertError::Write { path: path.into(), source })
}

/// Waits until a folder's entries are on disk, where the system can (Windows cannot open folders).
pub(super) fn sync_folder(path: &Path) -> Result<(), ConvertError> {
    if cfg!(unix) {
        File::open(path).and_then(|f| f.sync_all()).map_err(ConvertError::io("sync", path))?;
    }
    Ok(())
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
