//! `haikuq fleet`: a list of models on several machines, which share nothing but the list and, here, the folder of results.

mod support;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::{assert_says, fail, haikuq, succeed};

fn haiku(file: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("golden/haiku-7m").join(file)
}

/// A folder with a list: haiku-7m by two recipes with golden outputs, a checkpoint that is cut off, and one whose outputs are
/// recorded first.
struct Fleet {
    dir: tempfile::TempDir,
}

impl Fleet {
    fn new() -> Self {
        let fleet = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::write(fleet.path("prompts.txt"), "Tell me a story about a hope at home.\n").unwrap();
        let mut golden = haikuq();
        golden.arg("golden").arg(haiku("")).arg("--text").arg(haiku("evaluation.jsonl"));
        golden.arg("--prompts").arg(fleet.path("prompts.txt")).args(["--windows", "2", "--context", "64", "--max-new", "4"]);
        golden.arg("--out").arg(fleet.path("golden.safetensors"));
        succeed(golden);
        let broken = fleet.path("broken");
        std::fs::create_dir(&broken).unwrap();
        for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(haiku(file), broken.join(file)).unwrap();
        }
        let weights = std::fs::read(haiku("model.safetensors")).unwrap();
        std::fs::write(broken.join("model.safetensors"), &weights[..1 << 20]).unwrap();
        fleet.thresholds(0.08);
        std::fs::write(
            fleet.path("models.toml"),
            format!(
                "out = \"packages\"\n[defaults]\nthresholds = \"thresholds.toml\"\ngolden = \"golden.safetensors\"\n\
                 [[models]]\ncheckpoint = {:?}\nname = \"haiku\"\nrecipes = [\"q4-fast\", \"q8\"]\n\
                 [[models]]\ncheckpoint = \"broken\"\nrecipes = [\"q8\"]\n",
                haiku("")
            ),
        )
        .unwrap();
        fleet
    }

    fn thresholds(&self, max_kl: f64) {
        std::fs::write(self.path("thresholds.toml"), format!("[q4-fast]\nmax_kl = {max_kl}\n[q8]\nmax_kl = 0.001\n")).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = haikuq();
        for variable in ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "SKYPILOT_NODE_RANK", "CI_NODE_INDEX"] {
            command.env_remove(variable);
        }
        command.arg("fleet").arg(self.path("models.toml")).args(arguments);
        command
    }

    fn status(&self) -> Value {
        let mut command = haikuq();
        command.args(["fleet", "status", "--json", "--list"]).arg(self.path("models.toml")).arg(self.path("packages"));
        command.arg("--page").arg(self.path("status.html"));
        serde_json::from_slice(&succeed(command).stdout).unwrap()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn states(status: &Value) -> Vec<(&str, &str)> {
    let jobs = status["jobs"].as_array().unwrap().iter();
    jobs.map(|job| (job["name"].as_str().unwrap(), job["state"].as_str().unwrap())).collect()
}

#[test]
fn machines_share_the_jobs_and_do_none_twice() {
    let fleet = Fleet::new();
    // The first machine has the first of the longest jobs and the broken one, which takes nothing along.
    let mut first = fleet.command(&["--of", "2", "--json"]);
    first.env("JOB_COMPLETION_INDEX", "0");
    let first = first.output().unwrap();
    assert_eq!(first.status.code(), Some(1), "{}", said(&first));
    assert_says(
        &said(&first),
        &[
            "machine 0 of 2 by Kubernetes: 2 of 3 jobs",
            "haiku.q4-fast: validating",
            "broken.q8: failed: model.safetensors is truncated",
        ],
    );
    let json: Value = serde_json::from_slice(&first.stdout).unwrap();
    assert_eq!(
        (&json["schema"], &json["counts"]["done"], &json["counts"]["failed"]),
        (&"haikuq.fleet/1".into(), &1.into(), &1.into())
    );
    assert_eq!(states(&fleet.status()), [("broken.q8", "failed"), ("haiku.q4-fast", "done"), ("haiku.q8", "missing")]);
    assert_says(
        &said(&succeed(fleet.command(&["--index", "1", "--of", "2"]))),
        &["machine 1 of 2: 1 of 3 jobs", "haiku.q8: done"],
    );

    let status = fleet.status();
    assert_eq!(states(&status), [("broken.q8", "failed"), ("haiku.q4-fast", "done"), ("haiku.q8", "done")]);
    let [broken, q4, q8] = [0, 1, 2].map(|i| &status["jobs"][i]);
    assert_says(broken["error"].as_str().unwrap(), &["model.safetensors is truncated"]);
    let kl = |job: &Value| job["mean_kl"].as_f64().unwrap();
    assert!(kl(q8) < 0.001 && kl(q8) > 0.0 && kl(q4) > 0.01 && kl(q4) < 0.08, "{status}");
    assert!(q8["top1_percent"].as_f64().unwrap() > 97.0 && q8["bits_per_weight"].as_f64().unwrap() > 8.0);
    let page = std::fs::read_to_string(fleet.path("status.html")).unwrap();
    assert_says(
        &page,
        &[
            "2 of 3 done, 1 failed",
            "<td>haiku<td>q4-fast<td class=\"done\">done",
            "class=\"error\">model.safetensors is truncated",
        ],
    );
    // Each package and its report is there.
    for job in ["haiku.q4-fast", "haiku.q8"] {
        let mut verify = haikuq();
        verify.arg("verify").arg(fleet.path("packages").join(job));
        succeed(verify);
        assert!(fleet.path("packages").join(format!("{job}.fleet/report/report.html")).is_file());
    }

    // Once more on one machine: jobs that are done stay, and the one that failed is tried again.
    let again = fleet.command(&[]).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    let talk = said(&again);
    assert_says(&talk, &["haiku.q4-fast: done", "haiku.q8: done", "broken.q8: failed"]);
    assert!(!talk.contains("haiku.q4-fast: converting") && !talk.contains("haiku.q8: converting"), "{talk}");

    // Other thresholds are another job, and a package that lost a file is made again.
    std::fs::remove_file(fleet.path("broken/model.safetensors")).unwrap();
    std::fs::copy(haiku("model.safetensors"), fleet.path("broken/model.safetensors")).unwrap();
    fleet.thresholds(0.001);
    let below = fleet.command(&[]).output().unwrap();
    assert_eq!(below.status.code(), Some(3), "{}", said(&below));
    assert_says(&said(&below), &["haiku.q4-fast: below its thresholds", "broken.q8: done"]);
    assert_eq!(states(&fleet.status()), [("broken.q8", "done"), ("haiku.q4-fast", "below_thresholds"), ("haiku.q8", "done")]);
    std::fs::remove_file(fleet.path("packages/haiku.q8/tokenizer.json")).unwrap();
    let mended = said(&fleet.command(&[]).output().unwrap());
    assert!(mended.contains("haiku.q8: converting") && !mended.contains("broken.q8: converting"), "{mended}");
    assert!(fleet.path("packages/haiku.q8/tokenizer.json").is_file());
}

#[test]
fn outputs_are_recorded_where_the_list_names_a_text() {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(haiku("evaluation.jsonl")).unwrap();
    // A window of 512 tokens, and little more.
    let lines: Vec<&str> = text
        .lines()
        .scan(0, |bytes, line| {
            *bytes += line.len();
            (*bytes < 4000).then_some(line)
        })
        .collect();
    std::fs::write(dir.path().join("text.jsonl"), lines.join("\n")).unwrap();
    let list = dir.path().join("models.toml");
    let text = format!(
        "out = \".\"\n[[models]]\ncheckpoint = {:?}\nevaluation = \"text.jsonl\"\nwindows = 1\nrecipes = [\"q8\"]\n",
        haiku("")
    );
    std::fs::write(&list, text).unwrap();
    let mut command = haikuq();
    command.arg("fleet").arg(&list).args(["--index", "0", "--of", "1"]);
    assert_says(&said(&succeed(command)), &["haiku-7m.q8: recording", "haiku-7m.q8: converting", "haiku-7m.q8: validating"]);
    assert!(dir.path().join("haiku-7m.q8.fleet/golden.safetensors").is_file());
}

#[test]
fn a_plan_says_who_does_which_job() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("models.toml");
    let text = "out = \"out\"\n[[models]]\ncheckpoint = \"org/a\"\nweights = \"1GB\"\nrecipes = [\"q8\", \"q4\"]\n\
                [[models]]\ncheckpoint = \"org/b\"\nweights = \"8GB\"\nrecipes = [\"q8\"]\n";
    std::fs::write(&list, text).unwrap();
    let command = |arguments: &[&str]| {
        let mut command = haikuq();
        command.arg("fleet").arg(&list).args(arguments);
        command
    };
    let plan = succeed(command(&["--dry-run", "--index", "0", "--of", "2", "--json"]));
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    let jobs: Vec<_> =
        plan["jobs"].as_array().unwrap().iter().map(|j| (j["machine"].as_u64().unwrap(), j["name"].as_str().unwrap())).collect();
    assert_eq!(jobs, [(0, "a.q4"), (1, "b.q8"), (1, "a.q8")]);
    let table = String::from_utf8(succeed(command(&["--dry-run"])).stdout).unwrap();
    assert_says(&table, &["a.q4", "69.0 %", "3 jobs on 1 machines"]);
    assert!(!dir.path().join("out").exists());
    assert_says(&fail(command(&["--index", "2"])), &["--of does"]);
    let mut status = haikuq();
    status.args(["fleet", "status"]).arg(dir.path());
    assert_says(&fail(status), &["has no results of a fleet"]);
}
