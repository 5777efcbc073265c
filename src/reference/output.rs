//! [`OutputHead`]: what stands after the last layer.

use super::ReferenceError;
use super::norm::NormWeights;
use super::product::{Factor, GpuProducts};
use super::weights::Weights;
use crate::model::BoxError;
use candle_core::Tensor;
use haikuq_format::DecoderSpec;
use std::sync::Arc;

/// The norm after the last layer.
pub struct FinalNorm(NormWeights);

impl FinalNorm {
    /// Reads it through `read`.
    ///
    /// # Errors
    /// If a tensor cannot be read or has another size.
    pub fn load<E: Into<BoxError>>(
        spec: &DecoderSpec,
        read: impl FnMut(&str) -> Result<Vec<f32>, E>,
    ) -> Result<Self, ReferenceError> {
        Self::take(spec, &mut Weights::new(spec, read))
    }

    fn take(spec: &DecoderSpec, weights: &mut Weights) -> Result<Self, ReferenceError> {
        NormWeights::load(spec.norm, "final_norm", weights).map(Self)
    }

    /// Of the residual stream after the last layer: the head's input.
    ///
    /// # Errors
    /// Only of tensor arithmetic.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, ReferenceError> {
        Ok(self.0.forward(x)?)
    }
}

/// The final norm and the head, which makes logits.
pub struct OutputHead {
    spec: DecoderSpec,
    norm: FinalNorm,
    head: Factor,
    bias: Option<Tensor>,
}

impl OutputHead {
    /// Reads final norm and head through `read`.
    ///
    /// # Errors
    /// If a tensor cannot be read or has another size.
    pub fn load<E: Into<BoxError>>(
        spec: &DecoderSpec,
        read: impl FnMut(&str) -> Result<Vec<f32>, E>,
    ) -> Result<Self, ReferenceError> {
        spec.check()?;
        let mut weights = Weights::new(spec, read);
        let tied = spec.tied_head.then(|| weights.take("embedding")).transpose()?;
        Self::take(spec, &mut weights, tied.as_ref())
    }

    /// `tied` is the embedding's table where it is the head, too.
    pub(super) fn take(spec: &DecoderSpec, weights: &mut Weights, tied: Option<&Tensor>) -> Result<Self, ReferenceError> {
        let norm = FinalNorm::take(spec, weights)?;
        let head = Factor::from(tied.cloned().map_or_else(|| weights.take("head"), Ok)?);
        let bias = weights.take_if(spec.head_bias, "head.bias")?;
        Ok(Self { spec: spec.clone(), norm, head, bias })
    }

    /// The same with the head's products and gradients computed in integers ([`crate::matmul::integers`]).
    ///
    /// # Errors
    /// Only of tensor arithmetic.
    pub fn in_integers(mut self) -> Result<Self, ReferenceError> {
        self.head.use_integers(true)?;
        Ok(self)
    }

    /// The same with the head's weights on a GPU too, which computes products with them and gradients of these.
    ///
    /// # Errors
    /// Only of tensor arithmetic.
    pub fn on(mut self, products: &Arc<GpuProducts>) -> Result<Self, ReferenceError> {
        self.head.put_on(products)?;
        Ok(self)
    }

    /// As [`FinalNorm::forward`].
    ///
    /// # Errors
    /// Only of tensor arithmetic.
    pub fn normed(&self, x: &Tensor) -> Result<Tensor, ReferenceError> {
        self.norm.forward(x)
    }

    /// Logits `[n, vocab_size]` of head inputs `[n, hidden_size]`, with all that the spec does to them.
    ///
    /// # Errors
    /// Only of tensor arithmetic.
    pub fn logits(&self, normed: &Tensor) -> Result<Tensor, ReferenceError> {
        let mut logits = self.head.product(normed)?;
        if let Some(bias) = &self.bias {
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
