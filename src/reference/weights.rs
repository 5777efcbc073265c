//! Canonical tensors as candle tensors, each checked against the spec's shape.

use super::ReferenceError;
use crate::model::BoxError;
use candle_core::{Device, Tensor};
use haikuq_format::DecoderSpec;
use std::collections::BTreeMap;

/// Canonical name to row-major numbers.
type Read<'a> = dyn FnMut(&str) -> Result<Vec<f32>, BoxError> + 'a;

/// Reads tensors by canonical name.
pub(super) struct Weights<'a> {
    shapes: BTreeMap<String, Vec<usize>>,
    read: Box<Read<'a>>,
}

impl<'a> Weights<'a> {
    pub(super) fn new<E: Into<BoxError>>(spec: &DecoderSpec, mut read: impl FnMut(&str) -> Result<Vec<f32>, E> + 'a) -> Self {
        let shapes = spec.tensors().into_iter().map(|t| (t.name, t.shape)).collect();
        Self { shapes, read: Box::new(move |name| read(name).map_err(Into::into)) }
    }

    /// The tensor called `name`, in the spec's shape.
    pub(super) fn take(&mut self, name: &str) -> Result<Tensor, ReferenceError> {
        let shape = self.shapes.get(name).cloned().unwrap_or_default();
        let values = (self.read)(name).map_err(|source| ReferenceError::Read { tensor: name.into(), source })?;
        let need = shape.iter().product();
        if values.len() != need {
            return Err(ReferenceError::Shape { tensor: name.into(), shape, need, have: values.len() });
        }
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    /// `take(name)` if `present`.
    pub(super) fn take_if(&mut self, present: bool, name: &str) -> Result<Option<Tensor>, ReferenceError> {
        if present { self.take(name).map(Some) } else { Ok(None) }
    }
}
