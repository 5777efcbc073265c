//! The site and packages as a folder that any static host can serve.

use super::packages::Packages;
use super::{PageLoad, ServeError, ServedPackage, Site};
use haikuq_format::manifest::MANIFEST_FILE;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Headers as Netlify, Cloudflare Pages and others read them from a file of this name: what `haikuq serve` sends too,
/// but for its policy, which the pages carry themselves.
const HEADERS_FILE: &str = "_headers";

/// Makes GitHub Pages serve the folder as it is.
const NO_JEKYLL_FILE: &str = ".nojekyll";

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Number of files.
    pub files: usize,
    /// Bytes of all.
    pub bytes: u64,
    /// Path within the folder and bytes of the largest: many hosts limit these.
    pub largest: (PathBuf, u64),
}

/// Writes the pages, the packages and `packages/index.json` to `out`. Files of packages are hard links where the file
/// system allows, else copies. The folder gets its name when it is complete; a process that ends before leaves a hidden
/// folder beside it.
///
/// # Errors
/// If there is something at `out`, unless that is an empty folder or, with `force`, an earlier export; if two packages have
/// one name; or with the file that could not be read or written.
pub fn export(
    site: &Site,
    packages: Vec<ServedPackage>,
    load: PageLoad,
    out: &Path,
    force: bool,
) -> Result<Exported, ServeError> {
    let packages = Packages::new(packages, load)?;
    let replaced = free(out, force)?;
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(at(parent))?;
    let work = tempfile::Builder::new().prefix(".haikuq-site-").tempdir_in(parent).map_err(at(parent))?;
    // Within, because the folder around it is for its owner alone.
    let mut folder = Folder { root: work.path().join("site"), written: Vec::new() };
    site.write(&mut folder)?;
    folder.write(Path::new(NO_JEKYLL_FILE), b"")?;
    folder.write(Path::new(HEADERS_FILE), headers().as_bytes())?;
    for package in packages.by_name.values() {
        let to = Path::new("packages").join(&package.name);
        for file in package.files() {
            folder.link(&package.folder.join(&file), &to.join(&file))?;
        }
    }
    let index = serde_json::to_vec_pretty(&packages.index()).expect("names and numbers are JSON");
    folder.write(Path::new("packages/index.json"), &index)?;
    match replaced {
        Replaced::Nothing => {}
        Replaced::Empty => fs::remove_dir(out).map_err(at(out))?,
        // It goes with the work folder.
        Replaced::Export => fs::rename(out, work.path().join("before")).map_err(at(out))?,
    }
    fs::rename(&folder.root, out).map_err(at(out))?;
    Ok(folder.summary())
}

enum Replaced {
    Nothing,
    Empty,
    Export,
}

/// What is at `out` now, if that may make way.
fn free(out: &Path, force: bool) -> Result<Replaced, ServeError> {
    let metadata = match fs::symlink_metadata(out) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Replaced::Nothing),
        Err(source) => return Err(ServeError::Read { path: out.into(), source }),
    };
    let taken = |why| Err(ServeError::Taken { folder: out.into(), why });
    if !metadata.is_dir() {
        return taken("it is no folder");
    }
    if fs::read_dir(out).map_err(at(out))?.next().is_none() {
        return Ok(Replaced::Empty);
    }
    if ["index.html", HEADERS_FILE, "packages/index.json"].iter().any(|file| !out.join(file).is_file()) {
        return taken("it holds other things than a site of haikuq: name another folder, or empty this one");
    }
    if force { Ok(Replaced::Export) } else { taken("it holds a site: --force replaces it") }
}

fn headers() -> String {
    let fixed = "  X-Content-Type-Options: nosniff\n  Referrer-Policy: no-referrer\n  Cross-Origin-Opener-Policy: same-origin\n";
    let mut lines = format!("/*\n{fixed}");
    for assets in ["/assets/*", "/bench/assets/*", "/validate/assets/*"] {
        lines += &format!("{assets}\n  Cache-Control: {}\n", super::policy::IMMUTABLE);
    }
    lines
}

/// A folder that is being written.
pub(super) struct Folder {
    root: PathBuf,
    written: Vec<(PathBuf, u64)>,
}

impl Folder {
    /// Writes a file to a path within the folder.
    pub(super) fn write(&mut self, path: &Path, bytes: &[u8]) -> Result<(), ServeError> {
        let to = self.place(path)?;
        fs::write(&to, bytes).map_err(at(&to))?;
        self.written.push((path.into(), bytes.len() as u64));
        Ok(())
    }

    /// Copies a file.
    pub(super) fn copy(&mut self, from: &Path, path: &Path) -> Result<(), ServeError> {
        let to = self.place(path)?;
        let bytes = fs::copy(from, &to).map_err(at(from))?;
        self.written.push((path.into(), bytes));
        Ok(())
    }

    /// The same file under another name, or a copy.
    fn link(&mut self, from: &Path, path: &Path) -> Result<(), ServeError> {
        let to = self.place(path)?;
        // A link to a link would be one, too.
        let from = from.canonicalize().map_err(at(from))?;
        if fs::hard_link(&from, &to).is_err() {
            return self.copy(&from, path);
        }
        let bytes = fs::metadata(&to).map_err(at(&to))?.len();
        self.written.push((path.into(), bytes));
        Ok(())
    }

    fn place(&self, path: &Path) -> Result<PathBuf, ServeError> {
        let to = self.root.join(path);
        let parent = to.parent().expect("a path within the folder");
        fs::create_dir_all(parent).map_err(at(parent))?;
        if to.exists() {
            return Err(ServeError::Twice { path: path.into() });
        }
        Ok(to)
    }

    fn summary(self) -> Exported {
        let bytes = self.written.iter().map(|(_, bytes)| bytes).sum();
        let files = self.written.len();
        let largest = self.written.into_iter().max_by_key(|(_, bytes)| *bytes).unwrap_or_default();
        Exported { files, bytes, largest }
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> ServeError {
    move |source| ServeError::Read { path: path.into(), source }
}

impl ServedPackage {
    /// The names of all its files, the manifest last: a host that is filled file by file offers no package that is not whole.
    fn files(&self) -> Vec<String> {
        let manifest = self.manifest();
        let listed = manifest.shards.iter().chain(&manifest.files).map(|file| file.name.clone());
        listed.chain([MANIFEST_FILE.to_owned()]).collect()
    }
}
