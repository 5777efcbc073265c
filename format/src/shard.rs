//! Shards: valid safetensors files whose data lies at multiples of 256 bytes.
//!
//! safetensors forbids holes between entries, so each plane's padding is part of its entry (a flat `U32` array), and
//! the JSON header is padded with spaces. The whole file's layout follows from the entries' names and sizes alone, so
//! it is known before a single weight is quantized.

use crate::{PLANE_ALIGNMENT, align};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// Where everything lies in one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardLayout {
    /// The file's first bytes: header length and padded JSON. Its own length is a multiple of [`PLANE_ALIGNMENT`].
    pub header: Vec<u8>,
    /// Entries in file order.
    pub entries: Vec<ShardEntry>,
    /// Size of the whole file in bytes.
    pub file_bytes: u64,
}

/// One entry (plane) of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardEntry {
    /// Name in the safetensors header, `TENSOR.CHUNK.KIND`.
    pub name: String,
    /// From the start of the file, a multiple of [`PLANE_ALIGNMENT`].
    pub offset: u64,
    /// Size with padding, a multiple of [`PLANE_ALIGNMENT`].
    pub padded_bytes: u64,
}

/// Lays out a shard of entries given by name and unpadded size in bytes (a multiple of 4).
///
/// # Errors
/// If two entries have one name or a size is no whole number of words.
pub fn layout_shard(entries: &[(String, u64)]) -> Result<ShardLayout, ShardError> {
    let (mut at, mut infos) = (0usize, Vec::with_capacity(entries.len()));
    let mut names = BTreeSet::new();
    for (name, bytes) in entries {
        if !bytes.is_multiple_of(4) || !names.insert(name) {
            return Err(ShardError::Entry { name: name.clone(), bytes: *bytes });
        }
        let padded = align(*bytes) as usize;
        infos.push((name.clone(), TensorInfo { dtype: Dtype::U32, shape: vec![padded / 4], data_offsets: (at, at + padded) }));
        at += padded;
    }
    let metadata = Metadata::new(None, infos).map_err(|e| ShardError::Header(e.to_string()))?;
    let json = serde_json::to_vec(&metadata).map_err(|e| ShardError::Header(e.to_string()))?;
    let header_bytes = align(8 + json.len() as u64);
    if header_bytes > MAX_HEADER_BYTES {
        let entries = entries.len();
        return Err(ShardError::Header(format!("{entries} entries take a header of {header_bytes} bytes; make shards smaller")));
    }
    let mut header = Vec::with_capacity(header_bytes as usize);
    header.extend_from_slice(&(header_bytes - 8).to_le_bytes());
    header.extend_from_slice(&json);
    header.resize(header_bytes as usize, b' ');
    let mut offset = header_bytes;
    let entries = entries
        .iter()
        .map(|(name, bytes)| {
            let entry = ShardEntry { name: name.clone(), offset, padded_bytes: align(*bytes) };
            offset += entry.padded_bytes;
            entry
        })
        .collect();
    Ok(ShardLayout { header, entries, file_bytes: offset })
}

/// A header larger than this is refused unread: it would be of 100,000 planes.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// A header as it is written: flat arrays of words, each name once.
struct RawHeader(Vec<(String, RawEntry)>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: String,
    shape: [u64; 1],
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> serde::de::Visitor<'de> for Visit {
            type Value = RawHeader;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a table of entries")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let (mut entries, mut names) = (Vec::new(), BTreeSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        return Err(serde::de::Error::custom(format!("{name:?} is there twice")));
                    }
                    if name == "__metadata__" {
                        map.next_value::<BTreeMap<String, String>>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(RawHeader(entries))
            }
        }
        deserializer.deserialize_map(Visit)
    }
}

/// Bytes of a shard before its data, from its first 8 bytes.
///
/// # Errors
/// If there are fewer than 8, or the header would be larger than the file or than any real one.
pub fn shard_header_bytes(start: &[u8], file_bytes: u64) -> Result<u64, ShardError> {
    let bytes = start.first_chunk().ok_or_else(|| ShardError::Header("the file ends before its header".into()))?;
    let header = u64::from_le_bytes(*bytes);
    if header > MAX_HEADER_BYTES || header + 8 > file_bytes {
        return Err(ShardError::Header(format!("a header of {header} bytes in a file of {file_bytes}")));
    }
    Ok(header + 8)
}

/// Reads a shard's header from the start of a file of `file_bytes` (the header and any of the data): entries in file
/// order, every length and offset checked.
///
/// # Errors
/// If the header is truncated, oversized, not JSON, or its offsets overlap, leave holes or leave the file, or an entry
/// does not lie at a multiple of [`PLANE_ALIGNMENT`].
pub fn read_shard_header(start: &[u8], file_bytes: u64) -> Result<Vec<ShardEntry>, ShardError> {
    let data = shard_header_bytes(start, file_bytes)?;
    let json = start.get(8..data as usize).ok_or_else(|| ShardError::Header("the header is cut off".into()))?;
    let RawHeader(raw) = serde_json::from_slice(json).map_err(|e| ShardError::Header(e.to_string()))?;
    let mut entries = Vec::with_capacity(raw.len());
    for (name, RawEntry { dtype, shape: [words], data_offsets: (begin, end) }) in raw {
        if dtype != "U32" {
            return Err(ShardError::Header(format!("{name} holds {dtype} numbers, where all are U32")));
        }
        let bytes = end.checked_sub(begin).filter(|bytes| Some(*bytes) == words.checked_mul(4));
        let padded_bytes = bytes.ok_or_else(|| ShardError::Header(format!("{name} is not what its shape takes")))?;
        let offset = data.checked_add(begin).ok_or_else(|| ShardError::Header(format!("{name} leaves the file")))?;
        entries.push(ShardEntry { name, offset, padded_bytes });
    }
    entries.sort_by_key(|e| (e.offset, e.padded_bytes));
    let mut next = data;
    for entry in &entries {
        if entry.offset != next {
            return Err(ShardError::Header(format!("{} begins at byte {}, expected {next}", entry.name, entry.offset)));
        }
        next = next.saturating_add(entry.padded_bytes);
    }
    if next != file_bytes {
        return Err(ShardError::Header(format!("entries end at byte {next} of a file of {file_bytes}")));
    }
    match entries.iter().find(|e| !e.offset.is_multiple_of(PLANE_ALIGNMENT) || !e.padded_bytes.is_multiple_of(PLANE_ALIGNMENT)) {
        Some(e) => Err(ShardError::Unaligned { name: e.name.clone(), offset: e.offset, bytes: e.padded_bytes }),
        None => Ok(entries),
    }
}

/// [`read_shard_header`] of a whole file's bytes.
///
/// # Errors
/// As there.
pub fn read_shard(bytes: &[u8]) -> Result<Vec<ShardEntry>, ShardError> {
    read_shard_header(bytes, bytes.len() as u64)
}

/// What can be wrong with a shard's header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// An entry that cannot be written.
    #[error("entry {name} of {bytes} bytes is no whole number of words or is there twice")]
    Entry {
        /// The entry's name.
        name: String,
        /// Its size.
        bytes: u64,
    },
    /// The safetensors header itself is bad.
    #[error("not a valid safetensors header: {0}")]
    Header(String),
    /// A plane that no kernel could bind.
    #[error("entry {name} at byte {offset} with {bytes} bytes is not aligned to {PLANE_ALIGNMENT} bytes")]
    Unaligned {
        /// The entry's name.
        name: String,
        /// Its offset from the start of the file.
        offset: u64,
        /// Its size.
        bytes: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_a_valid_safetensors_file_with_aligned_entries() {
        let sizes = [("a.0.codes".to_string(), 1000), ("a.0.scales".to_string(), 4), ("b.0.values".to_string(), 512)];
        let layout = layout_shard(&sizes).unwrap();
        let mut file = layout.header.clone();
        file.resize(layout.file_bytes as usize, 7);
        assert_eq!(read_shard(&file).unwrap(), layout.entries);
        assert_eq!(safetensors::SafeTensors::deserialize(&file).unwrap().tensor("a.0.codes").unwrap().shape(), [256]);
        assert!(layout.entries.iter().all(|e| e.offset % 256 == 0 && e.padded_bytes % 256 == 0));
        file.pop();
        assert!(matches!(read_shard(&file), Err(ShardError::Header(_))), "a truncated file is refused");
    }

    #[test]
    fn entries_are_words_in_one_dimension_and_each_is_there_once() {
        let refused = |header: &str| {
            let mut file = (248u64).to_le_bytes().to_vec();
            file.extend(format!("{header:248}").bytes());
            file.resize(512, 0);
            read_shard(&file).unwrap_err().to_string()
        };
        let entry = r#""a":{"dtype":"U32","shape":[64],"data_offsets":[0,256]}"#;
        for (header, says) in [
            (format!("{{{}}}", entry.replace("U32", "F32")), "holds F32 numbers"),
            (format!("{{{}}}", entry.replace("[64]", "[8,8]")), "trailing characters"),
            (format!("{{{}}}", entry.replace("[64]", "[]")), "length 0"),
            (format!("{{{}}}", entry.replace("[64]", "[63]")), "not what its shape takes"),
            (format!("{{{}}}", entry.replace("[64]", "[4611686018427387968]")), "not what its shape takes"),
            (format!("{{{entry},{entry}}}"), "\"a\" is there twice"),
            (format!("{{\"__metadata__\":{{\"a\":1}},{entry}}}"), "expected a string"),
            (format!("[{entry}]"), "expected"),
        ] {
            let said = refused(&header);
            assert!(said.contains(says), "{header}: {said}");
        }
    }
}
