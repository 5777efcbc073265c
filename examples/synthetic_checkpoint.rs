//! Writes a Llama checkpoint of any size with random weights, for measuring conversion at scale.
//!
//! ```text
//! cargo run --release --example synthetic_checkpoint -- /tmp/llama-3b               # 3.2 billion weights, 6.4 GB
//! cargo run --release --example synthetic_checkpoint -- /tmp/small --hidden 512 --layers 4 --vocab 8000
//! /usr/bin/time -v target/release/haikuq convert /tmp/llama-3b --out /tmp/llama-3b.q4
//! ```
//!
//! Weights are bf16 and normally distributed as trained ones nearly are; the same arguments give the same bytes.

use anyhow::Context as _;
use clap::Parser;
use haikuq::architecture::Decoder;
use haikuq::checkpoint::Checkpoint;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Write a Llama checkpoint with random bf16 weights
#[derive(Parser)]
struct Args {
    /// Folder to write to
    folder: PathBuf,
    /// Width of the residual stream
    #[arg(long, default_value_t = 3072)]
    hidden: usize,
    /// Width inside the feed-forward network
    #[arg(long, default_value_t = 8192)]
    intermediate: usize,
    /// Number of layers
    #[arg(long, default_value_t = 28)]
    layers: usize,
    /// Query heads
    #[arg(long, default_value_t = 24)]
    heads: usize,
    /// Key/value heads
    #[arg(long, default_value_t = 8)]
    kv_heads: usize,
    /// Width of a head
    #[arg(long, default_value_t = 128)]
    head_dim: usize,
    /// Number of token ids
    #[arg(long, default_value_t = 128_256)]
    vocab: usize,
    /// Write a head of its own
    #[arg(long)]
    untied: bool,
    /// Largest size of a weight file in bytes
    #[arg(long, default_value_t = 2 << 30)]
    shard_bytes: usize,
}

/// The embedded checkpoint's tokenizer, so that recipes that calibrate can read text. Its ids are fewer than `--vocab`.
const TOKENIZER: [(&str, &str); 2] = [
    ("tokenizer.json", include_str!("../golden/haiku-7m/tokenizer.json")),
    ("tokenizer_config.json", include_str!("../golden/haiku-7m/tokenizer_config.json")),
];

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    std::fs::create_dir_all(&args.folder).with_context(|| format!("cannot create {}", args.folder.display()))?;
    for (name, text) in TOKENIZER {
        let path = args.folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": args.hidden,
        "intermediate_size": args.intermediate, "num_hidden_layers": args.layers, "num_attention_heads": args.heads,
        "num_key_value_heads": args.kv_heads, "head_dim": args.head_dim, "vocab_size": args.vocab,
        "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "tie_word_embeddings": !args.untied,
        "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16",
    });
    std::fs::write(args.folder.join("config.json"), serde_json::to_vec_pretty(&config)?)?;
    let shards = shards(&tensors(&args), args.shard_bytes);
    let mut weight_map = Map::new();
    let mut weights = Weights::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        write_shard(&args.folder.join(&name), shard, &mut weights).with_context(|| format!("cannot write {name}"))?;
        weight_map.extend(shard.iter().map(|t| (t.0.clone(), json!(name))));
        eprintln!("{name}");
    }
    let index = json!({"metadata": {}, "weight_map": weight_map});
    std::fs::write(args.folder.join("model.safetensors.index.json"), serde_json::to_vec_pretty(&index)?)?;
    // The checkpoint must be one that convert takes.
    Decoder::from_checkpoint(Checkpoint::open(&args.folder)?)?;
    Ok(())
}

/// Names and shapes in the order in which transformers writes them.
fn tensors(args: &Args) -> Vec<(String, Vec<usize>)> {
    let (h, inner) = (args.hidden, args.intermediate);
    let (q, kv) = (args.heads * args.head_dim, args.kv_heads * args.head_dim);
    let mut list = vec![("model.embed_tokens.weight".to_string(), vec![args.vocab, h])];
    for i in 0..args.layers {
        for (name, shape) in [
            ("input_layernorm", vec![h]),
            ("mlp.down_proj", vec![h, inner]),
            ("mlp.gate_proj", vec![inner, h]),
            ("mlp.up_proj", vec![inner, h]),
            ("post_attention_layernorm", vec![h]),
            ("self_attn.k_proj", vec![kv, h]),
            ("self_attn.o_proj", vec![h, q]),
            ("self_attn.q_proj", vec![q, h]),
            ("self_attn.v_proj", vec![kv, h]),
        ] {
            list.push((format!("model.layers.{i}.{name}.weight"), shape));
        }
    }
    list.push(("model.norm.weight".into(), vec![h]));
    if args.untied {
        list.push(("lm_head.weight".into(), vec![args.vocab, h]));
    }
    list
}

fn bytes(shape: &[usize]) -> usize {
    2 * shape.iter().product::<usize>()
}

fn shards(tensors: &[(String, Vec<usize>)], limit: usize) -> Vec<Vec<(String, Vec<usize>)>> {
    let mut shards = vec![Vec::new()];
    let mut filled = 0;
    for tensor in tensors {
        if filled > 0 && filled + bytes(&tensor.1) > limit {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes(&tensor.1);
        shards.last_mut().expect("starts with one").push(tensor.clone());
    }
    shards
}

fn write_shard(path: &Path, tensors: &[(String, Vec<usize>)], weights: &mut Weights) -> anyhow::Result<()> {
    let (mut header, mut at) = (Map::new(), 0);
    for (name, shape) in tensors {
        let end = at + bytes(shape);
        header.insert(name.clone(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let header = serde_json::to_vec(&Value::Object(header))?;
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (_, shape) in tensors {
        weights.write(&mut out, shape)?;
    }
    Ok(out.flush()?)
}

/// Random weights: numbers drawn once from a normal distribution, then picked at random, which is fast enough to fill
/// gigabytes.
struct Weights {
    normal: Vec<u16>,
    state: u64,
}

impl Weights {
    fn new() -> Self {
        let mut this = Self { normal: Vec::new(), state: 0x2545_f491_4f6c_dd1d };
        this.normal = (0..1 << 16).map(|_| this.normal()).collect();
        this
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// A bf16 number of standard deviation 0.02: the sum of twelve uniform ones.
    fn normal(&mut self) -> u16 {
        let sum: f32 = (0..12).map(|_| (self.next() >> 40) as f32 / (1u64 << 24) as f32).sum();
        (((sum - 6.0) * 0.02).to_bits() >> 16) as u16
    }

    /// A matrix of random weights, or a vector of ones as norms nearly are.
    fn write(&mut self, out: &mut impl Write, shape: &[usize]) -> std::io::Result<()> {
        let row_bytes = bytes(&shape[shape.len() - 1..]);
        if shape.len() == 1 {
            return out.write_all(&0x3f80u16.to_le_bytes().repeat(row_bytes / 2));
        }
        let mut row = vec![0u8; row_bytes];
        for _ in 0..shape[0] {
            for four in row.chunks_mut(8) {
                let random = self.next();
                for (i, weight) in four.chunks_exact_mut(2).enumerate() {
                    weight.copy_from_slice(&self.normal[(random >> (16 * i)) as usize & 0xffff].to_le_bytes());
                }
            }
            out.write_all(&row)?;
        }
        Ok(())
    }
}
