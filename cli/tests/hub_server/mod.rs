//! A hub on this machine: it lists a repository, serves small files itself and sends large ones' readers to a second
//! port, its CDN. Every request is kept, and answers can be spoilt. [`uploads`] has the repository that is written to.

#![allow(dead_code, reason = "each test file uses a part")]

pub mod uploads;

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// The only repository.
pub const REPO: &str = "org/tiny";
/// The token that opens it, where one is needed.
pub const TOKEN: &str = "hf_right";

/// What goes wrong with the next answer that carries a file's bytes.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection ends after so many bytes.
    CutAfter(usize),
    /// Nothing more comes after so many bytes, and the connection stays.
    StallAfter(usize),
    /// Another status, with a header.
    Status(u16, &'static str),
    /// The first byte is another one.
    Corrupt,
    /// The whole file, whatever range was asked for.
    IgnoreRange,
    /// Nothing comes until the flag is set, or for half a minute.
    Hold(Arc<AtomicBool>),
}

/// A request as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub cdn: bool,
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

/// What the hub has and does.
#[derive(Default)]
pub struct State {
    /// Files at each commit.
    pub commits: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// What branches and tags stand for.
    pub revisions: BTreeMap<String, String>,
    /// Only for readers with [`TOKEN`].
    pub private: bool,
    /// Only the list of files for readers without [`TOKEN`].
    pub gated: bool,
    /// Lists names without sizes and hashes, as some mirrors do.
    pub bare_listing: bool,
    /// Sizes that the listing claims.
    pub claimed: BTreeMap<String, u64>,
    /// Listed files that are not there.
    pub gone: Vec<String>,
    /// The faults of each file's next answers.
    pub faults: BTreeMap<String, VecDeque<Fault>>,
    /// What the model's card says of its licence.
    pub licence: Option<&'static str>,
    /// The repository that is written to.
    pub target: uploads::Target,
    /// All requests so far.
    pub seen: Vec<Seen>,
}

pub struct Hub {
    state: Arc<Mutex<State>>,
    port: u16,
}

/// The name of the repository's `n`th commit.
pub fn commit(n: usize) -> String {
    format!("{n:040x}")
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub fn git_hash(bytes: &[u8]) -> String {
    hex(&Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}

/// Large files are those that the hub keeps outside of git.
fn is_large(path: &str) -> bool {
    [".safetensors", ".gguf", ".onnx", ".bin"].iter().any(|end| path.ends_with(end))
}

impl Hub {
    /// A hub whose `main` is the first commit, with these files.
    pub fn start(files: BTreeMap<String, Vec<u8>>) -> Self {
        let state =
            State { commits: [(commit(1), files)].into(), revisions: [("main".into(), commit(1))].into(), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let (hub, cdn) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let (port, cdn_port) = (hub.local_addr().unwrap().port(), cdn.local_addr().unwrap().port());
        for (listener, is_cdn) in [(hub, false), (cdn, true)] {
            let state = state.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = state.clone();
                    // A reader that left early is no failure.
                    std::thread::spawn(move || answer(stream, &state, is_cdn, cdn_port));
                }
            });
        }
        Self { state, port }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn fault(&self, file: &str, faults: &[Fault]) {
        self.state().faults.insert(file.into(), faults.to_vec().into());
    }

    /// Requests so far, and forgets them.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state().seen)
    }

    /// Names of the files that were asked for since the last time, sorted, each once.
    pub fn files_asked_for(&self) -> Vec<String> {
        let mut files: Vec<String> = self.seen().into_iter().filter_map(|s| file_of(&s.path)).collect();
        files.sort();
        files.dedup();
        files
    }
}

fn file_of(path: &str) -> Option<String> {
    Some(path.split_once("/resolve/")?.1.split_once('/')?.1.into())
}

fn answer(stream: TcpStream, state: &Mutex<State>, cdn: bool, cdn_port: u16) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut lines = reader.by_ref().lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut words = first.split(' ').map(str::to_string);
    let mut seen =
        Seen { cdn, method: words.next().unwrap_or_default(), path: words.next().unwrap_or_default(), ..Seen::default() };
    let mut length = 0;
    for line in lines {
        let line = line?;
        match line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_string())) {
            Some((name, value)) if name == "range" => seen.range = Some(value),
            Some((name, value)) if name == "authorization" => seen.authorization = Some(value),
            Some((name, value)) if name == "content-length" => length = value.parse().unwrap(),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let respond = |status: u16, headers: &[String], body: &[u8]| head(&stream, status, headers, body.len(), body);
    let mut hub = state.lock().unwrap();
    hub.seen.push(seen.clone());
    let allowed = seen.authorization.as_deref() == Some(&format!("Bearer {TOKEN}"));
    if let Some((status, headers, text)) = hub.target.answer(&seen, &body, allowed, cdn_port) {
        return match status {
            // The answer is lost on its way.
            0 => stream.shutdown(Shutdown::Both),
            _ => respond(status, &headers, &text),
        };
    }
    let refuse = |status: u16, code: &str| respond(status, &[format!("X-Error-Code: {code}")], b"{\"error\": \"no\"}");
    if let Some(hash) = seen.path.strip_prefix("/lfs/").filter(|_| cdn) {
        let files = hub.commits.values().flatten();
        let found = files.map(|(name, bytes)| (name.clone(), bytes.clone())).find(|(_, bytes)| sha256(bytes) == hash);
        let Some((name, bytes)) = found else { return respond(404, &[], b"") };
        return send_file(&stream, hub, &seen, &name, &bytes, &[]);
    }
    let (path, query) = seen.path.split_once('?').map_or((seen.path.as_str(), ""), |p| p);
    let path = path.replace("%2F", "/");
    if !path.contains(REPO) {
        // As the hub does, which does not tell strangers what there is.
        return if allowed { refuse(404, "RepoNotFound") } else { respond(401, &[], b"") };
    }
    if hub.private && !allowed {
        return respond(401, &[], b"");
    }
    if let Some(revision) = path.strip_prefix(&format!("/api/models/{REPO}/revision/")) {
        let Some(id) = resolve(&hub, revision) else { return refuse(404, "RevisionNotFound") };
        let listing = listing(&hub, &id, query.contains("blobs=true"));
        return respond(200, &["Content-Type: application/json".into()], listing.to_string().as_bytes());
    }
    let Some((revision, name)) = path.strip_prefix(&format!("/{REPO}/resolve/")).and_then(|p| p.split_once('/')) else {
        return respond(404, &[], b"");
    };
    if hub.gated && !allowed {
        return refuse(if seen.authorization.is_some() { 403 } else { 401 }, "GatedRepo");
    }
    let Some(id) = resolve(&hub, revision) else { return refuse(404, "RevisionNotFound") };
    let Some(bytes) = hub.commits[&id].get(name).filter(|_| !hub.gone.iter().any(|g| g == name)).cloned() else {
        return refuse(404, "EntryNotFound");
    };
    let mut headers = vec![format!("X-Repo-Commit: {id}")];
    if is_large(name) {
        headers.push(format!("X-Linked-Etag: \"{}\"", sha256(&bytes)));
        headers.push(format!("X-Linked-Size: {}", bytes.len()));
        headers.push(format!("Location: http://127.0.0.1:{cdn_port}/lfs/{}", sha256(&bytes)));
        return respond(302, &headers, b"");
    }
    headers.push(format!("ETag: \"{}\"", git_hash(&bytes)));
    send_file(&stream, hub, &seen, name, &bytes, &headers)
}

fn resolve(hub: &State, revision: &str) -> Option<String> {
    let commit = hub.revisions.get(revision).cloned().unwrap_or_else(|| revision.into());
    hub.commits.contains_key(&commit).then_some(commit)
}

fn listing(hub: &State, id: &str, blobs: bool) -> Value {
    let file = |(name, bytes): (&String, &Vec<u8>)| {
        let size = hub.claimed.get(name).copied().unwrap_or(bytes.len() as u64);
        let mut entry = json!({"rfilename": name});
        if blobs && !hub.bare_listing {
            entry["size"] = json!(size);
            entry["blobId"] = json!(git_hash(bytes));
            if is_large(name) {
                entry["lfs"] = json!({"sha256": sha256(bytes), "size": size, "pointerSize": 130});
            }
        }
        entry
    };
    let card = hub.licence.map_or(json!({}), |licence| json!({"license": licence}));
    json!({"id": REPO, "sha": id, "cardData": card, "siblings": hub.commits[id].iter().map(file).collect::<Vec<_>>()})
}

/// A file or the range of it that was asked for, as its next fault has it.
fn send_file(
    stream: &TcpStream,
    mut hub: MutexGuard<State>,
    seen: &Seen,
    name: &str,
    bytes: &[u8],
    headers: &[String],
) -> std::io::Result<()> {
    let fault = match seen.method.as_str() {
        "HEAD" => None,
        _ => hub.faults.get_mut(name).and_then(VecDeque::pop_front),
    };
    drop(hub);
    let start = seen.range.as_deref().and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let start = start.filter(|_| !matches!(fault, Some(Fault::IgnoreRange)));
    let mut headers = headers.to_vec();
    if let Some(start) = start {
        headers.push(format!("Content-Range: bytes {start}-{}/{}", bytes.len() - 1, bytes.len()));
    }
    let status = if start.is_some() { 206 } else { 200 };
    let mut body = bytes[start.unwrap_or(0)..].to_vec();
    let length = body.len();
    match fault {
        Some(Fault::Status(status, header)) => return head(stream, status, &[header.into()], 0, b""),
        Some(Fault::CutAfter(n)) => body.truncate(n),
        Some(Fault::StallAfter(n)) => {
            head(stream, status, &headers, length, &body[..n])?;
            std::thread::sleep(Duration::from_secs(600));
            return Ok(());
        }
        Some(Fault::Corrupt) => body[0] ^= 1,
        Some(Fault::Hold(go)) => {
            let start = Instant::now();
            while !go.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(30) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Some(Fault::IgnoreRange) | None => {}
    }
    if seen.method == "HEAD" {
        body.clear();
    }
    head(stream, status, &headers, length, &body)
}

/// Sends an answer that promises `length` bytes and has those of `body`, and ends the connection.
fn head(mut stream: &TcpStream, status: u16, headers: &[String], length: usize, body: &[u8]) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {status} Status\r\nContent-Length: {length}\r\nConnection: close\r\n");
    for header in headers.iter().filter(|h| !h.is_empty()) {
        text += &format!("{header}\r\n");
    }
    stream.write_all(format!("{text}\r\n").as_bytes())?;
    stream.write_all(body)?;
    stream.flush()?;
    // StallAfter goes on holding the connection; everyone else is done.
    if body.len() == length || length == 0 || status == 302 { stream.shutdown(Shutdown::Write) } else { Ok(()) }
}
