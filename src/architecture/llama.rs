//! Llama and everything saved as `LlamaForCausalLM` (Llama 2 and 3, SmolLM2, TinyLlama, Falcon 3 and many more):
//! grouped-query attention, RMSNorm, SwiGLU, rope, tied or untied head.

use super::base::{self, LLAMA};
use super::config::Config;
use super::names::Names;
use super::rope::RopeDefaults;
use super::{ArchitectureError, Mapping};

pub(super) fn load(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &LLAMA)?;
    base::rotate_all(&mut spec, config, RopeDefaults::USUAL)?;
    base::set_activation(&mut spec, config.activation("hidden_act", "silu")?);
    base::set_biases(&mut spec, config.flag("attention_bias", false)?, config.flag("mlp_bias", false)?);
    Ok(Mapping::new(spec, Names::LLAMA))
}
