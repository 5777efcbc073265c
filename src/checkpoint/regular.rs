//! Opens regular files alone, and refuses links out of a folder and stand-ins that the first bytes give away.

use super::CheckpointError;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes at a file's start that are looked at.
const HEAD: u64 = 512;

/// A pointer that git leaves in place of a file where git-lfs is not installed.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Opens a regular file. Pointers of git-lfs and pages of HTML are refused: somebody wanted what they stand for.
///
/// # Errors
/// If it cannot be opened, or is something else.
pub(super) fn open(path: &Path) -> Result<File, CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.into(), source };
    // A pipe would be waited for.
    let kind = std::fs::metadata(path).map_err(io)?;
    if !kind.is_file() {
        let what = if kind.is_dir() { "a folder" } else { "a pipe, socket or device" };
        return Err(CheckpointError::NoFile { path: path.into(), what });
    }
    let file = haikuq_files::open_regular(path).map_err(io)?;
    let head = start(&file).map_err(io)?;
    match stand_in(&head) {
        Some(what) => Err(CheckpointError::StandIn { path: path.into(), what }),
        None => Ok(file),
    }
}

/// The content of a small file.
///
/// # Errors
/// As [`open`], or if it is larger than `limit`.
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, CheckpointError> {
    let file = open(path)?;
    let io = |source| CheckpointError::Io { path: path.into(), source };
    let mut bytes = Vec::new();
    // Whatever its size says: files grow, and those of /proc have none.
    (&file).take(limit + 1).read_to_end(&mut bytes).map_err(io)?;
    match bytes.len() as u64 > limit {
        true => Err(CheckpointError::TooLarge { path: path.into(), limit }),
        false => Ok(bytes),
    }
}

/// The first bytes of a regular file; none of anything else.
pub(super) fn head(path: &Path) -> Vec<u8> {
    haikuq_files::open_regular(path).and_then(|file| start(&file)).unwrap_or_default()
}

fn start(mut file: &File) -> std::io::Result<Vec<u8>> {
    use std::io::Seek;
    let mut head = Vec::new();
    file.take(HEAD).read_to_end(&mut head)?;
    file.rewind()?;
    Ok(head)
}

/// What a file is in place of what it should be.
fn stand_in(head: &[u8]) -> Option<&'static str> {
    if head.starts_with(LFS_POINTER) {
        return Some(
            "a git-lfs pointer, which stands for the file in a clone without git-lfs: run git lfs pull in its folder, or \
             download the file",
        );
    }
    let text = head.trim_ascii_start();
    let page = |tag: &str| text.len() >= tag.len() && text[..tag.len()].eq_ignore_ascii_case(tag.as_bytes());
    if page("<!doctype html") || page("<html") {
        return Some("a page of HTML, as a server gives for an error or a login, and no part of a model: download it again");
    }
    None
}

/// Refuses a link that leads out of `folder`: its content would land in a package. A snapshot of a Hugging Face cache
/// may link to the blobs of its repository.
///
/// # Errors
/// If it does, or cannot be followed.
pub(super) fn within(folder: &Path, path: &Path) -> Result<(), CheckpointError> {
    let real = |path: &Path| path.canonicalize().map_err(|source| CheckpointError::Io { path: path.into(), source });
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let target = real(path)?;
    if target.starts_with(real(folder)?) {
        return Ok(());
    }
    match hub_repository(path) {
        Some(repo) if target.starts_with(real(&repo)?) => Ok(()),
        _ => Err(CheckpointError::Outside { path: path.into(), target }),
    }
}

/// The folder `models--org--name` of a hub cache that `path` lies in as part of a snapshot, if it does.
///
/// Everything in a snapshot is a link to `../../blobs`. So paths that must not lead out of a checkpoint's folder may, in a
/// snapshot, lead to anywhere in this folder: it holds nothing but the one repository.
fn hub_repository(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.ancestors().find_map(|snapshots| {
        let repo = snapshots.parent()?;
        let named = snapshots.file_name()? == "snapshots" && repo.file_name()?.to_str()?.starts_with("models--");
        (named && path != snapshots && repo.join("blobs").is_dir()).then(|| repo.to_path_buf())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_and_pages_are_named_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let said = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            open(&path).map(|_| ()).map_err(|e| e.to_string())
        };
        assert!(
            said(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n").unwrap_err().contains("git lfs pull")
        );
        assert!(said(b"\n <!DOCTYPE html><title>Log in").unwrap_err().contains("a page of HTML"));
        assert_eq!(said(b"{}"), Ok(()));
        assert!(open(dir.path()).unwrap_err().to_string().contains("is a folder"));
        assert!(read(&path, 1).unwrap_err().to_string().contains("larger than"));
    }

    #[cfg(unix)]
    #[test]
    fn a_snapshot_of_a_hub_cache_may_link_to_the_blobs_of_its_repository() {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("models--org--name");
        let snapshot = repository.join("snapshots/0123/onnx");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir(repository.join("blobs")).unwrap();
        std::fs::write(repository.join("blobs/aa"), "x").unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("../../../blobs/aa", snapshot.join("model.onnx")).unwrap();
        std::os::unix::fs::symlink("../../../../secret", snapshot.join("secret")).unwrap();
        assert!(within(&snapshot, &snapshot.join("model.onnx")).is_ok());
        assert!(within(&snapshot, &snapshot.join("secret")).unwrap_err().to_string().contains("leads out"));
        assert_eq!(hub_repository(&repository.join("blobs/aa")), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn pipes_are_not_waited_for_and_links_stay_within_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("model"), dir.path().join("secret"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(&outside, "x").unwrap();
        std::fs::write(inside.join("a"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("out")).unwrap();
        std::os::unix::fs::symlink("a", inside.join("in")).unwrap();
        assert!(within(&inside, &inside.join("in")).is_ok());
        assert!(within(&inside, &inside.join("out")).unwrap_err().to_string().contains("leads out"));
        rustix::fs::mknodat(rustix::fs::CWD, inside.join("pipe"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert!(open(&inside.join("pipe")).unwrap_err().to_string().contains("a pipe"));
    }
}
