//! [`config_of`]: a `config.json` that a family's class reads as a given decoder.
//!
//! A package has the decoder and not the config that it was read from. Here the usual families' configs are tried in turn: the
//! first that says exactly this decoder is one. So no guess is ever written that says another.

use super::rope::inverse_frequencies;
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{Activation, RopeTable};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Classes that are tried, the plainest first.
const CLASSES: [(&str, &str); 10] = [
    ("LlamaForCausalLM", "llama"),
    ("Qwen2ForCausalLM", "qwen2"),
    ("Qwen3ForCausalLM", "qwen3"),
    ("MistralForCausalLM", "mistral"),
    ("SmolLM3ForCausalLM", "smollm3"),
    ("GemmaForCausalLM", "gemma"),
    ("Gemma2ForCausalLM", "gemma2"),
    ("Gemma3ForCausalLM", "gemma3_text"),
    ("Olmo2ForCausalLM", "olmo2"),
    ("GraniteForCausalLM", "granite"),
];

/// A config of one of the usual families that says exactly this decoder, if there is one.
pub fn config_of(spec: &DecoderSpec) -> Option<Value> {
    let says_it = |config: &Value| super::mapping(Path::new("config.json"), config, None).is_ok_and(|m| m.spec == *spec);
    let common = common(spec)?;
    CLASSES.into_iter().find_map(|(class, kind)| Some(of_class(spec, &common, class, kind)).filter(says_it))
}

/// Names of the classes that [`config_of`] tries.
pub(crate) fn classes() -> String {
    CLASSES.map(|(class, _)| class.trim_end_matches("ForCausalLM")).join(", ")
}

/// A number as its shortest decimal text has it, which an f32 reads as the same.
fn number(x: f32) -> Value {
    json!(x.to_string().parse::<f64>().unwrap_or(f64::from(x)))
}

/// What all of these classes call alike.
fn common(spec: &DecoderSpec) -> Option<Map<String, Value>> {
    let (attention, mlp) = (spec.attentions().next()?, spec.mlps().next()?);
    let eos = match spec.eos_token_ids.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    };
    let activation = match mlp.activation {
        Activation::Silu => "silu",
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
        _ => return None,
    };
    let config = json!({
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": mlp.intermediate_size,
        "num_hidden_layers": spec.num_layers(),
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "head_dim": attention.head_dim,
        "hidden_act": activation,
        "max_position_embeddings": spec.max_context,
        "rms_norm_eps": number(spec.norm.epsilon),
        "tie_word_embeddings": spec.tied_head,
        "attention_bias": attention.qkv_bias,
        "bos_token_id": spec.bos_token_id,
        "eos_token_id": eos,
        "pad_token_id": null,
    });
    let Value::Object(config) = config else { return None };
    Some(config)
}

/// The config with what `class` has beside that.
fn of_class(spec: &DecoderSpec, common: &Map<String, Value>, class: &str, kind: &str) -> Value {
    let mut config = common.clone();
    let mut set = |key: &str, value: Value| {
        config.insert(key.into(), value);
    };
    set("architectures", json!([class]));
    set("model_type", json!(kind));
    let window = spec.attentions().find_map(|a| a.window);
    let types = || {
        let name = |sliding: bool| if sliding { "sliding_attention" } else { "full_attention" };
        json!(spec.attentions().map(|a| name(a.window.is_some())).collect::<Vec<_>>())
    };
    let head_dim = spec.attentions().next().map_or(0, |a| a.head_dim);
    let rope = |table: Option<&RopeTable>| table.and_then(|table| parameters(table, head_dim)).unwrap_or(Value::Null);
    let full = rope(spec.ropes.first());
    match kind {
        "gemma3_text" => set("rope_parameters", json!({"full_attention": full, "sliding_attention": rope(spec.ropes.last())})),
        _ => set("rope_parameters", full),
    }
    match kind {
        "llama" => set("mlp_bias", json!(spec.mlps().next().is_some_and(|m| m.bias))),
        "qwen2" | "qwen3" => {
            set("use_sliding_window", json!(window.is_some()));
            set("sliding_window", json!(window));
            set("layer_types", types());
        }
        "mistral" => set("sliding_window", json!(window)),
        "smollm3" => {
            set("mlp_bias", json!(spec.mlps().next().is_some_and(|m| m.bias)));
            set("no_rope_layers", json!(spec.attentions().map(|a| u8::from(a.rope.is_some())).collect::<Vec<_>>()));
            set("use_sliding_window", json!(window.is_some()));
            set("sliding_window", json!(window));
            set("layer_types", types());
        }
        "gemma" => set("hidden_activation", json!("gelu_pytorch_tanh")),
        "gemma2" | "gemma3_text" => {
            set("hidden_activation", json!("gelu_pytorch_tanh"));
            set("sliding_window", json!(window.unwrap_or(4096)));
            set("layer_types", types());
            let scale = spec.attentions().next().map_or(1.0, |a| f64::from(a.scale).powi(-2));
            set("query_pre_attn_scalar", json!(scale.round()));
            set("attn_logit_softcapping", spec.attentions().next().and_then(|a| a.softcap).map_or(Value::Null, number));
            set("final_logit_softcapping", spec.logit_softcap.map_or(Value::Null, number));
        }
        "granite" => {
            set("embedding_multiplier", number(spec.embedding_multiplier));
            set("residual_multiplier", number(spec.residual_multiplier));
            set("attention_multiplier", spec.attentions().next().map_or(Value::Null, |a| number(a.scale)));
            set("logits_scaling", number(1.0 / spec.logit_multiplier));
            set("mlp_bias", json!(spec.mlps().next().is_some_and(|m| m.bias)));
        }
        _ => {}
    }
    Value::Object(config)
}

/// Settings that give a rope table; whether they do is for the caller to see.
fn parameters(table: &RopeTable, head_dim: usize) -> Option<Value> {
    let (frequencies, rotated) = (&table.inv_freq, 2 * table.inv_freq.len());
    if table.long.is_some() || table.factor != 1.0 || frequencies.len() < 2 {
        return None;
    }
    let mut found = json!({"rope_type": "default"});
    if rotated != head_dim {
        found["partial_rotary_factor"] = json!(rotated as f64 / head_dim as f64);
    }
    // Divided by a factor as a whole, or in part.
    let factor = (1.0 / f64::from(frequencies[0])).round();
    let plain: Vec<f64> = frequencies.iter().map(|f| f64::from(*f) * factor).collect();
    let last = plain.len() - 1;
    for at in [last, 1] {
        let theta = plain[at].powf(-(rotated as f64) / (2 * at) as f64);
        for theta in rounded(theta) {
            let of_theta = inverse_frequencies(theta, rotated);
            found["rope_theta"] = json!(theta);
            if of_theta == *frequencies {
                return Some(found);
            }
            if of_theta.iter().map(|f| f / factor as f32).eq(frequencies.iter().copied()) {
                (found["rope_type"], found["factor"]) = (json!("linear"), json!(factor));
                return Some(found);
            }
            let slowest = (f64::from(of_theta[last]) / f64::from(frequencies[last]) * 64.0).round() / 64.0;
            for original in (4..=20).map(|n| 1u32 << n).filter(|_| at == 1 && slowest > 1.0) {
                let settings = json!({
                    "rope_type": "llama3", "rope_theta": theta, "factor": slowest, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": original,
                });
                if super::rope::of_settings(&settings, head_dim).is_some_and(|t| t == *table) {
                    return Some(settings);
                }
            }
        }
    }
    None
}

/// A number in fewer and fewer digits.
fn rounded(x: f64) -> Vec<f64> {
    let digits = |n: i32| {
        let unit = 10f64.powi(x.log10().floor() as i32 + 1 - n);
        if unit >= 1.0 { (x / unit).round() * unit } else { (x * unit.recip()).round() / unit.recip() }
    };
    let mut all: Vec<f64> = [1, 2, 3, 4, 5, 6, 7].map(digits).to_vec();
    all.extend([x.round(), x]);
    all
}
