//! `cut_gates`: the gates of a feed-forward network, cut off by their mean and deviation.

use super::projection::activation;
use crate::device::{Binding, Dispatch, Gpu, GpuError, Kernel};
use crate::program::Output;
use haikuq_format::layout::padded;
use haikuq_format::spec::Activation;

super::shader!(CUT_GATES = "cut_gates");

/// `y = activation(max(gate − mean − cutoff × deviation, 0)) × up` for each of `tokens` rows.
#[derive(Clone, Debug)]
pub struct CutGates<'a> {
    /// Rows.
    pub tokens: u32,
    /// Gates of a row.
    pub width: usize,
    /// In standard deviations.
    pub cutoff: f32,
    /// Of what is left of a gate.
    pub activation: Activation,
    /// f32 \[tokens\]\[padded(2 × width)\]: gate, up, gate, up.
    pub x: Binding<'a>,
    /// f32 \[tokens\]\[padded(width)\].
    pub y: Binding<'a>,
}

impl CutGates<'_> {
    /// Binds the kernel.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if it does not fit the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Dispatch, GpuError> {
        let constants = [
            ("WORKGROUP", if self.width > 256 { 256.0 } else { 64.0 }),
            ("WIDTH", self.width as f64),
            ("X_PITCH", padded(2 * self.width) as f64),
            ("Y_PITCH", padded(self.width) as f64),
            ("CUTOFF", self.cutoff.into()),
            ("ACTIVATION", Output::Glu(self.activation).activation()),
        ];
        let bindings = [(0, self.x.clone()), (1, self.y.clone())];
        Kernel { shader: &CUT_GATES, flags: &[], constants: &constants, bindings: &bindings, grid: [self.tokens, 1, 1] }.bind(gpu)
    }
}

/// The CPU twin, for one row without padding.
pub fn cpu(kind: Activation, cutoff: f32, x: &[f32]) -> Vec<f32> {
    let pairs = x.as_chunks::<2>().0;
    let n = pairs.len() as f64;
    let mean = pairs.iter().map(|[gate, _]| f64::from(*gate)).sum::<f64>() / n;
    let deviation = (pairs.iter().map(|[gate, _]| (f64::from(*gate) - mean).powi(2)).sum::<f64>() / n).sqrt();
    let cut = |gate: f32| (f64::from(gate) - mean - f64::from(cutoff) * deviation).max(0.0) as f32;
    pairs.iter().map(|[gate, up]| activation(kind, cut(*gate)) * up).collect()
}
