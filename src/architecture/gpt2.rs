//! GPT-2 (and DistilGPT-2): learned positions, layer norms, biases, plain GELU; matrices are stored transposed.

use super::config::Config;
use super::names::{Names, Qkv, Up};
use super::{ArchitectureError, Mapping, base};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{Attention, LayerSpec, Mlp};

const NAMES: Names = Names {
    base: "transformer.",
    embedding: "wte",
    positions: "wpe",
    layers: "h",
    mixer_norm: "ln_1",
    qkv: Qkv::Fused("attn.c_attn"),
    attention_output: "attn.c_proj",
    mlp_norm: "ln_2",
    up: Up::Alone("mlp.c_fc"),
    down: "mlp.c_proj",
    final_norm: "ln_f",
    transposed: true,
    ..Names::LLAMA
};

/// Reads a config with the names and defaults of `GPT2Config`.
pub(super) fn load(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    base::refuse_others(config)?;
    // `attribute_map` of the class takes the names that other families have, too.
    let size = |own: &str, usual: &str, default| config.size(own, config.size(usual, default)?);
    let hidden_size = size("n_embd", "hidden_size", 768)?;
    let num_heads = size("n_head", "num_attention_heads", 12)?;
    if !hidden_size.is_multiple_of(num_heads) {
        return Err(config.unsupported("n_head", &num_heads.to_string(), &format!("divisors of n_embd, {hidden_size}")));
    }
    let head_dim = hidden_size / num_heads;
    let scaled = config.flag("scale_attn_weights", true)?;
    let mut attention = Attention::new(num_heads, num_heads, head_dim);
    (attention.qkv_bias, attention.output_bias) = (true, true);
    if !scaled {
        attention.scale = 1.0;
    }
    let activation = config.activation("activation_function", "gelu_new")?;
    let mut mlp = Mlp::new(config.size("n_inner", 4 * hidden_size)?, activation);
    (mlp.gated, mlp.bias) = (false, true);
    let vocab_size = config.size("vocab_size", 50_257)?;
    let max_context = size("n_positions", "max_position_embeddings", 1024)?;
    let norm = base::layer_norm(config, "layer_norm_epsilon", 1e-5)?;
    let layers = vec![LayerSpec::new(attention, mlp); config.layers("n_layer", config.layers("num_hidden_layers", 12)?)?];
    let mut spec = DecoderSpec::new(vocab_size, hidden_size, max_context, norm, layers);
    spec.learned_positions = true;
    spec.tied_head = config.flag("tie_word_embeddings", true)?;
    spec.eos_token_ids = config.token_ids("eos_token_id", Some(50_256))?;
    spec.bos_token_id = config.token_ids("bos_token_id", Some(50_256))?.first().copied();
    Ok(Mapping::new(spec, NAMES))
}
