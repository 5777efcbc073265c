//! What a package is exported to is read again as what the package has.

use haikuq::architecture::{Decoder, config_of, layout};
use haikuq::checkpoint::{Checkpoint, Companion, read_companions};
use haikuq::convert::Conversion;
use haikuq::export::{Export, ExportError, Exported, Format, GgufType, HfDtype, ONNX_RECIPE, OnnxFloats};
use haikuq::quantize::Recipe;
use haikuq::reference::Reference;
use haikuq::reference::stored::StoredWeights;
use haikuq_runtime::text::{Special, Tokenizer, TokenizerFiles};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn fixture(name: &str) -> PathBuf {
    repository("tests/fixtures/architectures").join(name)
}

/// A package of a checkpoint in a folder of its own.
fn package(checkpoint: &Path, recipe: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("package");
    Conversion::new(checkpoint, Recipe::load(recipe).unwrap()).run(&out, &|_| ()).unwrap();
    (folder, out)
}

fn hf(dtype: HfDtype) -> Format {
    Format::Hf(dtype)
}

fn export(package: &Path, checkpoint: Option<&Path>, format: Format, out: &Path) -> Result<Exported, ExportError> {
    Export::new(package, format).checkpoint(checkpoint.map(Path::to_path_buf)).run(out)
}

fn open(path: &Path) -> Decoder {
    Decoder::from_checkpoint(Checkpoint::open(path).unwrap()).unwrap()
}

/// Largest difference of what an export says from what the package says, over the largest number of the tensor.
fn difference(package: &Path, exported: &Path) -> f32 {
    let (stored, decoder) = (StoredWeights::open(package).unwrap(), open(exported));
    let mut expected = stored.manifest.spec.clone();
    if exported.join("config.json").is_file() {
        assert_eq!(decoder.spec.eos_token_ids, expected.eos_token_ids, "{}", exported.display());
    }
    // A GGUF file without a tokenizer names no tokens.
    (expected.bos_token_id, expected.eos_token_ids) = (decoder.spec.bos_token_id, decoder.spec.eos_token_ids.clone());
    assert_eq!(decoder.spec, expected, "{}", exported.display());
    let of = |name: &str| {
        let (a, b) = (stored.read(name).unwrap(), decoder.read(name).unwrap());
        assert_eq!(a.len(), b.len(), "{name}");
        let largest = a.iter().fold(f32::MIN_POSITIVE, |largest, x| largest.max(x.abs()));
        a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
    };
    stored.manifest.tensors.iter().map(|t| of(&t.name)).fold(0.0, f32::max)
}

/// Classes that read the matrices of all experts as one tensor.
const REFUSED: [&str; 5] = ["gpt_oss", "gpt_oss_mxfp4", "granite4_experts", "granitemoe", "granitemoeshared"];

/// Families that add a number to their gains, or multiply with one: the last bit may be another.
const NEARLY: [&str; 5] = ["falcon_h1", "gemma", "gemma2", "gemma3", "qwen3_5"];

#[test]
fn every_family_is_read_again_as_its_package_has_it() {
    let (mut refused, mut seen) = (Vec::new(), 0);
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(fixture("")).unwrap().map(|e| e.unwrap().path()).filter(|p| p.join("config.json").exists()).collect();
    folders.sort();
    for checkpoint in folders {
        let name = checkpoint.file_name().unwrap().to_str().unwrap();
        let (folder, package) = package(&checkpoint, "q4-fast");
        let out = folder.path().join("hf");
        match export(&package, Some(&checkpoint), hf(HfDtype::F32), &out) {
            Ok(written) => assert!(written.relative_error < 1e-6, "{name}: {written:?}"),
            Err(ExportError::Refused { .. }) => {
                assert!(!out.exists());
                refused.push(name.to_string());
                continue;
            }
            Err(error) => panic!("{name}: {error}"),
        }
        let allowed = if NEARLY.contains(&name) || name.starts_with("qwen3_next") { 1e-6 } else { 0.0 };
        let error = difference(&package, &out);
        println!("{name:20} {error:e}");
        assert!(error <= allowed, "{name}: {error:e}");
        seen += 1;
    }
    assert_eq!(refused, REFUSED);
    assert!(seen > 40);
}

#[test]
fn usual_families_need_no_checkpoint() {
    for name in ["llama", "qwen2", "qwen3", "gemma3", "smollm3"] {
        let (folder, package) = package(&fixture(name), "q4-fast");
        let out = folder.path().join("hf");
        export(&package, None, hf(HfDtype::F32), &out).unwrap();
        assert!(difference(&package, &out) < 1e-6, "{name}");
    }
    let (folder, package) = package(&fixture("cohere"), "q4-fast");
    let error = export(&package, None, hf(HfDtype::F32), &folder.path().join("hf")).unwrap_err().to_string();
    assert!(error.contains("no config of Llama, Qwen2") && error.contains("--checkpoint DIR"), "{error}");
}

/// The reference's logits for some text of the embedded model.
fn logits(model: &Reference) -> Vec<f32> {
    let ids: Vec<u32> = (0..96).map(|i| i * 131 % 4096).collect();
    let (mut cache, mut all) = (model.new_cache(), Vec::new());
    model.forward(&ids, &mut cache, |_, row| all.extend_from_slice(row)).unwrap();
    all
}

#[test]
fn an_export_computes_what_the_package_computes() {
    let (folder, package) = package(&repository("golden/haiku-7m"), "q4-fast");
    let stored = StoredWeights::open(&package).unwrap();
    let expected = logits(&Reference::load(&stored.manifest.spec, |name| stored.read(name)).unwrap());
    let deviation = (expected.iter().map(|x| x * x).sum::<f32>() / expected.len() as f32).sqrt();
    let mut errors = Vec::new();
    for (name, dtype) in [("f32", HfDtype::F32), ("f16", HfDtype::F16), ("bf16", HfDtype::Bf16)] {
        let out = folder.path().join(name);
        let written = export(&package, None, hf(dtype), &out).unwrap();
        assert_eq!(written.architecture, "LlamaForCausalLM");
        let decoder = open(&out);
        let found = logits(&Reference::load(&decoder.spec, |name| decoder.read(name)).unwrap());
        let error = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / deviation;
        println!("{name}: largest error {error:e}, weights {:e}", written.relative_error);
        errors.push(error);
    }
    let [f32, f16, bf16] = errors[..] else { unreachable!() };
    assert_eq!(f32, 0.0);
    assert!(f16 > 0.0 && f16 < 5e-3 && f16 < bf16 && bf16 < 5e-2, "{f16:e} {bf16:e}");
}

#[test]
fn weights_are_cut_into_shards_with_an_index() {
    let (folder, package) = package(&fixture("llama_untied"), "q4-fast");
    let out = folder.path().join("hf");
    let written = Export::new(&package, hf(HfDtype::F32)).shard_bytes(20_000).run(&out).unwrap();
    let shards = written.files.iter().filter(|(name, _)| name.ends_with(".safetensors")).count();
    let named = |i: usize| out.join(format!("model-{i:05}-of-{shards:05}.safetensors")).is_file();
    assert!(shards > 2 && (1..=shards).all(named) && !out.join("model.safetensors").exists());
    assert_eq!(difference(&package, &out), 0.0);
    let index = std::fs::read(out.join("model.safetensors.index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    assert!(index["metadata"]["total_size"].as_u64().unwrap() > 20_000);
}

#[test]
fn a_checkpoint_of_another_model_is_refused_by_the_first_number_that_differs() {
    let (folder, package) = package(&fixture("llama"), "q4-fast");
    let out = folder.path().join("hf");
    let error = export(&package, Some(&repository("golden/haiku-7m")), hf(HfDtype::F32), &out).unwrap_err().to_string();
    assert!(
        error.contains("config.json: it says another decoder than the package has: spec.vocab_size is 4096 there and 320"),
        "{error}"
    );
    assert!(!out.exists());
}

#[test]
fn a_number_that_f16_does_not_hold_is_refused_with_a_way_out() {
    let (folder, package) = package(&fixture("llama"), "f32");
    let mut manifest = StoredWeights::open(&package).unwrap().manifest;
    // The first number of the final norm's gains.
    let plane = manifest.tensors.iter().find(|t| t.name == "final_norm.gain").unwrap().chunks[0].planes[0];
    let shard = package.join(&manifest.shards[plane.shard].name);
    let mut bytes = std::fs::read(&shard).unwrap();
    bytes[plane.offset as usize..][..4].copy_from_slice(&1e6f32.to_le_bytes());
    std::fs::write(&shard, bytes).unwrap();
    manifest.files.clear();
    let out = folder.path().join("hf");
    let error = export(&package, None, hf(HfDtype::F16), &out).unwrap_err().to_string();
    assert!(error.starts_with("tensor model.norm.weight: 1e6 does not fit float16") && error.contains("--dtype bf16"), "{error}");
    assert!(!out.exists() && std::fs::read_dir(folder.path()).unwrap().count() == 1, "nothing is left behind");
    export(&package, None, hf(HfDtype::Bf16), &out).unwrap();
}

#[test]
fn what_lies_at_the_target_stays() {
    let (folder, package) = package(&fixture("llama"), "q4-fast");
    let out = folder.path().join("hf");
    std::fs::create_dir(&out).unwrap();
    export(&package, None, hf(HfDtype::F16), &out).unwrap();
    let error = export(&package, None, hf(HfDtype::F16), &out).unwrap_err().to_string();
    assert!(error.contains("it has files already; name another folder"), "{error}");
    assert!(difference(&package, &out) < 1e-3);
}

#[test]
fn configs_of_usual_families_are_found_again_from_what_they_say() {
    let path = Path::new("config.json");
    for name in ["llama", "llama_untied", "qwen2", "qwen3", "mistral", "smollm3", "gemma", "gemma2", "gemma3", "granite", "olmo2"]
    {
        let config: Value = serde_json::from_slice(&std::fs::read(fixture(name).join("config.json")).unwrap()).unwrap();
        let read = layout(path, &config, None).unwrap();
        let written = config_of(&read.spec).unwrap_or_else(|| panic!("no config for {name}"));
        let again = layout(path, &written, None).unwrap();
        assert_eq!(again.spec, read.spec, "{name}");
        assert_eq!(again.sources, read.sources, "{name}: {written}");
    }
}

#[test]
fn scaled_ropes_are_found_again() {
    for scaling in [
        json!({"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}),
        json!({"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0}),
    ] {
        let config = json!({"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "rope_parameters": scaling});
        let spec = layout(Path::new("config.json"), &config, None).unwrap().spec;
        assert_eq!(config_of(&spec).unwrap()["rope_parameters"], scaling);
    }
}

#[test]
fn a_decoder_that_no_usual_family_says_has_no_config() {
    let config = json!({"architectures": ["CohereForCausalLM"], "num_hidden_layers": 2});
    assert!(config_of(&layout(Path::new("config.json"), &config, None).unwrap().spec).is_none());
}

fn onnx() -> Format {
    Format::Onnx(OnnxFloats::F32)
}

fn gguf(name: &str) -> Format {
    Format::Gguf(Some(name.parse::<GgufType>().unwrap()))
}

#[test]
fn a_gguf_file_is_read_again_as_the_package_has_it() {
    for name in ["llama", "llama_untied", "qwen2", "qwen3", "smollm3", "gemma", "gemma3", "granite", "olmo2", "phi3"] {
        let (folder, package) = package(&fixture(name), "q4-fast");
        let out = folder.path().join("gguf");
        let written = export(&package, None, gguf("F32"), &out).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(written.files.len(), 1);
        assert!(out.join("package-F32.gguf").is_file());
        let error = difference(&package, &out);
        println!("{name:14} {error:e}");
        assert!(error <= if name.starts_with("gemma") { 1e-6 } else { 0.0 }, "{name}: {error:e}");
    }
}

#[test]
fn what_llama_cpp_cannot_be_told_is_refused_by_name() {
    for (name, expected) in [
        ("cohere", "cannot be exported as gguf: no config of Llama, Qwen2"),
        ("mistral", "MistralForCausalLM cannot be exported as gguf: llama.cpp has no attention windows for this family"),
    ] {
        let (folder, package) = package(&fixture(name), "q4-fast");
        let out = folder.path().join("gguf");
        let error = export(&package, None, gguf("F16"), &out).unwrap_err().to_string();
        assert!(error.contains(expected) && !out.exists(), "{name}: {error}");
    }
    for (name, expected) in [("iq4_nl", "IQ4_NL is a type of llama.cpp that is not written yet"), ("q7", "no type of GGUF files")]
    {
        let error = name.parse::<GgufType>().unwrap_err();
        assert!(error.contains(expected) && error.contains("Q4_K"), "{error}");
    }
}

#[test]
fn every_type_is_read_again_as_it_was_rounded() {
    let (folder, package) = package(&repository("golden/haiku-7m"), "f32");
    let stored = StoredWeights::open(&package).unwrap();
    let expected = logits(&Reference::load(&stored.manifest.spec, |name| stored.read(name)).unwrap());
    let deviation = (expected.iter().map(|x| x * x).sum::<f32>() / expected.len() as f32).sqrt();
    let mut last = (0.0, 0);
    for (name, bits) in
        [("F32", 32.0), ("F16", 16.0), ("Q8_0", 8.5), ("Q6_K", 6.5625), ("Q5_K", 5.5), ("Q4_K", 4.5), ("Q3_K", 3.4375)]
    {
        let out = folder.path().join(name);
        let written = export(&package, None, gguf(name), &out).unwrap();
        let decoder = open(&out);
        let (mut error, mut norm, mut weights) = (0.0f64, 0.0f64, 0usize);
        for tensor in &stored.manifest.tensors {
            let (a, b) = (stored.read(&tensor.name).unwrap(), decoder.read(&tensor.name).unwrap());
            error += a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            norm += a.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>();
            weights += if tensor.shape.len() == 2 { a.len() } else { 0 };
        }
        let relative = (error / norm).sqrt();
        assert!(
            (relative - written.relative_error).abs() <= 1e-3 * relative,
            "{name}: {relative:e} {:e}",
            written.relative_error
        );
        let found = logits(&Reference::load(&decoder.spec, |name| decoder.read(name)).unwrap());
        let off =
            (found.iter().zip(&expected).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / found.len() as f32).sqrt() / deviation;
        let bytes = written.files[0].1 as usize;
        println!("{name}: {bytes} bytes, weights {relative:e}, logits {off:e}");
        // The embedding, which makes logits too, is in Q6_K at least.
        let head = bits_of_head(bits) * 4096.0 * 256.0;
        let room = bits * (weights as f64 - 4096.0 * 256.0) + head;
        assert!(bytes as f64 * 8.0 >= room && bytes as f64 * 8.0 < room + 8.0 * 300_000.0, "{name}: {bytes} bytes");
        assert!(off >= last.0 && (last.1 == 0 || bytes < last.1), "{name}: {off:e} after {last:?}");
        last = (off, bytes);
    }
    assert!(last.0 < 0.5, "{last:?}");
}

fn bits_of_head(bits: f64) -> f64 {
    bits.max(6.5625)
}

#[test]
fn original_weights_are_rounded_once() {
    let haiku = repository("golden/haiku-7m");
    let (folder, package) = package(&haiku, "q4-fast");
    let original = open(&haiku);
    let error = |checkpoint: Option<&Path>, name: &str| {
        let out = folder.path().join(name);
        export(&package, checkpoint, gguf("Q8_0"), &out).unwrap();
        let decoder = open(&out);
        let (a, b) = (original.read("layers.3.down").unwrap(), decoder.read("layers.3.down").unwrap());
        a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum::<f32>()
    };
    let (twice, once) = (error(None, "twice"), error(Some(&haiku), "once"));
    assert!(once < 0.05 * twice, "{once} {twice}");
}

#[test]
fn matrices_without_whole_blocks_get_another_type() {
    // 64 columns, and rows of 256 weights share a scale in Q4_K.
    let (folder, package) = package(&fixture("llama"), "f32");
    let out = folder.path().join("gguf");
    let written = export(&package, None, gguf("Q4_K"), &out).unwrap();
    assert!(written.relative_error > 1e-3 && written.relative_error < 0.1, "{written:?}");
    let checkpoint = Checkpoint::open(&out).unwrap();
    let kind = |name: &str| checkpoint.describe(name).unwrap().1.to_string();
    assert_eq!(kind("model.layers.0.mlp.gate_proj.weight"), "Q5_0");
    assert_eq!(kind("model.embed_tokens.weight"), "Q8_0");
    assert_eq!(kind("model.norm.weight"), "F32");
}

#[test]
fn a_package_on_grids_that_llama_cpp_has_is_written_number_for_number() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = |name: &str, schemes: [&str; 3]| {
        let [embedding, attention, mlp] = schemes;
        let path = folder.path().join(format!("{name}.toml"));
        let text = format!("embedding = '{embedding}'\nattention = '{attention}'\nmlp = '{mlp}'\nhead = '{embedding}'\n");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_string()
    };
    for (name, schemes, kinds) in [
        ("usual", ["q8/64", "q4/32", "q5/32"], ["Q8_0", "Q4_0", "Q5_0"]),
        ("others", ["f16", "q3/64", "q8/32"], ["F16", "Q4_0", "Q8_0"]),
    ] {
        let (_kept, package) = package(&repository("golden/haiku-7m"), &recipe(name, schemes));
        let out = folder.path().join(name);
        let written = export(&package, None, Format::Gguf(None), &out).unwrap();
        assert_eq!((written.relative_error, difference(&package, &out)), (0.0, 0.0), "{name}");
        let checkpoint = Checkpoint::open(&out).unwrap();
        let kind = |name: &str| checkpoint.describe(name).unwrap().1.to_string();
        let tensors = ["model.embed_tokens", "model.layers.0.self_attn.q_proj", "model.layers.7.mlp.down_proj"];
        assert_eq!(tensors.map(|t| kind(&format!("{t}.weight"))), kinds);
    }
    let (_kept, package) = package(&repository("golden/haiku-7m"), &recipe("offsets", ["q8/64", "q4/32+u4", "q4/32"]));
    let error = export(&package, None, Format::Gguf(None), &folder.path().join("out")).unwrap_err().to_string();
    assert!(error.contains("in q4/32+u4 cannot be exported as gguf") && error.contains("(--type)"), "{error}");
}

/// A checkpoint of made-up weights with these files of a tokenizer.
fn with_tokenizer(checkpoint: &Path, files: &[Companion]) {
    std::fs::create_dir(checkpoint).unwrap();
    files.iter().for_each(|file| std::fs::write(checkpoint.join(&file.name), &file.bytes).unwrap());
    let tokenizer: Value = serde_json::from_slice(&files.iter().find(|f| f.name == "tokenizer.json").unwrap().bytes).unwrap();
    let ids = tokenizer["model"]["vocab"].as_object().unwrap().values().filter_map(Value::as_u64);
    let added = tokenizer["added_tokens"].as_array().unwrap().iter().filter_map(|t| t["id"].as_u64());
    // A few rows without a token, as checkpoints have them.
    let vocabulary = ids.chain(added).max().unwrap() as usize + 9;
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": vocabulary, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2,
    });
    std::fs::write(checkpoint.join("config.json"), config.to_string()).unwrap();
    let layer = "model.layers.0.";
    let shapes = [
        ("model.embed_tokens".to_string(), vec![vocabulary, 32]),
        (format!("{layer}input_layernorm"), vec![32]),
        (format!("{layer}self_attn.q_proj"), vec![32, 32]),
        (format!("{layer}self_attn.k_proj"), vec![16, 32]),
        (format!("{layer}self_attn.v_proj"), vec![16, 32]),
        (format!("{layer}self_attn.o_proj"), vec![32, 32]),
        (format!("{layer}post_attention_layernorm"), vec![32]),
        (format!("{layer}mlp.gate_proj"), vec![64, 32]),
        (format!("{layer}mlp.up_proj"), vec![64, 32]),
        (format!("{layer}mlp.down_proj"), vec![32, 64]),
        ("model.norm".to_string(), vec![32]),
    ];
    let number = |i: usize| ((i * 7919 % 1009) as f32 / 1009.0 - 0.5) * 0.2;
    let bytes: Vec<Vec<u8>> =
        shapes.iter().map(|(_, shape)| (0..shape.iter().product()).flat_map(|i| number(i).to_le_bytes()).collect()).collect();
    let views = shapes.iter().zip(&bytes).map(|((name, shape), bytes)| {
        (format!("{name}.weight"), safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    std::fs::write(checkpoint.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

/// What is read of the export of such a checkpoint.
fn exported_tokenizer(folder: &Path, name: &str, files: &[Companion]) -> Result<Tokenizer, ExportError> {
    let (checkpoint, out) = (folder.join(format!("{name}-checkpoint")), folder.join(name));
    with_tokenizer(&checkpoint, files);
    let (_kept, package) = package(&checkpoint, "q8");
    export(&package, None, Format::Gguf(None), &out)?;
    Ok(tokenizer(Checkpoint::open(&out).unwrap().companions()))
}

fn tokenizer(files: &[Companion]) -> Tokenizer {
    let bytes = |name: &str| files.iter().find(|f| f.name == name).map(|f| f.bytes.as_slice());
    let mut found = TokenizerFiles::new(bytes("tokenizer.json").unwrap());
    found.config = bytes("tokenizer_config.json");
    Tokenizer::from_files(found).unwrap()
}

#[test]
fn tokenizers_are_read_again_with_the_ids_that_they_give() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["smollm2", "llama3", "qwen3", "phi4mini", "harmony"] {
        let files = read_companions(&repository("tests/fixtures/tokenizers").join(name)).unwrap();
        let found = exported_tokenizer(folder.path(), name, &files).unwrap_or_else(|error| panic!("{name}: {error}"));
        let original = tokenizer(&files);
        for text in ["Hello, world", "  two  spaces", "1234567 and 3.14", "Grüße, 你好 🙂", "don't\n\n\tI'll", "snake_case()"]
        {
            let ids = |t: &Tokenizer| t.encode(text, Special::Recognize).unwrap();
            assert_eq!(ids(&found), ids(&original), "{name}: {text:?}");
        }
    }
}

#[test]
fn tokenizers_of_files_give_the_ids_of_those_that_they_were_made_of() {
    let (folder, files) = (tempfile::tempdir().unwrap(), repository("tests/fixtures/gguf"));
    let answers: Value = serde_json::from_slice(&std::fs::read(files.join("tokenizers.json")).unwrap()).unwrap();
    for name in ["gpt-2", "hunyuan-dense", "llama-bpe", "olmo", "qwen2", "smollm", "spm", "spm-no-prefix"] {
        let original = Checkpoint::open(files.join(format!("tokenizer-{name}.gguf"))).unwrap().into_companions();
        let found = exported_tokenizer(folder.path(), name, &original).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (texts, ids) = (answers["texts"].as_array().unwrap(), answers["ids"][name].as_array().unwrap());
        for (text, ids) in texts.iter().zip(ids).filter(|(_, ids)| ids.is_array()) {
            let found = found.encode(text.as_str().unwrap(), Special::Recognize).unwrap();
            assert_eq!(json!(found), *ids, "{name}: {text}");
        }
    }
}

/// These were not trained by SentencePiece: of the pairs that make a piece they merge some alone.
#[test]
fn merges_that_scores_do_not_say_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["gemma2", "gemma3", "mistral", "phi3"] {
        let files = read_companions(&repository("tests/fixtures/tokenizers").join(name)).unwrap();
        let error = exported_tokenizer(folder.path(), name, &files).err().map(|error| error.to_string());
        assert!(error.as_ref().is_some_and(|error| error.contains("its merges are none that scores say")), "{name}: {error:?}");
    }
}

#[test]
fn scaled_ropes_are_said_by_keys_or_factors() {
    for scaling in [
        json!({"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}),
        json!({"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0}),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = folder.path().join("checkpoint");
        std::fs::create_dir(&checkpoint).unwrap();
        std::fs::copy(fixture("llama").join("model.safetensors"), checkpoint.join("model.safetensors")).unwrap();
        let mut config: Value = serde_json::from_slice(&std::fs::read(fixture("llama").join("config.json")).unwrap()).unwrap();
        config["rope_parameters"] = scaling;
        std::fs::write(checkpoint.join("config.json"), config.to_string()).unwrap();
        let (_kept, package) = package(&checkpoint, "f32");
        let out = folder.path().join("gguf");
        export(&package, None, Format::Gguf(None), &out).unwrap();
        assert_eq!(difference(&package, &out), 0.0);
    }
}

/// What no graph says, by the names of fixtures: first those of which a feature is missing, then those whose heads are too narrow for
/// `GroupQueryAttention` in the fixture.
const NO_GRAPH: [&[&str]; 2] = [
    &[
        "falcon_h1",
        "gemma3n",
        "gemma4",
        "gpt_oss",
        "gpt_oss_mxfp4",
        "granite4_experts",
        "granite4_hybrid",
        "granitemoe",
        "granitemoeshared",
        "lfm2",
        "lfm2_moe",
        "lfm3",
        "nemotron_h",
        "olmoe",
        "phi3_longrope",
        "qwen2_moe",
        "qwen3_5",
        "qwen3_next",
    ],
    &[
        "ernie4_5",
        "exaone4",
        "gemma",
        "gpt_neox",
        "hunyuan",
        "ministral",
        "ministral3",
        "olmo3",
        "phi",
        "qwen2_yarn",
        "qwen3_moe",
        "stablelm",
        "stablelm_2",
    ],
];

/// Exports that this reader does not take: their rows are not in the class's order, or parts of tensors that it has fused.
const NOT_READ: [&str; 3] = ["cohere", "cohere2", "gpt2"];

#[test]
fn an_onnx_export_in_f32_is_a_checkpoint_with_the_very_numbers() {
    let (mut refused, mut not_read, mut seen) = ([Vec::new(), Vec::new()], Vec::new(), 0);
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(fixture("")).unwrap().map(|e| e.unwrap().path()).filter(|p| p.join("config.json").exists()).collect();
    folders.sort();
    for checkpoint in folders {
        let name = checkpoint.file_name().unwrap().to_str().unwrap();
        let (folder, package) = package(&checkpoint, "f32");
        let out = folder.path().join("onnx");
        match export(&package, Some(&checkpoint), onnx(), &out) {
            Ok(written) => assert_eq!((written.relative_error, written.recipe), (0.0, None), "{name}"),
            Err(ExportError::Refused { what, why, .. }) => {
                assert!(!out.exists() && what.ends_with("CausalLM") && !why.is_empty(), "{name}: {what}: {why}");
                refused[usize::from(why.contains("GroupQueryAttention"))].push(name.to_string());
                continue;
            }
            Err(error) => panic!("{name}: {error}"),
        }
        seen += 1;
        let read = Checkpoint::open(&out).map(Decoder::from_checkpoint);
        if !matches!(read, Ok(Ok(_))) {
            println!("{name:20} {:?}", read.err());
            not_read.push(name.to_string());
            continue;
        }
        let error = difference(&package, &out);
        println!("{name:20} {error:e}");
        assert!(error <= if NEARLY.contains(&name) { 1e-6 } else { 0.0 }, "{name}: {error:e}");
    }
    assert_eq!(refused, NO_GRAPH);
    assert_eq!(not_read, NOT_READ);
    assert_eq!(seen, 17);
}

#[test]
fn every_grid_that_an_operator_has_is_written_code_for_code() {
    let folder = tempfile::tempdir().unwrap();
    let haiku = repository("golden/haiku-7m");
    for (name, schemes, model) in [
        ("usual", ["q8/32", "q4/32", "q4/32"], "model_q4.onnx"),
        ("groups", ["q4/64", "q4/64", "q8/128"], "model_q4.onnx"),
        ("odd bits", ["q5/32", "q3/64", "q5/64"], "model_q4.onnx"),
        ("zero points", ["q4/32+u4", "q3/64+u4", "q5/32+u4"], "model_q4.onnx"),
        ("bytes", ["q8/64", "q8/32", "q8/32"], "model_quantized.onnx"),
        ("halves", ["f16", "f16", "f16"], "model.onnx"),
    ] {
        let [embedding, attention, mlp] = schemes;
        let path = folder.path().join(format!("{name}.toml"));
        let text = format!("embedding = '{embedding}'\nattention = '{attention}'\nmlp = '{mlp}'\nhead = '{embedding}'\n");
        std::fs::write(&path, text).unwrap();
        let (_kept, package) = package(&haiku, path.to_str().unwrap());
        let out = folder.path().join(name);
        // The export reads every number again, and refuses itself if one is another.
        let written = export(&package, None, onnx(), &out).unwrap();
        assert_eq!((written.relative_error, written.recipe), (0.0, None), "{name}");
        let config: Value = serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["transformers.js_config"]["use_external_data_format"], json!({model: 1}), "{name}");
        let genai: Value = serde_json::from_slice(&std::fs::read(out.join("genai_config.json")).unwrap()).unwrap();
        assert_eq!(genai["model"]["decoder"]["filename"], json!(format!("onnx/{model}")), "{name}");
        assert!(out.join("onnx").join(format!("{model}_data")).is_file() && out.join("tokenizer.json").is_file(), "{name}");
        // In f16 scales are as the package has them.
        let out = folder.path().join(format!("{name} in halves"));
        let halves = export(&package, None, Format::Onnx(OnnxFloats::F16), &out).unwrap();
        assert!(halves.relative_error < 5e-4, "{name}: {halves:?}");
    }
}

#[test]
fn weights_beside_an_onnx_model_lie_in_parts_of_a_largest_size() {
    let (folder, package) = package(&repository("golden/haiku-7m"), "f32");
    let out = folder.path().join("onnx");
    let most = 5_000_000;
    let written = Export::new(&package, onnx()).shard_bytes(most).run(&out).unwrap();
    let parts: Vec<&(String, u64)> = written.files.iter().filter(|(name, _)| name.contains(".onnx_data")).collect();
    assert!(parts.len() > 5 && parts.iter().all(|(_, bytes)| *bytes <= most), "{parts:?}");
    assert_eq!(parts[0].0, "onnx/model.onnx_data");
    assert_eq!(parts[1].0, "onnx/model.onnx_data_1");
    let config: Value = serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["transformers.js_config"]["use_external_data_format"]["model.onnx"], json!(parts.len()));
    assert_eq!(difference(&package, &out), 0.0);
    // The embedding alone has 4 MiB.
    let error = Export::new(&package, onnx()).shard_bytes(4_000_000).run(&folder.path().join("small")).unwrap_err().to_string();
    assert!(error.contains("model.embed_tokens.weight cannot be exported as onnx: it has 4194304 bytes"), "{error}");
}

#[test]
fn learned_tables_are_quantized_again_for_onnx_or_refused_with_both_ways_out() {
    let haiku = repository("golden/haiku-7m");
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("offsets.toml");
    std::fs::write(&recipe, "embedding = 'q8/32'\nattention = 'q4/32'\nmlp = 'q4/32+f16'\nhead = 'q8/32'\n").unwrap();
    let (_kept, package) = package(&haiku, recipe.to_str().unwrap());
    let out = folder.path().join("onnx");
    let error = export(&package, None, onnx(), &out).unwrap_err().to_string();
    for part in ["layers.0.gate_up in q4/32+f16 cannot be exported as onnx", "--checkpoint DIR", "convert it by q4-uniform"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let error = export(&package, Some(&fixture("llama")), onnx(), &out).unwrap_err().to_string();
    assert!(error.contains("it says another decoder than the package has"), "{error}");
    assert!(!out.exists());
    let written = export(&package, Some(&haiku), onnx(), &out).unwrap();
    assert_eq!((written.recipe, written.relative_error), (Some(ONNX_RECIPE), 0.0));
    let names: Vec<String> =
        std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|name| !name.starts_with(".haikuq")), "nothing is left behind: {names:?}");
}
