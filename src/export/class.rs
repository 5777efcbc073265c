//! [`Class`]: the class of transformers that computes what a package says, with its config.

use super::ExportError;
use crate::architecture::{self, Layout};
use crate::checkpoint::{Checkpoint, read_json, text_config};
use haikuq_format::DecoderSpec;
use haikuq_format::manifest::Manifest;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Keys of configs whose weights were stored otherwise than these are.
const OF_OTHER_WEIGHTS: [&str; 4] = ["quantization_config", "quantization", "compression_config", "torch_dtype"];

/// A class with its config, which says exactly the package's decoder.
pub(super) struct Class {
    /// `config.json` without `dtype`.
    pub(super) config: Map<String, Value>,
    pub(super) layout: Layout,
}

impl Class {
    /// By the config of `checkpoint`, or else by one of a usual family that says what the package does.
    pub(super) fn find(package: &Path, manifest: &Manifest, checkpoint: Option<&Path>) -> Result<Self, ExportError> {
        let spec = &manifest.spec;
        let Some(checkpoint) = checkpoint else {
            let no_config = || ExportError::NoConfig { path: package.into(), classes: architecture::classes() };
            let config = architecture::config_of(spec).ok_or_else(no_config)?;
            let layout = architecture::layout(Path::new("config.json"), &config, None)?;
            return Self { config: into_map(config), layout }.checked(package, spec);
        };
        let (path, mut config, generation) = read(checkpoint)?;
        config = text_config(&config).unwrap_or(config);
        // Numbers decide which it is where a file has both.
        config["tie_word_embeddings"] = json!(spec.tied_head);
        if let Value::Object(config) = &mut config {
            OF_OTHER_WEIGHTS.iter().for_each(|key| drop(config.remove(*key)));
        }
        let layout = architecture::layout(&path, &config, generation.as_ref())?;
        config["architectures"] = json!([layout.architecture]);
        Self { config: into_map(config), layout }.checked(&path, spec)
    }

    /// The same, if it says that decoder. Tokens that begin and end texts are no part of what it computes.
    fn checked(mut self, path: &Path, spec: &DecoderSpec) -> Result<Self, ExportError> {
        (self.layout.spec.bos_token_id, self.layout.spec.eos_token_ids) = (spec.bos_token_id, spec.eos_token_ids.clone());
        if self.layout.spec == *spec {
            return Ok(self);
        }
        let (key, found, expected) = differs(&self.layout.spec, spec).unwrap_or_default();
        Err(ExportError::OtherDecoder { path: path.into(), key, found, expected })
    }

    /// `model_type`.
    pub(super) fn model_type(&self) -> &str {
        self.config.get("model_type").and_then(Value::as_str).unwrap_or_default()
    }

    /// Refuses experts that the class's files have in another form than one matrix for each.
    pub(super) fn refuse_experts(&self, format: &'static str, kinds: &[&str]) -> Result<(), ExportError> {
        let kind = self.model_type();
        if self.layout.spec.mlps().all(|m| m.experts.is_none()) || !kinds.contains(&kind) {
            return Ok(());
        }
        let why = "its class reads the matrices of all experts as one tensor, which is not written yet".into();
        Err(ExportError::Refused { what: self.layout.architecture.into(), format, why })
    }
}

fn into_map(config: Value) -> Map<String, Value> {
    if let Value::Object(map) = config { map } else { Map::new() }
}

/// The config of a folder, weights or not, or of a checkpoint in one file; its path, and `generation_config.json`.
fn read(checkpoint: &Path) -> Result<(PathBuf, Value, Option<Value>), ExportError> {
    let path = checkpoint.join("config.json");
    if !path.is_file() {
        let opened = Checkpoint::open(checkpoint)?;
        return Ok((opened.config_path().into(), opened.config().clone(), opened.generation_config().cloned()));
    }
    let generation = checkpoint.join("generation_config.json");
    let generation = generation.is_file().then(|| read_json(checkpoint, &generation)).transpose()?;
    Ok((path.clone(), read_json(checkpoint, &path)?, generation))
}

/// The first member of a spec that differs, and what stands there in each.
pub(super) fn differs(a: &DecoderSpec, b: &DecoderSpec) -> Option<(String, String, String)> {
    let [a, b] = [a, b].map(|spec| serde_json::to_value(spec).unwrap_or_default());
    difference("spec", &a, &b)
}

/// Where two values first differ, and what stands there in each.
fn difference(at: &str, a: &Value, b: &Value) -> Option<(String, String, String)> {
    match (a, b) {
        _ if a == b => None,
        (Value::Object(a), Value::Object(b)) => a.keys().chain(b.keys()).find_map(|key| {
            let of = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or_default();
            difference(&format!("{at}.{key}"), &of(a), &of(b))
        }),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| difference(&format!("{at}.{i}"), a, b))
        }
        _ => Some((at.into(), shortened(a), shortened(b))),
    }
}

fn shortened(value: &Value) -> String {
    match value {
        Value::Null => "absent".into(),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(_) => "a table".into(),
        other => other.to_string(),
    }
}
