//! [`Side`]: what goes into a layer beside the streams: keys and values of earlier layers, and tokens' numbers for it.

use super::super::ConvertError;
use super::Run;
use crate::reference::{Beside, KeysValues, PerLayerInputs};
use candle_core::{Device, Tensor};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::PerLayerEmbedding;
use std::collections::BTreeMap;

/// Through original weights, or through stored ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stream {
    Original,
    Stored,
}

/// What goes into layers beside the streams.
pub(super) struct Side {
    per_layer: Option<PerLayer>,
    /// Keys and values of each window, by the layer that made them.
    kv: BTreeMap<(usize, Stream), Vec<KeysValues>>,
}

/// What tokens' numbers for all layers are made of.
struct PerLayer {
    size: usize,
    ids: Vec<u32>,
    /// `[tokens, hidden_size]`. Both streams begin with it.
    embedded: Tensor,
    original: PerLayerInputs,
    stored: PerLayerInputs,
}

impl Side {
    /// Quantizes the matrix that makes numbers for all layers, if there is one.
    pub(super) fn new(run: &Run<'_>) -> Result<Self, ConvertError> {
        const MATRIX: &str = "per_layer_projection";
        let kv = BTreeMap::new();
        let Some(PerLayerEmbedding { size, .. }) = run.spec().per_layer_embedding else {
            return Ok(Self { per_layer: None, kv });
        };
        let (embedded, weights) = (run.embedded()?, run.read(MATRIX)?);
        let mut values = Some(run.matrix(MATRIX, &weights, &embedded, None, None)?);
        let load = |values: &mut Option<Vec<f32>>| -> Result<PerLayerInputs, ConvertError> {
            let read = |name: &str| match values.take() {
                Some(values) if name == MATRIX => Ok(values),
                _ => run.read(name),
            };
            Ok(PerLayerInputs::load(run.spec(), read)?.unwrap_or_else(|| unreachable!("the spec has it")))
        };
        let (stored, original) = (load(&mut values)?, load(&mut Some(weights))?);
        let ids = run.calibration.windows.concat();
        Ok(Self { per_layer: Some(PerLayer { size, ids, embedded, original, stored }), kv })
    }

    /// Whether a run that begins with the next layer makes all of this anew: later layers see nothing of earlier ones.
    pub(super) fn is_made_anew(&self) -> bool {
        self.kv.is_empty()
    }

    /// What goes into layer `index`.
    pub(super) fn of(&self, run: &Run<'_>, index: usize, stream: Stream) -> Result<Beside, ConvertError> {
        let from = run.spec().layers[index].attention().and_then(|a| a.kv_from);
        let kv = from.and_then(|from| self.kv.get(&(from, stream))).cloned().unwrap_or_default();
        let numbers = |p: &PerLayer| -> Result<Tensor, ConvertError> {
            let columns = index * p.size..(index + 1) * p.size;
            let rows = run.weights.decoder().look_up(PerLayerEmbedding::TABLE, &p.ids, columns)?;
            let rows = Tensor::from_vec(rows, (p.ids.len(), p.size), &Device::Cpu)?;
            let inputs = if stream == Stream::Original { &p.original } else { &p.stored };
            Ok(inputs.of_layer(index, &p.embedded, &rows)?)
        };
        Ok(Beside { kv, numbers: self.per_layer.as_ref().map(numbers).transpose()? })
    }

    /// Keeps the keys and values of layer `index` as long as later layers see them.
    pub(super) fn keep(&mut self, spec: &DecoderSpec, index: usize, stream: Stream, kv: Vec<KeysValues>) {
        if spec.shares_kv(index) {
            self.kv.insert((index, stream), kv);
        }
        let later = &spec.layers[index + 1..];
        let seen = |from: usize| later.iter().any(|l| l.attention().is_some_and(|a| a.kv_from == Some(from)));
        self.kv.retain(|(from, of), _| *of != stream || seen(*from));
    }
}
