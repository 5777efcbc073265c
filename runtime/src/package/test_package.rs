//! Small packages in memory, for tests.

use super::{MemorySource, sha256_hex};
use haikuq_format::layout::{PlaneBuffers, pack_f32, row_chunks};
use haikuq_format::manifest::{Chunk, FileEntry, MANIFEST_FILE, Manifest, Plane, TensorEntry, entry_name, shard_name};
use haikuq_format::shard::layout_shard;
use haikuq_format::spec::{Activation, Attention, LayerSpec, Mlp, Norm, NormKind, RopeTable, TensorSpec};
use haikuq_format::{DecoderSpec, Scheme};
use std::ops::Range;

/// A decoder of one layer that is small enough to read its manifest.
pub fn tiny_spec() -> DecoderSpec {
    let mut attention = Attention::new(2, 1, 8);
    attention.rope = Some(0);
    let layer = LayerSpec::new(attention, Mlp::new(24, Activation::Silu));
    let mut spec = DecoderSpec::new(40, 16, 32, Norm { kind: NormKind::Rms, epsilon: 1e-5 }, vec![layer]);
    spec.ropes.push(RopeTable::new(vec![1.0, 0.1, 0.01, 0.001]));
    spec.tied_head = true;
    spec.eos_token_ids.push(0);
    spec
}

/// A package of `spec`, one shard a chunk of `tensors_per_shard` tensors, with `files` beside. `pack` gives a tensor's scheme and
/// the planes of a run of its rows.
pub fn build(
    spec: DecoderSpec,
    tensors_per_shard: usize,
    files: &[(&str, &[u8])],
    scheme: impl Fn(&TensorSpec) -> Scheme,
    pack: impl Fn(&TensorSpec, Range<usize>) -> PlaneBuffers,
) -> (MemorySource, Manifest) {
    let mut source = MemorySource::new();
    let specs = spec.tensors();
    let count = specs.len().div_ceil(tensors_per_shard);
    let (mut tensors, mut shards) = (Vec::new(), Vec::new());
    for (shard, group) in specs.chunks(tensors_per_shard).enumerate() {
        let mut packed = Vec::new();
        for tensor in group {
            let (rows, columns) = if let [rows, columns] = tensor.shape[..] { (rows, columns) } else { (1, tensor.shape[0]) };
            for (i, range) in row_chunks(scheme(tensor), rows, columns).into_iter().enumerate() {
                packed.push((tensor, i, range.clone(), pack(tensor, range)));
            }
        }
        let planes = || packed.iter().flat_map(|(t, i, _, planes)| planes.iter().map(move |(kind, words)| (t, i, *kind, words)));
        let sizes: Vec<_> = planes().map(|(t, i, kind, words)| (entry_name(&t.name, *i, kind), words.len() as u64 * 4)).collect();
        let layout = layout_shard(&sizes).unwrap();
        let mut bytes = layout.header.clone();
        for ((_, _, _, words), entry) in planes().zip(&layout.entries) {
            bytes.extend(words.iter().flat_map(|w| w.to_le_bytes()));
            bytes.resize((entry.offset + entry.padded_bytes) as usize, 0);
        }
        let mut entries = layout.entries.iter();
        for tensor in group {
            let of_tensor = packed.iter().filter(|p| p.0.name == tensor.name);
            let chunks = of_tensor.map(|(_, _, range, planes)| Chunk {
                first_row: range.start,
                rows: range.len(),
                planes: (planes.iter().zip(entries.by_ref()))
                    .map(|((kind, words), e)| Plane { kind: *kind, shard, offset: e.offset, bytes: words.len() as u64 * 4 })
                    .collect(),
            });
            let mut entry = TensorEntry::new(tensor.clone(), scheme(tensor));
            entry.chunks = chunks.collect();
            tensors.push(entry);
        }
        let name = shard_name(shard, count);
        shards.push(FileEntry { name: name.clone(), bytes: bytes.len() as u64, sha256: sha256_hex(&bytes) });
        source.insert(name, bytes);
    }
    let mut listed = Vec::new();
    for (name, bytes) in files {
        listed.push(FileEntry { name: (*name).into(), bytes: bytes.len() as u64, sha256: sha256_hex(bytes) });
        source.insert(*name, bytes.to_vec());
    }
    let mut manifest = Manifest::new(spec);
    (manifest.tensors, manifest.shards, manifest.files) = (tensors, shards, listed);
    (manifest.provenance.tool, manifest.provenance.recipe) = ("test".into(), "test".into());
    manifest.check().unwrap();
    source.insert(MANIFEST_FILE, manifest.to_json());
    (source, manifest)
}

/// [`build`] with every tensor in f32; `value` gives the number at an index of a tensor.
pub fn build_f32(
    spec: DecoderSpec,
    tensors_per_shard: usize,
    files: &[(&str, &[u8])],
    value: impl Fn(&TensorSpec, usize) -> f32,
) -> (MemorySource, Manifest) {
    build(
        spec,
        tensors_per_shard,
        files,
        |_| Scheme::F32,
        |tensor, rows| {
            let columns = *tensor.shape.last().unwrap();
            let values: Vec<f32> = (rows.start * columns..rows.end * columns).map(|i| value(tensor, i)).collect();
            pack_f32(rows.len(), columns, &values)
        },
    )
}
