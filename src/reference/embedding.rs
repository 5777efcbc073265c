//! [`Embedding`]: what stands before the first layer.

use super::ReferenceError;
use super::per_layer::PerLayerInputs;
use super::weights::Weights;
use crate::model::BoxError;
use candle_core::{Device, Tensor};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::PerLayerEmbedding;

/// The table that ids are looked up in, and that of learned positions.
pub struct Embedding {
    spec: DecoderSpec,
    table: Tensor,
    positions: Option<Tensor>,
    /// Where the decoder was loaded as a whole.
    per_layer: Option<(PerLayerInputs, Tensor)>,
}

impl Embedding {
    /// Reads the tables through `read`.
    ///
    /// # Errors
    /// If a tensor cannot be read or has another size.
    pub fn load<E: Into<BoxError>>(
        spec: &DecoderSpec,
        read: impl FnMut(&str) -> Result<Vec<f32>, E>,
    ) -> Result<Self, ReferenceError> {
        spec.check()?;
        Self::tables(spec, &mut Weights::new(spec, read))
    }

    fn tables(spec: &DecoderSpec, weights: &mut Weights) -> Result<Self, ReferenceError> {
        let table = weights.take("embedding")?;
        let positions = weights.take_if(spec.learned_positions, "positions")?;
        Ok(Self { spec: spec.clone(), table, positions, per_layer: None })
    }

    /// With all that tokens bring along.
    pub(super) fn take(spec: &DecoderSpec, weights: &mut Weights) -> Result<Self, ReferenceError> {
        let embedding = Self::tables(spec, weights)?;
        let inputs = PerLayerInputs::take(spec, weights)?;
        let per_layer = inputs.map(|inputs| weights.take(PerLayerEmbedding::TABLE).map(|table| (inputs, table))).transpose()?;
        Ok(Self { per_layer, ..embedding })
    }

    /// The numbers for all layers `[ids, layers × size]` of ids whose residual stream before the first layer is `x`, and the size.
    pub(super) fn per_layer(&self, ids: &[u32], x: &Tensor) -> Result<Option<(Tensor, usize)>, ReferenceError> {
        let Some((inputs, table)) = &self.per_layer else { return Ok(None) };
        let rows = table.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
        Ok(self.spec.per_layer_embedding.map(|p| p.size).zip(Some(inputs.unobserved(x, &rows)?)).map(|(size, all)| (all, size)))
    }

    /// The decoder's spec.
    pub(super) fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// `[vocab_size, hidden_size]`.
    pub(super) fn table(&self) -> &Tensor {
        &self.table
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
        let mut x = self.table.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
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
}
