//! OLMo 2 and 3: norms after each block instead of before it, and over all heads of queries and keys; 3 has windows on
//! most layers. OLMoE: norms before each block, and experts.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::names::Names;
use super::rope::{self, RopeDefaults};
use super::{ArchitectureError, Mapping};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{NormPlacement, QkNorm};

/// Of `Olmo2Config` and `Olmo3Config`.
const DEFAULTS: Defaults = Defaults { vocab_size: 50_304, norm_epsilon: 1e-5, bos: None, eos: Some(50_279), ..LLAMA };

const NAMES: Names =
    Names { mixer_post_norm: "post_attention_layernorm", mlp_post_norm: "post_feedforward_layernorm", ..Names::LLAMA };

/// Of `OlmoeConfig`.
const EXPERTS: Defaults =
    Defaults { hidden_size: 2048, intermediate_size: 2048, num_layers: 16, num_heads: 16, max_context: 4096, ..DEFAULTS };

pub(super) fn load_experts(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &EXPERTS)?;
    base::rotate_all(&mut spec, config, RopeDefaults::USUAL)?;
    base::set_activation(&mut spec, config.activation("hidden_act", "silu")?);
    base::set_biases(&mut spec, config.flag("attention_bias", false)?, false);
    spec.attentions_mut().for_each(|a| a.qk_norm = Some(QkNorm::Whole));
    if let Some(limit) = config.optional_number("clip_qkv")? {
        return Err(config.unsupported("clip_qkv", &limit.to_string(), "null"));
    }
    let mut experts = base::experts(config, 64, 8)?;
    experts.normalized = config.flag("norm_topk_prob", false)?;
    spec.mlps_mut().for_each(|m| m.experts = Some(experts));
    Ok(Mapping::new(spec, Names::LLAMA))
}

pub(super) fn load_2(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = common(config)?;
    base::rotate_all(&mut spec, config, RopeDefaults::USUAL)?;
    Ok(Mapping::new(spec, NAMES))
}

pub(super) fn load_3(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = common(config)?;
    let sliding = base::sliding_layers(config, spec.num_layers(), |i| !(i + 1).is_multiple_of(4))?;
    base::set_required_windows(&mut spec, config, 4096, &sliding)?;
    let nested = config.table("rope_parameters")?;
    let of = |kind: &str| nested.as_ref().map_or(Ok(None), |t| t.table(kind));
    // The old style scales layers without a window alone.
    let full = match (config.table("rope_scaling")?, of("full_attention")?) {
        (Some(scaling), _) | (None, Some(scaling)) => Some(scaling),
        (None, None) => None,
    };
    let defaults = RopeDefaults { theta: config.number("rope_theta", 500_000.0)?, partial: 1.0, ..RopeDefaults::USUAL };
    let full = rope::table_of(config, full.as_ref(), base::head_dim(&spec), defaults)?;
    let sliding = rope::table_of(config, of("sliding_attention")?.as_ref(), base::head_dim(&spec), defaults)?;
    base::rotate_by_window(&mut spec, full, sliding);
    Ok(Mapping::new(spec, NAMES))
}

fn common(config: &Config<'_>) -> Result<DecoderSpec, ArchitectureError> {
    let mut spec = base::spec(config, &DEFAULTS)?;
    base::set_activation(&mut spec, config.activation("hidden_act", "silu")?);
    spec.layers.iter_mut().for_each(|l| l.norm_placement = NormPlacement::Post);
    spec.attentions_mut().for_each(|a| a.qk_norm = Some(QkNorm::Whole));
    base::set_biases(&mut spec, config.flag("attention_bias", false)?, false);
    Ok(spec)
}
