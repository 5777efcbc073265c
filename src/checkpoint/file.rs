//! A weight file, mapped into memory.

use super::{CheckpointError, regular};
use haikuq_files::{Fingerprint, Mapped, Source};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A mapped file of weights.
#[derive(Debug)]
pub(super) struct MappedFile {
    path: PathBuf,
    name: String,
    file: File,
    /// What the file was before it was mapped.
    fingerprint: Fingerprint,
    map: Mapped,
}

impl MappedFile {
    /// A file of one of the formats that start with eight bytes at least.
    pub(super) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let this = Self::open_any(path)?;
        match this.bytes().len() as u64 {
            bytes @ 0..8 => {
                Err(CheckpointError::Truncated { file: this.name, what: "the header's length".into(), needed: 8, bytes })
            }
            _ => Ok(this),
        }
    }

    /// A file of any size.
    pub(super) fn open_any(path: &Path) -> Result<Self, CheckpointError> {
        let io = |source| CheckpointError::Io { path: path.into(), source };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = regular::open(path)?;
        let fingerprint = Fingerprint::of_file(&file).map_err(io)?;
        let map = Mapped::new(&file).map_err(io)?;
        // Conversion reads each tensor from front to back.
        map.advise_sequential();
        Ok(Self { path: path.into(), name, file, fingerprint, map })
    }

    /// File name, for messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where it lies, and what it was when it was opened.
    pub(super) fn source(&self) -> Source {
        Source { path: self.path.clone(), fingerprint: self.fingerprint }
    }

    /// All of it. Bytes that were read count only if [`MappedFile::check`] says so afterwards.
    pub(super) fn bytes(&self) -> &[u8] {
        self.map.bytes()
    }

    /// Refuses what was read so far where the file was cut short or written to meanwhile.
    pub(super) fn check(&self) -> Result<(), CheckpointError> {
        match !self.map.is_cut() && self.fingerprint.is_of(&self.file) {
            true => Ok(()),
            false => Err(CheckpointError::Changed { path: self.path.clone() }),
        }
    }

    /// Drops the range's pages from this process; they come back from the file when they are read again.
    pub(super) fn release(&self, range: Range<usize>) {
        self.map.release(range);
    }
}
