//! [`Ends`]: what stands before the first and after the last layer.

use super::ReferenceError;
use super::norm::NormWeights;
use super::product::{Factor, GpuProducts};
use super::weights::Weights;
use crate::model::BoxError;
use candle_core::{Device, Tensor};
use haikuq_format::DecoderSpec;
use std::sync::Arc;

/// What stands before the first and after the last layer: embedding, final norm and head.
pub struct Ends {
    spec: DecoderSpec,
    embedding: Tensor,
    positions: Option<Tensor>,
    final_norm: NormWeights,
    head: Factor,
    head_bias: Option<Tensor>,
}

impl Ends {
    /// Reads embedding, final norm and head through `read`.
    ///
    /// # Errors
    /// If a tensor cannot be read or has another size.
    pub fn load<E: Into<BoxError>>(
        spec: &DecoderSpec,
        read: impl FnMut(&str) -> Result<Vec<f32>, E>,
    ) -> Result<Self, ReferenceError> {
        spec.check()?;
        Self::take(spec, &mut Weights::new(spec, read))
    }

    /// The same with the head's products computed in integers ([`crate::matmul::integers`]) where the processor computes them.
    #[must_use]
    pub fn in_integers(mut self) -> Self {
        self.head.use_integers();
        self
    }

    /// The same with the head's weights on a GPU too, which computes products with them and gradients of these.
    ///
    /// # Errors
    /// Only of tensor arithmetic.
    pub fn on(mut self, products: &Arc<GpuProducts>) -> Result<Self, ReferenceError> {
        self.head.put_on(products)?;
        Ok(self)
    }

    pub(super) fn take(spec: &DecoderSpec, weights: &mut Weights) -> Result<Self, ReferenceError> {
        let embedding = weights.take("embedding")?;
        let positions = weights.take_if(spec.learned_positions, "positions")?;
        let final_norm = NormWeights::load(spec.norm, "final_norm", weights)?;
        let head = Factor::from(if spec.tied_head { embedding.clone() } else { weights.take("head")? });
        let head_bias = weights.take_if(spec.head_bias, "head.bias")?;
        Ok(Self { spec: spec.clone(), embedding, positions, final_norm, head, head_bias })
    }

    /// The decoder's spec.
    pub(super) fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// How many positions a sequence has once `ids` follow its first `first` positions.
    ///
    /// # Errors
    /// If an id is outside the vocabulary, or these are more than the context.
    pub(super) fn check(&self, ids: &[u32], first: usize) -> Result<usize, ReferenceError> {
        let (length, max_context) = (first + ids.len(), self.spec.max_context);
        if length > max_context {
            return Err(ReferenceError::Context { length, max_context });
        }
        let vocab_size = self.spec.vocab_size;
        match ids.iter().position(|&id| id as usize >= vocab_size) {
            Some(i) => Err(ReferenceError::Token { id: ids[i], position: first + i, vocab_size }),
            None => Ok(length),
        }
    }

    /// The residual stream before the first layer, `[ids, hidden_size]`, of ids from position `first` on.
    pub(super) fn embed_from(&self, ids: &[u32], first: usize) -> candle_core::Result<Tensor> {
        let mut x = self.embedding.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
        if self.spec.embedding_multiplier != 1.0 {
            x = (x * f64::from(self.spec.embedding_multiplier))?;
        }
        if let Some(table) = &self.positions {
            x = (x + table.narrow(0, first, ids.len())?)?;
        }
        Ok(x)
    }

    /// The residual stream before the first layer, `[windows × length, hidden_size]`, of windows that each start at
    /// position 0.
    ///
    /// # Errors
    /// If an id is outside the vocabulary or a window longer than the context.
    pub fn embed(&self, windows: &[Vec<u32>]) -> Result<Tensor, ReferenceError> {
        let embed = |ids: &Vec<u32>| -> Result<Tensor, ReferenceError> {
            self.check(ids, 0)?;
            Ok(self.embed_from(ids, 0)?)
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

    /// Logits `[n, vocab_size]` of head inputs `[n, hidden_size]`, with all that the spec does to them.
    ///
    /// # Errors
    /// Only of tensor arithmetic.
    pub fn logits(&self, normed: &Tensor) -> Result<Tensor, ReferenceError> {
        let mut logits = self.head.product(normed)?;
        if let Some(bias) = &self.head_bias {
            logits = logits.broadcast_add(bias)?;
        }
        if self.spec.logit_multiplier != 1.0 {
            logits = (logits * f64::from(self.spec.logit_multiplier))?;
        }
        if let Some(cap) = self.spec.logit_softcap {
            logits = ((logits / f64::from(cap))?.tanh()? * f64::from(cap))?;
        }
        Ok(logits)
    }

    /// How fast each of a position's logits grows with the output of the head's matrix; nothing where it is that output
    /// (and a bias).
    pub fn slopes(&self, logits: &[f32]) -> Option<Vec<f32>> {
        let DecoderSpec { logit_multiplier, logit_softcap, .. } = self.spec;
        let slope = |logit: &f32| logit_multiplier * logit_softcap.map_or(1.0, |cap| 1.0 - (logit / cap).powi(2));
        (logit_multiplier != 1.0 || logit_softcap.is_some()).then(|| logits.iter().map(slope).collect())
    }

    /// The gradient with respect to the head's input `[n, hidden_size]`, of one with respect to the output of its matrix
    /// `[n, vocab_size]`.
    ///
    /// # Errors
    /// Only of tensor arithmetic.
    pub fn head_gradient(&self, output: &Tensor) -> Result<Tensor, ReferenceError> {
        Ok(self.head.gradient(output)?)
    }
}
