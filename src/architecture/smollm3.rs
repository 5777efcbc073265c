//! SmolLM 3: Llama in which every fourth layer has no rope.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::names::Names;
use super::rope::RopeDefaults;
use super::{ArchitectureError, Mapping};

/// Of `SmolLM3Config`.
const DEFAULTS: Defaults = Defaults {
    vocab_size: 128_256,
    hidden_size: 2048,
    num_layers: 36,
    num_heads: 16,
    num_kv_heads: Some(4),
    max_context: 32_768,
    tied_head: true,
    bos: Some(128_000),
    eos: Some(128_001),
    ..LLAMA
};

pub(super) fn load(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &DEFAULTS)?;
    base::rotate_all(&mut spec, config, RopeDefaults { theta: 2_000_000.0, partial: 1.0, ..RopeDefaults::USUAL })?;
    base::set_activation(&mut spec, config.activation("hidden_act", "silu")?);
    base::set_biases(&mut spec, config.flag("attention_bias", false)?, config.flag("mlp_bias", false)?);
    let layers = spec.num_layers();
    let rotates: Vec<bool> = match config.numbers("no_rope_layers")? {
        // 1 stands for a layer with rope.
        Some(list) if list.len() >= layers => list.iter().map(|n| *n != 0.0).collect(),
        Some(list) => {
            let found = format!("{} entries", list.len());
            return Err(config.unsupported("no_rope_layers", &found, &format!("at least {layers}, one a layer")));
        }
        None => {
            let interval = config.size("no_rope_layer_interval", 4)?;
            (1..=layers).map(|n| !n.is_multiple_of(interval)).collect()
        }
    };
    for (attention, rotates) in spec.attentions_mut().zip(&rotates) {
        attention.rope = attention.rope.filter(|_| *rotates);
    }
    let used = config.flag("use_sliding_window", false)?;
    let window = if used { config.optional_size("sliding_window")? } else { None };
    let sliding = base::sliding_layers(config, layers, |i| window.is_some() && !rotates[i])?;
    if window.is_none() && sliding.contains(&true) {
        return Err(config.unsupported("layer_types", "sliding_attention", "full_attention, as no window is used"));
    }
    base::set_windows(&mut spec, window, |i| sliding[i]);
    Ok(Mapping::new(spec, Names::LLAMA))
}
