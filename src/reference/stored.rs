//! The weights of a package as the reference forward reads them: dequantized, on the CPU.
//!
//! The reference on a package's own weights has the package's quantization and none of its kernels, so it tells what
//! of a difference is whose. It is no substitute for running the package.

use haikuq_files::{Mapped, open_regular, read_at_most};
use haikuq_format::Manifest;
use haikuq_format::layout::{PlaneKind, QuantizedRows, Scales, dequantize, unpack_quantized};
use haikuq_format::manifest::{MANIFEST_FILE, ManifestError, TensorEntry};
use haikuq_format::scheme::Scheme;
use haikuq_runtime::package::{MAX_MANIFEST_BYTES, within};
use std::io;
use std::path::{Path, PathBuf};

/// An opened package folder.
pub struct StoredWeights {
    /// What the package holds.
    pub manifest: Manifest,
    shards: Vec<Mapped>,
    folder: PathBuf,
}

/// What can be wrong with it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoredError {
    /// Reading failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The manifest is wrong.
    #[error("{}: {source}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// A shard has another size than the manifest says.
    #[error("{}: {have} bytes where the manifest says {need}", path.display())]
    Size {
        /// The shard.
        path: PathBuf,
        /// Its size.
        have: u64,
        /// Size in the manifest.
        need: u64,
    },
    /// A tensor that the package does not have.
    #[error("the package has no tensor {0:?}")]
    Missing(String),
}

impl StoredWeights {
    /// Opens a package: checks the manifest and the sizes of all shards (`haikuq verify` also checks hashes).
    ///
    /// # Errors
    /// See [`StoredError`].
    pub fn open(folder: &Path) -> Result<Self, StoredError> {
        let path = folder.join(MANIFEST_FILE);
        let bytes = read_at_most(&path, MAX_MANIFEST_BYTES).map_err(|source| StoredError::Io { path: path.clone(), source })?;
        let manifest = Manifest::from_json(&bytes).map_err(|source| StoredError::Manifest { path, source })?;
        let open = |shard: &haikuq_format::manifest::FileEntry| {
            let path = folder.join(&shard.name);
            let map = within(folder, &path).and_then(|()| Mapped::new(&open_regular(&path)?));
            let map = map.map_err(|source| StoredError::Io { path: path.clone(), source })?;
            let (have, need) = (map.bytes().len() as u64, shard.bytes);
            if have == need { Ok(map) } else { Err(StoredError::Size { path, have, need }) }
        };
        let shards = manifest.shards.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { manifest, shards, folder: folder.into() })
    }

    /// A canonical tensor's numbers, row after row.
    ///
    /// # Errors
    /// If there is no such tensor, or a shard was cut short.
    pub fn read(&self, name: &str) -> Result<Vec<f32>, StoredError> {
        let tensor = self.entry(name)?;
        let mut values = Vec::with_capacity(tensor.rows() * tensor.columns());
        self.chunks(tensor, |rows, planes| values.extend(dequantize(tensor.scheme, rows, tensor.columns(), planes)))?;
        Ok(values)
    }

    /// A quantized tensor's codes with what belongs to them, row after row; nothing of a tensor that is not quantized.
    ///
    /// # Errors
    /// As [`StoredWeights::read`].
    pub fn quantized(&self, name: &str) -> Result<Option<QuantizedRows>, StoredError> {
        let tensor = self.entry(name)?;
        let Scheme::Grouped(scheme) = tensor.scheme else { return Ok(None) };
        let mut all: Option<QuantizedRows> = None;
        self.chunks(tensor, |rows, planes| {
            let chunk = unpack_quantized(scheme, rows, tensor.columns(), planes);
            match &mut all {
                Some(all) => append(all, chunk),
                None => all = Some(chunk),
            }
        })?;
        Ok(all)
    }

    fn entry(&self, name: &str) -> Result<&TensorEntry, StoredError> {
        self.manifest.tensor(name).ok_or_else(|| StoredError::Missing(name.into()))
    }

    /// Hands over rows and planes of each chunk.
    fn chunks(&self, tensor: &TensorEntry, mut take: impl FnMut(usize, &[(PlaneKind, &[u32])])) -> Result<(), StoredError> {
        for chunk in &tensor.chunks {
            // The manifest's check has seen that every plane lies within its shard.
            let words = chunk.planes.iter().map(|p| {
                let bytes = &self.shards[p.shard].bytes()[p.offset as usize..(p.offset + p.bytes) as usize];
                (p.kind, bytes.as_chunks().0.iter().map(|w| u32::from_le_bytes(*w)).collect::<Vec<u32>>())
            });
            let words: Vec<_> = words.collect();
            let planes: Vec<(PlaneKind, &[u32])> = words.iter().map(|(kind, w)| (*kind, w.as_slice())).collect();
            take(chunk.rows, &planes);
        }
        // Of a file that was cut short meanwhile, zeros were read.
        if let Some(cut) = self.shards.iter().position(Mapped::is_cut) {
            let path = self.folder.join(&self.manifest.shards[cut].name);
            return Err(StoredError::Io { path, source: io::Error::other("it was cut short while it was read") });
        }
        Ok(())
    }
}

/// Puts a tensor's next rows behind those before.
fn append(all: &mut QuantizedRows, next: QuantizedRows) {
    all.codes.extend(next.codes);
    match (&mut all.scales, next.scales) {
        (Scales::F16(all), Scales::F16(next)) => all.extend(next),
        (Scales::E4M4(all), Scales::E4M4(next)) => all.extend(next),
        _ => unreachable!("a tensor has one type of scales"),
    }
    all.zero_points.extend(next.zero_points);
    all.offsets.extend(next.offsets);
}
