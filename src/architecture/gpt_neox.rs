//! GPT-NeoX (Pythia, Dolly 2, RedPajama-INCITE): layer norms, biases, partial rotation, plain GELU, mostly with attention
//! and feed-forward network side by side.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::names::{Names, Qkv, Up};
use super::rope::RopeDefaults;
use super::{ArchitectureError, Mapping};
use haikuq_format::spec::Residual;

/// Of `GPTNeoXConfig`.
const DEFAULTS: Defaults = Defaults {
    vocab_size: 50_432,
    hidden_size: 6144,
    intermediate_size: 24_576,
    num_layers: 44,
    num_heads: 64,
    max_context: 2048,
    bos: Some(0),
    eos: Some(2),
    ..LLAMA
};

const NAMES: Names = Names {
    base: "gpt_neox.",
    embedding: "embed_in",
    qkv: Qkv::ByHead("attention.query_key_value"),
    attention_output: "attention.dense",
    up: Up::Alone("mlp.dense_h_to_4h"),
    down: "mlp.dense_4h_to_h",
    final_norm: "final_layer_norm",
    head: "embed_out",
    ..Names::LLAMA
};

pub(super) fn load(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &DEFAULTS)?;
    let theta = config.number("rotary_emb_base", 10_000.0)?;
    base::rotate_all(&mut spec, config, RopeDefaults { theta, partial: config.number("rotary_pct", 0.25)? })?;
    spec.norm = base::layer_norm(config, "layer_norm_eps", 1e-5)?;
    base::set_activation(&mut spec, config.activation("hidden_act", "gelu")?);
    spec.mlps_mut().for_each(|m| m.gated = false);
    base::set_biases(&mut spec, config.flag("attention_bias", true)?, true);
    if config.flag("use_parallel_residual", true)? {
        spec.layers.iter_mut().for_each(|l| l.residual = Residual::Parallel);
    }
    // Old checkpoints stored the causal mask.
    let mask = |name: &str| name.ends_with(".attention.bias") || name.ends_with(".attention.masked_bias");
    Ok(Mapping { may_ignore: mask, ..Mapping::new(spec, NAMES) })
}
