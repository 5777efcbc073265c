//! Gemma 1, 2 and 3 (text): gains stored without their 1, a scaled embedding, GELU; from 2 on norms around each block
//! and windows on most layers; 2 caps logits, 3 normalizes queries and keys and has two rope tables.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::names::Names;
use super::rope::{self, RopeDefaults};
use super::{ArchitectureError, Mapping};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{Activation, NormPlacement, QkNorm};

/// Of `GemmaConfig`.
const GEMMA: Defaults = Defaults {
    vocab_size: 256_000,
    hidden_size: 3072,
    intermediate_size: 24_576,
    num_layers: 28,
    num_heads: 16,
    num_kv_heads: Some(16),
    head_dim: Some(256),
    max_context: 8192,
    tied_head: true,
    bos: Some(2),
    eos: Some(1),
    ..LLAMA
};

/// Of `Gemma2Config`.
const GEMMA_2: Defaults =
    Defaults { hidden_size: 2304, intermediate_size: 9216, num_layers: 26, num_heads: 8, num_kv_heads: Some(4), ..GEMMA };

/// Of `Gemma3TextConfig`.
const GEMMA_3: Defaults = Defaults { vocab_size: 262_208, max_context: 131_072, ..GEMMA_2 };

const NAMES: Names = Names { gain_offset: 1.0, ..Names::LLAMA };

pub(super) const NAMES_2: Names = Names {
    mixer_post_norm: "post_attention_layernorm",
    mlp_norm: "pre_feedforward_layernorm",
    mlp_post_norm: "post_feedforward_layernorm",
    ..NAMES
};

pub(super) fn load_1(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = common(config, &GEMMA, "hidden_act")?;
    // The first release said `gelu` and meant its approximation, which `GemmaConfig` makes of it.
    if config.text("hidden_act")? == Some("gelu") {
        base::set_activation(&mut spec, Activation::GeluTanh);
    }
    base::rotate_all(&mut spec, config, RopeDefaults::USUAL)?;
    Ok(Mapping::new(spec, NAMES))
}

pub(super) fn load_2(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = around(config, &GEMMA_2, |i| i % 2 == 0)?;
    base::rotate_all(&mut spec, config, RopeDefaults::USUAL)?;
    let attention = cap(config, "attn_logit_softcapping", 50.0)?;
    spec.attentions_mut().for_each(|a| a.softcap = attention);
    spec.logit_softcap = cap(config, "final_logit_softcapping", 30.0)?;
    Ok(Mapping::new(spec, NAMES_2))
}

/// A soft cap, `default` where a config says nothing.
pub(super) fn cap(config: &Config<'_>, key: &str, default: f64) -> Result<Option<f32>, ArchitectureError> {
    let cap = if config.has(key) { config.optional_positive(key)? } else { Some(default) };
    Ok(cap.map(|c| c as f32))
}

pub(super) fn load_3(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let pattern = config.size("sliding_window_pattern", 6)?;
    let mut spec = around(config, &GEMMA_3, |i| !(i + 1).is_multiple_of(pattern))?;
    let softcap = config.optional_positive("attn_logit_softcapping")?.map(|c| c as f32);
    spec.attentions_mut().for_each(|a| (a.softcap, a.qk_norm) = (softcap, Some(QkNorm::PerHead)));
    spec.logit_softcap = config.optional_positive("final_logit_softcapping")?.map(|c| c as f32);
    rotate(config, &mut spec)?;
    Ok(Mapping::new(spec, NAMES_2))
}

/// A table for layers with windows, and one for those without.
pub(super) fn rotate(config: &Config<'_>, spec: &mut DecoderSpec) -> Result<(), ArchitectureError> {
    let nested = config.table("rope_parameters")?;
    let of = |kind: &str| nested.as_ref().map_or(Ok(None), |t| t.table(kind));
    // The old style scales layers without a window alone.
    let full = match config.table("rope_scaling")? {
        Some(scaling) => Some(scaling),
        None => of("full_attention")?,
    };
    let global = RopeDefaults { theta: config.number("rope_theta", 1_000_000.0)?, partial: 1.0, ..RopeDefaults::USUAL };
    let local = RopeDefaults { theta: config.number("rope_local_base_freq", 10_000.0)?, partial: 1.0, ..RopeDefaults::USUAL };
    let full = rope::table_of(config, full.as_ref(), base::head_dim(spec), global)?;
    let sliding = rope::table_of(config, of("sliding_attention")?.as_ref(), base::head_dim(spec), local)?;
    base::rotate_by_window(spec, full, sliding);
    Ok(())
}

/// Gemma 2 and 3: norms around each block, windows on layers that are `sliding` unless the config lists them.
fn around(config: &Config<'_>, defaults: &Defaults, sliding: impl Fn(usize) -> bool) -> Result<DecoderSpec, ArchitectureError> {
    let mut spec = common(config, defaults, "hidden_activation")?;
    spec.layers.iter_mut().for_each(|l| l.norm_placement = NormPlacement::Both);
    let scale = config.number("query_pre_attn_scalar", 256.0)?.powf(-0.5) as f32;
    spec.attentions_mut().for_each(|a| a.scale = scale);
    let sliding = base::sliding_layers(config, spec.num_layers(), sliding)?;
    base::set_required_windows(&mut spec, config, 4096, &sliding)?;
    Ok(spec)
}

fn common(config: &Config<'_>, defaults: &Defaults, activation: &str) -> Result<DecoderSpec, ArchitectureError> {
    scaled(config, base::spec(config, defaults)?, activation)
}

/// What all Gemmas have in common: the activation, a scaled embedding, biases or none.
pub(super) fn scaled(config: &Config<'_>, mut spec: DecoderSpec, activation: &str) -> Result<DecoderSpec, ArchitectureError> {
    base::set_activation(&mut spec, config.activation(activation, "gelu_pytorch_tanh")?);
    spec.embedding_multiplier = (spec.hidden_size as f64).sqrt() as f32;
    base::set_biases(&mut spec, config.flag("attention_bias", false)?, false);
    Ok(spec)
}
