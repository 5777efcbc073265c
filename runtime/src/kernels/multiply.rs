//! `multiply`: rows of numbers times others, or times the sigmoids of these; or sums, or copies.

use crate::device::{Binding, Dispatch, Flag, Gpu, GpuError, Kernel};
use haikuq_format::layout::padded;

super::shader!(MULTIPLY = "multiply");

/// What becomes of `y`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    /// `y *= x`
    Product,
    /// `y *= σ(x)`
    Sigmoid,
    /// `y = (y + x) / √2`
    Laurel,
    /// `y = x`
    Copy,
}

/// `y *= x` for each of `tokens` rows, or another of [`With`].
#[derive(Clone, Debug)]
pub struct Multiply<'a> {
    /// Rows.
    pub tokens: u32,
    /// Numbers of a row of `y`.
    pub columns: usize,
    /// Numbers of `y` side by side that one of `x` serves.
    pub share: usize,
    /// Where in a row of `x` its numbers begin.
    pub first: usize,
    /// Values from one token's row of `x` to the next one's; 0 where all have the same.
    pub x_pitch: usize,
    /// What is done with both.
    pub with: With,
    /// f32 \[tokens\]\[x_pitch\].
    pub x: Binding<'a>,
    /// f32 \[tokens\]\[padded(columns)\].
    pub y: Binding<'a>,
}

impl Multiply<'_> {
    /// Binds the kernel.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if it does not fit the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Dispatch, GpuError> {
        let constants = [
            ("COLUMNS", self.columns as f64),
            ("SHARE", self.share as f64),
            ("FIRST", self.first as f64),
            ("X_PITCH", self.x_pitch as f64),
            ("Y_PITCH", padded(self.columns) as f64),
        ];
        let flags: &[Flag] = match self.with {
            With::Product => &[],
            With::Sigmoid => &[Flag::Sigmoid],
            With::Laurel => &[Flag::Laurel],
            With::Copy => &[Flag::Copy],
        };
        let bindings = [(0, self.x.clone()), (1, self.y.clone())];
        let grid = [self.columns.div_ceil(64) as u32, self.tokens, 1];
        Kernel { shader: &MULTIPLY, flags, constants: &constants, bindings: &bindings, grid }.bind(gpu)
    }
}

/// The CPU twin, for one row without padding, `x` beginning with its first number.
pub fn cpu(y: &mut [f32], x: &[f32], share: usize) {
    y.iter_mut().enumerate().for_each(|(i, y)| *y *= x[i / share]);
}
