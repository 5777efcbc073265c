//! `haikuq golden` and `haikuq score` as a user types them.

use assert_cmd::Command;
use haikuq::golden::file::Golden;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

fn haiku(file: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("golden/haiku-7m").join(file)
}

fn haikuq() -> Command {
    Command::cargo_bin("haikuq").unwrap()
}

fn json(command: &mut Command) -> serde_json::Value {
    serde_json::from_slice(&command.assert().success().get_output().stdout).unwrap()
}

#[test]
fn golden_outputs_of_haiku_7m_are_those_of_transformers() {
    let dir = tempfile::tempdir().unwrap();
    let prompts = dir.path().join("prompts.txt");
    std::fs::write(&prompts, "Write a short story about a shoe and a key.\n\nWhat can a bridge teach us?\n").unwrap();
    let record = |out: &Path| {
        let mut command = haikuq();
        command.arg("golden").arg(haiku("")).arg("--text").arg(haiku("evaluation.jsonl")).arg("--out").arg(out);
        json(command.arg("--prompts").arg(&prompts).args(["--windows", "2", "--json"]))
    };
    let out = dir.path().join("golden.safetensors");
    let printed = record(&out);
    assert_eq!(printed["schema"], "haikuq.golden/1");

    let (ours, theirs) = (Golden::read(&out).unwrap(), Golden::read(&haiku("reference.safetensors")).unwrap());
    assert_eq!((ours.outputs.windows, ours.outputs.context, ours.outputs.top), (2, 512, 64));
    assert_eq!(ours.outputs.input_ids, theirs.outputs.input_ids[..1024], "the same text gives the same tokens");
    for (a, b) in ours.outputs.top_logits.iter().zip(&theirs.outputs.top_logits) {
        assert!((a - b).abs() < 1e-3);
    }
    for (ours, theirs) in ours.generations.iter().zip(&theirs.generations) {
        assert_eq!(ours, theirs, "prompt, ids and text");
    }
    assert_eq!(ours.generations.len(), 2);
    assert_eq!(ours.checkpoint.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["config.json", "model.safetensors"]);
    assert_eq!((ours.checkpoint[1].bytes, ours.checkpoint[1].sha256.len()), (14696792, 64));
    assert!(ours.tool.unwrap().starts_with("haikuq "));

    let again = dir.path().join("again.safetensors");
    record(&again);
    assert!(std::fs::read(&out).unwrap() == std::fs::read(&again).unwrap(), "the same inputs give the same bytes");
}

#[test]
fn a_checkpoint_is_scored_on_ids_and_on_text_alike() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("scores.safetensors");
    let score = || {
        let mut command = haikuq();
        command.arg("score").arg(haiku("")).args(["--windows", "2", "--json"]);
        command
    };
    let by_ids = json(score().arg("--ids").arg(haiku("reference.safetensors")).arg("--out").arg(&out));
    let by_text = json(score().arg("--text").arg(haiku("evaluation.jsonl")));
    assert_eq!(by_ids["perplexity"], by_text["perplexity"]);
    assert_eq!((&by_ids["windows"], &by_ids["window"]), (&2.into(), &512.into()));

    let golden = Golden::read(&haiku("reference.safetensors")).unwrap().outputs;
    let mean = |nll: Vec<f32>| (nll.iter().map(|&x| f64::from(x)).sum::<f64>() / nll.len() as f64).exp();
    let close = |value: &serde_json::Value, expected: f64| (value.as_f64().unwrap() / expected - 1.0).abs() < 1e-5;
    assert!(close(&by_ids["perplexity"], mean(golden.nll[..1022].to_vec())));
    let second_half = json(score().arg("--ids").arg(haiku("reference.safetensors")).args(["--scored", "second-half"]));
    let halves = [&golden.nll[255..511], &golden.nll[766..1022]].concat();
    assert!(close(&second_half["perplexity"], mean(halves)), "{second_half}");

    let bytes = std::fs::read(out).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = file.iter().map(|(name, t)| (name, t.dtype().to_string(), t.shape().to_vec())).collect();
    tensors.sort();
    let expected = [
        ("logsumexp", "F32", vec![2, 512]),
        ("nll", "F32", vec![2, 511]),
        ("top_ids", "I64", vec![2, 512, 64]),
        ("top_logits", "F32", vec![2, 512, 64]),
    ];
    assert_eq!(tensors, expected.map(|(name, dtype, shape)| (name, dtype.to_owned(), shape)));
}

#[test]
fn wrong_usage_exits_2_and_wrong_input_exits_1_with_the_reason() {
    let stderr = |command: &mut Command, code: i32| {
        let assert = command.assert().code(code);
        String::from_utf8(assert.get_output().stderr.clone()).unwrap()
    };
    stderr(haikuq().arg("score").arg(haiku("")), 2);
    stderr(haikuq().arg("score").arg(haiku("")).args(["--windows", "0", "--text", "x"]), 2);
    let dir = tempfile::tempdir().unwrap();
    let short = dir.path().join("short.txt");
    std::fs::write(&short, "Too short.").unwrap();
    let told = stderr(haikuq().arg("score").arg(haiku("")).arg("--text").arg(&short), 1);
    assert!(told.contains("short.txt has 4 tokens: not one window of 512"), "{told}");
    let told = stderr(haikuq().arg("score").arg(haiku("")).arg("--ids").arg(haiku("model.safetensors")), 1);
    assert!(told.contains("model.safetensors: input_ids: missing"), "{told}");
    let told = stderr(haikuq().arg("validate").arg(haiku("")).arg("--golden").arg(haiku("reference.safetensors")), 1);
    assert!(told.contains("no package"), "{told}");
}

#[test]
fn a_packages_golden_outputs_are_what_the_package_says() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    haikuq().arg("convert").arg(haiku("")).args(["--recipe", "q4-fast", "--out"]).arg(at("q4")).assert().success();
    std::fs::write(at("prompts.txt"), "What can a bridge teach us?\n").unwrap();
    let record = |model: &Path, out: &Path| {
        let mut command = haikuq();
        command.arg("golden").arg(model).arg("--text").arg(haiku("evaluation.jsonl")).arg("--out").arg(out);
        command.arg("--prompts").arg(at("prompts.txt")).args(["--windows", "2", "--context", "32", "--max-new", "8"]);
        // The reference reads the package's own weights, so that no GPU is needed.
        json(command.args(["--reference", "--json"]))
    };
    let printed = record(&at("q4"), &at("q4.safetensors"));
    assert_eq!(printed["adapter"], "reference (CPU, f32)");
    let package = Golden::read(&at("q4.safetensors")).unwrap();
    assert_eq!(package.tool.unwrap(), concat!("haikuq ", env!("CARGO_PKG_VERSION"), ": q4-fast package on reference (CPU, f32)"));
    assert!(printed["perplexity"].as_f64().unwrap() > record(&haiku(""), &at("f32.safetensors"))["perplexity"].as_f64().unwrap());
    let checkpoint = Golden::read(&at("f32.safetensors")).unwrap();
    for file in &checkpoint.checkpoint {
        assert!(package.checkpoint.contains(file), "the package was made from {file:?}");
    }

    let mut validate = haikuq();
    validate.arg("validate").arg(at("q4")).arg("--golden").arg(at("q4.safetensors")).args(["--reference", "--json"]);
    let report = json(&mut validate);
    assert_eq!(report["golden"]["same_checkpoint"], true);
    assert_eq!(report["summary"]["top1_percent"], 100.0);
    assert!(report["summary"]["mean_kl"].as_f64().unwrap().abs() < 1e-9, "{}", report["summary"]);
    assert_eq!(report["continuations"][0]["first_difference"], serde_json::Value::Null);
}
