//! Files into a repository: what differs from what it has, one transfer for each large file, and one commit of all.
//!
//! ```text
//! Remote::look ─► Plan::new ─► Plan::publish: repository, branch ─► small or large? ─► large files ─► one commit
//! ```
//!
//! The requests are those of Python's `huggingface_hub` (`_commit_api.py`, `lfs.py`), by git LFS's basic transfer and the hub's own
//! in parts.

use super::client::{
    Asked, Bytes, Cargo, Client, Content, Hash, LFS_MEDIA_TYPE, Listing, Part, Trouble, backoff, header, shortened,
};
use super::id::{HubId, is_plain_path};
use super::{DEFAULT_REVISION, HubError, Settings};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;
use ureq::http::Method;
use ureq::http::header::ETAG;

/// Files that one request asks about.
const BATCH: usize = 256;

/// First bytes of a file, by which the hub tells texts from others.
const SAMPLE: u64 = 512;

/// Largest file that may travel within a commit.
const MAX_SMALL: u64 = 64 << 20;

/// What a model's card says about its licence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Licence {
    /// The hub's name for it, such as `apache-2.0` or `other`.
    pub id: Option<String>,
    /// Its own name, where the hub has none.
    pub name: Option<String>,
    /// Where it stands.
    pub link: Option<String>,
}

impl Licence {
    /// What the hub says of a model.
    ///
    /// # Errors
    /// See [`HubError`].
    pub fn of(id: &HubId, settings: &Settings, on_event: &dyn Fn(UploadEvent)) -> Result<Self, HubError> {
        if settings.offline {
            return Err(HubError::Offline);
        }
        let revision = id.revision.as_deref().unwrap_or(DEFAULT_REVISION);
        Client::publishing(settings, id, revision)?.licence(&retries(&id.repo, on_event))
    }
}

/// A file to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFile {
    /// Its path in the repository.
    pub path: String,
    /// Where its bytes are.
    pub source: Source,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

/// Where bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// On disk, as they were when they were hashed.
    File(PathBuf, Box<haikuq_files::Fingerprint>),
    /// Here.
    Memory(Vec<u8>),
}

impl LocalFile {
    /// A file on disk, which is hashed.
    ///
    /// # Errors
    /// [`HubError::Io`] if it cannot be read.
    pub fn read(path: &str, file: PathBuf) -> Result<Self, HubError> {
        let print = haikuq_files::Fingerprint::of_file(&open(&file)?).map_err(HubError::io("read", &file))?;
        let hashed = haikuq_files::hash_file(&file).map_err(|e| HubError::io("read", &file)(std::io::Error::other(e)))?;
        Ok(Self { path: path.into(), source: Source::File(file, Box::new(print)), bytes: hashed.bytes, sha256: hashed.sha256 })
    }

    /// Bytes that are no file yet.
    pub fn made(path: &str, bytes: Vec<u8>) -> Self {
        let (length, hash) = (bytes.len() as u64, Sha256::digest(&bytes));
        Self { path: path.into(), bytes: length, sha256: haikuq_files::hex(&hash), source: Source::Memory(bytes) }
    }

    /// Its first bytes, at most so many.
    fn first(&self, most: u64) -> Result<Vec<u8>, HubError> {
        use std::io::Read;
        match &self.source {
            Source::Memory(bytes) => Ok(bytes[..bytes.len().min(most as usize)].to_vec()),
            Source::File(path, _) => {
                let mut bytes = Vec::new();
                open(path)?.take(most).read_to_end(&mut bytes).map_err(HubError::io("read", path))?;
                Ok(bytes)
            }
        }
    }

    /// Git's hash.
    fn git_hash(&self) -> Result<String, HubError> {
        let mut hash = Sha1::new().chain_update(format!("blob {}\0", self.bytes));
        match &self.source {
            Source::Memory(bytes) => hash.update(bytes),
            Source::File(path, _) => {
                use std::io::Read;
                let (mut file, mut buffer) = (open(path)?, vec![0; 1 << 18]);
                loop {
                    match file.read(&mut buffer).map_err(HubError::io("read", path))? {
                        0 => break,
                        n => hash.update(&buffer[..n]),
                    }
                }
            }
        }
        Ok(haikuq_files::hex(&hash.finalize()))
    }

    /// Refuses a file that is another one by now.
    fn check(&self) -> Result<(), HubError> {
        match &self.source {
            Source::File(path, print) if !open(path).is_ok_and(|file| print.is_of(&file)) => {
                Err(HubError::Changed { path: path.clone() })
            }
            _ => Ok(()),
        }
    }

    fn equals(&self, there: &Content) -> Result<bool, HubError> {
        Ok(self.bytes == there.bytes
            && match &there.hash {
                Hash::Sha256(hash) => *hash == self.sha256,
                Hash::GitBlob(hash) => *hash == self.git_hash()?,
                Hash::Opaque(_) => false,
            })
    }
}

fn open(path: &std::path::Path) -> Result<std::fs::File, HubError> {
    haikuq_files::open_regular(path).map_err(HubError::io("read", path))
}

/// What happens while a plan is carried out.
#[derive(Clone, Copy, Debug)]
pub enum UploadEvent<'a> {
    /// So many bytes are to be sent, as far as the hub does not have them by their hash.
    Begin(u64),
    /// A large file is on its way.
    File(&'a str),
    /// The hub has a large file already, by its hash.
    Present(&'a str),
    /// So many of the bytes were sent or are there.
    Bytes(u64),
    /// All files are there, and the commit is asked for.
    Commit,
    /// A request failed in a way that may pass.
    Retry {
        /// What was asked for.
        what: &'a str,
        /// What happened.
        why: &'a str,
        /// How long until it is tried again.
        wait: Duration,
    },
}

fn retries<'a>(what: &'a str, on_event: &'a dyn Fn(UploadEvent)) -> impl Fn(&str, Duration) + use<'a> {
    move |why, wait| on_event(UploadEvent::Retry { what, why, wait })
}

/// A repository as it is before anything is published.
pub struct Remote<'a> {
    client: Client<'a>,
    settings: &'a Settings,
    id: &'a HubId,
    /// None where there is no such repository.
    listing: Option<Listing>,
    /// Whether the branch is there; if not, it begins at `main`.
    has_branch: bool,
}

impl<'a> Remote<'a> {
    /// Asks the hub what a repository has. Nothing is written.
    ///
    /// # Errors
    /// See [`HubError`]. A repository that is not there is none.
    pub fn look(id: &'a HubId, settings: &'a Settings, on_event: &dyn Fn(UploadEvent)) -> Result<Self, HubError> {
        if settings.offline {
            return Err(HubError::Offline);
        }
        let revision = id.revision.as_deref().unwrap_or(DEFAULT_REVISION);
        if super::cache::is_commit(revision) || revision.starts_with("refs/tags/") {
            return Err(HubError::NoBranch { repo: id.repo.clone(), revision: revision.into() });
        }
        let client = Client::publishing(settings, id, revision)?;
        let on_wait = retries(&id.repo, on_event);
        let (listing, has_branch) = match client.listing(&on_wait) {
            Ok(listing) => (Some(listing), true),
            Err(HubError::NoModel { .. }) => (None, true),
            // Strangers are not told what there is.
            Err(HubError::Unauthorized { token_origin: None, .. }) => (None, true),
            Err(HubError::NoRevision { .. }) if id.revision.is_some() => {
                (Some(Client::publishing(settings, id, DEFAULT_REVISION)?.listing(&on_wait)?), false)
            }
            Err(error) => return Err(error),
        };
        Ok(Self { client, settings, id, listing, has_branch })
    }

    /// Whether there is such a repository, as far as the hub tells.
    pub fn exists(&self) -> bool {
        self.listing.is_some()
    }

    /// Whether it has the branch.
    pub fn has_branch(&self) -> bool {
        self.exists() && self.has_branch
    }

    /// The commit that is compared with.
    pub fn commit(&self) -> Option<&str> {
        self.listing.as_ref().map(|l| l.commit.as_str())
    }

    /// A small file of that commit, if there is one.
    ///
    /// # Errors
    /// See [`HubError`].
    pub fn read(&self, path: &str, on_event: &dyn Fn(UploadEvent)) -> Result<Option<Vec<u8>>, HubError> {
        match &self.listing {
            Some(listing) if listing.files.iter().any(|f| f.path == path) => {
                self.client.small_file(&listing.commit, path, &retries(path, on_event)).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// What to do with each file, and with those of `stale` that are there and not among them.
    fn changes(&self, files: &[LocalFile], stale: &[String], on_event: &dyn Fn(UploadEvent)) -> Result<Vec<Change>, HubError> {
        let mut changes = Vec::new();
        for file in files {
            let there = self.listing.as_ref().and_then(|l| Some((l, l.files.iter().find(|f| f.path == file.path)?)));
            let action = match there {
                None => Action::Add,
                Some((listing, there)) => {
                    let content = match &there.content {
                        Some(content) => content.clone(),
                        None => self.client.describe(&listing.commit, &file.path, &retries(&file.path, on_event))?,
                    };
                    if file.equals(&content)? { Action::Keep } else { Action::Replace }
                }
            };
            changes.push(Change { path: file.path.clone(), bytes: file.bytes, action });
        }
        let listed = |path: &str| self.listing.as_ref().is_some_and(|l| l.files.iter().any(|f| f.path == path));
        let ours: BTreeSet<&str> = files.iter().map(|f| f.path.as_str()).collect();
        let gone = stale.iter().filter(|path| !ours.contains(path.as_str()) && listed(path));
        let gone: BTreeSet<&String> = gone.collect();
        changes.extend(gone.into_iter().map(|path| Change { path: path.clone(), bytes: 0, action: Action::Remove }));
        Ok(changes)
    }
}

/// What is done with a file of the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is new.
    Add,
    /// It is another one under that path.
    Replace,
    /// It is there, byte for byte.
    Keep,
    /// It is no part of the package any more.
    Remove,
}

/// A file and what is done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its path in the repository.
    pub path: String,
    /// Its new size; 0 if it is removed.
    pub bytes: u64,
    /// What is done.
    pub action: Action,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The commit, or the one that had everything already.
    pub commit: String,
    /// Whether it is new.
    pub changed: bool,
    /// Bytes of large files that were sent, without those that the hub had by their hash.
    pub sent: u64,
}

/// Files, and what to do with them in a repository.
pub struct Plan<'a> {
    remote: Remote<'a>,
    files: Vec<LocalFile>,
    stale: Vec<String>,
    changes: Vec<Change>,
}

impl<'a> Plan<'a> {
    /// Compares `files` with what the repository has. They are sent in this order. Files of `stale` that are there and not among
    /// `files` are removed.
    ///
    /// # Errors
    /// See [`HubError`].
    pub fn new(
        remote: Remote<'a>,
        files: Vec<LocalFile>,
        stale: Vec<String>,
        on_event: &dyn Fn(UploadEvent),
    ) -> Result<Self, HubError> {
        if let Some(file) = files.iter().find(|f| !is_plain_path(&f.path)) {
            return Err(HubError::Id { text: file.path.clone(), why: "it is no path within a repository".into() });
        }
        let changes = remote.changes(&files, &stale, on_event)?;
        Ok(Self { remote, files, stale, changes })
    }

    /// What is done with each file.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The repository.
    pub fn remote(&self) -> &Remote<'a> {
        &self.remote
    }

    /// Makes the repository and the branch where they are missing, sends large files that the hub does not have by their hash, and
    /// makes one commit of all changes. A `private` repository is seen by its owners alone.
    ///
    /// # Errors
    /// See [`HubError`]. Whatever happens, the branch has all changes or none. Files that were sent are not sent again by the next
    /// call.
    pub fn publish(mut self, message: &str, private: bool, on_event: &dyn Fn(UploadEvent)) -> Result<Published, HubError> {
        let (endpoint, repo) = (self.remote.settings.endpoint.clone(), self.remote.id.repo.clone());
        if self.remote.settings.token.is_none() {
            return Err(HubError::NeedsToken { endpoint });
        }
        if private && self.remote.listing.as_ref().is_some_and(|l| l.private == Some(false)) {
            return Err(HubError::Public { endpoint, repo });
        }
        let had_branch = self.prepare(private, on_event)?;
        let Some(parent) = self.remote.commit().map(str::to_string) else { return Err(HubError::NoModel { endpoint, repo }) };
        if self.changes.iter().all(|c| c.action == Action::Keep) {
            // A new branch begins with them.
            return Ok(Published { commit: parent, changed: !had_branch, sent: 0 });
        }
        let changed = |file: &&LocalFile| {
            let written = |c: &Change| c.path == file.path && matches!(c.action, Action::Add | Action::Replace);
            self.changes.iter().any(written)
        };
        let changed: Vec<&LocalFile> = self.files.iter().filter(changed).collect();
        let sender = Sender { client: &self.remote.client, on_event, done: Cell::new(0), sent: Cell::new(0) };
        let large = sender.large(&changed)?;
        sender.send(&changed, &large)?;
        changed.iter().try_for_each(|file| file.check())?;
        on_event(UploadEvent::Commit);
        let body = self.commit_body(message, &parent, &changed, &large)?;
        let sent = sender.sent.get();
        match sender.commit(&body) {
            Ok(commit) => Ok(Published { commit, changed: true, sent }),
            // An answer that was lost on its way leaves the commit behind, and the next attempt is refused.
            Err(HubError::Conflict { .. }) => {
                let revision = self.remote.id.revision.clone().unwrap_or_else(|| DEFAULT_REVISION.into());
                self.relist(on_event)?;
                match self.remote.commit() {
                    Some(commit) if commit != parent && self.changes.iter().all(|c| c.action == Action::Keep) => {
                        Ok(Published { commit: commit.into(), changed: true, sent })
                    }
                    _ => Err(HubError::Moved { repo, revision, parent }),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Sees to it that repository and branch are there. Whether the branch had the files that were compared with.
    fn prepare(&mut self, private: bool, on_event: &dyn Fn(UploadEvent)) -> Result<bool, HubError> {
        let (client, id) = (&self.remote.client, self.remote.id);
        let mut had_branch = self.remote.has_branch;
        if !self.remote.exists() {
            let (organization, name) = id.repo.split_once('/').map_or((None, id.repo.as_str()), |(o, n)| (Some(o), n));
            let mut body = json!({"name": name, "organization": organization, "type": "model"});
            if private {
                body["visibility"] = json!("private");
            }
            let url = format!("{}/api/repos/create", client.endpoint());
            let asked = Asked::Write("the repository");
            match client.post(&url, JSON, body.to_string().as_bytes(), asked, &retries(&id.repo, on_event)) {
                // An earlier attempt may have made it.
                Ok(_) | Err(HubError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
            let main = Client::publishing(self.remote.settings, id, DEFAULT_REVISION)?;
            self.remote.listing = Some(main.listing(&retries(&id.repo, on_event))?);
            had_branch = id.revision.as_deref().is_none_or(|r| r == DEFAULT_REVISION);
            if private && self.remote.listing.as_ref().is_some_and(|l| l.private == Some(false)) {
                return Err(HubError::Public { endpoint: client.endpoint().into(), repo: id.repo.clone() });
            }
            self.changes = self.remote.changes(&self.files, &self.stale, on_event)?;
        }
        if !had_branch {
            let body = json!({"startingPoint": self.remote.commit()});
            let asked = Asked::Write("the branch");
            match client.post(&client.api("branch"), JSON, body.to_string().as_bytes(), asked, &retries(&id.repo, on_event)) {
                Ok(_) => {}
                // Somebody made it meanwhile, so its files are compared with.
                Err(HubError::Conflict { .. }) => self.relist(on_event)?,
                Err(error) => return Err(error),
            }
        }
        Ok(had_branch)
    }

    fn relist(&mut self, on_event: &dyn Fn(UploadEvent)) -> Result<(), HubError> {
        self.remote.listing = Some(self.remote.client.listing(&retries(&self.remote.id.repo, on_event))?);
        self.changes = self.remote.changes(&self.files, &self.stale, on_event)?;
        Ok(())
    }

    /// A line of JSON for the header and for each change.
    fn commit_body(
        &self,
        message: &str,
        parent: &str,
        files: &[&LocalFile],
        large: &BTreeSet<&str>,
    ) -> Result<Vec<u8>, HubError> {
        let header = json!({"summary": message, "description": "", "parentCommit": parent});
        let mut lines = vec![json!({"key": "header", "value": header})];
        for file in files {
            lines.push(if large.contains(file.path.as_str()) {
                let value = json!({"path": file.path, "algo": "sha256", "oid": file.sha256, "size": file.bytes});
                json!({"key": "lfsFile", "value": value})
            } else {
                let bytes = file.first(MAX_SMALL + 1)?;
                if bytes.len() as u64 > MAX_SMALL {
                    let (repo, message) =
                        (self.remote.id.repo.clone(), format!("it has over {MAX_SMALL} bytes, and is no large file"));
                    return Err(HubError::Refused { repo, file: file.path.clone(), code: 413, message });
                }
                let value = json!({"path": file.path, "content": STANDARD.encode(bytes), "encoding": "base64"});
                json!({"key": "file", "value": value})
            });
        }
        for gone in self.changes.iter().filter(|c| c.action == Action::Remove) {
            lines.push(json!({"key": "deletedFile", "value": {"path": gone.path}}));
        }
        Ok(lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect())
    }
}

const JSON: &str = "application/json";

/// Transfers on their way.
struct Sender<'a> {
    client: &'a Client<'a>,
    on_event: &'a dyn Fn(UploadEvent<'_>),
    /// Bytes of files that are there by now.
    done: Cell<u64>,
    sent: Cell<u64>,
}

/// Answer of `preupload`.
#[derive(Deserialize)]
struct Modes {
    files: Vec<Mode>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mode {
    path: String,
    upload_mode: String,
    #[serde(default)]
    should_ignore: bool,
}

/// Answer of git LFS's batch endpoint.
#[derive(Deserialize)]
struct Batch {
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    oid: String,
    actions: Option<Actions>,
    error: Option<ObjectError>,
}

#[derive(Clone, Deserialize)]
struct Actions {
    upload: Option<Address>,
    verify: Option<Address>,
}

#[derive(Clone, Deserialize)]
struct Address {
    href: String,
    #[serde(default)]
    header: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct ObjectError {
    code: u64,
    #[serde(default)]
    message: String,
}

impl Address {
    fn value(&self, key: &str) -> Option<String> {
        match self.header.as_ref()?.get(key)? {
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }

    /// What the server wants with a request, without what describes parts.
    fn headers(&self) -> Vec<(String, String)> {
        let described = |key: &str| key == "chunk_size" || key.bytes().all(|b| b.is_ascii_digit());
        let keys = self.header.iter().flat_map(Map::keys).filter(|key| !described(key));
        keys.filter_map(|key| Some((key.clone(), self.value(key)?))).collect()
    }

    /// Size and addresses of parts, if the file is to be sent in parts.
    fn parts(&self, bytes: u64) -> Result<Option<(u64, Vec<String>)>, String> {
        let Some(size) = self.value("chunk_size") else { return Ok(None) };
        let size = size.parse::<u64>().ok().filter(|&s| s > 0).ok_or_else(|| format!("chunk_size is {size:?}"))?;
        let keys = self.header.iter().flat_map(Map::keys);
        let numbered = keys.filter_map(|key| Some((key.parse::<u64>().ok()?, self.value(key)?)));
        let urls: BTreeMap<u64, String> = numbered.collect();
        match urls.len() as u64 == bytes.div_ceil(size) {
            true => Ok(Some((size, urls.into_values().collect()))),
            false => Err(format!("{} addresses for {bytes} bytes in parts of {size}", urls.len())),
        }
    }
}

impl Sender<'_> {
    fn unexpected(&self, what: &str, why: impl std::fmt::Display) -> HubError {
        self.client.unexpected(Asked::Write(what), why.to_string())
    }

    /// Paths of those files that the hub keeps outside of git.
    fn large<'f>(&self, files: &[&'f LocalFile]) -> Result<BTreeSet<&'f str>, HubError> {
        const WHAT: &str = "the kinds of the files";
        let mut large = BTreeSet::new();
        for files in files.chunks(BATCH) {
            let mut described = Vec::new();
            for file in files {
                let sample = STANDARD.encode(file.first(SAMPLE)?);
                described.push(json!({"path": file.path, "sample": sample, "size": file.bytes}));
            }
            let body = json!({"files": described}).to_string();
            let on_wait = retries(WHAT, self.on_event);
            let answer = self.client.post(&self.client.api("preupload"), JSON, body.as_bytes(), Asked::Write(WHAT), &on_wait)?;
            let modes: Modes = serde_json::from_slice(&answer).map_err(|e| self.unexpected(WHAT, e))?;
            for file in files {
                let mode = modes.files.iter().find(|mode| mode.path == file.path);
                let mode = mode.ok_or_else(|| self.unexpected(WHAT, format!("it does not name {}", file.path)))?;
                if mode.should_ignore {
                    return Err(HubError::Ignored { repo: self.client.repo().into(), file: file.path.clone() });
                }
                match mode.upload_mode.as_str() {
                    // Stores of objects take no empty ones.
                    "lfs" if file.bytes > 0 => drop(large.insert(file.path.as_str())),
                    "lfs" | "regular" => {}
                    other => return Err(self.unexpected(WHAT, format!("{} is {:?}", file.path, shortened(other)))),
                }
            }
        }
        Ok(large)
    }

    /// Sends those large files that the hub does not have by their hash.
    fn send(&self, files: &[&LocalFile], large: &BTreeSet<&str>) -> Result<(), HubError> {
        let mut seen = BTreeSet::new();
        let mut once = |file: &LocalFile| large.contains(file.path.as_str()) && seen.insert(file.sha256.clone());
        let files: Vec<&LocalFile> = files.iter().copied().filter(|file| once(file)).collect();
        (self.on_event)(UploadEvent::Begin(files.iter().map(|f| f.bytes).sum()));
        for files in files.chunks(BATCH) {
            let mut actions = self.batch(files)?;
            for file in files {
                self.file(file, actions.remove(&file.sha256).flatten())?;
                self.done.set(self.done.get() + file.bytes);
                (self.on_event)(UploadEvent::Bytes(self.done.get()));
            }
        }
        Ok(())
    }

    /// What to do for each hash; nothing where the hub has it.
    fn batch(&self, files: &[&LocalFile]) -> Result<BTreeMap<String, Option<Actions>>, HubError> {
        const WHAT: &str = "addresses for the large files";
        let objects: Vec<Value> = files.iter().map(|f| json!({"oid": f.sha256, "size": f.bytes})).collect();
        let body = json!({
            "operation": "upload", "transfers": ["basic", "multipart"], "objects": objects, "hash_algo": "sha256",
            "ref": {"name": self.client.revision()},
        });
        let url = format!("{}/{}.git/info/lfs/objects/batch", self.client.endpoint(), self.client.repo());
        let on_wait = retries(WHAT, self.on_event);
        let answer = self.client.post(&url, LFS_MEDIA_TYPE, body.to_string().as_bytes(), Asked::Write(WHAT), &on_wait)?;
        let batch: Batch = serde_json::from_slice(&answer).map_err(|e| self.unexpected(WHAT, e))?;
        let mut all = BTreeMap::new();
        for object in batch.objects {
            let Some(file) = files.iter().find(|f| f.sha256 == object.oid) else { continue };
            if let Some(error) = object.error {
                let (repo, message) = (self.client.repo().into(), shortened(&error.message));
                return Err(HubError::Refused { repo, file: file.path.clone(), code: error.code, message });
            }
            all.insert(object.oid, object.actions.filter(|a| a.upload.is_some()));
        }
        match files.iter().find(|f| !all.contains_key(&f.sha256)) {
            None => Ok(all),
            Some(file) => Err(self.unexpected(WHAT, format!("it does not name {}", file.path))),
        }
    }

    /// Sends one file, to new addresses where the old ones fail.
    fn file(&self, file: &LocalFile, mut actions: Option<Actions>) -> Result<(), HubError> {
        let mut failures = 0;
        loop {
            let Some(now) = actions else {
                (self.on_event)(UploadEvent::Present(&file.path));
                return Ok(());
            };
            (self.on_event)(UploadEvent::File(&file.path));
            let (why, wait) = match self.transfer(file, &now) {
                Ok(()) => {
                    self.sent.set(self.sent.get() + file.bytes);
                    return Ok(());
                }
                Err(Trouble::Lasting(error)) => return Err(error),
                Err(Trouble::Passing { why, wait }) => (why, wait),
                Err(Trouble::Range { why }) => (why, None),
            };
            file.check()?;
            failures += 1;
            self.wait(&file.path, failures, why, wait)?;
            actions = self.batch(&[file])?.remove(&file.sha256).flatten();
        }
    }

    /// Waits before the next attempt, if there is one.
    fn wait(&self, what: &str, failures: u32, why: String, wait: Option<Duration>) -> Result<(), HubError> {
        let retry = self.client.retry();
        if failures >= retry.attempts {
            return Err(HubError::NotSent { repo: self.client.repo().into(), what: what.into(), attempts: failures, why });
        }
        let wait = wait.unwrap_or_else(|| backoff(retry, failures));
        (self.on_event)(UploadEvent::Retry { what, why: &why, wait });
        std::thread::sleep(wait);
        Ok(())
    }

    fn transfer(&self, file: &LocalFile, actions: &Actions) -> Result<(), Trouble> {
        let asked = Asked::Write(&file.path);
        let Some(upload) = &actions.upload else { return Ok(()) };
        let lasting = |why: String| Trouble::from(self.unexpected(&file.path, why));
        match upload.parts(file.bytes).map_err(lasting)? {
            None => drop(self.put(file, 0, file.bytes, &upload.href, &upload.headers())?),
            Some((size, urls)) => {
                let mut parts = Vec::new();
                for (i, url) in urls.iter().enumerate() {
                    let start = i as u64 * size;
                    let etag = self.part(file, start, size.min(file.bytes - start), url)?;
                    parts.push(json!({"partNumber": i + 1, "etag": etag}));
                }
                let body = json!({"oid": file.sha256, "parts": parts}).to_string();
                let accept = [("Accept".to_string(), LFS_MEDIA_TYPE.to_string())];
                let cargo = Cargo { headers: &accept, bytes: Bytes::Text(LFS_MEDIA_TYPE, body.as_bytes()) };
                self.client.exchange(&Method::POST, &upload.href, cargo, asked)?;
            }
        }
        if let Some(verify) = &actions.verify {
            let body = json!({"oid": file.sha256, "size": file.bytes}).to_string();
            let headers = verify.headers();
            let cargo = Cargo { headers: &headers, bytes: Bytes::Text(LFS_MEDIA_TYPE, body.as_bytes()) };
            self.client.exchange(&Method::POST, &verify.href, cargo, asked)?;
        }
        Ok(())
    }

    /// Sends a part, again where that may help, and brings its ETag.
    fn part(&self, file: &LocalFile, start: u64, bytes: u64, url: &str) -> Result<String, Trouble> {
        let mut failures = 0;
        loop {
            match self.put(file, start, bytes, url, &[]) {
                Ok(etag) if !etag.is_empty() => return Ok(etag),
                Ok(_) => return Err(self.unexpected(&file.path, format!("no ETag for the part at byte {start}")).into()),
                Err(Trouble::Passing { why, wait }) => {
                    failures += 1;
                    if failures >= self.client.retry().attempts {
                        return Err(Trouble::Passing { why, wait });
                    }
                    self.wait(&file.path, failures, why, wait)?;
                }
                Err(other) => return Err(other),
            }
        }
    }

    fn put(&self, file: &LocalFile, start: u64, bytes: u64, url: &str, headers: &[(String, String)]) -> Result<String, Trouble> {
        let on_bytes = |n: u64| (self.on_event)(UploadEvent::Bytes(self.done.get() + start + n));
        let part;
        let bytes = match &file.source {
            Source::Memory(all) => Bytes::Text(BINARY, &all[start as usize..(start + bytes) as usize]),
            Source::File(path, _) => {
                part = Part { path, start, bytes, on_bytes: &on_bytes };
                Bytes::Part(&part)
            }
        };
        let answer = self.client.exchange(&Method::PUT, url, Cargo { headers, bytes }, Asked::Write(&file.path))?;
        Ok(header(answer.headers(), ETAG.as_str()).unwrap_or_default().into())
    }

    /// Asks for the commit, and brings its name.
    fn commit(&self, body: &[u8]) -> Result<String, HubError> {
        const WHAT: &str = "the commit";
        let on_wait = retries(WHAT, self.on_event);
        let answer = self.client.post(&self.client.api("commit"), "application/x-ndjson", body, Asked::Write(WHAT), &on_wait)?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|e| self.unexpected(WHAT, e))?;
        let commit = answer.get("commitOid").and_then(Value::as_str).unwrap_or_default();
        match super::cache::is_commit(commit) {
            true => Ok(commit.into()),
            false => Err(self.unexpected(WHAT, format!("{:?} is no commit", shortened(commit)))),
        }
    }
}

/// Of bytes that are no text.
const BINARY: &str = "application/octet-stream";

#[cfg(test)]
mod tests {
    use super::*;

    fn address(header: Value) -> Address {
        serde_json::from_value(json!({"href": "https://hub.example/done", "header": header})).unwrap()
    }

    #[test]
    fn parts_come_in_the_order_of_their_numbers() {
        let urls = |n: u64| (1..=n).map(|i| (format!("{i:05}"), json!(format!("u{i}")))).collect::<Map<_, _>>();
        let mut header = urls(11);
        header.insert("chunk_size".into(), json!("10"));
        let (size, parts) = address(json!(header)).parts(105).unwrap().unwrap();
        assert_eq!((size, parts[1].as_str(), parts[10].as_str()), (10, "u2", "u11"));
        assert!(address(json!(header)).parts(200).unwrap_err().contains("11 addresses for 200 bytes"));
        assert!(address(json!({"chunk_size": "0"})).parts(1).is_err());
        assert_eq!(address(json!({"X-A": "b"})).parts(1).unwrap(), None);
        assert_eq!(address(json!({"X-A": "b", "chunk_size": 5, "00001": "u"})).headers(), [("X-A".to_string(), "b".to_string())]);
    }

    #[test]
    fn a_file_is_the_same_by_either_hash() {
        let file = LocalFile::made("a", b"abc".to_vec());
        let of = |hash| Content { bytes: 3, hash };
        assert!(file.equals(&of(Hash::GitBlob("f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f".into()))).unwrap());
        assert!(file.equals(&of(Hash::Sha256(file.sha256.clone()))).unwrap());
        assert!(!file.equals(&of(Hash::Opaque(file.sha256.clone()))).unwrap());
        assert!(!file.equals(&Content { bytes: 4, hash: Hash::Sha256(file.sha256.clone()) }).unwrap());
    }
}
