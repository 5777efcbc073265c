//! The operation *project experts*: products of tokens with the matrices of their experts, and the exact candidates that run on every device.

use super::candidate::{Candidate, Kind, Numerics};
use super::experts::{MatmulExperts, MatvecExperts, sums_up};
use crate::device::{Binding, Profile};
use crate::program::{Output, Phase};
use haikuq_format::layout::plane_sizes;
use haikuq_format::scheme::Scheme;

/// Marks the operation.
pub struct ProjectExperts;

/// What decides how it is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpertsShape {
    /// Rows of an expert's matrix.
    pub rows: usize,
    /// Its columns.
    pub columns: usize,
    /// Rows of the step.
    pub tokens: usize,
    /// Whether these are one token each of several sequences, or consecutive ones of one.
    pub phase: Phase,
    /// Experts that there are.
    pub num_experts: usize,
    /// Experts of a token.
    pub active: usize,
    /// How weights are stored.
    pub scheme: Scheme,
    /// What becomes of the sums.
    pub output: Output,
    /// Whether there is a bias.
    pub bias: bool,
}

/// What it is bound to.
pub struct ExpertsJob<'a> {
    /// Sizes.
    pub shape: ExpertsShape,
    /// Matrices, activations, routing and output.
    pub product: MatvecExperts<'a>,
    /// As many bytes as the candidate asked for.
    pub scratch: Binding<'a>,
    /// As [`MatmulExperts::each`], for steps of [`Phase::Prefill`].
    pub each: Binding<'a>,
}

impl<'a> ExpertsJob<'a> {
    /// The product with the order of pairs at the start of scratch memory, and what is left of that.
    pub(super) fn ordered(&self) -> (MatmulExperts<'a>, Binding<'a>) {
        let (all, bytes) = (&self.scratch, self.shape.groups_bytes());
        let size = all.size.unwrap_or_else(|| all.buffer.size().saturating_sub(all.offset));
        let groups = Binding { size: Some(bytes.min(size)), ..all.clone() };
        let rest = Binding { offset: all.offset + bytes, size: Some(size.saturating_sub(bytes)), ..all.clone() };
        (MatmulExperts { product: self.product.clone(), groups, each: self.each.clone() }, rest)
    }
}

impl ExpertsShape {
    /// Pairs of token and expert.
    pub const fn pairs(&self) -> usize {
        self.tokens * self.active
    }

    /// Pairs of an expert, if all experts have equally many.
    pub const fn pairs_of_expert(&self) -> usize {
        self.pairs() / self.num_experts
    }

    /// Rows of activations that are read.
    pub const fn inputs(&self) -> usize {
        if self.sums() { self.pairs() } else { self.tokens }
    }

    /// Whether a token's experts are summed up.
    pub const fn sums(&self) -> bool {
        sums_up(self.output)
    }

    /// Bytes of the order of pairs at the start of scratch memory, rounded up to where other values may begin.
    pub fn groups_bytes(&self) -> u64 {
        haikuq_format::align(MatmulExperts::group_bytes(self.tokens, self.active, self.num_experts))
    }

    /// Whether the device binds all buffers of a kernel that reads activations with scales of their own.
    pub fn has_buffers(&self, profile: &Profile) -> bool {
        let planes = plane_sizes(self.scheme, 4, self.columns).len() + usize::from(self.bias);
        // Activations and their scales, the order of pairs, the output.
        planes + 4 <= profile.max_storage_buffers as usize
    }

    /// Bytes of [`ExpertsJob::each`].
    pub fn each_bytes(&self) -> u64 {
        let sums = self.sums() && self.phase == Phase::Prefill;
        if sums { MatmulExperts::each_bytes(self.tokens, self.active, self.rows) } else { 0 }
    }
}

impl Kind for ProjectExperts {
    const NAME: &'static str = "project_experts";
    type Shape = ExpertsShape;
    type Job<'a> = ExpertsJob<'a>;
}

/// Each pair of token and expert by itself.
pub static MATVEC: Candidate<ProjectExperts> = Candidate {
    name: "matvec_experts",
    numerics: Numerics::Exact,
    can: |_, shape| shape.phase == Phase::Decode,
    fits: |_, shape| shape.phase == Phase::Decode,
    scratch: Candidate::<ProjectExperts>::NO_SCRATCH,
    bind: |gpu, job| job.product.bind(gpu),
};

/// Up to eight tokens of an expert together.
pub static MATMUL: Candidate<ProjectExperts> = Candidate {
    name: "matmul_experts",
    numerics: Numerics::Exact,
    can: |_, shape| shape.phase == Phase::Prefill,
    fits: |_, shape| shape.phase == Phase::Prefill,
    scratch: |_, shape| MatmulExperts::group_bytes(shape.tokens, shape.active, shape.num_experts),
    bind: |gpu, job| {
        MatmulExperts { product: job.product.clone(), groups: job.scratch.clone(), each: job.each.clone() }.bind(gpu)
    },
};
