//! gpt-oss: experts with biases and a clamped SwiGLU, attention sinks, windows on every other layer. Its experts' weights are MXFP4 on
//! the hub, which [`crate::checkpoint`] reads exactly.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::names::{ExpertNames, Names, Up};
use super::rope::{self, RopeDefaults};
use super::{ArchitectureError, Mapping};
use haikuq_format::spec::Activation;

/// Of `GptOssConfig`.
const DEFAULTS: Defaults = Defaults {
    vocab_size: 201_088,
    hidden_size: 2880,
    intermediate_size: 2880,
    num_layers: 36,
    num_heads: 64,
    num_kv_heads: Some(8),
    head_dim: Some(64),
    max_context: 131_072,
    norm_epsilon: 1e-5,
    bos: None,
    eos: None,
    ..LLAMA
};

const NAMES: Names = Names {
    experts: ExpertNames { router: "mlp.router", up: Up::Alone("gate_up_proj"), ..Names::LLAMA.experts },
    ..Names::LLAMA
};

pub(super) fn load(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &DEFAULTS)?;
    base::set_biases(&mut spec, config.flag("attention_bias", true)?, true);
    let sliding = base::sliding_layers(config, spec.num_layers(), |i| i.is_multiple_of(2))?;
    base::set_required_windows(&mut spec, config, 128, &sliding)?;
    let defaults = RopeDefaults { theta: 150_000.0, ..RopeDefaults::USUAL };
    spec.ropes = vec![match rope::parameters(config)? {
        Some(_) => rope::table(config, base::head_dim(&spec), defaults)?,
        // Of a class that scales where a config says nothing.
        None => {
            let usual = serde_json::json!({
                "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false,
                "original_max_position_embeddings": 4096
            });
            let theta = config.number("rope_theta", defaults.theta)?;
            let usual = config.with("rope_parameters", &usual);
            rope::table_of(config, Some(&usual), base::head_dim(&spec), RopeDefaults { theta, ..defaults })?
        }
    }];
    spec.attentions_mut().for_each(|a| (a.rope, a.sinks) = (Some(0), true));
    // The class looks at no name here: it has one activation, that of `Activation::ClampedSwiglu`.
    config.text("hidden_act")?;
    for (key, number) in [("swiglu_limit", Activation::LIMIT), ("swiglu_alpha", Activation::ALPHA)] {
        let found = config.number(key, number.into())?;
        if found as f32 != number {
            return Err(config.unsupported(key, &found.to_string(), &number.to_string()));
        }
    }
    base::set_activation(&mut spec, Activation::ClampedSwiglu);
    let mut experts = base::experts(config, 128, 4)?;
    (experts.normalized, experts.router_bias) = (true, true);
    spec.mlps_mut().for_each(|m| m.experts = Some(experts));
    Ok(Mapping::new(spec, NAMES))
}
