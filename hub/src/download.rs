//! One file into the cache: from where an earlier download broke off, hashed as it comes, named once it is right.

use super::cache::{RepoCache, free_space};
use super::client::{Client, Content, Hash, Trouble, backoff};
use super::{Event, HubError};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use ureq::http::StatusCode;
use ureq::http::header::CONTENT_RANGE;

const BUFFER: usize = 1 << 18;

/// A file to be downloaded.
pub(super) struct Wanted<'a> {
    pub(super) commit: &'a str,
    pub(super) path: &'a str,
    pub(super) content: &'a Content,
}

/// Sees to it that the snapshot has the file, complete and checked. `on_bytes` is told how many of its bytes are here.
pub(super) fn download(
    client: &Client,
    cache: &RepoCache,
    wanted: &Wanted,
    on_event: &dyn Fn(Event),
    on_bytes: &dyn Fn(u64),
) -> Result<(), HubError> {
    let (hash, bytes) = (wanted.content.hash.name(), wanted.content.bytes);
    if !cache.has(wanted.commit, wanted.path, bytes) {
        let _lock = cache.lock(hash, || on_event(Event::Waiting { file: wanted.path }))?;
        // The process that was waited for may have done it.
        if cache.has(wanted.commit, wanted.path, bytes) {
            on_bytes(bytes);
            return Ok(());
        }
        let blob = cache.blob(hash);
        if fs::metadata(&blob).is_ok_and(|m| m.len() != bytes) {
            fs::remove_file(&blob).map_err(HubError::io("remove", &blob))?;
        }
        if !blob.exists() {
            Transfer::open(client, cache, wanted)?.finish(&blob, on_event, on_bytes)?;
        }
        cache.link(wanted.commit, wanted.path, hash)?;
    }
    on_bytes(bytes);
    Ok(())
}

/// An unfinished blob.
struct Transfer<'a> {
    client: &'a Client<'a>,
    cache: &'a RepoCache,
    wanted: &'a Wanted<'a>,
    path: PathBuf,
    file: File,
    check: Check,
    got: u64,
    /// Whether a part of it is from an earlier run.
    inherited: bool,
}

impl<'a> Transfer<'a> {
    /// Takes up what an earlier run left.
    fn open(client: &'a Client, cache: &'a RepoCache, wanted: &'a Wanted) -> Result<Self, HubError> {
        let path = cache.incomplete(wanted.content.hash.name());
        let file = File::options().read(true).append(true).create(true).open(&path);
        let file = file.map_err(HubError::io("write", &path))?;
        let check = Check::new(wanted.content);
        let mut this = Self { client, cache, wanted, path, file, check, got: 0, inherited: false };
        this.take_up()?;
        Ok(this)
    }

    fn take_up(&mut self) -> Result<(), HubError> {
        let length = self.file.metadata().map_err(HubError::io("read", &self.path))?.len();
        if length > self.wanted.content.bytes {
            return self.start_afresh();
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            match self.file.read(&mut buffer).map_err(HubError::io("read", &self.path))? {
                0 => break,
                n => {
                    self.check.update(&buffer[..n]);
                    self.got += n as u64;
                }
            }
        }
        self.inherited = self.got > 0;
        Ok(())
    }

    fn start_afresh(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(HubError::io("write", &self.path))?;
        (self.check, self.got, self.inherited) = (Check::new(self.wanted.content), 0, false);
        Ok(())
    }

    fn finish(mut self, blob: &std::path::Path, on_event: &dyn Fn(Event), on_bytes: &dyn Fn(u64)) -> Result<(), HubError> {
        loop {
            self.transfer(on_event, on_bytes)?;
            self.file.sync_all().map_err(|e| self.write_error(e))?;
            match self.check.clone().compare(&self.wanted.content.hash) {
                Ok(()) => break,
                // Another program may have left something else under this name.
                Err(_) if self.inherited => self.start_afresh()?,
                Err((kind, found)) => return Err(self.damaged(kind, found, self.wanted.content.hash.name().into())),
            }
        }
        fs::rename(&self.path, blob).map_err(HubError::io("rename", &self.path))
    }

    /// Asks for what is missing until all is here.
    fn transfer(&mut self, on_event: &dyn Fn(Event), on_bytes: &dyn Fn(u64)) -> Result<(), HubError> {
        let mut failures = 0;
        on_bytes(self.got);
        while self.got < self.wanted.content.bytes {
            let before = self.got;
            match self.receive(on_bytes) {
                Ok(()) => {}
                Err(Trouble::Lasting(error)) => return Err(error),
                Err(Trouble::Range { why }) => {
                    failures += 1;
                    self.give_up(failures, &why)?;
                    self.start_afresh()?;
                }
                Err(Trouble::Passing { why, wait }) => {
                    failures = if self.got > before { 1 } else { failures + 1 };
                    self.give_up(failures, &why)?;
                    let wait = wait.unwrap_or_else(|| backoff(self.client.retry(), failures));
                    on_event(Event::Retry { what: self.wanted.path, why: &why, wait });
                    std::thread::sleep(wait);
                }
            }
        }
        Ok(())
    }

    /// An error after the last attempt.
    fn give_up(&self, failures: u32, why: &str) -> Result<(), HubError> {
        if failures < self.client.retry().attempts {
            return Ok(());
        }
        Err(HubError::BrokenOff {
            repo: self.client.repo().into(),
            file: self.wanted.path.into(),
            got: self.got,
            bytes: self.wanted.content.bytes,
            attempts: failures,
            why: why.into(),
        })
    }

    /// One request, and what it brings.
    fn receive(&mut self, on_bytes: &dyn Fn(u64)) -> Result<(), Trouble> {
        let bytes = self.wanted.content.bytes;
        let response = self.client.download(self.wanted.commit, self.wanted.path, self.got)?;
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let range = response.headers().get(CONTENT_RANGE).and_then(|r| r.to_str().ok()).unwrap_or_default();
            if !is_range(range, self.got, bytes) {
                return Err(Trouble::Range { why: format!("for the bytes from {} of {bytes} it sent {range:?}", self.got) });
            }
        } else if self.got > 0 {
            // A server that knows no ranges sends everything.
            self.start_afresh()?;
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = match body.read(&mut buffer) {
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Trouble::Passing { why: error.to_string(), wait: None }),
            };
            if n == 0 && self.got < bytes {
                let why = format!("the connection ended at byte {} of {bytes}", self.got);
                return Err(Trouble::Passing { why, wait: None });
            }
            if n == 0 {
                return Ok(());
            }
            if self.got + n as u64 > bytes {
                return Err(self.damaged("size", format!("over {bytes} bytes"), format!("{bytes} bytes")).into());
            }
            self.file.write_all(&buffer[..n]).map_err(|e| self.write_error(e))?;
            self.check.update(&buffer[..n]);
            self.got += n as u64;
            on_bytes(self.got);
        }
    }

    /// Removes what is here, so that the next run starts anew.
    fn damaged(&self, kind: &'static str, found: String, expected: String) -> HubError {
        match fs::remove_file(&self.path) {
            Err(error) => HubError::io("remove", &self.path)(error),
            Ok(()) => HubError::Damaged { repo: self.client.repo().into(), file: self.wanted.path.into(), kind, found, expected },
        }
    }

    fn write_error(&self, error: io::Error) -> HubError {
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            let folder = self.cache.root();
            let needed = self.wanted.content.bytes.saturating_sub(self.got);
            return HubError::DiskFull { folder: folder.into(), needed, free: free_space(folder).unwrap_or(0) };
        }
        HubError::io("write", &self.path)(error)
    }
}

/// Whether a `Content-Range` is the one that was asked for: `bytes 5-9/10`.
fn is_range(text: &str, start: u64, bytes: u64) -> bool {
    let Some((range, total)) = text.trim().strip_prefix("bytes ").and_then(|r| r.split_once('/')) else { return false };
    let first = range.split_once('-').and_then(|r| r.0.trim().parse().ok());
    first == Some(start) && (total.trim() == "*" || total.trim().parse() == Ok(bytes))
}

/// A hash in the making.
#[derive(Clone)]
enum Check {
    Sha256(Sha256),
    GitBlob(Sha1),
    Nothing,
}

impl Check {
    fn new(content: &Content) -> Self {
        match content.hash {
            Hash::Sha256(_) => Self::Sha256(Sha256::new()),
            Hash::GitBlob(_) => Self::GitBlob(Sha1::new().chain_update(format!("blob {}\0", content.bytes))),
            Hash::Opaque(_) => Self::Nothing,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::GitBlob(hash) => hash.update(bytes),
            Self::Nothing => {}
        }
    }

    /// What kind of hash differs and what it is, if it is not the expected one.
    fn compare(self, expected: &Hash) -> Result<(), (&'static str, String)> {
        let (kind, found) = match self {
            Self::Sha256(hash) => ("SHA-256", haikuq_files::hex(&hash.finalize())),
            Self::GitBlob(hash) => ("git hash", haikuq_files::hex(&hash.finalize())),
            Self::Nothing => return Ok(()),
        };
        if found == expected.name() { Ok(()) } else { Err((kind, found)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_sha256sum_and_of_git() {
        for (hash, name) in [
            (Hash::Sha256 as fn(String) -> Hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            // printf abc | git hash-object --stdin
            (Hash::GitBlob, "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f"),
        ] {
            let content = Content { bytes: 3, hash: hash(name.into()) };
            let mut check = Check::new(&content);
            check.update(b"ab");
            check.update(b"c");
            assert_eq!(check.clone().compare(&content.hash), Ok(()));
            check.update(b"d");
            assert!(check.compare(&content.hash).is_err());
        }
    }

    #[test]
    fn a_range_must_be_the_one_that_was_asked_for() {
        assert!(is_range("bytes 5-9/10", 5, 10) && is_range("bytes 5-9/*", 5, 10));
        for other in ["bytes 0-9/10", "bytes 5-9/11", "bytes */10", "", "5-9/10"] {
            assert!(!is_range(other, 5, 10), "{other}");
        }
    }
}
