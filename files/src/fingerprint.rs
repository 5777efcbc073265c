//! [`Fingerprint`]: whether a file is still the one that it was.

use serde::{Deserialize, Serialize};
use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How far apart two writes are at least for the clocks of file systems to tell them apart, generously.
const CLOCK_STEP: Duration = Duration::from_millis(20);

/// A file as its file system describes it. A program that writes to a file can set its size and its time back. Only the
/// system sets the time of the last change and the number of the file itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Size in bytes.
    pub bytes: u64,
    /// When it was written, in nanoseconds since 1970.
    pub modified: i128,
    /// When anything of it changed, its name and its times included, likewise; 0 where the system does not say.
    pub changed: i128,
    /// The file's number; 0 where the system has none.
    pub inode: u64,
}

/// A file that something is made of, as it was when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where it lies.
    pub path: PathBuf,
    /// What it was.
    pub fingerprint: Fingerprint,
}

impl Source {
    /// The file at `path` as it is now, before anything of it is read.
    ///
    /// # Errors
    /// If the system does not describe it.
    pub fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.into(), fingerprint: Fingerprint::settled(|| std::fs::metadata(path))? })
    }

    /// Whether it is the same file still, and nothing was written to it.
    pub fn is_unchanged(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|now| Fingerprint::of(&now) == self.fingerprint)
    }
}

impl Fingerprint {
    /// Of an open file, before anything of it is read.
    ///
    /// # Errors
    /// If the system does not describe it.
    pub fn of_file(file: &File) -> io::Result<Self> {
        Self::settled(|| file.metadata())
    }

    /// Whether an open file has this size and this time of writing.
    pub fn is_of(&self, file: &File) -> bool {
        file.metadata().is_ok_and(|now| {
            let now = Self::of(&now);
            (now.bytes, now.modified) == (self.bytes, self.modified)
        })
    }

    /// Waits until a further write would show: within one step of the clock it would not.
    fn settled(metadata: impl Fn() -> io::Result<Metadata>) -> io::Result<Self> {
        let mut found = Self::of(&metadata()?);
        for _ in 0..3 {
            let age = nanoseconds(Ok(SystemTime::now())) - found.changed.max(found.modified);
            // A time that lies ahead is another machine's, and no reason to wait for it.
            let Some(wait) = u64::try_from(age).ok().and_then(|age| CLOCK_STEP.checked_sub(Duration::from_nanos(age))) else {
                break;
            };
            std::thread::sleep(wait);
            found = Self::of(&metadata()?);
        }
        Ok(found)
    }

    fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let (changed, inode) = {
            use std::os::unix::fs::MetadataExt;
            (i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec()), metadata.ino())
        };
        #[cfg(not(unix))]
        let (changed, inode) = (nanoseconds(metadata.created()), 0);
        Self { bytes: metadata.len(), modified: nanoseconds(metadata.modified()), changed, inode }
    }
}

fn nanoseconds(time: io::Result<SystemTime>) -> i128 {
    let Ok(time) = time else { return 0 };
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_nanos() as i128,
        Err(before) => -(before.duration().as_nanos() as i128),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_write_shows_although_size_and_time_are_set_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "one").unwrap();
        let before = Source::new(&path).unwrap();
        assert!(before.is_unchanged());
        let stamp = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::write(&path, "two").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(stamp).unwrap();
        assert!(!before.is_unchanged());
        let after = Source::new(&path).unwrap().fingerprint;
        assert_eq!((after.bytes, after.modified), (before.fingerprint.bytes, before.fingerprint.modified));

        // Another file under the name.
        let before = Source::new(&path).unwrap();
        std::fs::write(dir.path().join("b"), "two").unwrap();
        std::fs::rename(dir.path().join("b"), &path).unwrap();
        assert!(!before.is_unchanged());
    }
}
