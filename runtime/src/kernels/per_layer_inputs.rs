//! `per_layer_inputs`: what tokens bring along for each layer, of a projection and rows of a table.

use super::norm;
use crate::device::{Binding, Dispatch, Gpu, GpuError, Kernel};
use haikuq_format::layout::padded;
use haikuq_format::spec::{Norm, NormKind, PerLayerEmbedding};

super::shader!(PER_LAYER_INPUTS = "per_layer_inputs");

/// `x = multiplier × (rms(projection_multiplier × x) × gain + rows)` for each of `tokens` rows, a layer's numbers at a time.
#[derive(Clone, Debug)]
pub struct PerLayerRows<'a> {
    /// Rows.
    pub tokens: u32,
    /// Layers whose numbers lie side by side in a row.
    pub layers: u32,
    /// Size and multipliers; rows of the table are multiplied already.
    pub spec: PerLayerEmbedding,
    /// Added to the mean square.
    pub epsilon: f32,
    /// f32 \[size\].
    pub gain: Binding<'a>,
    /// f32 \[tokens\]\[padded(layers × size)\].
    pub rows: Binding<'a>,
    /// f32 \[tokens\]\[padded(layers × size)\].
    pub x: Binding<'a>,
}

impl PerLayerRows<'_> {
    /// Binds the kernel.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if it does not fit the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Dispatch, GpuError> {
        let width = self.layers as usize * self.spec.size;
        let constants = [
            ("SIZE", self.spec.size as f64),
            ("PITCH", padded(width) as f64),
            ("PROJECTED", self.spec.projection_multiplier.into()),
            ("EPSILON", self.epsilon.into()),
            ("MULTIPLIER", self.spec.multiplier.into()),
        ];
        let bindings = [(0, self.gain.clone()), (1, self.rows.clone()), (2, self.x.clone())];
        let grid = [self.layers, self.tokens, 1];
        Kernel { shader: &PER_LAYER_INPUTS, flags: &[], constants: &constants, bindings: &bindings, grid }.bind(gpu)
    }
}

/// The CPU twin, for one row without padding.
pub fn cpu(spec: PerLayerEmbedding, epsilon: f32, gain: &[f32], rows: &[f32], x: &mut [f32]) {
    let norm = Norm { kind: NormKind::Rms, epsilon };
    for (x, rows) in x.chunks_mut(spec.size).zip(rows.chunks(spec.size)) {
        let projected: Vec<f32> = x.iter().map(|x| spec.projection_multiplier * x).collect();
        let normed = norm::cpu(norm, &projected, gain, &[]);
        x.iter_mut().zip(normed).zip(rows).for_each(|((x, n), row)| *x = spec.multiplier * (n + row));
    }
}
