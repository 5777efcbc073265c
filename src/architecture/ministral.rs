//! Ministral: Mistral with a window on some layers. Ministral 3: Mistral whose queries grow with their position.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::names::Names;
use super::rope::{self, RopeDefaults};
use super::{ArchitectureError, Mapping};
use haikuq_format::spec::QueryScaling;

/// Of `MinistralConfig`.
const DEFAULTS: Defaults = Defaults { intermediate_size: 14_336, num_kv_heads: Some(8), max_context: 4096 * 32, ..LLAMA };

/// Of `Ministral3Config`.
const DEFAULTS_3: Defaults =
    Defaults { vocab_size: 131_072, num_layers: 34, head_dim: Some(128), max_context: 262_144, norm_epsilon: 1e-5, ..DEFAULTS };

pub(super) fn load(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &DEFAULTS)?;
    base::rotate_all(&mut spec, config, RopeDefaults::USUAL)?;
    base::set_activation(&mut spec, config.activation("hidden_act", "silu")?);
    // A missing key is 4096, and null means none.
    let windows = !config.has("sliding_window") || config.optional_size("sliding_window")?.is_some();
    let sliding = base::sliding_layers(config, spec.num_layers(), |_| windows)?;
    base::set_required_windows(&mut spec, config, 4096, &sliding)?;
    Ok(Mapping::new(spec, Names::LLAMA))
}

pub(super) fn load_3(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &DEFAULTS_3)?;
    base::set_activation(&mut spec, config.activation("hidden_act", "silu")?);
    // The class knows no windows for some layers alone, whatever `layer_types` says.
    base::set_windows(&mut spec, config.optional_size("sliding_window")?, |_| true);
    // A config without any settings has those of its class.
    let of_class = serde_json::json!({
        "type": "yarn", "rope_theta": 1_000_000.0, "factor": 16.0, "original_max_position_embeddings": 16_384, "mscale": 1.0, "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    });
    let parameters = rope::parameters(config)?.unwrap_or_else(|| config.with("rope_parameters", &of_class));
    let defaults = RopeDefaults { theta: config.number("rope_theta", 10_000.0)?, ..RopeDefaults::USUAL };
    spec.ropes = vec![rope::table_of(config, Some(&parameters), base::head_dim(&spec), defaults)?];
    let query_scaling = match parameters.number("llama_4_scaling_beta", 0.0)? as f32 {
        0.0 => None,
        beta => Some(QueryScaling { beta, original_context: rope::original_context(config, &parameters)? as usize }),
    };
    spec.attentions_mut().for_each(|a| (a.rope, a.query_scaling) = (Some(0), query_scaling));
    Ok(Mapping::new(spec, Names::LLAMA))
}
