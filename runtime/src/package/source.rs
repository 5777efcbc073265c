//! [`ByteSource`]: where a package's files come from.
//!
//! A package names its files by plain names and never by paths, so a source needs one operation: the bytes of a range
//! of a named file. Reading is asynchronous because a browser can do nothing else; a folder answers at once.

use crate::device::{Buffer, Queue};
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
#[cfg(all(feature = "native", not(target_arch = "wasm32")))]
use std::sync::{Arc, Mutex, PoisonError};

/// A boxed future, which may go from thread to thread.
#[cfg(not(target_arch = "wasm32"))]
pub type SourceFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A boxed future, which stays on its thread, as JavaScript's promises do.
#[cfg(target_arch = "wasm32")]
pub type SourceFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// `Send + Sync` natively. In a browser, whose values belong to one thread, all types are.
#[cfg(not(target_arch = "wasm32"))]
pub trait ThreadSafe: Send + Sync {}
#[cfg(not(target_arch = "wasm32"))]
impl<T: Send + Sync + ?Sized> ThreadSafe for T {}

/// `Send + Sync` natively. In a browser, whose values belong to one thread, all types are.
#[cfg(target_arch = "wasm32")]
pub trait ThreadSafe {}
#[cfg(target_arch = "wasm32")]
impl<T: ?Sized> ThreadSafe for T {}

/// A folder, a URL prefix, a cache: anything that has a package's files.
pub trait ByteSource: ThreadSafe {
    /// Bytes `range` of `file`, or as many of the first of them as come at once: none only where the file ends at or
    /// before `range.start`. Never more than `range` holds, so that the caller bounds the memory of a file that it does
    /// not trust yet.
    ///
    /// # Errors
    /// [`SourceError`] if `file` is no plain name, does not exist or cannot be read.
    fn read<'a>(&'a self, file: &'a str, range: Range<u64>) -> SourceFuture<'a, Result<Vec<u8>, SourceError>>;

    /// The whole of `file` in memory that is not the runtime's, with its SHA-256: for hosts that hash and upload faster than
    /// this crate does. `None` where the file is to be read piece by piece; a source that has nothing faster says so always.
    ///
    /// # Errors
    /// As for [`ByteSource::read`].
    fn hold<'a>(&'a self, file: &'a str) -> SourceFuture<'a, Result<Option<Box<dyn HeldFile>>, SourceError>> {
        let _ = file;
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Called when the bytes of `file` are not what the manifest says: drops a copy of them and gets another one from
    /// where it came. True where there is another one to read; a source that keeps no copies has none.
    ///
    /// # Errors
    /// If there should be another copy and it cannot be had.
    fn refresh<'a>(&'a self, file: &'a str) -> SourceFuture<'a, Result<bool, SourceError>> {
        let _ = file;
        Box::pin(std::future::ready(Ok(false)))
    }
}

/// A whole file in memory of the host's, such as an `ArrayBuffer` of the browser's. Its bytes stay as they are, and the
/// memory taken, until it is dropped.
pub trait HeldFile: ThreadSafe {
    /// Bytes there are.
    fn bytes(&self) -> u64;

    /// SHA-256 of all of them.
    fn sha256(&self) -> [u8; 32];

    /// A copy of those in `range`, which lies within them.
    fn copy(&self, range: Range<u64>) -> Vec<u8>;

    /// Writes those in `range` (whole words) to byte `to` of `buffer`.
    fn upload(&self, queue: &Queue, buffer: &Buffer, to: u64, range: Range<u64>);
}

impl<S: ByteSource + ?Sized> ByteSource for Box<S> {
    fn read<'a>(&'a self, file: &'a str, range: Range<u64>) -> SourceFuture<'a, Result<Vec<u8>, SourceError>> {
        (**self).read(file, range)
    }

    fn hold<'a>(&'a self, file: &'a str) -> SourceFuture<'a, Result<Option<Box<dyn HeldFile>>, SourceError>> {
        (**self).hold(file)
    }

    fn refresh<'a>(&'a self, file: &'a str) -> SourceFuture<'a, Result<bool, SourceError>> {
        (**self).refresh(file)
    }
}

/// Why a file of a package could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A path, a hidden file or a name with odd characters.
    #[error("{file:?} is not a plain file name (letters, digits, '.', '_' and '-', not starting with '.')")]
    Name {
        /// What was asked for.
        file: String,
    },
    /// No such file.
    #[error("{file} is missing from {place}")]
    Missing {
        /// Its name.
        file: String,
        /// Folder or URL prefix.
        place: String,
    },
    /// The file is there and cannot be read.
    #[error("cannot read {file} from {place}: {why}")]
    Read {
        /// Its name.
        file: String,
        /// Folder or URL prefix.
        place: String,
        /// What the system or the server says.
        why: String,
    },
}

/// Refuses everything but plain file names. Every [`ByteSource`] calls this before it touches a file system or a URL.
///
/// # Errors
/// [`SourceError::Name`].
pub fn check_file_name(file: &str) -> Result<(), SourceError> {
    match haikuq_format::manifest::is_plain_name(file) {
        true => Ok(()),
        false => Err(SourceError::Name { file: file.into() }),
    }
}

/// Files in memory: tests, and packages that a program carries in itself.
#[derive(Clone, Debug, Default)]
pub struct MemorySource {
    files: BTreeMap<String, Vec<u8>>,
}

impl MemorySource {
    /// A source of no files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces a file.
    pub fn insert(&mut self, file: impl Into<String>, bytes: Vec<u8>) {
        self.files.insert(file.into(), bytes);
    }

    /// Removes a file.
    pub fn remove(&mut self, file: &str) -> Option<Vec<u8>> {
        self.files.remove(file)
    }

    /// A file's bytes, to be changed in place.
    pub fn get_mut(&mut self, file: &str) -> Option<&mut Vec<u8>> {
        self.files.get_mut(file)
    }
}

impl<N: Into<String>> FromIterator<(N, Vec<u8>)> for MemorySource {
    fn from_iter<I: IntoIterator<Item = (N, Vec<u8>)>>(files: I) -> Self {
        Self { files: files.into_iter().map(|(name, bytes)| (name.into(), bytes)).collect() }
    }
}

impl ByteSource for MemorySource {
    fn read<'a>(&'a self, file: &'a str, range: Range<u64>) -> SourceFuture<'a, Result<Vec<u8>, SourceError>> {
        Box::pin(async move {
            check_file_name(file)?;
            let missing = || SourceError::Missing { file: file.into(), place: "memory".into() };
            let bytes = self.files.get(file).ok_or_else(missing)?;
            let clamp = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
            Ok(bytes[clamp(range.start).min(clamp(range.end))..clamp(range.end)].to_vec())
        })
    }
}

/// Refuses a link of a package that leads out of its folder: a package of a stranger is no reason to read other files.
/// The folder may be a snapshot in a Hugging Face cache (`models--…/snapshots/REVISION`), whose files are links to
/// `models--…/blobs`.
///
/// # Errors
/// If it does, or cannot be followed.
#[cfg(all(feature = "native", not(target_arch = "wasm32")))]
pub fn within(folder: &std::path::Path, path: &std::path::Path) -> std::io::Result<()> {
    // Nearly all files are no links.
    if !std::fs::symlink_metadata(path)?.is_symlink() {
        return Ok(());
    }
    let target = path.canonicalize()?;
    let folder = folder.canonicalize()?;
    let snapshots = folder.ancestors().find(|f| f.file_name().is_some_and(|name| name == "snapshots"));
    let blobs = snapshots
        .and_then(|s| s.parent())
        .filter(|repo| repo.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("models--")));
    if target.starts_with(&folder) || blobs.is_some_and(|repo| target.starts_with(repo.join("blobs"))) {
        return Ok(());
    }
    let target = target.display();
    Err(std::io::Error::other(format!("it is a link that leads out of the package's folder, to {target}")))
}

/// Files of a folder.
#[cfg(all(feature = "native", not(target_arch = "wasm32")))]
#[derive(Clone, Debug)]
pub struct FolderSource {
    folder: std::path::PathBuf,
    open: Arc<Mutex<BTreeMap<String, OpenFile>>>,
}

/// A file with its length when it was opened.
#[cfg(all(feature = "native", not(target_arch = "wasm32")))]
type OpenFile = Arc<(std::fs::File, u64)>;

/// Files that are kept open at once.
#[cfg(all(feature = "native", not(target_arch = "wasm32")))]
const MOST_OPEN: usize = 64;

#[cfg(all(feature = "native", not(target_arch = "wasm32")))]
impl FolderSource {
    /// The files of `folder`; nothing is opened yet.
    pub fn new(folder: impl Into<std::path::PathBuf>) -> Self {
        Self { folder: folder.into(), open: Arc::default() }
    }

    /// A regular file that lies in the folder, opened at its first use: rows of a table are many small reads.
    fn open(&self, file: &str) -> std::io::Result<OpenFile> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(file) {
            return Ok(file.clone());
        }
        if open.len() >= MOST_OPEN {
            open.clear();
        }
        let opened = Arc::new(self.open_anew(file)?);
        open.insert(file.to_owned(), opened.clone());
        Ok(opened)
    }

    fn open_anew(&self, file: &str) -> std::io::Result<(std::fs::File, u64)> {
        let path = self.folder.join(file);
        within(&self.folder, &path)?;
        // A named pipe would block, a device would never end.
        if !std::fs::metadata(&path)?.is_file() {
            return Err(std::io::Error::other("not a regular file"));
        }
        let open = std::fs::File::open(&path)?;
        let metadata = open.metadata()?;
        match metadata.is_file() {
            true => Ok((open, metadata.len())),
            false => Err(std::io::Error::other("not a regular file")),
        }
    }

    fn read_now(&self, file: &str, range: Range<u64>) -> Result<Vec<u8>, SourceError> {
        use std::io::ErrorKind;
        check_file_name(file)?;
        let place = || self.folder.display().to_string();
        let failed = |e: std::io::Error| match e.kind() {
            ErrorKind::NotFound => SourceError::Missing { file: file.into(), place: place() },
            _ => SourceError::Read { file: file.into(), place: place(), why: e.to_string() },
        };
        let (open, length) = &*self.open(file).map_err(failed)?;
        let wanted = range.end.min(*length).saturating_sub(range.start);
        let mut bytes = Vec::new();
        let capacity = usize::try_from(wanted).unwrap_or(usize::MAX);
        bytes.try_reserve_exact(capacity).map_err(|e| failed(std::io::Error::other(e)))?;
        bytes.resize(capacity, 0);
        let mut filled = 0;
        while filled < capacity {
            match read_at(open, &mut bytes[filled..], range.start + filled as u64) {
                // It has become shorter.
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(e)),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }
}

/// Reads at a position of its own: several may read one file.
#[cfg(all(feature = "native", unix))]
fn read_at(file: &std::fs::File, bytes: &mut [u8], position: u64) -> std::io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, bytes, position)
}

#[cfg(all(feature = "native", windows))]
fn read_at(file: &std::fs::File, bytes: &mut [u8], position: u64) -> std::io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, bytes, position)
}

#[cfg(all(feature = "native", not(target_arch = "wasm32")))]
impl ByteSource for FolderSource {
    fn read<'a>(&'a self, file: &'a str, range: Range<u64>) -> SourceFuture<'a, Result<Vec<u8>, SourceError>> {
        Box::pin(std::future::ready(self.read_now(file, range)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollster::block_on;

    #[test]
    fn only_plain_names_are_files() {
        let source = MemorySource::from_iter([("a.json", vec![1])]);
        for bad in ["", ".", "..", ".hidden", "../a.json", "/etc/passwd", "a/b", "a\\b", "a b", "C:a", "a\0", "ä.json"] {
            assert!(matches!(block_on(source.read(bad, 0..1)), Err(SourceError::Name { .. })), "{bad:?}");
        }
    }

    #[test]
    fn a_range_ends_where_the_file_ends() {
        let source = MemorySource::from_iter([("a", vec![1, 2, 3])]);
        let read = |range| block_on(source.read("a", range)).unwrap();
        assert_eq!(read(0..u64::MAX), [1, 2, 3]);
        assert_eq!(read(1..2), [2]);
        assert!(read(7..9).is_empty());
        assert!(matches!(block_on(source.read("b", 0..1)), Err(SourceError::Missing { .. })));
    }

    #[cfg(all(feature = "native", not(target_arch = "wasm32")))]
    #[test]
    fn a_folder_reads_as_memory_does() {
        let folder = std::env::temp_dir().join(format!("haikuq-source-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("sub")).unwrap();
        std::fs::write(folder.join("a"), [1, 2, 3]).unwrap();
        let source = FolderSource::new(&folder);
        assert_eq!(block_on(source.read("a", 0..u64::MAX)).unwrap(), [1, 2, 3]);
        assert_eq!(block_on(source.read("a", 1..2)).unwrap(), [2]);
        assert!(block_on(source.read("a", 7..9)).unwrap().is_empty());
        assert!(matches!(block_on(source.read("b", 0..1)), Err(SourceError::Missing { .. })));
        assert!(matches!(block_on(source.read("sub", 0..1)), Err(SourceError::Read { .. })), "a folder is no file");
        assert!(matches!(block_on(source.read("../a", 0..1)), Err(SourceError::Name { .. })));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
