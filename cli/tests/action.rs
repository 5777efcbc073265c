//! The steps of the GitHub action, run one after the other as its YAML has them, against a hub on this machine.

#![cfg(unix)]

mod hub_server;
mod support;

use hub_server::uploads::TARGET;
use hub_server::{Hub, TOKEN};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::{assert_says, read_json};
use tempfile::TempDir;

fn repository(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

/// Scripts of `action.yml` in their order, without the one that installs.
fn steps() -> Vec<String> {
    let text = std::fs::read_to_string(repository("action/action.yml")).unwrap();
    let script = |line: &str| Some(line.trim().strip_prefix("run: '\"$GITHUB_ACTION_PATH/")?.strip_suffix("\"'")?.to_string());
    let all: Vec<String> = text.lines().filter_map(script).collect();
    assert_eq!(all.first().map(String::as_str), Some("install.sh"));
    all[1..].to_vec()
}

/// A workflow's run.
struct Job {
    hub: Hub,
    dir: TempDir,
    inputs: BTreeMap<&'static str, String>,
}

impl Job {
    fn new() -> Self {
        let golden = |file: &str| repository("golden/haiku-7m").join(file).display().to_string();
        let dir = tempfile::tempdir().unwrap();
        let inputs = [
            ("CHECKPOINT", golden("")),
            ("RECIPE", "q4-fast".into()),
            ("GOLDEN", golden("reference.safetensors")),
            ("VALIDATE_OPTIONS", "--windows 1 --prompts 1 --max-kl 0.5".into()),
            ("REPO", TARGET.into()),
            ("LICENSE", "mit".into()),
            ("OUT", dir.path().join("out").display().to_string()),
        ];
        Self { hub: Hub::start(BTreeMap::new()), dir, inputs: inputs.into() }
    }

    fn run(&self, script: &str) -> Output {
        let mut command = Command::new("bash");
        command.arg(repository("action").join(script)).env("HAIKUQ", env!("CARGO_BIN_EXE_haikuq"));
        for name in ["HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
            command.env_remove(name);
        }
        command.env("HF_TOKEN", TOKEN).env("HF_ENDPOINT", self.hub.url()).env("NO_PROXY", "*");
        command.env("HF_HOME", self.dir.path().join("home")).envs(&self.inputs);
        command.env("GITHUB_OUTPUT", self.dir.path().join("outputs")).env("GITHUB_STEP_SUMMARY", self.dir.path().join("page"));
        command.output().unwrap()
    }

    #[track_caller]
    fn succeed(&self, script: &str) -> String {
        let output = self.run(script);
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{script}: {said}");
        assert!(!said.contains(TOKEN), "{script} tells the token");
        said
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(file)).unwrap()
    }
}

#[test]
fn the_steps_convert_validate_compare_attest_and_publish() {
    let mut job = Job::new();
    let steps = steps();
    assert_eq!(steps, ["convert.sh", "validate.sh", "compare.sh", "summary.sh", "statement.sh", "publish.sh"]);
    steps.iter().for_each(|step| drop(job.succeed(step)));
    assert_says(&job.read("page"), &["# Validation: passed", "org/tiny-q4 has no package yet at main"]);
    let outputs = job.read("outputs");
    let statement = read_json(&job.dir.path().join("out/statement.json"));
    let digest = statement["subject"][0]["digest"]["sha256"].as_str().unwrap();
    assert_says(
        &outputs,
        &[&format!("subject-digest=sha256:{digest}"), "predicate-type=https://model_signing/signature/v1.0", "commit="],
    );
    assert_eq!(read_json(&job.dir.path().join("out/predicate.json")), statement["predicate"]);
    {
        let state = job.hub.state();
        let files = state.target.files("main");
        assert!(files.contains_key("haikuq.json"));
        assert_says(&String::from_utf8_lossy(&files["README.md"]), &["license: mit", "## What it loses", "KL divergence, mean"]);
    }

    // Another recipe, compared with what was published; below its threshold, and not published.
    job.inputs.insert("RECIPE", "q3-fast".into());
    job.inputs.insert("VALIDATE_OPTIONS", "--windows 1 --prompts 1 --max-kl 0.0001".into());
    job.succeed("convert.sh");
    assert_eq!(job.run("validate.sh").status.code(), Some(3));
    job.succeed("compare.sh");
    job.succeed("summary.sh");
    assert_says(&job.read("out/summary.md"), &["# Validation: below its thresholds", "q3/", "to download"]);
    assert_eq!(job.hub.state().target.asked.len(), 1);
}

#[test]
fn a_step_says_what_it_lacks() {
    let mut job = Job::new();
    job.inputs.insert("CHECKPOINT", String::new());
    let output = job.run("convert.sh");
    assert_eq!(output.status.code(), Some(2));
    assert_says(&String::from_utf8_lossy(&output.stderr), &["CHECKPOINT is not set"]);
    job.inputs.insert("REPO", String::new());
    job.succeed("compare.sh");
    assert_says(&job.read("out/difference.txt"), &["No repository to compare with"]);
}
