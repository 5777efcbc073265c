//! EXAONE 4: norms after each block instead of before it, and for each head of queries and keys; where some layers have a
//! window, the others have no rope.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::names::Names;
use super::rope::RopeDefaults;
use super::{ArchitectureError, Mapping};
use haikuq_format::spec::{NormPlacement, QkNorm};

/// Of `Exaone4Config`.
const DEFAULTS: Defaults = Defaults {
    vocab_size: 102_400,
    intermediate_size: 16_384,
    num_kv_heads: Some(32),
    norm_epsilon: 1e-5,
    bos: Some(0),
    ..LLAMA
};

const NAMES: Names =
    Names { mixer_post_norm: "post_attention_layernorm", mlp_post_norm: "post_feedforward_layernorm", ..Names::LLAMA };

pub(super) fn load(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &DEFAULTS)?;
    base::rotate_all(&mut spec, config, RopeDefaults::USUAL)?;
    base::set_activation(&mut spec, config.activation("hidden_act", "silu")?);
    spec.layers.iter_mut().for_each(|l| l.norm_placement = NormPlacement::Post);
    spec.attentions_mut().for_each(|a| a.qk_norm = Some(QkNorm::PerHead));
    // A missing key is 4096; with null no layer has a window, and all have rope.
    let windows = !config.has("sliding_window") || config.optional_size("sliding_window")?.is_some();
    // Configs that describe the pattern by letters list the layers too.
    let listed = config.texts("layer_types")?.is_some();
    let pattern = if windows && !listed { config.size("sliding_window_pattern", 4)? } else { 1 };
    let sliding = base::sliding_layers(config, spec.num_layers(), |i| windows && !(i + 1).is_multiple_of(pattern))?;
    base::set_required_windows(&mut spec, config, 4096, &sliding)?;
    if windows {
        base::rotate_windows_alone(&mut spec);
    }
    Ok(Mapping::new(spec, NAMES))
}
