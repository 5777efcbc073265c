//! Every change that a conversion makes to a disk goes through here, so that tests can stop it at each of them.
//!
//! In debug builds `HAIKUQ_DISK=stop:N` ends the program at once in place of the N-th change, as a kill or a power cut
//! does, and `full:N` lets everything fail that takes space, from the N-th change on. Release builds have neither.

use super::ConvertError;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Makes a folder; one that is there is as good.
pub(super) fn create_folder(path: &Path) -> Result<(), ConvertError> {
    let create = || match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => Ok(()),
        Ok(_) => Err(io::Error::new(io::ErrorKind::NotADirectory, "something is there that is no folder")),
        Err(_) => fs::create_dir_all(path),
    };
    reached(true).and_then(|()| create()).map_err(ConvertError::io("create", path))
}

/// Opens a file to be written from its beginning, in place of what has its name.
pub(super) fn create_file(path: &Path) -> io::Result<File> {
    reached(true)?;
    // A link that lies there is not followed.
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Writes to a file.
pub(super) fn write(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    reached(true)?;
    file.write_all(bytes)
}

/// Waits until a file is on disk.
pub(super) fn sync(file: &File) -> io::Result<()> {
    reached(true)?;
    file.sync_all()
}

/// Writes a file and waits until it is on disk.
pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), ConvertError> {
    let all = || {
        let mut file = create_file(path)?;
        write(&mut file, bytes)?;
        sync(&file)
    };
    all().map_err(|source| ConvertError::Write { path: path.into(), source })
}

/// Waits until a folder's entries are on disk, where the system can (Windows cannot open folders).
pub(super) fn sync_folder(path: &Path) -> Result<(), ConvertError> {
    if cfg!(unix) {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let sync = || reached(false).and_then(|()| File::open(path)?.sync_all());
        sync().map_err(ConvertError::io("sync", path))?;
    }
    Ok(())
}

/// Gives a file or folder another name.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), ConvertError> {
    reached(false).and_then(|()| fs::rename(from, to)).map_err(ConvertError::io("create", to))
}

/// Removes a file, or a link and not what it leads to; one that is not there is as good.
pub(super) fn remove_file(path: &Path) -> Result<(), ConvertError> {
    absent(reached(false).and_then(|()| fs::remove_file(path))).map_err(ConvertError::io("remove", path))
}

/// Removes a folder that is empty; one that is not there is as good. False if there is something in it.
pub(super) fn remove_empty(path: &Path) -> Result<bool, ConvertError> {
    match absent(reached(false).and_then(|()| fs::remove_dir(path))) {
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        other => other.map(|()| true).map_err(ConvertError::io("remove", path)),
    }
}

/// Removes a folder's files and then the folder; folders in it stay, and so does it then.
pub(super) fn remove_flat(path: &Path) -> Result<(), ConvertError> {
    for entry in entries(path)? {
        if fs::symlink_metadata(&entry).is_ok_and(|m| !m.is_dir()) {
            remove_file(&entry)?;
        }
    }
    remove_empty(path).map(|_| ())
}

/// What lies in a folder, in order; nothing where there is no folder, or a link to one.
pub(super) fn entries(path: &Path) -> Result<Vec<std::path::PathBuf>, ConvertError> {
    if !fs::symlink_metadata(path).is_ok_and(|m| m.is_dir()) {
        return Ok(Vec::new());
    }
    let read = || fs::read_dir(path)?.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>();
    let mut entries = read().map_err(ConvertError::io("read", path))?;
    entries.sort();
    Ok(entries)
}

fn absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Where tests stop a conversion; `grows` says that what follows takes space.
#[cfg(debug_assertions)]
pub(super) fn reached(grows: bool) -> io::Result<()> {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicUsize, Ordering};
    static CHANGES: AtomicUsize = AtomicUsize::new(0);
    static AT: LazyLock<Option<(bool, usize)>> = LazyLock::new(|| {
        let text = std::env::var("HAIKUQ_DISK").ok()?;
        let (what, at) = text.split_once(':')?;
        Some((what == "full", at.parse().ok()?))
    });
    let now = CHANGES.fetch_add(1, Ordering::Relaxed) + 1;
    match *AT {
        Some((false, at)) if now == at => std::process::exit(77),
        Some((true, at)) if now >= at && grows => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    }
}

#[cfg(not(debug_assertions))]
pub(super) fn reached(_: bool) -> io::Result<()> {
    Ok(())
}
