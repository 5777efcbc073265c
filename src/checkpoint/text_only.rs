//! [`Checkpoint::text_only`]: the language model of a multimodal model.

use super::Checkpoint;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Where a multimodal config keeps that of its language model.
pub(crate) const TEXT_CONFIG: &str = "text_config";

/// Modules beside the language model, by parts of their tensors' names.
const BESIDE: [&str; 14] = [
    "audio_model",
    "audio_tower",
    "embed_audio",
    "embed_vision",
    "image_newline",
    "mm_projector",
    "multi_modal_projector",
    "patch_merger",
    "vision_encoder",
    "vision_language_adapter",
    "vision_model",
    "vision_projection",
    "vision_tower",
    "visual",
];

/// Keys of the whole config that count for the language model too, where its own has none of them.
const SHARED: [&str; 5] = ["bos_token_id", "compression_config", "eos_token_id", "quantization", "quantization_config"];

impl Checkpoint {
    /// Of a multimodal model the language model alone: the config is its part, and tensors of what sees and hears are left
    /// out, which [`Checkpoint::warnings`] tell. Any other tensor must have a place, as ever. Of a language model all is kept.
    #[must_use]
    pub fn text_only(mut self) -> Self {
        let Some(config) = text_config(&self.config) else { return self };
        let whole = std::mem::replace(&mut self.config, config);
        let mut modules = BTreeSet::new();
        let before = self.weights.tensors.len();
        self.weights.tensors.retain(|name, _| match name.split('.').find(|part| BESIDE.contains(part)) {
            Some(module) => {
                modules.insert(module.to_string());
                false
            }
            None => true,
        });
        let left_out = before - self.weights.tensors.len();
        let name = whole.pointer("/architectures/0").or(whole.get("model_type")).and_then(Value::as_str).unwrap_or("the model");
        let list = modules.into_iter().collect::<Vec<_>>().join(", ");
        self.warnings.push(match left_out {
            0 => format!("only the language model of {name} is read"),
            _ => format!("only the language model of {name} is read: {left_out} tensors are left out ({list})"),
        });
        self
    }
}

/// The language model's config, with what it has from the whole.
pub(crate) fn text_config(whole: &Value) -> Option<Value> {
    let mut config: Map<String, Value> = whole.get(TEXT_CONFIG)?.as_object()?.clone();
    let given = |value: Option<&Value>| value.filter(|v| !v.is_null()).cloned();
    for key in SHARED {
        if let (None, Some(value)) = (given(config.get(key)), given(whole.get(key))) {
            config.insert(key.into(), value);
        }
    }
    // Either may say it, and whether it is so is decided by the numbers.
    const TIED: &str = "tie_word_embeddings";
    if let (false, Some(tied)) = (config.get(TIED) == Some(&Value::Bool(true)), given(whole.get(TIED))) {
        config.insert(TIED.into(), tied);
    }
    Some(Value::Object(config))
}
