//! [`Manifest`]: what a package holds, where it came from, and the checks that make it safe to trust.

use crate::layout::{PlaneKind, plane_sizes};
use crate::scheme::Scheme;
use crate::spec::{DecoderSpec, PerLayerEmbedding, TensorClass, TensorSpec};
use crate::{MAX_PLANE_BYTES, PLANE_ALIGNMENT, align};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// File name of the manifest within a package.
pub const MANIFEST_FILE: &str = "haikuq.json";

/// Longest name of a file in a package.
pub const MAX_NAME_BYTES: usize = 200;

/// Most bytes of a package's files together: numbers up to here are exact in JavaScript.
const MAX_BYTES: u64 = 1 << 53;

/// What the manifest's `format` field says.
pub const FORMAT_NAME: &str = "haikuq";

/// The version that this crate writes. Readers refuse another major version and ignore a newer minor one.
pub const FORMAT_VERSION: Version = Version { major: 2, minor: 0 };

/// A package's table of contents, stored as `haikuq.json`. It holds no timestamps and no absolute paths: the same
/// inputs give the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Manifest {
    /// Always [`FORMAT_NAME`].
    pub format: String,
    /// Version of the format.
    pub version: Version,
    /// The decoder.
    pub spec: DecoderSpec,
    /// Every tensor, in the order of [`DecoderSpec::tensors`].
    pub tensors: Vec<TensorEntry>,
    /// Weight files, in order; planes refer to them by index.
    pub shards: Vec<FileEntry>,
    /// Other files of the package: tokenizer, its configuration, generation defaults.
    #[serde(default)]
    pub files: Vec<FileEntry>,
    /// Where the package came from.
    pub provenance: Provenance,
}

/// `major.minor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    /// Changes when old readers would read wrongly.
    pub major: u32,
    /// Changes when something optional is added.
    pub minor: u32,
}

/// One tensor of a package.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TensorEntry {
    /// Canonical name.
    pub name: String,
    /// What it is for.
    pub class: TensorClass,
    /// True shape, without padding: `[rows, columns]` or `[n]` (stored as one row).
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub scheme: Scheme,
    /// Runs of whole rows, in order.
    pub chunks: Vec<Chunk>,
    /// `√(Σ(stored − original)² / Σ original²)`, measured at conversion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative_error: Option<f64>,
}

/// Bytes of a decoder's `tensors` that one decoded token reads: all of most, of experts the part that it uses, and next to nothing
/// of tables of which it looks a row up.
pub fn active_bytes(spec: &DecoderSpec, tensors: &[TensorEntry]) -> u64 {
    let one_row =
        |name: &str| name == "positions" || name == PerLayerEmbedding::TABLE || (name == "embedding" && !spec.tied_head);
    let of = |t: &TensorEntry| {
        let (active, all) = spec.active_share(&t.name);
        t.bytes() / all * active
    };
    tensors.iter().filter(|t| !one_row(&t.name)).map(of).sum()
}

impl Manifest {
    /// A manifest of the current version that lists nothing yet.
    pub fn new(spec: DecoderSpec) -> Self {
        Self {
            format: FORMAT_NAME.into(),
            version: FORMAT_VERSION,
            spec,
            tensors: Vec::new(),
            shards: Vec::new(),
            files: Vec::new(),
            provenance: Provenance::default(),
        }
    }
}

impl TensorEntry {
    /// A tensor that has no chunks yet.
    pub fn new(tensor: TensorSpec, scheme: Scheme) -> Self {
        let TensorSpec { name, class, shape } = tensor;
        Self { name, class, shape, scheme, chunks: Vec::new(), relative_error: None }
    }

    /// Rows of the stored matrix; 1 for a vector.
    pub fn rows(&self) -> usize {
        if self.shape.len() == 2 { self.shape[0] } else { 1 }
    }

    /// Columns of the stored matrix; the length of a vector.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(0)
    }

    /// Bytes of all planes, without padding.
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().flat_map(|c| &c.planes).map(|p| p.bytes).sum()
    }
}

/// A run of whole rows of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Its first row.
    pub first_row: usize,
    /// Number of its rows.
    pub rows: usize,
    /// Its planes, in the order of [`plane_sizes`].
    pub planes: Vec<Plane>,
}

/// One plane of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plane {
    /// What it holds.
    pub kind: PlaneKind,
    /// Index into [`Manifest::shards`].
    pub shard: usize,
    /// From the start of the shard file; a multiple of [`PLANE_ALIGNMENT`].
    pub offset: u64,
    /// Size without padding.
    pub bytes: u64,
}

/// A file with its size and hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Plain file name.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

/// Where a package came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Provenance {
    /// Tool and version, such as `haikuq 0.1.0`.
    pub tool: String,
    /// Name of the recipe.
    pub recipe: String,
    /// The recipe's whole text (TOML), so that the conversion can be repeated.
    #[serde(default)]
    pub recipe_text: String,
    /// The checkpoint's files.
    #[serde(default)]
    pub source: Vec<FileEntry>,
    /// Files of the calibration text, where one was used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calibration: Vec<FileEntry>,
    /// Where on the hub the checkpoint was downloaded from, if it was asked for by its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<HubSource>,
}

/// A model on the Hugging Face hub, or a mirror of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubSource {
    /// Its id, `org/name`.
    pub repo: String,
    /// The full commit, which a branch or tag stood for.
    pub commit: String,
}

/// Name of a plane's entry in its shard.
pub fn entry_name(tensor: &str, chunk: usize, kind: PlaneKind) -> String {
    format!("{tensor}.{chunk}.{}", kind.name())
}

/// Name of shard `index` (from 0) of `count`.
pub fn shard_name(index: usize, count: usize) -> String {
    format!("weights-{:05}-of-{count:05}.safetensors", index + 1)
}

/// What can be wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not JSON, or a field is missing or of another type.
    #[error("not a haikuq manifest: {0}")]
    Json(String),
    /// `format` says something else.
    #[error("the manifest's format is {0:?}, not {FORMAT_NAME:?}")]
    Format(String),
    /// Written by a newer or older tool.
    #[error(
        "package format version {major}.{minor} is not supported; this reader knows version {known}.x: {way_out}",
        known = FORMAT_VERSION.major, way_out = way_out(*major)
    )]
    Version {
        /// The package's major version.
        major: u32,
        /// Its minor version.
        minor: u32,
    },
    /// The decoder's numbers contradict each other.
    #[error("decoder spec: {0}")]
    Spec(#[from] crate::spec::SpecError),
    /// A tensor's entry is wrong.
    #[error("tensor {tensor}: {why}")]
    Tensor {
        /// Its name.
        tensor: String,
        /// What is wrong, with numbers.
        why: String,
    },
    /// A file's entry is wrong.
    #[error("file {file:?}: {why}")]
    File {
        /// Its name.
        file: String,
        /// What is wrong, with numbers.
        why: String,
    },
}

/// What to do about a package of another major version.
fn way_out(major: u32) -> &'static str {
    match major < FORMAT_VERSION.major {
        true => "convert the checkpoint again with this haikuq",
        false => "use a newer haikuq",
    }
}

/// What every version of the format has.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    format: String,
    version: Option<Version>,
}

fn check_head(format: &str, Version { major, minor }: Version) -> Result<(), ManifestError> {
    if format != FORMAT_NAME {
        return Err(ManifestError::Format(format.into()));
    }
    if major != FORMAT_VERSION.major {
        return Err(ManifestError::Version { major, minor });
    }
    Ok(())
}

/// Whether a name is one that every file system, URL and archive takes as it is: letters, digits, `.`, `_` and `-`, at most
/// [`MAX_NAME_BYTES`] of them, neither first nor last a dot, and no name of a device on Windows (`con`, `nul.json`, …).
pub fn is_plain_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let dot = |b: Option<&u8>| b.is_none_or(|b| *b == b'.');
    let bytes = name.as_bytes();
    let stem = name.split('.').next().unwrap_or_default().as_bytes();
    let device = |name: &str| stem.eq_ignore_ascii_case(name.as_bytes());
    let numbered = |name: &str| stem.len() == 4 && stem[..3].eq_ignore_ascii_case(name.as_bytes()) && stem[3].is_ascii_digit();
    let reserved = ["con", "prn", "aux", "nul"].into_iter().any(device) || numbered("com") || numbered("lpt");
    bytes.len() <= MAX_NAME_BYTES && bytes.iter().all(|b| plain(*b)) && !dot(bytes.first()) && !dot(bytes.last()) && !reserved
}

impl Manifest {
    /// Parses and checks a manifest.
    ///
    /// # Errors
    /// See [`ManifestError`]; a wrong major version is reported before anything else is looked at.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ManifestError> {
        let json = |e: serde_json::Error| ManifestError::Json(e.to_string());
        // Straight into its types: a tree of JSON takes many times the memory of its text.
        let manifest = match serde_json::from_slice::<Self>(bytes) {
            Ok(manifest) => manifest,
            // Manifests of other versions have other members, and the version is what to say of them.
            Err(error) => {
                let Head { format, version } = serde_json::from_slice(bytes).map_err(json)?;
                check_head(&format, version.unwrap_or(FORMAT_VERSION))?;
                return Err(json(error));
            }
        };
        check_head(&manifest.format, manifest.version)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The manifest as stored: indented JSON with a final newline.
    #[expect(clippy::missing_panics_doc, reason = "plain data always becomes JSON")]
    pub fn to_json(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a manifest is plain data");
        bytes.push(b'\n');
        bytes
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorEntry> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// Bytes of all shards.
    pub fn weight_bytes(&self) -> u64 {
        self.shards.iter().map(|s| s.bytes).sum()
    }

    /// Bytes of weights that one decoded token reads; see [`active_bytes`].
    pub fn active_bytes(&self) -> u64 {
        active_bytes(&self.spec, &self.tensors)
    }

    /// Bits a weight over all matrices, scales included, padding of planes not.
    pub fn bits_per_weight(&self) -> f64 {
        let matrices = || self.tensors.iter().filter(|t| t.class.is_quantized());
        let weights: u64 = matrices().map(|t| t.shape.iter().map(|&n| n as u64).product::<u64>()).sum();
        matrices().map(TensorEntry::bytes).sum::<u64>() as f64 * 8.0 / weights.max(1) as f64
    }

    /// Checks names, shapes, schemes, chunks, sizes, offsets, overlaps and the form of hashes. What the files hold is
    /// the reader's to check against [`FileEntry::sha256`].
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), ManifestError> {
        self.spec.check()?;
        self.check_files()?;
        self.check_tensor_list()?;
        let mut used: BTreeMap<(usize, u64), (u64, String)> = BTreeMap::new();
        for tensor in &self.tensors {
            self.check_tensor(tensor, &mut used)?;
        }
        let mut last: Option<(usize, u64, &str)> = None;
        for ((shard, offset), (padded, name)) in &used {
            if let Some((s, end, other)) = last
                && s == *shard
                && end > *offset
            {
                let why = format!("plane {name} at byte {offset} overlaps plane {other}, which ends at byte {end}");
                return Err(ManifestError::File { file: self.shards[s].name.clone(), why });
            }
            last = Some((*shard, offset + padded, name));
        }
        Ok(())
    }

    fn check_files(&self) -> Result<(), ManifestError> {
        // Where upper and lower case are one, so are the files.
        let mut seen = std::collections::BTreeSet::from([MANIFEST_FILE.to_owned()]);
        let mut total = 0u64;
        for file in self.shards.iter().chain(&self.files) {
            let bad = |why: &str| Err(ManifestError::File { file: file.name.clone(), why: why.into() });
            if !is_plain_name(&file.name) {
                return bad("not a plain file name");
            }
            if !seen.insert(file.name.to_ascii_lowercase()) {
                return bad("listed twice, or the manifest's own name");
            }
            total = total.saturating_add(file.bytes);
            if total > MAX_BYTES {
                return bad("the files of the package are larger together than any disk");
            }
            if file.sha256.len() != 64 || !file.sha256.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c)) {
                return bad("its sha256 is not 64 lower-case hexadecimal digits");
            }
        }
        Ok(())
    }

    fn check_tensor_list(&self) -> Result<(), ManifestError> {
        let expected = self.spec.tensors();
        for (want, have) in expected.iter().zip(&self.tensors) {
            let why = if want.name != have.name {
                format!("stands where the spec has {}", want.name)
            } else if want.shape != have.shape {
                format!("shape {:?} where the spec has {:?}", have.shape, want.shape)
            } else if want.class != have.class {
                format!("class {:?} where the spec has {:?}", have.class, want.class)
            } else {
                continue;
            };
            return Err(ManifestError::Tensor { tensor: have.name.clone(), why });
        }
        if let Some(missing) = expected.get(self.tensors.len()) {
            return Err(ManifestError::Tensor { tensor: missing.name.clone(), why: "missing".into() });
        }
        if let Some(extra) = self.tensors.get(expected.len()) {
            return Err(ManifestError::Tensor { tensor: extra.name.clone(), why: "not part of the spec".into() });
        }
        Ok(())
    }

    fn check_tensor(&self, t: &TensorEntry, used: &mut BTreeMap<(usize, u64), (u64, String)>) -> Result<(), ManifestError> {
        let bad = |why: String| Err(ManifestError::Tensor { tensor: t.name.clone(), why });
        if let Err(why) = t.scheme.check() {
            return bad(why);
        }
        if !t.class.is_quantized() && t.scheme != Scheme::F32 {
            return bad(format!("vectors and routers are f32, not {}", t.scheme));
        }
        let mut row = 0;
        for (i, chunk) in t.chunks.iter().enumerate() {
            if chunk.first_row != row || chunk.rows == 0 || chunk.rows > t.rows() - row {
                return bad(format!(
                    "chunk {i} has {} rows from row {}, expected to start at row {row} of {}",
                    chunk.rows,
                    chunk.first_row,
                    t.rows()
                ));
            }
            row += chunk.rows;
            let sizes = plane_sizes(t.scheme, chunk.rows, t.columns());
            if sizes.len() != chunk.planes.len() {
                return bad(format!("chunk {i} has {} planes, {} needs {}", chunk.planes.len(), t.scheme, sizes.len()));
            }
            for (size, plane) in sizes.iter().zip(&chunk.planes) {
                let (kind, bytes) = (plane.kind.name(), size.words as u64 * 4);
                if plane.kind != size.kind || plane.bytes != bytes {
                    return bad(format!(
                        "chunk {i}: a {kind} plane of {} bytes where {} has {} of {bytes}",
                        plane.bytes,
                        t.scheme,
                        size.kind.name()
                    ));
                }
                if plane.bytes > MAX_PLANE_BYTES {
                    return bad(format!("chunk {i}: {kind} plane of {bytes} bytes is over the limit of {MAX_PLANE_BYTES}"));
                }
                let Some(shard) = self.shards.get(plane.shard) else {
                    return bad(format!("chunk {i}: {kind} plane names shard {} of {}", plane.shard, self.shards.len()));
                };
                if !plane.offset.is_multiple_of(PLANE_ALIGNMENT) {
                    return bad(format!("chunk {i}: {kind} plane at byte {} is not aligned to {PLANE_ALIGNMENT}", plane.offset));
                }
                if plane.offset.checked_add(align(bytes)).is_none_or(|end| end > shard.bytes) {
                    return bad(format!(
                        "chunk {i}: {kind} plane at byte {} with {bytes} bytes leaves {} of {} bytes",
                        plane.offset, shard.name, shard.bytes
                    ));
                }
                let name = entry_name(&t.name, i, plane.kind);
                if let Some((_, other)) = used.insert((plane.shard, plane.offset), (align(bytes), name)) {
                    return bad(format!("chunk {i}: {kind} plane lies on plane {other}"));
                }
            }
        }
        if row != t.rows() {
            return bad(format!("chunks have {row} of {} rows", t.rows()));
        }
        Ok(())
    }
}
