//! [`LayerOnGpu`]: a decoder layer over windows of calibration, the twin of [`crate::reference::LayerWindows`].

use super::{Accelerator, AcceleratorError, HeadColumns, Matrix};
use crate::reference::ProjectionKind;
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{LayerSpec, Mixer, Norm, QkNorm, Residual};

/// What a layer has beside its matrices: norms, biases and angles.
pub struct LayerOnGpu<'a> {
    accelerator: &'a Accelerator,
    spec: &'a DecoderSpec,
    layer: &'a LayerSpec,
    length: usize,
    mixer_norm: Option<Gains>,
    q_norm: Option<Gains>,
    k_norm: Option<Gains>,
    mixer_post_norm: Option<Gains>,
    mlp_norm: Option<Gains>,
    mlp_post_norm: Option<Gains>,
    biases: Biases,
    /// Cosine and sine by position and pair.
    angles: Vec<[f32; 2]>,
}

/// A norm's gains and biases.
struct Gains {
    norm: Norm,
    gain: Vec<f32>,
    bias: Option<Vec<f32>>,
}

/// Those of matrices.
#[derive(Default)]
struct Biases {
    qkv: Option<Vec<f32>>,
    output: Option<Vec<f32>>,
    up: Option<Vec<f32>>,
    down: Option<Vec<f32>>,
}

impl<'a> LayerOnGpu<'a> {
    /// Whether `accelerator` serves layer `index` for so many windows of `length` positions. Other layers are left to the
    /// processor.
    pub fn serves(accelerator: &Accelerator, spec: &DecoderSpec, index: usize, windows: usize, length: usize) -> bool {
        let layer = &spec.layers[index];
        let Mixer::Attention(attention) = &layer.mixer;
        accelerator.can_attend(attention, windows, length) && accelerator.panel_rows(layer.mlp.up_size()).is_ok()
    }

    /// Reads norms and biases of layer `index` through `read`, for windows of `length` positions.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn load<E>(
        accelerator: &'a Accelerator,
        spec: &'a DecoderSpec,
        index: usize,
        length: usize,
        mut read: impl FnMut(&str) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let layer = &spec.layers[index];
        let Mixer::Attention(attention) = &layer.mixer;
        let mut read = |part: &str| read(&format!("layers.{index}.{part}"));
        let mut gains = |present: bool, part: &str, norm: Norm| -> Result<Option<Gains>, E> {
            if !present {
                return Ok(None);
            }
            let gain = read(&format!("{part}.gain"))?;
            let bias = norm.kind.has_bias().then(|| read(&format!("{part}.bias"))).transpose()?;
            Ok(Some(Gains { norm, gain, bias }))
        };
        let (before, after) = (layer.norm_placement.is_before(), layer.norm_placement.is_after());
        let qk_norm = attention.qk_norm.map(|kind| kind.norm(spec.norm));
        let of_heads = qk_norm.unwrap_or(spec.norm);
        let mixer_norm = gains(before, "mixer_norm", spec.norm)?;
        let q_norm = gains(qk_norm.is_some(), "q_norm", of_heads)?;
        let k_norm = gains(qk_norm.is_some(), "k_norm", of_heads)?;
        let mixer_post_norm = gains(after, "mixer_post_norm", spec.norm)?;
        let mlp_norm = gains(before && layer.residual != Residual::ParallelShared, "mlp_norm", spec.norm)?;
        let mlp_post_norm = gains(after, "mlp_post_norm", spec.norm)?;
        let mut bias = |present: bool, part: &str| present.then(|| read(&format!("{part}.bias"))).transpose();
        let biases = Biases {
            qkv: bias(attention.qkv_bias, "qkv")?,
            output: bias(attention.output_bias, "attention_output")?,
            up: bias(layer.mlp.bias, layer.mlp.up_name())?,
            down: bias(layer.mlp.bias, "down")?,
        };
        let angles = attention.rope.map(|rope| angles(spec, rope, length)).unwrap_or_default();
        Ok(Self {
            accelerator,
            spec,
            layer,
            length,
            mixer_norm,
            q_norm,
            k_norm,
            mixer_post_norm,
            mlp_norm,
            mlp_post_norm,
            biases,
            angles,
        })
    }

    /// The residual stream `x` `[windows × length, hidden_size]` after this layer. `product` gets each matrix's inputs
    /// `[windows × length, columns]` in the order of computation, which it may keep, and returns their product with the
    /// matrix, `[windows × length, rows]`; [`ProjectionKind::Up`] stands for gate and up, whose rows are those of the two in turn.
    ///
    /// # Errors
    /// Those of `product` and [`AcceleratorError`]s.
    pub fn forward<E: From<AcceleratorError>>(
        &self,
        x: &Matrix,
        mut product: impl FnMut(ProjectionKind, Matrix) -> Result<Matrix, E>,
    ) -> Result<Matrix, E> {
        let multiplier = self.spec.residual_multiplier;
        let normed = self.normed(&self.mixer_norm, x)?;
        let shared = match self.layer.residual {
            Residual::ParallelShared => Some(self.accelerator.copy(&normed)?),
            _ => None,
        };
        let mixed = self.mix(normed, &mut product)?;
        let mut sum = self.accelerator.copy(x)?;
        self.accelerator.combine(&mut sum, 1.0, &mixed, multiplier)?;
        drop(mixed);
        let input = match (shared, self.layer.residual) {
            (Some(shared), _) => shared,
            (None, Residual::Parallel) => self.normed(&self.mlp_norm, x)?,
            (None, _) => self.normed(&self.mlp_norm, &sum)?,
        };
        let out = self.mlp(input, &mut product)?;
        self.accelerator.combine(&mut sum, 1.0, &out, multiplier)?;
        Ok(sum)
    }

    fn mix<E: From<AcceleratorError>>(
        &self,
        input: Matrix,
        product: &mut impl FnMut(ProjectionKind, Matrix) -> Result<Matrix, E>,
    ) -> Result<Matrix, E> {
        let Mixer::Attention(attention) = &self.layer.mixer;
        let width = attention.head_dim;
        let queries = HeadColumns { first: 0, heads: attention.num_heads, width };
        let keys = HeadColumns { first: attention.attention_size(), heads: attention.num_kv_heads, width };
        let mut qkv = product(ProjectionKind::Qkv, input)?;
        self.biased(&mut qkv, &self.biases.qkv)?;
        for (gains, heads) in [(&self.q_norm, queries), (&self.k_norm, keys)] {
            // Over all heads together they are one wide head.
            let whole = HeadColumns { first: heads.first, heads: 1, width: heads.heads * width };
            let normed = if attention.qk_norm == Some(QkNorm::Whole) { whole } else { heads };
            if !attention.qk_norm_after_rope {
                self.normalize(gains, &mut qkv, normed)?;
            }
            if !self.angles.is_empty() {
                self.accelerator.rotate(&mut qkv, heads, self.length, &self.angles)?;
            }
            if attention.qk_norm_after_rope {
                self.normalize(gains, &mut qkv, normed)?;
            }
        }
        let attended = self.accelerator.attend(&qkv, attention, self.length)?;
        drop(qkv);
        let mut out = product(ProjectionKind::AttentionOutput, attended)?;
        self.biased(&mut out, &self.biases.output)?;
        self.normalize_rows(&self.mixer_post_norm, &mut out)?;
        Ok(out)
    }

    fn mlp<E: From<AcceleratorError>>(
        &self,
        input: Matrix,
        product: &mut impl FnMut(ProjectionKind, Matrix) -> Result<Matrix, E>,
    ) -> Result<Matrix, E> {
        let mut up = product(ProjectionKind::Up, input)?;
        self.biased(&mut up, &self.biases.up)?;
        let inner = self.accelerator.activate(&up, self.layer.mlp.activation, self.layer.mlp.gated)?;
        drop(up);
        let mut out = product(ProjectionKind::Down, inner)?;
        self.biased(&mut out, &self.biases.down)?;
        self.normalize_rows(&self.mlp_post_norm, &mut out)?;
        Ok(out)
    }

    fn normed(&self, gains: &Option<Gains>, x: &Matrix) -> Result<Matrix, AcceleratorError> {
        let mut out = self.accelerator.copy(x)?;
        self.normalize_rows(gains, &mut out)?;
        Ok(out)
    }

    fn normalize_rows(&self, gains: &Option<Gains>, x: &mut Matrix) -> Result<(), AcceleratorError> {
        let row = HeadColumns { first: 0, heads: 1, width: x.columns() };
        self.normalize(gains, x, row)
    }

    fn normalize(&self, gains: &Option<Gains>, x: &mut Matrix, heads: HeadColumns) -> Result<(), AcceleratorError> {
        match gains {
            Some(Gains { norm, gain, bias }) => self.accelerator.norm(x, heads, *norm, gain, bias.as_deref()),
            None => Ok(()),
        }
    }

    fn biased(&self, x: &mut Matrix, bias: &Option<Vec<f32>>) -> Result<(), AcceleratorError> {
        match bias {
            Some(bias) => self.accelerator.add_bias(x, bias),
            None => Ok(()),
        }
    }
}

/// Cosine and sine of `length` positions by rope table `rope`; the angle is an f32 product.
fn angles(spec: &DecoderSpec, rope: usize, length: usize) -> Vec<[f32; 2]> {
    let table = &spec.ropes[rope];
    let inv_freq = table.long.as_ref().filter(|l| length > l.beyond).map_or(&table.inv_freq, |l| &l.inv_freq);
    let angles = (0..length).flat_map(|p| inv_freq.iter().map(move |f| p as f32 * f));
    angles.map(|a| [a.cos() * table.factor, a.sin() * table.factor]).collect()
}
