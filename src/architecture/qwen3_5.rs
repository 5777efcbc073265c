//! Qwen 3.5 (text): gated delta nets in most layers; attention with norms on queries and keys, gates and partial rope in the others.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::names::{Names, Qkv};
use super::rope::RopeDefaults;
use super::{ArchitectureError, Mapping};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{AttentionGate, DeltaNet, QkNorm};

/// Of `Qwen3_5TextConfig`.
const DEFAULTS: Defaults = Defaults {
    vocab_size: 248_320,
    intermediate_size: 12_288,
    num_heads: 16,
    num_kv_heads: Some(4),
    head_dim: Some(256),
    max_context: 32_768,
    bos: None,
    eos: None,
    ..LLAMA
};

/// All gains are stored without their 1, but for those of the delta nets.
pub(super) const NAMES: Names = Names {
    qkv: Qkv::GatedByHead(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    gain_offset: 1.0,
    ..Names::LLAMA
};

pub(super) fn load(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &DEFAULTS)?;
    base::set_activation(&mut spec, config.activation("hidden_act", "silu")?);
    if config.text("hidden_act")?.is_some_and(|act| act != "silu") {
        // The delta nets' convolutions use it too.
        return Err(config.unsupported("hidden_act", config.text("hidden_act")?.unwrap_or_default(), "silu"));
    }
    base::rotate_all(&mut spec, config, RopeDefaults { partial: 0.25, ..RopeDefaults::USUAL })?;
    base::set_biases(&mut spec, config.flag("attention_bias", false)?, false);
    mixers(config, &mut spec)?;
    // Checkpoints have a layer that guesses the token after the next one.
    Ok(Mapping { beside: &["mtp"], ..Mapping::new(spec, NAMES) })
}

/// Norms and gates of attention, and the layers that have a delta net.
pub(super) fn mixers(config: &Config<'_>, spec: &mut DecoderSpec) -> Result<(), ArchitectureError> {
    spec.attentions_mut().for_each(|a| (a.qk_norm, a.gate) = (Some(QkNorm::PerHead), Some(AttentionGate::Elementwise)));
    let net = DeltaNet::new(
        config.size("linear_num_key_heads", 16)?,
        config.size("linear_num_value_heads", 32)?,
        config.size("linear_key_head_dim", 128)?,
        config.size("linear_value_head_dim", 128)?,
        config.size("linear_conv_kernel_dim", 4)?,
    );
    let interval = config.size("full_attention_interval", 4)?;
    let usual = |i: usize| usize::from(!(i + 1).is_multiple_of(interval));
    let kinds = base::layer_kinds(config, spec.num_layers(), &["full_attention", "linear_attention"], usual)?;
    for (_, layer) in spec.layers.iter_mut().enumerate().filter(|(i, _)| kinds[*i] == 1) {
        layer.mixer = net.into();
    }
    Ok(())
}
