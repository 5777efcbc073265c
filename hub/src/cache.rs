//! The cache on disk, as Python's `huggingface_hub` lays it out, so that the two share files.
//!
//! ```text
//! CACHE/models--org--name/refs/main                      the commit that a branch or tag stood for last
//! CACHE/models--org--name/blobs/HASH                     a file's bytes, complete; HASH.incomplete: not yet
//! CACHE/models--org--name/snapshots/COMMIT/config.json   a link to ../../blobs/HASH
//! CACHE/.locks/models--org--name/HASH.lock               held by whoever writes the blob
//! ```

use super::HubError;
use super::id::{check_revision, is_plain_path};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Folders within snapshots, at most.
const MAX_DEPTH: usize = 8;

/// A model's part of the cache.
#[derive(Clone, Debug)]
pub(super) struct RepoCache {
    root: PathBuf,
    folder: PathBuf,
    locks: PathBuf,
}

/// Held while a blob is being written; other processes wait. The lock goes with the open file, so a process that was
/// killed holds nothing.
pub(super) struct BlobLock(#[allow(dead_code, reason = "closing it unlocks")] Option<File>);

impl RepoCache {
    pub(super) fn new(root: &Path, repo: &str) -> Self {
        let name = format!("models--{}", repo.replace('/', "--"));
        // Links are relative to the cache, but where it is must not depend on the current folder.
        let root = std::path::absolute(root).unwrap_or_else(|_| root.into());
        Self { folder: root.join(&name), locks: root.join(".locks").join(&name), root }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    pub(super) fn blob(&self, hash: &str) -> PathBuf {
        self.folder.join("blobs").join(hash)
    }

    /// Where the bytes of an unfinished blob are.
    pub(super) fn incomplete(&self, hash: &str) -> PathBuf {
        self.folder.join("blobs").join(format!("{hash}.incomplete"))
    }

    /// The commit that `revision` stands for as far as the cache knows.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return self.snapshot(revision).is_dir().then(|| revision.into());
        }
        check_revision(revision).ok()?;
        let commit = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_string()).filter(|c| is_commit(c))
    }

    /// Notes which commit a branch or tag stands for.
    pub(super) fn set_commit(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(&self.folder))?;
            haikuq_files::write_atomically(&path, commit.as_bytes())
        };
        write().map_err(HubError::io("write", &path))
    }

    /// Whether the snapshot has the file, with as many bytes.
    pub(super) fn has(&self, commit: &str, file: &str, bytes: u64) -> bool {
        fs::metadata(self.snapshot(commit).join(file)).is_ok_and(|m| m.is_file() && m.len() == bytes)
    }

    /// Files of a snapshot that are there in full, as paths within the repository.
    pub(super) fn files(&self, commit: &str) -> Vec<String> {
        let mut files = Vec::new();
        collect(&self.snapshot(commit), "", MAX_DEPTH, &mut files);
        files.sort_unstable();
        files
    }

    /// Waits for the lock of a blob; calls `waiting` once if another process holds it.
    pub(super) fn lock(&self, hash: &str, waiting: impl FnOnce()) -> Result<BlobLock, HubError> {
        let path = self.locks.join(format!("{hash}.lock"));
        for folder in [&self.locks, &self.folder.join("blobs")] {
            fs::create_dir_all(folder).map_err(HubError::io("create", folder))?;
        }
        let failed = HubError::io("lock", &path);
        let file = match File::options().read(true).write(true).create(true).truncate(false).open(&path) {
            Ok(file) => file,
            Err(error) => return Err(failed(error)),
        };
        let result = match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => {
                waiting();
                file.lock()
            }
            Err(fs::TryLockError::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        match result {
            Ok(()) => Ok(BlobLock(Some(file))),
            // Some network file systems have no locks; `huggingface_hub` goes on without them too.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(BlobLock(None)),
            Err(error) => Err(failed(error)),
        }
    }

    /// Puts a complete blob into a snapshot under the file's name. Replaces what was there in one step: another process
    /// may be reading it.
    pub(super) fn link(&self, commit: &str, file: &str, hash: &str) -> Result<(), HubError> {
        let path = self.snapshot(commit).join(file);
        let blob = self.blob(hash);
        let up = "../".repeat(file.matches('/').count() + 2);
        let link = || {
            let folder = path.parent().unwrap_or(&path);
            fs::create_dir_all(folder)?;
            let made = tempfile::Builder::new()
                .prefix(".")
                .suffix(".partial")
                .make_in(folder, |made| link_or_copy(Path::new(&format!("{up}blobs/{hash}")), &blob, made))?;
            made.into_temp_path().persist(&path).map_err(|e| e.error)
        };
        link().map_err(HubError::io("link", &path))
    }
}

#[cfg(unix)]
fn link_or_copy(relative: &Path, _blob: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(relative, path)
}

/// Windows makes symbolic links for some users only.
#[cfg(not(unix))]
fn link_or_copy(relative: &Path, blob: &Path, path: &Path) -> io::Result<()> {
    #[cfg(windows)]
    if std::os::windows::fs::symlink_file(relative, path).is_ok() {
        return Ok(());
    }
    let _ = relative;
    fs::hard_link(blob, path).or_else(|_| fs::copy(blob, path).map(|_| ()))
}

fn collect(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let name = format!("{prefix}{name}");
        // Follows links: one that leads nowhere is a file that is not there.
        match fs::metadata(entry.path()) {
            Ok(m) if m.is_dir() && depth > 0 => collect(&entry.path(), &format!("{name}/"), depth - 1, files),
            Ok(m) if m.is_file() && is_plain_path(&name) => files.push(name),
            _ => {}
        }
    }
}

/// Whether a revision is a full commit, which never changes.
pub(super) fn is_commit(revision: &str) -> bool {
    is_hex(revision, 40)
}

pub(super) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Bytes free for us on the disk of a folder that may not exist yet; none where the system does not say.
pub(super) fn free_space(folder: &Path) -> Option<u64> {
    let folder = folder.ancestors().find(|f| f.is_dir())?;
    #[cfg(unix)]
    {
        let stat = rustix::fs::statvfs(folder).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_snapshot_links_to_blobs() {
        let dir = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(dir.path(), "org/name");
        drop(cache.lock("aa", || panic!("nobody holds it")).unwrap());
        fs::write(cache.blob("aa"), "text").unwrap();
        for file in ["config.json", "onnx/model.onnx"] {
            cache.link(COMMIT, file, "aa").unwrap();
            cache.link(COMMIT, file, "aa").unwrap();
            assert!(cache.has(COMMIT, file, 4) && !cache.has(COMMIT, file, 5));
            let path = cache.snapshot(COMMIT).join(file);
            assert!(path.canonicalize().unwrap().starts_with(dir.path().canonicalize().unwrap().join("models--org--name/blobs")));
        }
        fs::write(cache.blob("cc"), "other").unwrap();
        cache.link(COMMIT, "config.json", "cc").unwrap();
        assert!(cache.has(COMMIT, "config.json", 5), "a file that changed is replaced");
        cache.link(COMMIT, "gone.json", "bb").unwrap();
        assert_eq!(cache.files(COMMIT), ["config.json", "onnx/model.onnx"]);
    }

    #[test]
    fn a_file_that_is_linked_again_is_there_all_the_time() {
        let dir = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(dir.path(), "org/name");
        drop(cache.lock("aa", || ()).unwrap());
        fs::write(cache.blob("aa"), "text").unwrap();
        cache.link(COMMIT, "config.json", "aa").unwrap();
        let path = cache.snapshot(COMMIT).join("config.json");
        std::thread::scope(|scope| {
            let links = scope.spawn(|| (0..500).try_for_each(|_| cache.link(COMMIT, "config.json", "aa")));
            while !links.is_finished() {
                assert_eq!(fs::read_to_string(&path).unwrap(), "text");
            }
            links.join().unwrap().unwrap();
        });
        assert_eq!(fs::read_dir(cache.snapshot(COMMIT)).unwrap().count(), 1, "nothing temporary is left");
    }

    #[test]
    fn a_branch_stands_for_a_commit_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(dir.path(), "org/name");
        assert_eq!(cache.commit("main"), None);
        cache.set_commit("refs/pr/1", COMMIT).unwrap();
        assert_eq!(cache.commit("refs/pr/1").as_deref(), Some(COMMIT));
        fs::create_dir_all(dir.path().join("models--org--name/refs")).unwrap();
        fs::write(dir.path().join("models--org--name/refs/main"), "../../..").unwrap();
        assert_eq!((cache.commit("main"), cache.commit("../main"), cache.commit(COMMIT)), (None, None, None));
    }
}
