//! Models on the Hugging Face hub: `org/name` becomes a local folder with what a conversion needs of it, and files become a
//! commit there.
//!
//! ```no_run
//! use haikuq_hub::{Companions, HubId, Settings, fetch};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = Settings::from_env()?;
//! let id = HubId::parse("HuggingFaceTB/SmolLM2-135M-Instruct", &settings.hosts())?;
//! let mut companions = Companions::default();
//! companions.always.push("tokenizer.json");
//! let snapshot = fetch(&id, &companions, &settings, &|_| ())?;
//! println!("{}", snapshot.folder.display());
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//! id ─► listing (one request) ─► choice of files ─► downloads, resumed and checked ─► snapshot folder in the cache
//! ```
//!
//! The other way, [`Remote`] says what a repository has, [`Plan`] compares files with that, and [`Plan::publish`] sends those that
//! differ and makes one commit of all.
//!
//! The cache is the one of Python's `huggingface_hub`, byte for byte: each finds the files that the other has downloaded.

mod cache;
mod choice;
mod client;
mod download;
mod error;
mod id;
mod settings;
mod upload;

pub use choice::{Choice, ChoiceError, Companions, Weights};
pub use error::HubError;
pub use id::HubId;
pub use settings::{Retry, Settings, Token};
pub use upload::{Action, Change, Licence, LocalFile, Plan, Published, Remote, Source, UploadEvent};

use cache::{RepoCache, free_space};
use client::{Client, Content, Listing, choice_error};
use download::{Wanted, download};
use serde_json::Value;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// The branch that is meant where none is named.
const DEFAULT_REVISION: &str = "main";

/// What happens meanwhile.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// What is going to be downloaded; nothing if all is in the cache.
    Plan {
        /// The commit.
        commit: &'a str,
        /// Files that the checkpoint consists of.
        files: usize,
        /// Files to be downloaded.
        missing: usize,
        /// Bytes to be downloaded.
        bytes: u64,
    },
    /// So many of the planned bytes are here.
    Bytes(u64),
    /// The file that is being downloaded.
    File(&'a str),
    /// Another process downloads the same file; it is waited for.
    Waiting {
        /// The file.
        file: &'a str,
    },
    /// A request failed in a way that may pass.
    Retry {
        /// What was asked for.
        what: &'a str,
        /// What happened.
        why: &'a str,
        /// How long until it is tried again.
        wait: Duration,
    },
    /// The hub cannot be reached, but the cache has what is needed.
    Unreachable {
        /// Why not.
        error: &'a HubError,
        /// The commit that the cache has.
        commit: &'a str,
    },
}

/// A model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What to open: the snapshot's folder, or the GGUF or ONNX file in it.
    pub path: PathBuf,
    /// The snapshot's folder.
    pub folder: PathBuf,
    /// `org/name`.
    pub repo: String,
    /// The commit.
    pub commit: String,
}

/// Brings what is needed of a model into the cache: its configuration, one set of weights, and those of `companions` that
/// it has.
///
/// If the hub cannot be reached at all, a complete snapshot in the cache is enough.
///
/// # Errors
/// See [`HubError`]. Whatever happens, no incomplete or damaged file is in the snapshot. If a download breaks off, the
/// bytes that came are kept, and the next call goes on from there.
pub fn fetch(id: &HubId, companions: &Companions, settings: &Settings, on_event: &dyn Fn(Event)) -> Result<Snapshot, HubError> {
    let revision = id.revision.as_deref().unwrap_or(DEFAULT_REVISION);
    let cache = RepoCache::new(&settings.cache, &id.repo);
    if settings.offline {
        return from_cache(id, companions, revision, &cache);
    }
    let client = Client::new(settings, id, revision)?;
    let on_wait = |why: &str, wait: Duration| on_event(Event::Retry { what: &id.repo, why, wait });
    match client.listing(&on_wait) {
        Ok(listing) => Fetch { id, companions, revision, cache, client, listing, on_event }.run(),
        Err(error) if error.is_unreachable() => match from_cache(id, companions, revision, &cache) {
            Ok(snapshot) => {
                on_event(Event::Unreachable { error: &error, commit: &snapshot.commit });
                Ok(snapshot)
            }
            Err(_) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// A download on its way.
struct Fetch<'a> {
    id: &'a HubId,
    companions: &'a Companions<'a>,
    revision: &'a str,
    cache: RepoCache,
    client: Client<'a>,
    listing: Listing,
    on_event: &'a dyn Fn(Event),
}

impl Fetch<'_> {
    fn run(self) -> Result<Snapshot, HubError> {
        let commit = self.listing.commit.as_str();
        let paths: Vec<&str> = self.listing.files.iter().map(|f| f.path.as_str()).collect();
        let choice =
            Choice::new(&paths, self.id.file.as_deref(), self.companions).map_err(choice_error(&self.id.repo, self.revision))?;
        let mut files = choice.files();
        if let Some(index) = choice.index() {
            // The index names the shards, so it comes before anything can be planned.
            self.download(index, &self.content(index)?, &|_| {})?;
            let shards = self.shards(index)?;
            if let Some(shard) = shards.iter().find(|s| !paths.contains(&s.as_str())) {
                return Err(HubError::NoShard { repo: self.id.repo.clone(), index: index.into(), shard: shard.clone() });
            }
            files.extend(shards);
        }
        let contents = files.iter().map(|f| self.content(f)).collect::<Result<Vec<_>, _>>()?;
        let missing: Vec<(&String, &Content)> =
            files.iter().zip(&contents).filter(|(file, content)| !self.cache.has(commit, file, content.bytes)).collect();
        let bytes = missing.iter().map(|m| m.1.bytes).fold(0, u64::saturating_add);
        (self.on_event)(Event::Plan { commit, files: files.len(), missing: missing.len(), bytes });
        self.check_space(&missing)?;
        let finished = Cell::new(0u64);
        for (file, content) in missing {
            (self.on_event)(Event::File(file));
            self.download(file, content, &|n| (self.on_event)(Event::Bytes(finished.get() + n)))?;
            finished.set(finished.get() + content.bytes);
        }
        self.cache.set_commit(self.revision, commit)?;
        Ok(snapshot(self.id, &self.cache, commit, &choice))
    }

    fn download(&self, path: &str, content: &Content, on_bytes: &dyn Fn(u64)) -> Result<(), HubError> {
        let wanted = Wanted { commit: &self.listing.commit, path, content };
        download(&self.client, &self.cache, &wanted, self.on_event, on_bytes)
    }

    /// Size and hash of a file; mirrors may list names alone.
    fn content(&self, path: &str) -> Result<Content, HubError> {
        match self.listing.files.iter().find(|f| f.path == path).and_then(|f| f.content.clone()) {
            Some(content) => Ok(content),
            None => self.client.describe(&self.listing.commit, path, &|why, wait| {
                (self.on_event)(Event::Retry { what: path, why, wait });
            }),
        }
    }

    fn shards(&self, index: &str) -> Result<Vec<String>, HubError> {
        read_shards(&self.cache.snapshot(&self.listing.commit).join(index)).map_err(|why| HubError::Index {
            repo: self.id.repo.clone(),
            index: index.into(),
            why,
        })
    }

    /// Says before the first byte that the last ones will not fit.
    fn check_space(&self, missing: &[(&String, &Content)]) -> Result<(), HubError> {
        let here = |content: &Content| {
            let size = |path: PathBuf| std::fs::metadata(path).map_or(0, |m| m.len());
            size(self.cache.incomplete(content.hash.name())).max(size(self.cache.blob(content.hash.name())))
        };
        let needed = missing.iter().map(|m| m.1.bytes.saturating_sub(here(m.1))).fold(0, u64::saturating_add);
        match free_space(self.cache.root()) {
            Some(free) if free < needed => Err(HubError::DiskFull { folder: self.cache.root().into(), needed, free }),
            _ => Ok(()),
        }
    }
}

/// What the cache has of a model, if that is all that is needed.
fn from_cache(id: &HubId, companions: &Companions, revision: &str, cache: &RepoCache) -> Result<Snapshot, HubError> {
    let lacks = |missing: String| HubError::NotCached {
        cache: cache.root().into(),
        repo: id.repo.clone(),
        revision: revision.into(),
        missing,
    };
    let commit = cache.commit(revision).ok_or_else(|| lacks("all".into()))?;
    let files = cache.files(&commit);
    let paths: Vec<&str> = files.iter().map(String::as_str).collect();
    let choice = Choice::new(&paths, id.file.as_deref(), companions).map_err(|error| match error {
        ChoiceError::NoConfig => lacks("config.json".into()),
        ChoiceError::NoSuchFile { file, .. } => lacks(file),
        ChoiceError::NoWeights { .. } | ChoiceError::NoIndex { .. } => lacks("the weights".into()),
        error => choice_error(&id.repo, revision)(error),
    })?;
    if let Some(index) = choice.index() {
        let shards = read_shards(&cache.snapshot(&commit).join(index)).map_err(|why| HubError::Index {
            repo: id.repo.clone(),
            index: index.into(),
            why,
        })?;
        let missing: Vec<String> = shards.into_iter().filter(|s| !files.contains(s)).collect();
        if !missing.is_empty() {
            return Err(lacks(missing.join(", ")));
        }
    }
    Ok(snapshot(id, cache, &commit, &choice))
}

fn snapshot(id: &HubId, cache: &RepoCache, commit: &str, choice: &Choice) -> Snapshot {
    let folder = cache.snapshot(commit);
    let path = choice.entry().map_or_else(|| folder.clone(), |entry| folder.join(entry));
    Snapshot { path, folder, repo: id.repo.clone(), commit: commit.into() }
}

/// Names of the shards that an index names, each once.
fn read_shards(index: &std::path::Path) -> Result<Vec<String>, String> {
    let text = haikuq_files::read_at_most(index, 256 << 20).map_err(|e| e.to_string())?;
    let index: Value = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    let map = index.get("weight_map").and_then(Value::as_object).filter(|map| !map.is_empty());
    let map = map.ok_or("weight_map is missing, empty or not a table")?;
    let shard = |(tensor, shard): (&String, &Value)| match shard.as_str() {
        Some(name) if id::is_plain_path(name) && !name.contains('/') => Ok(name.to_string()),
        _ => Err(format!("it places tensor {tensor} in {shard}, which is no plain file name")),
    };
    Ok(map.iter().map(shard).collect::<Result<BTreeSet<_>, _>>()?.into_iter().collect())
}
