//! Checkpoints as people have them: each gives the perplexity that was calculated apart from this project
//! (`tests/fixtures/cases/README.md` says how), or is refused with the way out.

mod support;

use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use support::{Tensor, assert_says, fail, haikuq, read_json, succeed, write_json};

/// The Llama with its own head, and with its embedding as head.
const OWN_HEAD: f64 = 111.1486;
const TIED: f64 = 134.3810;
const GEMMA: f64 = 1653.8000;
const BIASES: f64 = 123.1555;

fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/fixtures/cases").join(name)
}

/// A checkpoint of a fixture that a test changes.
struct Case {
    dir: tempfile::TempDir,
    config: Value,
    tensors: Vec<Tensor>,
}

impl Case {
    fn of(name: &str) -> Self {
        let bytes = std::fs::read(fixture(name).join("model.safetensors")).unwrap();
        let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| Tensor {
            name,
            dtype: "F32",
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter().map(tensor).collect();
        Self { dir: tempfile::tempdir().unwrap(), config: read_json(&fixture(name).join("config.json")), tensors }
    }

    /// The Llama with a head of its own, as it should be.
    fn llama() -> Self {
        Self::of("llama").with("tie_word_embeddings", json!(false))
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.tensors.retain(|t| !t.name.contains(name));
        self
    }

    fn and(mut self, name: &str, dtype: &'static str, shape: &[usize]) -> Self {
        let width = if dtype == "F32" || dtype == "I32" { 4 } else { 1 };
        let bytes = vec![0; width * shape.iter().product::<usize>()];
        self.tensors.push(Tensor { name: name.into(), dtype, shape: shape.to_vec(), bytes });
        self
    }

    fn renamed(mut self, rename: impl Fn(&str) -> String) -> Self {
        self.tensors.iter_mut().for_each(|t| t.name = rename(&t.name));
        self
    }

    /// A copy of one tensor under another name.
    fn copied(mut self, from: &str, to: &str) -> Self {
        let copy = Tensor { name: to.into(), ..self.tensors.iter().find(|t| t.name == from).unwrap().clone() };
        self.tensors.retain(|t| t.name != to);
        self.tensors.push(copy);
        self
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("model")
    }

    fn write(self) -> Self {
        self.write_as(&["model.safetensors"])
    }

    /// Writes the tensors in files of those names.
    fn write_as(self, names: &[&str]) -> Self {
        std::fs::create_dir_all(self.folder()).unwrap();
        write_json(&self.folder().join("config.json"), &self.config);
        for (name, part) in names.iter().zip(self.tensors.chunks(self.tensors.len().div_ceil(names.len()))) {
            std::fs::write(self.folder().join(name), support::safetensors(part)).unwrap();
        }
        self
    }

    #[track_caller]
    fn assert_scores(&self, expected: f64) -> String {
        assert_scores(&self.folder(), expected)
    }

    fn refusal(&self) -> String {
        refusal(&self.folder())
    }
}

fn score(path: &Path) -> std::process::Command {
    let mut command = haikuq();
    command.arg("score").arg(path).arg("--ids").arg(fixture("ids.safetensors")).arg("--json");
    command
}

/// Scores a checkpoint, and returns its warnings too.
#[track_caller]
fn assert_scores(path: &Path, expected: f64) -> String {
    assert_says_perplexity(score(path), expected)
}

#[track_caller]
fn assert_says_perplexity(score: std::process::Command, expected: f64) -> String {
    let what = format!("{score:?}");
    let output = succeed(score);
    let found = serde_json::from_slice::<Value>(&output.stdout).unwrap()["perplexity"].as_f64().unwrap();
    assert!((found - expected).abs() <= 6e-5 + 1e-6 * expected, "{what}: {found}, expected {expected}");
    String::from_utf8(output.stderr).unwrap()
}

/// The same of the language model alone.
fn score_text(path: &Path) -> std::process::Command {
    let mut command = score(path);
    command.arg("--text-only");
    command
}

fn refusal(path: &Path) -> String {
    fail(score(path))
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

#[test]
fn the_head_is_decided_by_the_numbers() {
    let tied = || Case::of("llama");
    let said = tied().write().assert_scores(OWN_HEAD);
    assert_says(&said, &["lm_head.weight differs from model.embed_tokens.weight", "tie_word_embeddings"]);
    assert_eq!(tied().without(HEAD).write().assert_scores(TIED), "");
    assert_eq!(tied().copied(EMBEDDING, HEAD).write().assert_scores(TIED), "");
    tied().copied(EMBEDDING, HEAD).without(EMBEDDING).write().assert_scores(TIED);
    // In two files.
    tied().write_as(&["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]).assert_scores(OWN_HEAD);
    Case::llama().copied(EMBEDDING, HEAD).write().assert_scores(TIED);
    assert_says(
        &Case::llama().without(HEAD).write().refusal(),
        &[HEAD, "set tie_word_embeddings to true", "AutoModelForCausalLM"],
    );
    assert_says(&tied().without(HEAD).without(EMBEDDING).write().refusal(), &[EMBEDDING, "is missing"]);
}

#[test]
fn a_head_that_differs_in_its_last_bit_is_a_head_of_its_own() {
    let mut case = Case::of("llama").copied(EMBEDDING, HEAD);
    let head = case.tensors.iter_mut().find(|t| t.name == HEAD).unwrap();
    let last = head.bytes.len() - 4;
    head.bytes[last] ^= 1;
    assert_says(&case.write().assert_scores(TIED), &["differs", "row 63"]);
}

#[test]
fn configs_mean_what_their_classes_make_of_them() {
    Case::of("gemma").write().assert_scores(GEMMA);
    let upper = Case::llama().with("architectures", json!(["LLaMAForCausalLM"])).write();
    assert_says(&upper.assert_scores(OWN_HEAD), &["LLaMAForCausalLM is read as LlamaForCausalLM"]);
}

#[test]
fn biases_that_are_not_there_are_zero_and_that_is_said() {
    assert_says(&Case::of("biases").write().assert_scores(BIASES), &["2 biases", "o_proj.bias", "taken as zero"]);
    // A gain is none.
    let said = Case::llama().without("layers.1.input_layernorm").write().refusal();
    assert_says(&said, &["model.layers.1.input_layernorm.weight is missing"]);
}

#[test]
fn names_are_found_behind_what_is_around_them() {
    let base = |name: &str| name.strip_prefix("model.").unwrap_or(name).to_string();
    let within = |prefix: &'static str| move |name: &str| format!("{prefix}{name}");
    for prefix in ["_orig_mod.", "module.", "base_model.model.", "language_model.", "policy.pretrained."] {
        assert_says(&Case::llama().renamed(within(prefix)).write().assert_scores(OWN_HEAD), &["around those of the model"]);
    }
    Case::llama().renamed(|n| n.replace("layers.0.", "layers.0._fsdp_wrapped_module.")).write().assert_scores(OWN_HEAD);
    let multimodal = |n: &str| n.replacen("model.", "model.language_model.", 1);
    Case::llama().renamed(multimodal).write().assert_scores(OWN_HEAD);
    assert_says(&Case::llama().renamed(base).write().assert_scores(OWN_HEAD), &["lack \"model.\""]);
    Case::of("llama").without(HEAD).renamed(base).write().assert_scores(TIED);
}

#[test]
fn of_a_multimodal_model_the_language_model_is_read_where_that_is_asked_for() {
    let multimodal = |rename: fn(&str) -> String| {
        let case = Case::llama().renamed(rename).and("vision_tower.layers.0.self_attn.q_proj.weight", "F32", &[8, 8]);
        let case = case.and("model.multi_modal_projector.linear_1.weight", "F32", &[8, 8]);
        let text = case.config.clone();
        let case = case.with("architectures", json!(["Mistral3ForConditionalGeneration"])).with("model_type", json!("mistral3"));
        case.with("text_config", text).with("vision_config", json!({"model_type": "pixtral"}))
    };
    let inside = |n: &str| n.replacen("model.", "model.language_model.", 1);
    let before = |n: &str| format!("language_model.{n}");
    for case in [multimodal(inside).write(), multimodal(before).write()] {
        assert_says(&case.refusal(), &["multimodal models are not supported", "--text-only"]);
        let said = assert_says_perplexity(score_text(&case.folder()), OWN_HEAD);
        assert_says(&said, &["the language model of Mistral3ForConditionalGeneration", "2 tensors are left out"]);
    }
    // A language model is what it is, and a tensor that is of no known module has no place.
    let plain = Case::llama().write();
    assert_eq!(assert_says_perplexity(score_text(&plain.folder()), OWN_HEAD), "");
    let case = multimodal(inside).and("model.sense_of_smell.weight", "F32", &[8]).write();
    assert_says(&fail(score_text(&case.folder())), &["model.sense_of_smell.weight"]);
}

#[test]
fn buffers_are_no_weights_and_everything_else_has_a_place_or_is_refused() {
    Case::llama()
        .and("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", &[4])
        .and("model.layers.0.self_attn.rotary_emb.cos_cached", "F32", &[1, 1, 16, 8])
        .and("model.layers.0.self_attn.rotary_emb.sin_cached", "F32", &[1, 1, 16, 8])
        .and("model.layers.0.self_attn.bias", "U8", &[1, 1, 16, 16])
        .and("model.position_ids", "I32", &[1, 16])
        .and("model.empty", "F32", &[0, 32])
        .write()
        .assert_scores(OWN_HEAD);
    for extra in ["v_head.summary.weight", "score.weight", "model.layers.2.input_layernorm.weight"] {
        assert_says(&Case::llama().and(extra, "F32", &[1, 32]).write().refusal(), &[extra, "no place"]);
    }
    let said = Case::llama().and("model.layers.0.self_attn.q_proj.lora_A.weight", "F32", &[4, 32]).write().refusal();
    assert_says(&said, &["adapter that was not merged", "merge_and_unload"]);
    // The name in the message is one that was in question, with those that could have been meant.
    let said = Case::llama().renamed(|n| n.replace("q_proj", "query")).write().refusal();
    assert_says(&said, &["self_attn.q_proj.weight is missing", "model.layers.0.self_attn.query.weight"]);
}

#[test]
fn shards_need_no_index_and_must_all_be_there() {
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let case = Case::llama().write_as(&shards);
    case.assert_scores(OWN_HEAD);
    assert_scores(&case.folder().join(shards[1]), OWN_HEAD);
    std::fs::remove_file(case.folder().join(shards[0])).unwrap();
    assert_says(&case.refusal(), &["model-00001-of-00002.safetensors is missing: 1 of 2 shards"]);
    Case::llama().write_as(&["model-00001-of-00001.safetensors"]).assert_scores(OWN_HEAD);
    Case::llama().write_as(&["weights.safetensors"]).assert_scores(OWN_HEAD);
    assert_says(&Case::llama().write_as(&["a.safetensors", "b.safetensors"]).refusal(), &["a.safetensors, b.safetensors"]);
    let case = Case::llama().write_as(&shards[..1]);
    write_json(&case.folder().join("model.safetensors.index.json"), &json!({"weight_map": {"a": shards[0], "b": shards[1]}}));
    assert_says(&case.refusal(), &["cannot read model-00002-of-00002.safetensors", "is missing: 1 of 2 shards"]);
}

#[test]
fn a_file_of_the_folder_stands_for_it() {
    let case = Case::llama().write();
    for file in ["model.safetensors", "config.json"] {
        assert_scores(&case.folder().join(file), OWN_HEAD);
    }
}

#[test]
fn the_folder_of_a_cached_model_stands_for_its_snapshot() {
    let case = Case::llama().write();
    let repo = case.dir.path().join("models--org--name");
    let snapshot = repo.join("snapshots/0123456789abcdef0123456789abcdef01234567");
    std::fs::create_dir_all(snapshot.parent().unwrap()).unwrap();
    std::fs::rename(case.folder(), &snapshot).unwrap();
    assert_scores(&repo, OWN_HEAD);
    assert_scores(&repo.join("snapshots"), OWN_HEAD);
}

#[test]
fn what_is_no_checkpoint_is_named_with_the_way_out() {
    let quantized = Case::llama().without("q_proj").and("model.layers.0.self_attn.q_proj.qweight", "I32", &[4, 32]);
    let gptq = quantized.and("model.layers.0.self_attn.q_proj.g_idx", "I32", &[32]).write();
    assert_says(&gptq.refusal(), &["quantized already (GPTQ", "full-precision original"]);
    let adapter = tempfile::tempdir().unwrap();
    write_json(&adapter.path().join("adapter_config.json"), &json!({"base_model_name_or_path": "someone/some-base"}));
    std::fs::write(adapter.path().join("adapter_model.safetensors"), support::safetensors(&[])).unwrap();
    assert_says(&refusal(adapter.path()), &["an adapter", "someone/some-base", "merge_and_unload"]);
    let native = tempfile::tempdir().unwrap();
    write_json(&native.path().join("params.json"), &json!({"dim": 32}));
    std::fs::write(native.path().join("consolidated.safetensors"), support::safetensors(&[])).unwrap();
    assert_says(&refusal(native.path()), &["consolidated.safetensors, params.json", "transformers' format"]);
    let case = Case::llama().write();
    std::fs::remove_file(case.folder().join("config.json")).unwrap();
    assert_says(&case.refusal(), &["cannot read config.json of", "put the model's config.json beside them"]);
    let outer = Case::llama().write();
    assert_says(&refusal(outer.dir.path()), &["name one of the folders in it: model"]);
}

#[test]
fn pointers_of_git_lfs_are_named_wherever_they_lie() {
    const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 92848\n";
    for file in ["model.safetensors", "config.json", "tokenizer.json"] {
        let case = Case::llama().write();
        std::fs::write(case.folder().join(file), POINTER).unwrap();
        assert_says(&case.refusal(), &[file, "git lfs pull"]);
    }
    let gguf = tempfile::tempdir().unwrap();
    std::fs::write(gguf.path().join("m.gguf"), POINTER).unwrap();
    assert_says(&refusal(gguf.path()), &["m.gguf", "git lfs pull"]);
    let case = Case::llama().write();
    std::fs::write(case.folder().join("model.safetensors"), "<!DOCTYPE html><title>Sign in</title>").unwrap();
    assert_says(&case.refusal(), &["a page of HTML"]);
}

#[test]
fn json_is_read_as_python_and_windows_write_it() {
    let case = Case::llama().write();
    let path = case.folder().join("config.json");
    let text = std::fs::read_to_string(&path).unwrap().replacen('{', "{\"a\": NaN, \"b\": [-Infinity, Infinity],", 1);
    let utf16: Vec<u8> = "\u{feff}".encode_utf16().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    for bytes in [text.clone().into_bytes(), [&b"\xef\xbb\xbf"[..], text.as_bytes()].concat(), utf16] {
        std::fs::write(&path, bytes).unwrap();
        case.assert_scores(OWN_HEAD);
    }
    let text = text.replace("1e-6", "NaN");
    std::fs::write(&path, &text).unwrap();
    assert_says(&case.refusal(), &["rms_norm_eps is \"NaN\""]);
    std::fs::write(&path, &text[..40]).unwrap();
    assert_says(&case.refusal(), &["config.json is not valid JSON"]);
}

#[test]
fn gguf_files_are_known_by_their_content_and_helpers_are_no_models() {
    let inspect = |path: &Path| {
        let mut command = haikuq();
        command.args(["inspect", "--json"]).arg(path);
        command
    };
    let dir = tempfile::tempdir().unwrap();
    let (blob, helper) = (dir.path().join("sha256-00"), dir.path().join("sha256-01"));
    std::fs::copy(fixture("gguf/m-f32.gguf"), &blob).unwrap();
    succeed(inspect(&blob));
    std::fs::copy(fixture("gguf/mmproj-m-f32.gguf"), &helper).unwrap();
    succeed(inspect(dir.path()));
    assert_says(&fail(inspect(&helper)), &["a projector of images", "the language model beside it"]);
    std::fs::copy(&blob, dir.path().join("other")).unwrap();
    assert_says(&fail(inspect(dir.path())), &["several models", "other, sha256-00"]);
    assert_says(&fail(inspect(&fixture("gguf/nan_score.gguf"))), &["tokenizer.ggml.scores", "none of finite numbers"]);
}

#[cfg(target_os = "linux")]
#[test]
fn links_out_of_the_folder_and_pipes_are_refused() {
    use std::os::unix::fs::symlink;
    for file in ["chat_template.jinja", "special_tokens_map.json", "additional_chat_templates/x.jinja", "generation_config.json"]
    {
        let case = Case::llama().write();
        let secret = case.dir.path().join("secret");
        std::fs::write(&secret, "{}").unwrap();
        std::fs::create_dir(case.folder().join("additional_chat_templates")).unwrap();
        symlink(&secret, case.folder().join(file)).unwrap();
        assert_says(&case.refusal(), &[file, "leads out of the checkpoint's folder"]);
    }
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        let case = Case::llama().write();
        let path = case.folder().join(file);
        let _ = std::fs::remove_file(&path);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert_says(&case.refusal(), &[file, "a pipe"]);
    }
}

#[test]
fn headers_that_the_library_refuses_are_refused_at_once() {
    let case = Case::llama().write();
    let path = case.folder().join("model.safetensors");
    let file = std::fs::read(&path).unwrap();
    let (header, data) = support::split_header(&file);
    let with = |text: String| {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes.extend(&data);
        std::fs::write(&path, bytes).unwrap();
        case.refusal()
    };
    let plain = header.to_string();
    let inner = plain.strip_suffix('}').unwrap();
    let entry = header[HEAD].to_string();
    assert_says(&with(format!("{inner},\"{HEAD}\":{entry}}}")), &["\"lm_head.weight\" is there twice"]);
    assert_says(&with(format!("{inner},\"__metadata__\":{{\"a\":1}}}}")), &["bad safetensors header"]);
    let bomb = format!("{inner},\"x\":[{}0]}}", "0,".repeat(1 << 20));
    assert_says(&with(bomb), &["bad safetensors header", "tensor x"]);
    let bomb = format!("{inner},\"x\":{{\"dtype\":\"F32\",\"shape\":[{}0],\"data_offsets\":[0,0]}}}}", "0,".repeat(1 << 20));
    assert_says(&with(bomb), &["bad safetensors header", "at most 64 sizes"]);
}
