//! `gate_heads`: sigmoid gates on the outputs of attention's heads.

use super::multiply::{Multiply, With};
use crate::device::{Binding, Dispatch, Gpu, GpuError};
use haikuq_format::layout::padded;

/// `y *= σ(gates)` for each of `tokens` rows.
#[derive(Clone, Debug)]
pub struct GateHeads<'a> {
    /// Rows.
    pub tokens: u32,
    /// Numbers of a row of `y`.
    pub columns: usize,
    /// Gates of a row; divides `columns`.
    pub gates: usize,
    /// Numbers of a row of `x`, whose end the gates are.
    pub x_columns: usize,
    /// f32 \[tokens\]\[padded(x_columns)\].
    pub x: Binding<'a>,
    /// f32 \[tokens\]\[padded(columns)\].
    pub y: Binding<'a>,
}

impl GateHeads<'_> {
    /// Binds the kernel.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if it does not fit the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Dispatch, GpuError> {
        let Self { tokens, columns, gates, x_columns, .. } = *self;
        let (share, first, x_pitch) = (columns / gates, x_columns - gates, padded(x_columns));
        let (x, y) = (self.x.clone(), self.y.clone());
        Multiply { tokens, columns, share, first, x_pitch, with: With::Sigmoid, x, y }.bind(gpu)
    }
}

/// The CPU twin, for one row without padding.
pub fn cpu(y: &mut [f32], gates: &[f32]) {
    let share = y.len() / gates.len();
    y.iter_mut().enumerate().for_each(|(i, y)| *y = (f64::from(*y) / (1.0 + f64::from(-gates[i / share]).exp())) as f32);
}
