//! `haikuq diff` and `haikuq inspect` on real packages.

mod support;

use serde_json::Value;
use std::path::Path;
use support::{TinyCheckpoint, convert, haikuq, succeed};

fn json(verb: &str, paths: &[&Path]) -> Value {
    let mut command = haikuq();
    command.arg(verb).args(paths).arg("--json");
    serde_json::from_slice(&succeed(command).stdout).unwrap()
}

#[test]
fn a_changed_tensor_is_found_and_only_its_shard_is_downloaded() {
    let dir = tempfile::tempdir().unwrap();
    let mut checkpoint = TinyCheckpoint::new();
    let (source, a, b) = (dir.path().join("tiny"), dir.path().join("a"), dir.path().join("b"));
    checkpoint.write(&source);
    succeed(convert(&source, &a, &["--shard-size", "16KiB"]));
    checkpoint.put("model.layers.1.mlp.down_proj.weight", 17, 0.25);
    checkpoint.config["rms_norm_eps"] = 1e-6.into();
    checkpoint.write(&source);
    succeed(convert(&source, &b, &["--shard-size", "16KiB"]));

    let difference = json("diff", &[&a, &b]);
    assert_eq!(difference["tensors"].as_array().unwrap().len(), 1, "{difference}");
    assert_eq!(difference["tensors"][0]["name"], "layers.1.down");
    assert!(difference["tensors"][0]["relative_difference"].as_f64().unwrap() > 0.0);
    assert_eq!(difference["spec"][0]["member"], "/norm/epsilon");
    assert_eq!(difference["download"].as_array().unwrap().len(), 1, "{difference}");
    assert!(difference["download_bytes"].as_u64().unwrap() <= 16 << 10);

    let same = json("diff", &[&a, &a]);
    assert_eq!((same["tensors"].as_array().unwrap().len(), &same["download_bytes"]), (0, &0.into()));
}

#[test]
fn the_error_to_the_exact_package_is_the_one_that_convert_measured() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("tiny");
    TinyCheckpoint::new().write(&source);
    let package = |recipe: &str, shards: &str| {
        let out = dir.path().join(recipe);
        succeed(convert(&source, &out, &["--recipe", recipe, "--shard-size", shards]));
        out
    };
    // Different shard sizes cut tensors into different chunks.
    let (exact, q3) = (package("f32", "16KiB"), package("q3-fast", "24KiB"));
    let manifest = json("inspect", &[&q3]);
    for tensor in json("diff", &[&exact, &q3])["tensors"].as_array().unwrap() {
        let entry = manifest["tensors"].as_array().unwrap().iter().find(|t| t["name"] == tensor["name"]).unwrap();
        let (found, measured) = (tensor["relative_difference"].as_f64().unwrap(), entry["relative_error"].as_f64().unwrap());
        assert!((found - measured).abs() < 1e-5 * measured, "{tensor} against {measured}");
    }
}

#[test]
fn inspect_says_what_canonical_tensors_are_made_of() {
    let dir = tempfile::tempdir().unwrap();
    TinyCheckpoint::new().write(dir.path());
    let report = json("inspect", &[dir.path()]);
    let tensors = report["tensors"].as_array().unwrap();
    let gate_up = tensors.iter().find(|t| t["name"] == "layers.0.gate_up").unwrap();
    assert_eq!(gate_up["sources"][0]["name"], "model.layers.0.mlp.gate_proj.weight");
    assert_eq!(gate_up["sources"][1]["dtype"], "bf16");
    assert_eq!(report["spec"]["eos_token_ids"], serde_json::json!([2, 3]));
}
