//! What `attention_prefill_matrices` and `attention_prefill_tile` share on the host: the query heads of a group read
//! their keys together, and where few tiles of queries would leave a GPU idle, a tile's keys are cut into parts, whose
//! results `attention_prefill_combine` merges.

use super::attention::{AttentionShape, PAGE};
use super::attention_prefill::{AttentionPrefill, chunks};
use crate::device::{Binding, Dispatch, Flag, Gpu, GpuError, Kernel, Shader};

super::shader!(ATTENTION_PREFILL_COMBINE = "attention_prefill_combine");

/// Most parts of a tile's keys: merging them takes time too.
const MOST: u32 = 32;

/// Keys that make a part of their own worthwhile; `PART_KEYS` in `shared/attention_parts.wgsl`.
const PART_KEYS: u32 = 256;

/// How a kernel cuts its work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiling {
    /// Rows of a workgroup: a row is a query of one head.
    pub rows: u32,
    /// Keys that it takes at a time.
    pub keys: u32,
    /// Workgroups that fill a large GPU.
    pub workgroups: u32,
}

impl Tiling {
    /// Tiles of rows, for `num_tokens` tokens.
    fn tiles(&self, num_tokens: u32, shape: &AttentionShape) -> u32 {
        (num_tokens * shape.group()).div_ceil(self.rows)
    }

    /// Into how many parts a tile's keys are cut at most; how many there are is decided on the GPU, which knows the
    /// positions.
    fn splits(&self, num_tokens: u32, shape: &AttentionShape, window: Option<u32>) -> u32 {
        let wanted = self.workgroups.div_ceil(self.tiles(num_tokens, shape) * shape.num_kv_heads);
        let keys = window.unwrap_or(u32::MAX).saturating_add(self.rows + self.keys).min(shape.max_pages * PAGE as u32);
        wanted.clamp(1, MOST).min((keys / PART_KEYS).max(1))
    }

    /// Bytes of scratch memory: a result for each part of each row.
    pub fn scratch_bytes(&self, num_tokens: u32, shape: &AttentionShape, window: Option<u32>) -> u64 {
        match self.splits(num_tokens, shape, window) {
            1 => 16,
            n => u64::from(num_tokens) * u64::from(shape.num_heads * n) * u64::from(shape.head_dim + 4) * 4,
        }
    }

    /// Binds `shader`, and the kernel that merges where there are parts.
    pub fn bind(
        &self,
        gpu: &Gpu,
        shader: &'static Shader,
        extra: &[Flag],
        job: &AttentionPrefill<'_>,
        scratch: &Binding<'_>,
    ) -> Result<Vec<Dispatch>, GpuError> {
        let shape = job.shape;
        let splits = self.splits(job.num_tokens, &shape, job.scores.window);
        let mut flags = shape.flags();
        flags.extend(chunks(&shape));
        flags.extend(extra);
        let mut constants = shape.constants();
        constants.extend(job.scores.constants());
        constants.extend([
            ("HEADS", shape.num_heads.into()),
            ("GROUP", shape.group().into()),
            ("PITCH", (shape.pitch() / 4).into()),
            ("SPLITS", splits.into()),
        ]);
        let b = &job.buffers;
        let size = gpu.uniform(shader.name, &[job.num_tokens, 0, 0, 0]);
        let size: Binding<'_> = (&size).into();
        let (bindings, sinks) = b.with_sinks(&[&b.q, &b.tokens, &b.pages, &b.keys, &b.values, &b.output, scratch, &size]);
        flags.extend(sinks);
        let grid = [self.tiles(job.num_tokens, &shape), shape.num_kv_heads, splits];
        let mut dispatches = vec![Kernel { shader, flags: &flags, constants: &constants, bindings: &bindings, grid }.bind(gpu)?];
        if splits > 1 {
            constants.extend([("TILE_ROWS", self.rows.into()), ("TILE_KEYS", self.keys.into())]);
            let (bindings, sinks) = b.with_sinks(&[scratch, &b.tokens, &b.output, &size]);
            let flags = Vec::from_iter(sinks);
            let grid = [job.num_tokens, shape.num_kv_heads, 1];
            let shader = &ATTENTION_PREFILL_COMBINE;
            dispatches.push(Kernel { shader, flags: &flags, constants: &constants, bindings: &bindings, grid }.bind(gpu)?);
        }
        Ok(dispatches)
    }
}
