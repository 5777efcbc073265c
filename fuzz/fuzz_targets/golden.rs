//! Golden files, and files of token ids alone.

#![cfg_attr(fuzzing, no_main)]

use haikuq::golden::file::{Generation, Golden, read_input_ids};
use haikuq::golden::record::Outputs;
use haikuq_format::manifest::FileEntry;
use haikuq_fuzz::fixtures::{hostile, write};
use haikuq_fuzz::fuzz_target;
use haikuq_fuzz::mutate::Mutator;
use haikuq_fuzz::target::{Outcome, Target, folder};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

static FILE: LazyLock<PathBuf> = LazyLock::new(|| folder().join("ids.safetensors"));

fn seeds() -> Vec<Vec<u8>> {
    let outputs = Outputs {
        windows: 2,
        context: 3,
        top: 2,
        input_ids: vec![0, 1, 2, 3, 70_000, 1],
        nll: vec![1.0, 2.0, 3.0, 4.0],
        logsumexp: vec![2.5; 6],
        top_ids: [1, 2].repeat(6),
        top_logits: [2.0, 1.0].repeat(6),
    };
    let generation = Generation { prompt: "p".into(), prompt_ids: vec![0], greedy_ids: vec![1, 2], greedy_text: "ab".into() };
    let golden = Golden {
        outputs: outputs.clone(),
        generations: vec![generation],
        checkpoint: vec![FileEntry { name: "model.safetensors".into(), bytes: 7, sha256: "0".repeat(64) }],
        text_sha256: Some("f".repeat(64)),
        tool: Some("haikuq".into()),
    };
    let mut seeds = vec![golden.to_bytes().expect("a golden file"), outputs.to_bytes(true, None).expect("a golden file")];
    seeds.extend(hostile("ids"));
    seeds
}

fn run(input: &[u8]) -> Outcome {
    write(&FILE, input, 0);
    let ids = match read_input_ids(&FILE) {
        Ok(windows) => format!("{} windows of {}", windows.len(), windows.first().map_or(0, Vec::len)),
        Err(error) => error.to_string(),
    };
    let golden = Golden::from_bytes(input, Path::new("g.safetensors")).map_err(|e| format!("{ids}; {e}"))?;
    let _ = (golden.outputs.perplexity(), golden.outputs.second_half_perplexity());
    for window in 0..golden.outputs.windows {
        let _ = golden.outputs.window(window);
    }
    let again = golden.to_bytes().map_err(|e| format!("it is not written again: {e}"))?;
    assert!(Golden::from_bytes(&again, Path::new("g")).is_ok_and(|read| read == golden), "a golden file reads back");
    Ok(format!("a golden file; {ids}"))
}

fuzz_target!(Target {
    name: "golden",
    seeds,
    dictionary: &[
        "input_ids",
        "nll",
        "logsumexp",
        "top_ids",
        "top_logits",
        "__metadata__",
        "generations",
        "checkpoint",
        "text_sha256",
        "tool",
        "perplexity",
        "dtype",
        "shape",
        "data_offsets",
        "I64",
        "I32",
        "U32",
        "U16",
        "F32",
        "F16",
        "F4",
        "F6_E2M3",
        "[{\"prompt\":\"\",\"prompt_ids\":[],\"greedy_ids\":[]}]",
    ],
    mutate: |input: &mut Vec<u8>, mutator: &mut Mutator<'_>| mutator.safetensors(input),
    most_bytes: 8 << 10,
    run,
});
