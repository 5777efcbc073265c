//! Granite: Llama with multipliers on embedding, attention, residuals and logits.

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
    spec.embedding_multiplier = config.number("embedding_multiplier", 1.0)? as f32;
    spec.residual_multiplier = config.number("residual_multiplier", 1.0)? as f32;
    let scale = config.number("attention_multiplier", 1.0)? as f32;
    spec.attentions_mut().for_each(|a| a.scale = scale);
    spec.logit_multiplier = match config.number("logits_scaling", 1.0)? {
        0.0 => return Err(config.unsupported("logits_scaling", "0", "anything but 0, which logits are divided by")),
        scaling => (1.0 / scaling) as f32,
    };
    Ok(Mapping::new(spec, Names::LLAMA))
}
