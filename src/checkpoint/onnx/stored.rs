//! Tensors of a model and where their bytes lie: in the model's file, or in others beside it.
//!
//! External data never leaves the model's folder. A location is a plain relative path; links may lead to files within
//! the folder only, or, where the model itself is such a link of a Hugging Face cache, to the blobs of the same
//! repository.

use super::OnnxError;
use super::proto::{RawData, RawTensor};
use crate::checkpoint::file::MappedFile;
use crate::checkpoint::tensor::{Bytes, Dtype};
use sha1::{Digest, Sha1};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// A tensor whose size and place are checked.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) name: String,
    pub(super) dims: Vec<usize>,
    /// How many numbers.
    pub(super) count: usize,
    /// As the format counts them.
    pub(super) data_type: i32,
    /// Not for number formats that nothing here reads.
    pub(super) bytes: Option<Bytes>,
}

/// Number formats, by their code.
const FORMATS: [(i32, &str); 26] = [
    (1, "F32"),
    (2, "U8"),
    (3, "I8"),
    (4, "U16"),
    (5, "I16"),
    (6, "I32"),
    (7, "I64"),
    (8, "STRING"),
    (9, "BOOL"),
    (10, "F16"),
    (11, "F64"),
    (12, "U32"),
    (13, "U64"),
    (14, "C64"),
    (15, "C128"),
    (16, "BF16"),
    (17, "F8_E4M3"),
    (18, "F8_E4M3FNUZ"),
    (19, "F8_E5M2"),
    (20, "F8_E5M2FNUZ"),
    (21, "U4"),
    (22, "I4"),
    (23, "F4_E2M1"),
    (24, "F8_E8M0"),
    (25, "U2"),
    (26, "I2"),
];

impl Stored {
    /// The number format, as messages write it.
    pub(super) fn label(&self) -> String {
        let known = FORMATS.iter().find(|(code, _)| *code == self.data_type);
        known.map_or_else(|| format!("unknown ({})", self.data_type), |(_, name)| (*name).into())
    }

    /// The number format, where weights may have it.
    pub(super) fn dtype(&self) -> Option<Dtype> {
        match self.data_type {
            1 => Some(Dtype::F32),
            10 => Some(Dtype::F16),
            16 => Some(Dtype::Bf16),
            _ => None,
        }
    }

    /// Whether it may be a weight, or is one in a format that is refused later: neither whole numbers nor texts.
    pub(super) fn is_float(&self) -> bool {
        !matches!(self.data_type, 2..=9 | 12 | 13 | 21 | 22 | 25 | 26)
    }

    /// Whether it holds numbers that quantized weights have.
    pub(super) fn is_packed(&self) -> bool {
        matches!(self.data_type, 2 | 3 | 17..=26)
    }

    fn width(&self) -> Option<usize> {
        match self.data_type {
            1 | 6 => Some(4),
            10 | 16 => Some(2),
            7 => Some(8),
            _ => None,
        }
    }
}

/// The files of a model.
#[derive(Debug)]
pub(super) struct Files {
    /// As the model was named, not where links lead.
    folder: PathBuf,
    model: PathBuf,
    pub(super) mapped: Vec<MappedFile>,
    by_location: BTreeMap<String, usize>,
    /// SHA-1 of those that a tensor has a checksum of: every tensor of a file may have one.
    digests: BTreeMap<usize, String>,
    /// Start, end and tensor of all external data, by file.
    taken: Vec<(usize, usize, usize, String)>,
}

impl Files {
    pub(super) fn open(model: &Path) -> Result<Self, crate::checkpoint::CheckpointError> {
        let folder = match model.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let mapped = vec![MappedFile::open(model)?];
        Ok(Self {
            folder,
            model: model.into(),
            mapped,
            by_location: BTreeMap::new(),
            digests: BTreeMap::new(),
            taken: Vec::new(),
        })
    }

    /// The model's file name.
    pub(super) fn name(&self) -> &str {
        self.mapped[0].name()
    }

    /// Finds and checks a tensor's bytes.
    pub(super) fn store(&mut self, raw: &mut RawTensor) -> Result<Stored, OnnxError> {
        let file = self.name().to_string();
        let bad = |why: String| OnnxError::Tensor { file: file.clone(), tensor: raw.name.clone(), why };
        let overflow = || bad(format!("shape {:?} is beyond all bounds", raw.dims));
        let dims: Vec<usize> = raw.dims.iter().map(|&n| usize::try_from(n)).collect::<Result<_, _>>().map_err(|_| overflow())?;
        let count = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(overflow)?;
        let mut stored = Stored { name: raw.name.clone(), dims, count, data_type: raw.data_type, bytes: None };
        let needed = match stored.width().map(|width| count.checked_mul(width)) {
            Some(Some(needed)) => Some(needed),
            Some(None) => return Err(overflow()),
            None => None,
        };
        let bytes = match std::mem::take(&mut raw.data) {
            RawData::None => Bytes::Owned { file: 0, bytes: Arc::default() },
            RawData::Inline(range) => Bytes::Mapped { file: 0, range },
            RawData::Unpacked(bytes) => Bytes::Owned { file: 0, bytes: Arc::new(bytes) },
            RawData::External(entries) => self.external(&raw.name, &entries, needed)?,
        };
        let Some(needed) = needed else { return Ok(stored) };
        let found = match &bytes {
            Bytes::Mapped { range, .. } => range.len(),
            Bytes::Owned { bytes, .. } => bytes.len(),
            Bytes::Stacked { .. } | Bytes::Mxfp4 { .. } => needed,
        };
        if found != needed {
            let label = stored.label();
            return Err(bad(format!("shape {:?} of {label} takes {needed} bytes, it has {found}", stored.dims)));
        }
        stored.bytes = Some(bytes);
        Ok(stored)
    }

    /// The bytes of external data; `needed` of them where the number format says how many.
    fn external(&mut self, tensor: &str, entries: &[(String, String)], needed: Option<usize>) -> Result<Bytes, OnnxError> {
        let get = |key: &str| entries.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str());
        let location = get("location").unwrap_or_default();
        let model = self.name().to_string();
        let bad =
            |why: String| OnnxError::External { file: model.clone(), tensor: tensor.into(), location: location.into(), why };
        let number = |key: &str| match get(key) {
            Some(text) => text.parse::<usize>().map(Some).map_err(|_| bad(format!("{key} {text:?} is no number of bytes"))),
            None => Ok(None),
        };
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        let index = match self.by_location.get(location) {
            Some(index) => *index,
            None => {
                let path = self.locate(location).map_err(bad)?;
                self.mapped.push(MappedFile::open_any(&path).map_err(|e| bad(e.to_string()))?);
                let index = self.mapped.len() - 1;
                self.by_location.insert(location.into(), index);
                index
            }
        };
        let mapped = &self.mapped[index];
        if let Some(checksum) = get("checksum") {
            let digest = self.digests.entry(index).or_insert_with(|| haikuq_files::hex(&Sha1::digest(mapped.bytes())));
            if !checksum.eq_ignore_ascii_case(digest) {
                return Err(bad(format!("its SHA-1 is {digest}, the model says {checksum}")));
            }
        }
        let total = mapped.bytes().len();
        let length = length.or(needed).unwrap_or_else(|| total.saturating_sub(offset));
        let end = offset.checked_add(length).filter(|&end| end <= total);
        let end = end.ok_or_else(|| bad(format!("{length} bytes from byte {offset} on are wanted, the file has {total}")))?;
        if offset < end {
            self.taken.push((index, offset, end, tensor.into()));
        }
        Ok(Bytes::Mapped { file: index, range: offset..end })
    }

    /// Where a location leads, if it may be read.
    fn locate(&self, location: &str) -> Result<PathBuf, String> {
        let drive = location.as_bytes().get(1) == Some(&b':');
        let plain = Path::new(location).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if location.is_empty() || drive || !plain || location.contains(['\\', '\0']) {
            return Err("external data must be named by a plain path within the model's folder".into());
        }
        let resolve = |path: &Path| path.canonicalize().map_err(|e| format!("cannot read {}: {e}", path.display()));
        let (folder, target) = (resolve(&self.folder)?, resolve(&self.folder.join(location))?);
        if !target.starts_with(&folder) && !self.is_blob(&folder, &target) {
            return Err(format!("it leads to {}, outside of the model's folder {}", target.display(), folder.display()));
        }
        if !target.is_file() {
            return Err("it is no file".into());
        }
        // By its name in the folder, which messages and provenance show.
        Ok(self.folder.join(location))
    }

    /// Whether the model is a link of a snapshot in a Hugging Face cache, and `target` a blob of the same repository:
    /// `models--O--N/snapshots/REVISION/model.onnx` is a link to `models--O--N/blobs/HASH`.
    fn is_blob(&self, folder: &Path, target: &Path) -> bool {
        let snapshots = folder.ancestors().skip(1).find(|a| a.file_name().is_some_and(|n| n == "snapshots"));
        let Some(blobs) = snapshots.and_then(Path::parent).map(|repo| repo.join("blobs")) else { return false };
        let in_blobs = |path: &Path| path.parent() == Some(blobs.as_path());
        self.model.canonicalize().is_ok_and(|model| in_blobs(&model)) && in_blobs(target)
    }

    /// Tensors that share bytes of an external file are refused: no exporter writes them.
    pub(super) fn check_overlaps(&mut self) -> Result<(), crate::checkpoint::CheckpointError> {
        self.taken.sort();
        for pair in self.taken.windows(2) {
            let [(file, _, end, first), (other, start, other_end, second)] = pair else { continue };
            if file == other && start < end && start < other_end {
                return Err(crate::checkpoint::CheckpointError::Overlap {
                    file: self.mapped[*file].name().into(),
                    first: first.clone(),
                    second: second.clone(),
                    start: *start as u64,
                    end: *end as u64,
                });
            }
        }
        Ok(())
    }
}
