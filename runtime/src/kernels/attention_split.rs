//! `attention_split`: attention of one new token a sequence, whose keys are shared out among workgroups. The last of them to
//! finish puts their results together, or a second dispatch does. Its CPU twin is [`attention::cpu`](super::attention::cpu).
//!
//! That the last one sees what the others wrote rests on barriers of the whole device: `storageBarrier` is one where naga
//! writes SPIR-V, but WGSL promises it for a workgroup alone. So browsers take the second dispatch.

use super::attend::{Attend, AttendJob, AttendShape};
use super::attention::{AttentionBuffers, AttentionShape, PAGE, Scores};
use super::candidate::{Candidate, Numerics};
use crate::device::{Binding, Dispatch, Flag, Gpu, GpuError, Kernel, Profile};

use crate::program::Phase;

super::shader!(ATTENTION_SPLIT = "attention_split");
super::shader!(ATTENTION_SPLIT_COMBINE = "attention_split_combine");

/// Invocations of a workgroup.
const WORKGROUP: u32 = 256;

/// Tokens of a step, at most.
const MAX_TOKENS: u32 = 8;

/// One dispatch, whose last workgroup puts the results together.
pub static CANDIDATE: Candidate<Attend> = Candidate {
    name: "attention_split",
    numerics: Numerics::Exact,
    can: |profile, shape| can(profile, shape) && last_combines(profile),
    fits: |profile, shape| is_meant(profile, shape) && last_combines(profile),
    scratch,
    bind: |gpu, job| bind(gpu, job, Combine::Last),
};

/// Two dispatches.
pub static APART: Candidate<Attend> = Candidate {
    name: "attention_split_combine",
    numerics: Numerics::Exact,
    can,
    fits: is_meant,
    scratch,
    bind: |gpu, job| bind(gpu, job, Combine::Apart),
};

fn can(profile: &Profile, shape: &AttendShape) -> bool {
    shape.phase == Phase::Decode && shape.tokens <= MAX_TOKENS && fits(profile, &shape.attention)
}

fn is_meant(profile: &Profile, shape: &AttendShape) -> bool {
    !profile.software && can(profile, shape)
}

fn scratch(profile: &Profile, shape: &AttendShape) -> u64 {
    AttentionSplit::scratch_bytes(shape.tokens, &shape.attention, splits(profile, &shape.attention, shape.scores.window))
}

fn bind(gpu: &Gpu, job: &AttendJob<'_>, combine: Combine) -> Result<Vec<Dispatch>, GpuError> {
    let AttendShape { tokens: num_tokens, attention: shape, scores, .. } = job.shape;
    let (splits, least_pages) = (splits(&gpu.profile, &shape, scores.window), LEAST_PAGES);
    let (buffers, scratch) = (job.buffers.clone(), job.scratch.clone());
    AttentionSplit { num_tokens, shape, scores, splits, least_pages, combine, buffers, scratch }.bind(gpu)
}

/// Where the results of workgroups are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// In the last one to finish; see [`last_combines`].
    Last,
    /// In a dispatch of its own.
    Apart,
}

/// Whether the last workgroup to finish sees what the others wrote.
pub fn last_combines(profile: &Profile) -> bool {
    profile.backend == "Vulkan"
}

/// Attention of `num_tokens` tokens, each of another sequence, whose keys and values are in the cache.
///
/// A token's output depends on its position and on `splits`, never on the other tokens.
#[derive(Clone, Debug)]
pub struct AttentionSplit<'a> {
    /// Tokens of the step.
    pub num_tokens: u32,
    /// Heads and cache.
    pub shape: AttentionShape,
    /// Scale, window and soft cap.
    pub scores: Scores,
    /// Workgroups that share a sequence's pages at most, from [`splits`].
    pub splits: u32,
    /// Pages that one of them takes at least; [`LEAST_PAGES`] is fast.
    pub least_pages: u32,
    /// Who puts results together.
    pub combine: Combine,
    /// Inputs and output.
    pub buffers: AttentionBuffers<'a>,
    /// [`AttentionSplit::scratch_bytes`] to work in: zero before the first step, and left so that the next one works.
    pub scratch: Binding<'a>,
}

/// Pages that are worth a workgroup.
pub const LEAST_PAGES: u32 = 1;

/// How many workgroups should share a sequence's pages: one or two for each core of a large GPU from one sequence.
pub fn splits(profile: &Profile, shape: &AttentionShape, window: Option<u32>) -> u32 {
    let pages = window.map_or(shape.max_pages, |w| (w / PAGE as u32 + 2).min(shape.max_pages));
    let blocks = blocks(profile, shape).map_or(1, |b| b.1);
    pages.clamp(1, (256 / (shape.num_kv_heads * blocks)).clamp(8, 64))
}

/// Query heads that one workgroup takes, and workgroups that share a key/value head's query heads; none where even one does
/// not fit the workgroup's memory.
fn blocks(profile: &Profile, shape: &AttentionShape) -> Option<(u32, u32)> {
    let most = (1..=4).rev().find(|rows| memory(profile, shape, *rows) <= profile.workgroup_memory)?;
    let blocks = shape.group().div_ceil(most);
    Some((shape.group().div_ceil(blocks), blocks))
}

/// Lanes that share a key.
fn team(shape: &AttentionShape) -> u32 {
    (shape.head_dim / 8).next_power_of_two()
}

/// Whether the kernel works: heads of whole eights that a subgroup holds, eight dimensions a lane.
pub fn fits(profile: &Profile, shape: &AttentionShape) -> bool {
    profile.subgroups
        && shape.head_dim.is_multiple_of(8)
        && shape.num_heads * MAX_TOKENS <= COUNTERS
        && team(shape) <= profile.subgroup_min_size
        && blocks(profile, shape).is_some()
}

/// Bytes of workgroup memory with `rows` query heads.
fn memory(profile: &Profile, shape: &AttentionShape, rows: u32) -> u32 {
    rows * parts(profile, shape) * (shape.head_dim * 4 + 8) + 16
}

/// Runs of lanes whose results are put together: subgroups, or at the end runs of a head's width.
fn parts(profile: &Profile, shape: &AttentionShape) -> u32 {
    (WORKGROUP / profile.subgroup_min_size.max(1)).max(WORKGROUP / (shape.head_dim / 4).max(1))
}

/// Words of counters at the start of the scratch memory: one a token and query head of the largest step, whatever the step.
/// All layers and steps count in the same ones, so partial results never lie where another step counts.
pub const COUNTERS: u32 = 2048;

impl AttentionSplit<'_> {
    /// Bytes of scratch memory for `num_tokens` tokens.
    pub fn scratch_bytes(num_tokens: u32, shape: &AttentionShape, splits: u32) -> u64 {
        let partials = u64::from(num_tokens) * u64::from(shape.num_heads * splits) * u64::from(shape.head_dim + 4);
        4 * (u64::from(COUNTERS) + partials)
    }

    /// One dispatch, or two.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if it does not fit the device, [`GpuError::Validation`] if the kernel cannot do it.
    pub fn bind(&self, gpu: &Gpu) -> Result<Vec<Dispatch>, GpuError> {
        let (shape, profile) = (self.shape, &gpu.profile);
        let last = self.combine == Combine::Last;
        let known = fits(profile, &shape) && (!last || last_combines(profile));
        let Some((rows, blocks)) = blocks(profile, &shape).filter(|_| known) else {
            return Err(GpuError::Validation(format!("split attention with heads of {} on this device", shape.head_dim)));
        };
        let mut flags: Vec<_> = shape.flags().into_iter().filter(|f| *f != Flag::F16).collect();
        flags.push(Flag::Subgroups);
        flags.extend(last.then_some(Flag::LastCombines));
        flags.extend(match rows {
            1 => None,
            2 => Some(Flag::Rows2),
            3 => Some(Flag::Rows3),
            _ => Some(Flag::Rows4),
        });
        let mut constants = self.constants(profile, rows);
        constants.extend([
            ("GROUP", f64::from(shape.group())),
            ("BLOCKS", blocks.into()),
            ("TEAM", team(&shape).into()),
            ("TEAM_LOG2", team(&shape).ilog2().into()),
        ]);
        let b = &self.buffers;
        let (bindings, sinks) = b.with_sinks(&[&b.q, &b.tokens, &b.pages, &b.keys, &b.values, &b.output, &self.scratch]);
        flags.extend(sinks);
        let grid = [self.splits, shape.num_kv_heads * blocks, self.num_tokens];
        let split = Kernel { shader: &ATTENTION_SPLIT, flags: &flags, constants: &constants, bindings: &bindings, grid };
        let mut dispatches = vec![split.bind(gpu)?];
        if !last && self.splits > 1 {
            let (bindings, sinks) = b.with_sinks(&[&self.scratch, &b.tokens, &b.output]);
            let (constants, grid) = (self.constants(profile, 1), [shape.num_heads, self.num_tokens, 1]);
            let (shader, flags) = (&ATTENTION_SPLIT_COMBINE, Vec::from_iter(sinks));
            dispatches.push(Kernel { shader, flags: &flags, constants: &constants, bindings: &bindings, grid }.bind(gpu)?);
        }
        Ok(dispatches)
    }

    /// Of both kernels, with `rows` heads a workgroup.
    fn constants(&self, profile: &Profile, rows: u32) -> Vec<(&'static str, f64)> {
        let (shape, parts) = (&self.shape, parts(profile, &self.shape));
        let mut constants = shape.constants();
        constants.extend(self.scores.constants());
        constants.extend([
            ("HEADS", f64::from(shape.num_heads)),
            ("PITCH", (shape.pitch() / 4).into()),
            ("SPLITS", self.splits.into()),
            ("LEAST", self.least_pages.into()),
            ("WORKGROUP", WORKGROUP.into()),
            ("PARTS", parts.into()),
            ("ALL_PARTS", (rows * parts).into()),
            ("MERGED", (rows * parts * shape.head_dim / 4).into()),
            ("COUNTERS", COUNTERS.into()),
        ]);
        constants
    }
}
