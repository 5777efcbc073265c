//! The corpus in `tests/hostile/`: a file of each kind that was once accepted, or took a program down. Each is refused in
//! words, and within bounds. Tests make those that cannot lie in a repository (pipes, links, files out of proportion).

mod support;

use haikuq::checkpoint::read_companions;
use haikuq::golden::file::{Golden, read_input_ids};
use haikuq_format::Manifest;
use haikuq_format::shard::read_shard;
use haikuq_runtime::text::{Tokenizer, TokenizerFiles};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::{TinyCheckpoint, assert_says, convert, fail, haikuq, read_json, succeed, with_header};

fn corpus() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/hostile")
}

/// Each file, and what its refusal says.
const CASES: [(&str, &str); 30] = [
    ("config-bias-beyond-memory.json", "q_proj.weight has shape [96, 32]"),
    ("config-epsilon-beyond-f32.json", "rms_norm_eps"),
    ("config-epsilon-nan.json", "rms_norm_eps"),
    ("config-theta-infinite.json", "rope_theta"),
    ("ids-header-of-all-memory.safetensors", "over the limit"),
    ("ids-negative.safetensors", "-1 is not a token id"),
    ("ids-windows-of-one.safetensors", "at least 2"),
    ("manifest-case-only.json", "listed twice"),
    ("manifest-device-name.json", "not a plain file name"),
    ("manifest-duplicate-key.json", "duplicate field"),
    ("manifest-null-number.json", "invalid type: null"),
    ("manifest-other-version.json", "version 9.0 is not supported"),
    ("manifest-path.json", "not a plain file name"),
    ("manifest-sizes-overflow.json", "larger together"),
    ("manifest-trailing-dot.json", "not a plain file name"),
    ("sentencepiece-nested-groups.model", "a group at byte 0"),
    ("shard-beyond-file.safetensors", "a header of"),
    ("shard-duplicate-entry.safetensors", "is there twice"),
    ("shard-f32-entry.safetensors", "F32"),
    ("shard-hole.safetensors", "begins at byte"),
    ("shard-metadata-number.safetensors", "expected a string"),
    ("shard-no-table.safetensors", "expected a table"),
    ("shard-overlap.safetensors", "begins at byte"),
    ("shard-size-overflow.safetensors", "not what its shape takes"),
    ("shard-two-dimensions.safetensors", "trailing characters"),
    ("shard-unaligned.safetensors", "is not aligned"),
    ("tokenizer-merge-beyond-vocabulary.json", "\"ab\" and \"ab\" make no token: its vocabulary's longest has 3 bytes"),
    ("tokenizer-merge-without-prefix.json", "the second part of \"a\" and \"b\" does not begin with \"##\""),
    ("tokenizer-one-id-twice.json", "two tokens of its vocabulary have the id 0"),
    ("tokenizer-unknown-special-token.json", "writes the token \"b\", which its special_tokens do not have"),
];

fn refusal(path: &Path) -> String {
    let name = path.file_name().unwrap().to_str().unwrap();
    let bytes = std::fs::read(path).unwrap();
    match name.split_once('-').unwrap().0 {
        "manifest" => Manifest::from_json(&bytes).unwrap_err().to_string(),
        "shard" => read_shard(&bytes).unwrap_err().to_string(),
        "ids" => read_input_ids(path).unwrap_err().to_string(),
        "tokenizer" => Tokenizer::from_files(TokenizerFiles::new(&bytes)).unwrap_err().to_string(),
        "sentencepiece" => {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("tokenizer.model"), bytes).unwrap();
            read_companions(dir.path()).unwrap_err().to_string()
        }
        "config" => {
            let dir = tempfile::tempdir().unwrap();
            tiny().write(dir.path());
            std::fs::write(dir.path().join("config.json"), bytes).unwrap();
            fail(convert(dir.path(), &dir.path().join("out"), &[]))
        }
        other => panic!("{other} is no kind"),
    }
}

fn tiny() -> TinyCheckpoint {
    TinyCheckpoint::sized(32, 1, 40)
}

#[test]
fn every_file_of_the_corpus_is_refused_in_words() {
    let readme = std::fs::read_to_string(corpus().join("README.md")).unwrap();
    let mut files: Vec<_> = std::fs::read_dir(corpus()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    let mut known: Vec<_> = CASES.iter().map(|case| case.0.to_owned()).chain(["README.md".into()]).collect();
    known.sort();
    assert_eq!(files, known);
    for (file, says) in CASES {
        assert_says(&refusal(&corpus().join(file)), &[says]);
        assert!(readme.contains(file), "README.md does not tell of {file}");
    }
}

/// Writes the corpus: `cargo test --test hostile_corpus -- --ignored make`.
#[test]
#[ignore = "writes into the source tree"]
fn make() {
    let dir = tempfile::tempdir().unwrap();
    tiny().write(dir.path());
    succeed(convert(dir.path(), &dir.path().join("out"), &["--recipe", "f32", "--shard-size", "64KiB"]));
    let manifest = read_json(&dir.path().join("out/haikuq.json"));
    let write = |name: &str, bytes: &[u8]| std::fs::write(corpus().join(name), bytes).unwrap();
    let changed = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut manifest = manifest.clone();
        change(&mut manifest);
        write(name, &serde_json::to_vec(&manifest).unwrap());
    };
    let upper = manifest["shards"][0]["name"].as_str().unwrap().to_uppercase();
    changed("manifest-case-only.json", &|m| m["files"][0]["name"] = json!(upper));
    changed("manifest-device-name.json", &|m| m["files"][0]["name"] = json!("nul.json"));
    changed("manifest-trailing-dot.json", &|m| m["files"][0]["name"] = json!("tokenizer.json."));
    changed("manifest-path.json", &|m| m["files"][0]["name"] = json!("../tokenizer.json"));
    changed("manifest-null-number.json", &|m| m["spec"]["norm"]["epsilon"] = Value::Null);
    changed("manifest-other-version.json", &|m| {
        m["version"]["major"] = json!(9);
        m["spec"] = json!({});
    });
    changed("manifest-sizes-overflow.json", &|m| {
        for shard in m["shards"].as_array_mut().unwrap().iter_mut() {
            shard["bytes"] = json!(u64::MAX / 2 + 1);
        }
        m["files"][0]["bytes"] = json!(u64::MAX);
    });
    let text = serde_json::to_string(&manifest).unwrap();
    write("manifest-duplicate-key.json", text.replacen("\"shards\":", "\"shards\":[],\"shards\":", 1).as_bytes());

    let entry = |dtype: &str, shape: Value, at: [u64; 2]| json!({"dtype": dtype, "shape": shape, "data_offsets": at}).to_string();
    let shard = |name: &str, header: &str, data: usize| {
        let mut file = 248u64.to_le_bytes().to_vec();
        file.extend(format!("{header:248}").bytes());
        file.resize(256 + data, 0);
        write(name, &file);
    };
    let good = entry("U32", json!([64]), [0, 256]);
    shard("shard-duplicate-entry.safetensors", &format!(r#"{{"a":{good},"a":{good}}}"#), 256);
    shard("shard-f32-entry.safetensors", &format!(r#"{{"a":{}}}"#, good.replace("U32", "F32")), 256);
    shard("shard-two-dimensions.safetensors", &format!(r#"{{"a":{}}}"#, good.replace("[64]", "[8,8]")), 256);
    shard("shard-size-overflow.safetensors", &format!(r#"{{"a":{}}}"#, good.replace("[64]", "[4611686018427387968]")), 256);
    shard("shard-metadata-number.safetensors", &format!(r#"{{"__metadata__":{{"a":1}},"a":{good}}}"#), 256);
    shard("shard-no-table.safetensors", "[1]", 256);
    let second = entry("U32", json!([64]), [128, 384]);
    shard("shard-overlap.safetensors", &format!(r#"{{"a":{good},"b":{second}}}"#), 384);
    let second = entry("U32", json!([64]), [512, 768]);
    shard("shard-hole.safetensors", &format!(r#"{{"a":{good},"b":{second}}}"#), 768);
    shard("shard-unaligned.safetensors", &format!(r#"{{"a":{}}}"#, entry("U32", json!([1]), [0, 4])), 4);
    write("shard-beyond-file.safetensors", &[&(1u64 << 20).to_le_bytes()[..], b"{}"].concat());

    let ids = |name: &str, shape: [usize; 2], ids: &[i32]| {
        let entry = json!({"dtype": "I32", "shape": shape, "data_offsets": [0, ids.len() * 4]});
        let data: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        write(name, &with_header(&json!({"input_ids": entry}), &data));
    };
    ids("ids-negative.safetensors", [1, 2], &[5, -1]);
    ids("ids-windows-of-one.safetensors", [2, 1], &[5, 6]);
    write("ids-header-of-all-memory.safetensors", &[&(u64::MAX - 8).to_le_bytes()[..], b"{}"].concat());

    let config = |name: &str, key: &str, number: &str| {
        let mut config = tiny().config;
        config[key] = json!("NUMBER");
        write(name, config.to_string().replace("\"NUMBER\"", number).as_bytes());
    };
    config("config-epsilon-beyond-f32.json", "rms_norm_eps", "1e39");
    config("config-epsilon-nan.json", "rms_norm_eps", "NaN");
    config("config-theta-infinite.json", "rope_theta", "1e400");
    let mut biased = tiny().config;
    biased["attention_bias"] = json!(true);
    (biased["num_attention_heads"], biased["head_dim"]) = (json!(1 << 24), json!(1 << 16));
    write("config-bias-beyond-memory.json", biased.to_string().as_bytes());

    // As deep as a stack of 2 MiB is not.
    write("sentencepiece-nested-groups.model", &[0x0b; 32 << 10]);
    let tokenizer = |name: &str, added: Value, post_processor: Value, model: Value| {
        let tokenizer = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": null, "post_processor": post_processor, "decoder": null, "model": model});
        write(name, tokenizer.to_string().as_bytes());
    };
    let end = json!({"id": 3, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true});
    let bpe = |prefix: Value, vocabulary: Value, merges: Value| {
        json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": prefix,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges})
    };
    let model = bpe(Value::Null, json!({"a": 0, "b": 1, "ab": 1, "abc": 0, "c": 2}), json!([["a", "b"], ["ab", "c"]]));
    tokenizer("tokenizer-one-id-twice.json", json!([end]), Value::Null, model);
    let vocabulary = json!({"a": 0, "b": 1, "ab": 2, "abc": 3});
    let model = bpe(Value::Null, vocabulary.clone(), json!([["a", "b"], ["ab", "ab"]]));
    tokenizer("tokenizer-merge-beyond-vocabulary.json", json!([]), Value::Null, model);
    tokenizer("tokenizer-merge-without-prefix.json", json!([]), Value::Null, bpe(json!("##"), vocabulary, json!([["a", "b"]])));
    let pieces = json!([{"SpecialToken": {"id": "b", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
    let known = json!({"a": {"id": "a", "ids": [0], "tokens": ["a"]}});
    let writes = json!({"type": "TemplateProcessing", "single": pieces, "pair": [], "special_tokens": known});
    let model = json!({"type": "WordLevel", "unk_token": "<unk>", "vocab": {"<unk>": 0, "a": 1}});
    tokenizer("tokenizer-unknown-special-token.json", json!([]), writes, model);
}

/// Bytes of memory that this process takes at most while it works.
#[cfg(target_os = "linux")]
fn taken(work: impl FnOnce()) -> usize {
    let status = |what: &str| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix(what)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    };
    // The peak begins anew with what there is now.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS:");
    work();
    status("VmHWM:").saturating_sub(before)
}

/// How long this thread has been computing, in steps of 10 ms: what else the machine does meanwhile does not count.
#[cfg(target_os = "linux")]
fn computed() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    // The name of the thread, in brackets, may have spaces. User and system time are the 14th and 15th field, in hundredths.
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}

/// Nothing that a file says of itself takes more than eight times its size, and computing for a second: in the product. Tests are
/// compiled with fewer optimizations, which makes this of it.
#[cfg(target_os = "linux")]
const BOUND: Duration = Duration::from_secs(2);

#[test]
#[cfg(target_os = "linux")]
fn files_out_of_proportion_are_refused_in_proportion() {
    let path = tempfile::tempdir().unwrap().keep().join("x.safetensors");
    let million = 1_000_000;
    let layer = r#"{"mixer":{"attention":{"num_heads":1,"num_kv_heads":1,"head_dim":1}},"mlp":{"intermediate_size":1}}"#;
    let mut texts: Vec<(&str, Vec<u8>)> = Vec::new();
    let base = std::fs::read_to_string(corpus().join("manifest-path.json")).unwrap();
    let base: Value = serde_json::from_str(&base).unwrap();
    let real_layer = base["spec"]["layers"][0].to_string();
    let with = |pointer: &str, list: String| {
        let mut value = base.clone();
        *value.pointer_mut(pointer).unwrap() = json!("LIST");
        value.to_string().replacen("\"LIST\"", &format!("[{list}]"), 1).into_bytes()
    };
    let many = |item: &str, count: usize| vec![item; count].join(",");
    texts.push(("layers", with("/spec/layers", many(&real_layer, 50_000_000 / (real_layer.len() + 1)))));
    texts.push(("layers that are none", with("/spec/layers", many(layer, million / 4))));
    let empty = r#"{"name":"","class":"mlp","shape":[],"scheme":{"kind":"f32"},"chunks":[]}"#;
    texts.push(("empty tensors", with("/tensors", many(empty, million / 2))));
    texts.push(("chunks", with("/tensors/0/chunks", many(r#"{"first_row":0,"rows":1,"planes":[]}"#, million))));
    texts.push(("sizes", with("/tensors/0/shape", many("1", 20 * million))));
    texts.push(("files", with("/files", many(r#"{"name":"a","bytes":0,"sha256":""}"#, million))));
    texts.push(("end tokens", with("/spec/eos_token_ids", many("1", 20 * million))));
    for (what, text) in texts {
        let start = computed();
        let taken = taken(|| drop(Manifest::from_json(&text).unwrap_err()));
        let took = computed() - start;
        println!("{what}: {took:?}");
        assert!(took < BOUND, "{what}: {took:?}");
        assert!(taken < 8 * text.len(), "{what}: {taken} bytes for {}", text.len());
    }
    let entry = |i: usize| format!(r#""t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#);
    let header = format!("{{{}}}", (0..million).map(entry).collect::<Vec<_>>().join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    std::fs::write(&path, &file).unwrap();
    let start = computed();
    let taken = taken(|| {
        assert_says(&read_input_ids(&path).unwrap_err().to_string(), &["over the limit"]);
        assert_says(&Golden::read(&path).unwrap_err().to_string(), &["over the limit"]);
        read_shard(&file).unwrap_err();
    });
    let took = computed() - start;
    println!("headers: {took:?}");
    assert!(took < BOUND && taken < 8 * file.len(), "{taken} bytes, {took:?}");
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn files_that_are_no_files_are_refused_wherever_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    tiny().write(&at("tiny"));
    succeed(convert(&at("tiny"), &at("package"), &[]));
    let pipe = |path: &Path| {
        let _ = std::fs::remove_file(path);
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    };
    pipe(&at("pipe.toml"));
    let refused = |args: &[&str]| {
        let mut command = haikuq();
        // A command that waits or never ends has failed, too.
        let mut timed = std::process::Command::new("timeout");
        timed.arg("20").arg(command.get_program()).args(args);
        timed.env("HF_HUB_OFFLINE", "1");
        command = timed;
        let output = command.output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        said
    };
    let (tiny, package, pipe_path) = (at("tiny"), at("package"), at("pipe.toml"));
    let (tiny, package, pipe_path) = (tiny.to_str().unwrap(), package.to_str().unwrap(), pipe_path.to_str().unwrap());
    for odd in [pipe_path, "/dev/zero"] {
        for args in [
            &["score", tiny, "--ids", odd][..],
            &["golden", tiny, "--text", odd, "--out", "/dev/null"],
            &["validate", package, "--golden", odd],
        ] {
            let said = refused(args);
            assert!(["a pipe, socket or device", "tokenizer"].iter().any(|part| said.contains(part)), "{args:?}: {said}");
        }
    }
    let said = refused(&["convert", tiny, "--recipe", pipe_path, "--out", "/tmp/none"]);
    assert_says(&said, &["a pipe, socket or device"]);

    let secret = at("secret");
    std::fs::write(&secret, "secret").unwrap();
    let tokenizer = at("package/tokenizer.json");
    std::fs::remove_file(&tokenizer).unwrap();
    std::os::unix::fs::symlink(&secret, &tokenizer).unwrap();
    assert_says(&refused(&["verify", package]), &["leads out of the package's folder"]);
    pipe(&at("package/tokenizer.json"));
    assert_says(&refused(&["verify", package]), &["not a regular file"]);
    pipe(&at("package/haikuq.json"));
    for args in [&["verify", package][..], &["inspect", package], &["serve", package, "--no-open"]] {
        refused(args);
    }
}
