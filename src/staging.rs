//! [`Folder`]: an export or a merged package while it is written. It gets its name when it is complete.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A folder that cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StagingError {
    /// Something lies where the folder is to be.
    #[error("{}: {why}; name another folder, or remove this one", path.display())]
    Taken {
        /// The folder.
        path: PathBuf,
        /// What lies there.
        why: String,
    },
    /// A file or folder cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl StagingError {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        |source| Self::Io { path, source }
    }
}

/// A folder that is being written: a hidden one beside the target, which goes with this unless [`Folder::finish`] is called.
pub(crate) struct Folder {
    out: PathBuf,
    work: tempfile::TempDir,
    files: Vec<(String, u64)>,
}

impl Folder {
    /// # Errors
    /// If something lies at `out` that is no empty folder, or nothing can be written beside it.
    pub(crate) fn new(out: &Path) -> Result<Self, StagingError> {
        let taken = |why: &str| Err(StagingError::Taken { path: out.into(), why: why.into() });
        if out.file_name().is_none() {
            return taken("no folder can be made by that name");
        }
        match fs::symlink_metadata(out) {
            Ok(there) if !there.is_dir() => return taken("something that is no folder lies there"),
            Ok(_) if fs::read_dir(out).map_err(StagingError::io(out))?.next().is_some() => return taken("it has files already"),
            _ => {}
        }
        let parent = parent(out);
        fs::create_dir_all(parent).map_err(StagingError::io(parent))?;
        let work = tempfile::Builder::new().prefix(".haikuq-export-").tempdir_in(parent).map_err(StagingError::io(parent))?;
        // Within, because the folder around it is for its owner alone.
        let root = work.path().join("export");
        fs::create_dir(&root).map_err(StagingError::io(&root))?;
        Ok(Self { out: out.into(), work, files: Vec::new() })
    }

    /// Where it is written.
    pub(crate) fn root(&self) -> PathBuf {
        self.work.path().join("export")
    }

    /// Begins a file, by its path within the folder.
    pub(crate) fn create(&self, name: &str) -> Result<(File, PathBuf), StagingError> {
        let path = self.root().join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(StagingError::io(parent))?;
        }
        let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(StagingError::io(&path))?;
        Ok((file, path))
    }

    /// Ends a file: everything of it is on disk.
    pub(crate) fn close(&mut self, name: &str, file: &File, path: &Path) -> Result<(), StagingError> {
        file.sync_all().map_err(StagingError::io(path))?;
        let bytes = file.metadata().map_err(StagingError::io(path))?.len();
        self.files.push((name.into(), bytes));
        Ok(())
    }

    /// Writes a whole file.
    pub(crate) fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), StagingError> {
        let (mut file, path) = self.create(name)?;
        file.write_all(bytes).map_err(StagingError::io(&path))?;
        self.close(name, &file, &path)
    }

    /// Puts a file from elsewhere there: the same one under another name where both lie on one file system, else a copy.
    pub(crate) fn take(&mut self, name: &str, from: &Path) -> Result<(), StagingError> {
        let path = self.root().join(name);
        if fs::hard_link(from, &path).is_err() {
            fs::copy(from, &path).map_err(StagingError::io(&path))?;
        }
        let file = File::open(&path).map_err(StagingError::io(&path))?;
        self.close(name, &file, &path)
    }

    /// Gives the folder its name. The files with their sizes.
    pub(crate) fn finish(self) -> Result<Vec<(String, u64)>, StagingError> {
        if cfg!(windows) && self.out.is_dir() {
            // Only there an empty folder cannot be renamed over.
            fs::remove_dir(&self.out).map_err(StagingError::io(&self.out))?;
        }
        fs::rename(self.root(), &self.out).map_err(StagingError::io(&self.out))?;
        if cfg!(unix) {
            // The name is on disk, too. Windows cannot open folders.
            let parent = parent(&self.out);
            File::open(parent).and_then(|folder| folder.sync_all()).map_err(StagingError::io(parent))?;
        }
        Ok(self.files)
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
