//! `config.json` of every family beside the weights of one, and `generation_config.json`, which an input is where its first byte
//! is 1.

#![cfg_attr(fuzzing, no_main)]

use haikuq::architecture::Decoder;
use haikuq::checkpoint::Checkpoint;
use haikuq::tokenizer::Findings;
use haikuq_fuzz::fixtures::{files, hostile, one_layer, one_layer_config, path, read, safetensors, write};
use haikuq_fuzz::fuzz_target;
use haikuq_fuzz::mutate::Mutator;
use haikuq_fuzz::target::{Outcome, Target, folder};
use std::path::PathBuf;
use std::sync::LazyLock;

const FAMILIES: &str = "tests/fixtures/architectures";

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = folder().join("model");
    std::fs::create_dir_all(&folder).expect("a folder of the run");
    let (header, end) = one_layer();
    let weights = safetensors(&header, &[]);
    write(&folder.join("model.safetensors"), &weights, (weights.len() + end) as u64);
    write(&folder.join("config.json"), one_layer_config().to_string().as_bytes(), 0);
    folder
});

fn seeds() -> Vec<Vec<u8>> {
    let mut folders: Vec<_> = std::fs::read_dir(path(FAMILIES)).expect("fixtures").flatten().map(|e| e.file_name()).collect();
    folders.sort();
    let names = folders.iter().map(|f| format!("{FAMILIES}/{}/config.json", f.to_string_lossy()));
    let configs = names.filter(|name| path(name).is_file()).map(|name| read(&name)).chain(hostile("config"));
    let configs = configs.chain([one_layer_config().to_string().into_bytes()]);
    let mut seeds: Vec<Vec<u8>> = configs.map(|config| [vec![0], config].concat()).collect();
    seeds.extend(files(&format!("{FAMILIES}/llama"), "generation_config.json").iter().map(|f| [vec![1], read(f)].concat()));
    seeds.push(
        b"\x01{\"eos_token_id\": [1, 2], \"temperature\": 0.7, \"top_p\": 0.9, \"top_k\": 40, \"do_sample\": true}".to_vec(),
    );
    // In UTF-16, with a mark.
    let config = String::from_utf8(read(&format!("{FAMILIES}/llama/config.json"))).expect("a fixture");
    seeds.push([&[0, 0xff, 0xfe][..], &config.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>()].concat());
    seeds
}

fn mutate(input: &mut Vec<u8>, mutator: &mut Mutator<'_>) {
    let kind = input.first().copied().unwrap_or(0);
    let mut rest = input.get(1..).unwrap_or_default().to_vec();
    if mutator.random.one_in(4) || !mutator.json(&mut rest) {
        mutator.bytes(&mut rest);
    }
    *input = [vec![kind], rest].concat();
    input.truncate(mutator.most_bytes);
}

fn run(input: &[u8]) -> Outcome {
    let (kind, file) = input.split_first().unwrap_or((&0, &[]));
    let (config, generation) = (FOLDER.join("config.json"), FOLDER.join("generation_config.json"));
    static LLAMA: LazyLock<Vec<u8>> = LazyLock::new(|| one_layer_config().to_string().into_bytes());
    match kind {
        1 => {
            write(&config, &LLAMA, 0);
            write(&generation, file, 0);
        }
        _ => {
            write(&config, file, 0);
            let _ = std::fs::remove_file(&generation);
        }
    }
    let checkpoint = Checkpoint::open(&*FOLDER).map_err(|e| e.to_string())?;
    let decoder = Decoder::from_checkpoint(checkpoint).map_err(|e| format!("opened, {e}"))?;
    let findings = Findings::of(decoder.checkpoint(), &decoder.spec).map_err(|e| format!("a decoder, {e}"))?;
    Ok(format!("a decoder, {} notes, {}", decoder.notes().len(), findings.text()))
}

fuzz_target!(Target {
    name: "config",
    seeds,
    dictionary: &[
        "architectures",
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "PhiForCausalLM",
        "Phi3ForCausalLM",
        "SmolLM3ForCausalLM",
        "Olmo3ForCausalLM",
        "GraniteForCausalLM",
        "StableLmForCausalLM",
        "GPTNeoXForCausalLM",
        "GPT2LMHeadModel",
        "model_type",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "rope_type",
        "factor",
        "llama3",
        "yarn",
        "longrope",
        "linear",
        "dynamic",
        "su",
        "short_factor",
        "long_factor",
        "original_max_position_embeddings",
        "low_freq_factor",
        "high_freq_factor",
        "beta_fast",
        "beta_slow",
        "attention_factor",
        "mscale",
        "partial_rotary_factor",
        "sliding_window",
        "layer_types",
        "sliding_window_pattern",
        "no_rope_layers",
        "no_rope_layer_interval",
        "tie_word_embeddings",
        "eos_token_id",
        "bos_token_id",
        "hidden_act",
        "hidden_activation",
        "quantization_config",
        "auto_map",
        "torch_dtype",
        "attention_bias",
        "mlp_bias",
        "final_logit_softcapping",
        "attn_logit_softcapping",
        "query_pre_attn_scalar",
        "n_embd",
        "n_layer",
        "n_head",
        "n_inner",
        "rotary_pct",
        "use_parallel_residual",
        "text_config",
        "NaN",
        "Infinity",
    ],
    mutate,
    most_bytes: 8 << 10,
    run,
});
