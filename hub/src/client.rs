//! Requests to the hub: who is sent the token, which errors pass, and what the others mean.

use super::choice::ChoiceError;
use super::id::{HubId, is_plain_path};
use super::settings::{Retry, Settings};
use super::{HubError, cache};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;
use ureq::http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, LOCATION, RANGE, RETRY_AFTER};
use ureq::http::request::Builder;
use ureq::http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, SendBody};

const MAX_REDIRECTS: usize = 8;

/// Of what git's large files are arranged by.
pub(super) const LFS_MEDIA_TYPE: &str = "application/vnd.git-lfs+json";

/// Longest answer that is read into memory; listings of the largest repositories are a few MB.
const MAX_TEXT: u64 = 64 << 20;

/// Size and hash of a file that is kept elsewhere.
const LINKED_ETAG: &str = "x-linked-etag";
const LINKED_SIZE: &str = "x-linked-size";

/// Longest wait that a server may ask for.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Left as they are in a part of an address.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// The same for paths.
const PATH: &AsciiSet = &NAME.remove(b'/');

/// How a file's bytes can be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    /// Of a large file's bytes.
    Sha256(String),
    /// Git's own of a small file: SHA-1 of `blob LENGTH\0` and the bytes.
    GitBlob(String),
    /// Some name that tells versions apart; nothing to check.
    Opaque(String),
}

impl Hash {
    /// The blob's name in the cache.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Sha256(name) | Self::GitBlob(name) | Self::Opaque(name) => name,
        }
    }
}

/// A file of a repository.
#[derive(Clone, Debug)]
pub(super) struct RemoteFile {
    pub(super) path: String,
    /// Size and hash, where the listing has them.
    pub(super) content: Option<Content>,
}

/// What is known of a file's bytes.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) bytes: u64,
    pub(super) hash: Hash,
}

/// A repository at a commit.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: Vec<RemoteFile>,
    /// Whether only some see it; not every mirror says.
    pub(super) private: Option<bool>,
}

/// Why a request did not get what it wanted.
pub(super) enum Trouble {
    /// It may the next time.
    Passing {
        why: String,
        /// As long as the server asks to wait.
        wait: Option<Duration>,
    },
    /// The bytes that are here do not fit the server's: it may if they are thrown away.
    Range { why: String },
    /// It will not.
    Lasting(HubError),
}

impl From<HubError> for Trouble {
    fn from(error: HubError) -> Self {
        Self::Lasting(error)
    }
}

/// What is asked for, for messages.
#[derive(Clone, Copy)]
pub(super) enum Asked<'a> {
    Listing,
    File(&'a str),
    /// Anything that changes the repository.
    Write(&'a str),
}

impl Asked<'_> {
    fn text(self) -> String {
        match self {
            Self::Listing => "the list of files".into(),
            Self::File(file) | Self::Write(file) => file.into(),
        }
    }
}

/// What a request carries.
#[derive(Clone, Copy)]
pub(super) struct Cargo<'a> {
    /// Headers beside those that every request has.
    pub(super) headers: &'a [(String, String)],
    pub(super) bytes: Bytes<'a>,
}

#[derive(Clone, Copy)]
pub(super) enum Bytes<'a> {
    None,
    /// A text of that media type.
    Text(&'a str, &'a [u8]),
    Part(&'a Part<'a>),
}

/// Some bytes of a file on disk.
pub(super) struct Part<'a> {
    pub(super) path: &'a Path,
    pub(super) start: u64,
    pub(super) bytes: u64,
    /// Told how many were read so far.
    pub(super) on_bytes: &'a dyn Fn(u64),
}

/// A file's part as it is read, counted.
struct Counted<'a> {
    file: std::io::Take<File>,
    got: u64,
    on_bytes: &'a dyn Fn(u64),
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.got += n as u64;
        (self.on_bytes)(self.got);
        Ok(n)
    }
}

/// Asks for one repository.
pub(super) struct Client<'a> {
    agent: Agent,
    settings: &'a Settings,
    endpoint: Uri,
    id: &'a HubId,
    revision: &'a str,
    way_out: &'static str,
}

impl<'a> Client<'a> {
    /// A client that publishes, for which the cache is no way out.
    pub(super) fn publishing(settings: &'a Settings, id: &'a HubId, revision: &'a str) -> Result<Self, HubError> {
        Ok(Self { way_out: "HF_ENDPOINT names a mirror", ..Self::new(settings, id, revision)? })
    }

    pub(super) fn new(settings: &'a Settings, id: &'a HubId, revision: &'a str) -> Result<Self, HubError> {
        let endpoint = settings.endpoint.parse().map_err(|_| HubError::Endpoint { text: settings.endpoint.clone() })?;
        let timeout = Some(settings.retry.timeout);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // The token must not follow a redirect, so they are followed here.
            .max_redirects(0)
            .user_agent(concat!("haikuq/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(timeout)
            .timeout_connect(timeout)
            .timeout_recv_response(timeout)
            .timeout_per_read(timeout)
            .timeout_per_write(timeout)
            .tls_config(tls_config(settings)?);
        let way_out = "without a network, --offline uses what is in the cache, and HF_ENDPOINT names a mirror";
        Ok(Self { agent: config.build().into(), settings, endpoint, id, revision, way_out })
    }

    pub(super) fn retry(&self) -> Retry {
        self.settings.retry
    }

    pub(super) fn repo(&self) -> &str {
        &self.id.repo
    }

    pub(super) fn revision(&self) -> &str {
        self.revision
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.settings.endpoint
    }

    /// `ENDPOINT/api/models/REPO/VERB/REVISION`.
    pub(super) fn api(&self, verb: &str) -> String {
        let revision = utf8_percent_encode(self.revision, NAME);
        format!("{}/api/models/{}/{verb}/{revision}", self.settings.endpoint, self.id.repo)
    }

    /// What the hub says about the model's licence: `license`, `license_name` and `license_link` of its card.
    pub(super) fn licence(&self, on_wait: &dyn Fn(&str, Duration)) -> Result<super::Licence, HubError> {
        self.persist(Asked::Listing, on_wait, || {
            let response = self.send(&Method::GET, &self.api("revision"), None, Asked::Listing)?;
            let answer: WithCard = serde_json::from_slice(&self.text(response, Asked::Listing)?)
                .map_err(|e| self.unexpected(Asked::Listing, format!("it says nothing of a model: {e}")))?;
            Ok(answer.licence())
        })
    }

    /// A small file's bytes.
    pub(super) fn small_file(&self, commit: &str, file: &str, on_wait: &dyn Fn(&str, Duration)) -> Result<Vec<u8>, HubError> {
        let (url, asked) = (self.file_url(commit, file), Asked::File(file));
        self.persist(asked, on_wait, || self.text(self.send(&Method::GET, &url, None, asked)?, asked))
    }

    /// Posts JSON, or another text, and reads the answer; tries again after what passes.
    pub(super) fn post(
        &self,
        url: &str,
        media_type: &str,
        text: &[u8],
        asked: Asked,
        on_wait: &dyn Fn(&str, Duration),
    ) -> Result<Vec<u8>, HubError> {
        let accepted = [(ACCEPT.to_string(), media_type.to_string())];
        // Answers to commits are plain JSON.
        let headers = if media_type == LFS_MEDIA_TYPE { &accepted[..] } else { &[] };
        let cargo = Cargo { headers, bytes: Bytes::Text(media_type, text) };
        self.persist(asked, on_wait, || self.text(self.exchange(&Method::POST, url, cargo, asked)?, asked))
    }

    /// The commit that the revision stands for, and its files; tries again after what passes.
    pub(super) fn listing(&self, on_wait: &dyn Fn(&str, Duration)) -> Result<Listing, HubError> {
        let url = format!("{}?blobs=true", self.api("revision"));
        self.persist(Asked::Listing, on_wait, || {
            let response = self.send(&Method::GET, &url, None, Asked::Listing)?;
            let answer: ModelInfo = serde_json::from_slice(&self.text(response, Asked::Listing)?)
                .map_err(|e| self.unexpected(Asked::Listing, format!("it is no list of files: {e}")))?;
            answer.listing().map_err(|why| self.unexpected(Asked::Listing, why).into())
        })
    }

    /// Size and hash of a file that the listing has none of, from what a request for it would bring.
    pub(super) fn describe(&self, commit: &str, file: &str, on_wait: &dyn Fn(&str, Duration)) -> Result<Content, HubError> {
        let url = self.file_url(commit, file);
        let asked = Asked::File(file);
        self.persist(asked, on_wait, || {
            let response = self.send(&Method::HEAD, &url, None, asked)?;
            let redirects = response.status().is_redirection();
            content_of(response.headers(), redirects).map_err(|why| self.unexpected(asked, why).into())
        })
    }

    /// The bytes of a file from `start` on.
    pub(super) fn download(&self, commit: &str, file: &str, start: u64) -> Result<Response<Body>, Trouble> {
        self.send(&Method::GET, &self.file_url(commit, file), Some(start).filter(|s| *s > 0), Asked::File(file))
    }

    fn file_url(&self, commit: &str, file: &str) -> String {
        let (endpoint, repo) = (&self.settings.endpoint, &self.id.repo);
        format!("{endpoint}/{repo}/resolve/{}/{}", utf8_percent_encode(commit, NAME), utf8_percent_encode(file, PATH))
    }

    /// Tries until it works, it is clear that it will not, or it was tried often enough.
    pub(super) fn persist<T>(
        &self,
        asked: Asked,
        on_wait: &dyn Fn(&str, Duration),
        mut attempt: impl FnMut() -> Result<T, Trouble>,
    ) -> Result<T, HubError> {
        let mut failures = 0;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(Trouble::Lasting(error)) => return Err(error),
                Err(Trouble::Range { why }) => return Err(self.unexpected(asked, why)),
                Err(Trouble::Passing { why, wait }) => {
                    failures += 1;
                    if failures >= self.retry().attempts {
                        return Err(match asked {
                            Asked::Write(what) => {
                                HubError::NotSent { repo: self.id.repo.clone(), what: what.into(), attempts: failures, why }
                            }
                            _ => self.unreachable(asked, why),
                        });
                    }
                    let wait = wait.unwrap_or_else(|| backoff(self.retry(), failures));
                    on_wait(&why, wait);
                    std::thread::sleep(wait);
                }
            }
        }
    }

    /// Sends a request and follows redirects; the token goes to the endpoint's origin alone. A `HEAD` ends at a redirect
    /// that describes the file, or that leads to another origin.
    fn send(&self, method: &Method, url: &str, start: Option<u64>, asked: Asked) -> Result<Response<Body>, Trouble> {
        let range = start.map(|start| (RANGE.to_string(), format!("bytes={start}-")));
        self.exchange(method, url, Cargo { headers: range.as_slice(), bytes: Bytes::None }, asked)
    }

    /// The same with what the request carries, which goes wherever redirects lead.
    pub(super) fn exchange(&self, method: &Method, url: &str, cargo: Cargo, asked: Asked) -> Result<Response<Body>, Trouble> {
        let bad_address = |text: &str| self.unexpected(asked, format!("{text:?} is no address"));
        let mut url: Uri = url.parse().map_err(|_| bad_address(url))?;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = Request::builder().method(method).uri(&url);
            for (name, value) in cargo.headers {
                request = request.header(name, value);
            }
            let authorized = cargo.headers.iter().any(|h| h.0.eq_ignore_ascii_case(AUTHORIZATION.as_str()));
            if let Some(token) = self.settings.token.as_ref().filter(|_| !authorized && same_origin(&url, &self.endpoint)) {
                request = request.header(AUTHORIZATION, token.header());
            }
            let response = self.run(request, cargo.bytes, &url, asked)?;
            if !response.status().is_redirection() {
                return match response.status().is_success() {
                    true => Ok(response),
                    false => Err(self.refusal(response, &url, asked)),
                };
            }
            let to = header(response.headers(), LOCATION.as_str()).unwrap_or_default();
            let next = follow(&url, to).ok_or_else(|| bad_address(to))?;
            if method == Method::HEAD && (response.headers().contains_key(LINKED_ETAG) || !same_origin(&next, &url)) {
                return Ok(response);
            }
            url = next;
        }
        Err(self.unexpected(asked, format!("more than {MAX_REDIRECTS} redirects")).into())
    }

    fn run(&self, request: Builder, bytes: Bytes, url: &Uri, asked: Asked) -> Result<Response<Body>, Trouble> {
        let malformed = |e: ureq::http::Error| Trouble::from(self.unexpected(asked, e.to_string()));
        let answer = match bytes {
            Bytes::None => self.agent.run(request.body(()).map_err(malformed)?),
            Bytes::Text(media_type, text) => {
                self.agent.run(request.header(CONTENT_TYPE, media_type).body(text).map_err(malformed)?)
            }
            Bytes::Part(part) => {
                let opened = haikuq_files::open_regular(part.path).and_then(|mut file| {
                    file.seek(SeekFrom::Start(part.start))?;
                    Ok(file)
                });
                let file = opened.map_err(HubError::io("read", part.path))?.take(part.bytes);
                let mut reader = Counted { file, got: 0, on_bytes: part.on_bytes };
                // A length keeps it from being sent in chunks, which stores of objects do not take.
                let request = request.header(CONTENT_LENGTH, part.bytes).body(SendBody::from_reader(&mut reader));
                self.agent.run(request.map_err(malformed)?)
            }
        };
        answer.map_err(|e| self.no_answer(url, asked, e))
    }

    pub(super) fn text(&self, response: Response<Body>, asked: Asked) -> Result<Vec<u8>, Trouble> {
        let mut text = Vec::new();
        let read = response.into_body().into_reader().take(MAX_TEXT + 1).read_to_end(&mut text);
        read.map_err(|e| Trouble::Passing { why: e.to_string(), wait: None })?;
        match text.len() as u64 > MAX_TEXT {
            true => Err(self.unexpected(asked, format!("it has over {MAX_TEXT} bytes")).into()),
            false => Ok(text),
        }
    }

    fn host(&self, url: &Uri) -> String {
        url.authority().map_or_else(String::new, |a| a.to_string())
    }

    pub(super) fn unexpected(&self, asked: Asked, why: String) -> HubError {
        HubError::Answer { host: self.host(&self.endpoint), what: asked.text(), why }
    }

    fn unreachable(&self, asked: Asked, why: String) -> HubError {
        let what = format!("{} of {}", asked.text(), self.id.repo);
        HubError::Unreachable { host: self.host(&self.endpoint), what, why, way_out: self.way_out }
    }

    /// What it means that there is no answer at all.
    fn no_answer(&self, url: &Uri, asked: Asked, error: ureq::Error) -> Trouble {
        let host = self.host(url);
        match error {
            // A second question would get the same answer.
            ureq::Error::HostNotFound => self.unreachable(asked, format!("the name {host} is not known")).into(),
            ureq::Error::Rustls(_) | ureq::Error::Tls(_) | ureq::Error::InvalidProxyUrl => {
                self.unreachable(asked, format!("{host}: {error}")).into()
            }
            error => Trouble::Passing { why: format!("{host}: {error}"), wait: None },
        }
    }

    /// What it means that a request was refused.
    fn refusal(&self, response: Response<Body>, url: &Uri, asked: Asked) -> Trouble {
        let headers = response.headers();
        let status = response.status();
        let code = header(headers, "x-error-code").unwrap_or_default();
        let message = header(headers, "x-error-message").map_or_else(String::new, |m| format!(": {}", shortened(m)));
        let (endpoint, repo) = (self.settings.endpoint.clone(), self.id.repo.clone());
        // Another host was not sent the token, and says nothing about the hub's rights.
        let ours = same_origin(url, &self.endpoint);
        let token_origin = self.settings.token.as_ref().map(|t| t.origin.clone());
        Trouble::Lasting(match (status, code) {
            (StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT, _) => return self.later(headers, status, url),
            (status, _) if status.is_server_error() => return self.later(headers, status, url),
            (StatusCode::RANGE_NOT_SATISFIABLE, _) => return Trouble::Range { why: format!("{}: HTTP 416", self.host(url)) },
            // A signed address that is too old, or stands for parts that were thrown away: the hub gives a new one.
            (StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND, _) if !ours && matches!(asked, Asked::Write(_)) => {
                return Trouble::Passing { why: format!("{}: HTTP {}", self.host(url), status.as_u16()), wait: None };
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) if !ours => {
                return Trouble::Passing { why: format!("{}: HTTP {}", self.host(url), status.as_u16()), wait: None };
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, "GatedRepo") => HubError::Gated { endpoint, repo, token_origin },
            (StatusCode::UNAUTHORIZED, _) => HubError::Unauthorized { endpoint, repo, token_origin },
            (StatusCode::FORBIDDEN, _) => HubError::Forbidden { endpoint, repo, what: asked.text(), token_origin, message },
            (StatusCode::NOT_FOUND, "RepoNotFound") => HubError::NoModel { endpoint, repo },
            (StatusCode::NOT_FOUND, "RevisionNotFound") => self.no_revision(),
            (StatusCode::NOT_FOUND, _) => match asked {
                Asked::File(file) => HubError::NoFile { repo, revision: self.revision.into(), file: file.into() },
                // Mirrors without error codes: the model is there if its default branch was not asked for.
                Asked::Listing if self.id.revision.is_some() => self.no_revision(),
                Asked::Listing | Asked::Write(_) => HubError::NoModel { endpoint, repo },
            },
            // The branch moved, or something of that name is there.
            (StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED, _) if matches!(asked, Asked::Write(_)) => {
                HubError::Conflict { repo, what: asked.text(), status: status.as_u16(), message }
            }
            _ => self.unexpected(asked, format!("HTTP {}{message}", status.as_u16())),
        })
    }

    fn no_revision(&self) -> HubError {
        HubError::NoRevision {
            endpoint: self.settings.endpoint.clone(),
            repo: self.id.repo.clone(),
            revision: self.revision.into(),
        }
    }

    /// A server that is busy: when it wants to be asked again.
    fn later(&self, headers: &HeaderMap, status: StatusCode, url: &Uri) -> Trouble {
        let wait = header(headers, RETRY_AFTER.as_str()).and_then(|s| s.trim().parse().ok()).map(Duration::from_secs);
        let host = self.host(url);
        match wait {
            Some(wait) if wait > MAX_WAIT && status == StatusCode::TOO_MANY_REQUESTS => {
                HubError::RateLimited { host, seconds: wait.as_secs() }.into()
            }
            wait => Trouble::Passing { why: format!("{host}: HTTP {}", status.as_u16()), wait: wait.map(|w| w.min(MAX_WAIT)) },
        }
    }
}

/// The wait after so many failures in a row.
pub(super) fn backoff(retry: Retry, failures: u32) -> Duration {
    retry.first_wait.saturating_mul(1 << (failures - 1).min(16)).min(MAX_WAIT)
}

/// The usual certificate authorities, or those that the environment names.
fn tls_config(settings: &Settings) -> Result<TlsConfig, HubError> {
    let builder = TlsConfig::builder();
    let Some(path) = &settings.certificates else { return Ok(builder.build()) };
    let fail = |why: String| HubError::Certificates { path: path.clone(), why };
    let pem = haikuq_files::read_at_most(path, 64 << 20).map_err(|e| fail(e.to_string()))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|e| fail(e.to_string()))? {
            certificates.push(certificate);
        }
    }
    match certificates.is_empty() {
        true => Err(fail("there is no certificate in it".into())),
        false => Ok(builder.root_certs(RootCerts::new_with_certs(&certificates)).build()),
    }
}

pub(super) fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// A server's words, fit for one line of a terminal.
pub(super) fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// Where a redirect leads.
fn follow(from: &Uri, to: &str) -> Option<Uri> {
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    let to = to.split('#').next().filter(|to| !to.is_empty())?;
    let text = match to {
        _ if to.starts_with("//") => format!("{scheme}:{to}"),
        _ if to.starts_with('/') => format!("{scheme}://{authority}{to}"),
        _ if to.contains("://") => to.into(),
        _ => format!("{scheme}://{authority}{}/{to}", from.path().rsplit_once('/').map_or("", |p| p.0)),
    };
    let uri: Uri = text.parse().ok()?;
    matches!(uri.scheme_str(), Some("http" | "https")).then_some(uri)
}

/// Same scheme, host and port.
fn same_origin(a: &Uri, b: &Uri) -> bool {
    let origin = |uri: &Uri| {
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        Some((scheme, uri.host()?.to_ascii_lowercase(), port))
    };
    origin(a).is_some() && origin(a) == origin(b)
}

/// `api/models/ID/revision/REVISION?blobs=true`.
#[derive(Deserialize)]
struct ModelInfo {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
    private: Option<bool>,
}

/// The same address: what the model's card says.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WithCard {
    #[serde(default)]
    card_data: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    tags: Vec<String>,
}

impl WithCard {
    fn licence(self) -> super::Licence {
        let of = |key: &str| match self.card_data.get(key) {
            Some(serde_json::Value::String(text)) => Some(text.clone()),
            // Some cards name several.
            Some(serde_json::Value::Array(list)) if list.len() == 1 => list[0].as_str().map(str::to_string),
            _ => None,
        };
        let tag = || self.tags.iter().find_map(|tag| tag.strip_prefix("license:")).map(str::to_string);
        super::Licence { id: of("license").or_else(tag), name: of("license_name"), link: of("license_link") }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    #[serde(alias = "oid")]
    sha256: String,
    size: Option<u64>,
}

impl ModelInfo {
    fn listing(self) -> Result<Listing, String> {
        if !cache::is_commit(&self.sha) {
            return Err(format!("{:?} is no commit", shortened(&self.sha)));
        }
        // A path that would leave the folder is nobody's weights.
        let files = self.siblings.into_iter().filter(|s| is_plain_path(&s.rfilename));
        Ok(Listing { commit: self.sha, files: files.map(Sibling::file).collect(), private: self.private })
    }
}

impl Sibling {
    fn file(self) -> RemoteFile {
        let content = match (self.lfs, self.blob_id, self.size) {
            (Some(lfs), _, size) if cache::is_hex(&lfs.sha256, 64) => {
                lfs.size.or(size).map(|bytes| Content { bytes, hash: Hash::Sha256(lfs.sha256) })
            }
            (None, Some(id), Some(bytes)) if cache::is_hex(&id, 40) => Some(Content { bytes, hash: Hash::GitBlob(id) }),
            _ => None,
        };
        RemoteFile { path: self.rfilename, content }
    }
}

/// Size and hash from the headers of a file or of the redirect to it: the hub's own, or those of a mirror, whose hashes
/// of small files may be of any kind.
fn content_of(headers: &HeaderMap, redirects: bool) -> Result<Content, String> {
    let etag = header(headers, LINKED_ETAG).or_else(|| header(headers, ETAG.as_str())).ok_or("it has no ETag")?;
    let etag = etag.trim_start_matches("W/").trim_matches('"');
    let plain = (1..=128).contains(&etag.len()) && etag.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    // A redirect's own length is not the file's.
    let own = header(headers, CONTENT_LENGTH.as_str()).filter(|_| !redirects);
    let size = header(headers, LINKED_SIZE).or(own);
    let bytes = size.and_then(|s| s.parse().ok()).ok_or("it has neither X-Linked-Size nor Content-Length")?;
    match plain {
        true if cache::is_hex(etag, 64) => Ok(Content { bytes, hash: Hash::Sha256(etag.into()) }),
        true => Ok(Content { bytes, hash: Hash::Opaque(etag.into()) }),
        false => Err(format!("its ETag is {:?}", shortened(etag))),
    }
}

/// A choice among the files of a listing or a snapshot.
pub(super) fn choice_error(repo: &str, revision: &str) -> impl FnOnce(ChoiceError) -> HubError {
    let (repo, revision) = (repo.to_string(), revision.to_string());
    move |source| HubError::Choice { repo, revision, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_they_say() {
        let from: Uri = "https://hub.example/org/name/resolve/main/a".parse().unwrap();
        for (to, expected) in [
            ("/api/x?y=1", Some("https://hub.example/api/x?y=1")),
            ("https://cdn.example/b", Some("https://cdn.example/b")),
            ("//cdn.example/b", Some("https://cdn.example/b")),
            ("b", Some("https://hub.example/org/name/resolve/main/b")),
            ("", None),
            ("file:///etc/passwd", None),
        ] {
            assert_eq!(follow(&from, to), expected.map(|e| e.parse().unwrap()), "{to}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| same_origin(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(same("https://Hub.example/a", "https://hub.example:443/b"));
        assert!(!same("https://hub.example", "http://hub.example"));
        assert!(!same("https://hub.example", "https://hub.example:444"));
        assert!(!same("https://hub.example", "https://cdn.hub.example"));
        assert!(!same("https://hub.example", "https://hub.example.org"));
    }

    #[test]
    fn a_listing_gives_sizes_and_hashes_and_drops_paths_that_leave_the_folder() {
        let (commit, sha) = ("c".repeat(40), "a".repeat(64));
        let text = format!(
            r#"{{"sha": "{commit}", "siblings": [
                {{"rfilename": "config.json", "size": 3, "blobId": "{commit}"}},
                {{"rfilename": "model.safetensors", "size": 9, "blobId": "{commit}", "lfs": {{"sha256": "{sha}", "size": 9}}}},
                {{"rfilename": "../../evil"}}, {{"rfilename": "/etc/passwd"}}, {{"rfilename": "tokenizer.json"}}]}}"#
        );
        let listing = serde_json::from_str::<ModelInfo>(&text).unwrap().listing().unwrap();
        let hash = |i: usize| listing.files[i].content.as_ref().map(|c| c.hash.clone());
        assert_eq!(listing.files.len(), 3);
        assert_eq!((hash(0), hash(1), hash(2)), (Some(Hash::GitBlob(commit)), Some(Hash::Sha256(sha)), None));
        assert!(ModelInfo { sha: "../x".into(), siblings: Vec::new(), private: None }.listing().is_err());
    }

    #[test]
    fn an_etag_that_is_no_file_name_is_refused() {
        let headers = |etag: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("etag", etag.parse().unwrap());
            headers.insert("content-length", "5".parse().unwrap());
            headers
        };
        assert_eq!(content_of(&headers("W/\"abc-1\""), false).unwrap().hash, Hash::Opaque("abc-1".into()));
        for etag in ["\"../../x\"", "\"\"", "\"a/b\"", "\".\""] {
            assert!(content_of(&headers(etag), false).is_err(), "{etag}");
        }
        assert!(content_of(&headers("\"abc\""), true).is_err(), "the length of a redirect");
    }

    #[test]
    fn waits_double() {
        let retry = Retry { first_wait: Duration::from_millis(100), ..Retry::default() };
        assert_eq!([1, 2, 3].map(|n| backoff(retry, n).as_millis()), [100, 200, 400]);
    }
}
