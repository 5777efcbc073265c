//! Damaged and hostile files: each is refused with words of its own, exit code 1, and no panic.

mod support;

use haikuq_format::manifest::MANIFEST_FILE;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use support::{TinyCheckpoint, assert_says, convert, fail, haikuq, read_json, split_header, succeed, with_header, write_json};

/// A written tiny checkpoint whose files a test may damage.
struct Source {
    dir: tempfile::TempDir,
}

impl Source {
    fn new() -> Self {
        Self::of(&TinyCheckpoint::new())
    }

    fn of(checkpoint: &TinyCheckpoint) -> Self {
        let dir = tempfile::tempdir().unwrap();
        checkpoint.write(&dir.path().join("tiny"));
        Self { dir }
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("tiny")
    }

    fn weights(&self) -> PathBuf {
        self.folder().join("model.safetensors")
    }

    /// What converting says; it must fail and leave nothing under the final name.
    fn refusal(&self) -> String {
        let out = self.dir.path().join("out");
        let said = fail(convert(&self.folder(), &out, &[]));
        assert!(!out.exists());
        said
    }

    /// Converting a checkpoint whose config was changed.
    fn refusal_with_config(key: &str, value: Value) -> String {
        let mut checkpoint = TinyCheckpoint::new();
        checkpoint.config[key] = value;
        Self::of(&checkpoint).refusal()
    }

    /// Converting a checkpoint whose safetensors header was changed.
    fn refusal_with_header(change: impl FnOnce(&mut Value)) -> String {
        let source = Self::new();
        let (mut header, data) = split_header(&std::fs::read(source.weights()).unwrap());
        change(&mut header);
        std::fs::write(source.weights(), with_header(&header, &data)).unwrap();
        source.refusal()
    }
}

const QUERY: &str = "model.layers.1.self_attn.q_proj.weight";

#[test]
fn a_truncated_file_is_refused_with_its_sizes() {
    let source = Source::new();
    let bytes = std::fs::read(source.weights()).unwrap();
    std::fs::write(source.weights(), &bytes[..bytes.len() - 100]).unwrap();
    assert_says(
        &source.refusal(),
        &["model.safetensors is truncated", &bytes.len().to_string(), &(bytes.len() - 100).to_string()],
    );
    std::fs::write(source.weights(), &bytes[..50]).unwrap();
    assert_says(&source.refusal(), &["truncated: the header needs", "the file has 50"]);
    std::fs::write(source.weights(), &bytes[..5]).unwrap();
    assert_says(&source.refusal(), &["truncated: the header's length needs 8"]);
    std::fs::write(source.weights(), b"").unwrap();
    assert_says(&source.refusal(), &["truncated", "the file has 0"]);
}

#[test]
fn an_oversized_header_is_refused_before_it_is_read() {
    let source = Source::new();
    let mut bytes = std::fs::read(source.weights()).unwrap();
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(source.weights(), bytes).unwrap();
    assert_says(&source.refusal(), &["a header of 18446744073709551615 bytes is over the limit of 100000000"]);
}

#[test]
fn a_header_that_is_no_json_is_refused() {
    let source = Source::new();
    std::fs::write(source.weights(), with_header(&json!("no table"), &[])).unwrap();
    assert_says(&source.refusal(), &["bad safetensors header"]);
    std::fs::write(source.weights(), [&4u64.to_le_bytes()[..], &[0xff; 4]].concat()).unwrap();
    assert_says(&source.refusal(), &["bad safetensors header"]);
}

#[test]
fn overlapping_offsets_name_both_tensors() {
    let said = Source::refusal_with_header(|h| {
        let embedding = h["model.embed_tokens.weight"]["data_offsets"][1].as_u64().unwrap();
        let offsets = &mut h["model.layers.0.input_layernorm.weight"]["data_offsets"];
        *offsets = json!([embedding - 64, embedding - 64 + 192]);
    });
    assert_says(&said, &["model.layers.0.input_layernorm.weight starts at byte", "inside tensor model.embed_tokens.weight"]);
}

#[test]
fn offsets_beyond_the_file_holes_and_wrong_sizes_are_refused() {
    let said = Source::refusal_with_header(|h| h[QUERY]["data_offsets"] = json!([1u64 << 40, (1u64 << 40) + 18432]));
    assert_says(&said, &["truncated: tensor model.layers.1.self_attn.q_proj.weight needs"]);
    let said = Source::refusal_with_header(|h| {
        h[QUERY]["data_offsets"] = json!([18_446_744_073_709_551_000u64, 18_446_744_073_709_551_615u64]);
    });
    assert_says(&said, &[QUERY]);
    let said = Source::refusal_with_header(|h| h[QUERY]["shape"] = json!([96, 95]));
    assert_says(&said, &[QUERY, "[96, 95]", "takes 18240 bytes"]);
    let said = Source::refusal_with_header(|h| h[QUERY]["shape"] = json!([u64::MAX, u64::MAX]));
    assert_says(&said, &[QUERY, "beyond all bounds"]);
    let said = Source::refusal_with_header(|h| {
        h.as_object_mut().unwrap().remove(QUERY);
    });
    assert_says(&said, &["belong to no tensor"]);
    let said = Source::refusal_with_header(|h| h[QUERY]["dtype"] = json!("F17"));
    assert_says(&said, &[QUERY, "unknown number format \"F17\""]);
}

#[test]
fn weights_that_are_no_floats_are_refused() {
    let said = Source::refusal_with_header(|h| h[QUERY]["dtype"] = json!("I16"));
    assert_says(&said, &[QUERY, "holds I16 numbers", "use the original"]);
}

#[test]
fn nan_and_infinity_are_named_with_file_tensor_and_index() {
    for (value, word) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let mut checkpoint = TinyCheckpoint::new();
        checkpoint.put(QUERY, 4242, value);
        let said = Source::of(&checkpoint).refusal();
        assert_says(&said, &["model.safetensors", QUERY, &format!("element 4242 is {word};")]);
    }
}

#[test]
fn a_weight_too_large_for_its_scheme_is_named_with_the_way_out() {
    let mut checkpoint = TinyCheckpoint::new();
    checkpoint.put("model.layers.0.mlp.up_proj.weight", 96 * 7 + 3, 3e38);
    let source = Source::of(&checkpoint);
    assert_says(&source.refusal(), &["layers.0.gate_up: row 15, column 3 is", "f32"]);
    succeed(convert(&source.folder(), &source.dir.path().join("f32"), &["--recipe", "f32", "--force"]));
}

#[test]
fn missing_misshapen_and_surplus_tensors_are_named() {
    let mut checkpoint = TinyCheckpoint::new();
    checkpoint.tensors.retain(|t| t.name != QUERY);
    assert_says(&Source::of(&checkpoint).refusal(), &[QUERY, "is missing"]);

    let mut checkpoint = TinyCheckpoint::new();
    checkpoint.tensor(QUERY).shape = vec![48, 192];
    assert_says(&Source::of(&checkpoint).refusal(), &[QUERY, "has shape [48, 192]", "[96, 96]"]);

    let mut checkpoint = TinyCheckpoint::new();
    let mut extra = checkpoint.tensor(QUERY).clone();
    extra.name = "model.layers.1.self_attn.q_norm.weight".into();
    checkpoint.tensors.push(extra);
    assert_says(&Source::of(&checkpoint).refusal(), &["1 tensors have no place", "q_norm"]);
}

#[test]
fn a_config_that_contradicts_the_tensors_or_itself_is_refused() {
    let said = Source::refusal_with_config("intermediate_size", json!(500));
    assert_says(&said, &["gate_proj.weight has shape [232, 96]", "[500, 96]"]);
    assert_says(&Source::refusal_with_config("num_key_value_heads", json!(2)), &["3 query heads are not a multiple of 2"]);
    assert_says(&Source::refusal_with_config("num_hidden_layers", json!(1)), &["9 tensors have no place", "model.layers.1."]);
    assert_says(&Source::refusal_with_config("num_hidden_layers", json!(1u64 << 40)), &["num_hidden_layers is 1099511627776"]);
    assert_says(
        &Source::refusal_with_config("hidden_size", json!("large")),
        &["hidden_size is \"large\", expected a whole number"],
    );
    assert_says(&Source::refusal_with_config("hidden_size", json!(-96)), &["hidden_size is -96"]);
    assert_says(&Source::refusal_with_config("head_dim", json!(33)), &["head_dim \"33\" is not supported"]);
    assert_says(&Source::refusal_with_config("rms_norm_eps", json!(-1.0)), &["norm epsilon -1"]);
    assert_says(&Source::refusal_with_config("rope_theta", json!(0)), &["rope_theta"]);
}

#[test]
fn what_is_not_supported_is_named_with_what_is() {
    let said = Source::refusal_with_config("architectures", json!(["BloomForCausalLM"]));
    assert_says(&said, &["BloomForCausalLM is not supported (supported: LlamaForCausalLM"]);
    let said = Source::refusal_with_config("architectures", json!(["MambaForCausalLM"]));
    assert_says(&said, &["MambaForCausalLM cannot be converted", "state-space"]);
    let said = Source::refusal_with_config("quantization_config", json!({"quant_method": "awq"}));
    assert_says(&said, &["LlamaForCausalLM cannot be converted", "method awq", "original"]);
    let said = Source::refusal_with_config("hidden_act", json!("mish"));
    assert_says(&said, &["hidden_act \"mish\"", "silu"]);
    let said = Source::refusal_with_config("rope_scaling", json!({"rope_type": "spiral", "factor": 2.0}));
    assert_says(&said, &["rope_scaling.rope_type \"spiral\"", "llama3"]);
}

#[test]
fn pickles_are_refused_unread() {
    let source = Source::new();
    std::fs::rename(source.weights(), source.folder().join("pytorch_model.bin")).unwrap();
    assert_says(&source.refusal(), &["pytorch_model.bin", "pickle files run code", "safetensors first"]);
    let file = source.folder().join("pytorch_model.bin");
    let said = fail(convert(&file, &source.folder().join("out"), &[]));
    assert_says(&said, &["pytorch_model.bin", "pickle files run code"]);
}

#[test]
fn folders_that_are_no_checkpoints_are_told_apart() {
    let source = Source::new();
    std::fs::remove_file(source.weights()).unwrap();
    assert_says(&source.refusal(), &["has neither model.safetensors nor"]);
    std::fs::write(source.folder().join("config.json"), "{").unwrap();
    assert_says(&source.refusal(), &["config.json is not valid JSON"]);
    std::fs::remove_file(source.folder().join("config.json")).unwrap();
    assert_says(&source.refusal(), &["cannot read", "config.json"]);
    std::fs::remove_dir_all(source.folder()).unwrap();
    assert_says(&source.refusal(), &["not a folder"]);
}

#[test]
fn an_index_may_name_only_shards_of_its_folder_that_have_its_tensors() {
    let refusal = |change: &dyn Fn(&Path, &mut Value)| {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("tiny");
        TinyCheckpoint::new().write_sharded(&folder, 2);
        let path = folder.join("model.safetensors.index.json");
        let mut index = read_json(&path);
        change(&folder, &mut index);
        write_json(&path, &index);
        fail(convert(&folder, &dir.path().join("out"), &[]))
    };
    let said = refusal(&|_, index| index["weight_map"][QUERY] = json!("model-00003-of-00002.safetensors"));
    assert_says(&said, &["cannot read", "model-00003-of-00002.safetensors"]);
    for outside in ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "a\\b"] {
        let said = refusal(&|_, index| index["weight_map"][QUERY] = json!(outside));
        assert_says(&said, &["is no plain file name", QUERY]);
    }
    let said = refusal(&|_, index| index["weight_map"][QUERY] = json!("model-00001-of-00002.safetensors"));
    assert_says(&said, &[QUERY, "which does not have it"]);
    let said = refusal(&|_, index| index["weight_map"] = json!({}));
    assert_says(&said, &["weight_map is missing, empty or not a table"]);
    let said = refusal(&|folder, index| {
        std::fs::copy(folder.join("model-00001-of-00002.safetensors"), folder.join("copy.safetensors")).unwrap();
        index["weight_map"]["model.embed_tokens.weight"] = json!("copy.safetensors");
    });
    assert_says(&said, &["lies in both"]);
}

/// A converted tiny checkpoint whose files a test may damage.
struct Target {
    dir: tempfile::TempDir,
}

impl Target {
    fn new() -> Self {
        let source = Source::new();
        succeed(convert(&source.folder(), &source.dir.path().join("out"), &["--shard-size", "64KiB"]));
        Self { dir: source.dir }
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// What `verify` finds, which must be something.
    fn findings(&self) -> String {
        let mut command = haikuq();
        command.arg("verify").arg(self.folder());
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
        said
    }

    fn shard(&self, i: usize) -> PathBuf {
        let name = read_json(&self.folder().join(MANIFEST_FILE))["shards"][i]["name"].as_str().unwrap().to_string();
        self.folder().join(name)
    }

    fn with_manifest(change: impl FnOnce(&mut Value)) -> String {
        let target = Self::new();
        let path = target.folder().join(MANIFEST_FILE);
        let mut manifest = read_json(&path);
        change(&mut manifest);
        write_json(&path, &manifest);
        target.findings()
    }
}

#[test]
fn a_good_package_is_good() {
    let target = Target::new();
    let mut command = haikuq();
    command.arg("verify").arg(target.folder()).arg("--json");
    let report: Value = serde_json::from_slice(&succeed(command).stdout).unwrap();
    assert_eq!((&report["ok"], &report["problems"]), (&json!(true), &json!([])));
}

#[test]
fn every_damaged_file_is_listed() {
    let target = Target::new();
    let mut bytes = std::fs::read(target.shard(0)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(target.shard(0), &bytes).unwrap();
    let second = std::fs::read(target.shard(1)).unwrap();
    std::fs::write(target.shard(1), &second[..second.len() - 1]).unwrap();
    std::fs::remove_file(target.folder().join("tokenizer.json")).unwrap();
    let said = target.findings();
    assert_says(&said, &["is corrupt: its SHA-256 is", "is truncated", "tokenizer.json is missing"]);
    assert_eq!(said.lines().count(), 3, "{said}");
}

#[test]
fn a_longer_file_is_refused() {
    let target = Target::new();
    let mut bytes = std::fs::read(target.shard(0)).unwrap();
    bytes.push(0);
    std::fs::write(target.shard(0), &bytes).unwrap();
    assert_says(&target.findings(), &["is longer than the expected"]);
}

#[test]
fn a_package_of_another_format_is_refused_by_its_version_with_the_way_out() {
    let said = Target::with_manifest(|m| m["version"]["major"] = json!(7));
    assert_says(&said, &["version 7.0 is not supported", "use a newer haikuq"]);
    let said = Target::with_manifest(|m| m["version"]["major"] = json!(1));
    assert_says(&said, &["version 1.0 is not supported", "convert the checkpoint again with this haikuq"]);
    assert_says(&Target::with_manifest(|m| m["format"] = json!("gguf")), &["format is \"gguf\""]);
}

#[test]
fn planes_that_overlap_leave_their_file_or_lie_askew_are_refused() {
    let plane = "/tensors/2/chunks/0/planes/0/offset";
    let at = |m: &Value| m.pointer("/tensors/1/chunks/0/planes/0/offset").cloned().unwrap();
    let set = |m: &mut Value, offset: Value| *m.pointer_mut(plane).unwrap() = offset;
    let said = Target::with_manifest(|m| {
        let other = at(m);
        set(m, other);
    });
    assert_says(&said, &["layers.0.qkv", "lies on plane layers.0.mixer_norm.gain.0.values"]);
    assert_says(&Target::with_manifest(|m| set(m, json!(1 << 30))), &["leaves weights-0000"]);
    assert_says(&Target::with_manifest(|m| set(m, json!(257))), &["is not aligned to 256"]);
    let said = Target::with_manifest(|m| m["tensors"][2]["shape"] = json!([160, 97]));
    assert_says(&said, &["layers.0.qkv: shape [160, 97] where the spec has [160, 96]"]);
    let said = Target::with_manifest(|m| m["files"][0]["name"] = json!("../tokenizer.json"));
    assert_says(&said, &["not a plain file name"]);
}

#[test]
fn a_shard_whose_header_contradicts_the_manifest_is_refused_though_its_hash_is_right() {
    let target = Target::new();
    let (path, manifest_path) = (target.shard(0), target.folder().join(MANIFEST_FILE));
    let (header, data) = split_header(&std::fs::read(&path).unwrap());
    let old = serde_json::to_string(&header).unwrap();
    let renamed = old.replace("embedding.0.codes", "embedding.0.nodes");
    let mut file = std::fs::read(&path).unwrap();
    let padded = file.len() - data.len() - 8;
    file[8..8 + padded].fill(b' ');
    file[8..8 + renamed.len()].copy_from_slice(renamed.as_bytes());
    std::fs::write(&path, &file).unwrap();
    let mut manifest = read_json(&manifest_path);
    let hash: String = Sha256::digest(&file).iter().map(|b| format!("{b:02x}")).collect();
    manifest["shards"][0]["sha256"] = json!(hash);
    write_json(&manifest_path, &manifest);
    assert_says(&target.findings(), &["has no entry embedding.0.codes"]);
}

#[test]
fn no_manifest_is_no_package() {
    let target = Target::new();
    std::fs::write(target.folder().join(MANIFEST_FILE), "{}").unwrap();
    assert_says(&target.findings(), &["format is"]);
    std::fs::remove_file(target.folder().join(MANIFEST_FILE)).unwrap();
    assert_says(&target.findings(), &["haikuq.json is missing"]);
}
