//! Configs in the styles that checkpoints come in, and what is refused.

use super::*;
use haikuq_format::spec::GatedNorm;
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
            // Gemma 3n always listed its layers.
            if old["model_type"] != "gemma3n_text" {
                old.remove("layer_types");
                old.insert("sliding_window_pattern".into(), json!(6));
            }
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
        // These classes are younger than the new style.
        if config["model_type"] == "lfm3" || config["model_type"] == "gemma4_text" {
            continue;
        }
        let old = old_style(&config);
        assert!(old.get("rope_parameters").is_none() && old != config);
        assert_eq!(spec(&old).unwrap(), spec(&config).unwrap(), "{}", folder.display());
        seen += 1;
    }
    assert!(seen >= 15);
}

/// What a config must say to be of a kind that is read, where the class's defaults are of another.
fn required(architecture: &str) -> Value {
    match architecture {
        "GraniteMoeHybridForCausalLM" => {
            let mut types = vec!["linear_attention"; 31];
            types.push("full_attention");
            json!({"num_local_experts": 0, "layer_types": types})
        }
        "NemotronHForCausalLM" => json!({"layers_block_type": ["linear_attention", "full_attention", "mlp"]}),
        _ => json!({}),
    }
}

/// `defaults.json` is what transformers makes of configs without any key but those that are [`required`].
#[test]
fn missing_keys_have_the_defaults_of_transformers() {
    let Value::Object(defaults) = read(&fixtures().join("defaults.json")) else { panic!("no table") };
    assert_eq!(defaults.len(), FAMILIES.len(), "a config of every family");
    for (architecture, mut config) in defaults {
        config["architectures"] = json!([architecture]);
        let mut empty = required(&architecture);
        empty["architectures"] = json!([architecture]);
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
            let mut config = required(family.architectures[0]);
            config["model_type"] = json!(model_type);
            assert!(spec(&config).is_ok(), "{model_type}");
        }
    }
}

#[test]
fn kinds_that_cannot_be_converted_are_refused_by_name_with_the_reason() {
    let refused = |config: Value| spec(&config).unwrap_err().to_string();
    for (config, expected) in [
        (json!({"architectures": ["MixtralForCausalLM"]}), "MixtralForCausalLM cannot be converted: this mixture of experts"),
        (
            json!({"architectures": ["Ernie4_5_MoeForCausalLM"], "moe_num_experts": 60}),
            "this mixture of experts is not supported; those of Qwen 2, 3",
        ),
        (json!({"architectures": ["LlamaForCausalLM"], "num_local_experts": 8}), "this mixture of experts"),
        (
            json!({"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 4, "num_experts_per_tok": 5}),
            "up to 4, the number of experts",
        ),
        (json!({"architectures": ["OlmoeForCausalLM"], "clip_qkv": 8.0}), r#"clip_qkv "8" is not supported"#),
        (json!({"architectures": ["GptOssForCausalLM"], "swiglu_limit": 9.0}), r#"swiglu_limit "9" is not supported"#),
        (json!({"architectures": ["GptOssForCausalLM"], "quantization_config": {"quant_method": "fp8"}}), "method fp8"),
        (json!({"architectures": ["BertForMaskedLM"], "model_type": "bert"}), "encoders and classifiers"),
        (json!({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": true}), "encoder-decoder models"),
        (
            json!({"architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {}, "text_config": {}}),
            "multimodal models",
        ),
        (json!({"architectures": ["Qwen2VLForConditionalGeneration"]}), "text-only decoders are"),
        (json!({"architectures": ["Mistral3ForConditionalGeneration"], "text_config": {"model_type": "mistral"}}), "--text-only"),
        (json!({"architectures": ["MambaForCausalLM"]}), "state-space"),
        (json!({"architectures": ["GraniteMoeHybridForCausalLM"], "num_local_experts": 64}), "multiples of 11008"),
        (json!({"architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h"}), "mixture-of-experts"),
        (json!({"architectures": ["NemotronHForCausalLM"], "hybrid_override_pattern": "MEM*E"}), "mixture-of-experts"),
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
        (json!({"architectures": ["Gemma4ForCausalLM"], "use_bidirectional_attention": "all"}), "use_bidirectional_attention"),
        (json!({"architectures": ["Gemma4ForCausalLM"], "enable_moe_block": true}), "enable_moe_block"),
        (json!({"architectures": ["Gemma3nForCausalLM"], "intermediate_size": [8, 8]}), "intermediate_size \"2 entries\""),
        (json!({"architectures": ["Gemma3nForCausalLM"], "activation_sparsity_pattern": [0.5]}), "activation_sparsity_pattern"),
        (json!({"architectures": ["Gemma3nForCausalLM"], "altup_active_idx": 4}), "less than 4, as altup_num_inputs says"),
        (json!({"architectures": ["Gemma3nForCausalLM"], "altup_num_inputs": 9}), "2 to 8"),
        (json!({"architectures": ["Gemma3nForCausalLM"], "vocab_size": 99}), "vocab_size_per_layer_input"),
        (json!({"architectures": ["Gemma3nForCausalLM"], "num_kv_shared_layers": 33}), "num_kv_shared_layers"),
        (json!({"architectures": ["Gemma4ForCausalLM"], "vocab_size": 99}), "vocab_size_per_layer_input"),
        (json!({"architectures": ["Gemma4ForCausalLM"], "num_kv_shared_layers": 27}), "num_kv_shared_layers"),
        (
            json!({"architectures": ["Gemma4ForCausalLM"], "per_layer_config": {"3": {"rope_theta": 1.0}}}),
            "per_layer_config.3.rope_theta",
        ),
        (json!({"architectures": ["PhiForCausalLM"], "qk_layernorm": true}), "qk_layernorm"),
        (json!({"architectures": ["CohereForCausalLM"], "use_qk_norm": true}), "use_qk_norm"),
        (json!({"architectures": ["Ernie4_5ForCausalLM"], "partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        (json!({"architectures": ["Exaone4ForCausalLM"], "sliding_window_pattern": "LLLG"}), "sliding_window_pattern"),
        (json!({"architectures": ["LlamaForCausalLM"], "hidden_act": "tanh"}), "hidden_act"),
        (json!({"architectures": ["FalconH1ForCausalLM"], "hidden_act": "gelu"}), "hidden_act"),
        (json!({"architectures": ["FalconH1ForCausalLM"], "mamba_d_head": 7}), "mamba_d_head"),
        (json!({"architectures": ["FalconH1ForCausalLM"], "mamba_use_mlp": false}), "mamba_use_mlp"),
        (json!({"architectures": ["FalconH1ForCausalLM"], "ssm_multipliers": [1.0, 2.0]}), "ssm_multipliers"),
        (json!({"architectures": ["FalconH1ForCausalLM"], "time_step_limit": [1.0]}), "time_step_limit"),
        (json!({"architectures": ["NemotronHForCausalLM"], "hybrid_override_pattern": "M--"}), "hybrid_override_pattern"),
        (json!({"architectures": ["NemotronHForCausalLM"], "hybrid_override_pattern": "M?"}), "hybrid_override_pattern"),
        (json!({"architectures": ["NemotronHForCausalLM"], "layers_block_type": ["mlp", "mamba"]}), "layers_block_type"),
        (json!({"architectures": ["Gemma2ForCausalLM"], "layer_types": ["chunked_attention"]}), "layer_types"),
        (json!({"architectures": ["SmolLM3ForCausalLM"], "no_rope_layers": [1, 0]}), "no_rope_layers"),
        (json!({"architectures": ["LlamaForCausalLM"], "partial_rotary_factor": 2.0}), "partial_rotary_factor"),
    ] {
        let error = spec(&config).unwrap_err().to_string();
        assert!(error.contains(key), "{config}: {error}");
    }
}

/// What a config of the family means after `changes` to its empty config.
fn with(architecture: &str, changes: Value) -> Result<DecoderSpec, ArchitectureError> {
    let mut config = json!({"architectures": [architecture]});
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    spec(&config)
}

#[track_caller]
fn assert_same_meaning(architecture: &str, a: Value, b: Value) {
    let specs = (with(architecture, a.clone()).unwrap(), with(architecture, b.clone()).unwrap());
    assert!(specs.0 == specs.1, "{architecture}: {a} and {b}");
}

/// `class_keys.json` lists the keys of the config classes in transformers 5.24, those of `attribute_map` included.
#[test]
fn every_key_that_a_class_knows_is_read_or_known_to_change_nothing() {
    // Training, initial values, memory and other heads than that of language models.
    const HARMLESS: [&str; 53] = [
        // Clips in training alone.
        "altup_coef_clip",
        "attention_dropout",
        "attn_pdrop",
        "classifier_dropout",
        "embd_pdrop",
        "hidden_dropout",
        "initializer_range",
        "is_decoder",
        "pad_token_id",
        // Slices of products, which change their rounding at most.
        "pretraining_tp",
        "reorder_and_upcast_attn",
        "resid_pdrop",
        // Of experts and of layers that guess later tokens.
        "moe_intermediate_size",
        "moe_latent_size",
        "moe_shared_expert_intermediate_size",
        "moe_shared_expert_overlap",
        "mtp_layers_block_type",
        "n_group",
        "n_routed_experts",
        "n_shared_experts",
        "norm_topk_prob",
        "num_experts",
        "num_experts_per_tok",
        "num_local_experts",
        "num_nextn_predict_layers",
        "output_router_logits",
        "routed_scaling_factor",
        "router_aux_loss_coef",
        "topk_group",
        // Of a scan's parts, of numbers that steps begin with in training, and of a cache.
        "chunk_size",
        "expand",
        "mamba_chunk_size",
        "mamba_ssm_cache_dtype",
        "num_logits_to_keep",
        "rescale_prenorm_residual",
        "residual_in_fp32",
        "time_step_floor",
        "time_step_limit",
        "top_k_experts",
        "time_step_max",
        "use_mamba_kernels",
        // Its layers list what they are.
        "layer_types",
        // Nemotron-H's attention has neither, whatever its config says.
        "attention_bias",
        "mamba_proj_bias",
        // Ends documents of the training text; generation ends with `eos_token_id`.
        "eod_token_id",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
        "use_cache",
        // Read only where there is scaling, or a window.
        "original_max_position_embeddings",
        "sliding_window",
    ];
    let Value::Object(classes) = read(&fixtures().join("class_keys.json")) else { panic!("no table") };
    assert_eq!(classes.len(), FAMILIES.len());
    for (model_type, keys) in classes {
        let family = FAMILIES.iter().find(|f| f.model_types.contains(&model_type.as_str())).unwrap();
        let mut value = required(family.architectures[0]);
        (value["use_sliding_window"], value["model_type"]) = (json!(false), json!(model_type));
        // Rope is looked at where there is one.
        value["position_embedding_type"] = json!("rope");
        let config = Config::new(Path::new("config.json"), &value, None);
        (family.load)(&config).unwrap();
        let seen = config.read.borrow();
        for key in keys.as_array().unwrap().iter().map(|k| k.as_str().unwrap()) {
            assert!(seen.contains(key) || HARMLESS.contains(&key), "{model_type}: {key} is neither read nor known as harmless");
        }
    }
}

#[test]
fn legacy_values_mean_what_the_config_classes_make_of_them() {
    let gemma = |act: &str| with("GemmaForCausalLM", json!({"hidden_act": act})).unwrap();
    assert_eq!(gemma("gelu"), gemma("gelu_pytorch_tanh"));
    assert_ne!(gemma("gelu_python"), gemma("gelu"));
    let factors = |kind: &str| {
        let factors = vec![1.5; 48];
        json!({"rope_scaling": {"type": kind, "short_factor": factors, "long_factor": factors}, "max_position_embeddings": 8192})
    };
    assert_same_meaning("Phi3ForCausalLM", factors("yarn"), factors("longrope"));
    assert_same_meaning("Phi3ForCausalLM", factors("su"), factors("longrope"));
    let error = with("Phi3ForCausalLM", json!({"rope_scaling": {"type": "linear", "factor": 2.0}})).unwrap_err().to_string();
    assert!(error.contains("linear"), "{error}");
    assert_same_meaning(
        "GPT2LMHeadModel",
        json!({"hidden_size": 96, "num_hidden_layers": 3}),
        json!({"n_embd": 96, "n_layer": 3}),
    );
    let old = json!({"rope_pct": 0.5, "norm_eps": 1e-6});
    assert_same_meaning("StableLMEpochForCausalLM", old, json!({"partial_rotary_factor": 0.5, "layer_norm_eps": 1e-6}));
    assert_same_meaning("GPTNeoXForCausalLM", json!({"rope_theta": 5.0, "partial_rotary_factor": 1.0}), json!({}));
}

#[test]
fn families_of_the_same_build_differ_where_their_classes_do() {
    let old = json!({"sliding_window_pattern": 2, "rope_theta": 5e4, "num_hidden_layers": 4});
    let types = json!(["sliding_attention", "full_attention", "sliding_attention", "full_attention"]);
    let new = json!({"layer_types": types, "rope_theta": 5e4, "num_hidden_layers": 4});
    for (architecture, full) in [("Cohere2ForCausalLM", true), ("Exaone4ForCausalLM", true), ("MinistralForCausalLM", false)] {
        if full {
            assert_same_meaning(architecture, old.clone(), new.clone());
        }
        let spec = with(architecture, new.clone()).unwrap();
        let ropes: Vec<bool> = spec.attentions().map(|a| a.rope.is_some()).collect();
        assert_eq!(ropes, if full { [true, false, true, false] } else { [true; 4] }, "{architecture}");
    }
    let everywhere = with("Exaone4ForCausalLM", json!({"sliding_window": null})).unwrap();
    assert!(everywhere.attentions().all(|a| a.rope.is_some() && a.window.is_none()));

    let ernie = |head_dim: Value| with("Ernie4_5ForCausalLM", json!({"head_dim": head_dim})).unwrap();
    assert_eq!(ernie(json!(null)).layers[0].attention().unwrap().head_dim, 64, "1024 by 16 heads");
    let scaling = |beta: Value| {
        let rope = json!({"rope_type": "default", "rope_theta": 1e4, "original_max_position_embeddings": 64, "llama_4_scaling_beta": beta});
        with("Ministral3ForCausalLM", json!({"rope_parameters": rope})).unwrap().layers[0].attention().unwrap().query_scaling
    };
    assert_eq!(scaling(json!(null)), None);
    assert_eq!(scaling(json!(0.1)).map(|s| (s.beta, s.original_context)), Some((0.1, 64)));

    let hunyuan = |rope: Value| with("HunYuanDenseV1ForCausalLM", json!({"rope_scaling": rope})).unwrap().ropes;
    let stretched = hunyuan(json!({"type": "dynamic", "alpha": 1000.0, "factor": 1.0}));
    let base = 1e4 * 1000f64.powf(128.0 / 126.0);
    assert!((f64::from(stretched[0].inv_freq[1]) * base.powf(2.0 / 128.0) - 1.0).abs() < 1e-6);
    assert_eq!(hunyuan(json!({"type": "dynamic", "factor": 4.0})), hunyuan(json!({})));
    assert_eq!(
        with("LlamaForCausalLM", json!({"rope_scaling": {"type": "dynamic", "alpha": 9.0}})).unwrap().ropes,
        hunyuan(json!({}))
    );
    assert_eq!(with("GraniteMoeHybridForCausalLM", required("GraniteMoeHybridForCausalLM")).unwrap().ropes, []);
}

#[test]
fn gemma_4_says_sizes_of_layers_that_see_everything_in_either_style() {
    let few = |changes: Value| {
        let mut config = json!({"num_hidden_layers": 7, "num_kv_shared_layers": 2, "attention_k_eq_v": true});
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        config
    };
    let by_key = few(json!({"global_head_dim": 128, "num_global_key_value_heads": 2}));
    let own = json!({"head_dim": 128, "num_key_value_heads": 2});
    // The last layer sees everything, too.
    let by_layer = few(json!({"per_layer_config": {"5": own, "6": own}}));
    // Layers 5 and 6 see what a layer of their kind made before.
    let error = with("Gemma4ForCausalLM", by_key.clone()).unwrap_err().to_string();
    assert!(error.contains("num_kv_shared_layers"), "{error}");
    let (mut by_key, mut by_layer) = (by_key, by_layer);
    for config in [&mut by_key, &mut by_layer] {
        config["num_kv_shared_layers"] = json!(1);
    }
    assert_same_meaning("Gemma4ForCausalLM", by_key.clone(), by_layer);
    let spec = with("Gemma4ForCausalLM", by_key).unwrap();
    let sizes: Vec<_> = spec.attentions().map(|a| (a.head_dim, a.num_kv_heads, a.own_kv(), a.kv_from)).collect();
    assert_eq!(sizes[4..], [(256, 4, 2, None), (128, 2, 1, None), (128, 2, 0, Some(5))]);
    let plain = with("Gemma4ForCausalLM", json!({"hidden_size_per_layer_input": 0, "vocab_size": 99})).unwrap();
    assert!(plain.per_layer_embedding.is_none() && plain.layers.iter().all(|l| l.output_scale));
}

/// Embedding models of this family are its decoder without a head, under that class or the decoder's own.
#[test]
fn the_bare_decoder_of_qwen_3_is_read_as_its_language_model() {
    let config = json!({"architectures": ["Qwen3Model"], "model_type": "qwen3", "tie_word_embeddings": true});
    let mapping = mapping(Path::new("config.json"), &config, None).unwrap();
    assert_eq!(mapping.notes, ["architecture Qwen3Model is read as Qwen3ForCausalLM, as model_type qwen3 says"]);
    assert!(mapping.spec.tied_head);
}

#[test]
fn absent_is_what_transformers_takes_as_absent() {
    assert_same_meaning("LlamaForCausalLM", json!({"rope_scaling": {}, "quantization_config": {}}), json!({}));
    let rope = json!({"rope_type": "linear", "factor": 2.0});
    let (both, one) = (json!({"rope_scaling": {}, "rope_parameters": rope}), json!({"rope_parameters": rope}));
    assert_same_meaning("LlamaForCausalLM", both, one);
    assert_same_meaning("LlamaForCausalLM", json!({"eos_token_id": [2, -1], "bos_token_id": -1}), json!({"bos_token_id": null}));
    assert_same_meaning("MistralForCausalLM", json!({"head_dim": 0}), json!({}));
}

#[test]
fn a_class_that_is_not_known_is_read_as_its_model_type_says_and_that_is_told() {
    let read = |config: Value| mapping(Path::new("config.json"), &config, None);
    let mapping = read(json!({"architectures": ["LLaMAForCausalLM"], "model_type": "llama"})).unwrap();
    assert_eq!(mapping.notes, ["architecture LLaMAForCausalLM is read as LlamaForCausalLM, as model_type llama says"]);
    // As in transformers, the type decides which class reads the config.
    let mistral = read(json!({"architectures": ["LlamaForCausalLM"], "model_type": "mistral"})).unwrap();
    assert!(mistral.spec.attentions().all(|a| a.window == Some(4096)) && mistral.notes.len() == 1);
    let own =
        json!({"architectures": ["OwnForCausalLM"], "model_type": "llama", "auto_map": {"AutoModelForCausalLM": "own.Own"}});
    assert!(matches!(read(own), Err(ArchitectureError::Unknown { .. })));
    let other = json!({"architectures": ["BloomForCausalLM"], "model_type": "llama"});
    assert!(matches!(read(other), Err(ArchitectureError::Unknown { .. })));
    let classifier = json!({"architectures": ["LlamaForSequenceClassification"], "model_type": "llama"});
    assert!(matches!(read(classifier), Err(ArchitectureError::Refused { .. })));
}

#[test]
fn what_the_classes_know_and_a_spec_cannot_say_is_refused_by_its_key() {
    for (architecture, config, key) in [
        ("LlamaForCausalLM", json!({"is_causal": false}), "is_causal"),
        ("LlamaForCausalLM", json!({"pruned_heads": {"0": [1]}}), "pruned_heads"),
        ("Qwen2ForCausalLM", json!({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}), "full_attention"),
        ("Gemma2ForCausalLM", json!({"sliding_window": null}), "sliding_window"),
        ("LlamaForCausalLM", json!({"rms_norm_eps": "NaN"}), "rms_norm_eps is \"NaN\""),
        ("GraniteForCausalLM", json!({"attention_multiplier": 1e39}), "attention_multiplier"),
        ("MistralForCausalLM", json!({"sliding_window": -1}), "sliding_window"),
    ] {
        let error = with(architecture, config.clone()).unwrap_err().to_string();
        assert!(error.contains(key), "{config}: {error}");
    }
}

#[test]
fn mamba_mixers_have_the_sizes_and_limits_that_configs_give_them() {
    let mamba = |spec: DecoderSpec| *spec.layers[0].mamba2().unwrap();
    let falcon = |changes: Value| mamba(with("FalconH1ForCausalLM", changes).unwrap());
    assert_eq!((falcon(json!({})).num_heads, falcon(json!({})).head_dim, falcon(json!({})).norm), (128, 8, None));
    assert_eq!(falcon(json!({"mamba_d_ssm": null, "mamba_d_head": "auto"})).head_dim, 64, "twice 4096 by 128 heads");
    assert_eq!(falcon(json!({"mamba_rms_norm": true})).norm, Some(GatedNorm::BeforeGate));
    for limits in [json!([0.0, "Infinity"]), json!([0.0, {"__float__": "Infinity"}]), json!(null)] {
        assert_eq!(falcon(json!({"time_step_limit": limits})), falcon(json!({})), "{limits}");
    }
    let limited = falcon(json!({"time_step_limit": [0.25, 2.0]}));
    assert_eq!((limited.min_step, limited.max_step), (0.25, Some(2.0)));
    let nemotron = |changes: Value| with("NemotronHForCausalLM", changes).unwrap();
    assert_eq!(mamba(nemotron(required("NemotronHForCausalLM"))).min_step, 0.001);
    let old = json!({"hybrid_override_pattern": "M*", "mamba_n_groups": 4, "mamba_d_conv": 3, "mamba_conv_bias": false});
    let new = json!({"layer_types": ["mamba", "attention"], "n_groups": 4, "conv_kernel": 3, "use_conv_bias": false});
    assert_eq!(nemotron(old), nemotron(new));
}

#[test]
fn a_block_of_its_own_becomes_half_a_layer() {
    let config = json!({"architectures": ["NemotronHForCausalLM"], "hybrid_override_pattern": "M-M*-MM-"});
    let mapping = mapping(Path::new("config.json"), &config, None).unwrap();
    let kinds: Vec<_> = mapping.spec.layers.iter().map(|l| (l.attention().is_some(), l.mlp.is_some())).collect();
    assert_eq!(kinds, [(false, true), (false, false), (true, true), (false, false), (false, true)]);
    let sources = mapping.sources();
    let tensor = |name: &str| sources[name].tensors()[0].to_string();
    assert_eq!(tensor("layers.1.mamba.log_decay"), "backbone.layers.2.mixer.A_log");
    assert_eq!(tensor("layers.2.qkv"), "backbone.layers.3.mixer.q_proj.weight");
    assert_eq!(tensor("layers.2.mixer_norm.gain"), "backbone.layers.3.norm.weight");
    assert_eq!(tensor("layers.2.mlp_norm.gain"), "backbone.layers.4.norm.weight");
    assert_eq!(tensor("layers.4.up"), "backbone.layers.7.mixer.up_proj.weight");
}
