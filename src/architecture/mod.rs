//! Model families: from a checkpoint's own tensor names and config to a [`DecoderSpec`] and canonical tensors.
//!
//! A family is one file here that says, from the config, what the spec is and from which of the checkpoint's tensors
//! each canonical tensor is made, plus its line in `FAMILIES`. Nothing else in the tool knows its name.

mod base;
mod cohere;
mod config;
mod decoder;
mod ernie;
mod error;
mod exaone;
mod falcon_h1;
mod gemma;
mod gemma3n;
mod gemma4;
mod gpt2;
mod gpt_neox;
mod gpt_oss;
mod granite;
mod hunyuan;
mod lfm;
mod llama;
mod mamba;
mod ministral;
mod mistral;
mod names;
mod nemotron_h;
mod olmo;
mod other_classes;
mod phi;
mod phi3;
mod qwen;
mod qwen3_5;
mod qwen3_next;
mod refused;
mod rope;
mod smollm3;
mod source;
mod stablelm;
#[cfg(test)]
mod tests;
mod written;

pub use decoder::Decoder;
pub use error::ArchitectureError;
pub use source::{Order, Part, Source};
pub(crate) use written::classes;
pub use written::config_of;

use crate::checkpoint::{Checkpoint, Wanted, WantedTensor};
use config::Config;
use haikuq_format::DecoderSpec;
use haikuq_format::spec::PerLayerEmbedding;
use names::{Blocks, Names};
use serde_json::Value;
use source::Sources;
use std::collections::BTreeMap;
use std::path::Path;

/// A model family: what its configs are called, and how one is read.
struct Family {
    /// Entries of `architectures` that it answers to.
    architectures: &'static [&'static str],
    /// Values of `model_type`, which decides where a config has no `architectures`.
    model_types: &'static [&'static str],
    load: fn(&Config<'_>) -> Result<Mapping, ArchitectureError>,
    /// Whether it may have mixtures of experts.
    experts: bool,
}

/// Every family that can be converted.
const FAMILIES: &[Family] = &[
    family(&["LlamaForCausalLM"], &["llama"], llama::load),
    family(&["MistralForCausalLM"], &["mistral"], mistral::load),
    family(&["MinistralForCausalLM"], &["ministral"], ministral::load),
    family(&["Ministral3ForCausalLM"], &["ministral3"], ministral::load_3),
    family(&["Qwen2ForCausalLM"], &["qwen2"], qwen::load_2),
    family(&["Qwen3ForCausalLM"], &["qwen3"], qwen::load_3),
    mixture(&["Qwen2MoeForCausalLM"], &["qwen2_moe"], qwen::load_2_experts),
    mixture(&["Qwen3MoeForCausalLM"], &["qwen3_moe"], qwen::load_experts),
    mixture(&["Qwen3NextForCausalLM"], &["qwen3_next"], qwen3_next::load),
    family(&["GemmaForCausalLM"], &["gemma"], gemma::load_1),
    family(&["Gemma2ForCausalLM"], &["gemma2"], gemma::load_2),
    family(&["Gemma3ForCausalLM"], &["gemma3_text"], gemma::load_3),
    family(&["Gemma3nForCausalLM"], &["gemma3n_text"], gemma3n::load),
    family(&["Gemma4ForCausalLM"], &["gemma4_text"], gemma4::load),
    family(&["PhiForCausalLM"], &["phi"], phi::load),
    family(&["Phi3ForCausalLM"], &["phi3"], phi3::load),
    family(&["SmolLM3ForCausalLM"], &["smollm3"], smollm3::load),
    family(&["Olmo2ForCausalLM"], &["olmo2"], olmo::load_2),
    family(&["Olmo3ForCausalLM"], &["olmo3"], olmo::load_3),
    mixture(&["OlmoeForCausalLM"], &["olmoe"], olmo::load_experts),
    family(&["GraniteForCausalLM"], &["granite"], granite::load),
    mixture(&["GraniteMoeForCausalLM"], &["granitemoe"], granite::load_experts),
    mixture(&["GraniteMoeSharedForCausalLM"], &["granitemoeshared"], granite::load_shared),
    family(&["GraniteSWAForCausalLM"], &["granite_swa"], granite::load_swa),
    mixture(&["GraniteMoeHybridForCausalLM"], &["granitemoehybrid"], granite::load_4),
    family(&["FalconH1ForCausalLM"], &["falcon_h1"], falcon_h1::load),
    family(&["NemotronHForCausalLM"], &["nemotron_h"], nemotron_h::load),
    family(&["CohereForCausalLM"], &["cohere"], cohere::load_1),
    family(&["Cohere2ForCausalLM"], &["cohere2"], cohere::load_2),
    family(&["Ernie4_5ForCausalLM"], &["ernie4_5"], ernie::load),
    family(&["Exaone4ForCausalLM"], &["exaone4"], exaone::load),
    family(&["HunYuanDenseV1ForCausalLM"], &["hunyuan_v1_dense"], hunyuan::load),
    family(&["Qwen3_5ForCausalLM"], &["qwen3_5_text"], qwen3_5::load),
    family(&["Lfm2ForCausalLM"], &["lfm2"], lfm::load_2),
    mixture(&["Lfm2MoeForCausalLM"], &["lfm2_moe"], lfm::load_experts),
    family(&["Lfm3ForCausalLM"], &["lfm3"], lfm::load_3),
    family(&["StableLmForCausalLM", "StableLMEpochForCausalLM"], &["stablelm"], stablelm::load),
    family(&["GPTNeoXForCausalLM"], &["gpt_neox"], gpt_neox::load),
    mixture(&["GptOssForCausalLM"], &["gpt_oss"], gpt_oss::load),
    family(&["GPT2LMHeadModel"], &["gpt2"], gpt2::load),
];

const fn family(
    architectures: &'static [&'static str],
    model_types: &'static [&'static str],
    load: fn(&Config<'_>) -> Result<Mapping, ArchitectureError>,
) -> Family {
    Family { architectures, model_types, load, experts: false }
}

const fn mixture(
    architectures: &'static [&'static str],
    model_types: &'static [&'static str],
    load: fn(&Config<'_>) -> Result<Mapping, ArchitectureError>,
) -> Family {
    Family { architectures, model_types, load, experts: true }
}

/// Names of all architectures that can be converted.
pub fn supported() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().flat_map(|f| f.architectures).copied()
}

/// What a family makes of a config.
struct Mapping {
    /// The class that computes it.
    architecture: &'static str,
    spec: DecoderSpec,
    names: Names,
    /// What a user should know of how the config was read, a sentence each.
    notes: Vec<String>,
    /// Where a layer's blocks are layers of their own in the checkpoint.
    blocks: Option<Blocks>,
    /// What tensors of these names in a layer are multiplied with, a factor for each part of their sources.
    scales: Vec<(&'static str, Vec<f64>)>,
    /// Modules that checkpoints have and the model's class leaves out, by parts of their tensors' names.
    beside: &'static [&'static str],
    /// Beginnings of the names of tensors that checkpoints have and the model's class does not use.
    unread: Vec<String>,
    /// Rows of the table of numbers for each layer; ids beyond them have those of id 0. All of the vocabulary where absent.
    per_layer_rows: Option<usize>,
}

impl Mapping {
    /// The mapping of a family that has names for everything in its spec.
    fn new(spec: DecoderSpec, names: Names) -> Self {
        let (architecture, notes, scales, unread) = ("", Vec::new(), Vec::new(), Vec::new());
        Self { architecture, spec, names, notes, blocks: None, scales, beside: &[], unread, per_layer_rows: None }
    }

    /// Canonical name to what it is made of; one entry for each of [`DecoderSpec::tensors`].
    fn sources(&self) -> Sources {
        let mut sources = self.names.sources(&self.spec, self.blocks.as_ref());
        for (name, source) in &mut sources {
            if let Some(rows) = self.per_layer_rows.filter(|_| name == PerLayerEmbedding::TABLE) {
                source.parts = source.parts.drain(..).flat_map(|part| part.cut(rows)).collect();
            }
            let within = name.strip_prefix("layers.").and_then(|rest| Some(rest.split_once('.')?.1));
            for (_, factors) in self.scales.iter().filter(|(part, _)| Some(*part) == within) {
                source.parts.iter_mut().zip(factors).for_each(|(part, by)| part.scale *= *by as f32);
            }
        }
        sources
    }

    /// What readers look for in a checkpoint.
    fn wanted(&self) -> Wanted {
        let mut tensors: Vec<WantedTensor> = Vec::new();
        let (canonical, sources) = (self.spec.tensors(), self.sources());
        for (tensor, source) in canonical.iter().filter_map(|t| Some((t, sources.get(&t.name)?))) {
            for part in &source.parts {
                if tensors.iter().rev().take(source.parts.len()).all(|t| t.name != part.tensor) {
                    let shape = part.shape_in(&tensor.shape);
                    let (name, inputs_first, adds) = (part.tensor.clone(), part.transposed, source.add);
                    let decays = tensor.name.ends_with(".log_decay");
                    tensors.push(WantedTensor { name, shape, inputs_first, adds, decays });
                }
            }
        }
        let Names { base, embedding, head, .. } = self.names;
        let (embedding, head) = (format!("{base}{embedding}.weight"), format!("{head}.weight"));
        Wanted { tensors, base: base.into(), embedding, head, tied: self.spec.tied_head }
    }
}

/// What a config says without any weights: the decoder, and what each canonical tensor is made of.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The class that computes it.
    pub architecture: &'static str,
    /// The decoder.
    pub spec: DecoderSpec,
    /// Canonical name to what it is made of; one entry for each of [`DecoderSpec::tensors`].
    pub sources: BTreeMap<String, Source>,
}

/// Reads a `config.json`, and what `generation_config.json` adds to it. `path` is the config's, for errors.
///
/// # Errors
/// See [`ArchitectureError`].
pub fn layout(path: &Path, config: &Value, generation: Option<&Value>) -> Result<Layout, ArchitectureError> {
    let mapping = mapping(path, config, generation)?;
    Ok(Layout { architecture: mapping.architecture, sources: mapping.sources(), spec: mapping.spec })
}

/// Finds a checkpoint's family and loads it.
fn load(checkpoint: &Checkpoint) -> Result<Mapping, ArchitectureError> {
    mapping(checkpoint.config_path(), checkpoint.config(), checkpoint.generation_config())
}

/// Finds the family and lets it read the config. As in transformers, `model_type` says which config class reads it, and
/// with it which model; `architectures[0]` decides where no family has that type, or a config has none.
fn mapping(path: &Path, config: &Value, generation: Option<&Value>) -> Result<Mapping, ArchitectureError> {
    let text = |v: Option<&Value>| v.and_then(Value::as_str).map(str::to_string);
    let architecture = text(config.pointer("/architectures/0"));
    let model_type = text(config.get("model_type"));
    let found = architecture.clone().or(model_type.clone());
    let by_name = architecture.as_deref().and_then(|name| FAMILIES.iter().find(|f| f.architectures.contains(&name)));
    let by_type = model_type.as_deref().and_then(|name| FAMILIES.iter().find(|f| f.model_types.contains(&name)));
    let refused = |reason| {
        let found = found.clone().unwrap_or_default();
        ArchitectureError::Refused { path: path.into(), found, reason }
    };
    // A class that is not known may be one that calculates otherwise, above all where a repository has code for it.
    let unknown = by_name.is_none().then_some(architecture.as_deref()).flatten();
    let experts = by_type.or(by_name).is_some_and(|family| family.experts);
    if let Some(reason) = refused::reason(config, unknown, experts) {
        return Err(refused(reason));
    }
    let own_code = config.get("auto_map").is_some_and(|map| !map.is_null());
    let speaks_for = |class: &str| !own_code && !other_classes::is_one(class);
    let family = by_type.filter(|_| unknown.is_none_or(speaks_for)).or(by_name);
    let Some(family) = family else {
        if let Some(reason) = refused::reason(config, found.as_deref(), false) {
            return Err(refused(reason));
        }
        let known = supported().collect::<Vec<_>>().join(", ");
        return Err(ArchitectureError::Unknown { path: path.into(), found, known });
    };
    let mut mapping = (family.load)(&Config::new(path, config, generation))?;
    mapping.architecture = family.architectures[0];
    if let (Some(name), Some(kind)) = (&architecture, &model_type)
        && !family.architectures.contains(&name.as_str())
    {
        mapping.notes.push(format!("architecture {name} is read as {}, as model_type {kind} says", family.architectures[0]));
    }
    mapping.spec.check().map_err(|source| ArchitectureError::Spec { path: path.into(), source })?;
    Ok(mapping)
}
