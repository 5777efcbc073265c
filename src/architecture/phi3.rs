//! Phi-3, 3.5 and 4 (mini, medium, 14B): Llama with fused projections, longrope and partial rotation.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::names::{Names, Qkv, Up};
use super::rope::RopeDefaults;
use super::{ArchitectureError, Mapping};

/// Of `Phi3Config`.
const DEFAULTS: Defaults = Defaults {
    vocab_size: 32_064,
    hidden_size: 3072,
    intermediate_size: 8192,
    max_context: 4096,
    norm_epsilon: 1e-5,
    eos: Some(32_000),
    ..LLAMA
};

const NAMES: Names = Names { qkv: Qkv::Fused("self_attn.qkv_proj"), up: Up::Fused("mlp.gate_up_proj"), ..Names::LLAMA };

pub(super) fn load(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &DEFAULTS)?;
    base::rotate_all(&mut spec, config, RopeDefaults { long_only: Some(4096.0), ..RopeDefaults::USUAL })?;
    base::set_activation(&mut spec, config.activation("hidden_act", "silu")?);
    base::set_windows(&mut spec, config.optional_size("sliding_window")?, |_| true);
    Ok(Mapping::new(spec, NAMES))
}
