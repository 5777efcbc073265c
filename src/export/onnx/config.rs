//! `config.json` for transformers.js and `genai_config.json` for ONNX Runtime GenAI.

use super::super::class::Class;
use serde_json::{Map, Value, json};

/// Types of decoders that GenAI has a name for; all others are its `decoder`.
const GENAI_TYPES: [&str; 13] = [
    "ernie4_5",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "granite",
    "llama",
    "mistral",
    "olmo",
    "phi",
    "qwen2",
    "qwen3",
    "smollm3",
];

/// Tokens that a sampler chooses among where nothing says how many: GenAI's builder writes the same.
const TOP_K: u64 = 50;

/// The class's config, with what transformers.js asks for beside it.
pub(super) fn of_class(class: &Class, dtype: &str, model_file: &str, parts: usize) -> Vec<u8> {
    let mut config = class.config.clone();
    config.insert("dtype".into(), json!(if dtype.ends_with("16") { "float16" } else { "float32" }));
    if let Some(a) = class.layout.spec.attentions().next() {
        // Its cache has these sizes, and its defaults are not those of every class.
        for (key, n) in [("head_dim", a.head_dim), ("num_key_value_heads", a.num_kv_heads)] {
            if config.get(key).is_none_or(Value::is_null) {
                config.insert(key.into(), json!(n));
            }
        }
    }
    let mut own = json!({"dtype": dtype, "kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}});
    if parts > 0 {
        own["use_external_data_format"] = json!({model_file: parts});
    }
    config.insert("transformers.js_config".into(), own);
    pretty(&Value::Object(config))
}

/// What GenAI's builder writes for the same decoder.
pub(super) fn of_genai(class: &Class, path: &str, files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let spec = &class.layout.spec;
    let generation = files.iter().find(|(name, _)| name == "generation_config.json");
    let generation: Map<String, Value> = generation.and_then(|(_, bytes)| serde_json::from_slice(bytes).ok()).unwrap_or_default();
    let setting = |key: &str, usual: Value| generation.get(key).filter(|v| !v.is_null()).cloned().unwrap_or(usual);
    let (heads, kv_heads, head_dim) = spec.attentions().next().map_or((0, 0, 0), |a| (a.num_heads, a.num_kv_heads, a.head_dim));
    let eos = match spec.eos_token_ids.as_slice() {
        [one] => json!(one),
        several => json!(several),
    };
    let usual_pad = spec.eos_token_ids.first().copied().unwrap_or_default();
    let pad = class.config.get("pad_token_id").filter(|v| v.is_u64()).cloned();
    let kind = GENAI_TYPES.into_iter().find(|kind| *kind == class.model_type()).unwrap_or("decoder");
    pretty(&json!({
        "model": {
            "bos_token_id": spec.bos_token_id.unwrap_or(usual_pad),
            "context_length": spec.max_context,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": path,
                "head_size": head_dim,
                "hidden_size": spec.hidden_size,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
                "num_attention_heads": heads,
                "num_hidden_layers": spec.num_layers(),
                "num_key_value_heads": kv_heads,
            },
            "eos_token_id": eos,
            "pad_token_id": setting("pad_token_id", pad.unwrap_or(json!(usual_pad))),
            "type": kind,
            "vocab_size": spec.vocab_size,
        },
        "search": {
            "diversity_penalty": 0.0,
            "do_sample": setting("do_sample", json!(false)),
            "early_stopping": true,
            "length_penalty": 1.0,
            "max_length": spec.max_context,
            "min_length": 0,
            "no_repeat_ngram_size": 0,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": true,
            "repetition_penalty": setting("repetition_penalty", json!(1.0)),
            "temperature": setting("temperature", json!(1.0)),
            "top_k": setting("top_k", json!(TOP_K)),
            "top_p": setting("top_p", json!(1.0)),
        },
    }))
}

/// Indented JSON with a final newline.
fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}
