//! `haikuq validate` as a user types it, with the reference as the model so that no GPU is needed.

use assert_cmd::Command;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn haiku(file: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("golden/haiku-7m").join(file)
}

fn haikuq() -> Command {
    Command::cargo_bin("haikuq").unwrap()
}

/// A q4 package of haiku-7m and small golden outputs in a temporary folder.
fn package_and_golden() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("prompts.txt"), "Tell me a story about a hope at home.\n").unwrap();
    haikuq().arg("convert").arg(haiku("")).args(["--recipe", "q4-fast", "--out"]).arg(at("q4")).assert().success();
    let mut golden = haikuq();
    golden.arg("golden").arg(haiku("")).arg("--text").arg(haiku("evaluation.jsonl"));
    golden.arg("--prompts").arg(at("prompts.txt")).args(["--windows", "3", "--context", "64", "--out"]);
    golden.arg(at("golden.safetensors")).assert().success();
    dir
}

fn validate(dir: &TempDir) -> Command {
    let mut command = haikuq();
    command.arg("validate").arg(dir.path().join("q4")).arg("--reference");
    command.arg("--golden").arg(dir.path().join("golden.safetensors"));
    command
}

#[test]
fn a_package_above_its_thresholds_exits_0_and_one_below_exits_3_and_says_which() {
    let dir = package_and_golden();
    let report = dir.path().join("report");
    let thresholds = haiku("thresholds.toml");
    let passed = validate(&dir).args(["--max-kl", "1", "--json"]).arg("--thresholds").arg(&thresholds).assert().success();
    let json: serde_json::Value = serde_json::from_slice(&passed.get_output().stdout).unwrap();
    assert_eq!((&json["passed"], &json["schema"]), (&true.into(), &"haikuq.validate/1".into()));
    assert_eq!(json["thresholds"][0]["limit"], 1.0, "the command line goes before the file");
    assert_eq!(json["golden"]["same_checkpoint"], true);
    assert_eq!(json["package"]["recipe"], "q4-fast");
    let kl = json["summary"]["mean_kl"].as_f64().unwrap();
    assert!(kl > 0.01 && kl < 0.2, "{kl}");
    assert!(json["package"]["tensors"].as_array().unwrap().iter().all(|t| t["relative_error"].as_f64().unwrap() > 0.0));

    let failed = validate(&dir).args(["--max-kl", "0.0001", "--min-top1", "1"]).arg("--report").arg(&report).assert().code(3);
    let stderr = String::from_utf8(failed.get_output().stderr.clone()).unwrap();
    assert!(stderr.contains("below threshold: mean KL at most 0.0001, measured 0."), "{stderr}");
    assert!(!stderr.contains("top-1"), "{stderr}");
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(report.join("report.json")).unwrap()).unwrap();
    assert_eq!(written["passed"], false);
    assert_eq!(written["summary"]["mean_kl"].as_f64().unwrap(), kl, "the same numbers each time");
    for file in ["report.md", "report.html"] {
        let text = std::fs::read_to_string(report.join(file)).unwrap();
        assert!(text.contains("below its thresholds") && text.contains("layers.7.down"), "{file}");
    }
}

#[test]
fn golden_outputs_of_another_model_are_refused() {
    let dir = package_and_golden();
    let fixture = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/fixtures/architectures/llama");
    let ids = dir.path().join("golden.safetensors");
    // The tiny model's vocabulary has 320 ids; the golden outputs name larger ones.
    let refused = haikuq().arg("score").arg(fixture).arg("--ids").arg(ids).assert().code(1);
    let stderr = String::from_utf8(refused.get_output().stderr.clone()).unwrap();
    assert!(stderr.contains("outside the vocabulary of 320"), "{stderr}");
}
