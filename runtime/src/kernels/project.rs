//! The operation *project*: `y = output(W norm(x) + bias)`, and the exact candidates that run on every device.

use super::attention::AttentionShape;
use super::candidate::{Candidate, Kind, Numerics};
use super::matmul::Matmul;
use super::matvec::{MAX_TOKENS, Matvec, Norm};
use super::matvec_int8::Heads;
use super::projection::Projection;
use crate::device::Binding;
use crate::program::{Output, Phase};
use haikuq_format::scheme::Scheme;

/// Marks the operation.
pub struct Project;

/// What decides how a product is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProjectShape {
    /// Rows of the matrix.
    pub rows: usize,
    /// Its columns.
    pub columns: usize,
    /// Rows of activations.
    pub tokens: usize,
    /// Whether these are one token each of several sequences, or consecutive ones of one.
    pub phase: Phase,
    /// How weights are stored.
    pub scheme: Scheme,
    /// What becomes of the sums.
    pub output: Output,
    /// Whether there is a bias.
    pub bias: bool,
    /// Whether the input is normalized on the way.
    pub norm: bool,
}

/// What a product is bound to.
pub struct ProjectJob<'a> {
    /// Matrix, activations and output.
    pub projection: Projection<'a>,
    /// RMS norm of the input, on the way.
    pub norm: Option<Norm<'a>>,
    /// As many bytes as the candidate asked for.
    pub scratch: Binding<'a>,
}

impl Kind for Project {
    const NAME: &'static str = "project";
    type Shape = ProjectShape;
    type Job<'a> = ProjectJob<'a>;

    /// One token, and prompts of more than [`FEW`]. Exact bits of a token may not depend on how many are computed beside it:
    /// in decoding the table alone sees to that.
    fn measured_as(shape: &ProjectShape, exact: bool) -> Option<String> {
        let ProjectShape { rows, columns, tokens, phase, scheme, output, bias, norm } = *shape;
        let phase = match phase {
            Phase::Decode if tokens == 1 && !exact => "a token",
            Phase::Prefill if tokens > FEW => "a prompt",
            _ => return None,
        };
        let output = match output {
            Output::Store => "store",
            Output::Residual { .. } => "residual",
            Output::Glu(_) => "glu",
            Output::Activate(_) => "activate",
            Output::Logits { .. } => "logits",
        };
        let (bias, norm) = (if bias { ", bias" } else { "" }, if norm { ", norm" } else { "" });
        Some(format!("{phase}, {scheme}, {rows} × {columns}, {output}{bias}{norm}"))
    }
}

/// Tokens of a prompt up to which kernels divide their work in other ways.
pub const FEW: usize = 64;

/// Marks the operation *project, rope and cache*: queries, keys and values, rotated and written where attention reads them.
pub struct ProjectHeads;

/// What decides how that is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProjectHeadsShape {
    /// The product.
    pub project: ProjectShape,
    /// Heads and cache.
    pub attention: AttentionShape,
    /// Half of the dimensions of a head that rotate.
    pub rotated: u32,
    /// Whether queries, keys or values are normalized.
    pub norms: bool,
    /// Whether the device has the matrix as one chunk.
    pub one_chunk: bool,
}

/// What it is bound to.
pub struct ProjectHeadsJob<'a> {
    /// The product; its output is the queries.
    pub project: ProjectJob<'a>,
    /// Where queries, keys and values go.
    pub heads: Heads<'a>,
}

impl Kind for ProjectHeads {
    const NAME: &'static str = "project_heads";
    type Shape = ProjectHeadsShape;
    type Job<'a> = ProjectHeadsJob<'a>;
}

/// A matrix times one to eight tokens.
pub static MATVEC: Candidate<Project> = Candidate {
    name: "matvec",
    numerics: Numerics::Exact,
    can: |_, shape| shape.phase == Phase::Decode && shape.tokens <= MAX_TOKENS,
    fits: |_, shape| shape.phase == Phase::Decode && shape.tokens <= MAX_TOKENS,
    scratch: Candidate::<Project>::NO_SCRATCH,
    bind: |gpu, job| Matvec { projection: job.projection.clone(), norm: job.norm.clone() }.bind(gpu),
};

/// A matrix times many tokens, unpacked for sixteen of them at a time.
pub static MATMUL: Candidate<Project> = Candidate {
    name: "matmul",
    numerics: Numerics::Exact,
    can: |_, shape| shape.phase == Phase::Prefill && !shape.norm,
    fits: |_, shape| shape.phase == Phase::Prefill && !shape.norm,
    scratch: Candidate::<Project>::NO_SCRATCH,
    bind: |gpu, job| Matmul { projection: job.projection.clone() }.bind(gpu),
};
