//! A package's weights on the GPU: one buffer a shard, planes bound where they lie in it.

use super::DecoderError;
use crate::device::{Gpu, GpuError};
use crate::kernels::weights::{GpuChunk, GpuMatrix, GpuPlane};
use crate::package::{PIECE_BYTES, Package};
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

    /// Reads, checks and uploads shard after shard: whole ones where the source holds them, else a piece at a time.
    pub(super) async fn fill(
        &self,
        gpu: &Gpu,
        package: &Package,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<(), DecoderError> {
        let manifest = package.manifest();
        let (total_bytes, mut bytes) = (self.bytes, 0);
        progress(LoadProgress { bytes, total_bytes });
        let mut uploading = None;
        for (i, (shard, buffer)) in manifest.shards.iter().zip(&self.shards).enumerate() {
            let mut told = |offset: u64| progress(LoadProgress { bytes: bytes + offset, total_bytes });
            if let Some(held) = package.hold_shard(i).await? {
                for begin in (0..shard.bytes).step_by(PIECE_BYTES as usize) {
                    let end = (begin + PIECE_BYTES).min(shard.bytes);
                    held.upload(&gpu.queue, buffer, begin..end);
                    told(end);
                }
            } else {
                // Nothing runs on these bytes before the whole shard was found to be right.
                let mut on_piece = |offset: u64, piece: &[u8]| {
                    gpu.write(buffer, offset, piece);
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
        Ok(gpu.compiled().await?)
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
