//! Parts of a conversion become one package, byte for byte that of a single run.

use super::ConvertError;
use super::package::{read_back, with_errors};
use super::part::{PART_FILE, PartFile};
use crate::staging::Folder;
use haikuq_files::hash_file;
use haikuq_format::Manifest;
use haikuq_format::manifest::{FileEntry, MANIFEST_FILE};
use std::path::{Path, PathBuf};

/// Merges the parts in the folders `parts`, in any order, into the package `out`, and returns its manifest.
///
/// Every file is hashed on its way. Where a part lies on the same file system, the package shares its shards (hard links);
/// elsewhere they are copied. The parts stay as they are.
///
/// # Errors
/// If a folder is no part, parts are of different conversions, one is missing or there twice, or a file is not as its part left
/// it; then there is nothing at `out`.
pub fn merge(parts: &[PathBuf], out: &Path) -> Result<Manifest, ConvertError> {
    let parts = sorted(parts)?;
    let Some((first, head)) = parts.first() else {
        return Err(ConvertError::PartsMissing { of: 0, missing: "all are".into() });
    };
    let mut manifest = head.manifest.clone();
    let mut folder = Folder::new(out)?;
    let mut planned = manifest.shards.iter_mut();
    let mut finished = Vec::with_capacity(planned.len());
    for (path, part) in &parts {
        for (entry, shard) in planned.by_ref().take(part.shards.len()).zip(&part.shards) {
            entry.sha256.clone_from(&shard.sha256);
            take(&mut folder, path, entry)?;
            finished.push(shard.clone());
        }
    }
    for entry in &manifest.files {
        take(&mut folder, first, entry)?;
    }
    manifest.tensors = with_errors(&manifest.tensors, &finished);
    folder.write(MANIFEST_FILE, &manifest.to_json())?;
    // What our own reader refuses does not get its name.
    let manifest = read_back(&folder.root()).map_err(ConvertError::Unreadable)?;
    folder.finish()?;
    Ok(manifest)
}

/// All parts of one conversion, in order, each with its folder.
fn sorted<'a>(folders: &'a [PathBuf]) -> Result<Vec<(&'a PathBuf, PartFile)>, ConvertError> {
    let read = |folder: &'a PathBuf| Ok((folder, PartFile::read(folder)?));
    let mut parts = folders.iter().map(read).collect::<Result<Vec<_>, ConvertError>>()?;
    parts.sort_by_key(|(_, file)| file.part);
    let Some((first, head)) = parts.first() else { return Ok(parts) };
    // Members of a file that somebody wrote may contradict each other.
    Manifest::from_json(&head.manifest.to_json()).map_err(ConvertError::Manifest)?;
    let of = head.part.of();
    for (path, file) in &parts[1..] {
        let differs = |why: String| Err(ConvertError::OtherPart { path: path.to_path_buf(), why });
        let other = first.display();
        if file.part.of() != of {
            return differs(format!("it is part {}, and {other} is part {}", file.part, head.part));
        }
        if file.plan != head.plan {
            return differs(format!("it is of another checkpoint, recipe, shard size or version than {other}"));
        }
        if file.manifest.provenance.source != head.manifest.provenance.source {
            return differs(format!("it was made of other files of the same size than {other}"));
        }
        if file.manifest != head.manifest {
            return differs(format!("its manifest is not that of {other}"));
        }
    }
    let twice = parts.windows(2).find(|pair| pair[0].1.part == pair[1].1.part);
    if let Some([(a, file), (b, _)]) = twice {
        let why = format!("both it and {} are part {}", a.display(), file.part);
        return Err(ConvertError::OtherPart { path: b.to_path_buf(), why });
    }
    let there = |number: &usize| parts.iter().any(|(_, file)| file.part.number() == *number);
    let missing: Vec<String> = (1..=of).filter(|number| !there(number)).map(|number| number.to_string()).collect();
    match missing.as_slice() {
        [] => {}
        [one] => return Err(ConvertError::PartsMissing { of, missing: format!("number {one} is") }),
        several => return Err(ConvertError::PartsMissing { of, missing: format!("numbers {} are", several.join(", ")) }),
    }
    for (path, file) in &parts {
        let shards = head.manifest.shards.len();
        let range = file.part.shards(shards)?;
        let tensors = || head.manifest.tensors.iter().flat_map(|t| &t.chunks);
        let chunks = |shard: usize| tensors().filter(|c| c.planes.first().is_some_and(|plane| plane.shard == shard)).count();
        let whole = range.len() == file.shards.len()
            && range.clone().zip(&file.shards).all(|(index, shard)| shard.errors().count() == chunks(index));
        if !whole {
            let why = format!("its {PART_FILE} does not tell of its {} shards", range.len());
            return Err(ConvertError::NoPart { path: path.to_path_buf(), why });
        }
    }
    Ok(parts)
}

/// Puts a part's file into the package, if it is as `entry` says.
fn take(folder: &mut Folder, part: &Path, entry: &FileEntry) -> Result<(), ConvertError> {
    let path = part.join(&entry.name);
    let damaged = |why: String| ConvertError::NoPart { path: part.into(), why };
    if !std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_file()) {
        return Err(damaged(format!("{} is not there", entry.name)));
    }
    let found = hash_file(&path)?;
    if found != *entry {
        let why = format!("{} has {} bytes with SHA-256 {}", entry.name, found.bytes, found.sha256);
        return Err(damaged(format!("{why}, and not {} with {}: convert this part again", entry.bytes, entry.sha256)));
    }
    Ok(folder.take(&entry.name, &path)?)
}
