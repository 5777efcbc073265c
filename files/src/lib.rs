//! Files that appear under their name only when they are complete, their hashes, and whether they are still the same.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! let path = folder.path().join("greeting.txt");
//! haikuq_files::write_atomically(&path, b"hello")?;
//! assert_eq!(haikuq_files::hash_file(&path)?.bytes, 5);
//! # Ok(())
//! # }
//! ```

mod fingerprint;
mod mapped;

pub use fingerprint::{Fingerprint, Source};
pub use mapped::Mapped;

use haikuq_format::manifest::FileEntry;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// A file could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct ReadError {
    path: PathBuf,
    source: io::Error,
}

/// Name, size and SHA-256 of a file.
///
/// # Errors
/// If it cannot be read.
pub fn hash_file(path: &Path) -> Result<FileEntry, ReadError> {
    let fail = |source| ReadError { path: path.into(), source };
    let mut file = open_regular(path).map_err(fail)?;
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(fail)? {
            0 => break,
            n => {
                hash.update(&buffer[..n]);
                bytes += n as u64;
            }
        }
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(FileEntry { name, bytes, sha256: hex(&hash.finalize()) })
}

/// The bytes of words as files have them.
pub fn little_endian(words: &[u32]) -> std::borrow::Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        bytemuck::cast_slice(words).into()
    } else {
        words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>().into()
    }
}

/// Opens a regular file and nothing else: a pipe would be waited for, and a device may have no end.
///
/// # Errors
/// If it cannot be opened, or is something else.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true);
    // Opening must not block, nor make a device this program's terminal, before the kind of the path is known.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(path)?;
    let kind = file.metadata()?;
    match (kind.is_file(), kind.is_dir()) {
        (true, _) => Ok(file),
        (_, true) => Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder, and a file is needed")),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "it is a pipe, socket or device, and a file is needed")),
    }
}

/// The content of a regular file of at most `limit` bytes, whatever size the system says that it has.
///
/// # Errors
/// As [`open_regular`], or if there is more.
pub fn read_at_most(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {limit} bytes"))),
        false => Ok(bytes),
    }
}

/// [`read_at_most`] of a file in UTF-8.
///
/// # Errors
/// As there, or if it is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    let invalid = |e: std::string::FromUtf8Error| {
        let at = e.utf8_error().valid_up_to();
        io::Error::new(io::ErrorKind::InvalidData, format!("it is not UTF-8 from byte {at} on"))
    };
    String::from_utf8(read_at_most(path, limit)?).map_err(invalid)
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, b| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{b:02x}");
        text
    })
}

/// Writes `bytes` to a temporary file beside `path` and gives it its name once everything is on disk; a file that was
/// there is replaced.
///
/// # Errors
/// If the folder does not exist or cannot be written; nothing is left behind then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".").suffix(".partial");
    #[cfg(unix)]
    {
        // Temporary files are for their owner alone; a result has the permissions that the user's umask gives.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_the_one_that_sha256sum_prints() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".into();
        assert_eq!(hash_file(&path).unwrap(), FileEntry { name: "abc".into(), bytes: 3, sha256 });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_no_file_is_not_waited_for_and_what_has_no_end_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        for path in [&pipe, Path::new("/dev/zero"), Path::new("/dev/tty"), dir.path()] {
            assert!(open_regular(path).is_err(), "{}", path.display());
        }
        assert!(open_regular(&pipe).unwrap_err().to_string().contains("a pipe"));
        std::fs::write(dir.path().join("a"), "abcd").unwrap();
        assert_eq!(read_at_most(&dir.path().join("a"), 4).unwrap(), b"abcd");
        assert!(read_at_most(&dir.path().join("a"), 3).unwrap_err().to_string().contains("larger than 3 bytes"));
    }

    #[test]
    fn a_file_is_replaced_whole_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write_atomically(&path, b"first").unwrap();
        write_atomically(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_atomically(&dir.path().join("missing/a.json"), b"x").is_err());
    }
}
