//! `gated_norm`: what a mixer's heads made, normalized by groups and gated.

use crate::device::{Binding, Dispatch, Flag, Gpu, GpuError, Kernel};
use haikuq_format::layout::padded;
use haikuq_format::spec::GatedNorm;

super::shader!(GATED_NORM = "gated_norm");

/// `y = norm(y) × silu(z)` or `norm(y × silu(z))` for the tokens of a step, with root mean squares of groups.
#[derive(Clone, Debug)]
pub struct GateAndNormalize<'a> {
    /// Tokens of the step.
    pub num_tokens: u32,
    /// Groups that are normalized by themselves.
    pub groups: usize,
    /// Numbers of a group.
    pub width: usize,
    /// The norm, if there is one.
    pub norm: Option<GroupNorm<'a>>,
    /// f32 \[tokens\]\[padded(x_columns)\].
    pub x: Binding<'a>,
    /// Columns of `x`.
    pub x_columns: usize,
    /// The first of `groups × width` gates in a row of `x`.
    pub first_gate: usize,
    /// f32 \[tokens\]\[padded(groups × width)\].
    pub y: Binding<'a>,
}

/// A norm of groups.
#[derive(Clone, Debug)]
pub struct GroupNorm<'a> {
    /// Whether gates come first.
    pub order: GatedNorm,
    /// Added to the mean square.
    pub epsilon: f32,
    /// f32 \[width\] for all groups, or \[groups\]\[width\].
    pub gain: Binding<'a>,
    /// Whether all groups share the gains.
    pub shared: bool,
}

impl GateAndNormalize<'_> {
    /// Binds the kernel.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if it does not fit the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Dispatch, GpuError> {
        let norm = self.norm.as_ref();
        let gate_first = norm.is_some_and(|n| n.order == GatedNorm::AfterGate);
        let constants = [
            ("WORKGROUP", if self.width > 256 { 256.0 } else { 64.0 }),
            ("WIDTH", self.width as f64),
            ("GAIN_PITCH", if norm.is_some_and(|n| n.shared) { 0.0 } else { self.width as f64 }),
            ("GATE_FIRST", f64::from(u8::from(gate_first))),
            ("EPSILON", norm.map_or(0.0, |n| n.epsilon.into())),
            ("FIRST", self.first_gate as f64),
            ("X_PITCH", padded(self.x_columns) as f64),
            ("Y_PITCH", padded(self.groups * self.width) as f64),
        ];
        let mut bindings = vec![(0, self.x.clone()), (1, self.y.clone())];
        bindings.extend(norm.map(|n| (2, n.gain.clone())));
        let flags: &[Flag] = if norm.is_some() { &[Flag::Norm] } else { &[] };
        let grid = [self.groups as u32, self.num_tokens, 1];
        Kernel { shader: &GATED_NORM, flags, constants: &constants, bindings: &bindings, grid }.bind(gpu)
    }
}
