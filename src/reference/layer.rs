//! One decoder layer: norms, attention and feed-forward network, as the spec puts them together.

use super::ReferenceError;
use super::attention::{Scores, attend};
use super::cache::{KeysValues, LayerCache};
use super::delta_net::DeltaNetWeights;
use super::elementwise::{clamped_gated, gated, silu, silu_gated, sum};
use super::experts::{Combined, Router, gathered};
use super::gate::gated_heads;
use super::heads::split;
use super::mamba2::Mamba2Weights;
use super::norm::NormWeights;
use super::observe::{Observe, ProjectionKind, Unobserved};
use super::per_layer::PerLayerBlock;
use super::product::{Factor, GpuProducts};
use super::rope::{CosSin, rotate};
use super::rows::{every_second, stacked};
use super::short_conv::ShortConvWeights;
use super::streams::{LayerStreams, cut_off};
use super::weights::Weights;
use candle_core::{Device, Result, Tensor};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{Activation, Attention, LayerSpec, Mixer, Mlp, QkNorm, Residual};
use rayon::prelude::*;
use std::sync::Arc;

/// Rows of the feed-forward network's inside that exist at a time.
const MLP_ROWS: usize = 2048;

/// A matrix `[rows, columns]` with an optional bias.
#[derive(Clone)]
pub(super) struct Projection {
    weight: Factor,
    bias: Option<Tensor>,
}

impl Projection {
    pub(super) fn load(weights: &mut Weights, name: &str, bias: bool) -> std::result::Result<Self, ReferenceError> {
        Ok(Self { weight: weights.take(name)?.into(), bias: weights.take_if(bias, &format!("{name}.bias"))? })
    }

    pub(super) fn weights(&self) -> &Tensor {
        self.weight.weight()
    }

    pub(super) fn factor(&mut self) -> &mut Factor {
        &mut self.weight
    }

    /// The block of rows of expert `expert` of `experts`.
    fn of_expert(&self, expert: usize, experts: usize) -> Result<Self> {
        let part = |all: &Tensor| {
            let rows = all.dim(0)? / experts;
            all.narrow(0, expert * rows, rows)
        };
        Ok(Self { weight: part(self.weight.weight())?.into(), bias: self.bias.as_ref().map(part).transpose()? })
    }

    /// `x` `[n, columns]` to `[n, rows]`, which nobody sees.
    pub(super) fn forward_unobserved(&self, x: &Tensor) -> Result<Tensor> {
        self.forward(ProjectionKind::Up, x, &mut Unobserved)
    }

    /// Without a bias.
    #[cfg(test)]
    pub(super) fn from_weight(weight: Tensor) -> Self {
        Self { weight: weight.into(), bias: None }
    }

    /// The same with other weights, row-major `[rows, columns]`.
    fn with_weights(&self, weights: Vec<f32>) -> Result<Self> {
        let weight = Tensor::from_vec(weights, self.weight.weight().dims(), &Device::Cpu)?;
        Ok(Self { weight: self.weight.with_weight(weight)?, bias: self.bias.clone() })
    }

    /// `x` `[n, columns]` to `[n, rows]`; `observer` sees it before the bias.
    fn forward(&self, kind: ProjectionKind, x: &Tensor, observer: &mut dyn Observe) -> Result<Tensor> {
        let y = observer.output(kind, self.weight.product(x)?)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

/// What the weights of a layer's mixer are.
enum MixerWeights {
    Attention(Box<AttentionWeights>),
    ShortConv(ShortConvWeights),
    DeltaNet(DeltaNetWeights),
    Mamba2(Mamba2Weights),
}

impl MixerWeights {
    fn load(spec: &DecoderSpec, mixer: &Mixer, layer: &str, weights: &mut Weights) -> std::result::Result<Self, ReferenceError> {
        match mixer {
            Mixer::Attention(attention) => {
                AttentionWeights::load(spec, *attention, layer, weights).map(|weights| Self::Attention(Box::new(weights)))
            }
            Mixer::ShortConv(conv) => ShortConvWeights::load(*conv, layer, weights).map(Self::ShortConv),
            Mixer::DeltaNet(net) => DeltaNetWeights::load(spec, *net, layer, weights).map(Self::DeltaNet),
            Mixer::Mamba2(mamba) => Mamba2Weights::load(spec, *mamba, layer, weights).map(Self::Mamba2),
        }
    }

    /// The first and the last matrix.
    fn projections(&self) -> [&Projection; 2] {
        match self {
            Self::Attention(weights) => [&weights.qkv, &weights.output],
            Self::ShortConv(weights) => [&weights.input, &weights.output],
            Self::DeltaNet(weights) => [&weights.input, &weights.output],
            Self::Mamba2(weights) => [&weights.input, &weights.output],
        }
    }

    fn projections_mut(&mut self) -> [&mut Projection; 2] {
        match self {
            Self::Attention(weights) => [&mut weights.qkv, &mut weights.output],
            Self::ShortConv(weights) => [&mut weights.input, &mut weights.output],
            Self::DeltaNet(weights) => [&mut weights.input, &mut weights.output],
            Self::Mamba2(weights) => [&mut weights.input, &mut weights.output],
        }
    }

    /// What happens between the two, to rows whose first is at position `first`.
    fn mix(&self, x: &Tensor, ropes: &[CosSin], first: usize, cache: &mut LayerCache) -> Result<Tensor> {
        match self {
            Self::Attention(weights) => weights.attend(x, ropes, first, cache),
            Self::ShortConv(weights) => weights.convolve(x, &mut cache.products),
            Self::DeltaNet(weights) => weights.mix(x, &mut cache.delta),
            Self::Mamba2(weights) => weights.mix(x, &mut cache.mamba),
        }
    }
}

/// Attention's weights.
struct AttentionWeights {
    spec: Attention,
    qkv: Projection,
    /// Of queries, and of keys where the layer has its own.
    qk_norm: Option<(NormWeights, Option<NormWeights>)>,
    value_norm: Option<NormWeights>,
    /// A number for each head, or none.
    sinks: Vec<f32>,
    output: Projection,
}

impl AttentionWeights {
    /// `layer` is the prefix of its tensors' names, with the dot.
    fn load(
        spec: &DecoderSpec,
        attention: Attention,
        layer: &str,
        weights: &mut Weights,
    ) -> std::result::Result<Self, ReferenceError> {
        let qkv = Projection::load(weights, &format!("{layer}qkv"), attention.qkv_bias)?;
        let qk_norm = attention.qk_norm.map(|kind| -> std::result::Result<_, ReferenceError> {
            let mut load = |part| NormWeights::load(kind.norm(spec.norm), &format!("{layer}{part}"), weights);
            Ok((load("q_norm")?, attention.kv_from.is_none().then(|| load("k_norm")).transpose()?))
        });
        let qk_norm = qk_norm.transpose()?;
        let value_norm = attention.value_norm.then(|| NormWeights::without_gains(spec.norm.epsilon, attention.head_dim));
        let sinks = if attention.sinks { weights.take(&format!("{layer}sinks"))?.to_vec1()? } else { Vec::new() };
        let output = Projection::load(weights, &format!("{layer}attention_output"), attention.output_bias)?;
        Ok(Self { spec: attention, qkv, qk_norm, value_norm, sinks, output })
    }

    /// What the heads make of `qkv` `[n, …]`, whose first row is at position `first`: `[n, heads × head_dim]`.
    fn attend(&self, qkv: &Tensor, ropes: &[CosSin], first: usize, cache: &mut LayerCache) -> Result<Tensor> {
        let Attention { num_heads, num_kv_heads, head_dim, scale, softcap, window, .. } = self.spec;
        let (q_size, kv_size) = (self.spec.attention_size(), self.spec.kv_size());
        let heads = |x: &Tensor, first, heads| split(x, first, heads, head_dim);
        let (q_norm, k_norm) = self.qk_norm.as_ref().map_or((None, None), |(q, k)| (Some(q), k.as_ref()));
        let mut q = self.turned(heads(qkv, 0, num_heads)?, q_norm, ropes)?;
        if let Some(scaling) = self.spec.query_scaling {
            let count = q.dim(1)?;
            let factors: Vec<f32> = (first..first + count).map(|position| scaling.factor(position)).collect();
            q = q.broadcast_mul(&Tensor::from_vec(factors, (1, count, 1), &Device::Cpu)?)?;
        }
        let own = match self.spec.own_kv() {
            0 => None,
            n => {
                let k = heads(qkv, q_size, num_kv_heads)?;
                let v = if n == 1 { k.clone() } else { heads(qkv, q_size + kv_size, num_kv_heads)? };
                let v = match &self.value_norm {
                    Some(norm) => norm.forward(&v)?,
                    None => v,
                };
                Some((self.turned(k, k_norm, ropes)?, v))
            }
        };
        // What another layer made is there already.
        let seen = match own {
            Some((k, v)) => Some(cache.append(k, v)?),
            None => cache.kept(),
        };
        let Some((keys, values)) = seen else { candle_core::bail!("no keys and values to see") };
        let attended = attend(&q, &keys, &values, Scores { scale, softcap, window, first }, &self.sinks)?;
        match self.spec.gate_size() {
            0 => Ok(attended),
            gates => gated_heads(&attended, &qkv.narrow(1, q_size + self.spec.own_kv() * kv_size, gates)?),
        }
    }

    /// Queries or keys `[heads, n, head_dim]` after norm and rope.
    fn turned(&self, mut x: Tensor, norm: Option<&NormWeights>, ropes: &[CosSin]) -> Result<Tensor> {
        let normalized = |x: Tensor| match (norm, self.spec.qk_norm) {
            (Some(norm), Some(QkNorm::Whole)) => {
                let (heads, _, width) = x.dims3()?;
                split(&norm.forward(&x.transpose(0, 1)?.flatten_from(1)?)?, 0, heads, width)
            }
            (Some(norm), _) => norm.forward(&x),
            (None, _) => Ok(x),
        };
        if !self.spec.qk_norm_after_rope {
            x = normalized(x)?;
        }
        if let Some(rope) = self.spec.rope {
            x = rotate(&x, &ropes[rope])?;
        }
        if self.spec.qk_norm_after_rope { normalized(x) } else { Ok(x) }
    }
}

/// What goes into a layer beside the residual stream, over several windows.
#[derive(Clone, Default)]
pub struct Beside {
    /// Keys and values of the layer that it sees, of each window, if that is another one.
    pub kv: Vec<KeysValues>,
    /// The tokens' numbers for the layer, `[tokens, size]`, in decoders that have such.
    pub numbers: Option<Tensor>,
}

/// The weights of a feed-forward network, or of several, of which each token uses a few.
struct MlpWeights {
    spec: Mlp,
    norm: Option<NormWeights>,
    /// What chooses among several experts.
    router: Option<Router>,
    /// The feed-forward network, or those of the experts.
    networks: Vec<Network>,
    post_norm: Option<NormWeights>,
}

/// The matrices of a feed-forward network.
struct Network {
    /// The rows of a gate and its up projection take turns.
    up: Projection,
    down: Projection,
}

/// One layer's weights.
pub(super) struct Layer {
    spec: LayerSpec,
    mixer_norm: Option<NormWeights>,
    /// One, or two side by side.
    mixers: Vec<MixerWeights>,
    mixer_post_norm: Option<NormWeights>,
    /// Beside the mixers: both matrices, and the norm after them.
    laurel: Option<([Projection; 2], NormWeights)>,
    streams: Option<LayerStreams>,
    mlp: Option<MlpWeights>,
    per_layer: Option<PerLayerBlock>,
    output_scale: Option<f32>,
}

impl Layer {
    pub(super) fn load(spec: &DecoderSpec, index: usize, weights: &mut Weights) -> std::result::Result<Self, ReferenceError> {
        let layer = &spec.layers[index];
        let name = |part: &str| format!("layers.{index}.{part}");
        let (pre, post) = (layer.norm_placement.is_before(), layer.norm_placement.is_after());
        let norm = |present: bool, part: &str, weights: &mut Weights| {
            if present { NormWeights::load(spec.norm, &name(part), weights).map(Some) } else { Ok(None) }
        };
        let mixer_norm = norm(pre, "mixer_norm", weights)?;
        let mixers = layer.mixers().map(|mixer| MixerWeights::load(spec, mixer, &name(""), weights));
        let mixers = mixers.collect::<std::result::Result<_, _>>()?;
        let mixer_post_norm = norm(post, "mixer_post_norm", weights)?;
        let laurel = layer.laurel.map(|_| {
            let [left, right] = ["laurel_left", "laurel_right"].map(|part| Projection::load(weights, &name(part), false));
            Ok::<_, ReferenceError>(([left?, right?], NormWeights::load(spec.norm, &name("laurel_norm"), weights)?))
        });
        let laurel = laurel.transpose()?;
        let streams = LayerStreams::take(spec, &name(""), weights)?;
        let mlp = layer.mlp.as_ref().map(|mlp| -> std::result::Result<_, ReferenceError> {
            let norm_before = norm(pre && layer.residual != Residual::ParallelShared, "mlp_norm", weights)?;
            let router = mlp.experts.map(|experts| Router::load(experts, &name(""), weights)).transpose()?;
            let up = Projection::load(weights, &name(mlp.up_name()), mlp.bias)?;
            let down = Projection::load(weights, &name(mlp.down_name()), mlp.bias)?;
            let experts = mlp.num_experts();
            let network =
                |e| Ok::<_, ReferenceError>(Network { up: up.of_expert(e, experts)?, down: down.of_expert(e, experts)? });
            let networks = (0..experts).map(network).collect::<std::result::Result<_, _>>()?;
            let post_norm = norm(post, "mlp_post_norm", weights)?;
            Ok(MlpWeights { spec: *mlp, norm: norm_before, router, networks, post_norm })
        });
        let mlp = mlp.transpose()?;
        let per_layer = PerLayerBlock::take(spec, &name(""), weights)?;
        let output_scale = weights.take_if(layer.output_scale, &name("output_scale"))?;
        let output_scale = output_scale.map(|scale| scale.get(0)?.to_scalar::<f32>()).transpose()?;
        Ok(Self { spec: layer.clone(), mixer_norm, mixers, mixer_post_norm, laurel, streams, mlp, per_layer, output_scale })
    }

    fn factors(&mut self) -> impl Iterator<Item = &mut Factor> {
        let of_mixers = self.mixers.iter_mut().flat_map(MixerWeights::projections_mut);
        let networks = self.mlp.iter_mut().flat_map(|mlp| &mut mlp.networks);
        let of_mlp = networks.flat_map(|network| [&mut network.up, &mut network.down]);
        let of_laurel = self.laurel.iter_mut().flat_map(|(matrices, _)| matrices);
        let blocks = of_mixers.chain(of_mlp).chain(of_laurel).map(Projection::factor);
        blocks.chain(self.per_layer.iter_mut().flat_map(PerLayerBlock::factors))
    }

    /// The layer whose keys and values this one sees, if that is another one.
    pub(super) fn kv_from(&self) -> Option<usize> {
        self.spec.attention().and_then(|a| a.kv_from)
    }

    /// Has the products with the layer's weights computed in integers, and `gradients` of them.
    pub(super) fn use_integers(&mut self, gradients: bool) -> Result<()> {
        self.factors().try_for_each(|factor| factor.use_integers(gradients))
    }

    /// Has the products with the layer's weights computed by `products`.
    pub(super) fn put_on(&mut self, products: &Arc<GpuProducts>) -> Result<()> {
        self.factors().try_for_each(|factor| factor.put_on(products))
    }

    /// The residual stream `x` `[n, hidden_size]`, whose first row is at position `first`, after this layer; `numbers` are
    /// those of its tokens for it.
    pub(super) fn forward(
        &self,
        spec: &DecoderSpec,
        x: &Tensor,
        ropes: &[CosSin],
        first: usize,
        cache: &mut LayerCache,
        numbers: Option<&Tensor>,
    ) -> Result<Tensor> {
        self.observed(spec, x, numbers, &mut Unobserved, |mixer, x| mixer.mix(x, ropes, first, cache))
    }

    /// As [`Layer::forward`] for several sequences of `length` positions each, one after the other in the rows of `x`;
    /// `observer` sees what goes into and comes out of every matrix, and may put others in their place. Also the keys and
    /// values of each sequence, of a layer that has them.
    pub(super) fn forward_windows(
        &self,
        spec: &DecoderSpec,
        x: &Tensor,
        beside: &Beside,
        ropes: &[CosSin],
        length: usize,
        observer: &mut dyn Observe,
    ) -> Result<(Tensor, Vec<KeysValues>)> {
        let mut kept = Vec::new();
        let x = self.observed(spec, x, beside.numbers.as_ref(), observer, |mixer, rows| {
            let window = |i: usize| {
                let mut cache = LayerCache::of(beside.kv.get(i).cloned());
                let mixed = mixer.mix(&rows.narrow(0, i * length, length)?, ropes, 0, &mut cache)?;
                Ok((mixed, cache.kept()))
            };
            let windows = (0..x.dim(0)? / length).into_par_iter().map(window).collect::<Result<Vec<_>>>()?;
            let (mixed, caches): (Vec<_>, Vec<_>) = windows.into_iter().unzip();
            kept.extend(caches.into_iter().flatten());
            stacked(mixed)
        })?;
        Ok((x, kept))
    }

    /// The layer with `mix` between each mixer's two matrices.
    fn observed(
        &self,
        spec: &DecoderSpec,
        x: &Tensor,
        numbers: Option<&Tensor>,
        observer: &mut dyn Observe,
        mut mix: impl FnMut(&MixerWeights, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let norm = |norm: &Option<NormWeights>, x: &Tensor| match norm {
            Some(norm) => norm.forward(x),
            None => Ok(x.clone()),
        };
        // Of several streams, the blocks compute one, which is guessed first.
        let predicted = self.streams.as_ref().map(|streams| streams.predict(x)).transpose()?;
        let active = self.streams.as_ref().zip(predicted.as_ref()).map(|(streams, all)| streams.active(all)).transpose()?;
        let x = active.as_ref().unwrap_or(x);
        let normed = norm(&self.mixer_norm, x)?;
        let mut mixed: Option<Tensor> = None;
        for (mixer, [of_input, of_output]) in self.mixers.iter().zip(ProjectionKind::MIXERS) {
            let [input, output] = mixer.projections();
            let made = {
                let rows = project(of_input, input, &normed, observer)?;
                mix(mixer, &rows)?
            };
            let made = project(of_output, output, &made, observer)?;
            mixed = Some(match mixed {
                Some(others) => sum(&others, &made)?,
                None => made,
            });
        }
        let mixed = mixed.map_or_else(|| x.zeros_like(), Ok)?;
        let mixed = scaled(norm(&self.mixer_post_norm, &mixed)?, spec.residual_multiplier)?;
        let mut mixed = sum(x, &mixed)?;
        if let Some(([left, right], norm)) = &self.laurel {
            let made = project(ProjectionKind::LaurelLeft, left, &normed, observer)?;
            let made = norm.forward(&project(ProjectionKind::LaurelRight, right, &made, observer)?)?;
            mixed = scaled(sum(&sum(&mixed, &normed)?, &made)?, std::f32::consts::FRAC_1_SQRT_2)?;
        }
        let mut x = match &self.mlp {
            Some(mlp) => {
                let mut forward =
                    |x: &Tensor| scaled(norm(&mlp.post_norm, &mlp.forward(x, observer)?)?, spec.residual_multiplier);
                match self.spec.residual {
                    Residual::Sequential => sum(&mixed, &forward(&norm(&mlp.norm, &mixed)?)?)?,
                    Residual::Parallel => sum(&mixed, &forward(&norm(&mlp.norm, x)?)?)?,
                    Residual::ParallelShared => sum(&mixed, &forward(&normed)?)?,
                }
            }
            None => mixed,
        };
        if let Some((streams, predicted)) = self.streams.as_ref().zip(predicted) {
            let corrected = streams.correct(&predicted, &x)?;
            let added = match &self.per_layer {
                Some(block) => {
                    let Some(numbers) = numbers else { candle_core::bail!("no numbers for the layer") };
                    Some(scaled(block.forward(&streams.output(&corrected)?, numbers, observer)?, spec.residual_multiplier)?)
                }
                None => None,
            };
            return streams.joined(&corrected, added.as_ref());
        }
        if let Some(block) = &self.per_layer {
            let Some(numbers) = numbers else { candle_core::bail!("no numbers for the layer") };
            x = sum(&x, &scaled(block.forward(&x, numbers, observer)?, spec.residual_multiplier)?)?;
        }
        scaled(x, self.output_scale.unwrap_or(1.0))
    }
}

impl MlpWeights {
    fn forward(&self, x: &Tensor, observer: &mut dyn Observe) -> Result<Tensor> {
        let Some(router) = &self.router else {
            return self.network(&self.networks[0], [ProjectionKind::Up, ProjectionKind::Down], x, observer);
        };
        let logits = router.logits(x)?;
        let routing = observer.route(router.choose(&logits)?)?;
        let mut combined = Combined::new(router.weights(&logits, &routing)?, x.dim(1)?, routing.clone())?;
        for (e, network) in self.networks.iter().enumerate() {
            let tokens = routing.of_expert(e);
            if !tokens.is_empty() {
                let kinds = [ProjectionKind::ExpertUp(e), ProjectionKind::ExpertDown(e)];
                combined.add(e, self.network(network, kinds, &gathered(x, tokens)?, observer)?)?;
            }
        }
        combined.finish()
    }

    /// One feed-forward network, whose matrices are of these kinds.
    fn network(
        &self,
        network: &Network,
        [up_kind, down_kind]: [ProjectionKind; 2],
        x: &Tensor,
        observer: &mut dyn Observe,
    ) -> Result<Tensor> {
        let activate = |x| activate(self.spec.activation, x);
        let up = match observer.replace(up_kind, network.up.weight.weight(), x)? {
            Some(weights) => network.up.with_weights(weights)?,
            None => network.up.clone(),
        };
        // A gate and its up projection are as wide as a model gets, so only a part of the rows exists at a time.
        let mut parts = Vec::new();
        for first in (0..x.dim(0)?).step_by(MLP_ROWS) {
            let x = x.narrow(0, first, MLP_ROWS.min(x.dim(0)? - first))?;
            let y = up.forward(up_kind, &x, observer)?;
            parts.push(match (self.spec.gated, self.spec.activation) {
                _ if self.spec.gate_cutoff.is_some() => gated(
                    &activate(cut_off(&every_second(&y, 0)?, self.spec.gate_cutoff.unwrap_or_default())?)?,
                    &every_second(&y, 1)?,
                )?,
                (true, Activation::Silu) => silu_gated(&y)?,
                (true, Activation::ClampedSwiglu) => clamped_gated(&y)?,
                (true, _) => gated(&activate(every_second(&y, 0)?)?, &every_second(&y, 1)?)?,
                (false, _) => activate(y)?,
            });
        }
        let inner = stacked(parts)?;
        project(down_kind, &network.down, &inner, observer)
    }
}

pub(super) fn activate(activation: Activation, x: Tensor) -> Result<Tensor> {
    match activation {
        Activation::Silu => silu(&x),
        Activation::Gelu => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
        Activation::Relu2 => x.relu()?.sqr(),
        // `DecoderSpec::check` refuses it without a gate.
        Activation::ClampedSwiglu => candle_core::bail!("a clamped SwiGLU without a gate"),
    }
}

/// `x` through the matrix of a kind, or through what the observer puts in its place.
pub(super) fn project(kind: ProjectionKind, projection: &Projection, x: &Tensor, observer: &mut dyn Observe) -> Result<Tensor> {
    match observer.replace(kind, projection.weight.weight(), x)? {
        Some(weights) => projection.with_weights(weights)?.forward(kind, x, observer),
        None => projection.forward(kind, x, observer),
    }
}

pub(super) fn scaled(x: Tensor, by: f32) -> Result<Tensor> {
    if by == 1.0 { Ok(x) } else { x * f64::from(by) }
}
