//! Numbers that a token brings along for each layer, and what a layer does with its own.

use super::ReferenceError;
use super::elementwise::{gated, sum};
use super::layer::{Projection, activate, project, scaled};
use super::norm::NormWeights;
use super::observe::{Observe, ProjectionKind, Unobserved};
use super::product::{Factor, GpuProducts};
use super::weights::Weights;
use crate::model::BoxError;
use candle_core::{Result, Tensor};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{Activation, Norm, NormKind, PerLayerEmbedding};
use std::sync::Arc;

/// What makes the numbers of all layers from a token's embedding and its row of the table.
pub struct PerLayerInputs {
    spec: PerLayerEmbedding,
    projection: Projection,
    norm: NormWeights,
}

impl PerLayerInputs {
    /// Reads the projection and its norm through `read`; nothing for a decoder without such numbers.
    ///
    /// # Errors
    /// If a tensor cannot be read or has another size.
    pub fn load<E: Into<BoxError>>(
        spec: &DecoderSpec,
        read: impl FnMut(&str) -> std::result::Result<Vec<f32>, E>,
    ) -> std::result::Result<Option<Self>, ReferenceError> {
        Self::take(spec, &mut Weights::new(spec, read))
    }

    pub(super) fn take(spec: &DecoderSpec, weights: &mut Weights) -> std::result::Result<Option<Self>, ReferenceError> {
        let Some(per_layer) = spec.per_layer_embedding else { return Ok(None) };
        let norm = Norm { kind: NormKind::Rms, ..spec.norm };
        let projection = Projection::load(weights, "per_layer_projection", false)?;
        let norm = NormWeights::load(norm, "per_layer_norm", weights)?;
        Ok(Some(Self { spec: per_layer, projection, norm }))
    }

    /// The same with products computed in integers ([`crate::matmul::integers`]), and `gradients` of them.
    ///
    /// # Errors
    /// Only of tensor arithmetic.
    pub fn in_integers(mut self, gradients: bool) -> std::result::Result<Self, ReferenceError> {
        self.projection.factor().use_integers(gradients)?;
        Ok(self)
    }

    /// The same with its weights on a GPU too.
    ///
    /// # Errors
    /// Only of tensor arithmetic.
    pub fn on(mut self, products: &Arc<GpuProducts>) -> std::result::Result<Self, ReferenceError> {
        self.projection.factor().put_on(products)?;
        Ok(self)
    }

    /// `[n, layers × size]` of tokens with the embeddings `embedded` `[n, hidden_size]` and `rows` of the table, `[n, layers × size]`.
    ///
    /// # Errors
    /// The observer's own.
    pub fn forward(
        &self,
        embedded: &Tensor,
        rows: &Tensor,
        observer: &mut dyn Observe,
    ) -> std::result::Result<Tensor, ReferenceError> {
        let PerLayerEmbedding { size, table_multiplier, projection_multiplier, multiplier, .. } = self.spec;
        let projected = project(ProjectionKind::PerLayerProjection, &self.projection, embedded, observer)?;
        let (n, width) = projected.dims2()?;
        let projected = scaled(projected.reshape((n * (width / size), size))?, projection_multiplier)?;
        let normed = self.norm.forward(&projected)?.reshape((n, width))?;
        Ok(scaled(sum(&normed, &scaled(rows.clone(), table_multiplier)?)?, multiplier)?)
    }

    /// As [`PerLayerInputs::forward`], of one layer alone: `rows` `[n, size]` are that layer's part of the table's.
    ///
    /// # Errors
    /// Only of tensor arithmetic.
    pub fn of_layer(&self, layer: usize, embedded: &Tensor, rows: &Tensor) -> std::result::Result<Tensor, ReferenceError> {
        let PerLayerEmbedding { size, table_multiplier, projection_multiplier, multiplier, .. } = self.spec;
        let weights = self.projection.weights().narrow(0, layer * size, size)?.contiguous()?;
        let projected = scaled(Factor::from(weights).product(embedded)?, projection_multiplier)?;
        Ok(scaled(sum(&self.norm.forward(&projected)?, &scaled(rows.clone(), table_multiplier)?)?, multiplier)?)
    }

    pub(super) fn unobserved(&self, embedded: &Tensor, rows: &Tensor) -> std::result::Result<Tensor, ReferenceError> {
        self.forward(embedded, rows, &mut Unobserved)
    }
}

/// What a layer does with its own.
pub(super) struct PerLayerBlock {
    activation: Activation,
    gate: Projection,
    output: Projection,
    norm: NormWeights,
}

impl PerLayerBlock {
    /// `layer` is the prefix of its tensors' names, with the dot.
    pub(super) fn take(
        spec: &DecoderSpec,
        layer: &str,
        weights: &mut Weights,
    ) -> std::result::Result<Option<Self>, ReferenceError> {
        let Some(PerLayerEmbedding { activation, .. }) = spec.per_layer_embedding else { return Ok(None) };
        let gate = Projection::load(weights, &format!("{layer}per_layer_gate"), false)?;
        let output = Projection::load(weights, &format!("{layer}per_layer_output"), false)?;
        let norm = NormWeights::load(spec.norm, &format!("{layer}per_layer_post_norm"), weights)?;
        Ok(Some(Self { activation, gate, output, norm }))
    }

    pub(super) fn factors(&mut self) -> [&mut Factor; 2] {
        [self.gate.factor(), self.output.factor()]
    }

    /// What is added to the residual stream `x` `[n, hidden_size]` of tokens with `numbers` `[n, size]`.
    pub(super) fn forward(&self, x: &Tensor, numbers: &Tensor, observer: &mut dyn Observe) -> Result<Tensor> {
        let gate = activate(self.activation, project(ProjectionKind::PerLayerGate, &self.gate, x, observer)?)?;
        let output = project(ProjectionKind::PerLayerOutput, &self.output, &gated(&gate, numbers)?, observer)?;
        self.norm.forward(&output)
    }
}
