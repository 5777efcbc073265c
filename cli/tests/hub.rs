//! Models on the hub, from a hub on this machine: what the program asks for, what it keeps, and its messages when it fails.

mod hub_server;
mod support;

use haikuq_hub::{Companions, Event, HubError, HubId, Settings, Snapshot, Token};
use hub_server::{Fault, Hub, REPO, TOKEN, commit, git_hash, sha256};
use serde_json::json;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{TinyCheckpoint, assert_same, assert_says, contents, convert, fail, haikuq, read_json, succeed};
use tempfile::TempDir;

const WEIGHTS: &str = "model.safetensors";

/// A hub with a tiny checkpoint, and a home with an empty cache.
struct World {
    hub: Hub,
    dir: TempDir,
}

/// A folder's files, and others that a real repository has beside them.
fn repository(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let clutter = ["README.md", "pytorch_model.bin", "model.fp32.safetensors", "onnx/model.onnx", "tiny-f16.gguf", "tf_model.h5"];
    let clutter = clutter.iter().map(|name| (name.to_string(), format!("not needed: {name}").into_bytes()));
    let files = contents(folder).into_iter().map(|(path, bytes)| (path.display().to_string(), bytes));
    files.chain(clutter).collect()
}

impl World {
    fn new() -> Self {
        Self::with(|folder| TinyCheckpoint::new().write(folder))
    }

    fn with(write: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("local"));
        Self { hub: Hub::start(repository(&dir.path().join("local"))), dir }
    }

    fn of(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(name, text)| (name.to_string(), text.as_bytes().to_vec())).collect();
        Self { hub: Hub::start(files), dir: tempfile::tempdir().unwrap() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// The repository's folder in the cache.
    fn cached(&self, path: &str) -> PathBuf {
        self.at("home/hub/models--org--tiny").join(path)
    }

    fn incomplete(&self, hash: &str) -> PathBuf {
        self.cached(&format!("blobs/{hash}.incomplete"))
    }

    fn file(&self, name: &str) -> Vec<u8> {
        self.hub.state().commits[&commit(1)][name].clone()
    }

    /// Any command, with this hub and home.
    fn on_hub(&self, mut command: Command) -> Command {
        for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"] {
            command.env_remove(name);
        }
        command.env_remove("HF_HUB_OFFLINE").env_remove("TRANSFORMERS_OFFLINE").env("NO_PROXY", "*");
        command.env("HF_HOME", self.at("home")).env("HF_ENDPOINT", self.hub.url()).current_dir(self.dir.path());
        command
    }

    /// `haikuq convert ID --out OUT ARGS`, not yet run.
    fn convert(&self, id: &str, out: &str, args: &[&str]) -> Command {
        self.on_hub(convert(Path::new(id), &self.at(out), args))
    }

    fn settings(&self) -> Settings {
        let mut settings = Settings::new(&self.hub.url(), self.at("home/hub")).unwrap();
        settings.retry.attempts = 3;
        settings.retry.first_wait = Duration::from_millis(1);
        settings.retry.timeout = Duration::from_secs(10);
        settings
    }

    fn offline(&self) -> Settings {
        let mut settings = self.settings();
        settings.offline = true;
        settings
    }

    fn fetch(&self, id: &str) -> Result<Snapshot, HubError> {
        self.fetch_with(id, &self.settings())
    }

    fn fetch_with(&self, id: &str, settings: &Settings) -> Result<Snapshot, HubError> {
        haikuq_hub::fetch(&HubId::parse(id, &settings.hosts())?, &companions(), settings, &|_| {})
    }

    #[track_caller]
    fn refused(&self, id: &str, settings: &Settings, parts: &[&str]) -> HubError {
        let error = self.fetch_with(id, settings).expect_err("a refusal");
        assert_says(&error.to_string(), parts);
        error
    }

    /// `Range` of every request for the weights' bytes since the last time.
    fn ranges(&self) -> Vec<Option<String>> {
        self.hub.seen().into_iter().filter(|s| s.cdn).map(|s| s.range).collect()
    }
}

fn companions() -> Companions<'static> {
    let mut companions = Companions::default();
    companions.always.extend(haikuq::checkpoint::COMPANION_FILES);
    companions.without_tokenizer.extend(haikuq::checkpoint::tokenizer_files());
    companions
}

fn wait_until(what: &str, happened: impl Fn() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn said(output: std::process::Output) -> String {
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn only_what_is_needed_is_downloaded_and_the_package_says_where_from() {
    let world = World::new();
    let notes = said(succeed(world.convert(REPO, "out", &[])));
    assert_says(&notes, &["org/tiny at 00000000: 3 files to download, "]);
    assert_eq!(world.hub.files_asked_for(), ["config.json", WEIGHTS, "tokenizer.json"]);

    let mut manifest = read_json(&world.at("out/haikuq.json"));
    assert_eq!(manifest["provenance"]["hub"], json!({"repo": REPO, "commit": commit(1)}));
    assert_says(
        &String::from_utf8(
            succeed({
                let mut command = haikuq();
                command.arg("inspect").arg(world.at("out"));
                command
            })
            .stdout,
        )
        .unwrap(),
        &["from      org/tiny on the hub, commit 0000000000000000000000000000000000000001"],
    );

    // Where it came from is the only thing that differs from a conversion of the same files on disk.
    succeed(convert(&world.at("local"), &world.at("same"), &[]));
    manifest["provenance"].as_object_mut().unwrap().remove("hub");
    assert_eq!(read_json(&world.at("same/haikuq.json")), manifest);
    for folder in ["out", "same"] {
        std::fs::remove_file(world.at(folder).join("haikuq.json")).unwrap();
    }
    assert_same(&world.at("out"), &world.at("same"));
}

#[test]
fn the_cache_is_laid_out_as_python_has_it_and_is_not_downloaded_again() {
    let world = World::new();
    let snapshot = world.fetch(REPO).unwrap();
    assert_eq!(snapshot.folder, world.cached("snapshots").join(commit(1)));
    assert_eq!(snapshot.path, snapshot.folder);
    assert_eq!(std::fs::read_to_string(world.cached("refs/main")).unwrap(), commit(1));
    for (name, hash) in [(WEIGHTS, sha256(&world.file(WEIGHTS))), ("config.json", git_hash(&world.file("config.json")))] {
        assert_eq!(std::fs::read_link(snapshot.folder.join(name)).unwrap(), Path::new(&format!("../../blobs/{hash}")));
        assert_eq!(std::fs::read(world.cached("blobs").join(hash)).unwrap(), world.file(name));
    }

    world.hub.seen();
    assert_eq!(world.fetch(REPO).unwrap(), snapshot);
    assert_eq!(world.hub.seen().len(), 1, "the list of files alone");

    // A snapshot whose links are gone has its bytes still.
    std::fs::remove_dir_all(world.cached("snapshots")).unwrap();
    assert_eq!(world.fetch(REPO).unwrap(), snapshot);
    assert_eq!(world.hub.seen().len(), 1);
}

#[test]
fn of_shards_those_that_the_index_names_are_downloaded() {
    let world = World::with(|folder| TinyCheckpoint::new().write_sharded(folder, 2));
    let stray = "model-00003-of-00002.safetensors";
    world.hub.state().commits.get_mut(&commit(1)).unwrap().insert(stray.into(), b"stray".to_vec());
    succeed(world.convert(REPO, "out", &[]));
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let expected = ["config.json", shards[0], shards[1], "model.safetensors.index.json", "tokenizer.json"];
    assert_eq!(world.hub.files_asked_for(), expected);
}

#[test]
fn a_shard_that_the_index_names_in_vain_is_named() {
    let world = World::with(|folder| TinyCheckpoint::new().write_sharded(folder, 2));
    let shard = "model-00002-of-00002.safetensors";
    world.hub.state().commits.get_mut(&commit(1)).unwrap().remove(shard);
    world.refused(REPO, &world.settings(), &["model.safetensors.index.json names", shard]);
    assert!(world.ranges().is_empty(), "no weights are downloaded in vain");
}

#[test]
fn a_file_that_breaks_off_midway_goes_on_from_there() {
    let world = World::new();
    world.hub.fault(WEIGHTS, &[Fault::CutAfter(1000), Fault::CutAfter(500)]);
    let notes = said(succeed(world.convert(REPO, "out", &[])));
    assert_says(&notes, &["model.safetensors: ", "trying again in 0.4 s"]);
    assert_eq!(world.ranges(), [None, Some("bytes=1000-".into()), Some("bytes=1500-".into())]);
    assert_eq!(std::fs::read(world.cached("snapshots").join(commit(1)).join(WEIGHTS)).unwrap(), world.file(WEIGHTS));
}

#[test]
fn a_killed_run_leaves_nothing_under_its_final_name_and_the_next_goes_on() {
    let world = World::new();
    world.hub.fault(WEIGHTS, &[Fault::StallAfter(4321)]);
    let part = world.incomplete(&sha256(&world.file(WEIGHTS)));
    let mut child = world.convert(REPO, "out", &[]).stderr(Stdio::null()).spawn().unwrap();
    wait_until("a part is on disk", || std::fs::metadata(&part).is_ok_and(|m| m.len() == 4321));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!world.cached("snapshots").join(commit(1)).join(WEIGHTS).exists());
    world.hub.seen();
    succeed(world.convert(REPO, "out", &[]));
    assert_eq!(world.ranges(), [Some("bytes=4321-".into())]);
    assert!(!part.exists());
}

#[test]
fn a_server_that_knows_no_ranges_or_not_this_one_is_asked_for_everything() {
    for fault in [Fault::IgnoreRange, Fault::Status(416, "")] {
        let world = World::new();
        world.hub.fault(WEIGHTS, &[Fault::CutAfter(1000), fault]);
        let snapshot = world.fetch(REPO).unwrap();
        assert_eq!(std::fs::read(snapshot.folder.join(WEIGHTS)).unwrap(), world.file(WEIGHTS));
    }
}

#[test]
fn what_breaks_off_again_and_again_is_given_up_and_kept() {
    let world = World::new();
    world.hub.fault(WEIGHTS, &[Fault::CutAfter(100), Fault::CutAfter(0), Fault::CutAfter(0)]);
    let bytes = world.file(WEIGHTS).len().to_string();
    world.refused(REPO, &world.settings(), &[WEIGHTS, REPO, "after 100 of", &bytes, "3 times", "goes on from there"]);
    world.ranges();
    world.fetch(REPO).unwrap();
    assert_eq!(world.ranges(), [Some("bytes=100-".into())]);
}

#[test]
fn a_busy_server_is_asked_again_when_it_says() {
    let world = World::new();
    world
        .hub
        .fault(WEIGHTS, &[Fault::Status(503, ""), Fault::Status(429, "Retry-After: 0"), Fault::Status(429, "Retry-After: 0")]);
    world.refused(REPO, &world.settings(), &["HTTP 429", "broke off after 0 of"]);
    world.hub.fault(WEIGHTS, &[Fault::Status(500, ""), Fault::Status(429, "Retry-After: 1")]);
    let start = Instant::now();
    world.fetch(REPO).unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    let world = World::new();
    world.hub.fault(WEIGHTS, &[Fault::Status(429, "Retry-After: 3600")]);
    world.refused(REPO, &world.settings(), &["for 3600 s", "HF_TOKEN"]);
}

#[test]
fn damaged_bytes_are_named_and_removed_and_the_next_run_starts_anew() {
    for (name, hash, kind) in [(WEIGHTS, sha256 as fn(&[u8]) -> String, "SHA-256"), ("tokenizer.json", git_hash, "git hash")] {
        let world = World::new();
        world.hub.fault(name, &[Fault::Corrupt]);
        let good = world.file(name);
        let mut bad = good.clone();
        bad[0] ^= 1;
        let said = fail(world.convert(REPO, "out", &[]));
        assert_says(&said, &[name, REPO, kind, &format!("is {}", hash(&bad)), &format!("expected {}", hash(&good))]);
        assert!(!world.incomplete(&hash(&good)).exists() && !world.cached("blobs").join(hash(&good)).exists());
        assert!(!world.at("out").exists());
        succeed(world.convert(REPO, "out", &[]));
    }
}

#[test]
fn a_size_that_is_not_the_listed_one_is_refused() {
    let world = World::new();
    world.hub.state().claimed.insert(WEIGHTS.into(), 1000);
    world.refused(REPO, &world.settings(), &[WEIGHTS, "size is over 1000 bytes", "expected 1000 bytes"]);
}

#[test]
fn what_another_program_left_is_checked_and_replaced() {
    for length in [700, 10_000_000] {
        let world = World::new();
        let part = world.incomplete(&sha256(&world.file(WEIGHTS)));
        std::fs::create_dir_all(part.parent().unwrap()).unwrap();
        std::fs::write(&part, vec![7; length]).unwrap();
        let snapshot = world.fetch(REPO).unwrap();
        assert_eq!(std::fs::read(snapshot.folder.join(WEIGHTS)).unwrap(), world.file(WEIGHTS));
    }
}

#[test]
fn two_runs_at_once_download_each_file_once() {
    let world = World::new();
    let go = Arc::new(AtomicBool::new(false));
    world.hub.fault(WEIGHTS, &[Fault::Hold(go.clone())]);
    let other = world.convert(REPO, "out", &[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the other process downloads", || world.hub.state().seen.iter().any(|s| s.cdn));
    let waited = Cell::new(false);
    let snapshot = haikuq_hub::fetch(&HubId::parse(REPO, &[]).unwrap(), &companions(), &world.settings(), &|event| {
        if let Event::Waiting { file } = event {
            assert_eq!(file, WEIGHTS);
            waited.set(true);
            go.store(true, Ordering::Relaxed);
        }
    });
    assert_eq!(std::fs::read(snapshot.unwrap().folder.join(WEIGHTS)).unwrap(), world.file(WEIGHTS));
    assert!(waited.get());
    let other = other.wait_with_output().unwrap();
    assert!(other.status.success(), "{}", said(other));
    assert_eq!(world.ranges().len(), 1);
}

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let world = World::new();
    world.hub.state().private = true;
    let mut command = world.convert(REPO, "out", &[]);
    command.env("HF_TOKEN", TOKEN);
    succeed(command);
    let (cdn, hub): (Vec<_>, Vec<_>) = world.hub.seen().into_iter().partition(|s| s.cdn);
    assert!(!cdn.is_empty() && cdn.iter().all(|s| s.authorization.is_none()), "{cdn:?}");
    assert!(hub.len() > 1 && hub.iter().all(|s| s.authorization == Some(format!("Bearer {TOKEN}"))), "{hub:?}");

    // The file that a login wrote does as well.
    std::fs::remove_dir_all(world.cached("")).unwrap();
    std::fs::write(world.at("home/token"), format!("{TOKEN}\n")).unwrap();
    succeed(world.convert(REPO, "out", &["--force"]));
}

#[test]
fn refusals_say_whose_fault_it_is_and_what_to_do() {
    let world = World::new();
    let with_token = |value: &str| {
        let mut settings = world.settings();
        settings.token = Some(Token::new(value, "HF_TOKEN".into()).unwrap());
        settings
    };
    let (plain, right, wrong) = (world.settings(), with_token(TOKEN), with_token("hf_wrong"));

    let said = ["org/no-such", "misspelt, private", "HTTP 401", "without an access token", "set HF_TOKEN"];
    assert!(matches!(world.refused("org/no-such", &plain, &said), HubError::Unauthorized { .. }));
    let said = ["org/no-such", "the token from HF_TOKEN", "use a valid token"];
    assert!(matches!(world.refused("org/no-such", &wrong, &said), HubError::Unauthorized { .. }));
    assert!(matches!(world.refused("org/no-such", &right, &["has no model org/no-such"]), HubError::NoModel { .. }));
    let error = world.refused("org/tiny@nightly", &plain, &["org/tiny has no revision nightly", "/org/tiny/tree/main"]);
    assert!(matches!(error, HubError::NoRevision { .. }));
    let error = world.refused("org/tiny:other.gguf", &plain, &["no file other.gguf", "tiny-f16.gguf"]);
    assert!(matches!(error, HubError::Choice { .. }));

    world.hub.state().gone.push("tokenizer.json".into());
    assert!(matches!(world.refused(REPO, &plain, &["no file tokenizer.json"]), HubError::NoFile { .. }));
    world.hub.state().gone.clear();

    world.hub.state().gated = true;
    let accept = format!("accept its conditions at {}/org/tiny", world.hub.url());
    for settings in [&plain, &wrong] {
        assert!(matches!(world.refused(REPO, settings, &["is gated", &accept, "HF_TOKEN"]), HubError::Gated { .. }));
    }
    assert!(world.fetch_with(REPO, &right).is_ok());
}

#[test]
fn the_command_line_says_what_was_looked_for_on_disk_and_on_the_hub() {
    let world = World::new();
    let here = world.dir.path().display().to_string();
    let typo = fail(world.convert("org/tyni", "out", &[]));
    assert_says(&typo, &["org/tyni is not on disk (looked in ", &here, "shows no model org/tyni"]);
    assert_says(&fail(world.convert("hf:org/tyni", "out", &[])), &["cannot get hf:org/tyni"]);
    world.hub.seen();
    for (text, why) in [("./org/tiny", "no name"), ("tiny", "org/name"), ("runs/tiny/step-500", "a file with weights")] {
        assert_says(&fail(world.convert(text, "out", &[])), &[text, "not a folder or file, and no id of a model", why]);
    }
    assert_says(&fail(world.convert("https://example.org/a/b", "out", &[])), &["example.org is not the hub"]);
    assert!(world.hub.seen().is_empty());
}

#[test]
fn a_path_on_disk_wins_over_an_id() {
    let world = World::new();
    TinyCheckpoint::new().write(&world.at("org/tiny"));
    succeed(world.convert(REPO, "out", &[]));
    assert!(world.hub.seen().is_empty());
    assert_says(&fail(world.convert(REPO, "other", &["--revision", "v1"])), &["--revision v1", "is on disk"]);
    succeed(world.convert("hf:org/tiny", "hub", &[]));
    assert!(!world.hub.seen().is_empty());
}

#[test]
fn branches_tags_and_commits_are_revisions() {
    let world = World::new();
    let mut other = TinyCheckpoint::new();
    other.put("model.norm.weight", 0, 2.0);
    other.write(&world.at("other"));
    {
        let mut state = world.hub.state();
        state.commits.insert(commit(2), repository(&world.at("other")));
        state.revisions.insert("refs/pr/1".into(), commit(2));
        state.revisions.insert("v2".into(), commit(2));
    }
    let mut packages = Vec::new();
    for (i, (id, args)) in [
        ("org/tiny@refs/pr/1".to_string(), &[][..]),
        (REPO.into(), &["--revision", "v2"]),
        (format!("org/tiny@{}", commit(2)), &[]),
        (format!("{}/org/tiny/tree/refs%2Fpr%2F1", world.hub.url()), &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let out = format!("out{i}");
        succeed(world.convert(&id, &out, args));
        assert_eq!(read_json(&world.at(&out).join("haikuq.json"))["provenance"]["hub"]["commit"], json!(commit(2)), "{id}");
        packages.push(out);
    }
    assert_eq!(world.ranges().len(), 1, "the commit's weights are downloaded once");
    assert_same(&world.at(&packages[0]), &world.at(&packages[3]));
    assert_eq!(std::fs::read_to_string(world.cached("refs/refs/pr/1")).unwrap(), commit(2));
    assert!(!world.cached("refs").join(commit(2)).exists());

    // A branch that moved is followed.
    assert_eq!(world.fetch(REPO).unwrap().commit, commit(1));
    world.hub.state().revisions.insert("main".into(), commit(2));
    assert_eq!(world.fetch(REPO).unwrap().commit, commit(2));
    let said = fail(world.convert("org/tiny@v2", "out", &["--revision", "main"]));
    assert_says(&said, &["at v2", "--revision main"]);
}

#[test]
fn offline_the_cache_is_enough_or_what_is_missing_is_said() {
    let world = World::new();
    let said = fail(world.convert(REPO, "out", &["--offline"]));
    assert_says(&said, &["offline", "home/hub lacks all of org/tiny at main"]);
    assert!(world.hub.seen().is_empty());

    let snapshot = world.fetch(REPO).unwrap();
    world.hub.seen();
    succeed(world.convert(REPO, "out", &["--offline"]));
    let mut command = world.convert(REPO, "by-variable", &[]);
    command.env("HF_HUB_OFFLINE", "1");
    succeed(command);
    assert!(world.hub.seen().is_empty());
    assert_same(&world.at("out"), &world.at("by-variable"));
    let offline = world.offline();
    world.refused("org/tiny@v2", &offline, &["lacks all of org/tiny at v2"]);
    world.refused("org/tiny:tiny-f16.gguf", &offline, &["lacks tiny-f16.gguf of org/tiny"]);
    std::fs::remove_file(snapshot.folder.join(WEIGHTS)).unwrap();
    world.refused(REPO, &offline, &["lacks the weights of org/tiny at main"]);
}

#[test]
fn offline_shards_that_are_missing_are_named() {
    let world = World::with(|folder| TinyCheckpoint::new().write_sharded(folder, 2));
    let snapshot = world.fetch(REPO).unwrap();
    std::fs::remove_file(snapshot.folder.join("model-00002-of-00002.safetensors")).unwrap();
    let offline = world.offline();
    world.refused(REPO, &offline, &["lacks model-00002-of-00002.safetensors of org/tiny"]);
}

#[test]
fn without_a_network_a_complete_cache_is_used_and_that_is_said() {
    let world = World::new();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut settings = world.settings();
    settings.endpoint = format!("http://{nobody}");
    let error = world.refused(REPO, &settings, &["cannot reach", &nobody.to_string(), "--offline", "HF_ENDPOINT"]);
    assert!(error.is_unreachable());
    let snapshot = world.fetch(REPO).unwrap();
    let told = Cell::new(false);
    let again = haikuq_hub::fetch(&HubId::parse(REPO, &[]).unwrap(), &companions(), &settings, &|event| {
        if let Event::Unreachable { commit: known, .. } = event {
            assert_eq!(known, commit(1));
            told.set(true);
        }
    });
    assert_eq!(again.unwrap(), snapshot);
    assert!(told.get());
}

#[test]
fn pickles_are_not_even_downloaded() {
    let world = World::of(&[("config.json", "{}"), ("pytorch_model.bin", "code"), ("training_args.bin", "code")]);
    let said = fail(world.convert(REPO, "out", &[]));
    assert_says(&said, &["org/tiny at main", "pytorch_model.bin", "run code", "save_pretrained", "refs/pr/"]);
    assert!(world.hub.files_asked_for().is_empty());
}

#[test]
fn of_gguf_and_onnx_files_one_is_downloaded_and_opened() {
    let world = World::of(&[("m-f16.gguf", "f16"), ("m-q4.gguf", "q4"), ("README.md", "")]);
    world.refused(REPO, &world.settings(), &["several GGUF files", "m-f16.gguf", "m-q4.gguf"]);
    let snapshot = world.fetch("org/tiny/m-f16.gguf").unwrap();
    assert_eq!(snapshot.path, snapshot.folder.join("m-f16.gguf"));
    assert_eq!(world.hub.files_asked_for(), ["m-f16.gguf"]);

    let onnx =
        [("config.json", "{}"), ("onnx/model.onnx", "graph"), ("onnx/model.onnx_data", "data"), ("onnx/model_q4.onnx", "")];
    let world = World::of(&onnx);
    let snapshot = world.fetch(REPO).unwrap();
    assert_eq!(snapshot.path, snapshot.folder.join("onnx/model.onnx"));
    assert_eq!(std::fs::read_link(&snapshot.path).unwrap(), Path::new(&format!("../../../blobs/{}", sha256(b"graph"))));
    assert_eq!(world.hub.files_asked_for(), ["config.json", "onnx/model.onnx", "onnx/model.onnx_data"]);
}

#[test]
fn a_mirror_that_lists_names_alone_is_asked_for_sizes_and_hashes() {
    let world = World::new();
    world.hub.state().bare_listing = true;
    world.hub.fault(WEIGHTS, &[Fault::Corrupt]);
    world.refused(REPO, &world.settings(), &[WEIGHTS, "SHA-256"]);
    let snapshot = world.fetch(REPO).unwrap();
    assert_eq!(std::fs::read(snapshot.folder.join(WEIGHTS)).unwrap(), world.file(WEIGHTS));
    let heads = world.hub.seen().into_iter().filter(|s| s.method == "HEAD");
    assert!(heads.into_iter().all(|s| !s.cdn), "the redirect says enough");
}

#[test]
fn a_disk_that_is_too_small_is_said_before_the_first_byte() {
    let world = World::new();
    world.hub.state().claimed.insert(WEIGHTS.into(), 1 << 60);
    let error = world.refused(REPO, &world.settings(), &["home/hub has", "1152921504606", "HF_HOME"]);
    assert!(matches!(error, HubError::DiskFull { .. }));
    assert!(world.hub.files_asked_for().is_empty());
}

#[test]
fn every_verb_that_takes_a_checkpoint_takes_an_id() {
    let world = World::new();
    let mut command = haikuq();
    command.args(["inspect", REPO, "--json"]);
    let output = succeed(world.on_hub(command));
    let spec: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(spec["spec"]["hidden_size"], 96);
    let ids = world.at("ids.safetensors");
    let header = json!({"input_ids": {"dtype": "I32", "shape": [1, 4], "data_offsets": [0, 16]}});
    std::fs::write(&ids, support::with_header(&header, &[5u32, 6, 7, 8].map(u32::to_le_bytes).concat())).unwrap();
    let mut command = haikuq();
    command.args(["score", REPO, "--offline", "--ids"]).arg(&ids);
    assert_says(&String::from_utf8(succeed(world.on_hub(command)).stdout).unwrap(), &["perplexity"]);
    let mut command = haikuq();
    command.args(["golden", "org/tyni", "--text", "none.txt", "--out", "golden.safetensors"]);
    assert_says(&fail(world.on_hub(command)), &["shows no model org/tyni"]);
    let mut command = haikuq();
    command.args(["-q", "inspect", REPO]);
    assert_eq!(said(succeed(world.on_hub(command))), "");
}
