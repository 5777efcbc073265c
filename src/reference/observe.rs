//! [`Observe`]: seeing, and replacing, what happens at the matrices of a layer.

use candle_core::{Result, Tensor};

/// A matrix of a layer, by what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProjectionKind {
    /// Query, key and value projections, stacked.
    Qkv,
    /// The projection after the heads.
    AttentionOutput,
    /// `gate_up` where there is a gate, else `up`.
    Up,
    /// The projection back to the residual stream.
    Down,
}

impl ProjectionKind {
    /// The last part of its matrix's canonical name, in a layer with or without a gate.
    pub fn matrix(self, gated: bool) -> &'static str {
        match self {
            Self::Qkv => "qkv",
            Self::AttentionOutput => "attention_output",
            Self::Up if gated => "gate_up",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// What a forward pass over windows tells of each matrix, in the order of computation.
pub trait Observe {
    /// Before a matrix is used: its weights `[rows, columns]` and its input `[positions, columns]`. Other canonical
    /// weights may take its place.
    ///
    /// # Errors
    /// The observer's own; they end the forward pass.
    fn replace(&mut self, kind: ProjectionKind, weights: &Tensor, input: &Tensor) -> Result<Option<Vec<f32>>>;

    /// After: its output before a bias, or part of its rows, which may be changed.
    ///
    /// # Errors
    /// The observer's own.
    fn output(&mut self, _kind: ProjectionKind, output: Tensor) -> Result<Tensor> {
        Ok(output)
    }
}

/// Nobody looks.
pub(super) struct Unobserved;

impl Observe for Unobserved {
    fn replace(&mut self, _: ProjectionKind, _: &Tensor, _: &Tensor) -> Result<Option<Vec<f32>>> {
        Ok(None)
    }
}
