//! Llama and everything saved as `LlamaForCausalLM` (Llama 2 and 3, SmolLM2, TinyLlama, Falcon 3 and many more):
//! grouped-query attention, RMSNorm, SwiGLU, rope, tied or untied head.

use super::base::{self, LLAMA};
use super::config::Config;
use super::names::Names;
use super::rope::RopeDefaults;
use super::{ArchitectureError, Mapping};
use haikuq_format::spec::Biases;

pub(super) fn load(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &LLAMA)?;
    base::rotate_all(&mut spec, config, RopeDefaults::USUAL)?;
    let attention = config.flag("attention_bias", false)?;
    let mlp = config.flag("mlp_bias", false)?;
    spec.activation = config.activation("hidden_act", "silu")?;
    spec.biases = Biases { qkv: attention, attention_output: attention, mlp, head: false };
    Ok(Mapping::new(spec, Names::LLAMA))
}
