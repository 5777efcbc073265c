//! Random weights for any [`DecoderSpec`], as a package in memory and as the reference reads them.

use haikuq::quantize::{quantize_table, store_rows};
use haikuq::reference::Reference;
use haikuq_format::layout::{PlaneBuffers, PlaneKind, QuantizedRows, Scales, dequantize, groups, pack_quantized, padded};
use haikuq_format::manifest::{Chunk, FileEntry, MANIFEST_FILE, Manifest, Plane, TensorEntry, entry_name, shard_name};
use haikuq_format::scheme::{Codebook, Grouped};
use haikuq_format::shard::layout_shard;
use haikuq_format::spec::{TensorClass, TensorSpec};
use haikuq_format::{DecoderSpec, Scheme};
use haikuq_runtime::package::{MemorySource, Package};
use haikuq_runtime::sampling::uniform;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// A decoder with random weights.
pub struct RandomDecoder {
    spec: DecoderSpec,
    /// What the package stores of each tensor: rounded, where its scheme rounds.
    weights: BTreeMap<String, Vec<f32>>,
    files: BTreeMap<String, Vec<u8>>,
}

/// Rows of a chunk: few, so that every matrix has several chunks. Those of experts may end within an expert.
fn chunk_rows(tensor: &TensorSpec) -> usize {
    if tensor.name.contains(".experts.") { 40 } else { 38 }
}

impl RandomDecoder {
    /// Weights that depend on the spec alone; `scheme` says how matrices are stored.
    pub fn new(spec: &DecoderSpec, scheme: impl Fn(&TensorSpec) -> Scheme) -> Self {
        let mut this = Self { spec: spec.clone(), weights: BTreeMap::new(), files: BTreeMap::new() };
        let specs = spec.tensors();
        let (mut tensors, mut shards) = (Vec::new(), Vec::new());
        for (shard, tensor) in specs.iter().enumerate() {
            let scheme = if tensor.class.is_quantized() { scheme(tensor) } else { Scheme::F32 };
            let (entry, bytes) = this.store(tensor, scheme, shard, numbers(tensor, shard as u64));
            let sha256 = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
            let name = shard_name(shard, specs.len());
            shards.push(FileEntry { name: name.clone(), bytes: bytes.len() as u64, sha256 });
            this.files.insert(name, bytes);
            tensors.push(entry);
        }
        let mut manifest = Manifest::new(spec.clone());
        (manifest.tensors, manifest.shards) = (tensors, shards);
        (manifest.provenance.tool, manifest.provenance.recipe) = ("test".into(), "test".into());
        this.files.insert(MANIFEST_FILE.into(), manifest.to_json());
        this
    }

    /// One tensor as a shard of its own.
    fn store(&mut self, tensor: &TensorSpec, scheme: Scheme, shard: usize, values: Vec<f32>) -> (TensorEntry, Vec<u8>) {
        let (columns, of_chunk) = (*tensor.shape.last().unwrap(), chunk_rows(tensor));
        let stored: Vec<PlaneBuffers> = match scheme {
            Scheme::Grouped(grouped) if grouped.codebook == Codebook::Learned => learned(grouped, columns, &values, of_chunk),
            _ => values.chunks(of_chunk * columns).map(|rows| store_rows(scheme, columns, rows).unwrap().planes).collect(),
        };
        let planes =
            || stored.iter().enumerate().flat_map(|(i, planes)| planes.iter().map(move |(kind, words)| (i, *kind, words)));
        let sizes: Vec<_> =
            planes().map(|(i, kind, words)| (entry_name(&tensor.name, i, kind), words.len() as u64 * 4)).collect();
        let layout = layout_shard(&sizes).unwrap();
        let mut bytes = layout.header.clone();
        for ((_, _, words), entry) in planes().zip(&layout.entries) {
            bytes.extend(words.iter().flat_map(|w| w.to_le_bytes()));
            bytes.resize((entry.offset + entry.padded_bytes) as usize, 0);
        }
        let (mut chunks, mut entries, mut first_row, mut read) = (Vec::new(), layout.entries.iter(), 0, Vec::new());
        for planes in &stored {
            let rows = of_chunk.min(values.len() / columns - first_row);
            let slices: Vec<(PlaneKind, &[u32])> = planes.iter().map(|(kind, words)| (*kind, words.as_slice())).collect();
            read.extend(dequantize(scheme, rows, columns, &slices));
            let planes = planes.iter().zip(entries.by_ref());
            let planes = planes.map(|((kind, w), e)| Plane { kind: *kind, shard, offset: e.offset, bytes: w.len() as u64 * 4 });
            chunks.push(Chunk { first_row, rows, planes: planes.collect() });
            first_row += rows;
        }
        self.weights.insert(tensor.name.clone(), read);
        let mut entry = TensorEntry::new(tensor.clone(), scheme);
        entry.chunks = chunks;
        (entry, bytes)
    }

    /// The decoder in f32 on the CPU.
    pub fn reference(&self) -> Reference {
        Reference::load(&self.spec, |name| self.weights.get(name).cloned().ok_or(format!("no tensor {name}"))).unwrap()
    }

    /// The decoder as a package.
    pub fn package(&self) -> Package {
        let source: MemorySource = self.files.iter().map(|(name, bytes)| (name.clone(), bytes.clone())).collect();
        pollster::block_on(Package::open(source)).unwrap()
    }
}

/// The chunks of a matrix with a learned codebook, which they share.
fn learned(scheme: Grouped, columns: usize, values: &[f32], of_chunk: usize) -> Vec<PlaneBuffers> {
    let matrix = quantize_table(scheme, values, columns, None).rows;
    let per_row = groups(columns, scheme.group);
    let part = |codes: &[u8], first_row: usize| {
        let rows = codes.len() / padded(columns);
        let scales = first_row * per_row..(first_row + rows) * per_row;
        let block = QuantizedRows {
            codes: codes.to_vec(),
            scales: match &matrix.scales {
                Scales::F16(all) => Scales::F16(all[scales].to_vec()),
                Scales::E4M4(all) => Scales::E4M4(all[scales].to_vec()),
            },
            codebook: matrix.codebook.clone(),
            ..QuantizedRows::default()
        };
        pack_quantized(scheme, rows, columns, &block)
    };
    let chunks = matrix.codes.chunks(of_chunk * padded(columns)).enumerate();
    chunks.map(|(i, codes)| part(codes, i * of_chunk)).collect()
}

/// Matrices keep the variance of what goes through them, gains are around 1, and biases show when they are forgotten.
fn numbers(tensor: &TensorSpec, seed: u64) -> Vec<f32> {
    let (n, columns) = (tensor.shape.iter().product::<usize>(), *tensor.shape.last().unwrap());
    let (centre, size) = match tensor.class {
        TensorClass::Embedding => (0.0, 1.7),
        TensorClass::Vector if [".gain", ".output_scale"].iter().any(|end| tensor.name.ends_with(end)) => (1.0, 0.5),
        TensorClass::Vector => (0.0, 0.4),
        TensorClass::Attention | TensorClass::Mlp | TensorClass::Head | TensorClass::Router => {
            (0.0, 1.7 / (columns as f32).sqrt())
        }
    };
    (0..n as u64).map(|i| centre + size * (2.0 * uniform(seed, i) - 1.0)).collect()
}
