//! Qwen 2, 2.5 (Llama with biases on queries, keys and values) and 3 (norms on queries and keys instead), dense or with experts.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::names::Names;
use super::rope::RopeDefaults;
use super::{ArchitectureError, Mapping};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{Experts, QkNorm};

/// Of `Qwen2Config`.
const QWEN2: Defaults = Defaults {
    vocab_size: 151_936,
    intermediate_size: 22_016,
    num_kv_heads: Some(32),
    max_context: 32_768,
    bos: None,
    eos: None,
    ..LLAMA
};

/// Of `Qwen3Config`.
const QWEN3: Defaults = Defaults { head_dim: Some(128), ..QWEN2 };

pub(super) fn load_2(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = common(config, &QWEN2)?;
    spec.attentions_mut().for_each(|a| a.qkv_bias = true);
    Ok(Mapping::new(spec, Names::LLAMA))
}

pub(super) fn load_3(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = common(config, &QWEN3)?;
    base::set_biases(&mut spec, config.flag("attention_bias", false)?, false);
    spec.attentions_mut().for_each(|a| a.qk_norm = Some(QkNorm::PerHead));
    Ok(Mapping::new(spec, Names::LLAMA))
}

/// Of `Qwen3MoeConfig`.
const QWEN3_EXPERTS: Defaults =
    Defaults { hidden_size: 2048, intermediate_size: 6144, num_layers: 24, num_kv_heads: Some(4), head_dim: None, ..QWEN2 };

pub(super) fn load_experts(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &QWEN3_EXPERTS)?;
    base::rotate_all(&mut spec, config, RopeDefaults::USUAL)?;
    base::set_activation(&mut spec, config.activation("hidden_act", "silu")?);
    base::set_biases(&mut spec, config.flag("attention_bias", false)?, false);
    spec.attentions_mut().for_each(|a| a.qk_norm = Some(QkNorm::PerHead));
    if config.flag("use_sliding_window", false)? {
        let window = if config.has("sliding_window") { config.optional_size("sliding_window")? } else { Some(4096) };
        base::set_windows(&mut spec, window, |_| true);
    }
    let mut experts = base::experts(config, 128, 8)?;
    experts.normalized = config.flag("norm_topk_prob", false)?;
    mix(config, &mut spec, config.size("moe_intermediate_size", 768)?, experts)?;
    Ok(Mapping::new(spec, Names::LLAMA))
}

/// Of `Qwen2MoeConfig`.
const QWEN2_EXPERTS: Defaults =
    Defaults { hidden_size: 2048, intermediate_size: 5632, num_layers: 24, num_heads: 16, num_kv_heads: Some(16), ..QWEN2 };

/// Qwen 2 with experts, one of which every token uses.
pub(super) fn load_2_experts(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = common(config, &QWEN2_EXPERTS)?;
    let bias = config.flag("qkv_bias", true)?;
    spec.attentions_mut().for_each(|a| a.qkv_bias = bias);
    let mut experts = base::experts(config, 60, 4)?;
    experts.normalized = config.flag("norm_topk_prob", false)?;
    let width = config.size("moe_intermediate_size", 1408)?;
    base::share(config, &mut experts, width, ("shared_expert_intermediate_size", 5632), true)?;
    mix(config, &mut spec, width, experts)?;
    Ok(Mapping::new(spec, Names::LLAMA))
}

/// Puts experts of that width into the layers that have some.
pub(super) fn mix(config: &Config<'_>, spec: &mut DecoderSpec, width: usize, experts: Experts) -> Result<(), ArchitectureError> {
    let (step, dense) = (config.size("decoder_sparse_step", 1)?, config.numbers("mlp_only_layers")?.unwrap_or_default());
    for (i, mlp) in spec.mlps_mut().enumerate() {
        if (i + 1).is_multiple_of(step) && !dense.contains(&(i as f64)) {
            (mlp.intermediate_size, mlp.experts) = (width, Some(experts));
        }
    }
    Ok(())
}

fn common(config: &Config<'_>, defaults: &Defaults) -> Result<DecoderSpec, ArchitectureError> {
    let mut spec = base::spec(config, defaults)?;
    base::rotate_all(&mut spec, config, RopeDefaults::USUAL)?;
    base::set_activation(&mut spec, config.activation("hidden_act", "silu")?);
    // As in the config classes: a missing key is 4096, and the first layers see everything.
    let used = config.flag("use_sliding_window", false)?;
    let window = match config.has("sliding_window") {
        _ if !used => None,
        true => config.optional_size("sliding_window")?,
        false => Some(4096),
    };
    let first = config.optional_number("max_window_layers")?.unwrap_or(28.0);
    let sliding = base::sliding_layers(config, spec.num_layers(), |i| window.is_some() && i as f64 >= first)?;
    if window.is_none() && sliding.contains(&true) {
        return Err(config.unsupported("layer_types", "sliding_attention", "full_attention, as no window is used"));
    }
    base::set_windows(&mut spec, window, |i| sliding[i]);
    Ok(spec)
}
