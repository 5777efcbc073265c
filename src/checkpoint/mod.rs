//! Checkpoints on disk: opened, memory-mapped and checked before anything is read.
//!
//! Whatever the files are, a [`Checkpoint`] shows what `save_pretrained` would have written: `config.json`'s keys, and
//! tensors by the names and in the shapes that the model family has in transformers. It says nothing of what they mean:
//! that is [`crate::architecture`]'s.

mod error;
mod experts;
mod file;
mod ggml;
mod gguf;
mod json;
mod onnx;
mod protobuf;
mod quantized;
mod recognize;
mod regular;
mod safetensors;
mod settle;
mod tensor;
mod text_only;
mod tokenizer;
mod wanted;

pub use error::{CheckpointError, Nearest};
pub(crate) use gguf::{gguf_name, split_name as gguf_split_name};
pub use onnx::{OnnxError, messages as onnx_messages};
pub use tensor::{Dtype, RowOrder, TensorView};
pub(crate) use text_only::{TEXT_CONFIG, text_config};
pub use tokenizer::files as tokenizer_files;
pub use wanted::{Wanted, WantedTensor};

use file::MappedFile;
use haikuq_files::Source;
use haikuq_runtime::package::{additional_chat_template_file, additional_chat_template_name};
use recognize::Found;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tensor::{Bytes, TensorInfo};

/// Files beside the weights that a package carries over as they are, where a checkpoint has them.
pub const COMPANION_FILES: [&str; 5] =
    ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja", "special_tokens_map.json"];

/// Folder of chat templates beside the default one, in which transformers looks too.
const ADDITIONAL_CHAT_TEMPLATES: &str = "additional_chat_templates";

/// Largest companion that is read; the tokenizers of the largest vocabularies have 40 MB.
const MAX_COMPANION_BYTES: u64 = 256 << 20;

const CONFIG_FILE: &str = "config.json";
/// An opened checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    config: Value,
    config_path: PathBuf,
    /// The config's file as it was before it was read, where it is a file of its own.
    config_source: Option<Source>,
    generation_config: Option<Value>,
    weights: Weights,
    /// An ONNX model whose tensors have no names until [`Checkpoint::identify`].
    unnamed: Option<onnx::Model>,
    companions: Vec<Companion>,
    /// What a user should know before converting it.
    warnings: Vec<String>,
}

/// What a reader finds.
#[derive(Debug)]
struct Weights {
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, TensorInfo>,
    /// Files that the weights depend on, in order.
    sources: Vec<Source>,
}

/// A file that a package carries over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Companion {
    /// Its name in a package.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

impl Checkpoint {
    /// Opens what lies at a path: a folder with `config.json` and safetensors (one file, shards with or without an index),
    /// or without these one with a GGUF file or an ONNX model; any of these files itself; a model's folder in a Hugging
    /// Face cache. All headers, lengths and offsets are checked; no weight is read.
    ///
    /// # Errors
    /// See [`CheckpointError`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        match recognize::find(path.as_ref())? {
            Found::Gguf(file) => gguf::open(&file),
            Found::Onnx { path, model } => Self::open_onnx(path, &model),
            Found::Safetensors { folder, set } => Self::open_safetensors(folder, &set),
        }
    }

    fn open_safetensors(path: PathBuf, set: &safetensors::Set) -> Result<Self, CheckpointError> {
        let config_path = path.join(CONFIG_FILE);
        if !config_path.exists() {
            return Err(CheckpointError::NoConfig { path });
        }
        let config_source = Some(source(&config_path)?);
        let config = read_json(&path, &config_path)?;
        let generation_config = match path.join("generation_config.json") {
            file if file.exists() => Some(read_json(&path, &file)?),
            _ => None,
        };
        let mut weights = safetensors::open(&path, set)?;
        experts::split(&mut weights.tensors);
        let companions = read_companions(&path)?;
        let mut warnings = Vec::new();
        if path.join("adapter_config.json").exists() {
            warnings.push("there is an adapter beside the weights (adapter_config.json): it is not applied".to_string());
        }
        Ok(Self { path, config, config_path, config_source, generation_config, weights, unnamed: None, companions, warnings })
    }

    /// Opens an ONNX model with the config and the other files beside it, or above its folder `onnx`.
    fn open_onnx(path: PathBuf, model: &Path) -> Result<Self, CheckpointError> {
        let config_path = onnx::config(model)?;
        let folders = onnx::folders(model);
        let read_json = |file: &Path| read_json(file.parent().unwrap_or(Path::new("")), file);
        let config_source = Some(source(&config_path)?);
        let config = read_json(&config_path)?;
        let generation_config = folders.iter().map(|folder| folder.join("generation_config.json")).find(|path| path.exists());
        let generation_config = generation_config.as_deref().map(read_json).transpose()?;
        let mut companions = Vec::<Companion>::new();
        for companion in
            folders.iter().map(|folder| read_companions(folder)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten()
        {
            if companions.iter().all(|c| c.name != companion.name) {
                companions.push(companion);
            }
        }
        companions.sort_by_key(|c| COMPANION_FILES.iter().position(|name| *name == c.name).unwrap_or(usize::MAX));
        let (weights, model) = onnx::open(model)?;
        let warnings = Vec::new();
        Ok(Self {
            path,
            config,
            config_path,
            config_source,
            generation_config,
            weights,
            unnamed: Some(model),
            companions,
            warnings,
        })
    }

    /// Gives tensors the names that the family has for them, where their file says others or none (until then an ONNX
    /// model has no tensors), and says whether embedding and head are one matrix. Adds to [`Checkpoint::warnings`] what a
    /// user should know of it.
    ///
    /// # Errors
    /// If a wanted tensor cannot be told from others, or one is missing.
    pub fn identify(&mut self, wanted: &Wanted) -> Result<bool, CheckpointError> {
        if let Some(model) = &self.unnamed {
            self.weights.tensors = model.identify(&self.weights.files, wanted)?;
        }
        let says_head = self.config_path.file_name().is_some_and(|name| name == CONFIG_FILE);
        let place = settle::Place { path: &self.path, files: &self.weights.files, says_head };
        let settled = settle::settle(&mut self.weights.tensors, wanted, &place)?;
        self.warnings.extend(settled.notes);
        Ok(settled.tied)
    }

    /// What was opened: a folder, or the one file that holds everything.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The keys of `config.json`, whichever file they come from.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The file of [`Checkpoint::config`], for messages.
    pub fn config_path(&self) -> &Path {
        &self.config_path
    }

    /// `generation_config.json`, where there is one.
    pub fn generation_config(&self) -> Option<&Value> {
        self.generation_config.as_ref()
    }

    /// What a user should know before converting it, a sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Names of all tensors, sorted.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.weights.tensors.keys().map(String::as_str)
    }

    /// Shape and number format (as the file writes it) of a tensor.
    pub fn describe(&self, name: &str) -> Option<(&[usize], &str)> {
        self.weights.tensors.get(name).map(|t| (t.shape.as_slice(), t.label.as_str()))
    }

    /// A tensor, ready to be read.
    ///
    /// # Errors
    /// If there is no such tensor, or its number format is none that weights may have.
    pub fn tensor<'a>(&'a self, name: &'a str) -> Result<TensorView<'a>, CheckpointError> {
        let missing = || CheckpointError::Missing { path: self.path.clone(), tensor: name.into(), nearest: Nearest::default() };
        let info = self.weights.tensors.get(name).ok_or_else(missing)?;
        let unknown = || {
            let file = self.weights.files[info.bytes.file()].name().into();
            CheckpointError::Dtype { file, tensor: name.into(), dtype: info.label.clone() }
        };
        TensorView::new(info, &self.weights.files, name).ok_or_else(unknown)
    }

    /// Tells the system that a tensor's pages of the mapped file are not needed soon, so that a large checkpoint
    /// need not stay in memory while it is converted.
    pub fn release(&self, name: &str) {
        let release = |info: &TensorInfo| match &info.bytes {
            Bytes::Mapped { file, range } => self.weights.files[*file].release(range.clone()),
            Bytes::Mxfp4 { numbers, scales } => {
                [numbers, scales].iter().for_each(|(file, range)| self.weights.files[*file].release(range.clone()));
            }
            _ => {}
        };
        match self.weights.tensors.get(name) {
            Some(TensorInfo { bytes: Bytes::Stacked { parts }, .. }) => parts.iter().for_each(release),
            Some(info) => release(info),
            None => {}
        }
    }

    /// Files that a conversion depends on: the config where it is a file of its own, then the weights in order.
    pub fn source_files(&self) -> Vec<PathBuf> {
        self.sources().into_iter().map(|source| source.path).collect()
    }

    /// [`Checkpoint::source_files`] as they were before anything of them was read.
    pub fn sources(&self) -> Vec<Source> {
        self.config_source.iter().chain(&self.weights.sources).cloned().collect()
    }

    /// The files that a package carries over; see [`read_companions`].
    pub fn companions(&self) -> &[Companion] {
        &self.companions
    }

    /// The same, of a checkpoint that is not needed otherwise.
    pub fn into_companions(self) -> Vec<Companion> {
        self.companions
    }

    /// One of [`Checkpoint::companions`].
    pub fn companion(&self, name: &str) -> Option<&[u8]> {
        self.companions.iter().find(|c| c.name == name).map(|c| c.bytes.as_slice())
    }
}

/// The companions that lie in a folder, which may be a package: those of [`COMPANION_FILES`], and further chat templates
/// under the names that packages give them. Where there is no `tokenizer.json`, it is made of
/// [`tokenizer_files`].
///
/// # Errors
/// If one cannot be read.
pub fn read_companions(folder: &Path) -> Result<Vec<Companion>, CheckpointError> {
    let mut paths: Vec<(String, PathBuf)> =
        COMPANION_FILES.iter().map(|name| (name.to_string(), folder.join(name))).filter(|(_, path)| path.exists()).collect();
    let mut templates = Vec::new();
    for path in files_in(folder) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if additional_chat_template_name(&name).is_some() {
            templates.push((name, path));
        }
    }
    for path in files_in(&folder.join(ADDITIONAL_CHAT_TEMPLATES)) {
        if let Some(name) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".jinja")) {
            templates.push((additional_chat_template_file(name), path));
        }
    }
    templates.sort();
    paths.extend(templates);
    let read = |(name, path): (String, PathBuf)| {
        regular::within(folder, &path)?;
        Ok(Companion { name, bytes: regular::read(&path, MAX_COMPANION_BYTES)? })
    };
    let mut found = paths.into_iter().map(read).collect::<Result<Vec<_>, CheckpointError>>()?;
    let made = tokenizer::make(folder, &found)?;
    found.splice(0..0, made);
    Ok(found)
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    recognize::entries(folder).into_iter().filter(|path| path.is_file()).collect()
}

/// A file as it is before it is read.
fn source(path: &Path) -> Result<Source, CheckpointError> {
    Source::new(path).map_err(|source| CheckpointError::Io { path: path.into(), source })
}

/// Reads JSON of a checkpoint's folder.
pub(crate) fn read_json(folder: &Path, path: &Path) -> Result<Value, CheckpointError> {
    regular::within(folder, path)?;
    json::read(path)
}
