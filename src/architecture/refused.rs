//! Kinds of model that are refused by name, with the reason.

use crate::checkpoint::TEXT_CONFIG;
use serde_json::Value;

/// Why a config cannot be converted, if it is of a kind that is known and refused. `architecture` is the name that no
/// family answers to; without it only what any family may have is looked at. `experts` says whether the family may have mixtures of experts.
pub(super) fn reason(config: &Value, architecture: Option<&str>, experts: bool) -> Option<String> {
    let given = |key: &str| config.get(key).is_some_and(|v| !v.is_null() && v.as_object().is_none_or(|table| !table.is_empty()));
    // The last two are those of MLX and of older files of compressed-tensors.
    let quantization = ["quantization_config", "quantization", "compression_config"].into_iter().find(|key| given(key));
    if let Some(key) = quantization
        && let method = config[key].get("quant_method").and_then(Value::as_str).unwrap_or("unknown")
        // As gpt-oss was trained; there is no other original.
        && !(experts && method == "mxfp4")
    {
        return Some(format!(
            "it is quantized already ({key}, method {method}), and quantizing twice adds up both losses: \
             convert the full-precision original"
        ));
    }
    let mut numbers = vec!["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"];
    // Configs of this type say how many experts a layer would have, whether one has them or not.
    if config.get("model_type").is_some_and(|kind| kind == "nemotron_h") {
        numbers.clear();
    }
    let name = architecture.unwrap_or_default();
    let lower = name.to_lowercase();
    let has_experts = !experts && numbers.iter().any(|key| config.get(key).and_then(Value::as_u64).is_some_and(|n| n > 1));
    if has_experts || lower.contains("moe") || lower.contains("mixtral") {
        return Some(
            "this mixture of experts is not supported; those of Qwen 2, 3 and 3 Next, OLMoE, Granite, LFM 2 and gpt-oss are, and dense decoders".into(),
        );
    }
    let parts = ["vision_config", "audio_config", "text_config", "thinker_config"];
    if parts.iter().any(|key| given(key)) || lower.contains("conditionalgeneration") || lower.contains("imagetext") {
        let encoder_decoder = config.get("is_encoder_decoder").and_then(Value::as_bool).unwrap_or(false);
        return Some(if encoder_decoder {
            "encoder-decoder models are not supported; decoder-only language models are".into()
        } else if given(TEXT_CONFIG) {
            "multimodal models are not supported; their language model alone may be (--text-only)".into()
        } else {
            "multimodal models are not supported; text-only decoders are (many such models have a text-only sibling)".into()
        });
    }
    architecture?;
    let heads = ["MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering", "EncoderModel"];
    let encoders = ["bert", "t5", "bart", "electra", "deberta", "whisper", "clip", "vit", "xlnet", "marian", "pegasus"];
    if config.get("is_encoder_decoder").and_then(Value::as_bool) == Some(true) {
        return Some("encoder-decoder models are not supported; decoder-only language models are".into());
    }
    if heads.iter().any(|head| name.contains(head)) || encoders.iter().any(|e| lower.starts_with(e) || lower.contains("bert")) {
        return Some("encoders and classifiers are not supported; decoder-only language models are".into());
    }
    let recurrent = ["mamba", "rwkv", "jamba", "recurrentgemma", "zamba", "bamba", "hymba", "retnet"];
    if recurrent.iter().any(|r| lower.starts_with(r)) {
        return Some(
            "state-space models of this class are not supported; Mamba 2 beside attention (Granite 4, Falcon-H1, Nemotron-H) is"
                .into(),
        );
    }
    None
}
