//! `gate_heads`: sigmoid gates on the outputs of attention's heads.

use crate::device::{Binding, Dispatch, Gpu, GpuError, Kernel};
use haikuq_format::layout::padded;

super::shader!(GATE_HEADS = "gate_heads");

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
        let constants = [
            ("COLUMNS", self.columns as f64),
            ("SHARE", (self.columns / self.gates) as f64),
            ("FIRST", (self.x_columns - self.gates) as f64),
            ("X_PITCH", padded(self.x_columns) as f64),
            ("Y_PITCH", padded(self.columns) as f64),
        ];
        let bindings = [(0, self.x.clone()), (1, self.y.clone())];
        let grid = [self.columns.div_ceil(64) as u32, self.tokens, 1];
        Kernel { shader: &GATE_HEADS, flags: &[], constants: &constants, bindings: &bindings, grid }.bind(gpu)
    }
}

/// The CPU twin, for one row without padding.
pub fn cpu(y: &mut [f32], gates: &[f32]) {
    let share = y.len() / gates.len();
    y.iter_mut().enumerate().for_each(|(i, y)| *y = (f64::from(*y) / (1.0 + f64::from(-gates[i / share]).exp())) as f32);
}
