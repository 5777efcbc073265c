//! The reference one layer at a time, over many windows at once: what calibration runs on.

use super::layer::{Layer, NormWeights};
use super::observe::Observe;
use super::rope::{CosSin, cos_sin};
use super::weights::Weights;
use super::{ReferenceError, scaled_logits};
use crate::model::BoxError;
use candle_core::{Device, Tensor};
use haikuq_format::DecoderSpec;

/// One layer, for windows of one length.
pub struct LayerWindows<'a> {
    spec: &'a DecoderSpec,
    layer: Layer,
    ropes: Vec<CosSin>,
    length: usize,
}

impl<'a> LayerWindows<'a> {
    /// Reads layer `index` through `read`, for windows of `length` positions.
    ///
    /// # Errors
    /// If a tensor cannot be read or has another size.
    pub fn load<E: Into<BoxError>>(
        spec: &'a DecoderSpec,
        index: usize,
        length: usize,
        read: impl FnMut(&str) -> Result<Vec<f32>, E>,
    ) -> Result<Self, ReferenceError> {
        let layer = Layer::load(spec, index, &mut Weights::new(spec, read))?;
        let ropes = spec.ropes.iter().map(|table| cos_sin(table, 0, length, length)).collect::<Result<_, _>>()?;
        Ok(Self { spec, layer, ropes, length })
    }

    /// The residual stream `x` `[windows × length, hidden_size]` after this layer.
    ///
    /// # Errors
    /// The observer's own.
    pub fn forward(&self, x: &Tensor, observer: &mut dyn Observe) -> Result<Tensor, ReferenceError> {
        Ok(self.layer.forward_windows(self.spec, x, &self.ropes, self.length, observer)?)
    }
}

/// What stands before the first and after the last layer.
pub struct Ends<'a> {
    spec: &'a DecoderSpec,
    embedding: Tensor,
    positions: Option<Tensor>,
    final_norm: NormWeights,
    head: Tensor,
    head_bias: Option<Tensor>,
}

impl<'a> Ends<'a> {
    /// Reads embedding, final norm and head through `read`.
    ///
    /// # Errors
    /// If a tensor cannot be read or has another size.
    pub fn load<E: Into<BoxError>>(
        spec: &'a DecoderSpec,
        read: impl FnMut(&str) -> Result<Vec<f32>, E>,
    ) -> Result<Self, ReferenceError> {
        spec.check()?;
        let mut weights = Weights::new(spec, read);
        let embedding = weights.take("embedding")?;
        let positions = weights.take_if(spec.learned_positions, "positions")?;
        let final_norm = NormWeights::load(spec.norm, "final_norm", &mut weights)?;
        let head = if spec.tied_head { embedding.clone() } else { weights.take("head")? };
        let head_bias = weights.take_if(spec.biases.head, "head.bias")?;
        Ok(Self { spec, embedding, positions, final_norm, head, head_bias })
    }

    /// The residual stream before the first layer, `[windows × length, hidden_size]`, of windows that each start at
    /// position 0.
    ///
    /// # Errors
    /// If an id is outside the vocabulary or a window longer than the context.
    pub fn embed(&self, windows: &[Vec<u32>]) -> Result<Tensor, ReferenceError> {
        let (vocab_size, max_context) = (self.spec.vocab_size, self.spec.max_context);
        let embed = |ids: &Vec<u32>| -> Result<Tensor, ReferenceError> {
            if ids.len() > max_context {
                return Err(ReferenceError::Context { length: ids.len(), max_context });
            }
            if let Some(i) = ids.iter().position(|&id| id as usize >= vocab_size) {
                return Err(ReferenceError::Token { id: ids[i], position: i, vocab_size });
            }
            let mut x = self.embedding.index_select(&Tensor::new(ids.as_slice(), &Device::Cpu)?, 0)?;
            if self.spec.embedding_multiplier != 1.0 {
                x = (x * f64::from(self.spec.embedding_multiplier))?;
            }
            if let Some(table) = &self.positions {
                x = (x + table.narrow(0, 0, ids.len())?)?;
            }
            Ok(x)
        };
        Ok(Tensor::cat(&windows.iter().map(embed).collect::<Result<Vec<_>, _>>()?, 0)?)
    }

    /// The final norm of the residual stream after the last layer: the head's input.
    ///
    /// # Errors
    /// Only of tensor arithmetic.
    pub fn normed(&self, x: &Tensor) -> Result<Tensor, ReferenceError> {
        Ok(self.final_norm.forward(x)?)
    }

    /// Logits `[n, vocab_size]` of head inputs `[n, hidden_size]`.
    ///
    /// # Errors
    /// Only of tensor arithmetic.
    pub fn logits(&self, normed: &Tensor) -> Result<Tensor, ReferenceError> {
        Ok(scaled_logits(self.spec, normed, &self.head, self.head_bias.as_ref())?)
    }

    /// How fast each of a position's logits grows with the output of the head's matrix; nothing where it is that output
    /// (and a bias).
    pub fn slopes(&self, logits: &[f32]) -> Option<Vec<f32>> {
        let DecoderSpec { logit_multiplier, logit_softcap, .. } = *self.spec;
        let slope = |logit: &f32| logit_multiplier * logit_softcap.map_or(1.0, |cap| 1.0 - (logit / cap).powi(2));
        (logit_multiplier != 1.0 || logit_softcap.is_some()).then(|| logits.iter().map(slope).collect())
    }

    /// The gradient with respect to the head's input `[n, hidden_size]`, of one with respect to the output of its matrix
    /// `[n, vocab_size]`.
    ///
    /// # Errors
    /// Only of tensor arithmetic.
    pub fn head_gradient(&self, output: &Tensor) -> Result<Tensor, ReferenceError> {
        Ok(output.matmul(&self.head)?)
    }
}
