//! `haikuq export` as a program: what it writes, says and refuses.

mod common;

use common::{Adapter, convert, golden, haikuq_json};
use std::path::Path;
use std::process::Output;

fn export(package: &Path, arguments: &[&str], out: &Path) -> Output {
    let paths = [package, out].map(|path| path.to_str().unwrap());
    Adapter::default().haikuq(&[&["export", paths[0], "--out", paths[1]], arguments].concat())
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_export_is_a_checkpoint_that_this_program_reads_too() {
    let (package, folder) = (convert("q4-fast"), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let adapter = Adapter::default();
    let written = haikuq_json(
        &adapter,
        &["export", package.to_str().unwrap(), "--format", "hf", "--dtype", "f32", "--out", &path("hf"), "--json"],
    );
    assert_eq!(written["architecture"], "LlamaForCausalLM");
    assert_eq!(written["relative_error"], 0.0);
    let names: Vec<&str> = written["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert_eq!(std::fs::read(folder.path().join("hf/tokenizer.json")).unwrap(), std::fs::read(golden("tokenizer.json")).unwrap());
    let done = export(&package, &["--format", "gguf"], &folder.path().join("gguf"));
    assert!(done.status.success(), "{}", said(&done));
    let done = export(&package, &["--format", "onnx"], &folder.path().join("onnx"));
    assert!(done.status.success(), "{}", said(&done));
    for name in ["config.json", "genai_config.json", "tokenizer.json", "onnx/model_q4.onnx", "onnx/model_q4.onnx_data"] {
        assert!(folder.path().join("onnx").join(name).is_file(), "{name}");
    }
    for checkpoint in ["hf", "gguf"] {
        let inspected = haikuq_json(&adapter, &["inspect", &path(checkpoint), "--json"]);
        assert_eq!(inspected["spec"]["hidden_size"], 256, "{checkpoint}");
        assert_eq!(inspected["spec"]["eos_token_ids"], serde_json::json!([0]), "{checkpoint}");
    }
}

#[test]
fn what_cannot_be_written_is_refused_by_name_with_a_way_out() {
    let (package, folder) = (convert("q4-fast"), tempfile::tempdir().unwrap());
    let out = folder.path().join("out");
    for (arguments, expected) in [
        (&["--format", "npz"][..], "invalid value 'npz' for '--format"),
        (&["--format", "onnx", "--type", "q8_0"], "an onnx export has the package's own codes"),
        (&["--format", "onnx", "--dtype", "bf16"], "--format onnx computes in f32 or f16"),
        (&["--format", "gguf", "--type", "iq4_xs"], "IQ4_XS is a type of llama.cpp that is not written yet"),
        (&["--format", "gguf", "--dtype", "f16"], "--dtype is for --format hf and onnx"),
        (&["--format", "hf", "--type", "q8_0"], "--type is for --format gguf"),
        (&["--format", "gguf", "--checkpoint", golden("").to_str().unwrap()], "name a type to round those to"),
    ] {
        let output = export(&package, arguments, &out);
        assert!(!output.status.success() && said(&output).contains(expected), "{arguments:?}: {}", said(&output));
    }
    assert!(!out.exists() && std::fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing is left behind");
}

#[test]
fn help_leads_with_examples_and_fits_a_screen() {
    let help = String::from_utf8(Adapter::default().haikuq(&["export", "--help"]).stdout).unwrap();
    assert!(help.starts_with("haikuq export smollm2.q4 --format hf"), "{help}");
    assert!(help.lines().count() <= 40, "{help}");
}
