//! The pages: chat app, benchmark and validation page, with the runtime that they load.

use super::ServeError;
use super::export::Folder;
use super::policy::{IMMUTABLE, REVALIDATE, shown, text};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tower_http::services::ServeDir;
use tower_http::services::fs::{Backend, DefaultServeDirFallback};

/// Where the pages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Site {
    /// A folder with an `index.html`.
    Folder(PathBuf),
    /// Within the program (cargo feature `site`).
    #[cfg(feature = "site")]
    Embedded,
    /// No pages: for servers of packages, or of an API, alone.
    None,
}

impl Site {
    /// The folder that is asked for; or else the site that the program was built with; or else that of the source tree.
    ///
    /// # Errors
    /// If there is no `index.html`.
    pub fn find(folder: Option<&Path>) -> Result<Self, ServeError> {
        let site = match folder {
            Some(folder) => Self::Folder(folder.into()),
            None => Self::built(),
        };
        if !site.has("index.html") {
            return Err(ServeError::NoSite { folder: site.place() });
        }
        Ok(site)
    }

    #[cfg(feature = "site")]
    fn built() -> Self {
        Self::Embedded
    }

    #[cfg(not(feature = "site"))]
    fn built() -> Self {
        Self::Folder(Path::new(env!("CARGO_MANIFEST_DIR")).join("../web/site"))
    }

    /// Whether there is a file of this path, relative and with slashes.
    pub fn has(&self, file: &str) -> bool {
        match self {
            Self::Folder(folder) => folder.join(file).is_file(),
            #[cfg(feature = "site")]
            Self::Embedded => super::embedded::has(file),
            Self::None => false,
        }
    }

    /// The folder, for messages.
    pub fn place(&self) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.clone(),
            #[cfg(feature = "site")]
            Self::Embedded => "the program's own site".into(),
            Self::None => PathBuf::new(),
        }
    }

    /// Writes all its files, but for hidden ones.
    pub(super) fn write(&self, to: &mut Folder) -> Result<(), ServeError> {
        match self {
            Self::Folder(folder) => copy(folder, Path::new(""), to),
            #[cfg(feature = "site")]
            Self::Embedded => super::embedded::files().try_for_each(|(path, bytes)| to.write(Path::new(&path), &bytes)),
            Self::None => Ok(()),
        }
    }

    /// The routes of all its files.
    pub(super) fn router(&self) -> Router {
        match self {
            Self::Folder(folder) => routes(ServeDir::new(folder), Some(folder.as_path().into())),
            #[cfg(feature = "site")]
            Self::Embedded => routes(super::embedded::service(), None),
            Self::None => Router::new(),
        }
    }
}

fn copy(folder: &Path, below: &Path, to: &mut Folder) -> Result<(), ServeError> {
    let from = folder.join(below);
    let read = |source| ServeError::Read { path: from.clone(), source };
    let entries = std::fs::read_dir(&from).map_err(read)?.collect::<Result<Vec<_>, _>>().map_err(read)?;
    for entry in entries {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with('.') {
            continue;
        }
        let path = below.join(name);
        if entry.path().is_dir() { copy(folder, &path, to)? } else { to.copy(&entry.path(), &path)? }
    }
    Ok(())
}

/// Files that stand beside their compressed forms (`.br`, `.gz`) are sent in those where the client takes them.
fn routes<B: Backend>(files: ServeDir<DefaultServeDirFallback, B>, folder: Option<Arc<Path>>) -> Router {
    let files = files.precompressed_br().precompressed_gzip().ignore_multi_range_requests(true);
    let below = files.clone();
    let root = get(async move |request: Request| answer(files, "", request).await);
    let below = get(async move |UrlPath(path): UrlPath<String>, request: Request| match folder {
        Some(folder) if !may_be_read(folder.clone(), path.clone()).await => not_found(&path),
        _ => answer(below, &path, request).await,
    });
    Router::new().route("/", root).route("/{*path}", below)
}

/// False for pipes and devices, which would be waited for.
async fn may_be_read(folder: Arc<Path>, path: String) -> bool {
    let is_other = move || std::fs::metadata(folder.join(path)).is_ok_and(|m| !m.is_file() && !m.is_dir());
    !tokio::task::spawn_blocking(is_other).await.unwrap_or(true)
}

/// The file at `path`, which is decoded already.
async fn answer<B: Backend>(mut files: ServeDir<DefaultServeDirFallback, B>, path: &str, request: Request) -> Response {
    // A folder given with --site may hold more than pages.
    if path.split('/').any(|segment| segment.starts_with('.')) {
        return not_found(path);
    }
    match files.try_call(request).await {
        Ok(response) if response.status() == StatusCode::NOT_FOUND => not_found(path),
        Ok(mut response) => {
            let hashed = path.split('/').rev().skip(1).any(|folder| folder == "assets");
            let cache = if hashed { IMMUTABLE } else { REVALIDATE };
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
            response.map(Body::new)
        }
        Err(error) if is_absent(&error) => not_found(path),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format_args!("{path}: {error}")),
    }
}

/// Whether an error says that there is no such file: none of this name, a path that goes on below a file, a name that no file
/// can have.
pub(super) fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound};
    [NotFound, NotADirectory, InvalidFilename, InvalidInput].contains(&error.kind())
}

fn not_found(path: &str) -> Response {
    text(StatusCode::NOT_FOUND, format_args!("there is no page {:?} here", shown(path)))
}
