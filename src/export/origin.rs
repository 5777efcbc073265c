//! [`Origin`]: a package as lists of its files, for programs that sign, record and ship them.
//!
//! Every file is hashed before anything is written, and one that is not as the manifest says is refused. No list holds a time: the
//! same package gives the same bytes.

use super::{ExportError, oci, sbom, statement};
use crate::staging::{Folder, StagingError};
use crate::validate::report::Report;
use haikuq_format::Manifest;
use haikuq_format::manifest::{FileEntry, MANIFEST_FILE};
use haikuq_runtime::package::{FolderSource, Package};
use std::path::{Path, PathBuf};

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OriginFormat {
    /// A CycloneDX 1.6 ML-BOM, one file.
    Sbom,
    /// An in-toto statement as OpenSSF model signing has it, one file.
    Statement,
    /// An OCI image layout of CNCF ModelPack, a folder.
    Oci,
}

/// A package whose files are as its manifest says.
pub struct Origin {
    pub(super) folder: PathBuf,
    pub(super) manifest: Manifest,
    /// Of the manifest itself.
    pub(super) itself: FileEntry,
    /// What the package does not say of itself.
    pub(super) about: About,
}

/// What a package does not say of itself.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Its licence, by SPDX's name or the hub's.
    pub licence: Option<String>,
    /// Id of the checkpoint on the hub, in place of the manifest's.
    pub base_model: Option<String>,
    /// How far it is from its checkpoint.
    pub report: Option<Report>,
}

impl Origin {
    /// Hashes a package's files.
    ///
    /// # Errors
    /// If one cannot be read, or is not as the manifest says.
    pub fn open(package: &Path, about: About) -> Result<Self, ExportError> {
        let fail = |source| ExportError::Package { path: package.into(), source };
        let manifest = pollster::block_on(Package::open(FolderSource::new(package))).map_err(fail)?.manifest().clone();
        let hash = |name: &str| {
            let path = package.join(name);
            let error = |e| ExportError::Io { path: path.clone(), source: std::io::Error::other(e) };
            haikuq_files::hash_file(&path).map_err(error)
        };
        for file in manifest.shards.iter().chain(&manifest.files) {
            let found = hash(&file.name)?;
            if found != *file {
                let why = format!(
                    "it has {} bytes with SHA-256 {}, and the manifest says {} with {}",
                    found.bytes, found.sha256, file.bytes, file.sha256
                );
                let what = package.join(&file.name).display().to_string();
                return Err(ExportError::Refused { what, format: "a file of the package", why });
            }
        }
        Ok(Self { folder: package.into(), manifest, itself: hash(MANIFEST_FILE)?, about })
    }

    /// Writes a file, or for [`OriginFormat::Oci`] a folder. Paths within the folder, or the file's name, with bytes.
    ///
    /// # Errors
    /// See [`ExportError`]; nothing lies at `out` then that did not before.
    pub fn write(&self, format: OriginFormat, out: &Path) -> Result<Vec<(String, u64)>, ExportError> {
        let text = match format {
            OriginFormat::Sbom => sbom::sbom(self),
            OriginFormat::Statement => statement::statement(self),
            OriginFormat::Oci => {
                let mut folder = Folder::new(out)?;
                oci::write(self, &mut folder)?;
                return Ok(folder.finish()?);
            }
        };
        if out.is_dir() {
            let why = "a folder lies there, and this format is one file".into();
            return Err(StagingError::Taken { path: out.into(), why }.into());
        }
        if let Some(parent) = out.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).map_err(ExportError::io(parent))?;
        }
        let text = format!("{text:#}\n");
        haikuq_files::write_atomically(out, text.as_bytes()).map_err(ExportError::io(out))?;
        let name = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(vec![(name, text.len() as u64)])
    }

    /// The package's own name.
    pub(super) fn name(&self) -> String {
        let path = self.folder.canonicalize().unwrap_or_else(|_| self.folder.clone());
        path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// All files: shards, others, the manifest.
    pub(super) fn files(&self) -> impl Iterator<Item = &FileEntry> {
        self.manifest.shards.iter().chain(&self.manifest.files).chain([&self.itself])
    }

    /// Id of the checkpoint on the hub, and its commit.
    pub(super) fn base(&self) -> Option<(&str, Option<&str>)> {
        let hub = self.manifest.provenance.hub.as_ref();
        match (&self.about.base_model, hub) {
            (Some(base), Some(hub)) if *base == hub.repo => Some((base, Some(&hub.commit))),
            (Some(base), _) => Some((base, None)),
            (None, Some(hub)) => Some((&hub.repo, Some(&hub.commit))),
            (None, None) => None,
        }
    }

    /// Weights of all tensors.
    pub(super) fn parameters(&self) -> u64 {
        self.manifest.tensors.iter().map(|t| t.shape.iter().map(|&n| n as u64).product::<u64>()).sum()
    }

    /// Name and version of the tool that made the package.
    pub(super) fn tool(&self) -> (&str, &str) {
        self.manifest.provenance.tool.split_once(' ').unwrap_or((&self.manifest.provenance.tool, ""))
    }
}

/// SPDX's names for licences as the hub spells them, of those that models have.
const SPDX: [&str; 24] = [
    "Apache-2.0",
    "MIT",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CC-BY-4.0",
    "CC-BY-3.0",
    "CC-BY-SA-4.0",
    "CC-BY-SA-3.0",
    "CC-BY-NC-4.0",
    "CC-BY-NC-SA-4.0",
    "CC-BY-NC-ND-4.0",
    "CC-BY-ND-4.0",
    "AFL-3.0",
    "Artistic-2.0",
    "ECL-2.0",
    "EPL-2.0",
    "EUPL-1.2",
    "ISC",
    "MPL-2.0",
    "OSL-3.0",
    "Unlicense",
    "Zlib",
];

/// SPDX's name for a licence, if it has one.
pub(super) fn spdx(licence: &str) -> Option<&'static str> {
    SPDX.into_iter().find(|id| id.eq_ignore_ascii_case(licence))
}
