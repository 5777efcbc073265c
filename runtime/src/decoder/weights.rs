//! Weights on the GPU: planes of whole matrices, filled from shards.
//!
//! A manifest cuts a matrix into chunks of at most 64 MiB a plane, so that any device can bind them. Here as many neighbouring
//! chunks become one as the device's binding limit allows: a product then is one dispatch.

use super::DecoderError;
use crate::device::{Gpu, GpuError, Profile};
use crate::kernels::weights::{GpuChunk, GpuMatrix, GpuPlane};
use crate::ordered;
use crate::package::{PIECE_BYTES, Package};
use haikuq_format::layout::{PlaneKind, plane_sizes};
use haikuq_format::manifest::{Chunk, TensorEntry};
use haikuq_format::spec::PerLayerEmbedding;
use haikuq_format::{Manifest, align};
use std::collections::BTreeMap;
use std::ops::Range;

/// Planes share buffers of about this size.
const BUFFER_BYTES: u64 = 128 << 20;

/// Every tensor of a package, by canonical name.
pub(super) struct Weights {
    tensors: BTreeMap<String, GpuMatrix>,
    /// Where the parts of each shard go, in the order of the shard.
    destinations: Vec<Vec<Destination>>,
    /// Bytes of all shards.
    pub(super) bytes: u64,
    /// Those that the GPU has.
    pub(super) resident: u64,
}

/// Where a plane of a shard goes.
struct Destination {
    /// Bytes of the shard.
    from: Range<u64>,
    buffer: wgpu::Buffer,
    /// First byte of the buffer.
    to: u64,
}

/// How far loading has come; see [`super::Decoder::load`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes of shards checked and uploaded.
    pub bytes: u64,
    /// Bytes of all shards.
    pub total_bytes: u64,
    /// Kernels compiled of those that are compiled beforehand, as browsers do once all bytes are there: 0 of 0 until then.
    pub kernels: usize,
    /// How many these are.
    pub total_kernels: usize,
}

impl LoadProgress {
    fn of_bytes(bytes: u64, total_bytes: u64) -> Self {
        Self { bytes, total_bytes, kernels: 0, total_kernels: 0 }
    }
}

impl Weights {
    /// Buffers for all planes of a package, empty yet: missing memory shows before anything is read.
    pub(super) fn allocate(gpu: &Gpu, manifest: &Manifest) -> Result<Self, DecoderError> {
        let mut layout = Layout { gpu, room: Vec::new(), planes: Vec::new() };
        // A token needs one row of that table, which is larger than all the rest: it stays where it is.
        let (resident, apart): (Vec<_>, Vec<_>) = manifest.tensors.iter().partition(|t| t.name != PerLayerEmbedding::TABLE);
        let plans: Vec<_> = resident.into_iter().map(|t| (t, layout.tensor(t))).collect();
        for (tensor, chunks) in &plans {
            check_limits(&gpu.profile, tensor, chunks)?;
        }
        let buffers: Vec<_> = layout.room.iter().map(|bytes| gpu.storage("weights", *bytes)).collect();
        let mut destinations: Vec<Vec<Destination>> = manifest.shards.iter().map(|_| Vec::new()).collect();
        for plane in &layout.planes {
            let (from, buffer) = (plane.from..plane.from + plane.bytes, buffers[plane.buffer].clone());
            destinations[plane.shard].push(Destination { from, buffer, to: plane.to });
        }
        let destinations: Vec<_> = destinations.into_iter().map(|d| ordered::by_key(d, |d| d.from.start)).collect();
        let bind = |(tensor, chunks): &(&TensorEntry, Vec<Merged>)| {
            let chunks = chunks.iter().map(|c| c.bind(&buffers)).collect();
            let matrix =
                GpuMatrix { scheme: tensor.scheme, rows: tensor.rows(), columns: tensor.columns(), chunks, lookup: None };
            (tensor.name.clone(), matrix)
        };
        let tensors = ordered::map(plans.iter().map(bind));
        let bytes = manifest.weight_bytes();
        let resident = bytes - apart.iter().map(|t| t.bytes()).sum::<u64>().min(bytes);
        Ok(Self { tensors, destinations, bytes, resident })
    }

    /// Reads, checks and uploads shard after shard: whole ones where the source holds them, else a piece at a time.
    pub(super) async fn fill(
        &self,
        gpu: &Gpu,
        package: &Package,
        progress: &mut (impl FnMut(LoadProgress) + ?Sized),
    ) -> Result<(), DecoderError> {
        let manifest = package.manifest();
        let (total_bytes, mut bytes) = (self.bytes, 0);
        progress(LoadProgress::of_bytes(bytes, total_bytes));
        let mut uploading = None;
        for (i, (shard, destinations)) in manifest.shards.iter().zip(&self.destinations).enumerate() {
            let mut told = |offset: u64| progress(LoadProgress::of_bytes(bytes + offset, total_bytes));
            if let Some(held) = package.hold_shard(i).await? {
                for begin in (0..shard.bytes).step_by(PIECE_BYTES as usize) {
                    let end = (begin + PIECE_BYTES).min(shard.bytes);
                    for part in parts(destinations, begin..end) {
                        held.upload(&gpu.queue, part.buffer, part.to, part.from);
                    }
                    told(end);
                }
            } else {
                // Nothing runs on these bytes before the whole shard was found to be right.
                let mut on_piece = |offset: u64, piece: &[u8]| {
                    for part in parts(destinations, offset..offset + piece.len() as u64) {
                        let bytes = &piece[(part.from.start - offset) as usize..(part.from.end - offset) as usize];
                        gpu.write(part.buffer, part.to, bytes);
                    }
                    told(offset + piece.len() as u64);
                };
                package.stream_shard(i, &mut on_piece).await?;
            }
            bytes += shard.bytes;
            // One shard is uploaded while the next one is read; the staging memory of those before is free by then.
            if let Some(before) = uploading.replace(gpu.submit_writes()) {
                before.await?;
            }
        }
        if let Some(last) = uploading {
            last.await?;
        }
        let mut told = |kernels, total_kernels| progress(LoadProgress { bytes, total_bytes, kernels, total_kernels });
        Ok(gpu.compiled(&mut told).await?)
    }

    /// A tensor that the spec lists.
    pub(super) fn get(&self, name: &str) -> &GpuMatrix {
        // `Manifest::check` has compared the tensor table with the spec's list.
        self.tensors.get(name).unwrap_or_else(|| panic!("the spec lists no tensor {name}"))
    }

    pub(super) fn find(&self, name: &str) -> Option<&GpuMatrix> {
        self.tensors.get(name)
    }

    /// Whether nothing is quantized or rounded.
    pub(super) fn are_f32(&self) -> bool {
        self.tensors.values().all(|t| t.scheme == haikuq_format::Scheme::F32)
    }
}

/// A part of a shard and the place where it belongs.
struct PartOfShard<'a> {
    /// Bytes of the shard.
    from: Range<u64>,
    buffer: &'a wgpu::Buffer,
    /// First byte of the buffer.
    to: u64,
}

/// What lies in bytes `range` of a shard.
fn parts(destinations: &[Destination], range: Range<u64>) -> impl Iterator<Item = PartOfShard<'_>> {
    let first = destinations.partition_point(|d| d.from.end <= range.start);
    destinations[first..].iter().take_while(move |d| d.from.start < range.end).map(move |d| {
        let from = d.from.start.max(range.start)..d.from.end.min(range.end);
        PartOfShard { to: d.to + (from.start - d.from.start), from, buffer: &d.buffer }
    })
}

/// Neighbouring chunks that the device sees as one.
struct Merged {
    first_row: usize,
    rows: usize,
    /// Kind, number of the buffer, first byte, bytes.
    planes: Vec<(PlaneKind, usize, u64, u64)>,
}

impl Merged {
    fn bind(&self, buffers: &[wgpu::Buffer]) -> GpuChunk {
        let plane = |(kind, buffer, offset, bytes): &(PlaneKind, usize, u64, u64)| {
            (*kind, GpuPlane { buffer: buffers[*buffer].clone(), offset: *offset, bytes: *bytes })
        };
        GpuChunk { first_row: self.first_row, rows: self.rows, planes: self.planes.iter().map(plane).collect() }
    }
}

/// A plane of a chunk on its way from a shard to a buffer.
struct PlanePlan {
    shard: usize,
    from: u64,
    bytes: u64,
    buffer: usize,
    to: u64,
}

/// Lays planes into buffers.
struct Layout<'a> {
    gpu: &'a Gpu,
    /// Bytes of each buffer.
    room: Vec<u64>,
    planes: Vec<PlanePlan>,
}

impl Layout<'_> {
    fn tensor(&mut self, tensor: &TensorEntry) -> Vec<Merged> {
        let runs = runs(&self.gpu.profile, tensor);
        runs.into_iter().map(|run| self.merge(&tensor.chunks[run])).collect()
    }

    /// Lays the planes of one kind of `chunks` one after the other. All have the same codebook: one of them is enough.
    fn merge(&mut self, chunks: &[Chunk]) -> Merged {
        let mut merged = Merged { first_row: chunks[0].first_row, rows: chunks.iter().map(|c| c.rows).sum(), planes: Vec::new() };
        for (i, plane) in chunks[0].planes.iter().enumerate() {
            let parts = if plane.kind == PlaneKind::Codebook { &chunks[..1] } else { chunks };
            let bytes = parts.iter().map(|c| c.planes[i].bytes).sum();
            let (buffer, first) = self.take(bytes);
            let mut to = first;
            for part in parts.iter().map(|c| &c.planes[i]) {
                self.planes.push(PlanePlan { shard: part.shard, from: part.offset, bytes: part.bytes, buffer, to });
                to += part.bytes;
            }
            merged.planes.push((plane.kind, buffer, first, bytes));
        }
        merged
    }

    /// Room for a plane: number of the buffer, first byte.
    fn take(&mut self, bytes: u64) -> (usize, u64) {
        let bytes = align(bytes);
        if self.room.last().is_none_or(|used| used + bytes > BUFFER_BYTES) {
            self.room.push(0);
        }
        let (buffer, used) = (self.room.len() - 1, self.room.last_mut().expect("one was just added"));
        *used += bytes;
        (buffer, *used - bytes)
    }
}

/// Runs of neighbouring chunks whose planes, laid one after the other, are the planes of the run, and fit a binding.
fn runs(profile: &Profile, tensor: &TensorEntry) -> Vec<Range<usize>> {
    let limit = profile.max_binding.min(profile.max_buffer);
    let fits = |run: &[Chunk]| {
        let sizes = plane_sizes(tensor.scheme, run.iter().map(|c| c.rows).sum(), tensor.columns());
        sizes.iter().all(|size| align(4 * size.words as u64) <= limit)
    };
    let mut runs: Vec<Range<usize>> = Vec::new();
    for i in 0..tensor.chunks.len() {
        match runs.last_mut() {
            Some(run) if ends_whole(tensor, &tensor.chunks[i - 1]) && fits(&tensor.chunks[run.start..=i]) => run.end = i + 1,
            _ => runs.push(i..i + 1),
        }
    }
    runs
}

/// Whether a chunk's planes end with their last row, so that the next chunk's may lie right behind them. Scales of four rows
/// share a word, so do eight zero points; where such a word is not full, eight chunks are larger than one of eight times the
/// rows.
fn ends_whole(tensor: &TensorEntry, chunk: &Chunk) -> bool {
    let sizes = |rows| plane_sizes(tensor.scheme, rows, tensor.columns());
    let planes = sizes(chunk.rows).into_iter().zip(sizes(8 * chunk.rows));
    planes.filter(|(one, _)| one.kind != PlaneKind::Codebook).all(|(one, eight)| 8 * one.words == eight.words)
}

fn check_limits(profile: &Profile, tensor: &TensorEntry, chunks: &[Merged]) -> Result<(), GpuError> {
    let (available, limit) = (profile.max_buffer, "maxBufferSize");
    for (_, _, _, bytes) in chunks.iter().flat_map(|c| &c.planes) {
        if *bytes > available {
            let what = format!("a plane of the tensor {}", tensor.name);
            return Err(GpuError::Limit { what, needed: *bytes, limit, available });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use haikuq_format::spec::{TensorClass, TensorSpec};

    fn tensor(scheme: &str, columns: usize, chunk_rows: &[usize]) -> TensorEntry {
        let firsts = chunk_rows.iter().scan(0, |next, rows| {
            *next += rows;
            Some(*next - rows)
        });
        let chunks = firsts.zip(chunk_rows).map(|(first_row, &rows)| Chunk { first_row, rows, planes: Vec::new() }).collect();
        let tensor = TensorSpec::new("t", TensorClass::Mlp, vec![chunk_rows.iter().sum(), columns]);
        let mut entry = TensorEntry::new(tensor, scheme.parse().unwrap());
        entry.chunks = chunks;
        entry
    }

    /// How many chunks each run has.
    fn joined(profile: &Profile, scheme: &str, rows: &[usize]) -> Vec<usize> {
        runs(profile, &tensor(scheme, 32, rows)).into_iter().map(|run| run.len()).collect()
    }

    #[test]
    fn chunks_are_joined_where_their_planes_follow_without_a_gap() {
        let joined = |scheme, rows: &[usize]| joined(&Profile::least(), scheme, rows);
        assert_eq!(joined("q4/32:e4m4 learned", &[16, 16, 9]), [3], "the last one may end anywhere");
        // 12 zero points leave half a word free, though 12 and 8 take as many words as 20.
        assert_eq!(joined("q4/32+u4", &[12, 8]), [1, 1]);
        assert_eq!(joined("q4/32+u4", &[16, 8, 12, 4]), [3, 1]);
        // Four rows share a word of scales.
        assert_eq!(joined("q4/32:e4m4 learned", &[6, 6]), [1, 1]);
        assert_eq!(joined("q4/32", &[6, 6]), [2]);
    }

    #[test]
    fn no_plane_is_larger_than_a_binding() {
        let small = Profile { max_binding: 4096, ..Profile::least() };
        // A chunk of 16 rows takes 2 KiB.
        assert_eq!(joined(&small, "f32", &[16, 16, 16]), [2, 1]);
    }
}
