//! Phi-1, 1.5 and 2: one layer norm a layer for attention and feed-forward network side by side, biases everywhere,
//! partial rotation.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::names::{Names, Up};
use super::rope::RopeDefaults;
use super::{ArchitectureError, Mapping};
use haikuq_format::spec::Residual;

/// Of `PhiConfig`.
const DEFAULTS: Defaults =
    Defaults { vocab_size: 51_200, hidden_size: 2048, intermediate_size: 8192, num_layers: 24, max_context: 2048, ..LLAMA };

const NAMES: Names = Names {
    attention_output: "self_attn.dense",
    up: Up::Alone("mlp.fc1"),
    down: "mlp.fc2",
    final_norm: "final_layernorm",
    ..Names::LLAMA
};

pub(super) fn load(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    config.refuse_flag("qk_layernorm")?;
    let mut spec = base::spec(config, &DEFAULTS)?;
    base::rotate_all(&mut spec, config, RopeDefaults { theta: 10_000.0, partial: 0.5, ..RopeDefaults::USUAL })?;
    spec.norm = base::layer_norm(config, "layer_norm_eps", 1e-5)?;
    base::set_activation(&mut spec, config.activation("hidden_act", "gelu_new")?);
    spec.mlps_mut().for_each(|m| m.gated = false);
    base::set_biases(&mut spec, true, true);
    spec.head_bias = true;
    spec.layers.iter_mut().for_each(|l| l.residual = Residual::ParallelShared);
    Ok(Mapping::new(spec, NAMES))
}
