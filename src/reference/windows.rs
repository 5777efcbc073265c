//! The reference one layer at a time, over many windows at once: what calibration runs on.

use super::ReferenceError;
use super::cache::KeysValues;
use super::layer::{Beside, Layer};
use super::observe::Observe;
use super::product::GpuProducts;
use super::rope::{CosSin, cos_sin};
use super::weights::Weights;
use crate::model::BoxError;
use candle_core::Tensor;
use haikuq_format::DecoderSpec;
use std::sync::Arc;

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

    /// The same with products computed in integers ([`crate::matmul::integers`]), and `gradients` of them.
    ///
    /// # Errors
    /// Only of tensor arithmetic.
    pub fn in_integers(mut self, gradients: bool) -> Result<Self, ReferenceError> {
        self.layer.use_integers(gradients)?;
        Ok(self)
    }

    /// The same with its weights on a GPU too, which computes products with them and gradients of these.
    ///
    /// # Errors
    /// Only of tensor arithmetic.
    pub fn on(mut self, products: &Arc<GpuProducts>) -> Result<Self, ReferenceError> {
        self.layer.put_on(products)?;
        Ok(self)
    }

    /// The residual stream `x` `[windows × length, hidden_size]` after this layer.
    ///
    /// # Errors
    /// The observer's own.
    pub fn forward(&self, x: &Tensor, observer: &mut dyn Observe) -> Result<Tensor, ReferenceError> {
        Ok(self.forward_beside(x, &Beside::default(), observer)?.0)
    }

    /// As [`LayerWindows::forward`], given what else goes into the layer; also its keys and values, of each window, where it
    /// has such.
    ///
    /// # Errors
    /// The observer's own.
    pub fn forward_beside(
        &self,
        x: &Tensor,
        beside: &Beside,
        observer: &mut dyn Observe,
    ) -> Result<(Tensor, Vec<KeysValues>), ReferenceError> {
        Ok(self.layer.forward_windows(self.spec, x, beside, &self.ropes, self.length, observer)?)
    }
}
