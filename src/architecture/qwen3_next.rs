//! Qwen 3 Next: layers as those of Qwen 3.5, with other names for the delta nets' inputs, and experts, one of which every token uses.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::names::{DeltaNames, Names};
use super::rope::RopeDefaults;
use super::{ArchitectureError, Mapping, mamba, qwen, qwen3_5};

/// Of `Qwen3NextConfig`.
const DEFAULTS: Defaults = Defaults {
    vocab_size: 151_936,
    hidden_size: 2048,
    intermediate_size: 5632,
    num_layers: 48,
    num_heads: 16,
    num_kv_heads: Some(2),
    head_dim: Some(256),
    max_context: 32_768,
    bos: None,
    eos: None,
    ..LLAMA
};

const NAMES: Names = Names {
    delta_net: DeltaNames {
        input: ["linear_attn.in_proj_qkvz", "linear_attn.in_proj_ba", "", ""],
        by_key_head: true,
        ..Names::LLAMA.delta_net
    },
    ..qwen3_5::NAMES
};

pub(super) fn load(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &DEFAULTS)?;
    base::set_activation(&mut spec, config.activation("hidden_act", "silu")?);
    // The delta nets' convolutions use it too.
    mamba::require_silu(config, "hidden_act")?;
    base::rotate_all(&mut spec, config, RopeDefaults { partial: 0.25, ..RopeDefaults::USUAL })?;
    base::set_biases(&mut spec, config.flag("attention_bias", false)?, false);
    qwen3_5::mixers(config, &mut spec)?;
    let mut experts = base::experts(config, 512, 10)?;
    experts.normalized = config.flag("norm_topk_prob", true)?;
    let width = config.size("moe_intermediate_size", 512)?;
    base::share(config, &mut experts, width, ("shared_expert_intermediate_size", 512), true)?;
    qwen::mix(config, &mut spec, width, experts)?;
    // Checkpoints have a layer that guesses the token after the next one.
    Ok(Mapping { beside: &["mtp"], ..Mapping::new(spec, NAMES) })
}
