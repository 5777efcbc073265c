//! [`LayerOnGpu`]: a decoder layer over windows of calibration, the twin of [`crate::reference::LayerWindows`].

use super::{Accelerator, AcceleratorError, HeadColumns, Matrix};
use crate::reference::ProjectionKind;
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{Attention, LayerSpec, Mixer, Mlp, Norm, QkNorm, Residual, ShortConv};

/// What a layer has beside its matrices: norms, biases and angles.
pub struct LayerOnGpu<'a> {
    accelerator: &'a Accelerator,
    spec: &'a DecoderSpec,
    layer: &'a LayerSpec,
    length: usize,
    mixer_norm: Option<Gains>,
    mixer: MixerOnGpu<'a>,
    mixer_post_norm: Option<Gains>,
    mlp_norm: Option<Gains>,
    mlp_post_norm: Option<Gains>,
    biases: Biases,
}

/// What a mixer has beside its matrices.
enum MixerOnGpu<'a> {
    Attention {
        attention: &'a Attention,
        q_norm: Option<Gains>,
        k_norm: Option<Gains>,
        /// Cosine and sine by position and pair.
        angles: Vec<[f32; 2]>,
        /// A score of each head that joins its softmax, or none.
        sinks: Vec<f32>,
    },
    ShortConv {
        conv: &'a ShortConv,
        /// By channel: its taps, then its bias.
        taps: Vec<f32>,
    },
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
    input: Option<Vec<f32>>,
    output: Option<Vec<f32>>,
    up: Option<Vec<f32>>,
    down: Option<Vec<f32>>,
}

impl<'a> LayerOnGpu<'a> {
    /// Whether `accelerator` serves layer `index` for so many windows of `length` positions. Other layers are left to the
    /// processor.
    pub fn serves(accelerator: &Accelerator, spec: &DecoderSpec, index: usize, windows: usize, length: usize) -> bool {
        let layer = &spec.layers[index];
        if spec.per_layer_embedding.is_some() || layer.output_scale || spec.shares_kv(index) {
            return false;
        }
        if spec.altup.is_some() || layer.laurel.is_some() || layer.mlp.is_some_and(|m| m.gate_cutoff.is_some()) {
            return false;
        }
        let mixes = match &layer.mixer {
            Mixer::Attention(attention) => accelerator.can_attend(attention, windows, length),
            Mixer::ShortConv(conv) => accelerator.can_convolve(conv, windows, length),
            Mixer::DeltaNet(_) | Mixer::Mamba2(_) => false,
        };
        let serves = |mlp: &Mlp| mlp.experts.is_none() && accelerator.panel_rows(mlp.up_size()).is_ok();
        mixes && layer.beside.is_none() && layer.mlp.as_ref().is_none_or(serves)
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
        let mixer_norm = gains(before, "mixer_norm", spec.norm)?;
        let attention = layer.attention().map(|attention| -> Result<_, E> {
            let qk_norm = attention.qk_norm.map(|kind| kind.norm(spec.norm));
            let of_heads = qk_norm.unwrap_or(spec.norm);
            Ok(MixerOnGpu::Attention {
                attention,
                q_norm: gains(qk_norm.is_some(), "q_norm", of_heads)?,
                k_norm: gains(qk_norm.is_some(), "k_norm", of_heads)?,
                angles: attention.rope.map(|rope| angles(spec, rope, length)).unwrap_or_default(),
                sinks: Vec::new(),
            })
        });
        let attention = attention.transpose()?;
        let mixer_post_norm = gains(after, "mixer_post_norm", spec.norm)?;
        let mlp = layer.mlp.as_ref();
        let mlp_norm = gains(mlp.is_some() && before && layer.residual != Residual::ParallelShared, "mlp_norm", spec.norm)?;
        let mlp_post_norm = gains(mlp.is_some() && after, "mlp_post_norm", spec.norm)?;
        let mut bias = |present: bool, part: &str| present.then(|| read(&format!("{part}.bias"))).transpose();
        let ([input, output], [input_bias, output_bias]) = (layer.mixer.matrices(), layer.mixer.biases());
        let biases = Biases {
            input: bias(input_bias, input)?,
            output: bias(output_bias, output)?,
            up: mlp.map_or(Ok(None), |mlp| bias(mlp.bias, mlp.up_name()))?,
            down: mlp.map_or(Ok(None), |mlp| bias(mlp.bias, mlp.down_name()))?,
        };
        let mixer = match (&layer.mixer, attention) {
            (_, Some(mut mixer)) => {
                if let MixerOnGpu::Attention { attention, sinks, .. } = &mut mixer
                    && attention.sinks
                {
                    *sinks = read("sinks")?;
                }
                mixer
            }
            (Mixer::ShortConv(conv), None) => {
                let (kernel, bias) = (read("conv.kernel")?, conv.bias.then(|| read("conv.bias")).transpose()?);
                let bias = bias.unwrap_or_else(|| vec![0.0; conv.channels]);
                let taps = kernel.chunks_exact(conv.kernel_size).zip(bias);
                MixerOnGpu::ShortConv { conv, taps: taps.flat_map(|(taps, bias)| taps.iter().copied().chain([bias])).collect() }
            }
            (Mixer::Attention(_) | Mixer::DeltaNet(_) | Mixer::Mamba2(_), None) => {
                unreachable!("attention was read before, delta nets and Mamba mixers are not served")
            }
        };
        Ok(Self { accelerator, spec, layer, length, mixer_norm, mixer, mixer_post_norm, mlp_norm, mlp_post_norm, biases })
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
        let Some(mlp) = &self.layer.mlp else { return Ok(sum) };
        let input = match (shared, self.layer.residual) {
            (Some(shared), _) => shared,
            (None, Residual::Parallel) => self.normed(&self.mlp_norm, x)?,
            (None, _) => self.normed(&self.mlp_norm, &sum)?,
        };
        let out = self.mlp(mlp, input, &mut product)?;
        self.accelerator.combine(&mut sum, 1.0, &out, multiplier)?;
        Ok(sum)
    }

    fn mix<E: From<AcceleratorError>>(
        &self,
        input: Matrix,
        product: &mut impl FnMut(ProjectionKind, Matrix) -> Result<Matrix, E>,
    ) -> Result<Matrix, E> {
        let mut rows = product(ProjectionKind::MixerInput, input)?;
        self.biased(&mut rows, &self.biases.input)?;
        let mixed = match &self.mixer {
            MixerOnGpu::Attention { attention, q_norm, k_norm, angles, sinks } => {
                self.attend(rows, attention, [q_norm, k_norm], angles, sinks)?
            }
            MixerOnGpu::ShortConv { conv, taps } => {
                let mixed = self.accelerator.convolve(&rows, conv, taps, self.length)?;
                drop(rows);
                mixed
            }
        };
        let mut out = product(ProjectionKind::MixerOutput, mixed)?;
        self.biased(&mut out, &self.biases.output)?;
        self.normalize_rows(&self.mixer_post_norm, &mut out)?;
        Ok(out)
    }

    fn attend(
        &self,
        mut qkv: Matrix,
        attention: &Attention,
        [q_norm, k_norm]: [&Option<Gains>; 2],
        angles: &[[f32; 2]],
        sinks: &[f32],
    ) -> Result<Matrix, AcceleratorError> {
        let width = attention.head_dim;
        let queries = HeadColumns { first: 0, heads: attention.num_heads, width };
        let keys = HeadColumns { first: attention.attention_size(), heads: attention.num_kv_heads, width };
        for (gains, heads) in [(q_norm, queries), (k_norm, keys)] {
            // Over all heads together they are one wide head.
            let whole = HeadColumns { first: heads.first, heads: 1, width: heads.heads * width };
            let normed = if attention.qk_norm == Some(QkNorm::Whole) { whole } else { heads };
            if !attention.qk_norm_after_rope {
                self.normalize(gains, &mut qkv, normed)?;
            }
            if !angles.is_empty() {
                self.accelerator.rotate(&mut qkv, heads, self.length, angles)?;
            }
            if attention.qk_norm_after_rope {
                self.normalize(gains, &mut qkv, normed)?;
            }
        }
        let mut attended = self.accelerator.attend(&qkv, attention, sinks, self.length)?;
        if attention.gate_size() > 0 {
            self.accelerator.gate_heads(&mut attended, &qkv, attention)?;
        }
        Ok(attended)
    }

    fn mlp<E: From<AcceleratorError>>(
        &self,
        mlp: &Mlp,
        input: Matrix,
        product: &mut impl FnMut(ProjectionKind, Matrix) -> Result<Matrix, E>,
    ) -> Result<Matrix, E> {
        let mut up = product(ProjectionKind::Up, input)?;
        self.biased(&mut up, &self.biases.up)?;
        let inner = self.accelerator.activate(&up, mlp.activation, mlp.gated)?;
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
