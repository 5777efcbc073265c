//! `attention_decode` and `attention_combine`: attention of one new token a sequence. Their CPU twin is
//! [`attention::cpu`](super::attention::cpu).

use super::attention::{AttentionBuffers, AttentionShape, Scores};
use crate::device::{Binding, Dispatch, Flag, Gpu, GpuError, Kernel};

super::shader!(ATTENTION_DECODE = "attention_decode");
super::shader!(ATTENTION_COMBINE = "attention_combine");

/// Attention of `num_tokens` tokens, each of another sequence, whose keys and values are in the cache.
#[derive(Clone, Debug)]
pub struct AttentionDecode<'a> {
    /// Tokens of the step.
    pub num_tokens: u32,
    /// Heads and cache.
    pub shape: AttentionShape,
    /// Scale, window and soft cap.
    pub scores: Scores,
    /// Workgroups that share a sequence's pages, from [`splits`]. The same for every number of tokens, or a sequence's
    /// sums are rounded differently in different company.
    pub splits: u32,
    /// Inputs and output.
    pub buffers: AttentionBuffers<'a>,
    /// [`AttentionDecode::scratch_bytes`] to work in; not used where `splits` is 1.
    pub scratch: Binding<'a>,
}

/// How many workgroups should share a sequence's pages: enough to fill a large GPU from one sequence.
pub fn splits(shape: &AttentionShape, window: Option<u32>) -> u32 {
    let pages = window.map_or(shape.max_pages, |w| (w / super::attention::PAGE as u32 + 2).min(shape.max_pages));
    pages.clamp(1, (512 / (shape.num_kv_heads * blocks(shape).1)).clamp(8, 64))
}

/// Query heads that one workgroup takes, and workgroups that share a key/value head's query heads.
fn blocks(shape: &AttentionShape) -> (u32, u32) {
    // As many as workgroup memory holds.
    let rows = shape.group().next_power_of_two().min(if shape.head_dim > 256 { 4 } else { 8 });
    (rows, shape.group().div_ceil(rows))
}

impl AttentionDecode<'_> {
    /// Bytes of scratch memory for `num_tokens` tokens.
    pub fn scratch_bytes(num_tokens: u32, shape: &AttentionShape, splits: u32) -> u64 {
        if splits == 1 { 16 } else { num_tokens as u64 * (shape.num_heads * splits * (shape.head_dim + 4) * 4) as u64 }
    }

    /// Binds the kernels: one dispatch, or two with splits.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if they do not fit the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Vec<Dispatch>, GpuError> {
        let shape = self.shape;
        let (rows, blocks) = blocks(&shape);
        let direct = self.splits == 1;
        let mut flags = shape.flags();
        flags.extend(match rows {
            1 => None,
            2 => Some(Flag::Rows2),
            4 => Some(Flag::Rows4),
            _ => Some(Flag::Rows8),
        });
        if direct {
            flags.push(Flag::Direct);
        }
        if shape.cache_f16 && shape.head_dim.is_multiple_of(8) {
            flags.push(Flag::Wide);
        }
        flags.extend((shape.head_dim > 256).then_some(Flag::WideHeads));
        let mut constants = shape.constants();
        constants.extend(self.scores.constants());
        constants.extend([
            ("HEADS", f64::from(shape.num_heads)),
            ("PITCH", (shape.pitch() / 4).into()),
            ("SPLITS", self.splits.into()),
        ]);
        let shared = constants.clone();
        constants.extend([("GROUP", f64::from(shape.group())), ("BLOCKS", blocks.into())]);
        let b = &self.buffers;
        let target = if direct { &b.output } else { &self.scratch };
        let (mut bindings, sinks) = b.with_sinks(&[&b.q, &b.tokens, &b.pages, &b.keys, &b.values, target]);
        if direct {
            flags.extend(sinks);
        } else {
            // The other kernel adds them.
            bindings.truncate(6);
        }
        let grid = [self.splits, shape.num_kv_heads * blocks, self.num_tokens];
        let decode = Kernel { shader: &ATTENTION_DECODE, flags: &flags, constants: &constants, bindings: &bindings, grid };
        let mut dispatches = vec![decode.bind(gpu)?];
        if !direct {
            let (bindings, sinks) = b.with_sinks(&[&self.scratch, &b.tokens, &b.output]);
            let flags = Vec::from_iter(sinks);
            let grid = [shape.num_heads, self.num_tokens, 1];
            let combine = Kernel { shader: &ATTENTION_COMBINE, flags: &flags, constants: &shared, bindings: &bindings, grid };
            dispatches.push(combine.bind(gpu)?);
        }
        Ok(dispatches)
    }
}
