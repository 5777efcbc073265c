//! ERNIE 4.5 (dense): Llama that rotates neighbours.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::names::Names;
use super::rope::RopeDefaults;
use super::{ArchitectureError, Mapping};

/// Of `Ernie4_5Config`.
const DEFAULTS: Defaults = Defaults {
    vocab_size: 103_424,
    hidden_size: 1024,
    intermediate_size: 3072,
    num_layers: 18,
    num_heads: 16,
    num_kv_heads: Some(2),
    head_dim: Some(128),
    max_context: 131_072,
    norm_epsilon: 1e-5,
    tied_head: true,
    ..LLAMA
};

const NAMES: Names = Names { rotary_pairs: true, ..Names::LLAMA };

pub(super) fn load(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    // A null divides the width among the heads; only a missing key is 128.
    let head_dim = DEFAULTS.head_dim.filter(|_| !config.has("head_dim"));
    let mut spec = base::spec(config, &Defaults { head_dim, ..DEFAULTS })?;
    base::rotate_all_neighbours(&mut spec, config, RopeDefaults { theta: 500_000.0, ..RopeDefaults::USUAL })?;
    base::set_activation(&mut spec, config.activation("hidden_act", "silu")?);
    let biases = config.flag("use_bias", false)?;
    base::set_biases(&mut spec, biases, biases);
    Ok(Mapping::new(spec, NAMES))
}
