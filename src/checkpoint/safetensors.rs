//! A folder as `save_pretrained` writes it: `model.safetensors`, or shards with an index. Headers are checked with every
//! number in the message.
//!
//! The `safetensors` crate makes the same checks but reports most of them without names or numbers, which leaves a
//! user with a broken download guessing.

use super::file::MappedFile;
use super::recognize::{entries, is_adapter, is_consolidated, name_of};
use super::tensor::{Bytes, Dtype, Placement, TensorInfo};
use super::{CheckpointError, Weights, json, regular};
use haikuq_files::Source;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";

/// Longest header that is read; the largest models have a few megabytes.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Most tensors of a file; the largest models have 100,000 in all of theirs.
const MAX_TENSORS: usize = 1 << 18;

/// Most dimensions of a tensor; no library has tensors of more.
const MAX_DIMENSIONS: usize = 64;

/// The files of one checkpoint.
#[derive(Debug)]
pub(super) enum Set {
    /// Files that hold all that there is.
    Files(Vec<PathBuf>),
    /// Those that an index names.
    Index(PathBuf),
}

/// The files of a folder that has them under their usual names: one, an index with shards, or shards alone.
///
/// # Errors
/// If shards are missing.
pub(super) fn usual(folder: &Path) -> Result<Option<Set>, CheckpointError> {
    if folder.join(SINGLE_FILE).exists() {
        return Ok(Some(Set::Files(vec![folder.join(SINGLE_FILE)])));
    }
    if folder.join(INDEX_FILE).exists() {
        return Ok(Some(Set::Index(folder.join(INDEX_FILE))));
    }
    let files = candidates(folder);
    match files.iter().find_map(|name| Shard::of(name).filter(|s| s.stem == "model")) {
        Some(shard) => shard.all(folder, &files).map(Some),
        None => Ok(None),
    }
}

/// The files of a folder that has them under other names: shards, or just one.
///
/// # Errors
/// If there are several and no name says that they are one checkpoint.
pub(super) fn other(folder: &Path) -> Result<Option<Set>, CheckpointError> {
    let files = candidates(folder);
    let shards: Vec<Shard<'_>> = files.iter().filter_map(|name| Shard::of(name)).collect();
    match (&shards[..], &files[..]) {
        ([first, rest @ ..], _) if shards.len() == files.len() && rest.iter().all(|s| s.is_beside(first)) => {
            first.all(folder, &files).map(Some)
        }
        (_, [one]) => Ok(Some(Set::Files(vec![folder.join(one)]))),
        (_, []) => Ok(None),
        _ => {
            let why = format!(
                "there are several files of safetensors, and no {INDEX_FILE} that says which belong together: {}. Name the one \
                 that is the model, or put its files into a folder of their own",
                files.join(", ")
            );
            Err(CheckpointError::Shards { path: folder.into(), why })
        }
    }
}

/// The files that belong to one that was named; none if it is no file of safetensors or index.
///
/// # Errors
/// If shards are missing.
pub(super) fn named(path: &Path) -> Result<Option<Set>, CheckpointError> {
    let (folder, name) = (path.parent().unwrap_or(Path::new("")), name_of(path));
    if name.ends_with(".safetensors.index.json") {
        return Ok(Some(Set::Index(path.into())));
    }
    if !name.ends_with(".safetensors") {
        return Ok(None);
    }
    match Shard::of(&name) {
        Some(shard) => {
            let index = folder.join(format!("{}.safetensors.index.json", shard.stem));
            if index.exists() { Ok(Some(Set::Index(index))) } else { shard.all(folder, &candidates(folder)).map(Some) }
        }
        None => Ok(Some(Set::Files(vec![path.into()]))),
    }
}

/// Names of files that may hold a model's weights.
fn candidates(folder: &Path) -> Vec<String> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let weights = |name: &String| name.ends_with(".safetensors") && !is_adapter(name) && !is_consolidated(name);
    entries(folder).iter().map(|path| name_of(path)).filter(|name| weights(name) && !name.starts_with('.')).collect()
}

/// A shard by its name, `STEM-00001-of-00002.safetensors`.
#[derive(Debug)]
struct Shard<'a> {
    stem: &'a str,
    count: usize,
    /// As it is written, with its zeros.
    of: &'a str,
}

impl<'a> Shard<'a> {
    fn of(name: &'a str) -> Option<Self> {
        let (rest, of) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        let count = of.parse().ok().filter(|n| *n > 0)?;
        (digits(number) && digits(of)).then_some(Self { stem, count, of })
    }

    fn is_beside(&self, other: &Shard<'_>) -> bool {
        (self.stem, self.of) == (other.stem, other.of)
    }

    /// It and all others, which must be there.
    fn all(&self, folder: &Path, files: &[String]) -> Result<Set, CheckpointError> {
        let name = |number: usize| format!("{}-{number:05}-of-{}.safetensors", self.stem, self.of);
        let (there, missing): (Vec<String>, Vec<String>) = (1..=self.count).map(name).partition(|name| files.contains(name));
        if let Some(first) = missing.first() {
            let (have, count) = (there.len(), self.count);
            let why = format!("{first} is missing: {have} of {count} shards are there; download the others too");
            return Err(CheckpointError::Shards { path: folder.into(), why });
        }
        let foreign = |name: &&String| Shard::of(name).is_some_and(|s| s.stem == self.stem && s.of != self.of);
        if let Some(other) = files.iter().find(foreign) {
            let why =
                format!("there are shards of {}, and {other}, which is of another number: remove those that are old", self.of);
            return Err(CheckpointError::Shards { path: folder.into(), why });
        }
        Ok(Set::Files(there.iter().map(|name| folder.join(name)).collect()))
    }
}

/// Opens the weights of a folder: all headers, lengths and offsets are checked; no weight is read.
pub(super) fn open(folder: &Path, set: &Set) -> Result<Weights, CheckpointError> {
    let mut sources = Vec::new();
    let (index, weight_map, paths) = match set {
        Set::Files(paths) => (None, BTreeMap::new(), paths.clone()),
        Set::Index(index) => {
            regular::within(folder, index)?;
            sources.push(Source::new(index).map_err(|source| CheckpointError::Io { path: index.clone(), source })?);
            let map = read_weight_map(index)?;
            let mut names: Vec<&str> = map.values().map(String::as_str).collect();
            names.sort_unstable();
            names.dedup();
            if let Some(missing) = names.iter().find(|name| !folder.join(name).exists()) {
                let there = names.iter().filter(|name| folder.join(name).exists()).count();
                let why = format!(
                    "cannot read {missing}, which {} names, and which is missing: {there} of {} shards are there; download the \
                     others too",
                    name_of(index),
                    names.len()
                );
                return Err(CheckpointError::Shards { path: folder.into(), why });
            }
            let paths = names.iter().map(|name| folder.join(name)).collect();
            (Some(index.clone()), map, paths)
        }
    };
    let (mut files, mut tensors) = (Vec::new(), BTreeMap::<String, TensorInfo>::new());
    for path in paths {
        regular::within(folder, &path)?;
        let file = MappedFile::open(&path)?;
        let entries = parse_header(file.name(), file.bytes());
        file.check()?;
        for entry in entries? {
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
    sources.extend(files.iter().map(MappedFile::source));
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
    let index = json::read(path)?;
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

/// A header as it is written: names are there once, and nothing is kept that a tensor does not need.
struct RawHeader(Vec<(String, RawEntry)>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: String,
    shape: Dims,
    data_offsets: (u64, u64),
}

/// Dimensions, of which no tensor has many.
struct Dims(Vec<u64>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> serde::de::Visitor<'de> for Visit {
            type Value = RawHeader;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a table of tensors")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                use serde::de::Error;
                let (mut entries, mut names) = (Vec::new(), std::collections::HashSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        return Err(A::Error::custom(format!("{name:?} is there twice")));
                    }
                    if names.len() > MAX_TENSORS {
                        return Err(A::Error::custom(format!("there are more than {MAX_TENSORS} tensors")));
                    }
                    if name == "__metadata__" {
                        map.next_value::<std::collections::HashMap<String, String>>()?;
                        continue;
                    }
                    let entry = map.next_value().map_err(|e| A::Error::custom(format!("tensor {name}: {e}")))?;
                    entries.push((name, entry));
                }
                Ok(RawHeader(entries))
            }
        }
        deserializer.deserialize_map(Visit)
    }
}

impl<'de> Deserialize<'de> for Dims {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> serde::de::Visitor<'de> for Visit {
            type Value = Dims;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "a list of at most {MAX_DIMENSIONS} sizes")
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Dims, A::Error> {
                let mut sizes = Vec::new();
                while let Some(size) = list.next_element()? {
                    if sizes.len() == MAX_DIMENSIONS {
                        return Err(serde::de::Error::invalid_length(sizes.len() + 1, &self));
                    }
                    sizes.push(size);
                }
                Ok(Dims(sizes))
            }
        }
        deserializer.deserialize_seq(Visit)
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
    let header = |why: String| CheckpointError::Header { file: file.into(), why };
    let text = std::str::from_utf8(&bytes[8..data_start as usize]).map_err(|e| header(e.to_string()))?;
    let RawHeader(raw) = serde_json::from_str(text).map_err(|e| header(e.to_string()))?;
    let mut entries = Vec::with_capacity(raw.len());
    for (name, entry) in raw {
        let bad = |why: String| CheckpointError::Entry { file: file.into(), tensor: name.clone(), why };
        let (start, end) = entry.data_offsets;
        let overflow = || bad(format!("shape {:?} or offsets {start} to {end} are beyond all bounds", entry.shape.0));
        let count = entry.shape.0.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).ok_or_else(overflow)?;
        let width = dtype_bits(&entry.dtype).ok_or_else(|| bad(format!("unknown number format {:?}", entry.dtype)))?;
        let needed = count.checked_mul(width).ok_or_else(overflow)?.div_ceil(8);
        if end.checked_sub(start) != Some(needed) {
            let (shape, dtype) = (&entry.shape.0, &entry.dtype);
            return Err(bad(format!("shape {shape:?} of {dtype} takes {needed} bytes, its offsets {start} to {end} do not")));
        }
        let file_end = end.checked_add(data_start).ok_or_else(overflow)?;
        if file_end > total {
            return Err(truncated(&format!("tensor {name}"), file_end));
        }
        let to_usize = |n: u64| usize::try_from(n).map_err(|_| overflow());
        let shape = entry.shape.0.iter().map(|&n| to_usize(n)).collect::<Result<_, _>>()?;
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
