//! Keys of families with experts, or with other mixers than attention.

use super::super::CheckpointError;
use super::config::{self, Net};
use super::container::Value as Stored;
use super::mixed::DECAY;
use super::model::Model;
use serde_json::{Map, Value, json};

/// Whether a layer of the model has such a tensor.
fn has(model: &Model<'_>, layer: usize, part: &str) -> bool {
    model.has(&format!("blk.{layer}.{part}"))
}

/// A number that the file lists for each layer, or says once.
fn by_layer(model: &Model<'_>, name: &str, layers: usize) -> Result<Vec<usize>, CheckpointError> {
    let (m, key) = (model.metadata(), model.key(name));
    if !matches!(m.get(&key), Some(Stored::Array(_))) {
        return Ok(vec![m.required(&key)?; layers]);
    }
    let numbers: Vec<usize> = m.numbers(&key)?.unwrap_or_default().into_iter().map(|n| n.max(0.0) as usize).collect();
    if numbers.len() < layers {
        return Err(m.wrong(&key, &format!("has {} entries, expected {layers}, one a layer", numbers.len())));
    }
    Ok(numbers)
}

/// Heads of keys and values of Gemma 4: in layers with a window, and in those without one.
pub(super) fn gemma4_key_heads(model: &Model<'_>, layers: usize) -> Result<(usize, Option<usize>), CheckpointError> {
    const KEY: &str = "attention.head_count_kv";
    let heads = by_layer(model, KEY, layers)?;
    let types = config::layer_types(model, layers, 6)?;
    let of = |kind: &str| {
        let some = |(heads, name): (&usize, &Value)| (*name == kind).then_some(*heads);
        let mut found: Vec<usize> = heads.iter().zip(types.as_array().into_iter().flatten()).filter_map(some).collect();
        found.dedup();
        found
    };
    match (&of("sliding_attention")[..], &of("full_attention")[..]) {
        ([sliding], [full]) => Ok((*sliding, Some(*full))),
        ([one], []) | ([], [one]) => Ok((*one, None)),
        _ => Err(model.metadata().wrong(&model.key(KEY), "has layers of one kind with other numbers of heads")),
    }
}

/// Width of feed-forward networks. Lists have 0 for layers without one, and Gemma 4's last networks may be twice as wide.
pub(super) fn width(model: &Model<'_>) -> Result<usize, CheckpointError> {
    const KEY: &str = "feed_forward_length";
    let m = model.metadata();
    if !matches!(model.family.name, "nemotron_h" | "gemma3n" | "gemma4") {
        return m.required(&model.key(KEY));
    }
    let all = by_layer(model, KEY, m.required(&model.key("block_count"))?.min(config::MAX_LAYERS))?;
    if model.family.name == "gemma3n" {
        // Its class has one for each layer.
        return Ok(all[0]);
    }
    let mut some = all.iter().copied().filter(|n| *n > 0);
    let first = some.next().ok_or_else(|| m.wrong(&model.key(KEY), "is 0"))?;
    let wide = model.family.name == "gemma4";
    match some.find(|n| *n != first && !(wide && *n == 2 * first)) {
        Some(other) => Err(m.wrong(&model.key(KEY), &format!("has layers of width {first} and {other}"))),
        None => Ok(first),
    }
}

/// Sizes of the heads of delta nets.
pub(super) fn net(model: &Model<'_>) -> Result<Net, CheckpointError> {
    let m = model.metadata();
    let (key_heads, value_heads) = (m.required(&model.key("ssm.group_count"))?, m.required(&model.key("ssm.time_step_rank"))?);
    if !value_heads.is_multiple_of(key_heads) {
        let why = format!("is {value_heads}, no multiple of {key_heads} ({})", model.key("ssm.group_count"));
        return Err(m.wrong(&model.key("ssm.time_step_rank"), &why));
    }
    let value_dim = head_size(model, value_heads)?;
    Ok(Net { key_heads, value_heads, key_dim: m.required(&model.key("ssm.state_size"))?, value_dim })
}

/// Numbers of each of the heads of a mixer.
fn head_size(model: &Model<'_>, heads: usize) -> Result<usize, CheckpointError> {
    let (m, key) = (model.metadata(), model.key("ssm.inner_size"));
    let inner = m.required(&key)?;
    if !inner.is_multiple_of(heads) {
        return Err(m.wrong(&key, &format!("is {inner}, which is not the same for each of {heads} heads")));
    }
    Ok(inner / heads)
}

/// What only some families have.
pub(super) fn set(model: &Model<'_>, config: &mut Map<String, Value>, layers: usize) -> Result<(), CheckpointError> {
    let m = model.metadata();
    let key = |name: &str| model.key(name);
    let any = |parts: &[&str]| (0..layers).any(|i| parts.iter().any(|part| has(model, i, part)));
    let attention_bias = any(&["attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias"]);
    let mut set = |name: &str, value: Value| {
        config.insert(name.into(), value);
    };
    // How many experts a token uses, and how wide they are where that is another key than the others' width.
    if matches!(model.family.name, "qwen2moe" | "qwen3moe" | "qwen3next" | "olmoe" | "granitemoe" | "lfm2moe" | "gpt-oss") {
        let all = m.required(&key("expert_count"))?;
        set("num_experts", json!(all));
        set("num_local_experts", json!(all));
        set("num_experts_per_tok", json!(m.required(&key("expert_used_count"))?));
        set("attention_bias", json!(attention_bias));
    }
    match model.family.name {
        "qwen3moe" => {
            set("moe_intermediate_size", json!(m.required(&key("expert_feed_forward_length"))?));
            // As llama.cpp has it for all of them.
            set("norm_topk_prob", json!(true));
            let dense: Vec<usize> = (0..layers).filter(|i| !has(model, *i, "ffn_gate_inp.weight")).collect();
            set("mlp_only_layers", json!(dense));
        }
        "qwen2moe" => {
            set("moe_intermediate_size", json!(m.required(&key("expert_feed_forward_length"))?));
            set("shared_expert_intermediate_size", json!(m.size(&key("expert_shared_feed_forward_length"))?.unwrap_or(0)));
            set("qkv_bias", json!(attention_bias));
            set("use_sliding_window", json!(false));
            // As llama.cpp has it for all of them.
            set("norm_topk_prob", json!(false));
            let dense: Vec<usize> = (0..layers).filter(|i| !has(model, *i, "ffn_gate_inp.weight")).collect();
            set("mlp_only_layers", json!(dense));
        }
        "granitemoe" => {
            if let Some(shared) = m.size(&key("expert_shared_feed_forward_length"))?.filter(|n| *n > 0) {
                set("architectures", json!(["GraniteMoeSharedForCausalLM"]));
                set("model_type", json!("granitemoeshared"));
                set("shared_intermediate_size", json!(shared));
            }
        }
        "olmoe" => set("norm_topk_prob", json!(false)),
        "lfm2moe" => {
            const GATING: &str = "expert_gating_func";
            // llama.cpp's number for the sigmoid.
            if m.size(&key(GATING))? != Some(2) {
                return Err(m.wrong(&key(GATING), "is not 2, which stands for the sigmoid"));
            }
            set("moe_intermediate_size", json!(m.required(&key("expert_feed_forward_length"))?));
            set("num_dense_layers", json!(m.size(&key("leading_dense_block_count"))?.unwrap_or(0)));
            set("use_expert_bias", json!(any(&["exp_probs_b.bias"])));
            set("norm_topk_prob", json!(true));
        }
        "gpt-oss" => set("sliding_window", json!(m.required(&key("attention.sliding_window"))?)),
        "qwen35" | "qwen3next" => {
            let net = net(model)?;
            set("attention_bias", json!(attention_bias));
            if model.family.name == "qwen3next" {
                set("moe_intermediate_size", json!(m.required(&key("expert_feed_forward_length"))?));
                set("shared_expert_intermediate_size", json!(m.required(&key("expert_shared_feed_forward_length"))?));
                // As llama.cpp has it for all of them.
                set("norm_topk_prob", json!(true));
                let dense: Vec<usize> = (0..layers).filter(|i| !has(model, *i, "ffn_gate_inp.weight")).collect();
                set("mlp_only_layers", json!(dense));
            }
            set("linear_num_key_heads", json!(net.key_heads));
            set("linear_num_value_heads", json!(net.value_heads));
            set("linear_key_head_dim", json!(net.key_dim));
            set("linear_value_head_dim", json!(net.value_dim));
            set("linear_conv_kernel_dim", json!(m.required(&key("ssm.conv_kernel"))?));
            set("layer_types", mixers(model, layers));
        }
        "falcon-h1" => {
            if !model.has("output.weight") {
                // The converter multiplies the embedding, and drops the number that logits are multiplied with.
                return Err(m.wrong(
                    "output.weight",
                    "is missing: the scale of the logits of a tied head is in no key; convert the original folder",
                ));
            }
            mamba(model, &mut set)?;
            set("mamba_d_ssm", json!(m.required(&key("ssm.inner_size"))?));
            // All multipliers are in the weights. llama.cpp knows the norm after the gate alone.
            set("mamba_rms_norm", json!(any(&["ssm_norm.weight"])));
            set("mamba_norm_before_gate", json!(false));
            set("mlp_bias", json!(any(&["ffn_gate.bias", "ffn_up.bias", "ffn_down.bias"])));
        }
        "granitehybrid" => {
            mamba(model, &mut set)?;
            let (inner, hidden) = (m.required(&key("ssm.inner_size"))?, m.required(&key("embedding_length"))?);
            if !inner.is_multiple_of(hidden) {
                return Err(m.wrong(&key("ssm.inner_size"), &format!("is {inner}, no multiple of {hidden}")));
            }
            set("mamba_expand", json!(inner / hidden));
            set("attention_bias", json!(attention_bias));
            let shared = m.size(&key("expert_shared_feed_forward_length"))?.filter(|n| *n > 0);
            set("shared_intermediate_size", json!(shared.map_or_else(|| m.required(&key("feed_forward_length")), Ok)?));
            let experts = m.size(&key("expert_count"))?.unwrap_or(0);
            set("num_local_experts", json!(experts));
            set("num_experts_per_tok", json!(m.size(&key("expert_used_count"))?.unwrap_or(0)));
            set("layer_types", mixers(model, layers));
            // As llama.cpp has it, which rotates unless the key says no.
            let rotates = m.flag(&key("rope.scaling.finetuned"))?.unwrap_or(true);
            set("position_embedding_type", if rotates { json!("rope") } else { Value::Null });
        }
        "nemotron_h" => nemotron(model, &mut set, layers, attention_bias)?,
        "gemma4" => gemma4(model, &mut set, layers)?,
        "gemma3n" => gemma3n(model, &mut set, layers)?,
        "granite_swa" => {
            if m.size(&key("expert_count"))?.unwrap_or(0) > 0 {
                return Err(m.wrong(&key("expert_count"), "is not 0; only networks without experts are supported"));
            }
            set("sliding_window", json!(m.required(&key("attention.sliding_window"))?));
            set("layer_types", config::layer_types(model, layers, 4)?);
            // The converter knows one base, and layers that do not rotate.
            let theta = m.number(&key("rope.freq_base"))?.unwrap_or(10_000.0);
            let pattern = key("attention.rope_pattern");
            let all = m.flag(&key("rope.scaling.finetuned"))?.unwrap_or(true);
            let rotates = m.flags(&pattern)?.unwrap_or_else(|| vec![all; layers]);
            if rotates.len() < layers {
                return Err(m.wrong(&pattern, &format!("has {} entries, expected {layers}, one a layer", rotates.len())));
            }
            let thetas = rotates.iter().take(layers).map(|rotates| if *rotates { theta } else { 0.0 });
            set("layer_rope_theta", json!(thetas.collect::<Vec<_>>()));
        }
        _ => {}
    }
    Ok(())
}

/// Which layers have a mixer with states.
fn mixers(model: &Model<'_>, layers: usize) -> Value {
    let kind = |i| if has(model, i, DECAY) { "linear_attention" } else { "full_attention" };
    json!((0..layers).map(kind).collect::<Vec<_>>())
}

/// Mamba 2 mixers by the keys that Granite 4 and Falcon-H1 share.
fn mamba(model: &Model<'_>, set: &mut impl FnMut(&str, Value)) -> Result<(), CheckpointError> {
    let m = model.metadata();
    let key = |name: &str| model.key(name);
    let heads = m.required(&key("ssm.time_step_rank"))?;
    let layers = m.required(&key("block_count"))?;
    let any = |part: &str| (0..layers).any(|i| has(model, i, part));
    set("mamba_n_heads", json!(heads));
    set("mamba_d_head", json!(head_size(model, heads)?));
    set("mamba_n_groups", json!(m.required(&key("ssm.group_count"))?));
    set("mamba_d_state", json!(m.required(&key("ssm.state_size"))?));
    set("mamba_d_conv", json!(m.required(&key("ssm.conv_kernel"))?));
    set("mamba_conv_bias", json!(any("ssm_conv1d.bias")));
    set("mamba_proj_bias", json!(any("ssm_in.bias")));
    set("projectors_bias", json!(any("ssm_out.bias")));
    Ok(())
}

/// Nemotron-H, whose layers are a mixer or a feed-forward network, by their tensors.
fn nemotron(
    model: &Model<'_>,
    set: &mut impl FnMut(&str, Value),
    layers: usize,
    attention_bias: bool,
) -> Result<(), CheckpointError> {
    let m = model.metadata();
    let key = |name: &str| model.key(name);
    let heads = m.required(&key("ssm.time_step_rank"))?;
    let any = |parts: &[&str]| (0..layers).any(|i| parts.iter().any(|part| has(model, i, part)));
    set("mamba_num_heads", json!(heads));
    set("mamba_head_dim", json!(head_size(model, heads)?));
    set("n_groups", json!(m.required(&key("ssm.group_count"))?));
    set("ssm_state_size", json!(m.required(&key("ssm.state_size"))?));
    set("conv_kernel", json!(m.required(&key("ssm.conv_kernel"))?));
    set("use_conv_bias", json!(any(&["ssm_conv1d.bias"])));
    set("use_bias", json!(any(&["ssm_in.bias", "ssm_out.bias"])));
    set("mlp_bias", json!(any(&["ffn_up.bias", "ffn_down.bias"])));
    set("attention_bias", json!(attention_bias));
    set("mlp_hidden_act", json!("relu2"));
    let kind = |i: usize| match () {
        () if has(model, i, DECAY) => "linear_attention",
        () if has(model, i, "ffn_up.weight") => "mlp",
        () => "full_attention",
    };
    set("layers_block_type", json!((0..layers).map(kind).collect::<Vec<_>>()));
    Ok(())
}

/// Gemma 3n, most of whose numbers are in tensors' sizes or have keys of their own.
fn gemma3n(model: &Model<'_>, set: &mut impl FnMut(&str, Value), layers: usize) -> Result<(), CheckpointError> {
    const CUTS: &str = "activation_sparsity_scale";
    let m = model.metadata();
    let key = |name: &str| model.key(name);
    set("hidden_activation", json!("gelu_pytorch_tanh"));
    set("intermediate_size", json!(by_layer(model, "feed_forward_length", layers)?));
    if let Some(cap) = m.number(&key("final_logit_softcapping"))? {
        set("final_logit_softcapping", json!(cap));
    }
    set("sliding_window", json!(m.required(&key("attention.sliding_window"))?));
    set("layer_types", config::layer_types(model, layers, 5)?);
    set("num_kv_shared_layers", json!(m.required(&key("attention.shared_kv_layers"))?));
    set("altup_num_inputs", json!(m.required(&key("altup.num_inputs"))?));
    set("altup_active_idx", json!(m.size(&key("altup.active_idx"))?.unwrap_or(0)));
    set("altup_correct_scale", json!(true));
    set("hidden_size_per_layer_input", json!(m.required(&key("embedding_length_per_layer_input"))?));
    let rows = |name: &str| model.tensor(name).map(|(_, tensor)| tensor.shape[0]);
    set("vocab_size_per_layer_input", json!(rows("per_layer_token_embd.weight")));
    set("laurel_rank", json!(rows("blk.0.laurel_l.weight")));
    if let Some(cuts) = m.limits(&key(CUTS))? {
        set("activation_sparsity_pattern", json!(cuts.into_iter().map(share_below).collect::<Vec<_>>()));
    }
    Ok(())
}

/// The share of a normal distribution that lies below a number of deviations, which the converter keeps in its place. Shares
/// that people write down have few digits.
fn share_below(cut: f64) -> f64 {
    if cut <= -8.0 {
        return 0.0;
    }
    // Density × (x + x³/3 + x⁵/15 + …) is the share beyond one half.
    let (mut term, mut sum) = (cut, cut);
    for odd in (3..400).step_by(2) {
        term *= cut * cut / f64::from(odd);
        sum += term;
    }
    let share = 0.5 + sum * (-cut * cut / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let short = (share * 1e4).round() / 1e4;
    if (short - share).abs() < 1e-7 { short } else { share }
}

/// Gemma 4. Heads are as wide as the first keys say where a layer sees everything, and as the others say where it has a window.
fn gemma4(model: &Model<'_>, set: &mut impl FnMut(&str, Value), layers: usize) -> Result<(), CheckpointError> {
    let m = model.metadata();
    let key = |name: &str| model.key(name);
    let wide = m.required(&key("attention.key_length"))?;
    let head_dim = m.size(&key("attention.key_length_swa"))?.unwrap_or(wide);
    set("head_dim", json!(head_dim));
    set("global_head_dim", json!(wide));
    set("hidden_activation", json!("gelu_pytorch_tanh"));
    set("final_logit_softcapping", json!(m.number(&key("final_logit_softcapping"))?.filter(|x| *x != 0.0)));
    set("sliding_window", json!(m.required(&key("attention.sliding_window"))?));
    let types = config::layer_types(model, layers, 6)?;
    set("num_global_key_value_heads", json!(gemma4_key_heads(model, layers)?.1));
    let shared = m.size(&key("attention.shared_kv_layers"))?.unwrap_or(0);
    set("num_kv_shared_layers", json!(shared));
    // Layers whose keys are the values have no matrix for these.
    let own = layers.saturating_sub(shared);
    let full = |i: &usize| types.get(i).is_some_and(|name| name == "full_attention");
    set("attention_k_eq_v", json!((0..own).filter(full).any(|i| !has(model, i, "attn_v.weight"))));
    set("layer_types", types.clone());
    let widths = by_layer(model, "feed_forward_length", layers)?;
    set("use_double_wide_mlp", json!(shared > 0 && widths.last().copied() > widths.first().copied()));
    set("hidden_size_per_layer_input", json!(m.size(&key("embedding_length_per_layer_input"))?.unwrap_or(0)));
    let rows = model.tensor("per_layer_token_embd.weight").or_else(|| model.tensor("token_embd.weight"));
    set("vocab_size_per_layer_input", json!(rows.map(|(_, tensor)| tensor.shape[0])));
    set("enable_moe_block", json!(m.size(&key("expert_count"))?.unwrap_or(0) > 0));
    Ok(())
}
