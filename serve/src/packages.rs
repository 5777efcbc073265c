//! Packages over HTTP: `/packages/index.json`, and of each package its manifest and what that lists.

use super::ServeError;
use super::policy::{IMMUTABLE, REVALIDATE, shown, text};
use super::site::is_absent;
use axum::body::Body;
use axum::extract::{Path as UrlPath, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use haikuq_format::manifest::{FileEntry, MANIFEST_FILE, Manifest};
use haikuq_runtime::package::MAX_MANIFEST_BYTES;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tower_http::services::ServeFile;

/// How long a disk may take to open a file.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes read from a file at a time.
const CHUNK: usize = 256 << 10;

/// A package that is served from its folder, under the folder's name.
#[derive(Debug)]
pub struct ServedPackage {
    /// Name in URLs, before percent-encoding.
    pub name: String,
    pub(super) folder: PathBuf,
    latest: Mutex<Latest>,
}

/// The manifest as last read: a package that is converted again while it is served is served anew.
#[derive(Clone, Debug)]
struct Latest {
    modified: Option<SystemTime>,
    bytes: u64,
    manifest: Arc<Manifest>,
}

/// A package in `/packages/index.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PackageSummary {
    /// Name of its folder.
    pub name: String,
    /// Relative to the server's root, with a final slash.
    pub url: String,
    /// Name of the recipe that made it.
    pub recipe: String,
    /// Over all matrices, scales included.
    pub bits_per_weight: f64,
    /// Bytes of all shards.
    pub weight_bytes: u64,
    /// Numbers in all tensors.
    pub parameters: u64,
}

/// How pages load a package unless they are told otherwise: options of the npm package's `load`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PageLoad {
    /// `auto`, `exact` or `fast`.
    pub numerics: &'static str,
}

impl Default for PageLoad {
    fn default() -> Self {
        Self::new("auto")
    }
}

impl PageLoad {
    /// Numerics `auto`, `exact` or `fast`, all else as pages do by themselves.
    pub const fn new(numerics: &'static str) -> Self {
        Self { numerics }
    }
}

impl ServedPackage {
    /// Reads and checks the manifest in `folder`, and that all files it lists are there and as long as it says. Hashes
    /// are the client's to check.
    ///
    /// # Errors
    /// With the file that is missing or wrong.
    pub fn open(folder: &Path) -> Result<Self, ServeError> {
        let absolute = folder.canonicalize().map_err(|source| ServeError::Read { path: folder.into(), source })?;
        let name = absolute.file_name().and_then(|n| n.to_str());
        let name = name.ok_or_else(|| ServeError::Name { folder: folder.into() })?.to_owned();
        let latest = read_manifest(&absolute).map_err(|error| match error {
            ServeError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                ServeError::NoPackage { folder: folder.into() }
            }
            other => other,
        })?;
        for entry in files(&latest.manifest) {
            let path = absolute.join(&entry.name);
            let have = length(&absolute, &path).map_err(|source| ServeError::Read { path: path.clone(), source })?;
            if have != entry.bytes {
                return Err(ServeError::Size { path, have, need: entry.bytes });
            }
        }
        Ok(Self { name, folder: absolute, latest: Mutex::new(latest) })
    }

    /// The manifest as it was when it was last read.
    pub fn manifest(&self) -> Arc<Manifest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).manifest.clone()
    }

    /// Where the package is: `packages/NAME/`, relative to the server's root.
    pub fn url(&self) -> String {
        format!("packages/{}/", encode(&self.name))
    }

    /// What `/packages/index.json` says of it.
    pub fn summary(&self) -> PackageSummary {
        let manifest = self.manifest();
        PackageSummary {
            name: self.name.clone(),
            url: self.url(),
            recipe: manifest.provenance.recipe.clone(),
            bits_per_weight: manifest.bits_per_weight(),
            weight_bytes: manifest.weight_bytes(),
            parameters: manifest.tensors.iter().map(|t| t.shape.iter().map(|&n| n as u64).product::<u64>()).sum(),
        }
    }

    /// The manifest as it is now: read again if its file has changed.
    fn refresh(&self) -> Result<Arc<Manifest>, ServeError> {
        let path = self.folder.join(MANIFEST_FILE);
        let now = std::fs::metadata(&path).map_err(|source| ServeError::Read { path, source })?;
        let known = self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if (now.modified().ok(), now.len()) == (known.modified, known.bytes) {
            return Ok(known.manifest);
        }
        // Others need not wait while it is read.
        let latest = read_manifest(&self.folder)?;
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = latest.clone();
        Ok(latest.manifest)
    }
}

fn read_manifest(folder: &Path) -> Result<Latest, ServeError> {
    let path = folder.join(MANIFEST_FILE);
    let read = |source| ServeError::Read { path: path.clone(), source };
    // The time before the bytes: a manifest replaced in between is then read once too often, not once too seldom.
    let metadata = std::fs::metadata(&path).map_err(read)?;
    let bytes = haikuq_files::read_at_most(&path, MAX_MANIFEST_BYTES).map_err(read)?;
    let manifest = Manifest::from_json(&bytes).map_err(|source| ServeError::Manifest { path: path.clone(), source })?;
    Ok(Latest { modified: metadata.modified().ok(), bytes: metadata.len(), manifest: Arc::new(manifest) })
}

/// Bytes of a package's file, which is a regular one, in its folder or where a cache of the hub keeps the folder's files.
fn length(folder: &Path, path: &Path) -> io::Result<u64> {
    haikuq_runtime::package::within(folder, path)?;
    Ok(haikuq_files::open_regular(path)?.metadata()?.len())
}

/// Does what may wait for a disk, or for one that never answers, where nothing else waits for it.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> Result<T, ServeError> + Send + 'static) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(result)) => result.map_err(|e| e.to_string()),
        Ok(Err(panicked)) => Err(panicked.to_string()),
        Err(_) => Err(format!("the disk did not answer for {} s", PATIENCE.as_secs())),
    }
}

/// Every file that a manifest lists.
fn files(manifest: &Manifest) -> impl Iterator<Item = &FileEntry> {
    manifest.shards.iter().chain(&manifest.files)
}

/// A name as a segment of a URL's path; the characters of ordinary names stay as they are.
fn encode(name: &str) -> String {
    const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(name, RESERVED).to_string()
}

/// The packages by name, and how pages load them.
#[derive(Debug)]
pub(super) struct Packages {
    pub(super) by_name: BTreeMap<String, ServedPackage>,
    load: PageLoad,
}

impl Packages {
    pub(super) fn new(packages: Vec<ServedPackage>, load: PageLoad) -> Result<Self, ServeError> {
        let mut by_name = BTreeMap::<String, ServedPackage>::new();
        for package in packages {
            if let Some(first) = by_name.get(&package.name) {
                let (first, second) = (first.folder.clone(), package.folder.clone());
                return Err(ServeError::Duplicate { name: package.name, first, second });
            }
            by_name.insert(package.name.clone(), package);
        }
        Ok(Self { by_name, load })
    }

    /// `packages/index.json`.
    pub(super) fn index(&self) -> Index {
        Index { packages: self.by_name.values().map(ServedPackage::summary).collect(), load: self.load }
    }
}

/// What there is, and how pages load it.
#[derive(Debug, Serialize)]
pub(super) struct Index {
    packages: Vec<PackageSummary>,
    load: PageLoad,
}

/// The routes under `/packages/`.
pub(super) fn router(packages: Arc<Packages>) -> Router {
    Router::new().route("/packages/index.json", get(index)).route("/packages/{name}/{file}", get(file)).with_state(packages)
}

async fn index(State(packages): State<Arc<Packages>>) -> impl IntoResponse {
    // A package that has become unreadable since is listed as it was; its files' answers say what is wrong.
    let all = packages.clone();
    let refreshed = apart(move || {
        all.by_name.values().for_each(|package| drop(package.refresh()));
        Ok(())
    });
    let _ = refreshed.await;
    Json(packages.index())
}

/// The content that a client expects.
#[derive(Deserialize)]
struct Expected {
    sha256: Option<String>,
}

async fn file(
    State(packages): State<Arc<Packages>>,
    UrlPath((name, file)): UrlPath<(String, String)>,
    Query(expected): Query<Expected>,
    request: Request,
) -> Response {
    let Some(package) = packages.by_name.get(&name) else {
        return text(StatusCode::NOT_FOUND, format_args!("there is no package {:?} here", shown(&name)));
    };
    let (all, of) = (packages.clone(), name.clone());
    let refreshed = apart(move || all.by_name.get(&of).map(ServedPackage::refresh).transpose());
    let manifest = match refreshed.await {
        Ok(Some(manifest)) => manifest,
        Ok(None) => return text(StatusCode::NOT_FOUND, "there is no such package"),
        Err(error) => return text(StatusCode::SERVICE_UNAVAILABLE, error),
    };
    let entry = files(&manifest).find(|f| f.name == file);
    if entry.is_none() && file != MANIFEST_FILE {
        return text(StatusCode::NOT_FOUND, format_args!("the package {name:?} lists no file {:?}", shown(&file)));
    }
    let cache = match entry {
        Some(entry) if expected.sha256.as_ref() == Some(&entry.sha256) => IMMUTABLE,
        _ => REVALIDATE,
    };
    let (folder, path) = (package.folder.clone(), package.folder.join(&file));
    let readable = path.clone();
    // The code below names what is not there.
    let check = apart(move || match length(&folder, &readable) {
        Err(source) if !is_absent(&source) => Err(ServeError::Read { path: readable, source }),
        _ => Ok(()),
    });
    if let Err(error) = check.await {
        return text(StatusCode::SERVICE_UNAVAILABLE, error);
    }
    let mut service = ServeFile::new(&path).with_buf_chunk_size(CHUNK).ignore_multi_range_requests(true);
    match service.try_call(request).await {
        Ok(mut response) => {
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
            response.map(Body::new)
        }
        Err(error) if is_absent(&error) => {
            text(StatusCode::NOT_FOUND, format_args!("the package {name:?} has lost its file {file:?}"))
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format_args!("{file}: {error}")),
    }
}
