//! Manifests with their shards and files.
//!
//! An input is a byte, then a manifest, and after a zero each the other files: shards in the order of the manifest (their
//! headers; zeros stand for the weights), then files. Where the first byte is odd, hashes and lengths in the manifest are made
//! those of the files first, so that what lies behind them is reached.

#![cfg_attr(fuzzing, no_main)]

use haikuq_format::layout::{PlaneKind, dequantize};
use haikuq_format::manifest::MANIFEST_FILE;
use haikuq_format::shard::read_shard;
use haikuq_format::{Manifest, Scheme};
use haikuq_fuzz::fixtures::{hostile, read, tiny_package, word_tokenizer};
use haikuq_fuzz::fuzz_target;
use haikuq_fuzz::mutate::Mutator;
use haikuq_fuzz::target::{Outcome, Target};
use haikuq_runtime::package::{MemorySource, Package, sha256_hex};
use serde_json::{Value, json};

/// Longest shard that is filled up with zeros.
const MOST_SHARD: u64 = 64 << 10;

fn join(first: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    // A zero within a part is no file's of text; in headers of shards it is left out with the rest of the length.
    let parts: Vec<Vec<u8>> = parts.iter().map(|p| p.iter().copied().filter(|b| *b != 0).collect()).collect();
    [vec![first], parts.join(&0)].concat()
}

/// The JSON of a shard's header, to which its length and padding are added again.
fn header_json(header: &[u8]) -> Vec<u8> {
    header[8..].trim_ascii_end().to_vec()
}

fn shard(json: &[u8], bytes: u64) -> Vec<u8> {
    let padded = (8 + json.len()).next_multiple_of(256);
    let mut file = (padded as u64 - 8).to_le_bytes().to_vec();
    file.extend(json);
    file.resize(padded, b' ');
    if bytes <= MOST_SHARD && bytes > file.len() as u64 {
        file.resize(bytes as usize, 0);
    }
    file
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let tokenizer = word_tokenizer().to_string().into_bytes();
    let schemes = ["f32", "f16", "q8/32", "q4/32", "q3/32:e4m4 learned", "q4/32+u4"];
    for (i, scheme) in schemes.iter().filter_map(|s| s.parse::<Scheme>().ok()).enumerate() {
        let names: &[&str] = if i % 2 == 0 { &["tokenizer.json"] } else { &["generation_config.json", "chat_template.jinja"] };
        let (manifest, headers) = tiny_package(scheme, 1 + i % 3, names);
        let mut parts = vec![serde_json::to_vec(&manifest).expect("plain data")];
        parts.extend(headers.iter().map(|h| header_json(h)));
        match i % 2 {
            0 => parts.push(tokenizer.clone()),
            _ => parts.extend([br#"{"temperature": 0.7, "eos_token_id": [0]}"#.to_vec(), b"{{ messages[0].content }}".to_vec()]),
        }
        seeds.push(join(1, &parts));
    }
    seeds.extend(hostile("manifest").into_iter().map(|m| join(0, &[m])));
    seeds.push(join(1, &[read("tests/hostile/manifest-path.json").to_vec(), b"{}".to_vec()]));
    seeds
}

fn mutate(input: &mut Vec<u8>, mutator: &mut Mutator<'_>) {
    let (first, rest) = input.split_first().map_or((1, Vec::new()), |(f, r)| (*f, r.to_vec()));
    let mut parts: Vec<Vec<u8>> = rest.split(|b| *b == 0).map(<[u8]>::to_vec).collect();
    let at = if mutator.random.one_in(2) { 0 } else { mutator.random.below(parts.len()) };
    if mutator.random.one_in(4) || !mutator.json(&mut parts[at]) {
        mutator.bytes(&mut parts[at]);
    }
    let first = if mutator.random.one_in(32) { first ^ 1 } else { first };
    *input = join(first, &parts);
    input.truncate(mutator.most_bytes);
}

/// The files of an input, as the manifest names them.
fn source(input: &[u8]) -> (MemorySource, Vec<u8>) {
    let (first, rest) = input.split_first().unwrap_or((&0, &[]));
    let mut parts = rest.split(|b| *b == 0);
    let mut manifest = parts.next().unwrap_or_default().to_vec();
    let mut source = MemorySource::new();
    let Ok(mut value) = serde_json::from_slice::<Value>(&manifest) else {
        source.insert(MANIFEST_FILE, manifest.clone());
        return (source, manifest);
    };
    for list in ["shards", "files"] {
        for entry in value.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(part) = parts.next() else { break };
            let bytes = entry.get("bytes").and_then(Value::as_u64).unwrap_or(0);
            let file = if list == "shards" { shard(part, bytes) } else { part.to_vec() };
            if first & 1 == 1
                && let Some(entry) = entry.as_object_mut()
            {
                if list == "files" {
                    entry.insert("bytes".into(), json!(file.len()));
                }
                entry.insert("sha256".into(), json!(sha256_hex(&file)));
            }
            if let Some(name) = entry.get("name").and_then(Value::as_str) {
                source.insert(name, file);
            }
        }
    }
    if first & 1 == 1 {
        manifest = value.to_string().into_bytes();
    }
    source.insert(MANIFEST_FILE, manifest.clone());
    (source, manifest)
}

async fn read_package(source: MemorySource) -> Outcome {
    let package = Package::open(source).await.map_err(|e| e.to_string())?;
    let manifest = package.manifest();
    let _ = (manifest.weight_bytes(), manifest.bits_per_weight());
    let layout = package.check_layout().await.map_err(|e| format!("opened, {e}"));
    let mut said = Vec::new();
    for index in 0..manifest.shards.len() {
        let shard = match package.read_shard(index).await {
            Ok(shard) => shard,
            Err(error) => {
                said.push(error.to_string());
                continue;
            }
        };
        // As the twin of the kernels reads them.
        for tensor in &manifest.tensors {
            for chunk in tensor.chunks.iter().filter(|c| c.planes.iter().all(|p| p.shard == index)) {
                let planes: Vec<(PlaneKind, Vec<u32>)> = (chunk.planes.iter())
                    .map(|p| {
                        let bytes = &shard[p.offset as usize..(p.offset + p.bytes) as usize];
                        (p.kind, bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect())
                    })
                    .collect();
                let planes: Vec<(PlaneKind, &[u32])> = planes.iter().map(|(kind, words)| (*kind, words.as_slice())).collect();
                drop(dequantize(tensor.scheme, chunk.rows, tensor.columns(), &planes));
            }
        }
    }
    let tokenizer = package.tokenizer().await;
    let defaults = package.generation_defaults().await;
    said.extend(tokenizer.as_ref().err().map(ToString::to_string));
    said.extend(defaults.as_ref().err().map(ToString::to_string));
    if let Ok(defaults) = &defaults {
        let _ = defaults.stop_tokens(&manifest.spec, tokenizer.as_ref().ok());
    }
    layout.map(|()| format!("a package, {}", said.join("; ")))
}

fn run(input: &[u8]) -> Outcome {
    let (source, manifest) = source(input);
    // What is written again reads back.
    if let Ok(manifest) = Manifest::from_json(&manifest) {
        assert!(Manifest::from_json(&manifest.to_json()).is_ok_and(|again| again == manifest), "a manifest reads back");
    }
    let _ = input.get(1..).map(read_shard);
    pollster::block_on(read_package(source))
}

fuzz_target!(Target {
    name: "package",
    seeds,
    dictionary: &[
        "format",
        "haikuq",
        "version",
        "spec",
        "tensors",
        "shards",
        "files",
        "provenance",
        "name",
        "class",
        "shape",
        "scheme",
        "chunks",
        "planes",
        "kind",
        "shard",
        "offset",
        "bytes",
        "sha256",
        "first_row",
        "rows",
        "f32",
        "f16",
        "grouped",
        "values",
        "codes",
        "scales",
        "offsets",
        "codebook",
        "vector",
        "embedding",
        "attention",
        "mlp",
        "head",
        "tokenizer.json",
        "weights-00001-of-00001.safetensors",
        "haikuq.json",
        "con.json",
        "U32",
        "dtype",
        "data_offsets",
        "__metadata__",
        "tied_head",
        "ropes",
        "inv_freq",
        "long",
        "beyond",
        "learned_positions",
        "window",
        "softcap",
        "eos_token_ids",
    ],
    mutate,
    most_bytes: 24 << 10,
    run,
});
