//! Checkpoints on disk: a folder as `save_pretrained` writes it, memory-mapped and checked before anything is read.
//!
//! A checkpoint says nothing here of what its tensors mean: that is [`crate::architecture`]'s.

mod error;
mod safetensors;

pub use error::CheckpointError;

use self::safetensors::WeightFile;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

/// Files beside the weights that a package carries over as they are, where a checkpoint has them.
pub const COMPANION_FILES: [&str; 5] =
    ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja", "special_tokens_map.json"];

const CONFIG_FILE: &str = "config.json";
const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";

/// An opened checkpoint folder.
#[derive(Debug)]
pub struct Checkpoint {
    root: PathBuf,
    config: Value,
    generation_config: Option<Value>,
    files: Vec<WeightFile>,
    index_file: bool,
    tensors: BTreeMap<String, TensorInfo>,
}

/// Number formats that weights may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit IEEE float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl Dtype {
    /// Bytes of one number.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
pub(crate) struct TensorInfo {
    /// As the file writes it, such as `BF16`; only reading refuses formats that are no weights.
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) file: usize,
    /// Bytes from the start of the file.
    pub(crate) bytes: Range<usize>,
}

/// One tensor of a checkpoint, as it lies in the mapped file.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// Number format.
    pub dtype: Dtype,
    /// Shape, outermost dimension first.
    pub shape: &'a [usize],
    /// Little-endian numbers, row after row; not aligned.
    pub data: &'a [u8],
    /// The file's name, for messages.
    pub file: &'a str,
}

impl Checkpoint {
    /// Opens a folder with `config.json` and either `model.safetensors` or an index with its shards. All headers,
    /// lengths and offsets are checked; no weight is read.
    ///
    /// # Errors
    /// See [`CheckpointError`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let root = path.as_ref().to_path_buf();
        if !root.is_dir() {
            return Err(CheckpointError::NotAFolder { path: root });
        }
        if root.join(haikuq_format::manifest::MANIFEST_FILE).exists() {
            return Err(CheckpointError::IsPackage { path: root });
        }
        let config = read_json(&root.join(CONFIG_FILE))?;
        let generation_config = match root.join("generation_config.json") {
            path if path.exists() => Some(read_json(&path)?),
            _ => None,
        };
        let index_file = !root.join(SINGLE_FILE).exists() && root.join(INDEX_FILE).exists();
        let weight_map = if index_file { read_weight_map(&root.join(INDEX_FILE))? } else { BTreeMap::new() };
        let mut names: Vec<&str> = weight_map.values().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        if !index_file {
            if !root.join(SINGLE_FILE).exists() {
                return Err(no_weights(root));
            }
            names.push(SINGLE_FILE);
        }
        let (mut files, mut tensors) = (Vec::new(), BTreeMap::<String, TensorInfo>::new());
        for name in names {
            let (file, entries) = WeightFile::open(&root.join(name))?;
            for entry in entries {
                let info = TensorInfo { dtype: entry.dtype, shape: entry.shape, file: files.len(), bytes: entry.bytes };
                if let Some(other) = tensors.insert(entry.name.clone(), info) {
                    let first = &files.get(other.file).map_or(&file, |f: &WeightFile| f).name;
                    return Err(CheckpointError::Duplicate {
                        tensor: entry.name,
                        first: first.clone(),
                        second: file.name.clone(),
                    });
                }
            }
            files.push(file);
        }
        for (tensor, file) in &weight_map {
            if tensors.get(tensor).is_none_or(|t| files[t.file].name != *file) {
                return Err(CheckpointError::IndexEntry {
                    index: root.join(INDEX_FILE),
                    tensor: tensor.clone(),
                    shard: file.clone(),
                });
            }
        }
        Ok(Self { root, config, generation_config, files, index_file, tensors })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `config.json`.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Path of `config.json`, for messages.
    pub fn config_path(&self) -> PathBuf {
        self.root.join(CONFIG_FILE)
    }

    /// `generation_config.json`, where there is one.
    pub fn generation_config(&self) -> Option<&Value> {
        self.generation_config.as_ref()
    }

    /// Names of all tensors, sorted.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Shape and number format (as the file writes it) of a tensor.
    pub fn describe(&self, name: &str) -> Option<(&[usize], &str)> {
        self.tensors.get(name).map(|t| (t.shape.as_slice(), t.dtype.as_str()))
    }

    /// A tensor's numbers.
    ///
    /// # Errors
    /// If there is no such tensor, or its number format is none that weights may have.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, CheckpointError> {
        let info =
            self.tensors.get(name).ok_or_else(|| CheckpointError::Missing { path: self.root.clone(), tensor: name.into() })?;
        let file = &self.files[info.file];
        let dtype = match info.dtype.as_str() {
            "F32" => Dtype::F32,
            "F16" => Dtype::F16,
            "BF16" => Dtype::Bf16,
            other => {
                return Err(CheckpointError::Dtype { file: file.name.clone(), tensor: name.into(), dtype: other.into() });
            }
        };
        Ok(TensorView { dtype, shape: &info.shape, data: &file.bytes()[info.bytes.clone()], file: &file.name })
    }

    /// Tells the system that a tensor's pages of the mapped file are not needed soon, so that a large checkpoint
    /// need not stay in memory while it is converted.
    pub fn release(&self, name: &str) {
        if let Some(info) = self.tensors.get(name) {
            self.files[info.file].release(info.bytes.clone());
        }
    }

    /// Files that a conversion depends on: `config.json`, the index where there is one, then the weights in order.
    pub fn source_files(&self) -> Vec<PathBuf> {
        let mut list = vec![self.config_path()];
        if self.index_file {
            list.push(self.root.join(INDEX_FILE));
        }
        list.extend(self.files.iter().map(|f| self.root.join(&f.name)));
        list
    }

    /// Those of [`COMPANION_FILES`] that are there.
    pub fn companions(&self) -> Vec<PathBuf> {
        COMPANION_FILES.iter().map(|name| self.root.join(name)).filter(|path| path.is_file()).collect()
    }
}

fn read_json(path: &Path) -> Result<Value, CheckpointError> {
    let bytes = std::fs::read(path).map_err(|source| CheckpointError::Io { path: path.into(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| CheckpointError::Json { path: path.into(), source })
}

/// `weight_map` of an index: tensor to shard, every shard a plain name in the same folder.
fn read_weight_map(path: &Path) -> Result<BTreeMap<String, String>, CheckpointError> {
    let index = read_json(path)?;
    let map = index.get("weight_map").and_then(Value::as_object).filter(|map| !map.is_empty());
    let map = map.ok_or_else(|| CheckpointError::Index { path: path.into() })?;
    map.iter()
        .map(|(tensor, shard)| {
            let shard = shard.as_str().unwrap_or_default();
            let mut parts = Path::new(shard).components();
            let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) && !shard.contains('\\');
            if !plain {
                return Err(CheckpointError::ShardName { index: path.into(), tensor: tensor.clone(), shard: shard.into() });
            }
            Ok((tensor.clone(), shard.to_string()))
        })
        .collect()
}

/// Why a folder without safetensors is refused: pickles are named, since people have them.
fn no_weights(root: PathBuf) -> CheckpointError {
    let names = std::fs::read_dir(&root).into_iter().flatten().flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let pickle = |name: &String| [".bin", ".pt", ".pth", ".ckpt"].iter().any(|end| name.ends_with(end));
    match names.filter(pickle).min() {
        Some(file) => CheckpointError::Pickle { path: root, file },
        None => CheckpointError::NoWeights { path: root },
    }
}
