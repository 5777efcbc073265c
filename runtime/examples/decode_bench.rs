//! GPU time of the decode kernels on weights and caches that no cache of the GPU holds, by timestamps:
//! `cargo run -p haikuq-runtime --example decode_bench -- [--adapter NAME] [--model 3b,1b,135m,haiku] [--part qkv,…]
//! [--scheme q4/32,…] [--tokens 1,8] [--tuning exact,auto,…] [--layer] [--attention] [--depth 0,4096]`
//!
//! A tuning is `exact` (`matvec`), `matrices` (`matmul_matrices`), `auto` (`matvec_int8` as it is chosen) or its numbers:
//! `workgroup:lanes:bands:tokens:at_once:depth:rows:replicas:inline`; one for each part, with a `/` between them, or one for all. Each line has the time of the dispatches, GB/s of weights, and the
//! error against the product in f64, relative to its root mean square. `--layer` measures the parts in turns, as a step has
//! them: a kernel that runs once between others waits for its instructions.

use haikuq_format::layout::{PlaneKind, dequantize, padded, plane_sizes};
use haikuq_format::scheme::Scheme;
use haikuq_format::spec::{self, Activation, NormKind};
use haikuq_runtime::device::{Dispatch, Gpu, GpuError, GpuOptions};
use haikuq_runtime::kernels::attention::{self, AttentionBuffers, AttentionShape, CpuCache, PAGE, Scores, Token};
use haikuq_runtime::kernels::attention_decode::{self, AttentionDecode};
use haikuq_runtime::kernels::attention_split::{self, AttentionSplit, Combine};
use haikuq_runtime::kernels::matmul_matrices::MatmulMatrices;
use haikuq_runtime::kernels::matvec::{self, Cpu, Matvec, Norm};
use haikuq_runtime::kernels::matvec_int8::{MatvecInt8, Tuning};
use haikuq_runtime::kernels::norm::NormRows;
use haikuq_runtime::kernels::projection::{Output, Projection};
use haikuq_runtime::kernels::weights::{GpuChunk, GpuMatrix};
use half::f16;
use std::time::{Duration, Instant};

/// More than the caches of any GPU.
const COLD_BYTES: usize = 200 << 20;

/// At least so long is measured.
const WARM_UP: Duration = Duration::from_millis(250);

/// Rows that are compared with the CPU's.
const CHECKED: usize = 32;

struct Arguments(Vec<String>);

impl Arguments {
    fn list(&self, name: &str, default: &str) -> Vec<String> {
        let given = self.0.windows(2).find(|pair| pair[0] == name).map_or(default, |pair| &pair[1]);
        given.split(',').filter(|s| !s.is_empty()).map(str::to_string).collect()
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|a| a == name)
    }
}

/// hidden, inner, query heads, key/value heads, width of a head.
fn model(name: &str) -> (usize, usize, u32, u32, u32) {
    match name {
        "3b" => (3072, 8192, 24, 8, 128),
        "1b" => (2048, 8192, 32, 8, 64),
        "135m" => (576, 1536, 9, 3, 64),
        _ => (256, 688, 8, 4, 32),
    }
}

fn main() -> Result<(), GpuError> {
    let arguments = Arguments(std::env::args().collect());
    let adapter = arguments.list("--adapter", "").pop();
    let gpu = Gpu::open_blocking(&GpuOptions::new(adapter))?;
    println!("{} {:?}", gpu.description.name, gpu.profile);
    for name in arguments.list("--model", "3b") {
        if arguments.has("--attention") {
            attentions(&gpu, &arguments, &name)?;
        } else {
            products(&gpu, &arguments, &name)?;
        }
    }
    Ok(())
}

fn products(gpu: &Gpu, arguments: &Arguments, name: &str) -> Result<(), GpuError> {
    let (hidden, inner, heads, kv_heads, head_dim) = model(name);
    let qkv = ((heads + 2 * kv_heads) * head_dim) as usize;
    let parts = [
        ("qkv", qkv, hidden, true, Output::Store),
        ("out", hidden, (heads * head_dim) as usize, false, Output::Residual { multiplier: 1.0 }),
        ("gate_up", 2 * inner, hidden, true, Output::Glu(Activation::Silu)),
        ("down", hidden, inner, false, Output::Residual { multiplier: 1.0 }),
        ("head", 32768, hidden, true, Output::Logits { multiplier: 1.0, softcap: None }),
    ];
    let wanted = arguments.list("--part", "qkv,out,gate_up,down,head");
    let parts: Vec<_> = parts.into_iter().filter(|p| wanted.iter().any(|w| w == p.0)).collect();
    for scheme in arguments.list("--scheme", "q4/32") {
        let scheme: Scheme = scheme.parse().expect("a scheme");
        let matrices: Vec<_> = parts.iter().map(|(_, rows, columns, ..)| Matrices::new(gpu, scheme, *rows, *columns)).collect();
        for tokens in arguments.list("--tokens", "1") {
            let tokens: usize = tokens.parse().expect("a number of tokens");
            for tuning in arguments.list("--tuning", "exact,auto") {
                let mut layer = Vec::new();
                let tunings = tuning.split('/').cycle();
                for ((m, (part, rows, columns, normed, mode)), own) in matrices.iter().zip(&parts).zip(tunings) {
                    let case = Product { matrices: &m.copies, weights: &m.weights, tokens, normed: *normed, mode: *mode };
                    let label = format!("{name} {part} {rows}×{columns} {scheme} T={tokens} {tuning}");
                    match case.bind(gpu, own) {
                        Ok((dispatches, _)) if arguments.has("--layer") => layer.push(dispatches),
                        Ok((dispatches, error)) => {
                            let seconds = time(gpu, &dispatches)?;
                            let speed = m.bytes as f64 / seconds * 1e-9;
                            println!("{label:<70} {:>8.2} µs {speed:>8.0} GB/s  error {error:.5}", seconds * 1e6);
                        }
                        Err(error) => println!("{label:<70} {error}"),
                    }
                }
                if layer.len() == parts.len() {
                    let most = layer.iter().map(Vec::len).max().unwrap_or(0);
                    let run = |i: usize| layer.iter().flat_map(|part| part[i % part.len()].clone()).collect::<Vec<_>>();
                    let seconds = time(gpu, &(0..most).map(run).collect::<Vec<_>>())?;
                    println!("{:<70} {:>8.2} µs", format!("{name} layer {scheme} T={tokens} {tuning}"), seconds * 1e6);
                }
            }
        }
    }
    Ok(())
}

/// Copies of a matrix that together are larger than the GPU's caches.
struct Matrices {
    copies: Vec<GpuMatrix>,
    bytes: usize,
    /// The first [`CHECKED`] rows.
    weights: Vec<f32>,
}

impl Matrices {
    fn new(gpu: &Gpu, scheme: Scheme, rows: usize, columns: usize) -> Self {
        let planes = random_planes(scheme, rows, columns);
        let bytes: usize = planes.iter().map(|(_, words)| 4 * words.len()).sum();
        let chunks = || vec![GpuChunk::upload(gpu, 0, rows, &planes)];
        let copies = 0..COLD_BYTES.div_ceil(bytes).min(400);
        let copies = copies.map(|_| GpuMatrix { scheme, rows, columns, chunks: chunks(), lookup: None }).collect();
        Self { copies, bytes, weights: first_rows(scheme, rows, columns, &planes) }
    }
}

struct Product<'a> {
    matrices: &'a [GpuMatrix],
    /// The first [`CHECKED`] rows.
    weights: &'a [f32],
    tokens: usize,
    normed: bool,
    mode: Output,
}

impl Product<'_> {
    /// The dispatches of every copy, and the error of the first one's result.
    fn bind(&self, gpu: &Gpu, tuning: &str) -> Result<(Vec<Vec<Dispatch>>, f64), GpuError> {
        let (tokens, rows, columns) = (self.tokens, self.matrices[0].rows, self.matrices[0].columns);
        let stride = padded(columns);
        let mut random = Random(7);
        let x: Vec<f32> = (0..tokens * stride).map(|i| if i % stride < columns { random.normal() } else { 0.0 }).collect();
        let gain: Vec<f32> = (0..stride).map(|_| 1.0 + 0.2 * random.normal()).collect();
        let (x_buffer, gain_buffer) = (gpu.upload("x", &x), gpu.upload("gain", &gain));
        let normed_buffer = gpu.storage("normed", (4 * x.len()) as u64);
        let width = self.mode.width(rows);
        let y = gpu.storage("y", (4 * tokens * width) as u64);
        let scratch = gpu.storage("scratch", (2 * tokens * stride + 65536) as u64);
        let bind = |matrix| {
            let projection = Projection {
                matrix,
                input: (&x_buffer).into(),
                input_stride: stride,
                output: (&y).into(),
                output_stride: width,
                tokens,
                bias: None,
                mode: self.mode,
                times: None,
            };
            let norm = self.normed.then(|| Norm { gain: (&gain_buffer).into(), epsilon: 1e-5 });
            if tuning == "exact" {
                return Matvec { projection, norm }.bind(gpu);
            }
            if tuning == "matrices" {
                let normed = NormRows {
                    tokens: tokens as u32,
                    columns: columns as u32,
                    norm: spec::Norm { kind: NormKind::Rms, epsilon: 1e-5 },
                    x: (&x_buffer).into(),
                    gain: (&gain_buffer).into(),
                    bias: None,
                    residual: None,
                    scale: None,
                    y: (&normed_buffer).into(),
                };
                let mut dispatches = Vec::new();
                let mut projection = projection;
                if self.normed {
                    dispatches.push(normed.bind(gpu)?);
                    projection.input = (&normed_buffer).into();
                }
                dispatches.extend(MatmulMatrices { projection, scratch: (&scratch).into(), tile: None }.bind(gpu)?);
                return Ok(dispatches);
            }
            let numbers: Vec<u32> = tuning.split(':').filter_map(|n| n.parse().ok()).collect();
            let tuning = match numbers[..] {
                [workgroup, lanes, bands, tokens_a_lane, at_once, depth, rows, replicas, inline] => Some(Tuning {
                    workgroup,
                    lanes,
                    bands,
                    tokens: tokens_a_lane,
                    at_once,
                    depth,
                    rows,
                    replicas,
                    inline: inline == 1,
                }),
                _ => None,
            };
            MatvecInt8 { projection, norm, heads: None, scratch: Some((&scratch).into()), tuning }.bind(gpu)
        };
        let first = bind(&self.matrices[0])?;
        gpu.run(&first.iter().collect::<Vec<_>>());
        let found = pollster::block_on(gpu.read::<f32>(&y, 0, width))?;
        let mut expected = vec![0.0; self.mode.width(CHECKED)];
        let arguments = Cpu {
            weights: self.weights,
            columns,
            input: &x[..columns],
            norm: self.normed.then(|| (&gain[..columns], 1e-5)),
            bias: None,
            mode: self.mode,
        };
        matvec::cpu(&arguments, &mut expected);
        let dispatches = self.matrices.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
        Ok((dispatches, relative_error(&found, &expected)))
    }
}

fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = found.iter().zip(expected).map(|(a, b)| square(f64::from(a - b))).sum();
    (error / expected.iter().map(|b| square(f64::from(*b))).sum::<f64>()).sqrt()
}

/// Seconds of GPU time of one of `runs`, gone round in one pass: the best of at least four.
fn time(gpu: &Gpu, runs: &[Vec<Dispatch>]) -> Result<f64, GpuError> {
    let times = runs.len().max(100);
    let queries =
        gpu.device.create_query_set(&wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count: 2 });
    let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
    let resolved = gpu.device.create_buffer(&wgpu::BufferDescriptor { label: None, size: 16, usage, mapped_at_creation: false });
    let mut best = f64::INFINITY;
    // A GPU that was idle runs slowly for some tenths of a second.
    let started = Instant::now();
    let mut round = 0;
    while round < 4 || started.elapsed() < WARM_UP {
        round += 1;
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        let timestamp_writes = Some(wgpu::ComputePassTimestampWrites {
            query_set: &queries,
            beginning_of_pass_write_index: Some(0),
            end_of_pass_write_index: Some(1),
        });
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
        runs.iter().cycle().take(times).flatten().for_each(|dispatch| dispatch.encode(&mut pass));
        drop(pass);
        encoder.resolve_query_set(&queries, 0..2, &resolved, 0);
        gpu.queue.submit([encoder.finish()]);
        let ticks = pollster::block_on(gpu.read::<u64>(&resolved, 0, 2))?;
        let seconds = (ticks[1] - ticks[0]) as f64 * f64::from(gpu.queue.get_timestamp_period()) * 1e-9;
        best = best.min(seconds / times as f64);
    }
    Ok(best)
}

/// Planes of random codes, scales around 0.01 and a table like that of normally distributed weights.
fn random_planes(scheme: Scheme, rows: usize, columns: usize) -> Vec<(PlaneKind, Vec<u32>)> {
    let mut random = Random(3);
    let sizes = plane_sizes(scheme, rows, columns);
    let e4m4 = matches!(scheme, Scheme::Grouped(g) if g.scale == haikuq_format::scheme::ScaleType::E4M4);
    sizes
        .iter()
        .map(|size| {
            let half = |x: f32| u32::from(f16::from_f32(x).to_bits());
            let mut word = || match size.kind {
                PlaneKind::Codes | PlaneKind::HighBits => random.next(),
                PlaneKind::Scales if e4m4 => 0x8080_8080 + (random.next() & 0x0f0f_0f0f),
                PlaneKind::Scales => half(0.01) * 0x1_0001 + (random.next() & 0x003f_003f),
                PlaneKind::Offsets if scheme.to_string().contains("f16") => half(-0.08) * 0x1_0001,
                PlaneKind::Offsets => 0x8787_7878,
                PlaneKind::Values => half(0.01) * 0x1_0001 + (random.next() & 0x803f_803f),
                PlaneKind::Codebook => 0,
            };
            let mut words: Vec<u32> = (0..size.words).map(|_| word()).collect();
            if size.kind == PlaneKind::Codebook {
                let n = words.len() as f32;
                let value = |i: usize| ((i as f32 + 0.5) / n * 2.0 - 1.0 + 0.013 * (i as f32).sin()) * 2.0;
                words.iter_mut().enumerate().for_each(|(i, w)| *w = value(i).to_bits());
            }
            (size.kind, words)
        })
        .collect()
}

/// The first [`CHECKED`] rows, dequantized.
fn first_rows(scheme: Scheme, rows: usize, columns: usize, planes: &[(PlaneKind, Vec<u32>)]) -> Vec<f32> {
    assert!(rows >= CHECKED);
    let sizes = plane_sizes(scheme, CHECKED, columns);
    let part: Vec<(PlaneKind, &[u32])> =
        planes.iter().zip(&sizes).map(|((kind, words), size)| (*kind, &words[..size.words])).collect();
    dequantize(scheme, CHECKED, columns, &part)
}

fn attentions(gpu: &Gpu, arguments: &Arguments, name: &str) -> Result<(), GpuError> {
    let (_, _, num_heads, num_kv_heads, head_dim) = model(name);
    for depth in arguments.list("--depth", "0,4096") {
        let depth: usize = depth.parse().expect("a depth");
        let max_pages = (8192usize.max(depth + 1)).div_ceil(PAGE) as u32;
        let shape = AttentionShape { num_heads, num_kv_heads, head_dim, max_pages, cache_f16: true };
        for tokens in arguments.list("--tokens", "1") {
            let tokens: u32 = tokens.parse().expect("a number of tokens");
            attention(gpu, arguments, &format!("{name} attention depth {depth} T={tokens}"), shape, depth, tokens)?;
        }
    }
    Ok(())
}

fn attention(
    gpu: &Gpu,
    arguments: &Arguments,
    label: &str,
    shape: AttentionShape,
    depth: usize,
    num_tokens: u32,
) -> Result<(), GpuError> {
    let mut random = Random(5);
    let used = depth / PAGE + 1;
    let count = num_tokens as usize * used;
    // Pages of a sequence are neighbours here, as they are where sequences were made one after the other.
    let mut pages = vec![0u32; (num_tokens * shape.max_pages) as usize];
    for t in 0..num_tokens as usize {
        (0..used).for_each(|p| pages[t * shape.max_pages as usize + p] = (t * used + p) as u32);
    }
    let mut cache = CpuCache::new(shape, pages, count);
    let rounded = |x: f32| f16::from_f32(x).to_f32();
    cache.keys.iter_mut().chain(&mut cache.values).for_each(|x| *x = rounded(random.normal()));
    let halves = |x: &[f32]| x.iter().map(|x| f16::from_f32(*x)).collect::<Vec<_>>();
    let (keys, values) = (halves(&cache.keys), halves(&cache.values));
    let bytes = 2 * 2 * keys.len();
    let copies = COLD_BYTES.div_ceil(bytes).min(200);
    let pools: Vec<_> = (0..copies).map(|_| (gpu.upload("keys", &keys), gpu.upload("values", &values))).collect();
    let tokens: Vec<Token> = (0..num_tokens).map(|s| Token { id: 0, position: depth as u32, sequence: s, long: 0 }).collect();
    let q: Vec<f32> = (0..num_tokens * shape.pitch()).map(|_| random.normal()).collect();
    let scores = Scores { scale: 1.0 / (shape.head_dim as f32).sqrt(), window: None, softcap: None };
    let expected = attention::cpu(scores, &cache, &tokens, &q);
    let (q_buffer, token_buffer, page_buffer) =
        (gpu.upload("q", &q), gpu.upload("tokens", &tokens), gpu.upload("pages", &cache.pages));
    let output = gpu.storage("output", 4 * q.len() as u64);
    let scratch = gpu.storage("scratch", 64 << 20);
    for tuning in arguments.list("--tuning", "exact,auto") {
        let bind = |pool: &(wgpu::Buffer, wgpu::Buffer)| -> Result<Vec<Dispatch>, GpuError> {
            let buffers = AttentionBuffers {
                q: (&q_buffer).into(),
                tokens: (&token_buffer).into(),
                pages: (&page_buffer).into(),
                keys: (&pool.0).into(),
                values: (&pool.1).into(),
                sinks: None,
                output: (&output).into(),
            };
            let scratch = (&scratch).into();
            if tuning == "exact" {
                let splits = attention_decode::splits(&shape, None);
                return AttentionDecode { num_tokens, shape, scores, splits, buffers, scratch }.bind(gpu);
            }
            let numbers: Vec<u32> = tuning.split(':').filter_map(|n| n.parse().ok()).collect();
            let (splits, least_pages) = match numbers[..] {
                [splits, least] => (splits, least),
                _ => (attention_split::splits(&gpu.profile, &shape, None), attention_split::LEAST_PAGES),
            };
            let combine = if tuning == "apart" { Combine::Apart } else { Combine::Last };
            AttentionSplit { num_tokens, shape, scores, splits, least_pages, combine, buffers, scratch }.bind(gpu)
        };
        let mut zero = gpu.device.create_command_encoder(&Default::default());
        zero.clear_buffer(&scratch, 0, None);
        gpu.queue.submit([zero.finish()]);
        let dispatches = match pools.iter().map(bind).collect::<Result<Vec<_>, _>>() {
            Ok(dispatches) => dispatches,
            Err(error) => {
                println!("{label} {tuning}: {error}");
                continue;
            }
        };
        let seconds = time(gpu, &dispatches)?;
        let found = pollster::block_on(gpu.read::<f32>(&output, 0, q.len()))?;
        println!(
            "{:<70} {:>8.2} µs {:>8.0} GB/s  error {:.6}",
            format!("{label} {tuning}"),
            seconds * 1e6,
            bytes as f64 / seconds * 1e-9,
            relative_error(&found, &expected)
        );
    }
    Ok(())
}

/// A xorshift generator: the same numbers on every run.
struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0.wrapping_mul(0x9e37_79b1)
    }

    /// About normal: the sum of four uniform numbers, of variance 1.
    fn normal(&mut self) -> f32 {
        let sum: f32 = (0..4).map(|_| (self.next() >> 8) as f32 / (1u32 << 24) as f32 - 0.5).sum();
        sum * 3f32.sqrt()
    }
}
