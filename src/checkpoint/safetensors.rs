//! One safetensors file: mapped, its header checked with every number in the message.
//!
//! The `safetensors` crate makes the same checks but reports most of them without names or numbers, which leaves a
//! user with a broken download guessing.

use super::CheckpointError;
use memmap2::Mmap;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

/// Longest header that is read; the largest models have a few megabytes.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A mapped weight file.
#[derive(Debug)]
pub(super) struct WeightFile {
    pub(super) name: String,
    map: Mmap,
}

/// One tensor of a file's header.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    /// From the start of the file.
    pub(super) bytes: Range<usize>,
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl WeightFile {
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<Entry>), CheckpointError> {
        let io = |source| CheckpointError::Io { path: path.into(), source };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = File::open(path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        if bytes < 8 {
            return Err(CheckpointError::Truncated { file: name, what: "the header's length".into(), needed: 8, bytes });
        }
        // SAFETY: the mapping is read-only. Should another process shorten the file meanwhile, reading stops with a
        // bus error, as for every program that maps its input.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        // Only a hint: conversion reads each tensor from front to back.
        #[cfg(unix)]
        let _ = map.advise(memmap2::Advice::Sequential);
        let entries = parse_header(&name, &map)?;
        Ok((Self { name, map }, entries))
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

/// Checks that lengths and offsets are in order and cover the file exactly.
fn parse_header(file: &str, bytes: &[u8]) -> Result<Vec<Entry>, CheckpointError> {
    let total = bytes.len() as u64;
    let truncated =
        |what: &str, needed| CheckpointError::Truncated { file: file.into(), what: what.into(), needed, bytes: total };
    let length = bytes.first_chunk().map(|b| u64::from_le_bytes(*b)).ok_or_else(|| truncated("the header's length", 8))?;
    if length > MAX_HEADER_BYTES {
        return Err(CheckpointError::HeaderTooLarge { file: file.into(), bytes: length, limit: MAX_HEADER_BYTES });
    }
    let data_start = 8 + length;
    if data_start > total {
        return Err(truncated("the header", data_start));
    }
    let header = |why: serde_json::Error| CheckpointError::Header { file: file.into(), why: why.to_string() };
    let mut raw: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&bytes[8..data_start as usize]).map_err(header)?;
    raw.remove("__metadata__");
    let mut entries = Vec::with_capacity(raw.len());
    for (name, value) in raw {
        let bad = |why: String| CheckpointError::Entry { file: file.into(), tensor: name.clone(), why };
        let entry = RawEntry::deserialize(value).map_err(|e| bad(e.to_string()))?;
        let (start, end) = entry.data_offsets;
        let overflow = || bad(format!("shape {:?} or offsets {start} to {end} are beyond all bounds", entry.shape));
        let count = entry.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).ok_or_else(overflow)?;
        let width = dtype_bits(&entry.dtype).ok_or_else(|| bad(format!("unknown number format {:?}", entry.dtype)))?;
        let needed = count.checked_mul(width).ok_or_else(overflow)?.div_ceil(8);
        if end.checked_sub(start) != Some(needed) {
            let (shape, dtype) = (&entry.shape, &entry.dtype);
            return Err(bad(format!("shape {shape:?} of {dtype} takes {needed} bytes, its offsets {start} to {end} do not")));
        }
        let file_end = end.checked_add(data_start).ok_or_else(overflow)?;
        if file_end > total {
            return Err(truncated(&format!("tensor {name}"), file_end));
        }
        let to_usize = |n: u64| usize::try_from(n).map_err(|_| overflow());
        let shape = entry.shape.iter().map(|&n| to_usize(n)).collect::<Result<_, _>>()?;
        let bytes = to_usize(data_start + start)?..to_usize(file_end)?;
        entries.push(Entry { name, dtype: entry.dtype, shape, bytes });
    }
    check_cover(file, &mut entries, data_start, total)?;
    Ok(entries)
}

/// Entries sorted by place must follow each other without overlap or hole.
fn check_cover(file: &str, entries: &mut [Entry], data_start: u64, total: u64) -> Result<(), CheckpointError> {
    entries.sort_by_key(|e| (e.bytes.start, e.bytes.end));
    let (mut at, mut last) = (data_start, "");
    for entry in &*entries {
        let start = entry.bytes.start as u64;
        if start < at {
            return Err(CheckpointError::Overlap {
                file: file.into(),
                first: last.into(),
                second: entry.name.clone(),
                start: start - data_start,
                end: at - data_start,
            });
        }
        if start > at {
            return Err(CheckpointError::Hole { file: file.into(), start: at - data_start, end: start - data_start });
        }
        (at, last) = (entry.bytes.end as u64, &entry.name);
    }
    if at != total {
        return Err(CheckpointError::Hole { file: file.into(), start: at - data_start, end: total - data_start });
    }
    Ok(())
}

/// Bits of one number in safetensors' formats.
fn dtype_bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F64" | "I64" | "U64" | "C64" => 64,
        "F32" | "I32" | "U32" => 32,
        "F16" | "BF16" | "I16" | "U16" => 16,
        "BOOL" | "I8" | "U8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "F6_E2M3" | "F6_E3M2" => 6,
        "F4" => 4,
        _ => return None,
    })
}
