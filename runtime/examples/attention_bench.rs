//! Speed of the attention kernels on any adapter, prefill and decode:
//! `cargo run --release -p haikuq-runtime --example attention_bench -- [--adapter NAME] [--heads N] [--kv-heads N]
//! [--head-dim N] [--tokens N]… [--depth N]… [--layers N] [--window N] [--softcap X] [--filter TEXT]… [--check]`
//!
//! Prints, for each kernel, number of tokens and depth (tokens in the cache before the step), the time of a layer, that of
//! all layers, TFLOP/s (a product and a sum are two; what causality masks is not counted) and GB/s of keys and values, each
//! read once. Every layer has a cache of its own, as in a decoder, so that none is in a GPU's cache by luck. `--tokens 1`
//! is decoding. `--check` compares a few tokens' results with the CPU twin. Without sizes: Llama-3.2-3B.

use haikuq_runtime::device::{Binding, Dispatch, Gpu, GpuError, GpuOptions};
use haikuq_runtime::kernels::attention::{self, AttentionBuffers, AttentionShape, CpuCache, PAGE, Scores, Token};
use haikuq_runtime::kernels::attention_decode::{self, AttentionDecode};
use haikuq_runtime::kernels::attention_prefill::AttentionPrefill;
use haikuq_runtime::kernels::{attention_prefill_matrices, attention_prefill_tile};
use haikuq_runtime::sampling::uniform;
use half::f16;
use std::time::Instant;

fn main() -> Result<(), GpuError> {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |name: &str| -> Vec<String> { arguments.windows(2).filter(|p| p[0] == name).map(|p| p[1].clone()).collect() };
    let numbers = |name: &str, default: &[u32]| -> Vec<u32> {
        let given: Vec<u32> = after(name).iter().map(|text| text.parse().expect("a number")).collect();
        if given.is_empty() { default.to_vec() } else { given }
    };
    let number = |name: &str, default: u32| numbers(name, &[default])[0];
    let filters = after("--filter");
    let gpu = Gpu::open_blocking(&GpuOptions::new(after("--adapter").pop()))?;
    println!("{} ({}), {}", gpu.description.name, gpu.description.backend, gpu.description.driver);
    let (num_heads, num_kv_heads, head_dim) = (number("--heads", 24), number("--kv-heads", 8), number("--head-dim", 128));
    let layers = number("--layers", 28) as usize;
    let check = arguments.iter().any(|a| a == "--check");
    println!("{num_heads} query heads, {num_kv_heads} key/value heads of {head_dim}, {layers} layers");
    println!("{:<46} {:>10} {:>11} {:>10} {:>9} {:>9}", "kernel", "compile ms", "layer µs", "layers ms", "TFLOP/s", "GB/s");
    let (all_tokens, depths) = (numbers("--tokens", &[1, 32, 512]), numbers("--depth", &[0, 4096]));
    let deepest = depths.iter().max().expect("a depth") + all_tokens.iter().max().expect("a number of tokens");
    let max_pages = deepest.div_ceil(PAGE as u32);
    let shape = AttentionShape { num_heads, num_kv_heads, head_dim, max_pages, cache_f16: true };
    let scores = Scores {
        scale: 1.0 / (head_dim as f32).sqrt(),
        window: after("--window").pop().map(|text| text.parse().expect("a number")),
        softcap: after("--softcap").pop().map(|text| text.parse().expect("a number")),
    };
    let bench = Bench::new(&gpu, shape, scores, layers);
    for tokens in all_tokens {
        for &depth in &depths {
            for kernel in KERNELS {
                let line = format!("{} {tokens} tokens at {depth}", kernel.name());
                if kernel.runs(&gpu, &shape, tokens) && filters.iter().all(|filter| line.contains(filter)) {
                    bench.run(*kernel, &line, tokens, depth, check)?;
                }
            }
        }
    }
    Ok(())
}

/// What is measured.
#[derive(Clone, Copy)]
enum Kernel {
    Decode,
    Prefill,
    PrefillTile,
    PrefillMatrices,
}

const KERNELS: &[Kernel] = &[Kernel::Decode, Kernel::Prefill, Kernel::PrefillTile, Kernel::PrefillMatrices];

impl Kernel {
    fn name(self) -> &'static str {
        match self {
            Self::Decode => "attention_decode",
            Self::Prefill => "attention_prefill",
            Self::PrefillTile => "attention_prefill_tile",
            Self::PrefillMatrices => "attention_prefill_matrices",
        }
    }

    fn runs(self, gpu: &Gpu, shape: &AttentionShape, tokens: u32) -> bool {
        match self {
            Self::Decode => tokens == 1,
            Self::Prefill | Self::PrefillTile => tokens > 1,
            Self::PrefillMatrices => tokens > 1 && attention_prefill_matrices::fits(&gpu.profile, shape),
        }
    }

    /// The largest difference from the CPU twin that rounding explains: values are of size 1, and f16 weights and queries
    /// are off by 2⁻¹¹ each.
    fn tolerance(self) -> f32 {
        if matches!(self, Self::PrefillMatrices) { 3e-3 } else { 2e-5 }
    }
}

struct Bench<'a> {
    gpu: &'a Gpu,
    shape: AttentionShape,
    scores: Scores,
    cache: CpuCache,
    pages: wgpu::Buffer,
    /// Keys and values of each layer; the same numbers.
    pools: Vec<[wgpu::Buffer; 2]>,
}

impl<'a> Bench<'a> {
    fn new(gpu: &'a Gpu, shape: AttentionShape, scores: Scores, layers: usize) -> Self {
        let num_pages = shape.max_pages as usize;
        // Neighbouring pages of a sequence lie apart.
        let pages: Vec<u32> = (0..num_pages as u32).rev().collect();
        let mut cache = CpuCache::new(shape, pages, num_pages);
        let random = |seed: u64, i: usize| f16::from_f32(4.0 * uniform(seed, i as u64) - 2.0);
        let pool = |seed: u64, n: usize| -> Vec<f16> { (0..n).map(|i| random(seed, i)).collect() };
        let (keys, values) = (pool(1, cache.keys.len()), pool(2, cache.values.len()));
        cache.keys = keys.iter().map(|x| x.to_f32()).collect();
        cache.values = values.iter().map(|x| x.to_f32()).collect();
        let pools = (0..layers).map(|_| [gpu.upload("keys", &keys), gpu.upload("values", &values)]).collect();
        let pages = gpu.upload("pages", &cache.pages);
        Self { gpu, shape, scores, cache, pages, pools }
    }

    fn run(&self, kernel: Kernel, line: &str, num_tokens: u32, depth: u32, check: bool) -> Result<(), GpuError> {
        let (gpu, shape, scores) = (self.gpu, self.shape, self.scores);
        let position = |t: u32| Token { id: 0, position: depth + t, sequence: 0, long: 0 };
        let tokens: Vec<Token> = (0..num_tokens).map(position).collect();
        let pitch = shape.pitch() as usize;
        let q: Vec<f32> = (0..tokens.len() * pitch).map(|i| 2.0 * uniform(3, i as u64) - 1.0).collect();
        let (q_buffer, tokens_buffer) = (gpu.upload("q", &q), gpu.upload("tokens", &tokens));
        let output = gpu.storage("output", 4 * q.len() as u64);
        let splits = attention_decode::splits(&shape, scores.window);
        let scratch_bytes = match kernel {
            Kernel::Decode => AttentionDecode::scratch_bytes(num_tokens, &shape, splits),
            Kernel::Prefill => 0,
            Kernel::PrefillTile => attention_prefill_tile::scratch_bytes(num_tokens, &shape, scores.window),
            Kernel::PrefillMatrices => attention_prefill_matrices::scratch_bytes(num_tokens, &shape, scores.window),
        };
        let scratch = gpu.storage("scratch", scratch_bytes);
        let scratch: Binding<'_> = (&scratch).into();
        let bind = |pools: &[wgpu::Buffer; 2]| {
            let buffers = AttentionBuffers {
                q: (&q_buffer).into(),
                tokens: (&tokens_buffer).into(),
                pages: (&self.pages).into(),
                keys: (&pools[0]).into(),
                values: (&pools[1]).into(),
                sinks: None,
                output: (&output).into(),
            };
            let prefill = AttentionPrefill { num_tokens, shape, scores, buffers: buffers.clone() };
            match kernel {
                Kernel::Decode => {
                    AttentionDecode { num_tokens, shape, scores, splits, buffers, scratch: scratch.clone() }.bind(gpu)
                }
                Kernel::Prefill => Ok(vec![prefill.bind(gpu)?]),
                Kernel::PrefillTile => attention_prefill_tile::bind(gpu, &prefill, &scratch),
                Kernel::PrefillMatrices => attention_prefill_matrices::bind(gpu, &prefill, &scratch),
            }
        };
        let start = Instant::now();
        let dispatches: Vec<Dispatch> = self.pools.iter().map(bind).collect::<Result<Vec<_>, _>>()?.concat();
        // Encoding takes as long as a small kernel runs: it is over before the time is taken.
        let run = |rounds: usize| -> Result<f64, GpuError> {
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            let mut pass = encoder.begin_compute_pass(&Default::default());
            (0..rounds).for_each(|_| dispatches.iter().for_each(|dispatch| dispatch.encode(&mut pass)));
            drop(pass);
            let commands = encoder.finish();
            let start = Instant::now();
            gpu.queue.submit([commands]);
            pollster::block_on(gpu.read::<f32>(&output, 0, 1))?;
            Ok(start.elapsed().as_secs_f64())
        };
        let once = run(1)?;
        let compile = start.elapsed().as_secs_f64() - once;
        // The difference of many rounds and of one leaves out what a submission costs by itself.
        let rounds = (0.1 / once).clamp(2.0, 50.0) as usize;
        let mut best = f64::INFINITY;
        for _ in 0..3 {
            let (single, many) = (run(1)?, run(rounds)?);
            let precise = many > 1.5 * single;
            best = best.min(if precise { (many - single) / (rounds - 1) as f64 } else { many / rounds as f64 });
        }
        let layer = best / self.pools.len() as f64;
        let seen = |t: u32| f64::from((depth + t + 1).min(scores.window.unwrap_or(u32::MAX)));
        let pairs: f64 = (0..num_tokens).map(seen).sum();
        let flop = 4.0 * pairs * f64::from(shape.num_heads * shape.head_dim);
        let keys = f64::from(depth + num_tokens).min(seen(0) + f64::from(num_tokens));
        let bytes = keys * f64::from(shape.num_kv_heads * shape.head_dim) * 4.0;
        let differs = if check { self.check(kernel, &tokens, &q, &output)? } else { String::new() };
        println!(
            "{line:<46} {:>10.0} {:>11.1} {:>10.2} {:>9.2} {:>9.0} {differs}",
            compile * 1e3,
            layer * 1e6,
            best * 1e3,
            flop / layer * 1e-12,
            bytes / layer * 1e-9
        );
        Ok(())
    }

    /// The largest difference from the CPU twin among a few tokens.
    fn check(&self, kernel: Kernel, tokens: &[Token], q: &[f32], output: &wgpu::Buffer) -> Result<String, GpuError> {
        let found: Vec<f32> = pollster::block_on(self.gpu.read(output, 0, q.len()))?;
        let pitch = self.shape.pitch() as usize;
        let mut largest = 0f32;
        for t in [0, 1, tokens.len() / 3, tokens.len() / 2 + 1, tokens.len() - 1].map(|t| t.min(tokens.len() - 1)) {
            let expected = attention::cpu(self.scores, &self.cache, &tokens[t..=t], &q[t * pitch..][..pitch]);
            let pairs = found[t * pitch..].iter().zip(&expected);
            largest = pairs.fold(largest, |most, (a, b)| if a.is_nan() { f32::INFINITY } else { most.max((a - b).abs()) });
        }
        let verdict = if largest <= kernel.tolerance() { "" } else { " WRONG" };
        Ok(format!("differs by {largest:.1e}{verdict}"))
    }
}
