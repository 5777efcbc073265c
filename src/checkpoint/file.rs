//! A weight file, mapped into memory.

use super::{CheckpointError, regular};
use memmap2::Mmap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A mapped file of weights.
#[derive(Debug)]
pub(super) struct MappedFile {
    path: PathBuf,
    name: String,
    map: Mmap,
}

impl MappedFile {
    /// A file of one of the formats that start with eight bytes at least.
    pub(super) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let this = Self::open_any(path)?;
        match this.map.len() as u64 {
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
        // SAFETY: the mapping is read-only. Should another process shorten the file meanwhile, reading stops with a
        // bus error, as for every program that maps its input.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        // Only a hint: conversion reads each tensor from front to back.
        #[cfg(unix)]
        let _ = map.advise(memmap2::Advice::Sequential);
        Ok(Self { path: path.into(), name, map })
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// File name, for messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Drops the range's pages from this process; they come back from the file when they are read again.
    pub(super) fn release(&self, range: Range<usize>) {
        // Whole pages within the range only, so that a neighbour's stay.
        const PAGE: usize = 4096;
        let (start, end) = (range.start.next_multiple_of(PAGE), range.end / PAGE * PAGE);
        #[cfg(unix)]
        if start < end {
            // SAFETY: a read-only mapping of a file: dropped pages come back from the file with the same content.
            // Only a hint, so a refusal changes nothing.
            let _ = unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
        }
    }
}
