//! Metadata as the keys of the `config.json` that the family has in transformers.

use super::super::CheckpointError;
use super::super::file::MappedFile;
use super::super::tensor::RowOrder;
use super::container::{Container, Value as Stored};
use super::family::Family;
use super::mixed::HYBRIDS;
use super::mixed_keys;
use super::model::Model;
use super::rope;
use serde_json::{Map, Value, json};

/// Most layers of a model: lists of them are built before any tensor is looked at.
pub(super) const MAX_LAYERS: usize = 1 << 12;

/// Largest head.
const MAX_HEAD_DIM: usize = 1 << 16;

/// What placements depend on.
#[derive(Debug)]
pub(super) struct Heads {
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) head_dim: usize,
    /// The first layer that guesses later tokens, if there is one.
    pub(super) guessing: Option<usize>,
    pub(super) net: Option<Net>,
    /// The same where the file has values in the family's order, and the family has matrices head of keys by head of keys.
    pub(super) by_key_head: Option<Net>,
}

/// The heads of gated delta nets.
#[derive(Debug)]
pub(super) struct Net {
    pub(super) key_heads: usize,
    pub(super) value_heads: usize,
    pub(super) key_dim: usize,
    pub(super) value_dim: usize,
}

impl Net {
    /// Rows of queries and keys.
    pub(super) fn keys_size(&self) -> usize {
        self.key_heads.saturating_mul(self.key_dim).saturating_mul(2)
    }

    /// Rows of values.
    pub(super) fn values_size(&self) -> usize {
        self.value_heads.saturating_mul(self.value_dim)
    }

    /// How values, or what has `dim` numbers for each of their heads, are stored: the first head of each key's, then the second ones.
    pub(super) fn order(&self, dim: usize) -> RowOrder {
        RowOrder::PartsFirst { parts: self.value_heads / self.key_heads, heads: self.key_heads, head_dim: dim }
    }
}

impl Heads {
    /// The order of what a part has for values.
    pub(super) fn values_in(&self, part: &str) -> RowOrder {
        match (&self.net, part) {
            (Some(net), "attn_gate" | "ssm_out") => net.order(net.value_dim),
            (Some(net), "ssm_a" | "ssm_dt.bias" | "ssm_alpha" | "ssm_beta") => net.order(1),
            _ => RowOrder::Same,
        }
    }
}

/// Reads the config, and what placements depend on.
pub(super) fn read(
    containers: &[Container<'_>],
    files: &[MappedFile],
    family: &'static Family,
) -> Result<(Value, Heads), CheckpointError> {
    let model = Model { containers, files, family };
    let m = model.metadata();
    let key = |name: &str| model.key(name);
    if m.flag(&key("attention.causal"))? == Some(false) {
        return Err(m.wrong(&key("attention.causal"), "is false; only decoders are supported"));
    }
    let hidden = m.required(&key("embedding_length"))?;
    let layers = m.required(&key("block_count"))?;
    if layers > MAX_LAYERS {
        return Err(m.wrong(&key("block_count"), &format!("is {layers}, more than {MAX_LAYERS}")));
    }
    let guessing = m.size(&key("nextn_predict_layers"))?.unwrap_or(0);
    let Some(layers) = layers.checked_sub(guessing).filter(|n| *n > 0) else {
        return Err(m.wrong(&key("nextn_predict_layers"), &format!("is {guessing}, of {layers} layers")));
    };
    let queries = m.required(&key("attention.head_count"))?;
    // A list has 0 for layers without attention.
    let by_layer = m.get(&key("attention.head_count_kv")).filter(|value| matches!(value, Stored::Array(_)));
    let keys = match by_layer {
        Some(_) if family.name == "gemma4" => mixed_keys::gemma4_key_heads(&model, layers)?.0,
        Some(_) if HYBRIDS.contains(&family.name) => key_heads(&model, layers)?.into_iter().max().unwrap_or(0),
        _ => m.size(&key("attention.head_count_kv"))?.unwrap_or(queries),
    };
    let head_dim = m.size(&key("attention.key_length"))?.unwrap_or(hidden / queries);
    let value_dim = m.size(&key("attention.value_length"))?.unwrap_or(head_dim);
    if !(1..=MAX_HEAD_DIM).contains(&head_dim) {
        return Err(m.wrong(&key("attention.key_length"), &format!("is {head_dim}, expected 1 to {MAX_HEAD_DIM}")));
    }
    if value_dim != head_dim {
        let why = format!("is {value_dim}, and keys have {head_dim}; only heads of one size are supported");
        return Err(m.wrong(&key("attention.value_length"), &why));
    }
    let (epsilon_key, epsilon) = epsilon(&model)?;
    let embedding = model.tensor("token_embd.weight").or_else(|| model.tensor("output.weight"));
    let (_, embedding) = embedding.ok_or_else(|| m.wrong("token_embd.weight", "is missing"))?;
    let mut config = json!({
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": mixed_keys::width(&model)?,
        "num_hidden_layers": layers,
        "num_attention_heads": queries,
        "num_key_value_heads": keys,
        "head_dim": head_dim,
        "max_position_embeddings": m.required(&key("context_length"))?,
        epsilon_key: epsilon,
        // No key says it: where the file has both, their numbers do.
        "tie_word_embeddings": true,
        "num_local_experts": m.size(&key("expert_count"))?,
    });
    for (name, own) in [("bos", "bos_token_id"), ("eos", "eos_token_id"), ("padding", "pad_token_id")] {
        config[own] = json!(super::tokenizer::token_id(m, name)?);
    }
    if let Value::Object(config) = &mut config {
        own_keys(&model, config, layers, hidden, queries, head_dim)?;
        mixed_keys::set(&model, config, layers)?;
        if family.name != "gpt2" {
            let parameters = rope::parameters(&model, config, head_dim)?;
            // Phi-3's class looks for it at the top alone.
            if family.name == "phi3"
                && let Some(original) = parameters.get("original_max_position_embeddings")
            {
                config.insert("original_max_position_embeddings".into(), original.clone());
            }
            config.insert("rope_parameters".into(), parameters);
        }
    }
    let net_of = |name: &str| (family.name == name).then(|| mixed_keys::net(&model)).transpose();
    let (net, by_key_head) = (net_of("qwen35")?, net_of("qwen3next")?);
    Ok((config, Heads { queries, keys, head_dim, guessing: (guessing > 0).then_some(layers), net, by_key_head }))
}

/// The norms' epsilon under the key that the family has for it.
fn epsilon(model: &Model<'_>) -> Result<(&'static str, f64), CheckpointError> {
    let (m, rms) = (model.metadata(), model.key("attention.layer_norm_rms_epsilon"));
    let (key, own) = match model.family.name {
        "lfm2" | "lfm2moe" => (rms, "norm_eps"),
        // The converter writes both where a config has both.
        "nemotron_h" if m.get(&rms).is_none() => (model.key("attention.layer_norm_epsilon"), "layer_norm_epsilon"),
        "nemotron_h" => (rms, "layer_norm_epsilon"),
        "phi2" | "stablelm" | "gptneox" | "command-r" | "cohere2" => {
            (model.key("attention.layer_norm_epsilon"), "layer_norm_eps")
        }
        "gpt2" => (model.key("attention.layer_norm_epsilon"), "layer_norm_epsilon"),
        _ => (rms, "rms_norm_eps"),
    };
    let epsilon = m.number(&key)?.ok_or_else(|| m.wrong(&key, "is missing"))?;
    Ok((own, epsilon))
}

/// What only some families have, and the activation.
fn own_keys(
    model: &Model<'_>,
    config: &mut Map<String, Value>,
    layers: usize,
    hidden: usize,
    queries: usize,
    head_dim: usize,
) -> Result<(), CheckpointError> {
    let m = model.metadata();
    let key = |name: &str| model.key(name);
    let window = m.size(&key("attention.sliding_window"))?.filter(|n| *n > 0);
    let mut set = |name: &str, value: Value| {
        config.insert(name.into(), value);
    };
    set("hidden_act", json!("silu"));
    let biased = |parts: &[&str]| parts.iter().any(|part| model.has(&format!("blk.0.{part}.bias")));
    let (attention, query) =
        (["attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output"], ["attn_q", "attn_k", "attn_v", "attn_qkv"]);
    match model.family.name {
        "llama" | "granite" | "granite_swa" | "smollm3" | "qwen3" | "olmo2" => {
            set("attention_bias", json!(biased(&attention)));
            set("mlp_bias", json!(biased(&["ffn_gate", "ffn_up", "ffn_down"])));
        }
        "hunyuan-dense" => set("attention_bias", json!(biased(&attention))),
        "command-r" | "cohere2" => {
            set("attention_bias", json!(biased(&attention)));
            set("logit_scale", json!(m.number(&key("logit_scale"))?));
        }
        "ernie4_5" => set("use_bias", json!(biased(&attention))),
        _ => {}
    }
    match model.family.name {
        // Only Mistral has a window.
        "llama" if window.is_some() => {
            set("architectures", json!(["MistralForCausalLM"]));
            set("model_type", json!("mistral"));
            set("sliding_window", json!(window));
        }
        "granite" | "granite_swa" | "granitemoe" | "granitehybrid" => {
            // As llama.cpp does where the key is missing.
            let attention = m.number(&key("attention.scale"))?.filter(|x| *x != 0.0);
            set("attention_multiplier", json!(attention.unwrap_or((head_dim as f64).powf(-0.5))));
            for (own, name) in [
                ("embedding_multiplier", "embedding_scale"),
                ("residual_multiplier", "residual_scale"),
                ("logits_scaling", "logit_scale"),
            ] {
                set(own, json!(m.number(&key(name))?.filter(|x| *x != 0.0).unwrap_or(1.0)));
            }
        }
        "gemma" | "gemma2" | "gemma3" => {
            set("hidden_act", json!("gelu_pytorch_tanh"));
            set("hidden_activation", json!("gelu_pytorch_tanh"));
            if model.family.name != "gemma" {
                gemma(model, &mut set, layers, hidden / queries, head_dim, window)?;
            }
        }
        "lfm2" | "lfm2moe" => {
            set("conv_L_cache", json!(m.required(&key("shortconv.l_cache"))?));
            set("conv_bias", json!((0..layers).any(|i| model.has(&format!("blk.{i}.shortconv.in_proj.bias")))));
            // The width is that of the matrices, and not what the class would make of it.
            set("block_auto_adjust_ff_dim", json!(false));
            let name = |heads: &usize| if *heads == 0 { "conv" } else { "full_attention" };
            set("layer_types", json!(key_heads(model, layers)?.iter().map(name).collect::<Vec<_>>()));
        }
        "phi2" => set("hidden_act", json!("gelu_new")),
        "phi3" => set("sliding_window", json!(window)),
        "qwen2" | "qwen3" => set("use_sliding_window", json!(false)),
        "cohere2" => {
            set("sliding_window", json!(window));
            set("layer_types", layer_types(model, layers, 4)?);
        }
        "exaone4" => {
            set("sliding_window", json!(window));
            if window.is_some() {
                set("layer_types", layer_types(model, layers, 4)?);
            }
        }
        // OLMo 3: another class, whose config has windows.
        "olmo2" if window.is_some() => {
            set("architectures", json!(["Olmo3ForCausalLM"]));
            set("model_type", json!("olmo3"));
            set("sliding_window", json!(window));
            set("layer_types", layer_types(model, layers, 4)?);
        }
        "stablelm" => {
            // llama.cpp takes a layer without the second norm for a parallel one, whatever the key says.
            set("use_parallel_residual", json!(!model.has("blk.0.ffn_norm.weight")));
            set("use_qkv_bias", json!(biased(&query)));
            set("qk_layernorm", json!(model.has("blk.0.attn_q_norm.weight")));
        }
        "gptneox" => {
            set("hidden_act", json!("gelu"));
            set("attention_bias", json!(biased(&attention)));
            set("use_parallel_residual", json!(m.flag(&key("use_parallel_residual"))?.unwrap_or(true)));
        }
        "gpt2" => {
            for (own, name) in [("n_embd", "hidden_size"), ("n_head", "num_attention_heads"), ("n_layer", "num_hidden_layers")] {
                copy(config, own, name);
            }
            copy(config, "n_inner", "intermediate_size");
            copy(config, "n_positions", "max_position_embeddings");
            config.insert("activation_function".into(), json!("gelu_new"));
        }
        _ => {}
    }
    Ok(())
}

fn copy(config: &mut Map<String, Value>, to: &str, from: &str) {
    let value = config.get(from).cloned().unwrap_or_default();
    config.insert(to.into(), value);
}

/// Gemma 2 and 3. The scale of the attention is in no file: all sizes divide by the root of a head's size but the
/// largest ones, 46 and 62 layers deep, where it is the width's share of a head. llama.cpp tells them so too.
fn gemma(
    model: &Model<'_>,
    set: &mut impl FnMut(&str, Value),
    layers: usize,
    share: usize,
    head_dim: usize,
    window: Option<usize>,
) -> Result<(), CheckpointError> {
    let m = model.metadata();
    let second = model.family.name == "gemma2";
    let largest = if second { 46 } else { 62 };
    set("query_pre_attn_scalar", json!(if layers == largest { share } else { head_dim }));
    for name in ["attn_logit_softcapping", "final_logit_softcapping"] {
        set(name, json!(m.number(&model.key(name))?.filter(|x| *x != 0.0)));
    }
    let types = match window {
        Some(_) => layer_types(model, layers, if second { 2 } else { 6 })?,
        None => json!(vec!["full_attention"; layers]),
    };
    set("sliding_window", json!(window.unwrap_or(4096)));
    set("layer_types", types);
    Ok(())
}

/// Heads of keys and values in each layer; 0 in those without attention.
pub(super) fn key_heads(model: &Model<'_>, layers: usize) -> Result<Vec<usize>, CheckpointError> {
    let (m, key) = (model.metadata(), model.key("attention.head_count_kv"));
    let heads: Vec<usize> = m.numbers(&key)?.unwrap_or_default().into_iter().map(|n| n.max(0.0) as usize).collect();
    if heads.len() != layers {
        return Err(m.wrong(&key, &format!("has {} entries, expected {layers}, one a layer", heads.len())));
    }
    match heads.iter().filter(|n| **n > 0).find(|n| Some(**n) != heads.iter().copied().max()) {
        Some(other) => Err(m.wrong(&key, &format!("has layers with {other} heads and layers with more"))),
        None => Ok(heads),
    }
}

/// Which layers have a window: as the file lists them, or all but every `period`th.
pub(super) fn layer_types(model: &Model<'_>, layers: usize, period: usize) -> Result<Value, CheckpointError> {
    let (m, key) = (model.metadata(), model.key("attention.sliding_window_pattern"));
    let every = |period: usize| (0..layers).map(|i| !(i + 1).is_multiple_of(period.max(1))).collect();
    let sliding: Vec<bool> = match m.get(&key) {
        None => every(period),
        Some(Stored::Array(_)) => m.flags(&key)?.unwrap_or_default(),
        Some(_) => every(m.required(&key)?),
    };
    if sliding.len() != layers {
        return Err(m.wrong(&key, &format!("has {} entries, expected {layers}, one a layer", sliding.len())));
    }
    let name = |s: &bool| if *s { "sliding_attention" } else { "full_attention" };
    Ok(json!(sliding.iter().map(name).collect::<Vec<_>>()))
}
