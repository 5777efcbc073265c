//! Hunyuan (dense, V1): Llama that normalizes each head of queries and keys after rope, with a stretched rope base.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::names::Names;
use super::rope::RopeDefaults;
use super::{ArchitectureError, Mapping};
use haikuq_format::spec::QkNorm;

/// Of `HunYuanDenseV1Config`.
const DEFAULTS: Defaults = Defaults { vocab_size: 290_943, norm_epsilon: 1e-5, ..LLAMA };

const NAMES: Names = Names { q_norm: "self_attn.query_layernorm", k_norm: "self_attn.key_layernorm", ..Names::LLAMA };

pub(super) fn load(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &DEFAULTS)?;
    base::rotate_all(&mut spec, config, RopeDefaults { ntk_alpha: true, ..RopeDefaults::USUAL })?;
    base::set_activation(&mut spec, config.activation("hidden_act", "silu")?);
    base::set_biases(&mut spec, config.flag("attention_bias", false)?, false);
    spec.attentions_mut().for_each(|a| (a.qk_norm, a.qk_norm_after_rope) = (Some(QkNorm::PerHead), true));
    Ok(Mapping::new(spec, NAMES))
}
