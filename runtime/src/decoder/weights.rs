//! A package's weights on the GPU: one buffer a shard, planes bound where they lie in it.

use super::DecoderError;
use crate::device::{Gpu, GpuError};
use crate::kernels::weights::{GpuChunk, GpuMatrix, GpuPlane};
use crate::package::Package;
use haikuq_format::manifest::{Manifest, TensorEntry};
use std::collections::BTreeMap;

/// Every tensor of a package, by canonical name.
pub(super) struct Weights {
    tensors: BTreeMap<String, GpuMatrix>,
    shards: Vec<wgpu::Buffer>,
    /// Bytes of GPU memory.
    pub(super) bytes: u64,
}

/// How far loading has come; see [`super::Decoder::load`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes of shards checked and uploaded.
    pub bytes: u64,
    /// Bytes of all shards.
    pub total_bytes: u64,
}

impl Weights {
    /// Buffers for all shards of a package, empty yet: memory that is not to be had shows before anything is read.
    pub(super) fn allocate(gpu: &Gpu, manifest: &Manifest) -> Result<Self, DecoderError> {
        let mut buffers = Vec::with_capacity(manifest.shards.len());
        for shard in &manifest.shards {
            let available = gpu.profile.max_buffer;
            if shard.bytes > available {
                let what = format!("shard {}", shard.name);
                return Err(GpuError::Limit { what, needed: shard.bytes, limit: "maxBufferSize", available }.into());
            }
            buffers.push(gpu.storage(&shard.name, shard.bytes));
        }
        Ok(Self { tensors: bind_all(manifest, &buffers), bytes: manifest.weight_bytes(), shards: buffers })
    }

    /// Reads, checks and uploads shard after shard, a piece of one in memory at a time.
    pub(super) async fn fill(
        &self,
        gpu: &Gpu,
        package: &Package,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<(), DecoderError> {
        let manifest = package.manifest();
        let (total_bytes, mut bytes) = (self.bytes, 0);
        progress(LoadProgress { bytes, total_bytes });
        for (i, (shard, buffer)) in manifest.shards.iter().zip(&self.shards).enumerate() {
            // Nothing runs on these bytes before the whole shard was found to be right.
            let mut on_piece = |offset: u64, piece: &[u8]| {
                gpu.write(buffer, offset, piece);
                progress(LoadProgress { bytes: bytes + offset + piece.len() as u64, total_bytes });
            };
            package.stream_shard(i, &mut on_piece).await?;
            // Hands the staging memory of this shard back before the next one is read.
            gpu.finish().await?;
            bytes += shard.bytes;
        }
        Ok(())
    }

    /// A tensor that the spec lists.
    pub(super) fn get(&self, name: &str) -> &GpuMatrix {
        // `Manifest::check` has compared the tensor table with the spec's list.
        self.tensors.get(name).unwrap_or_else(|| panic!("the spec lists no tensor {name}"))
    }

    pub(super) fn find(&self, name: &str) -> Option<&GpuMatrix> {
        self.tensors.get(name)
    }
}

fn bind_all(manifest: &Manifest, buffers: &[wgpu::Buffer]) -> BTreeMap<String, GpuMatrix> {
    manifest.tensors.iter().map(|t| (t.name.clone(), bind(t, buffers))).collect()
}

fn bind(tensor: &TensorEntry, buffers: &[wgpu::Buffer]) -> GpuMatrix {
    let chunks = tensor
        .chunks
        .iter()
        .map(|chunk| GpuChunk {
            first_row: chunk.first_row,
            rows: chunk.rows,
            planes: chunk
                .planes
                .iter()
                .map(|p| {
                    let plane = GpuPlane { buffer: buffers[p.shard].clone(), offset: p.offset, bytes: p.bytes };
                    (p.kind, plane)
                })
                .collect(),
        })
        .collect();
    GpuMatrix { scheme: tensor.scheme, rows: tensor.rows(), columns: tensor.columns(), chunks, lookup: None }
}
