//! [`Folder`]: an export while it is written. It gets its name when it is complete.

use super::ExportError;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A folder that is being written: a hidden one beside the target, which goes with this unless [`Folder::finish`] is called.
pub(super) struct Folder {
    out: PathBuf,
    work: tempfile::TempDir,
    files: Vec<(String, u64)>,
}

impl Folder {
    /// # Errors
    /// If something lies at `out` that is no empty folder, or nothing can be written beside it.
    pub(super) fn new(out: &Path) -> Result<Self, ExportError> {
        let taken = |why: &str| Err(ExportError::Taken { path: out.into(), why: why.into() });
        if out.file_name().is_none() {
            return taken("no folder can be made by that name");
        }
        match fs::symlink_metadata(out) {
            Ok(there) if !there.is_dir() => return taken("something that is no folder lies there"),
            Ok(_) if fs::read_dir(out).map_err(ExportError::io(out))?.next().is_some() => return taken("it has files already"),
            _ => {}
        }
        let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(ExportError::io(parent))?;
        let work = tempfile::Builder::new().prefix(".haikuq-export-").tempdir_in(parent).map_err(ExportError::io(parent))?;
        // Within, because the folder around it is for its owner alone.
        let root = work.path().join("export");
        fs::create_dir(&root).map_err(ExportError::io(&root))?;
        Ok(Self { out: out.into(), work, files: Vec::new() })
    }

    fn root(&self) -> PathBuf {
        self.work.path().join("export")
    }

    /// Begins a file, by its path within the folder.
    pub(super) fn create(&self, name: &str) -> Result<(File, PathBuf), ExportError> {
        let path = self.root().join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(ExportError::io(parent))?;
        }
        let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(ExportError::io(&path))?;
        Ok((file, path))
    }

    /// Ends a file: everything of it is on disk.
    pub(super) fn close(&mut self, name: &str, file: &File, path: &Path) -> Result<(), ExportError> {
        file.sync_all().map_err(ExportError::io(path))?;
        let bytes = file.metadata().map_err(ExportError::io(path))?.len();
        self.files.push((name.into(), bytes));
        Ok(())
    }

    /// Ends a file that was on disk before.
    pub(super) fn listed(&mut self, name: &str, bytes: u64) {
        self.files.push((name.into(), bytes));
    }

    /// Writes a whole file.
    pub(super) fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), ExportError> {
        let (mut file, path) = self.create(name)?;
        file.write_all(bytes).map_err(ExportError::io(&path))?;
        self.close(name, &file, &path)
    }

    /// Gives the folder its name. The files with their sizes.
    pub(super) fn finish(self) -> Result<Vec<(String, u64)>, ExportError> {
        if cfg!(windows) && self.out.is_dir() {
            // Only there an empty folder cannot be renamed over.
            fs::remove_dir(&self.out).map_err(ExportError::io(&self.out))?;
        }
        fs::rename(self.root(), &self.out).map_err(ExportError::io(&self.out))?;
        Ok(self.files)
    }
}
