//! What can go wrong between an id and its files.

use super::choice::ChoiceError;
use std::path::PathBuf;

/// What can go wrong between an id and its files. Every message says what to do where something can be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Not an id.
    #[error("{text:?} is no hub id (org/name, org/name@revision, org/name:model.gguf): {why}")]
    Id {
        /// As it was written.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// `HF_ENDPOINT` is wrong.
    #[error("HF_ENDPOINT is {text:?}; it must be an address such as https://huggingface.co")]
    Endpoint {
        /// Its value.
        text: String,
    },
    /// A token with characters that no token has.
    #[error("the access token from {origin} has characters that no token has; see https://huggingface.co/settings/tokens")]
    Token {
        /// The variable or file.
        origin: String,
    },
    /// Certificates that cannot be used.
    #[error("the certificates in {path} (SSL_CERT_FILE, REQUESTS_CA_BUNDLE) cannot be used: {why}", path = path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// No place for the cache.
    #[error("there is no home folder to keep downloads in: set HF_HOME")]
    NoCache,
    /// Refused without access rights (401).
    #[error(
        "{endpoint} shows no model {repo} to {who}: it is misspelt, private, or was deleted (HTTP 401); {token}",
        who = who(token_origin),
        token = try_token(token_origin)
    )]
    Unauthorized {
        /// The hub or mirror.
        endpoint: String,
        /// The model.
        repo: String,
        /// Where the token that was sent came from.
        token_origin: Option<String>,
    },
    /// The licence was not accepted (401 or 403).
    #[error(
        "{repo} is gated, and {who} may not download it: accept its conditions at {endpoint}/{repo}, then {token}",
        who = who(token_origin),
        token = try_token(token_origin)
    )]
    Gated {
        /// The hub or mirror.
        endpoint: String,
        /// The model.
        repo: String,
        /// Where the token that was sent came from.
        token_origin: Option<String>,
    },
    /// Refused for other reasons (403).
    #[error("{endpoint} refuses {what} of {repo} to {who} (HTTP 403){message}", who = who(token_origin))]
    Forbidden {
        /// The hub or mirror.
        endpoint: String,
        /// The model.
        repo: String,
        /// What was asked for.
        what: String,
        /// Where the token that was sent came from.
        token_origin: Option<String>,
        /// The hub's own words, after a colon; or nothing.
        message: String,
    },
    /// No such model (404).
    #[error("{endpoint} has no model {repo}: check the spelling at {endpoint}/models, or that the token may see it")]
    NoModel {
        /// The hub or mirror.
        endpoint: String,
        /// The model.
        repo: String,
    },
    /// No such branch, tag or commit (404).
    #[error("{repo} has no revision {revision}: its branches, tags and commits are listed at {endpoint}/{repo}/tree/main")]
    NoRevision {
        /// The hub or mirror.
        endpoint: String,
        /// The model.
        repo: String,
        /// What was asked for.
        revision: String,
    },
    /// The listing names a file that cannot be had (404).
    #[error("{repo} has no file {file} at {revision} (HTTP 404)")]
    NoFile {
        /// The model.
        repo: String,
        /// The commit.
        revision: String,
        /// The file.
        file: String,
    },
    /// The index names a shard that is not there.
    #[error("{repo}: {index} names {shard}, which the repository does not have; tell its authors, or try another --revision")]
    NoShard {
        /// The model.
        repo: String,
        /// The index.
        index: String,
        /// The shard.
        shard: String,
    },
    /// The index is not one.
    #[error("{repo}: {index} is no index of shards: {why}")]
    Index {
        /// The model.
        repo: String,
        /// The index.
        index: String,
        /// What is wrong.
        why: String,
    },
    /// There is nothing to take, or too much.
    #[error("{repo} at {revision}: {source}")]
    Choice {
        /// The model.
        repo: String,
        /// The revision as asked for.
        revision: String,
        /// Why.
        source: ChoiceError,
    },
    /// Nobody answers.
    #[error("cannot reach {host} for {what}: {why}; {way_out}")]
    Unreachable {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
        /// The system's reason.
        why: String,
        /// What can be done about it.
        way_out: &'static str,
    },
    /// A download broke off again and again.
    #[error(
        "{file} of {repo} broke off after {got} of {bytes} bytes, {attempts} times in a row: {why}; the bytes that came are kept, and the same command goes on from there"
    )]
    BrokenOff {
        /// The model.
        repo: String,
        /// The file.
        file: String,
        /// Bytes that are on disk.
        got: u64,
        /// Bytes of the whole file.
        bytes: u64,
        /// Attempts without progress.
        attempts: u32,
        /// The last reason.
        why: String,
    },
    /// Too many requests (429), for long.
    #[error("{host} takes no more requests for {seconds} s (HTTP 429); with an access token (HF_TOKEN) more are allowed")]
    RateLimited {
        /// The host.
        host: String,
        /// Seconds until it will again.
        seconds: u64,
    },
    /// An answer that the protocol does not have.
    #[error("{host} gave an unexpected answer for {what}: {why}")]
    Answer {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file is not what the hub says it is.
    #[error(
        "{file} of {repo} came damaged: its {kind} is {found}, expected {expected}; it was removed, and the same command downloads it again"
    )]
    Damaged {
        /// The model.
        repo: String,
        /// The file.
        file: String,
        /// `SHA-256`, `git hash` or `size`.
        kind: &'static str,
        /// What it is.
        found: String,
        /// What the hub says.
        expected: String,
    },
    /// Nobody may write without a token.
    #[error("publishing to {endpoint} takes an access token with the right to write: set HF_TOKEN, or log in with hf auth login")]
    NeedsToken {
        /// The hub or mirror.
        endpoint: String,
    },
    /// Offline, nothing is published.
    #[error("offline, nothing can be compared with the hub or published: run it without HF_HUB_OFFLINE")]
    Offline,
    /// The name is taken, or the branch moved (409, 412).
    #[error("{repo} refused {what} (HTTP {status}){message}")]
    Conflict {
        /// The model.
        repo: String,
        /// What was asked for.
        what: String,
        /// HTTP status.
        status: u16,
        /// The hub's own words, after a colon; or nothing.
        message: String,
    },
    /// Somebody else published meanwhile.
    #[error(
        "{repo} at {revision} moved on from {parent} while this was published, and nothing was changed: \
         look at what came, then run the same command again; files that arrived are not sent again"
    )]
    Moved {
        /// The model.
        repo: String,
        /// The branch.
        revision: String,
        /// The commit that the changes were made for.
        parent: String,
    },
    /// A new repository was to be private, and there is a public one.
    #[error(
        "{repo} is there already and everybody sees it: publish without --private, or make it private at {endpoint}/{repo}/settings"
    )]
    Public {
        /// The hub or mirror.
        endpoint: String,
        /// The model.
        repo: String,
    },
    /// Only branches take commits.
    #[error("{revision} is no branch of {repo}: publish to a branch")]
    NoBranch {
        /// The model.
        repo: String,
        /// What was asked for.
        revision: String,
    },
    /// The repository's own rules leave a file out.
    #[error("{repo} ignores {file}: its .gitignore names it; change that file, and run the same command again")]
    Ignored {
        /// The model.
        repo: String,
        /// The file.
        file: String,
    },
    /// Sending failed again and again.
    #[error(
        "{what} for {repo} failed {attempts} times in a row: {why}; nothing was committed, and the same command goes on: \
         files that arrived are not sent again"
    )]
    NotSent {
        /// The model.
        repo: String,
        /// The file, or what was asked for.
        what: String,
        /// Attempts without progress.
        attempts: u32,
        /// The last reason.
        why: String,
    },
    /// The store refuses a file.
    #[error("{repo} does not take {file}: {message} (code {code})")]
    Refused {
        /// The model.
        repo: String,
        /// The file.
        file: String,
        /// The store's code, as of HTTP.
        code: u64,
        /// The store's own words.
        message: String,
    },
    /// A file to be published is not the one that was hashed.
    #[error("{path} changed while it was published: nothing was committed", path = path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The disk is too small.
    #[error("{folder} has {free} bytes left, and {needed} more are to be downloaded: free some, or set HF_HOME to a folder on a larger disk", folder = folder.display())]
    DiskFull {
        /// The cache.
        folder: PathBuf,
        /// Bytes still to come.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The cache cannot be used.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// `read`, `write`, …
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Offline, and the cache does not have it.
    #[error("offline, and the cache {cache} lacks {missing} of {repo} at {revision}: run it once without --offline and HF_HUB_OFFLINE", cache = cache.display())]
    NotCached {
        /// The cache.
        cache: PathBuf,
        /// The model.
        repo: String,
        /// The revision.
        revision: String,
        /// What is not there.
        missing: String,
    },
}

impl HubError {
    /// Whether nobody answered, so that the cache is all there is.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    pub(super) fn io<'a>(what: &'static str, path: &'a std::path::Path) -> impl FnOnce(std::io::Error) -> Self + use<'a> {
        move |source| Self::Io { what, path: path.into(), source }
    }
}

fn who(token_origin: &Option<String>) -> String {
    match token_origin {
        Some(origin) => format!("the owner of the token from {origin}"),
        None => "someone without an access token".into(),
    }
}

fn try_token(token_origin: &Option<String>) -> &'static str {
    match token_origin {
        Some(_) => "use a valid token of an account that may read it (HF_TOKEN, or hf auth login)",
        None => "set HF_TOKEN to an access token, or log in with hf auth login",
    }
}
