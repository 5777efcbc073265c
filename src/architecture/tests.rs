//! Configs in the styles that checkpoints come in, and what is refused.

use super::*;
use serde_json::{Map, json};
use std::path::PathBuf;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/architectures")
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn spec(config: &Value) -> Result<DecoderSpec, ArchitectureError> {
    mapping(Path::new("config.json"), config, None).map(|m| m.spec)
}

/// The config as transformers wrote it before version 5.
fn old_style(config: &Value) -> Value {
    let mut old = config.as_object().unwrap().clone();
    old.insert("torch_dtype".into(), old["dtype"].clone());
    old.remove("dtype");
    let neox = old["model_type"] == "gpt_neox";
    if let Some(Value::Object(mut rope)) = old.remove("rope_parameters") {
        if let (Some(full), Some(sliding)) = (rope.get("full_attention"), rope.get("sliding_attention")) {
            old.insert("rope_theta".into(), full["rope_theta"].clone());
            old.insert("rope_local_base_freq".into(), sliding["rope_theta"].clone());
            old.remove("layer_types");
            old.insert("sliding_window_pattern".into(), json!(6));
            return Value::Object(old);
        }
        let mut take = |key: &str, name: &str, old: &mut Map<String, Value>| {
            rope.remove(key).map(|value| old.insert(name.into(), value));
        };
        take("rope_theta", if neox { "rotary_emb_base" } else { "rope_theta" }, &mut old);
        take("partial_rotary_factor", if neox { "rotary_pct" } else { "partial_rotary_factor" }, &mut old);
        if rope["rope_type"] != "default" {
            old.insert("rope_scaling".into(), Value::Object(rope));
        }
    }
    Value::Object(old)
}

#[test]
fn configs_in_the_old_style_say_the_same_as_in_the_new_one() {
    let mut seen = 0;
    for folder in std::fs::read_dir(fixtures()).unwrap().map(|e| e.unwrap().path()).filter(|p| p.join("config.json").exists()) {
        let config = read(&folder.join("config.json"));
        let old = old_style(&config);
        assert!(old.get("rope_parameters").is_none() && old != config);
        assert_eq!(spec(&old).unwrap(), spec(&config).unwrap(), "{}", folder.display());
        seen += 1;
    }
    assert!(seen >= 15);
}

/// `defaults.json` is what transformers makes of configs without any key.
#[test]
fn missing_keys_have_the_defaults_of_transformers() {
    let Value::Object(defaults) = read(&fixtures().join("defaults.json")) else { panic!("no table") };
    assert_eq!(defaults.len(), FAMILIES.len(), "a config of every family");
    for (architecture, mut config) in defaults {
        config["architectures"] = json!([architecture]);
        let empty = json!({"architectures": [architecture]});
        let (mut said, mut unsaid) = (spec(&config).unwrap(), spec(&empty).unwrap());
        // Token ids are a matter of null or not, which the file leaves out.
        for s in [&mut said, &mut unsaid] {
            (s.bos_token_id, s.eos_token_ids) = (None, Vec::new());
        }
        assert_eq!(unsaid, said, "{architecture}");
    }
}

#[test]
fn families_are_found_by_model_type_where_a_config_names_no_architecture() {
    for family in FAMILIES {
        for model_type in family.model_types {
            assert!(spec(&json!({"model_type": model_type})).is_ok(), "{model_type}");
        }
    }
}

#[test]
fn kinds_that_cannot_be_converted_are_refused_by_name_with_the_reason() {
    let refused = |config: Value| spec(&config).unwrap_err().to_string();
    for (config, expected) in [
        (json!({"architectures": ["MixtralForCausalLM"]}), "MixtralForCausalLM cannot be converted: mixture-of-experts"),
        (json!({"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 128}), "mixture-of-experts"),
        (json!({"architectures": ["LlamaForCausalLM"], "num_local_experts": 8}), "mixture-of-experts"),
        (json!({"architectures": ["BertForMaskedLM"], "model_type": "bert"}), "encoders and classifiers"),
        (json!({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": true}), "encoder-decoder models"),
        (
            json!({"architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {}, "text_config": {}}),
            "multimodal models",
        ),
        (json!({"architectures": ["Qwen2VLForConditionalGeneration"]}), "multimodal models"),
        (json!({"architectures": ["MambaForCausalLM"]}), "state-space"),
        (
            json!({"architectures": ["LlamaForCausalLM"], "quantization_config": {"quant_method": "gptq", "bits": 4}}),
            "quantized already (quantization_config, method gptq)",
        ),
    ] {
        let error = refused(config.clone());
        assert!(error.contains(expected) && error.starts_with("config.json: "), "{config}: {error}");
    }
    let unknown = refused(json!({"architectures": ["BloomForCausalLM"]}));
    assert!(unknown.contains("BloomForCausalLM") && unknown.contains("GPTNeoXForCausalLM"), "{unknown}");
}

#[test]
fn arithmetic_that_a_spec_cannot_say_is_refused_by_its_key() {
    for (config, key) in [
        (
            json!({"architectures": ["GPT2LMHeadModel"], "scale_attn_by_inverse_layer_idx": true}),
            "scale_attn_by_inverse_layer_idx",
        ),
        (json!({"architectures": ["Gemma3ForCausalLM"], "use_bidirectional_attention": true}), "use_bidirectional_attention"),
        (json!({"architectures": ["PhiForCausalLM"], "qk_layernorm": true}), "qk_layernorm"),
        (json!({"architectures": ["LlamaForCausalLM"], "hidden_act": "relu2"}), "hidden_act"),
        (json!({"architectures": ["Gemma2ForCausalLM"], "layer_types": ["chunked_attention"]}), "layer_types"),
        (json!({"architectures": ["SmolLM3ForCausalLM"], "no_rope_layers": [1, 0]}), "no_rope_layers"),
        (json!({"architectures": ["LlamaForCausalLM"], "partial_rotary_factor": 2.0}), "partial_rotary_factor"),
    ] {
        let error = spec(&config).unwrap_err().to_string();
        assert!(error.contains(key), "{config}: {error}");
    }
}
