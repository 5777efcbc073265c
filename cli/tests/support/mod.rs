//! A small Llama checkpoint made on the spot, and the real binary to run on it.

#![allow(dead_code, reason = "each test file uses a part")]

pub mod onnx;

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// One tensor of a checkpoint to be written.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// A checkpoint in memory, to be damaged and written.
#[derive(Clone)]
pub struct TinyCheckpoint {
    pub config: Value,
    pub tensors: Vec<Tensor>,
}

impl TinyCheckpoint {
    /// A Llama of width 96 with two layers; odd sizes on purpose.
    pub fn new() -> Self {
        Self::sized(96, 2, 333)
    }

    /// A tied Llama in bf16 with pseudorandom weights; 3 query heads and 1 key/value head of 32.
    pub fn sized(hidden: usize, layers: usize, vocab: usize) -> Self {
        let inner = hidden * 2 + 40;
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner,
            "num_hidden_layers": layers, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 32,
            "vocab_size": vocab, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": [2, 3], "torch_dtype": "bfloat16",
        });
        let mut this = Self { config, tensors: Vec::new() };
        this.add("model.embed_tokens.weight", &[vocab, hidden]);
        for i in 0..layers {
            for (name, shape) in [
                ("input_layernorm", vec![hidden]),
                ("self_attn.q_proj", vec![96, hidden]),
                ("self_attn.k_proj", vec![32, hidden]),
                ("self_attn.v_proj", vec![32, hidden]),
                ("self_attn.o_proj", vec![hidden, 96]),
                ("post_attention_layernorm", vec![hidden]),
                ("mlp.gate_proj", vec![inner, hidden]),
                ("mlp.up_proj", vec![inner, hidden]),
                ("mlp.down_proj", vec![hidden, inner]),
            ] {
                this.add(&format!("model.layers.{i}.{name}.weight"), &shape);
            }
        }
        this.add("model.norm.weight", &[hidden]);
        this
    }

    fn add(&mut self, name: &str, shape: &[usize]) {
        let mut state = 0x9e37_79b9_7f4a_7c15u64 ^ (self.tensors.len() as u64 + 1).wrapping_mul(0xd134_2543_de82_ef95);
        let mut bytes = Vec::new();
        for _ in 0..shape.iter().product() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let value = ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 0.2;
            bytes.extend(((value.to_bits() >> 16) as u16).to_le_bytes());
        }
        self.tensors.push(Tensor { name: name.into(), dtype: "BF16", shape: shape.to_vec(), bytes });
    }

    /// The tensor of that name.
    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|t| t.name == name).expect("a tensor of the tiny checkpoint")
    }

    /// Puts a bf16 number in place of a tensor's element.
    pub fn put(&mut self, name: &str, index: usize, value: f32) {
        let bits = ((value.to_bits() >> 16) as u16).to_le_bytes();
        self.tensor(name).bytes[2 * index..2 * index + 2].copy_from_slice(&bits);
    }

    /// Writes `config.json`, `model.safetensors` and a stand-in for a tokenizer.
    pub fn write(&self, folder: &Path) {
        self.write_config(folder);
        std::fs::write(folder.join("model.safetensors"), safetensors(&self.tensors)).unwrap();
    }

    /// Writes the tensors in `shards` files with an index.
    pub fn write_sharded(&self, folder: &Path, shards: usize) {
        self.write_config(folder);
        let mut map = serde_json::Map::new();
        for (i, part) in self.tensors.chunks(self.tensors.len().div_ceil(shards)).enumerate() {
            let file = format!("model-{:05}-of-{shards:05}.safetensors", i + 1);
            map.extend(part.iter().map(|t| (t.name.clone(), json!(file))));
            std::fs::write(folder.join(&file), safetensors(part)).unwrap();
        }
        write_json(&folder.join("model.safetensors.index.json"), &json!({"metadata": {}, "weight_map": map}));
    }

    fn write_config(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        write_json(&folder.join("config.json"), &self.config);
        write_json(&folder.join("tokenizer.json"), &tokenizer());
    }
}

/// The smallest tokenizer that is one: a single token, which every text becomes.
pub fn tokenizer() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": null, "model": {"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"}
    })
}

/// A safetensors file of the tensors in order.
pub fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for t in tensors {
        let entry = json!({"dtype": t.dtype, "shape": t.shape, "data_offsets": [at, at + t.bytes.len()]});
        header.insert(t.name.clone(), entry);
        at += t.bytes.len();
    }
    with_header(&Value::Object(header), &tensors.iter().flat_map(|t| t.bytes.clone()).collect::<Vec<_>>())
}

/// A safetensors file of any header and data, valid or not.
pub fn with_header(header: &Value, data: &[u8]) -> Vec<u8> {
    let json = serde_json::to_vec(header).unwrap();
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend(json);
    file.extend(data);
    file
}

/// The header of a safetensors file, and its data.
pub fn split_header(file: &[u8]) -> (Value, Vec<u8>) {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&file[8..8 + length]).unwrap(), file[8 + length..].to_vec())
}

pub fn write_json(path: &Path, value: &Value) {
    std::fs::write(path, serde_json::to_vec_pretty(value).unwrap()).unwrap();
}

pub fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The real binary.
pub fn haikuq() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_haikuq"));
    command.env_remove("HAIKUQ_ADAPTER").env_remove("HAIKUQ_LOG");
    // A path that is not there may look like a model's id: no test asks the hub for it.
    command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/no-hub"));
    command
}

/// `haikuq convert CHECKPOINT --out OUT ARGS`, not yet run.
pub fn convert(checkpoint: &Path, out: &Path, args: &[&str]) -> Command {
    let mut command = haikuq();
    command.arg("convert").arg(checkpoint).arg("--out").arg(out).args(args);
    if !args.contains(&"--recipe") {
        // Calibrated recipes have tests of their own; the others need neither tokenizer nor time.
        command.args(["--recipe", "q4-fast"]);
    }
    command
}

/// Runs a command that must succeed.
pub fn succeed(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Runs a command that must fail with exit code 1 and returns what it says, which must not be a panic.
pub fn fail(mut command: Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{command:?}\n{text}");
    assert!(text.contains("haikuq: error: ") && !text.contains("panicked"), "{text}");
    text
}

/// Asserts that a message has all of these parts.
#[track_caller]
pub fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

/// Names and contents of a folder's files.
pub fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .map(|p| (p.file_name().unwrap().into(), std::fs::read(&p).unwrap()))
        .collect();
    files.sort();
    files
}

/// Panics unless two folders hold the same files with the same bytes.
pub fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (contents(a), contents(b));
    let names = |list: &[(PathBuf, Vec<u8>)]| list.iter().map(|f| f.0.clone()).collect::<Vec<_>>();
    assert_eq!(names(&a), names(&b));
    for ((name, x), (_, y)) in a.iter().zip(&b) {
        assert!(x == y, "{} differs", name.display());
    }
}
