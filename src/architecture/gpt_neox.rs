//! GPT-NeoX (Pythia, Dolly 2, RedPajama-INCITE): layer norms, biases, partial rotation, plain GELU, mostly with attention
//! and feed-forward network side by side.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::names::{Names, Qkv, Up};
use super::rope::{self, RopeDefaults};
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
    // The class has its own names for two of them, and does not know the others' at the top of a config.
    let theta = config.number("rotary_emb_base", 10_000.0)?;
    let defaults = RopeDefaults { theta, partial: config.number("rotary_pct", 0.25)?, ..RopeDefaults::USUAL };
    let parameters = rope::parameters(config)?;
    spec.ropes = vec![rope::table_of(config, parameters.as_ref(), base::head_dim(&spec), defaults)?];
    spec.attentions_mut().for_each(|a| a.rope = Some(0));
    spec.norm = base::layer_norm(config, "layer_norm_eps", 1e-5)?;
    base::set_activation(&mut spec, config.activation("hidden_act", "gelu")?);
    spec.mlps_mut().for_each(|m| m.gated = false);
    base::set_biases(&mut spec, config.flag("attention_bias", true)?, true);
    if config.flag("use_parallel_residual", true)? {
        spec.layers.iter_mut().for_each(|l| l.residual = Residual::Parallel);
    }
    Ok(Mapping::new(spec, NAMES))
}
