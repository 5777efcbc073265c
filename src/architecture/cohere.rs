//! Cohere 1 and 2 (Command R, Aya): attention and feed-forward network side by side behind one layer norm without bias,
//! neighbours rotated, logits multiplied; 2 has windows on most layers and no rope on the others.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::names::Names;
use super::rope::RopeDefaults;
use super::{ArchitectureError, Mapping};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{Norm, NormKind, Residual};

/// Of `CohereConfig` and `Cohere2Config`.
const DEFAULTS: Defaults = Defaults {
    vocab_size: 256_000,
    hidden_size: 8192,
    intermediate_size: 22_528,
    num_layers: 40,
    num_heads: 64,
    max_context: 8192,
    tied_head: true,
    bos: Some(5),
    eos: Some(255_001),
    ..LLAMA
};

const NAMES: Names = Names { rotary_pairs: true, ..Names::LLAMA };

pub(super) fn load_1(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    // Norms whose gains lie as a matrix, a row a head.
    config.refuse_flag("use_qk_norm")?;
    Ok(Mapping::new(common(config, 500_000.0)?, NAMES))
}

pub(super) fn load_2(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = common(config, 10_000.0)?;
    let pattern = config.size("sliding_window_pattern", 4)?;
    let sliding = base::sliding_layers(config, spec.num_layers(), |i| !(i + 1).is_multiple_of(pattern))?;
    base::set_required_windows(&mut spec, config, 4096, &sliding)?;
    base::rotate_windows_alone(&mut spec);
    Ok(Mapping::new(spec, NAMES))
}

fn common(config: &Config<'_>, theta: f64) -> Result<DecoderSpec, ArchitectureError> {
    let mut spec = base::spec(config, &DEFAULTS)?;
    base::rotate_all_neighbours(&mut spec, config, RopeDefaults { theta, ..RopeDefaults::USUAL })?;
    spec.norm = Norm { kind: NormKind::LayerNoBias, ..base::layer_norm(config, "layer_norm_eps", 1e-5)? };
    base::set_activation(&mut spec, config.activation("hidden_act", "silu")?);
    base::set_biases(&mut spec, config.flag("attention_bias", false)?, false);
    spec.layers.iter_mut().for_each(|l| l.residual = Residual::ParallelShared);
    spec.logit_multiplier = config.number("logit_scale", 0.0625)? as f32;
    Ok(spec)
}
