//! The package's place: what may be there before, and how the new package gets its name.
//!
//! ```text
//! 1. OUT                 ─► OUT.partial/replaced     where a package is replaced
//! 2. OUT.partial/package ─► OUT
//! 3. OUT.partial/replaced/* that the old package's manifest does not name ─► OUT
//! 4. the old package's files, and then OUT.partial, are removed
//! ```
//!
//! A run that stops within this leaves `replaced`: without `OUT` it stopped before 2, with `OUT` and without `package`
//! after it. [`repair`] finishes or undoes it.

use super::disk;
use super::work::{Root, WorkFolder};
use super::{ConvertError, Options, Progress};
use haikuq_files::read_at_most;
use haikuq_format::manifest::{MANIFEST_FILE, is_plain_name};
use haikuq_runtime::package::MAX_MANIFEST_BYTES;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Puts right what an earlier run left between two steps of giving a package its name, and says so.
///
/// # Errors
/// If somebody put something into the place meanwhile.
pub(super) fn repair(root: &Root, options: &Options, progress: &(dyn Fn(Progress) + Sync)) -> Result<(), ConvertError> {
    let (out, replaced) = (&options.out, root.replaced());
    if !exists(&replaced) {
        return Ok(());
    }
    match (exists(out), exists(&root.package())) {
        // A run that goes on puts the new package there and has the old one removed.
        (false, _) if options.resume => Ok(()),
        (false, _) => {
            disk::rename(&replaced, out)?;
            disk::sync_folder(out.parent().unwrap_or(Path::new(".")))?;
            let was = out.display();
            progress(Progress::Repaired(&format!(
                "{was} was about to be replaced when a run was stopped: it is back in its place"
            )));
            Ok(())
        }
        (true, false) => {
            remove_replaced(&replaced, out)?;
            let was = out.display();
            progress(Progress::Repaired(&format!(
                "{was} was complete when a run was stopped: what was left of the package that it replaced is removed"
            )));
            Ok(())
        }
        (true, true) => Err(ConvertError::TwoInPlace { out: out.clone(), replaced }),
    }
}

/// Refuses a target that is there already, unless it is a package and may be replaced by one of the files `names`, or an empty
/// folder.
///
/// # Errors
/// With what is in the way.
pub(super) fn check(out: &Path, force: bool, names: &BTreeSet<String>) -> Result<(), ConvertError> {
    let path = || out.to_path_buf();
    if out.file_name().is_none() {
        return Err(ConvertError::BadTarget { path: path() });
    }
    let Ok(there) = fs::symlink_metadata(out) else { return Ok(()) };
    if there.is_symlink() {
        return Err(ConvertError::Link { path: path() });
    }
    if is_mount_point(out, &there) {
        return Err(ConvertError::MountPoint { path: path() });
    }
    if super::files::is_empty_folder(out) {
        return Ok(());
    }
    let manifest = fs::symlink_metadata(out.join(MANIFEST_FILE)).is_ok_and(|m| m.is_file());
    match (manifest, force) {
        (true, true) => {
            let others = others(out)?;
            let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match others.iter().find(|path| names.iter().any(|n| n.eq_ignore_ascii_case(&name(path)))) {
                Some(other) => Err(ConvertError::InTheWay { path: other.clone() }),
                None => Ok(()),
            }
        }
        (true, false) => Err(ConvertError::Exists { path: path() }),
        (false, _) => Err(ConvertError::NotOurs { path: path() }),
    }
}

/// Puts the complete package under its name and removes the work folder. A package that it replaces is moved aside in
/// between, so that there is no moment with half of either.
///
/// # Errors
/// If a step fails; the next run goes on from there.
pub(super) fn put(work: WorkFolder, out: &Path) -> Result<(), ConvertError> {
    let (package, replaced) = (work.package(), work.replaced());
    let parent = out.parent().unwrap_or(Path::new("."));
    disk::sync_folder(&package)?;
    if out.join(MANIFEST_FILE).is_file() {
        disk::rename(out, &replaced)?;
        disk::sync_folder(parent)?;
    } else if cfg!(windows) && exists(out) {
        // Only there an empty folder cannot be renamed over.
        disk::remove_empty(out)?;
    }
    disk::rename(&package, out)?;
    disk::sync_folder(parent)?;
    if exists(&replaced) {
        remove_replaced(&replaced, out)?;
    }
    work.clear()
}

/// Removes the package in `replaced`: the files that its manifest names, the manifest last. What else lies there goes to `out`.
fn remove_replaced(replaced: &Path, out: &Path) -> Result<(), ConvertError> {
    for other in others(replaced)? {
        let to = out.join(other.file_name().unwrap_or_default());
        if !exists(&to) {
            disk::rename(&other, &to)?;
        }
    }
    for name in listed(replaced) {
        let path = replaced.join(name);
        if fs::symlink_metadata(&path).is_ok_and(|m| !m.is_dir()) {
            disk::remove_file(&path)?;
        }
    }
    disk::remove_file(&replaced.join(MANIFEST_FILE))?;
    match disk::remove_empty(replaced)? {
        true => Ok(()),
        false => Err(ConvertError::NotEmpty { path: replaced.into() }),
    }
}

/// What lies in a package's folder and is no file that its manifest names.
fn others(package: &Path) -> Result<Vec<PathBuf>, ConvertError> {
    let listed = listed(package);
    let ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let file = fs::symlink_metadata(path).is_ok_and(|m| !m.is_dir());
        file && (name == MANIFEST_FILE || listed.contains(name))
    };
    Ok(disk::entries(package)?.into_iter().filter(|path| !ours(path)).collect())
}

/// The files that a package's manifest names, of whatever version it is; none where it cannot be read.
fn listed(package: &Path) -> BTreeSet<String> {
    #[derive(Deserialize)]
    struct Listed {
        #[serde(default)]
        shards: Vec<Named>,
        #[serde(default)]
        files: Vec<Named>,
    }
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    let bytes = read_at_most(&package.join(MANIFEST_FILE), MAX_MANIFEST_BYTES).unwrap_or_default();
    let Ok(Listed { shards, files }) = serde_json::from_slice(&bytes) else { return BTreeSet::new() };
    shards.into_iter().chain(files).map(|n| n.name).filter(|name| is_plain_name(name)).collect()
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Whether a folder is where a file system begins: it cannot get another name.
#[cfg(unix)]
fn is_mount_point(path: &Path, metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::metadata(parent).is_ok_and(|parent| parent.dev() != metadata.dev())
}

#[cfg(not(unix))]
fn is_mount_point(_: &Path, _: &fs::Metadata) -> bool {
    false
}
