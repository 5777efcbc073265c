//! A GGUF file gives the same package as the folder it was made of: `tests/fixtures/gguf/make.py` says how they were made.

mod support;

use haikuq::architecture::Decoder;
use haikuq::checkpoint::Checkpoint;
use haikuq::model::LanguageModel;
use haikuq::reference::Reference;
use haikuq_runtime::text::{Special, Tokenizer, TokenizerFiles};
use half::f16;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use support::{Tensor, contents, convert, haikuq, read_json, succeed, write_json};

fn gguf(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/fixtures/gguf").join(name)
}

fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/fixtures/architectures").join(name)
}

fn open(path: &Path) -> Decoder {
    Decoder::from_checkpoint(Checkpoint::open(path).unwrap()).unwrap()
}

/// Writes what a GGUF of the first `layers` layers with matrices in f16 was made of.
fn first_layers_in_f16(fixture: &Path, layers: usize, folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let mut config = read_json(&fixture.join("config.json"));
    for key in ["num_hidden_layers", "n_layer"] {
        if config.get(key).is_some() {
            config[key] = json!(layers);
        }
    }
    if let Some(types) = config.get_mut("layer_types").and_then(Value::as_array_mut) {
        types.truncate(layers);
    }
    write_json(&folder.join("config.json"), &config);
    let bytes = std::fs::read(fixture.join("model.safetensors")).unwrap();
    let later = |name: &str| name.split('.').find_map(|part| part.parse::<usize>().ok()).is_some_and(|n| n >= layers);
    let tensors: Vec<Tensor> = SafeTensors::deserialize(&bytes)
        .unwrap()
        .tensors()
        .into_iter()
        .filter(|(name, _)| !later(name))
        .map(|(name, view)| {
            let shape = view.shape().to_vec();
            let halve = |b: &[u8; 4]| f16::from_f32(f32::from_le_bytes(*b)).to_le_bytes();
            let (dtype, bytes) = match shape.len() {
                1 => ("F32", view.data().to_vec()),
                _ => ("F16", view.data().as_chunks().0.iter().flat_map(halve).collect()),
            };
            Tensor { name, dtype, shape, bytes }
        })
        .collect();
    std::fs::write(folder.join("model.safetensors"), support::safetensors(&tensors)).unwrap();
}

/// Panics unless file and folder have the same spec and give the same shards.
#[track_caller]
fn assert_same_package(file: &Path, folder: &Path) {
    let (found, expected) = (open(file), open(folder));
    assert_eq!(found.spec, expected.spec, "{}", file.display());
    let out = tempfile::tempdir().unwrap();
    let shards = |source: &Path, name: &str| {
        let package = out.path().join(name);
        succeed(convert(source, &package, &["--recipe", "q4-fast", "--quiet"]));
        let shards: Vec<_> = contents(&package).into_iter().filter(|(name, _)| name.extension().unwrap() != "json").collect();
        assert!(!shards.is_empty());
        shards
    };
    assert!(shards(file, "file") == shards(folder, "folder"), "{}", file.display());
}

/// Families whose mixers have decays: files hold `-exp(x)` of what folders hold, rounded.
const DECAYS: [&str; 5] = ["qwen3_5", "qwen3_next", "granite4_hybrid", "granite4_experts", "nemotron_h"];

#[test]
fn a_file_in_f32_gives_the_package_of_its_folder() {
    assert_same_package(&gguf("llama-f32.gguf"), &fixture("llama"));
    let folder = gguf("made");
    let mut names: Vec<_> = folder.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    for name in &names {
        if matches!(name.as_str(), "mistral" | "llama3_odd" | "hunyuan" | "falcon_h1") || DECAYS.contains(&name.as_str()) {
            continue;
        }
        assert_same_package(&gguf(&format!("{name}-f32.gguf")), &folder.join(name));
    }
}

#[test]
fn a_file_in_f16_gives_the_package_of_its_folder() {
    for name in ["phi3", "gpt_neox", "gpt2"] {
        let folder = tempfile::tempdir().unwrap();
        first_layers_in_f16(&fixture(name), 1, folder.path());
        assert_same_package(&gguf(&format!("{name}-f16.gguf")), folder.path());
    }
}

#[test]
fn mistral_becomes_a_llama_whose_package_has_the_same_weights() {
    let (found, expected) = (open(&gguf("mistral-f32.gguf")), open(&gguf("made/mistral")));
    assert_eq!(found.spec, expected.spec);
    assert_eq!(found.checkpoint().config()["architectures"], json!(["LlamaForCausalLM"]));
    for tensor in found.spec.tensors() {
        assert_eq!(found.read(&tensor.name).unwrap(), expected.read(&tensor.name).unwrap(), "{}", tensor.name);
    }
}

#[test]
fn rope_factors_that_no_formula_gives_are_kept_as_they_are() {
    let (found, expected) = (open(&gguf("llama3_odd-f32.gguf")), open(&gguf("made/llama3_odd")));
    let (found, expected) = (&found.spec.ropes[0], &expected.spec.ropes[0]);
    assert_eq!((found.factor, &found.long), (1.0, &None));
    for (a, b) in found.inv_freq.iter().zip(&expected.inv_freq) {
        assert!((a - b).abs() <= 1e-6 * b, "{a} {b}");
    }
}

/// Logits of some tokens.
fn logits(decoder: &Decoder) -> Vec<Vec<f32>> {
    let mut model = Reference::load(&decoder.spec, |name| decoder.read(name)).unwrap();
    let ids: Vec<u32> = (0..40).map(|i| (i * i + 3 * i + 5) % decoder.spec.vocab_size as u32).collect();
    let mut rows = Vec::new();
    model.score_window(&ids, &mut |_, row| rows.push(row.to_vec())).unwrap();
    rows
}

/// Panics unless both give the same logits, but for rounding, and choose the same tokens.
#[track_caller]
fn assert_same_logits(file: &str, folder: &str) {
    let (found, expected) = (logits(&open(&gguf(file))), logits(&open(&gguf(folder))));
    let all = expected.concat();
    let deviation = (all.iter().map(|x| x * x).sum::<f32>() / all.len() as f32).sqrt();
    let best = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(id, _)| id);
    assert_eq!(found.len(), expected.len());
    for (position, (a, b)) in found.iter().zip(&expected).enumerate() {
        let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 1e-5 * deviation, "{file}: {worst} of {deviation} at {position}");
        assert_eq!(best(a), best(b), "{file}: {position}");
    }
}

#[test]
fn decays_come_back_from_their_exponentials_and_all_other_weights_exactly() {
    for name in DECAYS {
        let file = format!("{name}-f32.gguf");
        let (found, expected) = (open(&gguf(&file)), open(&gguf(&format!("made/{name}"))));
        assert_eq!(found.spec, expected.spec, "{name}");
        let mut decays = 0;
        for tensor in found.spec.tensors() {
            let (a, b) = (found.read(&tensor.name).unwrap(), expected.read(&tensor.name).unwrap());
            if !tensor.name.ends_with(".log_decay") {
                assert!(a == b, "{name}: {}", tensor.name);
                continue;
            }
            decays += 1;
            let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // Half of the last bit of an exponential is 2^-24 of it, and so as much of its logarithm.
            assert!(worst <= 3e-7, "{name}: {} is {worst} off", tensor.name);
        }
        assert!(decays > 0, "{name}");
        assert_same_logits(&file, &format!("made/{name}"));
    }
}

#[test]
fn files_of_the_first_converter_for_qwen_3_next_are_the_same() {
    let (found, expected) = (open(&gguf("qwen3_next_old-f32.gguf")), open(&gguf("qwen3_next-f32.gguf")));
    assert_eq!(found.spec, expected.spec);
    for tensor in found.spec.tensors() {
        assert!(found.read(&tensor.name).unwrap() == expected.read(&tensor.name).unwrap(), "{}", tensor.name);
    }
}

#[test]
fn multipliers_in_the_weights_of_falcon_h1_give_the_same_logits() {
    assert_same_logits("falcon_h1-f32.gguf", "made/falcon_h1");
}

#[test]
fn what_no_key_says_is_refused() {
    let patched = |file: &str, from: &[u8], to: &[u8]| {
        let mut bytes = std::fs::read(gguf(file)).unwrap();
        let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file);
        std::fs::write(&path, bytes).unwrap();
        Checkpoint::open(&path).unwrap_err().to_string()
    };
    let said = patched("falcon_h1-f32.gguf", b"output.weight", b"output.weigh_");
    assert!(said.contains("output.weight") && said.contains("the scale of the logits of a tied head is in no key"), "{said}");
    // Heads of values that do not belong to heads of keys alike: 5 of them, where there were 6.
    let key = b"qwen35.ssm.time_step_rank\x04\0\0\0\x06";
    let said = patched("qwen3_5-f32.gguf", key, b"qwen35.ssm.time_step_rank\x04\0\0\0\x05");
    assert!(said.contains("qwen35.ssm.time_step_rank") && said.contains("is 5, no multiple of 2"), "{said}");
    let key = b"qwen3next.ssm.time_step_rank\x04\0\0\0\x06";
    let said = patched("qwen3_next-f32.gguf", key, b"qwen3next.ssm.time_step_rank\x04\0\0\0\x05");
    assert!(said.contains("qwen3next.ssm.time_step_rank") && said.contains("is 5, no multiple of 2"), "{said}");
    // Another score of experts than the sigmoid.
    let key = b"lfm2moe.expert_gating_func\x04\0\0\0\x02";
    let said = patched("lfm2_moe-f32.gguf", key, b"lfm2moe.expert_gating_func\x04\0\0\0\x01");
    assert!(said.contains("lfm2moe.expert_gating_func") && said.contains("is not 2"), "{said}");
}

#[test]
fn a_stretched_rope_base_is_the_same_table() {
    let (found, mut expected) = (open(&gguf("hunyuan-f32.gguf")), open(&gguf("made/hunyuan")));
    for (a, b) in found.spec.ropes[0].inv_freq.iter().zip(&expected.spec.ropes[0].inv_freq) {
        assert!((a - b).abs() <= 1e-6 * b, "{a} {b}");
    }
    expected.spec.ropes.clone_from(&found.spec.ropes);
    assert_eq!(found.spec, expected.spec);
    for tensor in found.spec.tensors() {
        assert_eq!(found.read(&tensor.name).unwrap(), expected.read(&tensor.name).unwrap(), "{}", tensor.name);
    }
    assert_same_logits("hunyuan-f32.gguf", "made/hunyuan");
}

#[test]
fn blocks_of_mxfp4_give_the_package_of_their_folder() {
    assert_same_package(&gguf("gpt_oss-mxfp4.gguf"), &fixture("gpt_oss_mxfp4"));
    let checkpoint = Checkpoint::open(gguf("gpt_oss-mxfp4.gguf")).unwrap();
    assert!(!checkpoint.warnings().iter().any(|w| w.contains("quality")), "{:?}", checkpoint.warnings());
}

#[test]
fn the_reference_of_a_file_agrees_with_transformers() {
    let decoder = open(&gguf("llama-f32.gguf"));
    let mut model = Reference::load(&decoder.spec, |name| decoder.read(name)).unwrap();
    let bytes = std::fs::read(fixture("llama/reference.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let ids = file.tensor("input_ids").unwrap();
    let width = ids.shape()[1];
    let ids: Vec<u32> = ids.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect();
    let mut found = Vec::new();
    for window in ids.chunks(width) {
        model.score_window(window, &mut |_, row| found.extend_from_slice(row)).unwrap();
    }
    let expected = file.tensor("logits").unwrap();
    let expected: Vec<f32> = expected.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(found.len(), expected.len());
    let deviation = (expected.iter().map(|x| x * x).sum::<f32>() / expected.len() as f32).sqrt();
    let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 1e-3 * deviation, "{worst} of {deviation}");
}

/// Relative error of every tensor's numbers, root mean square.
#[track_caller]
fn assert_close(file: &Path, folder: &Path, limit: f64) {
    let (found, expected) = (open(file), open(folder));
    assert_eq!(found.spec, expected.spec, "{}", file.display());
    for tensor in found.spec.tensors() {
        let (a, b) = (found.read(&tensor.name).unwrap(), expected.read(&tensor.name).unwrap());
        let (error, size) =
            a.iter().zip(&b).fold((0.0, 0.0), |(e, s), (a, b)| (e + f64::from(a - b).powi(2), s + f64::from(*b).powi(2)));
        assert!((error / size).sqrt() <= limit, "{}: {} is {} off", file.display(), tensor.name, (error / size).sqrt());
    }
}

#[test]
fn quantized_weights_are_close_and_every_layer_keeps_its_window_and_rope() {
    assert_close(&gguf("gemma3-q4_0.gguf"), &fixture("gemma3"), 0.12);
    assert_close(&gguf("smollm3-q4_0.gguf"), &fixture("smollm3"), 0.12);
    let folder = tempfile::tempdir().unwrap();
    first_layers_in_f16(&fixture("llama"), 1, folder.path());
    assert_close(&gguf("llama-q8_0.gguf"), folder.path(), 0.01);
}

#[test]
fn every_block_format_is_dequantized_as_gguf_py_does() {
    let checkpoint = Checkpoint::open(gguf("blocks.gguf")).unwrap();
    let bytes = std::fs::read(gguf("blocks.safetensors")).unwrap();
    let own = |name: &str| {
        let (layer, part) = name.strip_prefix("blk.").unwrap().split_once('.').unwrap();
        let part = match part {
            "attn_q" => "self_attn.q_proj",
            "attn_k" => "self_attn.k_proj",
            "attn_v" => "self_attn.v_proj",
            "ffn_gate" => "mlp.gate_proj",
            _ => "mlp.up_proj",
        };
        format!("model.layers.{layer}.{part}.weight")
    };
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), 12);
    for (name, view) in file.tensors() {
        let own = match name.as_str() {
            "token_embd" => "model.embed_tokens.weight".into(),
            "output" => "lm_head.weight".into(),
            name => own(name),
        };
        let expected: Vec<f32> = view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let tensor = checkpoint.tensor(&own).unwrap();
        let mut found = vec![0.0; expected.len()];
        tensor.read_rows(0..8, &mut found).unwrap();
        let size = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 1e-6 * size, "{name}: {worst} of {size}");
    }
}

#[test]
fn weights_that_were_quantized_before_are_warned_of() {
    let checkpoint = Checkpoint::open(gguf("gemma3-q4_0.gguf")).unwrap();
    let warning = "gemma3-q4_0.gguf holds 43 tensors in Q4_0: their quality is already lost; convert the original if you can";
    assert_eq!(checkpoint.warnings()[0], warning);
    let mut inspect = haikuq();
    inspect.arg("inspect").arg(gguf("gemma3-q4_0.gguf")).arg("--json");
    let output = succeed(inspect);
    assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("haikuq: warning: {warning}\n")));
    serde_json::from_slice::<Value>(&output.stdout).unwrap();
    let q8_0 = Checkpoint::open(gguf("llama-q8_0.gguf")).unwrap();
    assert!(!q8_0.warnings().iter().any(|w| w.contains("quality")), "{:?}", q8_0.warnings());
}

#[test]
fn a_folder_with_one_file_is_that_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    std::fs::copy(gguf("llama-q8_0.gguf"), &file).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.path(), file);
    assert_eq!(checkpoint.source_files(), std::slice::from_ref(&file));
    std::fs::copy(&file, folder.path().join("other.gguf")).unwrap();
    let said = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(said.ends_with("has several models; name one of them: model.gguf, other.gguf"), "{said}");
}

fn tokenizer(checkpoint: &Checkpoint) -> Tokenizer {
    let mut files = TokenizerFiles::new(checkpoint.companion("tokenizer.json").unwrap());
    files.config = checkpoint.companion("tokenizer_config.json");
    Tokenizer::from_files(files).unwrap()
}

#[test]
fn a_rebuilt_tokenizer_gives_the_original_ids() {
    let answers = read_json(&gguf("tokenizers.json"));
    let texts = answers["texts"].as_array().unwrap();
    for (name, ids) in answers["ids"].as_object().unwrap() {
        let checkpoint = Checkpoint::open(gguf(&format!("tokenizer-{name}.gguf"))).unwrap();
        let tokenizer = tokenizer(&checkpoint);
        for (text, ids) in texts.iter().zip(ids.as_array().unwrap()) {
            let Some(ids) = ids.as_array() else { continue };
            let expected: Vec<u32> = ids.iter().map(|id| id.as_u64().unwrap() as u32).collect();
            let text = text.as_str().unwrap();
            assert_eq!(tokenizer.encode(text, Special::Recognize).unwrap(), expected, "{name}: {text:?}");
        }
    }
}

#[test]
fn a_rebuilt_tokenizer_decodes_what_it_encoded() {
    let answers = read_json(&gguf("tokenizers.json"));
    for name in answers["ids"].as_object().unwrap().keys() {
        let tokenizer = tokenizer(&Checkpoint::open(gguf(&format!("tokenizer-{name}.gguf"))).unwrap());
        for text in ["Hello, world!", "  two  spaces ", "日本語 😀", "def f(x):\n    return x"] {
            let ids = tokenizer.encode(text, Special::Plain).unwrap();
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), text, "{name}");
        }
    }
}

#[test]
fn control_tokens_templates_and_ends_come_from_the_metadata() {
    for name in ["smollm", "spm"] {
        let checkpoint = Checkpoint::open(gguf(&format!("tokenizer-{name}.gguf"))).unwrap();
        let tokenizer = tokenizer(&checkpoint);
        let end = tokenizer.token_id("<|im_end|>").unwrap();
        assert!(tokenizer.is_control(end) && !tokenizer.is_special(tokenizer.token_id("<tool>").unwrap()));
        assert!(!tokenizer.encode_bare("x<|im_end|>", Special::Plain).unwrap().contains(&end));
        let config: Value = serde_json::from_slice(checkpoint.companion("tokenizer_config.json").unwrap()).unwrap();
        assert!(config["chat_template"].as_str().unwrap().starts_with("{% for m in messages %}<|im_start|>"));
        assert_eq!(config["add_bos_token"], json!(name == "spm"));
        // The template ends turns with another token than texts.
        let ends = checkpoint.generation_config().unwrap()["eos_token_id"].as_array().unwrap();
        assert_eq!(ends.last(), Some(&json!(end)), "{name}");
    }
}
