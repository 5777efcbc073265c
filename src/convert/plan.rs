//! [`Plan`]: the whole package, down to the last offset, before any weight is read.

use super::ConvertError;
use super::files::SourceFile;
use super::memory::Calibrated;
use super::pipeline::is_staged;
use crate::calibrate::Calibration;
use crate::quantize::Recipe;
use haikuq_format::layout::{plane_sizes, row_chunks};
use haikuq_format::manifest::{Chunk, FileEntry, Plane, TensorEntry, entry_name, shard_name};
use haikuq_format::scheme::Scheme;
use haikuq_format::shard::{ShardLayout, layout_shard};
use haikuq_format::{DecoderSpec, align};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ops::Range;

/// Weights in a block of rows, the unit that a thread quantizes: half a megabyte as f32, which a core's cache holds.
const BLOCK_WEIGHTS: usize = 1 << 17;

/// Chunks in memory at once: one being quantized, one waiting, one being written.
pub(super) const CHUNKS_IN_MEMORY: u64 = 3;

/// Memory of the program itself, its tables and the hashing of the sources, generously.
const BASE_MEMORY: u64 = 24 << 20;

/// Bytes of an entry in a shard's header beside its name, at most.
const HEADER_ENTRY_BYTES: u64 = 100;

/// The whole package, before any weight is read.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name of the recipe.
    pub recipe: String,
    /// Every tensor with its scheme and chunks; errors are not known yet.
    pub tensors: Vec<TensorEntry>,
    /// Every shard, laid out.
    pub shards: Vec<PlannedShard>,
    /// Threads that quantize, which the expected memory depends on.
    pub jobs: usize,
    /// What each tensor is expected to cost, in nats of KL divergence a token, where that was estimated.
    pub losses: Option<Vec<f64>>,
    /// Tokens of the calibration; 0 without one.
    pub calibration_tokens: usize,
    /// What calibration is expected to take of memory at most, in bytes; 0 without one.
    calibration_memory: u64,
    /// Of tensors of experts, how many of how many a token uses.
    shares: BTreeMap<String, (u64, u64)>,
    active_bytes: u64,
}

/// A hash of what calibrated quantization takes from a calibration.
fn calibration_digest(calibration: &Calibration) -> [u8; 32] {
    let mut hash = Sha256::new();
    for window in &calibration.windows {
        window.iter().for_each(|id| hash.update(id.to_le_bytes()));
        hash.update(b"\n");
    }
    for (name, s) in &calibration.sensitivities {
        hash.update(name);
        s.input.iter().chain(&s.output).chain(&s.lookup).chain([&s.coupling]).for_each(|x| hash.update(x.to_le_bytes()));
    }
    hash.finalize().into()
}

/// One shard of a plan.
#[derive(Clone, Debug)]
pub struct PlannedShard {
    /// File name.
    pub name: String,
    /// Header and places of all planes.
    pub layout: ShardLayout,
    /// Its chunks as (tensor, chunk) of [`Plan::tensors`], in file order. A chunk never spans two shards.
    pub chunks: Vec<(usize, usize)>,
}

impl PlannedShard {
    /// Its entry in the manifest.
    pub(super) fn entry(&self, sha256: &str) -> FileEntry {
        FileEntry { name: self.name.clone(), bytes: self.layout.file_bytes, sha256: sha256.into() }
    }
}

impl Plan {
    /// Plans the package of `spec` with the scheme of each of its tensors that recipe `recipe` led to, in shards of at most `shard_bytes` (more where eight rows of a
    /// matrix need more).
    ///
    /// # Errors
    /// If a shard cannot be laid out.
    ///
    /// # Panics
    /// If there are not as many schemes as tensors.
    pub fn new(
        spec: &DecoderSpec,
        recipe: &str,
        schemes: Vec<Scheme>,
        shard_bytes: u64,
        jobs: usize,
    ) -> Result<Self, ConvertError> {
        let specs = spec.tensors();
        assert_eq!(schemes.len(), specs.len(), "a scheme a tensor");
        let mut tensors: Vec<TensorEntry> =
            specs.into_iter().zip(schemes).map(|(tensor, scheme)| TensorEntry::new(tensor, scheme)).collect();
        let mut drafts: Vec<Draft> = vec![Draft::default()];
        for (t, tensor) in tensors.iter_mut().enumerate() {
            let (rows, columns) = (tensor.rows(), tensor.columns());
            for (c, range) in chunk_rows(&tensor.name, tensor.scheme, rows, columns, shard_bytes).into_iter().enumerate() {
                let entries = chunk_entries(&tensor.name, c, tensor.scheme, range.len(), columns);
                let needed = stored_bytes(&entries);
                if drafts.last().is_some_and(|d| !d.chunks.is_empty() && Draft::HEADER + d.bytes + needed > shard_bytes) {
                    drafts.push(Draft::default());
                }
                if let Some(draft) = drafts.last_mut() {
                    draft.bytes += needed;
                    draft.entries.extend(entries);
                    draft.chunks.push((t, c));
                }
                tensor.chunks.push(Chunk { first_row: range.start, rows: range.len(), planes: Vec::new() });
            }
        }
        let count = drafts.len();
        let mut shards = Vec::with_capacity(count);
        for (s, draft) in drafts.into_iter().enumerate() {
            let layout = layout_shard(&draft.entries)?;
            let mut placed = layout.entries.iter();
            for &(t, c) in &draft.chunks {
                let (scheme, columns) = (tensors[t].scheme, tensors[t].columns());
                let chunk = &mut tensors[t].chunks[c];
                let sizes = plane_sizes(scheme, chunk.rows, columns);
                chunk.planes = sizes
                    .iter()
                    .zip(placed.by_ref())
                    .map(|(size, entry)| Plane { kind: size.kind, shard: s, offset: entry.offset, bytes: size.words as u64 * 4 })
                    .collect();
            }
            shards.push(PlannedShard { name: shard_name(s, count), layout, chunks: draft.chunks });
        }
        let share = |t: &TensorEntry| Some((t.name.clone(), spec.active_share(&t.name))).filter(|(_, share)| share.1 > 1);
        let shares = tensors.iter().filter_map(share).collect();
        let active_bytes = haikuq_format::manifest::active_bytes(spec, &tensors);
        let (recipe, losses, calibration_tokens, calibration_memory) = (recipe.into(), None, 0, 0);
        Ok(Self { recipe, tensors, shards, jobs, losses, calibration_tokens, calibration_memory, shares, active_bytes })
    }

    /// Notes what is known beyond the layout: the tensors' expected losses, and the calibration.
    pub fn expect(
        &mut self,
        spec: &DecoderSpec,
        losses: Option<Vec<f64>>,
        calibration: Option<&Calibration>,
        calibrated: Calibrated,
    ) {
        self.losses = losses;
        let memory = |c: &Calibration| {
            let (sizes, jobs) = (c.sizes(), self.jobs);
            super::memory::measuring(spec, &sizes, jobs, calibrated).max(super::memory::rounding(spec, &sizes, jobs, calibrated))
        };
        self.calibration_memory = calibration.map_or(0, memory);
        self.calibration_tokens = calibration.map_or(0, |c| c.windows.iter().map(Vec::len).sum());
    }

    /// Work of each matrix of a calibrated conversion by its name, for telling what is left; nothing without calibration.
    pub fn works(&self) -> BTreeMap<String, f64> {
        let matrices = self.tensors.iter().filter(|t| is_staged(t) && t.class.is_quantized() && self.calibration_tokens > 0);
        matrices.map(|t| (t.name.clone(), super::cost::matrices(self.calibration_tokens, t, self.share(t)))).collect()
    }

    /// How many of how many experts a token uses of a tensor; 1 of 1 where it is not experts'.
    fn share(&self, tensor: &TensorEntry) -> (u64, u64) {
        self.shares.get(&tensor.name).copied().unwrap_or((1, 1))
    }

    /// Bytes of weights that one decoded token reads; fewer than all where there are experts.
    pub fn active_bytes(&self) -> u64 {
        self.active_bytes
    }

    /// Whether there are experts.
    pub fn has_experts(&self) -> bool {
        !self.shares.is_empty()
    }

    /// The expected KL divergence from the checkpoint, in nats a token.
    pub fn expected_loss(&self) -> Option<f64> {
        self.losses.as_ref().map(|l| l.iter().sum())
    }

    /// Bits a weight with which a package of `spec` has `bytes` of shards.
    ///
    /// # Errors
    /// If a shard cannot be laid out.
    pub fn bits_for_size(spec: &DecoderSpec, shard_bytes: u64, bytes: u64) -> Result<f64, ConvertError> {
        // What does not depend on the schemes of matrices: vectors, routers, and headers about as long as in any other plan.
        let scheme = |t: haikuq_format::spec::TensorSpec| if t.class.is_quantized() { Scheme::F16 } else { Scheme::F32 };
        let plan = Self::new(spec, "", spec.tensors().into_iter().map(scheme).collect(), shard_bytes, 1)?;
        let matrices = || plan.tensors.iter().filter(|t| t.class.is_quantized());
        let rest = plan.total_bytes() - matrices().map(TensorEntry::bytes).sum::<u64>();
        // Grouped schemes have up to four planes where f16 has one, and so longer headers.
        let headers = matrices().count() as u64 * 3 * (HEADER_ENTRY_BYTES + haikuq_format::PLANE_ALIGNMENT);
        let weights: usize = matrices().map(|t| t.rows() * t.columns()).sum();
        Ok(bytes.saturating_sub(rest + headers) as f64 * 8.0 / weights.max(1) as f64)
    }

    /// Bytes of all shards.
    pub fn total_bytes(&self) -> u64 {
        self.shards.iter().map(|s| s.layout.file_bytes).sum()
    }

    /// Number of weights, vectors included.
    pub fn weights(&self) -> u64 {
        self.tensors.iter().map(|t| (t.rows() * t.columns()) as u64).sum()
    }

    /// Bits a weight over all matrices, scales included.
    pub fn bits_per_weight(&self) -> f64 {
        let matrices = || self.tensors.iter().filter(|t| t.class.is_quantized());
        let weights: usize = matrices().map(|t| t.rows() * t.columns()).sum();
        matrices().map(TensorEntry::bytes).sum::<u64>() as f64 * 8.0 / weights.max(1) as f64
    }

    /// Memory that converting is expected to take at most, in bytes, beside the mapped checkpoint.
    ///
    /// Matrices become chunks: three of these, and each thread's block of rows as f32, codes and packed words. Where a
    /// calibration guides them, that happens after: sensitivities are measured before (with the inputs of all layers, a
    /// layer or the head, and each thread's window on its way back), then a layer at a time is quantized (with both streams
    /// of activations, the inputs of its matrices, Hessians and their factors), last the head.
    pub fn peak_memory(&self) -> u64 {
        let chunk = |t: &TensorEntry| t.chunks.iter().map(|c| c.planes.iter().map(|p| p.bytes).sum()).max().unwrap_or(0);
        let largest_chunk: u64 = self.tensors.iter().map(chunk).max().unwrap_or(0);
        let block = |t: &TensorEntry| (block_rows(t.columns()).min(t.rows()) * t.columns()) as u64;
        let largest_block: u64 = self.tensors.iter().map(block).max().unwrap_or(0);
        // A staged matrix is whole in memory while its chunks go their way.
        let staged = || self.tensors.iter().filter(|t| is_staged(t));
        let staged = if self.calibration_memory > 0 { staged().map(|t| 2 * t.bytes()).max().unwrap_or(0) } else { 0 };
        let streaming = CHUNKS_IN_MEMORY * largest_chunk + self.jobs as u64 * largest_block * 10 + staged;
        BASE_MEMORY + streaming.max(self.calibration_memory)
    }

    /// Weights in some of its shards.
    pub fn weights_in(&self, shards: Range<usize>) -> u64 {
        self.shards[shards].iter().map(|shard| self.shard_weights(shard)).sum()
    }

    /// Weights in a shard.
    pub(super) fn shard_weights(&self, shard: &PlannedShard) -> u64 {
        shard.chunks.iter().map(|&(t, c)| (self.tensors[t].chunks[c].rows * self.tensors[t].columns()) as u64).sum()
    }

    /// A hash of everything that decides the package's bytes, except for the weights themselves: tool, recipe, layout,
    /// names and sizes of the sources.
    pub(super) fn digest(&self, recipe: &Recipe, calibration: Option<&Calibration>, sources: &[SourceFile]) -> String {
        let mut hash = Sha256::new();
        hash.update(super::tool());
        hash.update(recipe.text.as_bytes());
        if let Some(calibration) = calibration {
            hash.update(calibration_digest(calibration));
        }
        for source in sources {
            hash.update(format!("\n{} {}\n", source.name, source.fingerprint.bytes));
        }
        for (shard, tensor) in self.shards.iter().flat_map(|s| s.chunks.iter().map(move |c| (s, &self.tensors[c.0]))) {
            hash.update(format!("{} {} {:?} {}\n", shard.name, tensor.name, tensor.shape, tensor.scheme));
        }
        self.shards.iter().for_each(|s| hash.update(&s.layout.header));
        haikuq_files::hex(&hash.finalize())
    }
}

/// A shard while it fills.
#[derive(Default)]
struct Draft {
    entries: Vec<(String, u64)>,
    chunks: Vec<(usize, usize)>,
    bytes: u64,
}

impl Draft {
    /// The header's length field, braces, and its padding.
    const HEADER: u64 = 10 + haikuq_format::PLANE_ALIGNMENT;
}

fn chunk_entries(tensor: &str, chunk: usize, scheme: Scheme, rows: usize, columns: usize) -> Vec<(String, u64)> {
    let entry = |p: &haikuq_format::layout::PlaneSize| (entry_name(tensor, chunk, p.kind), p.words as u64 * 4);
    plane_sizes(scheme, rows, columns).iter().map(entry).collect()
}

/// Bytes that entries take in a file, header included, at most.
fn stored_bytes(entries: &[(String, u64)]) -> u64 {
    entries.iter().map(|(name, bytes)| align(*bytes) + name.len() as u64 + HEADER_ENTRY_BYTES).sum()
}

/// Cuts a matrix into chunks of whole rows that each fit a shard and the format's limit for a plane: as few as
/// possible, about equally large, and whole blocks of eight rows, so that packed words never span two chunks' rows.
fn chunk_rows(tensor: &str, scheme: Scheme, rows: usize, columns: usize, shard_bytes: u64) -> Vec<Range<usize>> {
    let largest = row_chunks(scheme, rows, columns).first().map_or(rows, Range::len);
    let fits = |n: usize| Draft::HEADER + stored_bytes(&chunk_entries(tensor, 0, scheme, n, columns)) <= shard_bytes;
    if largest <= 8 || (largest == rows && fits(rows)) {
        return row_chunks(scheme, rows, columns);
    }
    // Bytes grow with rows, so the largest number of eights that fits is found by bisection.
    let (mut low, mut high) = (1, largest / 8);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if fits(middle * 8) { low = middle } else { high = middle - 1 }
    }
    let count = rows.div_ceil(low * 8);
    let step = rows.div_ceil(count).next_multiple_of(8);
    (0..rows).step_by(step).map(|start| start..rows.min(start + step)).collect()
}

/// Rows of a block: about [`BLOCK_WEIGHTS`], a multiple of eight so that scales (two or four a word) and zero points
/// (eight a word) of a block fill whole words.
pub(super) fn block_rows(columns: usize) -> usize {
    (BLOCK_WEIGHTS / columns.max(1) / 8 * 8).max(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_even_whole_eights_and_fit_the_shard() {
        let q4: Scheme = "q4/32".parse().unwrap_or(Scheme::F32);
        let chunks = chunk_rows("embedding", q4, 1003, 256, 64 << 10);
        assert_eq!(chunks.iter().map(Range::len).sum::<usize>(), 1003);
        assert_eq!(chunks.iter().map(Range::len).collect::<Vec<_>>(), [336, 336, 331]);
        assert!(chunks[..2].iter().all(|c| c.len() % 8 == 0));
    }

    #[test]
    fn a_matrix_that_fits_is_one_chunk() {
        assert_eq!(chunk_rows("layers.0.down", Scheme::F32, 7, 33, 64 << 10), vec![0..7; 1]);
    }

    /// A shape like that of OLMoE-1B-7B, of which no weight is read.
    #[test]
    fn packages_of_more_than_four_gibibytes_are_planned_and_checked() {
        use haikuq_format::spec::{Activation, Attention, Experts, LayerSpec, Mlp, Norm, NormKind, Scores};
        let mut mlp = Mlp::new(1024, Activation::Silu);
        mlp.experts = Some(Experts::new(64, 8, Scores::Softmax));
        let layers = vec![LayerSpec::new(Attention::new(16, 16, 128), mlp); 16];
        let spec = DecoderSpec::new(50_304, 2048, 4096, Norm { kind: NormKind::Rms, epsilon: 1e-5 }, layers);
        let scheme = |t: &haikuq_format::spec::TensorSpec| if t.class.is_quantized() { Scheme::F16 } else { Scheme::F32 };
        for shard_bytes in [64 << 20, 64 << 30] {
            let plan = Plan::new(&spec, "f16", spec.tensors().iter().map(scheme).collect(), shard_bytes, 1).unwrap();
            assert!(plan.total_bytes() > 12 << 30 && plan.shards.iter().all(|s| s.layout.file_bytes <= shard_bytes));
            let planes = plan.tensors.iter().flat_map(|t| &t.chunks).flat_map(|c| &c.planes);
            let last = planes.map(|p| p.offset).max().unwrap_or(0);
            assert_eq!(last > u64::from(u32::MAX), shard_bytes > 1 << 32);
            // 1.18 of 6.92 billion weights: eight of 64 experts, and no embedding.
            assert_eq!((plan.active_bytes() >> 20, plan.has_experts()), (2252, true));
            let mut manifest = haikuq_format::Manifest::new(spec.clone());
            manifest.tensors = plan.tensors.clone();
            manifest.shards = plan.shards.iter().map(|s| s.entry(&"0".repeat(64))).collect();
            let read = haikuq_format::Manifest::from_json(&manifest.to_json()).unwrap();
            assert_eq!((read.weight_bytes(), read.active_bytes()), (plan.total_bytes(), plan.active_bytes()));
        }
    }
}
