//! `norm`: root mean square or layer normalization of whole rows.

use crate::device::{Binding, Dispatch, Flag, Gpu, GpuError, Kernel};
use haikuq_format::layout::padded;
use haikuq_format::spec::Norm;

super::shader!(NORM = "norm");

/// vec4 of a row that an invocation holds at most; as the shader has it.
const MAX_HELD: u32 = 4;

/// `y[t] = norm(x[t])` for each of `tokens` rows, or `y[t] += residual × norm(x[t])`, times `scale` where there is one.
#[derive(Clone, Debug)]
pub struct NormRows<'a> {
    /// Rows.
    pub tokens: u32,
    /// Values in a row.
    pub columns: u32,
    /// Which normalization, and its epsilon.
    pub norm: Norm,
    /// f32 \[tokens\]\[padded(columns)\].
    pub x: Binding<'a>,
    /// f32 \[columns\].
    pub gain: Binding<'a>,
    /// f32 \[columns\]; needed by norms that have one ([`NormKind::has_bias`](haikuq_format::spec::NormKind::has_bias)),
    /// ignored by others.
    pub bias: Option<Binding<'a>>,
    /// Multiplies what is added to `y`; `y` is overwritten where absent.
    pub residual: Option<f32>,
    /// f32 \[1\]: `y` is multiplied with it at last.
    pub scale: Option<Binding<'a>>,
    /// f32 \[tokens\]\[padded(columns)\], another buffer than `x`; padding becomes, or stays, zero.
    pub y: Binding<'a>,
}

impl NormRows<'_> {
    /// Binds the kernel.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if it does not fit the device; [`GpuError::Validation`] where a norm lacks its bias.
    pub fn bind(&self, gpu: &Gpu) -> Result<Dispatch, GpuError> {
        let pitch = padded(self.columns as usize) as u32 / 4;
        let mut bindings = vec![(0, self.x.clone()), (1, self.gain.clone()), (3, self.y.clone())];
        let mut flags = vec![Flag::Subgroups];
        flags.extend(self.norm.kind.is_centred().then_some(Flag::Layer));
        if self.norm.kind.has_bias() {
            let bias = self.bias.clone().ok_or_else(|| GpuError::Validation("norm: this layer norm needs a bias".into()))?;
            bindings.push((2, bias));
            flags.push(Flag::Bias);
        }
        if let Some(scale) = &self.scale {
            bindings.push((4, scale.clone()));
            flags.push(Flag::Scaled);
        }
        // Small rows gain nothing from idle invocations.
        let workgroup = pitch.next_power_of_two().clamp(32, 256);
        let mut constants = vec![
            ("WORKGROUP", f64::from(workgroup)),
            ("HELD", pitch.div_ceil(workgroup).min(MAX_HELD).into()),
            ("COLUMNS", self.columns.into()),
            ("PITCH", pitch.into()),
            ("EPSILON", self.norm.epsilon.into()),
        ];
        if let Some(multiplier) = self.residual {
            flags.push(Flag::Residual);
            constants.push(("MULTIPLIER", multiplier.into()));
        }
        Kernel { shader: &NORM, flags: &flags, constants: &constants, bindings: &bindings, grid: [self.tokens, 1, 1] }.bind(gpu)
    }
}

/// The CPU twin, for one row without padding; `bias` is used by norms that have one. To a residual the kernel adds this,
/// times the multiplier.
pub fn cpu(norm: Norm, x: &[f32], gain: &[f32], bias: &[f32]) -> Vec<f32> {
    let n = x.len() as f64;
    let mean = if norm.kind.is_centred() { x.iter().map(|x| f64::from(*x)).sum::<f64>() / n } else { 0.0 };
    let square = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
    let scale = 1.0 / (square + f64::from(norm.epsilon)).sqrt();
    let bias = |i: usize| if norm.kind.has_bias() { f64::from(bias[i]) } else { 0.0 };
    let normed = x.iter().zip(gain).map(|(x, g)| (f64::from(*x) - mean) * scale * f64::from(*g));
    normed.enumerate().map(|(i, y)| (y + bias(i)) as f32).collect()
}
