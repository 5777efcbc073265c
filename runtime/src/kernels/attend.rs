//! The operation *attend*: attention over the paged cache, and the exact candidates that run on every device.

use super::attention::{AttentionBuffers, AttentionShape, Scores};
use super::attention_decode::{AttentionDecode, splits};
use super::attention_prefill::AttentionPrefill;
use super::attention_split;
use super::candidate::{Candidate, Kind, Numerics};
use super::project::FEW;
use crate::device::Binding;
use crate::program::Phase;

/// Marks the operation.
pub struct Attend;

/// What decides how attention is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttendShape {
    /// Tokens of the step.
    pub tokens: u32,
    /// Whether these are one token each of several sequences, or consecutive ones of one.
    pub phase: Phase,
    /// Heads and cache.
    pub attention: AttentionShape,
    /// Scale, window and soft cap.
    pub scores: Scores,
}

/// What attention is bound to.
pub struct AttendJob<'a> {
    /// Sizes.
    pub shape: AttendShape,
    /// Inputs and output.
    pub buffers: AttentionBuffers<'a>,
    /// As many bytes as the candidate asked for. The memory for steps of [`Phase::Decode`] belongs to this operation alone:
    /// its start ([`attention_split::COUNTERS`] words) is zero before the first step, and counters leave it so.
    pub scratch: Binding<'a>,
}

impl<'a> AttendJob<'a> {
    /// The same for kernels of prefill.
    pub fn prefill(&self) -> AttentionPrefill<'a> {
        let AttendShape { tokens: num_tokens, attention: shape, scores, .. } = self.shape;
        AttentionPrefill { num_tokens, shape, scores, buffers: self.buffers.clone() }
    }
}

impl Kind for Attend {
    const NAME: &'static str = "attend";
    type Shape = AttendShape;
    type Job<'a> = AttendJob<'a>;

    /// All steps of decoding alike, since exact bits may not depend on the number of tokens; prompts of more than
    /// [`FEW`] tokens. Contexts of all lengths share a name.
    fn measured_as(shape: &AttendShape, _exact: bool) -> Option<String> {
        let AttendShape { tokens, phase, attention: a, scores } = *shape;
        let phase = match phase {
            Phase::Decode => "tokens",
            Phase::Prefill if tokens as usize > FEW => "a prompt",
            Phase::Prefill => return None,
        };
        let cache = if a.cache_f16 { "f16" } else { "f32" };
        let window = scores.window.map_or(String::new(), |w| format!(", window {w}"));
        let softcap = scores.softcap.map_or("", |_| ", capped");
        Some(format!("{phase}, {}/{} heads of {} in {cache}{window}{softcap}", a.num_heads, a.num_kv_heads, a.head_dim))
    }
}

/// One token a sequence, its keys shared out among workgroups, whose results a second dispatch combines.
pub static SPLIT: Candidate<Attend> = Candidate {
    name: "attention_decode_split",
    numerics: Numerics::Exact,
    can: |_, shape| shape.phase == Phase::Decode,
    // A processor has too few cores for splits to pay.
    fits: |profile, shape| shape.phase == Phase::Decode && !profile.software,
    scratch: |_, shape| {
        let splits = splits(&shape.attention, shape.scores.window);
        COUNTERS_BYTES + AttentionDecode::scratch_bytes(shape.tokens, &shape.attention, splits)
    },
    bind: |gpu, job| decode(job, splits(&job.shape.attention, job.shape.scores.window)).bind(gpu),
};

/// One token a sequence, a workgroup a key/value head.
pub static WHOLE: Candidate<Attend> = Candidate {
    name: "attention_decode",
    numerics: Numerics::Exact,
    can: |_, shape| shape.phase == Phase::Decode,
    fits: |_, shape| shape.phase == Phase::Decode,
    scratch: Candidate::<Attend>::NO_SCRATCH,
    bind: |gpu, job| decode(job, 1).bind(gpu),
};

/// Many consecutive tokens.
pub static PREFILL: Candidate<Attend> = Candidate {
    name: "attention_prefill",
    numerics: Numerics::Exact,
    can: |_, shape| shape.phase == Phase::Prefill,
    fits: |_, shape| shape.phase == Phase::Prefill,
    scratch: Candidate::<Attend>::NO_SCRATCH,
    bind: |gpu, job| Ok(vec![job.prefill().bind(gpu)?]),
};

/// What counters take; partial results keep clear of them.
const COUNTERS_BYTES: u64 = 4 * attention_split::COUNTERS as u64;

/// Splits depend on the device and the model alone, so that a sequence's sums are rounded alike in every step.
fn decode<'a>(job: &AttendJob<'a>, splits: u32) -> AttentionDecode<'a> {
    let AttendShape { tokens: num_tokens, attention: shape, scores, .. } = job.shape;
    let scratch = match splits {
        1 => job.scratch.clone(),
        _ => Binding { offset: job.scratch.offset + COUNTERS_BYTES, ..job.scratch.clone() },
    };
    AttentionDecode { num_tokens, shape, scores, splits, buffers: job.buffers.clone(), scratch }
}
