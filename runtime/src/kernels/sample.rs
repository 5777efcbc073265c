//! `sample_scan`, `sample_choose` and `mark_seen`: the next token from the logits, on the GPU. The CPU twin is
//! [`sample_cpu`](crate::sampling::sample_cpu), where the steps are specified.

use super::attention::IDLE;
use crate::device::{Binding, Dispatch, Flag, Gpu, GpuError, Kernel};
use crate::sampling::{self, SamplingOptions};
use haikuq_format::layout::padded;

super::shader!(SAMPLE_SCAN = "sample_scan");
super::shader!(SAMPLE_CHOOSE = "sample_choose");
super::shader!(MARK_SEEN = "mark_seen");

/// Tokens that a workgroup of `sample_scan` looks at: a multiple of 256, and at most 256 such spans.
fn span(vocab: u32) -> u32 {
    vocab.div_ceil(256).next_multiple_of(256)
}

/// How one row of logits is sampled at this step.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct SampleParams {
    pub(super) temperature: f32,
    pub(super) top_k: u32,
    pub(super) top_p: u32,
    pub(super) min_p: f32,
    pub(super) repetition_penalty: f32,
    pub(super) uniform_number: u32,
    pub(super) sequence: u32,
    pub(super) spare: u32,
}

impl SampleParams {
    /// `options` for the token number `step` of an answer; `sequence` is the row of the `seen` table.
    ///
    /// The kernel knows `top_p` to 2⁻²⁴.
    pub fn new(options: &SamplingOptions, step: u64, sequence: u32) -> Self {
        const ONE: f32 = (1u32 << 24) as f32;
        Self {
            temperature: options.temperature,
            top_k: options.top_k,
            top_p: (options.top_p * ONE).round().clamp(1.0, ONE) as u32,
            min_p: options.min_p,
            repetition_penalty: options.repetition_penalty,
            // Nothing is drawn where the largest is taken; then steps do not differ.
            uniform_number: if options.temperature > 0.0 { (sampling::uniform(options.seed, step) * ONE) as u32 } else { 0 },
            sequence,
            spare: 0,
        }
    }

    /// A row that is not sampled; its id becomes [`IDLE`].
    pub fn idle() -> Self {
        Self { sequence: IDLE, ..Self::new(&SamplingOptions::greedy(), 0, IDLE) }
    }
}

/// Words of one sequence's row of the `seen` table: a bit an id.
pub const fn seen_words(vocab: u32) -> u32 {
    vocab.div_ceil(32)
}

/// Words of one row's mask: a bit an id.
pub const fn mask_words(vocab: u32) -> u32 {
    vocab.div_ceil(32)
}

/// `chosen[t] = sample(logits[t], params[t])` for each of `rows` rows.
#[derive(Clone, Debug)]
pub struct Sample<'a> {
    /// Rows of logits.
    pub rows: u32,
    /// Logits in a row.
    pub vocab: u32,
    /// f32 \[rows\]\[padded(vocab)\].
    pub logits: Binding<'a>,
    /// [`SampleParams`] \[rows\].
    pub params: Binding<'a>,
    /// u32 \[sequences\]\[[`seen_words`]\]: a bit for each id that has occurred. The chosen id is added.
    pub seen: Binding<'a>,
    /// [`Sample::scratch_bytes`] to work in.
    pub scratch: Binding<'a>,
    /// u32 \[rows\]: the ids. [`IDLE`] for idle rows, and where a logit is NaN or plus infinity or none is finite.
    pub chosen: Binding<'a>,
    /// [`Token`](super::attention::Token)s of the next step, \[rows\]: each gets the id, and a position one higher, so
    /// that a step can be submitted before the last one's id has been read back.
    pub next: Option<Binding<'a>>,
    /// u32 \[rows\]\[[`mask_words`]\]: a bit for each id that may be chosen; all may where there is no mask.
    pub mask: Option<Binding<'a>>,
}

impl Sample<'_> {
    /// Bytes of scratch memory.
    pub fn scratch_bytes(rows: u32, vocab: u32) -> u64 {
        u64::from(rows) * u64::from(vocab.div_ceil(span(vocab))) * 16
    }

    /// Binds the kernels.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if they do not fit the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<[Dispatch; 2], GpuError> {
        let spans = self.vocab.div_ceil(span(self.vocab));
        let common = [
            ("VOCAB", f64::from(self.vocab)),
            ("PITCH", padded(self.vocab as usize) as f64),
            ("SEEN_WORDS", seen_words(self.vocab).into()),
            ("SPAN", span(self.vocab).into()),
        ];
        let inputs = [&self.logits, &self.params, &self.seen, &self.scratch];
        let mut bindings: Vec<_> = (0..).zip(inputs.map(Clone::clone)).collect();
        let mut flags = Vec::new();
        if let Some(mask) = &self.mask {
            flags.push(Flag::Masked);
            bindings.push((6, mask.clone()));
        }
        let grid = [spans, self.rows, 1];
        let scan = Kernel { shader: &SAMPLE_SCAN, flags: &flags, constants: &common, bindings: &bindings, grid }.bind(gpu)?;

        bindings.push((4, self.chosen.clone()));
        if let Some(next) = &self.next {
            flags.push(Flag::Advance);
            bindings.push((5, next.clone()));
        }
        let mut constants = common.to_vec();
        constants.push(("SPANS", spans.into()));
        let grid = [self.rows, 1, 1];
        let choose = Kernel { shader: &SAMPLE_CHOOSE, flags: &flags, constants: &constants, bindings: &bindings, grid };
        Ok([scan, choose.bind(gpu)?])
    }
}

/// Notes the ids of `num_tokens` tokens of prompts in the `seen` table; ids beyond the vocabulary are ignored.
#[derive(Clone, Debug)]
pub struct MarkSeen<'a> {
    /// Tokens of the step.
    pub num_tokens: u32,
    /// Size of the vocabulary.
    pub vocab: u32,
    /// [`Token`](super::attention::Token)s of the step; their `sequence` is the row of `seen`.
    pub tokens: Binding<'a>,
    /// u32 \[sequences\]\[[`seen_words`]\].
    pub seen: Binding<'a>,
}

impl MarkSeen<'_> {
    /// Binds the kernel.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if it does not fit the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Dispatch, GpuError> {
        let constants =
            [("TOKENS", f64::from(self.num_tokens)), ("VOCAB", self.vocab.into()), ("SEEN_WORDS", seen_words(self.vocab).into())];
        let bindings = [(0, self.tokens.clone()), (1, self.seen.clone())];
        let grid = [self.num_tokens.div_ceil(64), 1, 1];
        Kernel { shader: &MARK_SEEN, flags: &[], constants: &constants, bindings: &bindings, grid }.bind(gpu)
    }
}
