//! Mistral: Llama with an attention window on every layer.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::names::Names;
use super::rope::RopeDefaults;
use super::{ArchitectureError, Mapping};

/// Of `MistralConfig`.
const DEFAULTS: Defaults = Defaults { intermediate_size: 14_336, num_kv_heads: Some(8), max_context: 4096 * 32, ..LLAMA };

/// The window of `MistralConfig` where a config has no such key; `null` means none.
const DEFAULT_WINDOW: usize = 4096;

pub(super) fn load(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &DEFAULTS)?;
    base::rotate_all(&mut spec, config, RopeDefaults::USUAL)?;
    base::set_activation(&mut spec, config.activation("hidden_act", "silu")?);
    let window = match config.has("sliding_window") {
        true => config.optional_size("sliding_window")?,
        false => Some(DEFAULT_WINDOW),
    };
    base::set_windows(&mut spec, window, |_| true);
    Ok(Mapping::new(spec, Names::LLAMA))
}
