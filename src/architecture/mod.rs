//! Model families: from a checkpoint's own tensor names and config to a [`DecoderSpec`] and canonical tensors.
//!
//! A family is one file here that says, from the config, what the spec is and from which of the checkpoint's tensors
//! each canonical tensor is made, plus its line in `FAMILIES`. Nothing else in the tool knows its name.

mod base;
mod config;
mod decoder;
mod error;
mod gemma;
mod gpt2;
mod gpt_neox;
mod granite;
mod llama;
mod mistral;
mod names;
mod olmo;
mod phi;
mod phi3;
mod qwen;
mod refused;
mod rope;
mod smollm3;
mod source;
mod stablelm;
#[cfg(test)]
mod tests;

pub use decoder::Decoder;
pub use error::ArchitectureError;
pub use source::{Order, Part, Source};

use crate::checkpoint::{Checkpoint, Wanted, WantedTensor};
use config::Config;
use haikuq_format::DecoderSpec;
use names::Names;
use serde_json::Value;
use source::Sources;
use std::path::Path;

/// A model family: what its configs are called, and how one is read.
struct Family {
    /// Entries of `architectures` that it answers to.
    architectures: &'static [&'static str],
    /// Values of `model_type`, which decides where a config has no `architectures`.
    model_types: &'static [&'static str],
    load: fn(&Config<'_>) -> Result<Mapping, ArchitectureError>,
}

/// Every family that can be converted.
const FAMILIES: &[Family] = &[
    family(&["LlamaForCausalLM"], &["llama"], llama::load),
    family(&["MistralForCausalLM"], &["mistral"], mistral::load),
    family(&["Qwen2ForCausalLM"], &["qwen2"], qwen::load_2),
    family(&["Qwen3ForCausalLM"], &["qwen3"], qwen::load_3),
    family(&["GemmaForCausalLM"], &["gemma"], gemma::load_1),
    family(&["Gemma2ForCausalLM"], &["gemma2"], gemma::load_2),
    family(&["Gemma3ForCausalLM"], &["gemma3_text"], gemma::load_3),
    family(&["PhiForCausalLM"], &["phi"], phi::load),
    family(&["Phi3ForCausalLM"], &["phi3"], phi3::load),
    family(&["SmolLM3ForCausalLM"], &["smollm3"], smollm3::load),
    family(&["Olmo2ForCausalLM"], &["olmo2"], olmo::load_2),
    family(&["Olmo3ForCausalLM"], &["olmo3"], olmo::load_3),
    family(&["GraniteForCausalLM"], &["granite"], granite::load),
    family(&["StableLmForCausalLM", "StableLMEpochForCausalLM"], &["stablelm"], stablelm::load),
    family(&["GPTNeoXForCausalLM"], &["gpt_neox"], gpt_neox::load),
    family(&["GPT2LMHeadModel"], &["gpt2"], gpt2::load),
];

const fn family(
    architectures: &'static [&'static str],
    model_types: &'static [&'static str],
    load: fn(&Config<'_>) -> Result<Mapping, ArchitectureError>,
) -> Family {
    Family { architectures, model_types, load }
}

/// Names of all architectures that can be converted.
pub fn supported() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().flat_map(|f| f.architectures).copied()
}

/// What a family makes of a config.
struct Mapping {
    spec: DecoderSpec,
    /// Canonical name to what it is made of; one entry for each of [`DecoderSpec::tensors`].
    sources: Sources,
    /// Starts the name of every tensor but the head's; a checkpoint of the bare model goes without it.
    base: &'static str,
    /// The head's name, which is left out where the embedding is the head.
    head: &'static str,
    /// Whether a tensor that no source names may be left out; any other is an error, since weights that are dropped
    /// in silence make a model that speaks gibberish.
    may_ignore: fn(&str) -> bool,
}

impl Mapping {
    /// The mapping of a family that has names for everything in its spec.
    fn new(spec: DecoderSpec, names: Names) -> Self {
        let sources = names.sources(&spec);
        Self { spec, sources, base: names.base, head: names.head, may_ignore: |_| false }
    }

    /// Whether a tensor that no source names may be left out.
    fn ignores(&self, name: &str) -> bool {
        // Old checkpoints stored rope tables, which follow from the config; a tied head is the embedding, whatever a
        // file says beside it.
        let tied_head = self.spec.tied_head && name.strip_suffix(".weight") == Some(self.head);
        name.ends_with(".rotary_emb.inv_freq") || tied_head || (self.may_ignore)(name)
    }

    /// The same as a list for readers of files that do not name their tensors so.
    fn wanted(&self) -> Wanted {
        let mut tensors: Vec<WantedTensor> = Vec::new();
        let canonical = self.spec.tensors();
        for (tensor, source) in canonical.iter().filter_map(|t| Some((t, self.sources.get(&t.name)?))) {
            for part in &source.parts {
                if tensors.iter().rev().take(source.parts.len()).all(|t| t.name != part.tensor) {
                    let mut shape = tensor.shape.clone();
                    shape[0] = part.of;
                    if part.transposed {
                        shape.reverse();
                    }
                    let (name, inputs_first, adds) = (part.tensor.clone(), part.transposed, source.add);
                    tensors.push(WantedTensor { name, shape, inputs_first, adds });
                }
            }
        }
        let embedding = self.sources.get("embedding").and_then(|s| s.parts.first()).map(|p| p.tensor.clone());
        let tied_head = embedding.filter(|_| self.spec.tied_head).map(|e| [format!("{}.weight", self.head), e]);
        Wanted { tensors, base: self.base.into(), tied_head }
    }

    /// Names as a checkpoint of the bare model has them, if no tensor has the base name before its own.
    fn without_base(mut self, checkpoint: &Checkpoint) -> Self {
        if !checkpoint.tensor_names().any(|n| n.starts_with(self.base)) {
            for part in self.sources.values_mut().flat_map(|s| &mut s.parts) {
                if let Some(bare) = part.tensor.strip_prefix(self.base) {
                    part.tensor = bare.to_string();
                }
            }
        }
        self
    }
}

/// Finds a checkpoint's family and loads it.
fn load(checkpoint: &Checkpoint) -> Result<Mapping, ArchitectureError> {
    mapping(checkpoint.config_path(), checkpoint.config(), checkpoint.generation_config())
}

/// Finds the family by `architectures[0]`, or by `model_type` where a config has no `architectures`, and lets it read the
/// config.
fn mapping(path: &Path, config: &Value, generation: Option<&Value>) -> Result<Mapping, ArchitectureError> {
    let text = |v: Option<&Value>| v.and_then(Value::as_str).map(str::to_string);
    let architecture = text(config.pointer("/architectures/0"));
    let model_type = text(config.get("model_type"));
    let family = FAMILIES.iter().find(|f| match (&architecture, &model_type) {
        (Some(name), _) => f.architectures.contains(&name.as_str()),
        (None, Some(name)) => f.model_types.contains(&name.as_str()),
        (None, None) => false,
    });
    let Some(family) = family else {
        let found = architecture.or(model_type);
        return Err(match refused::reason(config, found.as_deref()) {
            Some(reason) => ArchitectureError::Refused { path: path.into(), found: found.unwrap_or_default(), reason },
            None => {
                let known = supported().collect::<Vec<_>>().join(", ");
                ArchitectureError::Unknown { path: path.into(), found, known }
            }
        });
    };
    if let Some(reason) = refused::reason(config, None) {
        let found = architecture.or(model_type).unwrap_or_default();
        return Err(ArchitectureError::Refused { path: path.into(), found, reason });
    }
    let mapping = (family.load)(&Config::new(path, config, generation))?;
    mapping.spec.check().map_err(|source| ArchitectureError::Spec { path: path.into(), source })?;
    Ok(mapping)
}
