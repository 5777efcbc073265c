//! Keys of a file: what llama.cpp has for what a config says.

use super::super::ExportError;
use super::super::class::Class;
use super::container::Value;
use super::{FORMAT, GgufType};
use serde_json::Value as Json;

/// What `general.architecture` calls a class of transformers.
const FAMILIES: [(&str, &str); 10] = [
    ("llama", "llama"),
    ("mistral", "llama"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
    ("smollm3", "smollm3"),
    ("gemma", "gemma"),
    ("gemma2", "gemma2"),
    ("gemma3_text", "gemma3"),
    ("olmo2", "olmo2"),
    ("granite", "granite"),
];

/// Families whose windows llama.cpp knows.
const WITH_WINDOWS: [&str; 2] = ["gemma2", "gemma3"];

/// Keys in the order in which they are written.
pub(super) struct Keys {
    pub(super) values: Vec<(String, Value)>,
}

/// What `general.architecture` calls a class.
pub(super) fn family(class: &Class) -> Result<&'static str, ExportError> {
    let refused =
        |why: &str| Err(ExportError::Refused { what: class.layout.architecture.into(), format: FORMAT, why: why.into() });
    let Some((_, family)) = FAMILIES.into_iter().find(|(kind, _)| *kind == class.model_type()) else {
        return refused("no family of llama.cpp is known for it");
    };
    let windows = class.layout.spec.attentions().any(|a| a.window.is_some_and(|n| n < class.layout.spec.max_context));
    match windows && !WITH_WINDOWS.contains(&family) {
        true => refused("llama.cpp has no attention windows for this family, and would see further back"),
        false => Ok(family),
    }
}

/// What Llama 3's scaling divides frequencies by, if the config has it.
pub(super) fn rope_factors(class: &Class) -> Option<Vec<f32>> {
    let parameters = class.config.get("rope_parameters")?;
    let table = class.layout.spec.ropes.first().filter(|_| parameters["rope_type"] == "llama3")?;
    let n = table.inv_freq.len();
    let theta = parameters["rope_theta"].as_f64()?;
    let plain = |i: usize| theta.powf(-(i as f64) / n as f64);
    Some(table.inv_freq.iter().enumerate().map(|(i, f)| (plain(i) / f64::from(*f)) as f32).collect())
}

impl Keys {
    pub(super) fn of(class: &Class, family: &'static str, wanted: GgufType) -> Result<Self, ExportError> {
        let spec = &class.layout.spec;
        let refused =
            |why: &str| ExportError::Refused { what: class.layout.architecture.into(), format: FORMAT, why: why.into() };
        let attention = spec.attentions().next().ok_or_else(|| refused("it has no attention"))?;
        let inner = spec.mlps().next().map_or(0, |m| m.intermediate_size);
        let mut keys = Self { values: Vec::new() };
        keys.text("general.architecture", family);
        keys.text("general.type", "model");
        keys.number("general.file_type", wanted.file_type() as usize);
        keys.number("general.quantization_version", 2);
        let own = |name: &str| format!("{family}.{name}");
        for (name, n) in [
            ("vocab_size", spec.vocab_size),
            ("context_length", spec.max_context),
            ("embedding_length", spec.hidden_size),
            ("block_count", spec.num_layers()),
            ("feed_forward_length", inner),
            ("attention.head_count", attention.num_heads),
            ("attention.head_count_kv", attention.num_kv_heads),
            ("attention.key_length", attention.head_dim),
            ("attention.value_length", attention.head_dim),
        ] {
            keys.number(&own(name), n);
        }
        keys.real(&own("attention.layer_norm_rms_epsilon"), spec.norm.epsilon);
        let config = |key: &str| class.config.get(key).and_then(Json::as_f64).map(|x| x as f32);
        for (name, key) in [
            ("attn_logit_softcapping", "attn_logit_softcapping"),
            ("final_logit_softcapping", "final_logit_softcapping"),
            ("embedding_scale", "embedding_multiplier"),
            ("residual_scale", "residual_multiplier"),
            ("attention.scale", "attention_multiplier"),
            ("logit_scale", "logits_scaling"),
        ] {
            if let Some(x) = config(key) {
                keys.real(&own(name), x);
            }
        }
        if WITH_WINDOWS.contains(&family)
            && let Some(window) = spec.attentions().find_map(|a| a.window)
        {
            keys.number(&own("attention.sliding_window"), window);
        }
        keys.ropes(class, family, attention.head_dim)?;
        Ok(keys)
    }

    fn ropes(&mut self, class: &Class, family: &str, head_dim: usize) -> Result<(), ExportError> {
        let own = |name: &str| format!("{family}.{name}");
        let mut parameters = class.config.get("rope_parameters").cloned().unwrap_or_default();
        if let Some(sliding) = parameters.get("sliding_attention") {
            if let Some(theta) = sliding["rope_theta"].as_f64() {
                self.real(&own("rope.freq_base_swa"), theta as f32);
            }
            parameters = parameters["full_attention"].clone();
        }
        let rotated = class.layout.spec.ropes.first().map_or(head_dim, |table| 2 * table.inv_freq.len());
        self.number(&own("rope.dimension_count"), rotated);
        if let Some(theta) = parameters["rope_theta"].as_f64() {
            self.real(&own("rope.freq_base"), theta as f32);
        }
        match parameters["rope_type"].as_str().unwrap_or("default") {
            // The second one's factors are a tensor.
            "default" | "llama3" => Ok(()),
            "linear" => {
                self.text(&own("rope.scaling.type"), "linear");
                self.real(&own("rope.scaling.factor"), parameters["factor"].as_f64().unwrap_or(1.0) as f32);
                Ok(())
            }
            other => {
                let why = "its rope's scaling is not written yet".into();
                Err(ExportError::Refused { what: format!("rope_type {other}"), format: FORMAT, why })
            }
        }
    }

    pub(super) fn add(&mut self, key: &str, value: Value) {
        self.values.push((key.into(), value));
    }

    pub(super) fn text(&mut self, key: &str, text: &str) {
        self.add(key, Value::Text(text.into()));
    }

    pub(super) fn number(&mut self, key: &str, n: usize) {
        self.add(key, Value::U32(u32::try_from(n).unwrap_or(u32::MAX)));
    }

    fn real(&mut self, key: &str, x: f32) {
        self.add(key, Value::F32(x));
    }
}
