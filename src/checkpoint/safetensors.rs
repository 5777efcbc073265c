//! A folder as `save_pretrained` writes it: `model.safetensors`, or shards with an index. Headers are checked with every
//! number in the message.
//!
//! The `safetensors` crate makes the same checks but reports most of them without names or numbers, which leaves a
//! user with a broken download guessing.

use super::file::MappedFile;
use super::tensor::{Bytes, Dtype, Placement, TensorInfo};
use super::{CheckpointError, Weights, read_json};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";

/// Longest header that is read; the largest models have a few megabytes.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Whether a folder has safetensors weights.
pub(super) fn is_in(root: &Path) -> bool {
    root.join(SINGLE_FILE).exists() || root.join(INDEX_FILE).exists()
}

/// Opens the weights of a folder: all headers, lengths and offsets are checked; no weight is read.
pub(super) fn open(root: &Path) -> Result<Weights, CheckpointError> {
    let index = Some(root.join(INDEX_FILE)).filter(|index| !root.join(SINGLE_FILE).exists() && index.exists());
    let weight_map = index.as_deref().map_or_else(|| Ok(BTreeMap::new()), read_weight_map)?;
    let mut names: Vec<&str> = weight_map.values().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    if index.is_none() {
        names.push(SINGLE_FILE);
    }
    let (mut files, mut tensors) = (Vec::new(), BTreeMap::<String, TensorInfo>::new());
    for name in names {
        let file = MappedFile::open(&root.join(name))?;
        for entry in parse_header(file.name(), file.bytes())? {
            let name = entry.name.clone();
            if let Some(other) = tensors.insert(name.clone(), info(entry, files.len())) {
                let first = files.get(other.bytes.file()).unwrap_or(&file).name().into();
                return Err(CheckpointError::Duplicate { tensor: name, first, second: file.name().into() });
            }
        }
        files.push(file);
    }
    if let Some(index) = &index {
        for (tensor, file) in &weight_map {
            if tensors.get(tensor).is_none_or(|t| files[t.bytes.file()].name() != file) {
                let (index, tensor, shard) = (index.clone(), tensor.clone(), file.clone());
                return Err(CheckpointError::IndexEntry { index, tensor, shard });
            }
        }
    }
    let mut sources: Vec<PathBuf> = index.into_iter().collect();
    sources.extend(files.iter().map(|f| f.path().to_path_buf()));
    Ok(Weights { files, tensors, sources })
}

fn info(entry: Entry, file: usize) -> TensorInfo {
    let dtype = match entry.dtype.as_str() {
        "F32" => Some(Dtype::F32),
        "F16" => Some(Dtype::F16),
        "BF16" => Some(Dtype::Bf16),
        _ => None,
    };
    let placement = Placement::plain(&entry.shape);
    TensorInfo { label: entry.dtype, dtype, shape: entry.shape, bytes: Bytes::Mapped { file, range: entry.bytes }, placement }
}

/// `weight_map` of an index: tensor to shard, every shard a plain name in the same folder.
fn read_weight_map(path: &Path) -> Result<BTreeMap<String, String>, CheckpointError> {
    let index = read_json(path)?;
    let map = index.get("weight_map").and_then(Value::as_object).filter(|map| !map.is_empty());
    let map = map.ok_or_else(|| CheckpointError::Index { path: path.into() })?;
    map.iter()
        .map(|(tensor, shard)| {
            let shard = shard.as_str().unwrap_or_default();
            let mut parts = Path::new(shard).components();
            let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) && !shard.contains('\\');
            if !plain {
                return Err(CheckpointError::ShardName { index: path.into(), tensor: tensor.clone(), shard: shard.into() });
            }
            Ok((tensor.clone(), shard.to_string()))
        })
        .collect()
}

/// One tensor of a file's header.
#[derive(Debug)]
struct Entry {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    /// From the start of the file.
    bytes: Range<usize>,
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
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
