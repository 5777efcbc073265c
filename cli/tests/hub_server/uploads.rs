//! The repository of the hub on this machine that programs publish to: what Python's `huggingface_hub` asks the hub for.

use super::{Seen, commit, git_hash, is_large, sha256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};

/// Its id.
pub const TARGET: &str = "org/tiny-q4";

type Files = BTreeMap<String, Vec<u8>>;
/// Status, headers and body of an answer; status 0 is none at all.
type Answer = (u16, Vec<String>, Vec<u8>);

/// A commit as it was asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    pub summary: String,
    /// `KEY PATH` of each line after the first.
    pub lines: Vec<String>,
}

/// What it has and does.
#[derive(Default)]
pub struct Target {
    /// Whether it was made, and for whom to see.
    pub visibility: Option<&'static str>,
    /// Files at each commit, the first of which is number 101.
    pub commits: Vec<Files>,
    /// Commits of branches, by index.
    pub branches: BTreeMap<String, usize>,
    /// Commits that were asked for and made.
    pub asked: Vec<Asked>,
    /// Large files by hash.
    pub store: BTreeMap<String, Vec<u8>>,
    /// Size of parts, if files are sent in parts.
    pub chunk_size: Option<usize>,
    /// Parts of files by hash.
    pub parts: BTreeMap<String, BTreeMap<usize, Vec<u8>>>,
    /// Whether the end of a transfer is to be told.
    pub verify: bool,
    /// Hashes that were verified.
    pub verified: Vec<String>,
    /// Statuses of the next answers to transfers; 200 is none.
    pub put_faults: VecDeque<u16>,
    /// Somebody else's commit comes before the next one.
    pub overtaken: bool,
    /// The next commit is made, and its answer is lost.
    pub lose_answer: bool,
    /// A file that .gitignore names.
    pub ignored: Option<&'static str>,
}

impl Target {
    /// A repository that is there.
    pub fn there(files: &[(&str, &[u8])]) -> Self {
        let files = files.iter().map(|(name, bytes)| (name.to_string(), bytes.to_vec())).collect();
        let branches = [("main".to_string(), 0)].into();
        Self { visibility: Some("public"), commits: vec![files], branches, ..Self::default() }
    }

    /// The files of a branch.
    pub fn files(&self, branch: &str) -> &Files {
        &self.commits[self.branches[branch]]
    }

    /// Answers what concerns it.
    pub fn answer(&mut self, seen: &Seen, body: &[u8], allowed: bool, cdn_port: u16) -> Option<Answer> {
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        if seen.cdn {
            return self.transfer(seen, path, query, body);
        }
        let path = path.replace("%2F", "/");
        let json = |value: Value| Some((200, vec!["Content-Type: application/json".into()], value.to_string().into_bytes()));
        let refuse = |status: u16, code: &str| Some((status, vec![format!("X-Error-Code: {code}")], Vec::new()));
        let parse = || serde_json::from_slice::<Value>(body).unwrap_or_default();
        if path == "/api/repos/create" {
            let body = parse();
            assert_eq!(
                (&body["organization"], &body["name"], &body["type"]),
                (&json!("org"), &json!("tiny-q4"), &json!("model"))
            );
            if !allowed {
                return refuse(401, "");
            }
            if self.visibility.is_some() {
                return refuse(409, "");
            }
            let private = body["visibility"] == "private";
            *self = Self { visibility: Some(if private { "private" } else { "public" }), ..std::mem::take(self) };
            self.commits.push([(".gitattributes".to_string(), b"*.safetensors filter=lfs\n".to_vec())].into());
            self.branches.insert("main".into(), 0);
            return json(json!({"url": format!("https://hub.example/{TARGET}")}));
        }
        if let Some(rest) = path.strip_prefix(&format!("/{TARGET}/resolve/")) {
            let (id, name) = rest.split_once('/')?;
            let files = &self.commits[self.index(id)?];
            return match files.get(name) {
                Some(bytes) => Some((200, vec![format!("ETag: \"{}\"", git_hash(bytes))], bytes.clone())),
                None => refuse(404, "EntryNotFound"),
            };
        }
        if path == format!("/{TARGET}.git/info/lfs/objects/batch") {
            return if allowed { json(self.batch(&parse(), cdn_port)) } else { refuse(401, "") };
        }
        let (verb, revision) = path.strip_prefix(&format!("/api/models/{TARGET}/"))?.split_once('/')?;
        if self.visibility.is_none() || self.visibility == Some("private") && !allowed {
            return if allowed { refuse(404, "RepoNotFound") } else { refuse(401, "") };
        }
        if verb == "revision" {
            let Some(index) = self.index(revision) else { return refuse(404, "RevisionNotFound") };
            return json(self.listing(index));
        }
        if !allowed {
            return refuse(401, "");
        }
        match verb {
            "branch" => {
                let at = self.index(parse()["startingPoint"].as_str()?)?;
                self.branches.insert(revision.into(), at);
                json(json!({}))
            }
            "preupload" => {
                let files = parse()["files"].as_array()?.clone();
                let mode = |file: Value| {
                    let path = file["path"].as_str().unwrap();
                    assert!(file["size"].is_u64() && STANDARD.decode(file["sample"].as_str().unwrap()).unwrap().len() <= 512);
                    let mode = if is_large(path) { "lfs" } else { "regular" };
                    json!({"path": path, "uploadMode": mode, "shouldIgnore": self.ignored == Some(path), "oid": null})
                };
                json(json!({"files": files.into_iter().map(mode).collect::<Vec<_>>()}))
            }
            "commit" => Some(self.commit(revision, body)),
            _ => None,
        }
    }

    fn index(&self, revision: &str) -> Option<usize> {
        self.branches.get(revision).copied().or_else(|| (0..self.commits.len()).find(|i| commit(101 + i) == revision))
    }

    fn listing(&self, index: usize) -> Value {
        let file = |(name, bytes): (&String, &Vec<u8>)| {
            let mut entry = json!({"rfilename": name, "size": bytes.len(), "blobId": git_hash(bytes)});
            if is_large(name) {
                entry["lfs"] = json!({"sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 130});
            }
            entry
        };
        let siblings: Vec<Value> = self.commits[index].iter().map(file).collect();
        json!({"id": TARGET, "sha": commit(101 + index), "private": self.visibility == Some("private"), "siblings": siblings})
    }

    /// Addresses for what the store does not have.
    fn batch(&self, asked: &Value, cdn_port: u16) -> Value {
        assert_eq!((&asked["operation"], &asked["hash_algo"]), (&json!("upload"), &json!("sha256")));
        let address = |path: String| format!("http://127.0.0.1:{cdn_port}/put/{path}?signature=s");
        let object = |object: &Value| {
            let (oid, size) = (object["oid"].as_str().unwrap(), object["size"].as_u64().unwrap() as usize);
            if self.store.contains_key(oid) {
                return json!({"oid": oid, "size": size});
            }
            let upload = match self.chunk_size {
                None => json!({"href": address(oid.into())}),
                Some(chunk) => {
                    let part = |i: usize| (format!("{i:05}"), json!(address(format!("{oid}/{i}"))));
                    let mut header: serde_json::Map<_, _> = (1..=size.div_ceil(chunk)).map(part).collect();
                    header.insert("chunk_size".into(), json!(chunk.to_string()));
                    json!({"href": address(format!("{oid}/complete")), "header": header})
                }
            };
            let mut actions = json!({"upload": upload});
            if self.verify {
                actions["verify"] = json!({"href": address(format!("{oid}/verify"))});
            }
            json!({"oid": oid, "size": size, "authenticated": true, "actions": actions})
        };
        json!({"transfer": "basic", "objects": asked["objects"].as_array().unwrap().iter().map(object).collect::<Vec<_>>()})
    }

    /// The store of objects, which knows signatures and no tokens.
    fn transfer(&mut self, seen: &Seen, path: &str, query: &str, body: &[u8]) -> Option<Answer> {
        let path = path.strip_prefix("/put/")?;
        assert_eq!((seen.authorization.as_ref(), query), (None, "signature=s"), "{seen:?}");
        let (oid, what) = path.split_once('/').unwrap_or((path, ""));
        let ok = |headers: Vec<String>| Some((200, headers, Vec::new()));
        match self.put_faults.pop_front() {
            None | Some(200) => {}
            Some(status) => return Some((status, Vec::new(), Vec::new())),
        }
        match (seen.method.as_str(), what) {
            ("PUT", "") => {
                assert_eq!(sha256(body), oid);
                self.store.insert(oid.into(), body.to_vec());
                ok(vec!["ETag: \"whole\"".into()])
            }
            ("PUT", number) => {
                let number = number.parse().unwrap();
                self.parts.entry(oid.into()).or_default().insert(number, body.to_vec());
                ok(vec![format!("ETag: \"part {number}\"")])
            }
            ("POST", "complete") => {
                let said: Value = serde_json::from_slice(body).unwrap();
                let parts = self.parts.remove(oid).unwrap_or_default();
                let expected: Vec<Value> =
                    parts.keys().map(|n| json!({"partNumber": n, "etag": format!("\"part {n}\"")})).collect();
                assert_eq!(said, json!({"oid": oid, "parts": expected}));
                let whole: Vec<u8> = parts.into_values().flatten().collect();
                assert_eq!(sha256(&whole), oid);
                self.store.insert(oid.into(), whole);
                ok(Vec::new())
            }
            ("POST", "verify") => {
                let said: Value = serde_json::from_slice(body).unwrap();
                assert_eq!((said["oid"].as_str(), said["size"].as_u64()), (Some(oid), Some(self.store[oid].len() as u64)));
                self.verified.push(oid.into());
                ok(Vec::new())
            }
            other => panic!("{other:?}"),
        }
    }

    fn commit(&mut self, branch: &str, body: &[u8]) -> Answer {
        let refuse = |status: u16, message: &str| (status, vec![format!("X-Error-Message: {message}")], Vec::new());
        let at = self.branches[branch];
        let mut files = self.commits[at].clone();
        if std::mem::take(&mut self.overtaken) {
            files.insert("theirs.txt".into(), b"first".to_vec());
            self.commits.push(files);
            self.branches.insert(branch.into(), self.commits.len() - 1);
            return self.commit(branch, body);
        }
        let mut asked = Asked { summary: String::new(), lines: Vec::new() };
        for line in body.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            let line: Value = serde_json::from_slice(line).unwrap();
            let (key, value) = (line["key"].as_str().unwrap(), &line["value"]);
            let path = value["path"].as_str().unwrap_or_default();
            if key != "header" {
                asked.lines.push(format!("{key} {path}"));
            }
            match key {
                "header" => {
                    if value["parentCommit"] != json!(commit(101 + at)) {
                        return refuse(412, "A commit has happened since. Please refresh and try again.");
                    }
                    asked.summary = value["summary"].as_str().unwrap().into();
                }
                "file" => {
                    assert_eq!(value["encoding"], "base64");
                    files.insert(path.into(), STANDARD.decode(value["content"].as_str().unwrap()).unwrap());
                }
                "lfsFile" => {
                    let Some(bytes) = self.store.get(value["oid"].as_str().unwrap()) else {
                        return refuse(400, "the object is not there");
                    };
                    assert_eq!((&value["algo"], value["size"].as_u64()), (&json!("sha256"), Some(bytes.len() as u64)));
                    files.insert(path.into(), bytes.clone());
                }
                "deletedFile" => drop(files.remove(path).expect("a file that is there")),
                other => panic!("{other}"),
            }
        }
        self.commits.push(files);
        self.asked.push(asked);
        let id = self.commits.len() - 1;
        self.branches.insert(branch.into(), id);
        if std::mem::take(&mut self.lose_answer) {
            return (0, Vec::new(), Vec::new());
        }
        let answer = json!({"commitUrl": format!("https://hub.example/{TARGET}/commit/{}", commit(101 + id)), "commitOid": commit(101 + id)});
        (200, Vec::new(), answer.to_string().into_bytes())
    }
}
