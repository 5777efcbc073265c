//! Inputs to begin with, of the repository's fixtures, and files for readers that want paths.

use crate::mutate::split_safetensors;
use haikuq_format::layout::{PlaneKind, plane_sizes, row_chunks};
use haikuq_format::manifest::{Chunk, FileEntry, Manifest, Plane, TensorEntry, entry_name, shard_name};
use haikuq_format::shard::layout_shard;
use haikuq_format::spec::{Activation, Attention, LayerSpec, Mlp, Norm, NormKind, RopeTable, TensorClass};
use haikuq_format::{DecoderSpec, Scheme};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A path of the repository.
pub fn path(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(of)
}

/// A file of the repository.
///
/// # Panics
/// If it is not there: seeds come with the source.
pub fn read(of: &str) -> Vec<u8> {
    std::fs::read(path(of)).unwrap_or_else(|e| panic!("{of}: {e}"))
}

/// The same as JSON.
///
/// # Panics
/// If it is none.
pub fn read_json(of: &str) -> Value {
    serde_json::from_slice(&read(of)).unwrap_or_else(|e| panic!("{of}: {e}"))
}

/// All files of a folder of the repository whose names end so, sorted.
///
/// # Panics
/// If there is no such folder.
pub fn files(folder: &str, ending: &str) -> Vec<String> {
    let entries = std::fs::read_dir(path(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
    let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|n| n.ends_with(ending)).map(|n| format!("{folder}/{n}")).collect();
    names.sort();
    names
}

/// Hostile files of the repository whose names begin so.
pub fn hostile(prefix: &str) -> Vec<Vec<u8>> {
    let all = files("tests/hostile", "");
    all.iter().filter(|n| n.starts_with(&format!("tests/hostile/{prefix}"))).map(|n| read(n)).collect()
}

/// Writes a file, of `length` bytes if it is shorter, with zeros that take no memory until they are read. Its time lies ahead,
/// so that readers who tell changed files by their times need not wait for the clock.
///
/// # Panics
/// If it cannot be written.
pub fn write(path: &Path, bytes: &[u8], length: u64) {
    let mut file = File::create(path).expect("a file of the run");
    file.write_all(bytes).expect("a file of the run");
    if length > bytes.len() as u64 {
        file.set_len(length).expect("a file of the run");
    }
    let ahead = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    file.set_modified(ahead).expect("the time of a file of the run");
}

/// A safetensors file with the JSON of this header, and data.
pub fn safetensors(header: &Value, data: &[u8]) -> Vec<u8> {
    let json = header.to_string();
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), data].concat()
}

/// How long the file would be that a safetensors header speaks of; 0 where that is beyond all that is worth a try.
pub fn spoken_length(input: &[u8]) -> u64 {
    const MOST: u64 = 2 << 20;
    let Some((header, _)) = split_safetensors(input) else { return 0 };
    let Ok(Value::Object(entries)) = serde_json::from_slice::<Value>(header) else { return 0 };
    let ends = entries.values().filter_map(|e| e.pointer("/data_offsets/1")?.as_u64());
    let end = ends.max().unwrap_or(0).min(MOST);
    8 + header.len() as u64 + end
}

/// The smallest decoder that has a bit of everything.
pub fn tiny_spec() -> DecoderSpec {
    let mut attention = Attention::new(2, 1, 4);
    attention.rope = Some(0);
    let layer = LayerSpec::new(attention, Mlp::new(12, Activation::Silu));
    let mut spec = DecoderSpec::new(20, 8, 32, Norm { kind: NormKind::Rms, epsilon: 1e-5 }, vec![layer]);
    spec.ropes.push(RopeTable::new(vec![1.0, 0.1]));
    spec.tied_head = true;
    spec.eos_token_ids.push(0);
    spec
}

/// A manifest of [`tiny_spec`] with matrices in `scheme`, `shards` files of weights and `files` beside them, whose hashes and
/// sizes are still to be filled in; and the headers of the shards.
///
/// # Panics
/// If the scheme cannot store it.
pub fn tiny_package(scheme: Scheme, shards: usize, files: &[&str]) -> (Manifest, Vec<Vec<u8>>) {
    let spec = tiny_spec();
    let specs = spec.tensors();
    let per = specs.len().div_ceil(shards);
    let (mut tensors, mut entries, mut headers) = (Vec::new(), Vec::new(), Vec::new());
    for (shard, group) in specs.chunks(per).enumerate() {
        let mut planned: Vec<(usize, usize, std::ops::Range<usize>, PlaneKind, u64)> = Vec::new();
        let scheme_of = |class: TensorClass| if class.is_quantized() { scheme } else { Scheme::F32 };
        for (i, tensor) in group.iter().enumerate() {
            let (rows, columns) = if let [rows, columns] = tensor.shape[..] { (rows, columns) } else { (1, tensor.shape[0]) };
            for (chunk, range) in row_chunks(scheme_of(tensor.class), rows, columns).into_iter().enumerate() {
                for size in plane_sizes(scheme_of(tensor.class), range.len(), columns) {
                    planned.push((i, chunk, range.clone(), size.kind, size.words as u64 * 4));
                }
            }
        }
        let names: Vec<(String, u64)> = planned.iter().map(|p| (entry_name(&group[p.0].name, p.1, p.3), p.4)).collect();
        let layout = layout_shard(&names).expect("a shard of the tiny package");
        for (i, tensor) in group.iter().enumerate() {
            let mut chunks: Vec<Chunk> = Vec::new();
            for ((_, chunk, range, kind, bytes), entry) in planned.iter().zip(&layout.entries).filter(|(p, _)| p.0 == i) {
                if chunks.len() == *chunk {
                    chunks.push(Chunk { first_row: range.start, rows: range.len(), planes: Vec::new() });
                }
                chunks[*chunk].planes.push(Plane { kind: *kind, shard, offset: entry.offset, bytes: *bytes });
            }
            let mut entry = TensorEntry::new(tensor.clone(), scheme_of(tensor.class));
            entry.chunks = chunks;
            tensors.push(entry);
        }
        let name = shard_name(shard, specs.len().div_ceil(per));
        entries.push(FileEntry { name, bytes: layout.file_bytes, sha256: "0".repeat(64) });
        headers.push(layout.header);
    }
    let mut manifest = Manifest::new(spec);
    (manifest.tensors, manifest.shards) = (tensors, entries);
    manifest.files = files.iter().map(|name| FileEntry { name: (*name).into(), bytes: 0, sha256: "0".repeat(64) }).collect();
    (manifest.provenance.tool, manifest.provenance.recipe) = ("fuzz".into(), "fuzz".into());
    (manifest, headers)
}

/// The weights of the fixture `llama` as a safetensors header, with its first layer alone, and where its data would end.
///
/// # Panics
/// If the fixture is another.
pub fn one_layer() -> (Value, usize) {
    let file = read("tests/fixtures/architectures/llama/model.safetensors");
    let (header, _) = split_safetensors(&file).expect("a fixture");
    let mut header: Value = serde_json::from_slice(header).expect("a fixture");
    let entries = header.as_object_mut().expect("a fixture");
    let later: Vec<String> = entries.keys().filter(|k| k.starts_with("model.layers.1.")).cloned().collect();
    later.iter().for_each(|name| drop(entries.remove(name)));
    let mut end = 0;
    for entry in entries.values_mut() {
        let Some([start, old]) = entry["data_offsets"].as_array().map(|o| [0, 1].map(|i| o[i].as_u64().unwrap_or(0) as usize))
        else {
            continue;
        };
        entry["data_offsets"] = json!([end, end + old - start]);
        end += old - start;
    }
    (header, end)
}

/// The config of that fixture with one layer.
pub fn one_layer_config() -> Value {
    let mut config = read_json("tests/fixtures/architectures/llama/config.json");
    config["num_hidden_layers"] = json!(1);
    config
}

/// A tokenizer that is read fast: a few words, and two tokens that control.
pub fn word_tokenizer() -> Value {
    let added = |id: u32, content: &str, special: bool| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": special})
    };
    json!({"version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null, "decoder": null,
        "added_tokens": [added(4, "<|im_start|>", true), added(5, "<|im_end|>", true), added(6, "<tool_call>", false)],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "Hi": 1, "user": 2, "Hello": 3}, "unk_token": "<unk>"}})
}

/// A tokenizer's JSON with the first `tokens` of its vocabulary alone, and the merges that these have.
pub fn small_tokenizer(mut tokenizer: Value, tokens: u64) -> Value {
    let model = &mut tokenizer["model"];
    if let Some(vocabulary) = model["vocab"].as_object_mut() {
        let gone: Vec<String> =
            vocabulary.iter().filter(|(_, id)| id.as_u64().is_none_or(|id| id >= tokens)).map(|e| e.0.clone()).collect();
        gone.iter().for_each(|token| drop(vocabulary.remove(token)));
    }
    let vocabulary = model["vocab"].clone();
    if let Some(merges) = model["merges"].as_array_mut() {
        let pair = |merge: &Value| match merge {
            Value::String(text) => text.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())),
            other => Some((other.get(0)?.as_str()?.to_owned(), other.get(1)?.as_str()?.to_owned())),
        };
        let known = |token: &str| vocabulary.get(token).is_some();
        merges.retain(|m| pair(m).is_some_and(|(a, b)| known(&a) && known(&b) && known(&format!("{a}{b}"))));
    }
    // Long expressions take milliseconds to compile.
    fn shorten(value: &mut Value) {
        match value {
            Value::Object(map) => map.iter_mut().for_each(|(key, value)| match value {
                Value::String(text) if key == "Regex" && text.len() > 24 => *text = r"\s+|[a-z]+|\d{1,3}| ?\S".into(),
                other => shorten(other),
            }),
            Value::Array(list) => list.iter_mut().for_each(shorten),
            _ => {}
        }
    }
    shorten(&mut tokenizer["pre_tokenizer"]);
    if let Some(added) = tokenizer["added_tokens"].as_array_mut() {
        added.truncate(4);
        added.iter_mut().enumerate().for_each(|(i, token)| token["id"] = json!(tokens + i as u64));
    }
    tokenizer
}
