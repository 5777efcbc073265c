//! The site within the program.

use rust_embed::RustEmbed;
use std::future::{Ready, ready};
use std::io::{self, Cursor};
use std::path::{Component, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tower_http::services::ServeDir;
use tower_http::services::fs::{Backend, DefaultServeDirFallback, File, Metadata};

/// `web/site` as it was when the program was built.
#[derive(RustEmbed)]
#[folder = "../web/site/"]
struct Pages;

/// Whether there is a file of this path.
pub(super) fn has(file: &str) -> bool {
    Pages::get(file).is_some()
}

/// Path and content of each file.
pub(super) fn files() -> impl Iterator<Item = (String, std::borrow::Cow<'static, [u8]>)> {
    Pages::iter().filter_map(|path| Some((path.to_string(), Pages::get(&path)?.data)))
}

pub(super) fn service() -> ServeDir<DefaultServeDirFallback, Embedded> {
    ServeDir::with_backend("", Embedded)
}

/// [`Pages`] as a file system.
#[derive(Clone, Debug)]
pub(super) struct Embedded;

#[derive(Clone, Copy, Debug)]
pub(super) struct EmbeddedMetadata {
    modified: Option<SystemTime>,
    bytes: u64,
    is_dir: bool,
}

#[derive(Debug)]
pub(super) struct EmbeddedFile {
    metadata: EmbeddedMetadata,
    bytes: Cursor<std::borrow::Cow<'static, [u8]>>,
}

impl Metadata for EmbeddedMetadata {
    fn is_dir(&self) -> bool {
        self.is_dir
    }

    fn modified(&self) -> io::Result<SystemTime> {
        self.modified.ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    fn len(&self) -> u64 {
        self.bytes
    }
}

impl AsyncRead for EmbeddedFile {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_read(context, buffer)
    }
}

impl AsyncSeek for EmbeddedFile {
    fn start_seek(mut self: Pin<&mut Self>, position: io::SeekFrom) -> io::Result<()> {
        Pin::new(&mut self.bytes).start_seek(position)
    }

    fn poll_complete(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(&mut self.bytes).poll_complete(context)
    }
}

impl File for EmbeddedFile {
    type Metadata = EmbeddedMetadata;
    type MetadataFuture<'a> = Ready<io::Result<EmbeddedMetadata>>;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        ready(Ok(self.metadata))
    }
}

impl Backend for Embedded {
    type File = EmbeddedFile;
    type Metadata = EmbeddedMetadata;
    type OpenFuture = Ready<io::Result<EmbeddedFile>>;
    type MetadataFuture = Ready<io::Result<EmbeddedMetadata>>;

    fn open(&self, path: PathBuf) -> Self::OpenFuture {
        ready(open(&key(path)).ok_or_else(|| io::ErrorKind::NotFound.into()))
    }

    fn metadata(&self, path: PathBuf) -> Self::MetadataFuture {
        let key = key(path);
        let folder = || key.is_empty() || Pages::iter().any(|f| f.strip_prefix(&*key).is_some_and(|f| f.starts_with('/')));
        ready(match open(&key) {
            Some(file) => Ok(file.metadata),
            None if folder() => Ok(EmbeddedMetadata { modified: None, bytes: 0, is_dir: true }),
            None => Err(io::ErrorKind::NotFound.into()),
        })
    }
}

fn open(key: &str) -> Option<EmbeddedFile> {
    let file = Pages::get(key)?;
    let modified = file.metadata.last_modified().map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s));
    let metadata = EmbeddedMetadata { modified, bytes: file.data.len() as u64, is_dir: false };
    Some(EmbeddedFile { metadata, bytes: Cursor::new(file.data) })
}

/// A path in the form of [`Pages`]: relative, with slashes.
fn key(path: PathBuf) -> String {
    let names = path.components().filter_map(|c| match c {
        Component::Normal(name) => name.to_str(),
        _ => None,
    });
    names.collect::<Vec<_>>().join("/")
}
