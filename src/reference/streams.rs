//! Several residual streams: both ends, and how layers guess and correct those that their blocks do not compute.

use super::ReferenceError;
use super::elementwise::{gated, sum};
use super::layer::{Projection, project, scaled};
use super::norm::NormWeights;
use super::observe::{Observe, ProjectionKind};
use super::product::{Factor, GpuProducts};
use super::weights::Weights;
use crate::model::BoxError;
use candle_core::{Result, Tensor};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{AltUp, Norm, NormKind};
use std::sync::Arc;

/// What makes a token's streams of its embedding, and one of them after the last layer.
pub struct StreamEnds {
    hidden: usize,
    /// Of each stream but the first: the matrix before the first layer, and that after the last.
    projections: Vec<[Projection; 2]>,
}

impl StreamEnds {
    /// Reads the matrices through `read`; nothing for a decoder with one stream.
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
        let Some(altup) = spec.altup else { return Ok(None) };
        let mut load = |name: &str| Projection::load(weights, name, false);
        let projections = altup.ends().map(|[first, last]| Ok([load(&first)?, load(&last)?]));
        let projections = projections.collect::<std::result::Result<_, ReferenceError>>()?;
        Ok(Some(Self { hidden: spec.hidden_size, projections }))
    }

    /// The same with products computed in integers ([`crate::matmul::integers`]), and `gradients` of them.
    ///
    /// # Errors
    /// Only of tensor arithmetic.
    pub fn in_integers(mut self, gradients: bool) -> std::result::Result<Self, ReferenceError> {
        self.projections.iter_mut().flatten().try_for_each(|p| p.factor().use_integers(gradients))?;
        Ok(self)
    }

    /// The same with its weights on a GPU too.
    ///
    /// # Errors
    /// Only of tensor arithmetic.
    pub fn on(mut self, products: &Arc<GpuProducts>) -> std::result::Result<Self, ReferenceError> {
        self.projections.iter_mut().flatten().try_for_each(|p| p.factor().put_on(products))?;
        Ok(self)
    }

    /// All streams `[n, streams × hidden_size]` of embeddings `[n, hidden_size]`.
    ///
    /// # Errors
    /// The observer's own.
    pub fn expand(&self, embedded: &Tensor, observer: &mut dyn Observe) -> std::result::Result<Tensor, ReferenceError> {
        let mut streams = vec![embedded.clone()];
        for (i, [first, _]) in self.projections.iter().enumerate() {
            let projected = project(ProjectionKind::StreamIn(i + 1), first, embedded, observer)?;
            streams.push(sized(&projected, embedded)?);
        }
        Ok(Tensor::cat(&streams, 1)?.contiguous()?)
    }

    /// What the final norm reads, `[n, hidden_size]`, of all streams after the last layer.
    ///
    /// # Errors
    /// The observer's own.
    pub fn contract(&self, x: &Tensor, observer: &mut dyn Observe) -> std::result::Result<Tensor, ReferenceError> {
        let stream = |i: usize| x.narrow(1, i * self.hidden, self.hidden)?.contiguous();
        let first = stream(0)?;
        let mut all = first.clone();
        for (i, [_, last]) in self.projections.iter().enumerate() {
            let projected = project(ProjectionKind::StreamOut(i + 1), last, &stream(i + 1)?, observer)?;
            all = sum(&all, &sized(&projected, &first)?)?;
        }
        Ok(scaled(all, 1.0 / (1 + self.projections.len()) as f32)?)
    }
}

/// The rows of `x`, with root mean squares like those of the rows of `like`.
fn sized(x: &Tensor, like: &Tensor) -> Result<Tensor> {
    let square = |x: &Tensor| x.sqr()?.mean_keepdim(1);
    let size = square(x)?.maximum(AltUp::SMALLEST)?.sqrt()?;
    x.broadcast_mul(&square(like)?.sqrt()?.div(&size)?)
}

/// What a layer does with the streams.
pub(super) struct LayerStreams {
    spec: AltUp,
    hidden: usize,
    norm: NormWeights,
    router: Factor,
    prediction: Factor,
    correction: Factor,
    scale: Option<Tensor>,
}

impl LayerStreams {
    /// `layer` is the prefix of its tensors' names, with the dot.
    pub(super) fn take(
        spec: &DecoderSpec,
        layer: &str,
        weights: &mut Weights,
    ) -> std::result::Result<Option<Self>, ReferenceError> {
        let Some(altup) = spec.altup else { return Ok(None) };
        let (hidden, n) = (spec.hidden_size, altup.num_streams);
        let norm = NormWeights::load(Norm { kind: NormKind::Rms, ..spec.norm }, &format!("{layer}altup_norm"), weights)?;
        let scale = weights.take_if(altup.output_scale, &format!("{layer}altup.scale"))?;
        let mut small = |part: &str, shape: (usize, usize)| -> std::result::Result<Factor, ReferenceError> {
            Ok(weights.take(&format!("{layer}altup.{part}"))?.reshape(shape)?.into())
        };
        let (router, prediction) = (small("router", (n, hidden))?, small("prediction", (n * n, n))?);
        Ok(Some(Self { spec: altup, hidden, norm, router, prediction, correction: small("correction", (n, n))?, scale }))
    }

    fn routed(&self, x: &Tensor) -> Result<Tensor> {
        scaled(self.router.product(&self.norm.forward(x)?)?, 1.0 / self.hidden as f32)?.tanh()
    }

    /// The active one of `streams` `[n, streams, hidden_size]`.
    pub(super) fn active(&self, streams: &Tensor) -> Result<Tensor> {
        streams.narrow(1, self.spec.active, 1)?.squeeze(1)?.contiguous()
    }

    /// Guesses `[n, streams, hidden_size]` of what all streams `x` `[n, streams × hidden_size]` become.
    pub(super) fn predict(&self, x: &Tensor) -> Result<Tensor> {
        let (n, streams) = (x.dim(0)?, self.spec.num_streams);
        let x = x.reshape((n, streams, self.hidden))?;
        let coefficients = self.prediction.product(&self.routed(&self.active(&x)?)?)?.reshape((n, streams, streams))?;
        coefficients.matmul(&x)? + x
    }

    /// The guesses, corrected by what became of the active one.
    pub(super) fn correct(&self, predicted: &Tensor, computed: &Tensor) -> Result<Tensor> {
        let (n, streams) = (computed.dim(0)?, self.spec.num_streams);
        let coefficients = (self.correction.product(&self.routed(computed)?)? + 1.0)?.reshape((n, streams, 1))?;
        let innovation = (computed - self.active(predicted)?)?.reshape((n, 1, self.hidden))?;
        coefficients.matmul(&innovation)? + predicted
    }

    /// What numbers for the layer are multiplied into: the active stream, times gains where there are such.
    pub(super) fn output(&self, streams: &Tensor) -> Result<Tensor> {
        let active = self.active(streams)?;
        match &self.scale {
            Some(scale) => gated(&active, &scale.broadcast_as(active.shape())?.contiguous()?),
            None => Ok(active),
        }
    }

    /// The streams side by side, `[n, streams × hidden_size]`, with `added` `[n, hidden_size]` on all but the first.
    pub(super) fn joined(&self, streams: &Tensor, added: Option<&Tensor>) -> Result<Tensor> {
        let Some(added) = added else { return streams.flatten_from(1) };
        let others = streams.narrow(1, 1, self.spec.num_streams - 1)?.broadcast_add(&added.unsqueeze(1)?)?;
        Tensor::cat(&[streams.narrow(1, 0, 1)?, others], 1)?.flatten_from(1)
    }
}

/// Gates `[n, columns]` less a cutoff of so many standard deviations above their mean, and zero where that is negative.
pub(super) fn cut_off(gates: &Tensor, cutoff: f32) -> Result<Tensor> {
    let centred = gates.broadcast_sub(&gates.mean_keepdim(1)?)?;
    let deviation = centred.sqr()?.mean_keepdim(1)?.sqrt()?;
    centred.broadcast_sub(&(deviation * f64::from(cutoff))?)?.relu()
}
