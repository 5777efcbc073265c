//! Headers and indexes of a safetensors checkpoint.
//!
//! The first byte of an input says what the rest is: 0 the file, 1 the file with as many zeros after it as its header speaks
//! of, 2 the index of the checkpoint's shards.

#![cfg_attr(fuzzing, no_main)]

use haikuq::architecture::Decoder;
use haikuq::checkpoint::Checkpoint;
use haikuq_fuzz::fixtures::{hostile, one_layer, one_layer_config, safetensors, spoken_length, write};
use haikuq_fuzz::fuzz_target;
use haikuq_fuzz::mutate::Mutator;
use haikuq_fuzz::target::{Outcome, Target, folder};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::LazyLock;

const SHARD: &str = "model-00001-of-00002.safetensors";

/// Two folders: one file, and an index with a shard.
static FOLDERS: LazyLock<(PathBuf, PathBuf)> = LazyLock::new(|| {
    let (single, indexed) = (folder().join("single"), folder().join("indexed"));
    for folder in [&single, &indexed] {
        std::fs::create_dir_all(folder).expect("a folder of the run");
        write(&folder.join("config.json"), one_layer_config().to_string().as_bytes(), 0);
    }
    let (header, end) = one_layer();
    let weights = safetensors(&header, &[]);
    write(&indexed.join(SHARD), &weights, (weights.len() + end) as u64);
    (single, indexed)
});

fn seeds() -> Vec<Vec<u8>> {
    let (header, _) = one_layer();
    let mut seeds = vec![[vec![1], safetensors(&header, &[])].concat()];
    let entry = |dtype: &str, shape: Value, at: [u64; 2]| json!({"dtype": dtype, "shape": shape, "data_offsets": at});
    let small = json!({"__metadata__": {"format": "pt"}, "model.norm.weight": entry("BF16", json!([4]), [0, 8]),
        "a": entry("F32", json!([2, 3]), [8, 32]), "b": entry("F4", json!([3]), [32, 34])});
    seeds.push([vec![1], safetensors(&small, &[])].concat());
    seeds.push([vec![0], safetensors(&small, &[0; 34])].concat());
    seeds.extend(["ids", "shard"].into_iter().flat_map(hostile).map(|file| [vec![0], file].concat()));
    let map = json!({"metadata": {"total_size": 1}, "weight_map": {"model.norm.weight": SHARD, "lm_head.weight": SHARD}});
    seeds.push([&[2], map.to_string().as_bytes()].concat());
    seeds
}

fn mutate(input: &mut Vec<u8>, mutator: &mut Mutator<'_>) {
    let kind = input.first().copied().unwrap_or(0);
    let mut rest = input.get(1..).unwrap_or_default().to_vec();
    match kind {
        2 if !mutator.random.one_in(3) && mutator.json(&mut rest) => {}
        2 => mutator.bytes(&mut rest),
        _ => mutator.safetensors(&mut rest),
    }
    let kind = if mutator.random.one_in(64) { mutator.random.below(3) as u8 } else { kind };
    *input = [vec![kind], rest].concat();
}

fn run(input: &[u8]) -> Outcome {
    let (kind, file) = input.split_first().unwrap_or((&0, &[]));
    let (single, indexed) = &*FOLDERS;
    let folder = match kind {
        2 => {
            write(&indexed.join("model.safetensors.index.json"), file, 0);
            indexed
        }
        _ => {
            let length = if *kind == 1 { spoken_length(file) } else { 0 };
            write(&single.join("model.safetensors"), file, length);
            single
        }
    };
    let checkpoint = Checkpoint::open(folder).map_err(|e| e.to_string())?;
    let names: Vec<String> = checkpoint.tensor_names().map(str::to_owned).collect();
    for name in names.iter().take(4) {
        if let Ok(tensor) = checkpoint.tensor(name) {
            let _ = tensor.shape();
        }
    }
    let decoder = Decoder::from_checkpoint(checkpoint).map_err(|e| format!("opened, {e}"))?;
    decoder.read("layers.0.mixer_norm.gain").map_err(|e| format!("a decoder, {e}"))?;
    Ok("a decoder".into())
}

fuzz_target!(Target {
    name: "safetensors",
    seeds,
    dictionary: &[
        "dtype",
        "shape",
        "data_offsets",
        "__metadata__",
        "F32",
        "BF16",
        "F16",
        "F64",
        "I64",
        "U8",
        "BOOL",
        "F8_E4M3",
        "F6_E2M3",
        "F4",
        "C64",
        "weight_map",
        "metadata",
        SHARD,
        "../x.safetensors",
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "[0,0]",
        "\"shape\":[]",
        "{}",
        "[]",
        "null",
    ],
    mutate,
    most_bytes: 16 << 10,
    run,
});
