//! Model families: from a checkpoint's own tensor names and config to a [`DecoderSpec`] and canonical tensors.
//!
//! A family is one file here that says, from the config, what the spec is and from which of the checkpoint's tensors
//! each canonical tensor is made, plus its line in `FAMILIES`. Nothing else in the tool knows its name.

mod config;
mod decoder;
mod error;
mod llama;
mod rope;

pub use decoder::Decoder;
pub use error::ArchitectureError;

use crate::checkpoint::Checkpoint;
use config::Config;
use haikuq_format::DecoderSpec;
use serde_json::Value;
use std::collections::BTreeMap;

/// A model family: what its configs are called, and how one is read.
struct Family {
    /// Entries of `architectures` that it answers to.
    architectures: &'static [&'static str],
    /// Values of `model_type`, which decides where a config has no `architectures`.
    model_types: &'static [&'static str],
    load: fn(&Config<'_>) -> Result<Mapping, ArchitectureError>,
}

/// Every family that can be converted.
const FAMILIES: &[Family] = &[Family { architectures: &["LlamaForCausalLM"], model_types: &["llama"], load: llama::load }];

/// What a family makes of a config.
struct Mapping {
    spec: DecoderSpec,
    /// Canonical name to what it is made of; one entry for each of [`DecoderSpec::tensors`].
    sources: BTreeMap<String, Source>,
    /// Whether a tensor that no source names may be left out; any other is an error, since weights that are dropped
    /// in silence make a model that speaks gibberish.
    may_ignore: fn(&str) -> bool,
}

/// How a canonical tensor is made of a checkpoint's tensors. Vectors count as matrices of one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Rows of the tensors one after another.
    Stacked(Vec<String>),
    /// First row of each tensor, then second row of each, and so on.
    Interleaved(Vec<String>),
}

impl Source {
    /// Names of the checkpoint's tensors.
    pub fn tensors(&self) -> &[String] {
        match self {
            Self::Stacked(names) | Self::Interleaved(names) => names,
        }
    }
}

/// Finds the family by `architectures[0]`, or by `model_type` where a config has no `architectures`, and loads it.
fn load(checkpoint: &Checkpoint) -> Result<Mapping, ArchitectureError> {
    let path = checkpoint.config_path();
    let text = |v: Option<&Value>| v.and_then(Value::as_str).map(str::to_string);
    let architecture = text(checkpoint.config().pointer("/architectures/0"));
    let model_type = text(checkpoint.config().get("model_type"));
    let family = FAMILIES.iter().find(|f| match (&architecture, &model_type) {
        (Some(name), _) => f.architectures.contains(&name.as_str()),
        (None, Some(name)) => f.model_types.contains(&name.as_str()),
        (None, None) => false,
    });
    let Some(family) = family else {
        return Err(ArchitectureError::Unknown {
            path,
            found: architecture.or(model_type),
            known: FAMILIES.iter().flat_map(|f| f.architectures).copied().collect::<Vec<_>>().join(", "),
        });
    };
    let mapping = (family.load)(&Config::new(&path, checkpoint.config(), checkpoint.generation_config()))?;
    mapping.spec.check().map_err(|source| ArchitectureError::Spec { path, source })?;
    Ok(mapping)
}
