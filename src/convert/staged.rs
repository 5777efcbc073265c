//! Matrices that are quantized and not yet in a shard: `OUT.partial/matrices/NAME.safetensors`.

use super::{ConvertError, disk};
use crate::quantize::StoredRows;
use haikuq_files::little_endian;
use haikuq_format::layout::{PlaneBuffers, PlaneKind, plane_sizes};
use haikuq_format::manifest::{Chunk, TensorEntry};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The folder.
pub(super) struct Staged {
    folder: PathBuf,
}

/// A whole matrix as it is stored.
pub(super) struct StagedMatrix {
    /// Its planes, unpadded, as if it were one chunk.
    pub(super) planes: PlaneBuffers,
    /// `Σ(stored − original)²`.
    pub(super) squared_error: f64,
    /// `Σ original²`.
    pub(super) squared_norm: f64,
}

impl StagedMatrix {
    /// With the errors of `values` against the `original` weights.
    pub(super) fn new(planes: PlaneBuffers, original: &[f32], values: &[f32]) -> Self {
        let part = |(original, values): (&[f32], &[f32])| {
            let difference = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
            let error: f64 = original.iter().zip(values).map(difference).sum();
            (error, original.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>())
        };
        // Parts are added in order, whatever thread each is from.
        let parts: Vec<(f64, f64)> = original.par_chunks(1 << 16).zip(values.par_chunks(1 << 16)).map(part).collect();
        let squared_error = parts.iter().map(|p| p.0).sum();
        Self { planes, squared_error, squared_norm: parts.iter().map(|p| p.1).sum() }
    }

    /// A chunk of its rows. Chunks are whole eights of rows, so planes of packed numbers are cut between words.
    pub(super) fn rows(&self, tensor: &TensorEntry, chunk: &Chunk) -> StoredRows {
        let words = |rows| plane_sizes(tensor.scheme, rows, tensor.columns());
        let (before, size) = (words(chunk.first_row), words(chunk.rows));
        let cut = |(i, (kind, words)): (usize, &(PlaneKind, Vec<u32>))| match kind {
            PlaneKind::Codebook => (*kind, words.clone()),
            _ => (*kind, words[before[i].words..][..size[i].words].to_vec()),
        };
        let part = chunk.rows as f64 / tensor.rows() as f64;
        StoredRows {
            planes: self.planes.iter().enumerate().map(cut).collect(),
            squared_error: self.squared_error * part,
            squared_norm: self.squared_norm * part,
        }
    }

    /// Squared error over squared norm.
    pub(super) fn relative_error(&self) -> f64 {
        self.squared_error / self.squared_norm.max(f64::MIN_POSITIVE)
    }
}

impl Staged {
    /// # Errors
    /// If the folder cannot be made.
    pub(super) fn open(folder: PathBuf) -> Result<Self, ConvertError> {
        disk::create_folder(&folder)?;
        Ok(Self { folder })
    }

    /// The folder, in which other things may lie as long as conversions clear it.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, tensor: &TensorEntry) -> PathBuf {
        self.folder.join(format!("{}.safetensors", tensor.name))
    }

    /// Puts a matrix there, complete or not at all.
    pub(super) fn write(&self, tensor: &TensorEntry, matrix: &StagedMatrix) -> Result<(), ConvertError> {
        let path = self.path(tensor);
        let bytes: Vec<_> = matrix.planes.iter().map(|(kind, words)| (kind.name(), little_endian(words))).collect();
        let failed = |e: String| ConvertError::Write { path: path.clone(), source: std::io::Error::other(e) };
        let views = bytes
            .iter()
            .map(|(name, bytes)| Ok((*name, TensorView::new(Dtype::U32, vec![bytes.len() / 4], bytes)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|e| failed(e.to_string()))?;
        // As bits: decimal text would have to be parsed exactly.
        let number = |x: f64| x.to_bits().to_string();
        let facts = HashMap::from([
            ("scheme".to_string(), tensor.scheme.to_string()),
            ("squared_error".to_string(), number(matrix.squared_error)),
            ("squared_norm".to_string(), number(matrix.squared_norm)),
        ]);
        let file = safetensors::serialize(views, Some(facts)).map_err(|e| failed(e.to_string()))?;
        let new = path.with_extension("unfinished");
        disk::write_synced(&new, &file)?;
        disk::rename(&new, &path)
    }

    /// The matrix that is there for `tensor`, if it is there and whole; the caller quantizes others again.
    ///
    /// # Errors
    /// If it is there and cannot be read.
    pub(super) fn read(&self, tensor: &TensorEntry) -> Result<Option<StagedMatrix>, ConvertError> {
        let path = self.path(tensor);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(parse(tensor, &bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(ConvertError::io("read", &path)(e)),
        }
    }
}

/// `None` where anything is not as [`Staged::write`] writes it.
fn parse(tensor: &TensorEntry, bytes: &[u8]) -> Option<StagedMatrix> {
    let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
    let facts = header.metadata().as_ref()?;
    let number = |key: &str| facts.get(key)?.parse().ok().map(f64::from_bits);
    if facts.get("scheme")? != &tensor.scheme.to_string() {
        return None;
    }
    let file = SafeTensors::deserialize(bytes).ok()?;
    let plane = |kind: PlaneKind, words: usize| {
        let data = file.tensor(kind.name()).ok()?;
        let (chunks, _) = data.data().as_chunks::<4>();
        (chunks.len() == words).then(|| (kind, chunks.iter().map(|b| u32::from_le_bytes(*b)).collect()))
    };
    let sizes = plane_sizes(tensor.scheme, tensor.rows(), tensor.columns());
    Some(StagedMatrix {
        planes: sizes.iter().map(|p| plane(p.kind, p.words)).collect::<Option<_>>()?,
        squared_error: number("squared_error")?,
        squared_norm: number("squared_norm")?,
    })
}
