//! Packages to the hub, a hub on this machine: which requests the program makes, what the repository has then, and its messages.

mod hub_server;
mod support;

use haikuq::card::Card;
use haikuq_format::Manifest;
use hub_server::uploads::{TARGET, Target};
use hub_server::{Hub, REPO, TOKEN, commit};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::{TinyCheckpoint, assert_says, contents, convert, fail, haikuq, read_json, succeed, write_json};
use tempfile::TempDir;

/// A hub, and a package on disk.
struct World {
    hub: Hub,
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        TinyCheckpoint::new().write(&dir.path().join("checkpoint"));
        let files = contents(&dir.path().join("checkpoint")).into_iter();
        let hub = Hub::start(files.map(|(path, bytes)| (path.display().to_string(), bytes)).collect());
        succeed(convert(&dir.path().join("checkpoint"), &dir.path().join("package"), &[]));
        Self { hub, dir }
    }

    fn package(&self) -> PathBuf {
        self.dir.path().join("package")
    }

    /// The same package of a model on the hub, which has a licence.
    fn came_from_hub(&self) {
        let path = self.package().join("haikuq.json");
        let mut manifest = read_json(&path);
        manifest["provenance"]["hub"] = json!({"repo": REPO, "commit": commit(1)});
        write_json(&path, &manifest);
        self.hub.state().licence = Some("apache-2.0");
    }

    /// `haikuq publish PACKAGE org/tiny-q4 ARGS` with the right token.
    fn publish(&self, args: &[&str]) -> Command {
        let mut command = self.as_stranger(args);
        command.env("HF_TOKEN", TOKEN);
        command
    }

    fn as_stranger(&self, args: &[&str]) -> Command {
        let mut command = haikuq();
        for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
            command.env_remove(name);
        }
        command.env("HF_HOME", self.dir.path().join("home")).env("HF_ENDPOINT", self.hub.url()).env("NO_PROXY", "*");
        command.arg("publish").arg(self.package()).arg(TARGET).args(args);
        command
    }

    /// Methods and paths of the requests since the last time, without queries.
    fn requests(&self) -> Vec<String> {
        let short = |path: &str| path.split('?').next().unwrap().replace(TARGET, "T");
        self.hub.seen().iter().map(|s| format!("{} {}", s.method, short(&s.path))).collect()
    }

    fn published(&self, branch: &str) -> Vec<(String, Vec<u8>)> {
        self.hub.state().target.files(branch).clone().into_iter().collect()
    }

    fn card(&self) -> String {
        String::from_utf8(self.hub.state().target.files("main")["README.md"].clone()).unwrap()
    }
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

const MIT: [&str; 2] = ["--license", "mit"];
const SHARD: &str = "weights-00001-of-00001.safetensors";

#[test]
fn a_new_repository_gets_one_commit_and_the_same_package_none() {
    let world = World::new();
    let planned = json_of(&succeed(world.publish(&["--license", "mit", "--dry-run", "--json"])));
    assert_eq!(
        (&planned["schema"], &planned["exists"], &planned["commit"]),
        (&json!("haikuq.publish/1"), &json!(false), &Value::Null)
    );
    assert!(world.requests().iter().all(|r| r.starts_with("GET ")), "a dry run only reads");
    assert!(world.hub.state().target.visibility.is_none());

    let done = succeed(world.publish(&["--license", "mit", "--json"]));
    let done = json_of(&done);
    assert_eq!(done["files"], planned["files"], "as planned");
    let shard = world.package().join(SHARD);
    assert_eq!(done["sent_bytes"], json!(std::fs::metadata(&shard).unwrap().len()));
    let mut expected: Vec<(String, Vec<u8>)> =
        contents(&world.package()).into_iter().map(|(p, b)| (p.display().to_string(), b)).collect();
    expected.push((".gitattributes".into(), b"*.safetensors filter=lfs\n".to_vec()));
    expected.push(("README.md".into(), world.card().into_bytes()));
    expected.sort();
    assert_eq!(world.published("main"), expected);
    assert_says(&world.card(), &["library_name: haikuq\nlicense: mit\n", "# tiny-q4", "q4-fast", "hf download org/tiny-q4"]);
    {
        let state = world.hub.state();
        let asked = &state.target.asked;
        assert_eq!(asked.len(), 1, "one commit");
        let lines = &asked[0].lines;
        assert_eq!(
            (lines.first().unwrap().as_str(), lines.last().unwrap().as_str()),
            (&*format!("lfsFile {SHARD}"), "file haikuq.json")
        );
    }
    let requests = world.requests();
    for request in ["POST /api/repos/create", "POST /api/models/T/preupload/main", "POST /T.git/info/lfs/objects/batch"] {
        assert!(requests.iter().any(|r| r == request), "{request}: {requests:?}");
    }

    // The card has a licence now, so it is not asked for.
    let again = json_of(&succeed(world.publish(&["--json"])));
    assert_eq!((&again["changed"], &again["commit"], &again["bytes"]), (&json!(false), &done["commit"], &json!(0)));
    assert!(world.requests().iter().all(|r| r.starts_with("GET ")), "nothing to write");
}

#[test]
fn only_changed_files_are_sent_and_only_files_of_the_old_package_are_removed() {
    let world = World::new();
    let old = json!({"shards": [{"name": "weights-00002-of-00002.safetensors"}, {"name": "gone.bin"}], "files": [{"name": "README.md"}]});
    world.hub.state().target = Target::there(&[
        (SHARD, &std::fs::read(world.package().join(SHARD)).unwrap()),
        ("weights-00002-of-00002.safetensors", b"old"),
        ("haikuq.json", old.to_string().as_bytes()),
        ("notes.txt", b"mine"),
        ("README.md", b"---\nlicense: cc0-1.0\ntags: [poems]\n---\n# By hand\n"),
    ]);
    let done = json_of(&succeed(world.publish(&["--json"])));
    let action = |path: &str| done["files"].as_array().unwrap().iter().find(|f| f["path"] == path).map(|f| f["action"].clone());
    assert_eq!(action(SHARD), Some(json!("keep")));
    assert_eq!(action("weights-00002-of-00002.safetensors"), Some(json!("remove")));
    assert_eq!((action("haikuq.json"), action("notes.txt"), action("gone.bin")), (Some(json!("replace")), None, None));
    assert_eq!(done["sent_bytes"], 0);
    assert!(!world.requests().iter().any(|r| r.starts_with("PUT")));
    let names: Vec<String> = world.published("main").into_iter().map(|f| f.0).collect();
    assert!(names.contains(&"notes.txt".into()) && !names.contains(&"weights-00002-of-00002.safetensors".into()), "{names:?}");
    assert_says(&world.card(), &["license: cc0-1.0\ntags: [poems]\nlibrary_name: haikuq\n", "---\n# By hand\n\n<!-- haikuq"]);
}

#[test]
fn an_upload_that_broke_off_goes_on() {
    let world = World::new();
    {
        let mut state = world.hub.state();
        state.target.put_faults = [503; 5].into();
    }
    let said = fail(world.publish(&MIT));
    assert_says(&said, &[SHARD, "failed 5 times in a row", "HTTP 503", "nothing was committed"]);
    assert!(world.hub.state().target.asked.is_empty());

    // Another run sends it, and breaks off at the commit; the third one has nothing to send.
    world.hub.state().target.overtaken = true;
    let said = fail(world.publish(&MIT));
    assert_says(&said, &["org/tiny-q4 at main moved on from", "files that arrived are not sent again"]);
    assert_eq!(world.published("main").iter().map(|f| f.0.as_str()).collect::<Vec<_>>(), [".gitattributes", "theirs.txt"]);
    world.requests();
    let third = succeed(world.publish(&MIT));
    assert_says(&out(&third), &["the hub has it already", "0 B sent beside it"]);
    assert!(!world.requests().iter().any(|r| r.starts_with("PUT")));
    assert!(world.published("main").iter().any(|f| f.0 == "theirs.txt"), "their file stays");
}

#[test]
fn large_files_go_in_parts_and_their_arrival_is_told() {
    let world = World::new();
    {
        let mut state = world.hub.state();
        (state.target.chunk_size, state.target.verify) = (Some(50_000), true);
        // A part fails once; the signature of another is too old, and all is sent to new addresses in the end.
        state.target.put_faults = [200, 500, 200, 200].into();
    }
    succeed(world.publish(&MIT));
    let shard = std::fs::read(world.package().join(SHARD)).unwrap();
    let parts = shard.len().div_ceil(50_000);
    let puts = world.requests().iter().filter(|r| r.starts_with("PUT ")).count();
    assert_eq!((puts, world.hub.state().target.verified.len()), (parts + 1, 1));
    assert_eq!(world.hub.state().target.files("main")[SHARD], shard);
}

#[test]
fn a_commit_whose_answer_is_lost_is_found_again() {
    let world = World::new();
    world.hub.state().target.lose_answer = true;
    let done = json_of(&succeed(world.publish(&["--license", "mit", "--json"])));
    assert_eq!((&done["changed"], &done["commit"]), (&json!(true), &json!(commit(102))));
    assert_eq!(world.hub.state().target.asked.len(), 1);
}

#[test]
fn a_branch_begins_at_main_and_leaves_it_alone() {
    let world = World::new();
    world.hub.state().target = Target::there(&[("README.md", b"# By hand\n")]);
    succeed(world.publish(&["--license", "mit", "--revision", "v2"]));
    assert_eq!(world.published("main").len(), 1);
    assert!(world.published("v2").iter().any(|f| f.0 == "haikuq.json"));
    // A branch that begins with all of them needs no commit.
    {
        let mut state = world.hub.state();
        let all = state.target.branches["v2"];
        state.target.branches.insert("main".into(), all);
    }
    let again = json_of(&succeed(world.publish(&["--revision", "v3", "--json"])));
    assert_eq!((&again["commit"], &again["changed"]), (&json!(commit(102)), &json!(true)));
    assert_eq!(world.hub.state().target.asked.len(), 1);
    let said = fail(world.publish(&["--license", "mit", "--revision", &commit(101)]));
    assert_says(&said, &["is no branch of org/tiny-q4"]);
}

#[test]
fn the_licence_is_carried_over_or_asked_for() {
    let world = World::new();
    let said = fail(world.publish(&[]));
    assert_says(&said, &["tells of a licence", "--license apache-2.0, for example"]);
    world.came_from_hub();
    succeed(world.publish(&[]));
    let expected = "license: apache-2.0\nbase_model: org/tiny\nbase_model_relation: quantized\n";
    assert_says(&world.card(), &[expected, "[org/tiny](https://huggingface.co/org/tiny) as a [haikuq]"]);
    succeed(world.publish(&["--licence", "mit"]));
    assert_says(&world.card(), &["license: mit\n"]);
}

#[test]
fn the_token_is_needed_goes_to_the_hub_alone_and_is_shown_nowhere() {
    let world = World::new();
    assert_says(&fail(world.as_stranger(&MIT)), &["takes an access token with the right to write", "HF_TOKEN"]);
    let plan = out(&succeed(world.as_stranger(&["--license", "mit", "--dry-run"])));
    assert_says(&plan, &["org/tiny-q4 would be made"]);
    let mut wrong = world.as_stranger(&MIT);
    wrong.env("HF_TOKEN", "hf_wrong");
    let said = fail(wrong);
    assert!(said.contains("the owner of the token from HF_TOKEN") && !said.contains("hf_wrong"), "{said}");
    world.hub.seen();
    let output = succeed(world.publish(&["--license", "mit", "-vv"]));
    assert!(!out(&output).contains(TOKEN));
    // The store of the hub on this machine also refuses requests with a token.
    assert!(world.hub.seen().iter().all(|s| s.authorization.is_some() != s.cdn));
}

#[test]
fn refusals_come_before_anything_is_written() {
    let world = World::new();
    let repo = |visibility, ignored| Target { visibility, ignored, ..Target::there(&[]) };
    world.hub.state().target = repo(Some("public"), None);
    assert_says(&fail(world.publish(&["--license", "mit", "--private"])), &["everybody sees it", "/org/tiny-q4/settings"]);
    world.hub.state().target = repo(Some("public"), Some("tokenizer.json"));
    assert_says(&fail(world.publish(&MIT)), &["org/tiny-q4 ignores tokenizer.json", ".gitignore"]);
    assert!(world.hub.state().target.asked.is_empty());

    world.hub.state().target = Target::default();
    succeed(world.publish(&["--license", "mit", "--private"]));
    assert_eq!(world.hub.state().target.visibility, Some("private"));

    world.requests();
    let mut offline = world.publish(&MIT);
    offline.env("HF_HUB_OFFLINE", "1");
    assert_says(&fail(offline), &["offline, nothing can be compared"]);
    let mut bytes = std::fs::read(world.package().join(SHARD)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(world.package().join(SHARD), bytes).unwrap();
    assert_says(&fail(world.publish(&MIT)), &[SHARD, "its SHA-256 is", "nothing was published"]);
    assert!(world.requests().is_empty());
}

#[test]
fn a_card_keeps_everything_but_our_part() {
    const BEGIN: &str = "<!-- haikuq: written by haikuq publish, as far as the next mark -->";
    let world = World::new();
    let manifest = Manifest::from_json(&std::fs::read(world.package().join("haikuq.json")).unwrap()).unwrap();
    let licence = [("license", "apache-2.0".to_string())];
    let mut card = Card { repo: TARGET, manifest: &manifest, report: None, base_model: Some(REPO), licence: &licence };
    let first = card.render(None);
    assert!(first.starts_with("---\nlibrary_name: haikuq\nlicense: apache-2.0\nbase_model: org/tiny\n"), "{first}");
    assert_says(&first, &["\n# tiny-q4\n", "base_model_relation: quantized\n"]);
    assert_eq!(card.render(Some(&first)), first, "the same again");
    assert!(Card::has_licence(&first) && !Card::has_licence("# A card\n\nlicense: none\n"));

    let front = "license: mit # ours\nlanguage:\n- en\n# a comment\nmetrics: [kl]\n";
    let body = format!("# My model\n\nHello.\n\n{BEGIN}");
    let theirs = first.replace("license: apache-2.0\n", front).replace(BEGIN, &body) + "\nGoodbye.\n";
    card.licence = &[];
    let again = card.render(Some(&theirs));
    assert_eq!(again, theirs.replace("# tiny-q4\n\n", ""), "nothing but our part changes");

    let other = card.render(Some("# Written by hand\n\n---\n\nA line above.\n"));
    assert_says(&other, &["---\n# Written by hand\n\n---\n\nA line above.\n\n<!-- haikuq: written"]);
    assert!(!other.contains("license"), "{other}");
}

#[test]
fn a_report_of_another_package_is_refused() {
    let world = World::new();
    let report = world.dir.path().join("report.json");
    write_json(&report, &json!({"schema": "haikuq.validate/1"}));
    let path = |path: &Path| path.to_str().unwrap().to_string();
    assert_says(&fail(world.publish(&["--license", "mit", "--report", &path(&report)])), &["no report of a validation"]);
    assert_says(&fail(world.publish(&["--report", &path(&world.dir.path().join("none"))])), &["none"]);
}

#[test]
fn help_leads_with_examples() {
    let mut help = haikuq();
    help.args(["publish", "--help"]);
    assert_says(&out(&succeed(help)), &["haikuq publish smollm2.q4 me/smollm2-q4 --dry-run", "--private", "--license"]);
}
