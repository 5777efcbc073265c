//! Golden files: what a checkpoint said, position by position.
//!
//! A golden file is a safetensors file. For `S` windows of `T` tokens, and the `K` largest logits of each position:
//!
//! | tensor | type | shape | holds |
//! | --- | --- | --- | --- |
//! | `input_ids` | i64 | \[S, T\] | token ids |
//! | `nll` | f32 | \[S, T − 1\] | `−ln p(next token)`, in nats |
//! | `logsumexp` | f32 | \[S, T\] | of all logits |
//! | `top_ids` | i64 | \[S, T, K\] | ids of the largest logits, largest first |
//! | `top_logits` | f32 | \[S, T, K\] | those logits |
//!
//! Ids may also be stored as i32, u32 or u16, which makes a file smaller by half. All metadata is optional:
//! `generations` (JSON, see [`Generation`]), `checkpoint` (JSON list of [`FileEntry`]), `text_sha256`, `tool`, and
//! `perplexity`, which is there for people: readers compute it from `nll`.

use crate::golden::record::Outputs;
use crate::header::check_header;
use haikuq_files::read_at_most;
use haikuq_format::manifest::FileEntry;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Largest golden file that is read.
const MAX_BYTES: u64 = 8 << 30;

/// Recorded outputs with their origin.
#[derive(Clone, Debug, PartialEq)]
pub struct Golden {
    /// Ids and outputs of every position.
    pub outputs: Outputs,
    /// Greedy continuations.
    pub generations: Vec<Generation>,
    /// The checkpoint's files with sizes and hashes; empty where the file does not say.
    pub checkpoint: Vec<FileEntry>,
    /// SHA-256 of the text file that the windows were cut from.
    pub text_sha256: Option<String>,
    /// Tool and version that made the file.
    pub tool: Option<String>,
}

/// A prompt and how the model continues it when it always takes the likeliest token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// The whole prompt as text, with the chat template's control tokens.
    pub prompt: String,
    /// The prompt's token ids.
    pub prompt_ids: Vec<u32>,
    /// New token ids, an end token included.
    pub greedy_ids: Vec<u32>,
    /// The new ids as text.
    #[serde(default)]
    pub greedy_text: String,
}

/// What can be wrong with a golden file.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not a safetensors file.
    #[error("{}: not a safetensors file: {source}", path.display())]
    SafeTensors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: safetensors::SafeTensorError,
    },
    /// A header that no golden file has.
    #[error("{}: {why}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong, with numbers.
        why: String,
    },
    /// A tensor is missing, or has a wrong type, shape or value.
    #[error("{}: {tensor}: {why}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: &'static str,
        /// What is wrong, with numbers.
        why: String,
    },
    /// A metadata entry cannot be understood.
    #[error("{}: metadata {key:?}: {source}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The entry.
        key: &'static str,
        /// What is wrong.
        source: serde_json::Error,
    },
}

impl Golden {
    /// Reads and checks a golden file.
    ///
    /// # Errors
    /// See [`GoldenError`].
    pub fn read(path: &Path) -> Result<Self, GoldenError> {
        Self::from_bytes(&read(path)?, path)
    }

    /// As [`Golden::read`] from memory; `path` is for messages.
    ///
    /// # Errors
    /// See [`GoldenError`].
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, GoldenError> {
        let broken = |source| GoldenError::SafeTensors { path: path.into(), source };
        check_header(bytes).map_err(|why| GoldenError::Header { path: path.into(), why })?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(broken)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let file = File { tensors: SafeTensors::deserialize(bytes).map_err(broken)?, path };
        let outputs = read_outputs(&file)?;
        Ok(Self {
            outputs,
            generations: json(&metadata, "generations", path)?,
            checkpoint: json(&metadata, "checkpoint", path)?,
            text_sha256: metadata.get("text_sha256").cloned(),
            tool: metadata.get("tool").cloned(),
        })
    }

    /// The golden file's bytes.
    ///
    /// # Errors
    /// If the outputs' lengths do not fit their sizes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, safetensors::SafeTensorError> {
        let mut metadata = HashMap::from([("perplexity".to_owned(), format!("{:.6}", self.outputs.perplexity()))]);
        let mut put = |key: &str, value: Option<String>| value.map(|value| metadata.insert(key.into(), value));
        put("tool", self.tool.clone());
        put("text_sha256", self.text_sha256.clone());
        put("generations", serde_json::to_string(&self.generations).ok());
        put("checkpoint", (!self.checkpoint.is_empty()).then(|| serde_json::to_string(&self.checkpoint).ok()).flatten());
        self.outputs.to_bytes(true, Some(metadata))
    }
}

impl Outputs {
    /// The safetensors bytes of these outputs, `input_ids` among them if asked for.
    ///
    /// # Errors
    /// If the lengths do not fit the sizes.
    pub fn to_bytes(
        &self,
        with_input_ids: bool,
        metadata: Option<HashMap<String, String>>,
    ) -> Result<Vec<u8>, safetensors::SafeTensorError> {
        let (s, t, k) = (self.windows, self.context, self.top);
        let ids = |ids: &[u32]| ids.iter().flat_map(|&i| i64::from(i).to_le_bytes()).collect::<Vec<u8>>();
        let floats = |x: &[f32]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let mut parts = vec![
            ("nll", Dtype::F32, vec![s, t.saturating_sub(1)], floats(&self.nll)),
            ("logsumexp", Dtype::F32, vec![s, t], floats(&self.logsumexp)),
            ("top_ids", Dtype::I64, vec![s, t, k], ids(&self.top_ids)),
            ("top_logits", Dtype::F32, vec![s, t, k], floats(&self.top_logits)),
        ];
        if with_input_ids {
            parts.push(("input_ids", Dtype::I64, vec![s, t], ids(&self.input_ids)));
        }
        let views = parts
            .iter()
            .map(|(name, dtype, shape, bytes)| Ok((*name, TensorView::new(*dtype, shape.clone(), bytes)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
        sorted_metadata(safetensors::serialize(views, metadata)?)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, GoldenError> {
    read_at_most(path, MAX_BYTES).map_err(|source| GoldenError::Io { path: path.into(), source })
}

/// Reads `input_ids` \[S, T\] alone, of any golden file or of one that has nothing else, as `S` windows.
///
/// # Errors
/// See [`GoldenError`].
pub fn read_input_ids(path: &Path) -> Result<Vec<Vec<u32>>, GoldenError> {
    let bytes = read(path)?;
    check_header(&bytes).map_err(|why| GoldenError::Header { path: path.into(), why })?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|source| GoldenError::SafeTensors { path: path.into(), source })?;
    let file = File { tensors, path };
    let (shape, ids) = file.ids("input_ids")?;
    let [_, t] = shape[..] else { return Err(file.bad("input_ids", format!("shape {shape:?} is not [windows, tokens]"))) };
    if t < 2 {
        return Err(file.bad("input_ids", format!("windows of {t} tokens: at least 2 are needed to score one")));
    }
    Ok(ids.chunks_exact(t).map(<[u32]>::to_vec).collect())
}

fn read_outputs(file: &File) -> Result<Outputs, GoldenError> {
    let (shape, input_ids) = file.ids("input_ids")?;
    let [s, t] = shape[..] else {
        return Err(file.bad("input_ids", format!("shape {shape:?} is not [windows, tokens]")));
    };
    if s == 0 || t < 2 {
        return Err(file.bad("input_ids", format!("{s} windows of {t} tokens: at least one of two is needed")));
    }
    let (top_shape, top_ids) = file.ids("top_ids")?;
    let k = top_shape.last().copied().unwrap_or(0);
    if k == 0 || top_shape != [s, t, k] {
        return Err(file.bad("top_ids", format!("shape {top_shape:?} where input_ids' {shape:?} needs [{s}, {t}, K]")));
    }
    let outputs = Outputs {
        windows: s,
        context: t,
        top: k,
        input_ids,
        nll: file.floats("nll", &[s, t - 1])?,
        logsumexp: file.floats("logsumexp", &[s, t])?,
        top_ids,
        top_logits: file.floats("top_logits", &[s, t, k])?,
    };
    for (position, row) in outputs.top_logits.chunks_exact(k).enumerate() {
        if !row.is_sorted_by(|a, b| a >= b) {
            return Err(file.bad("top_logits", format!("window {}, position {}: not largest first", position / t, position % t)));
        }
    }
    Ok(outputs)
}

fn json<T: Default + serde::de::DeserializeOwned>(
    metadata: &HashMap<String, String>,
    key: &'static str,
    path: &Path,
) -> Result<T, GoldenError> {
    let Some(text) = metadata.get(key) else { return Ok(T::default()) };
    serde_json::from_str(text).map_err(|source| GoldenError::Metadata { path: path.into(), key, source })
}

/// A safetensors file with errors that name it.
struct File<'a> {
    tensors: SafeTensors<'a>,
    path: &'a Path,
}

impl<'a> File<'a> {
    fn bad(&self, tensor: &'static str, why: String) -> GoldenError {
        GoldenError::Tensor { path: self.path.into(), tensor, why }
    }

    fn tensor(&self, name: &'static str) -> Result<TensorView<'a>, GoldenError> {
        self.tensors.tensor(name).map_err(|_| self.bad(name, "missing".into()))
    }

    /// An integer tensor's shape and values as token ids.
    fn ids(&self, name: &'static str) -> Result<(Vec<usize>, Vec<u32>), GoldenError> {
        let view = self.tensor(name)?;
        let id = |id: i64| u32::try_from(id).map_err(|_| self.bad(name, format!("{id} is not a token id")));
        let ids: Result<Vec<u32>, _> = match view.dtype() {
            Dtype::I64 => view.data().as_chunks().0.iter().map(|b| id(i64::from_le_bytes(*b))).collect(),
            Dtype::I32 => view.data().as_chunks().0.iter().map(|b| id(i32::from_le_bytes(*b).into())).collect(),
            Dtype::U32 => view.data().as_chunks().0.iter().map(|b| Ok(u32::from_le_bytes(*b))).collect(),
            Dtype::U16 => view.data().as_chunks().0.iter().map(|b| Ok(u16::from_le_bytes(*b).into())).collect(),
            other => return Err(self.bad(name, format!("type {other:?} where ids (I64, I32, U32 or U16) are needed"))),
        };
        Ok((view.shape().to_vec(), ids?))
    }

    fn floats(&self, name: &'static str, shape: &[usize]) -> Result<Vec<f32>, GoldenError> {
        let view = self.tensor(name)?;
        if view.dtype() != Dtype::F32 || view.shape() != shape {
            let (dtype, have) = (view.dtype(), view.shape());
            return Err(self.bad(name, format!("{dtype:?} of shape {have:?} where F32 of shape {shape:?} is needed")));
        }
        let values: Vec<f32> = view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        match values.iter().position(|x| !x.is_finite()) {
            Some(i) => Err(self.bad(name, format!("{} at element {i}", values[i]))),
            None => Ok(values),
        }
    }
}

/// The same file with its metadata in alphabetical order: safetensors writes it in the order of a hash table, and the
/// same inputs should give the same bytes.
pub(crate) fn sorted_metadata(bytes: Vec<u8>) -> Result<Vec<u8>, safetensors::SafeTensorError> {
    let (header_bytes, header) = SafeTensors::read_metadata(&bytes)?;
    let Some(metadata) = header.metadata() else { return Ok(bytes) };
    let sorted: std::collections::BTreeMap<_, _> = metadata.iter().collect();
    let mut json = serde_json::Map::from_iter([("__metadata__".to_owned(), serde_json::to_value(sorted)?)]);
    let mut tensors: Vec<_> = header.tensors().into_iter().collect();
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    for (name, info) in tensors {
        json.insert(name, serde_json::to_value(info)?);
    }
    let mut text = serde_json::to_vec(&json)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(&text);
    file.extend_from_slice(&bytes[8 + header_bytes..]);
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden() -> Golden {
        Golden {
            outputs: Outputs {
                windows: 2,
                context: 3,
                top: 2,
                input_ids: vec![0, 1, 2, 3, 70_000, 1],
                nll: vec![1.0, 2.0, 3.0, 4.0],
                logsumexp: vec![2.5; 6],
                top_ids: [1, 2].repeat(6),
                top_logits: [2.0, 1.0].repeat(6),
            },
            generations: vec![Generation {
                prompt: "p".into(),
                prompt_ids: vec![0],
                greedy_ids: vec![1, 2],
                greedy_text: "ab".into(),
            }],
            checkpoint: vec![FileEntry { name: "model.safetensors".into(), bytes: 7, sha256: "0".repeat(64) }],
            text_sha256: Some("f".repeat(64)),
            tool: Some("haikuq".into()),
        }
    }

    fn read(bytes: &[u8]) -> Result<Golden, GoldenError> {
        Golden::from_bytes(bytes, Path::new("g.safetensors"))
    }

    /// A file of `golden`'s tensors but for one that is another.
    fn with(name: &str, dtype: Dtype, shape: &[usize], data: &[u8]) -> String {
        let bytes = golden().to_bytes().unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let other = TensorView::new(dtype, shape.to_vec(), data).unwrap();
        let tensors: Vec<_> = file.iter().filter(|(n, _)| *n != name).chain([(name, other)]).collect();
        read(&safetensors::serialize(tensors, None).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn a_golden_file_reads_back_and_is_the_same_bytes_each_time() {
        let bytes = golden().to_bytes().unwrap();
        assert_eq!(read(&bytes).unwrap(), golden());
        assert_eq!(golden().to_bytes().unwrap(), bytes);
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["perplexity"], format!("{:.6}", 2.5f64.exp()));
    }

    #[test]
    fn metadata_may_be_missing() {
        let bytes = golden().outputs.to_bytes(true, None).unwrap();
        let read = read(&bytes).unwrap();
        assert_eq!(read.outputs, golden().outputs);
        assert_eq!((read.generations.len(), read.tool), (0, None));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_numbers() {
        let ids = [0u8; 48];
        assert_eq!(with("input_ids", Dtype::I64, &[6], &ids), "g.safetensors: input_ids: shape [6] is not [windows, tokens]");
        let told = with("top_ids", Dtype::U16, &[2, 4, 3], &ids);
        assert_eq!(told, "g.safetensors: top_ids: shape [2, 4, 3] where input_ids' [2, 3] needs [2, 3, K]");
        let told = with("nll", Dtype::F32, &[2, 3], &[0; 24]);
        assert_eq!(told, "g.safetensors: nll: F32 of shape [2, 3] where F32 of shape [2, 2] is needed");
        let told = with("input_ids", Dtype::I64, &[2, 3], &[255; 48]);
        assert_eq!(told, "g.safetensors: input_ids: -1 is not a token id");
        let told = with("logsumexp", Dtype::F32, &[2, 3], &[255; 24]);
        assert_eq!(told, "g.safetensors: logsumexp: NaN at element 0");
        let told = with("input_ids", Dtype::F32, &[2, 3], &[0; 24]);
        assert!(told.contains("type F32 where ids"), "{told}");
        let rising: Vec<u8> = [1f32, 2.0].repeat(6).iter().flat_map(|x| x.to_le_bytes()).collect();
        let told = with("top_logits", Dtype::F32, &[2, 3, 2], &rising);
        assert_eq!(told, "g.safetensors: top_logits: window 0, position 0: not largest first");
    }

    #[test]
    fn damaged_files_are_refused() {
        let bytes = golden().to_bytes().unwrap();
        for n in [0, 7, 8, 100, bytes.len() - 1] {
            assert!(matches!(read(&bytes[..n]), Err(GoldenError::SafeTensors { .. })), "{n} bytes");
        }
        let metadata = HashMap::from([("generations".to_owned(), "[{]".to_owned())]);
        let bytes = golden().outputs.to_bytes(true, Some(metadata)).unwrap();
        assert!(matches!(read(&bytes), Err(GoldenError::Metadata { key: "generations", .. })));
    }
}
