//! Calibration files: a [`Calibration`] with the hashes of the checkpoint that it is of.
//!
//! A calibration file is a safetensors file. For `S` windows of `T` tokens, and every matrix `M` of the decoder by its
//! canonical name:
//!
//! | tensor | type | shape | holds |
//! | --- | --- | --- | --- |
//! | `input_ids` | u16 or u32 | \[S, T\] | token ids |
//! | `M.input` | f32 | \[columns\] | [`Sensitivity::input`](super::Sensitivity::input), unless `M` is only looked up |
//! | `M.output` | f32 | \[rows\] | [`Sensitivity::output`](super::Sensitivity::output), likewise |
//! | `M.coupling` | f32 | \[1\] | [`Sensitivity::coupling`](super::Sensitivity::coupling), likewise |
//! | `M.lookup` | f32 | \[columns\] | [`Sensitivity::lookup`](super::Sensitivity::lookup), of `embedding` and `positions` |
//!
//! Metadata: `format` (`haikuq.calibration/1`), `text` and `checkpoint` (JSON lists of [`FileEntry`]), `sensitivity_tokens`,
//! and `tool`, which is there for people.

use super::{Calibration, CalibrationError, lengths};
use crate::golden::file::sorted_metadata;
use crate::header::check_header;
use haikuq_files::read_at_most;
use haikuq_format::DecoderSpec;
use haikuq_format::manifest::FileEntry;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Largest file that is read.
const MAX_BYTES: u64 = 4 << 30;

const FORMAT: &str = "haikuq.calibration/";
const VERSION: &str = "1";

/// Smallest ids that do not fit u16.
const U16_IDS: u32 = 1 << 16;

/// A calibration on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibrationFile {
    /// What was measured.
    pub calibration: Calibration,
    /// Files of the checkpoint that it was measured on, with sizes and hashes.
    pub checkpoint: Vec<FileEntry>,
}

impl CalibrationFile {
    /// Reads and checks a file. Whether it is of a certain decoder is for [`check_spec`](Self::check_spec) and
    /// [`check_checkpoint`](Self::check_checkpoint) to say.
    ///
    /// # Errors
    /// [`CalibrationError::File`], with what is wrong.
    pub fn read(path: &Path) -> Result<Self, CalibrationError> {
        let bytes = read_at_most(path, MAX_BYTES).map_err(|source| bad(path, source.to_string()))?;
        Self::from_bytes(&bytes, path)
    }

    /// As [`CalibrationFile::read`] from memory; `path` is for messages.
    ///
    /// # Errors
    /// As there.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, CalibrationError> {
        let broken =
            |source| bad(path, format!("{} bytes that are no safetensors file, or not all of it: {source}", bytes.len()));
        check_header(bytes).map_err(|why| bad(path, why))?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(broken)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        match metadata.get("format").map(|f| f.strip_prefix(FORMAT)) {
            Some(Some(VERSION)) => {}
            Some(Some(version)) => {
                return Err(bad(path, format!("a calibration of format {version}; this haikuq reads format {VERSION}")));
            }
            _ => return Err(bad(path, "no calibration: a safetensors file, but not one that haikuq calibrate made".into())),
        }
        let tensors = SafeTensors::deserialize(bytes).map_err(broken)?;
        let (mut windows, mut sensitivities) = (Vec::new(), BTreeMap::<_, super::Sensitivity>::new());
        for (name, tensor) in tensors.iter() {
            if name == "input_ids" {
                windows = read_windows(&tensor, path)?;
                continue;
            }
            let (matrix, part) = name.rsplit_once('.').unwrap_or((name, ""));
            let sensitivity = sensitivities.entry(matrix.to_owned()).or_default();
            let values = || read_means(name, &tensor, path);
            match part {
                "input" => sensitivity.input = values()?,
                "output" => sensitivity.output = values()?,
                "lookup" => sensitivity.lookup = values()?,
                "coupling" => match values()?[..] {
                    [coupling] => sensitivity.coupling = coupling,
                    ref other => return Err(bad(path, format!("{name}: {} numbers where one is needed", other.len()))),
                },
                _ => return Err(bad(path, format!("{name}: a tensor of no known meaning"))),
            }
        }
        if windows.is_empty() {
            return Err(bad(path, "input_ids: missing".into()));
        }
        let sensitivity_tokens = json(&metadata, "sensitivity_tokens", path)?;
        let calibration = Calibration { text: json(&metadata, "text", path)?, windows, sensitivities, sensitivity_tokens };
        Ok(Self { calibration, checkpoint: json(&metadata, "checkpoint", path)? })
    }

    /// The file's bytes, the same each time.
    ///
    /// # Errors
    /// If windows differ in length.
    pub fn to_bytes(&self) -> Result<Vec<u8>, safetensors::SafeTensorError> {
        let Calibration { text, windows, sensitivities, sensitivity_tokens } = &self.calibration;
        let ids = || windows.iter().flatten();
        let shape = vec![windows.len(), windows.first().map_or(0, Vec::len)];
        let input_ids = match ids().all(|&id| id < U16_IDS) {
            true => (Dtype::U16, shape, ids().flat_map(|&id| (id as u16).to_le_bytes()).collect::<Vec<u8>>()),
            false => (Dtype::U32, shape, ids().flat_map(|id| id.to_le_bytes()).collect()),
        };
        let mut parts = vec![("input_ids".to_owned(), input_ids)];
        for (matrix, sensitivity) in sensitivities {
            for (part, values) in sensitivity.parts().into_iter().filter(|(_, values)| !values.is_empty()) {
                let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                parts.push((format!("{matrix}.{part}"), (Dtype::F32, vec![values.len()], bytes)));
            }
        }
        let views = parts
            .iter()
            .map(|(name, (dtype, shape, bytes))| Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
        let metadata = HashMap::from([
            ("format".to_owned(), format!("{FORMAT}{VERSION}")),
            ("text".to_owned(), serde_json::to_string(text)?),
            ("checkpoint".to_owned(), serde_json::to_string(&self.checkpoint)?),
            ("sensitivity_tokens".to_owned(), sensitivity_tokens.to_string()),
            ("tool".to_owned(), concat!("haikuq ", env!("CARGO_PKG_VERSION")).to_owned()),
        ]);
        sorted_metadata(safetensors::serialize(views, Some(metadata))?)
    }

    /// Refuses a file whose matrices are not exactly those of a decoder, or whose ids it does not have.
    ///
    /// # Errors
    /// [`CalibrationError::File`], with the tensor and both sizes.
    pub fn check_spec(&self, spec: &DecoderSpec, path: &Path) -> Result<(), CalibrationError> {
        let of_another = |why| Err(bad(path, format!("made of another checkpoint: {why}")));
        let mut rest: BTreeMap<&str, _> = self.calibration.sensitivities.iter().map(|(n, s)| (n.as_str(), s)).collect();
        for (matrix, expected) in lengths(spec) {
            let have = rest.remove(matrix.as_str()).cloned().unwrap_or_default();
            for ((part, values), (_, need)) in have.parts().into_iter().zip(expected) {
                if values.len() != need {
                    let have = values.len();
                    return of_another(format!("{matrix}.{part} has {have} numbers where this decoder's matrix needs {need}"));
                }
            }
        }
        if let Some(matrix) = rest.keys().next() {
            return of_another(format!("it has {matrix}, which this decoder has not"));
        }
        let length = self.calibration.windows.first().map_or(0, Vec::len);
        if length > spec.max_context {
            return of_another(format!("windows of {length} tokens where this decoder's context is {}", spec.max_context));
        }
        match self.calibration.windows.iter().flatten().find(|&&id| id as usize >= spec.vocab_size) {
            Some(id) => of_another(format!("input_ids has id {id} where this decoder's vocabulary has {}", spec.vocab_size)),
            None => Ok(()),
        }
    }

    /// Refuses a file that was not made of a checkpoint with the contents of `files`, whatever their names are.
    ///
    /// # Errors
    /// [`CalibrationError::File`], with the first file that differs.
    pub fn check_checkpoint(&self, files: &[FileEntry], path: &Path) -> Result<(), CalibrationError> {
        let missing = self.checkpoint.iter().find(|made_of| files.iter().all(|f| f.sha256 != made_of.sha256));
        let Some(made_of) = missing else { return Ok(()) };
        let found = match files.iter().find(|f| f.name == made_of.name) {
            Some(f) => format!("here it has {} bytes and SHA-256 {}", f.bytes, short(&f.sha256)),
            None => "here there is none of that content".into(),
        };
        let FileEntry { name, bytes, sha256 } = made_of;
        let was = format!("{name} had {bytes} bytes and SHA-256 {} when it was made; {found}", short(sha256));
        Err(bad(path, format!("made of another checkpoint: {was}")))
    }
}

fn bad(path: &Path, why: String) -> CalibrationError {
    CalibrationError::File { path: path.into(), why }
}

/// The beginning of a hash, for people.
fn short(sha256: &str) -> String {
    sha256.chars().take(12).chain("…".chars()).collect()
}

fn read_windows(tensor: &TensorView, path: &Path) -> Result<Vec<Vec<u32>>, CalibrationError> {
    let ids: Vec<u32> = match tensor.dtype() {
        Dtype::U16 => tensor.data().as_chunks().0.iter().map(|b| u16::from_le_bytes(*b).into()).collect(),
        Dtype::U32 => tensor.data().as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect(),
        other => return Err(bad(path, format!("input_ids: type {other:?} where U16 or U32 is needed"))),
    };
    match tensor.shape() {
        [windows, length] if *windows > 0 && *length > 1 => Ok(ids.chunks_exact(*length).map(<[u32]>::to_vec).collect()),
        shape => Err(bad(path, format!("input_ids: shape {shape:?} is not [windows, tokens], at least [1, 2]"))),
    }
}

/// A vector of mean squares.
fn read_means(name: &str, tensor: &TensorView, path: &Path) -> Result<Vec<f32>, CalibrationError> {
    if tensor.dtype() != Dtype::F32 || tensor.shape().len() != 1 {
        let (dtype, shape) = (tensor.dtype(), tensor.shape());
        return Err(bad(path, format!("{name}: {dtype:?} of shape {shape:?} where F32 of one dimension is needed")));
    }
    let values: Vec<f32> = tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    match values.iter().position(|x| !(x.is_finite() && *x >= 0.0)) {
        Some(i) => Err(bad(path, format!("{name}: {} at element {i} is no mean square", values[i]))),
        None => Ok(values),
    }
}

fn json<T: serde::de::DeserializeOwned>(
    metadata: &HashMap<String, String>,
    key: &str,
    path: &Path,
) -> Result<T, CalibrationError> {
    let text = metadata.get(key).ok_or_else(|| bad(path, format!("metadata {key:?}: missing")))?;
    serde_json::from_str(text).map_err(|source| bad(path, format!("metadata {key:?}: {source}")))
}
