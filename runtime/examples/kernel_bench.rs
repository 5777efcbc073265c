//! Speed of the weight kernels on any adapter:
//! `cargo run --release -p haikuq-runtime --example kernel_bench -- [--adapter NAME] [--filter TEXT]… [--medium | --large]
//! [--cold]`
//!
//! Prints, for each kernel, scheme and shape, the time to compile, the time of a dispatch, GFLOP/s and GB/s of weights;
//! only lines that contain every `--filter`. Learned codebooks are measured with each [`Lookup`], named in brackets.
//!
//! Shapes are those of a 7M-parameter decoder (hidden 256), with `--medium` of SmolLM2-135M (hidden 576), with `--large` of a
//! 3B one (hidden 3072). `--cold` goes round as many copies of a matrix as no cache holds, as decoding does.

use haikuq_format::layout::{QuantizedRows, Scales, groups, pack_f16, pack_f32, pack_quantized, padded, plane_sizes};
use haikuq_format::scheme::{Codebook, Grouped, Offset, Scheme};
use haikuq_format::spec::Activation;
use haikuq_runtime::device::{Dispatch, Gpu, GpuError, GpuOptions};
use haikuq_runtime::kernels::matmul::Matmul;
use haikuq_runtime::kernels::matvec::{Matvec, Norm};
use haikuq_runtime::kernels::projection::{Output, Projection};
use haikuq_runtime::kernels::weights::{GpuChunk, GpuMatrix, Lookup};
use half::f16;
use std::time::{Duration, Instant};

/// More than the caches of any GPU.
const COLD_BYTES: usize = 256 << 20;

const SCHEMES: [&str; 20] = [
    "q5/32",
    "q5/32:e4m4 learned",
    "q5/64:e4m4 learned",
    "q4/32",
    "q4/32 learned",
    "q4/32:e4m4 learned",
    "q4/64",
    "q4/64 learned",
    "q4/64:e4m4 learned",
    "q3/32",
    "q3/32 learned",
    "q3/32:e4m4 learned",
    "q3/64",
    "q3/64 learned",
    "q3/64:e4m4 learned",
    "q4/64+u4",
    "q3/64+f16",
    "q8/32",
    "f16",
    "f32",
];

fn main() -> Result<(), GpuError> {
    let arguments: Vec<String> = std::env::args().collect();
    let after =
        |name: &str| -> Vec<String> { arguments.windows(2).filter(|pair| pair[0] == name).map(|pair| pair[1].clone()).collect() };
    let has = |name: &str| arguments.iter().any(|a| a == name);
    let filters = after("--filter");
    let gpu = Gpu::open_blocking(&GpuOptions::new(after("--adapter").pop()))?;
    println!("{} ({}), {}", gpu.description.name, gpu.description.backend, gpu.description.driver);
    println!("{:<64} {:>10} {:>10} {:>9} {:>9}", "kernel", "compile ms", "run µs", "GFLOP/s", "GB/s");
    for scheme in SCHEMES.map(|text| text.parse::<Scheme>().expect("a scheme")) {
        let shapes = shapes(has("--medium"), has("--large"));
        for (name, rows, columns, mode) in shapes {
            let mut copies: Vec<GpuMatrix> = Vec::new();
            for (lookup, label) in lookups(&gpu, scheme) {
                for tokens in [1, 4, 8, 512] {
                    let kernel = if tokens > 8 { "matmul" } else { "matvec" };
                    let line = format!("{kernel} {scheme}{label} {name} {rows}×{columns} T={tokens}");
                    if !filters.iter().all(|filter| line.contains(filter)) {
                        continue;
                    }
                    if copies.is_empty() {
                        let count = if has("--cold") { COLD_BYTES.div_ceil(bytes(scheme, rows, columns)) } else { 1 };
                        copies = matrices(&gpu, scheme, rows, columns, count);
                    }
                    copies.iter_mut().for_each(|m| m.lookup = lookup);
                    bench(&gpu, &line, &copies, mode, tokens)?;
                }
            }
        }
    }
    Ok(())
}

/// Where the codebook may lie, and how lines say it.
fn lookups(gpu: &Gpu, scheme: Scheme) -> Vec<(Option<Lookup>, String)> {
    match scheme {
        Scheme::Grouped(Grouped { codebook: Codebook::Learned, .. }) => {
            let works = Lookup::ALL.into_iter().filter(|l| l.works(gpu));
            works.map(|l| (Some(l), format!(" [{l:?}]"))).collect()
        }
        _ => vec![(None, String::new())],
    }
}

fn shapes(medium: bool, large: bool) -> Vec<(&'static str, usize, usize, Output)> {
    let (hidden, intermediate, qkv, vocabulary) = match (medium, large) {
        (false, false) => (256, 768, 512, 4096),
        (true, _) => (576, 1536, 960, 49152),
        (_, true) => (3072, 8192, 5120, 16384),
    };
    vec![
        ("qkv", qkv, hidden, Output::Store),
        ("down", hidden, intermediate, Output::Residual { multiplier: 1.0 }),
        ("gate_up", 2 * intermediate, hidden, Output::Glu(Activation::Silu)),
        ("head", vocabulary, hidden, Output::Logits { multiplier: 1.0, softcap: None }),
    ]
}

fn bytes(scheme: Scheme, rows: usize, columns: usize) -> usize {
    plane_sizes(scheme, rows, columns).iter().map(|p| 4 * p.words).sum()
}

/// Equal matrices, each with memory of its own.
fn matrices(gpu: &Gpu, scheme: Scheme, rows: usize, columns: usize, copies: usize) -> Vec<GpuMatrix> {
    let planes = match scheme {
        Scheme::F32 => pack_f32(rows, columns, &vec![0.01; rows * columns]),
        Scheme::F16 => pack_f16(rows, columns, &vec![0.01; rows * columns]),
        Scheme::Grouped(g) => {
            let n = rows * groups(columns, g.group);
            let block = QuantizedRows {
                // As good as random: neighbouring invocations look up different values.
                codes: (0..rows * padded(columns))
                    .map(|i| ((i as u32).wrapping_mul(0x9e37_79b9).rotate_left(g.bits.get()) % g.bits.levels()) as u8)
                    .collect(),
                scales: Scales::nearest(g.scale, vec![0.01; n]),
                zero_points: if g.offset == Offset::U4 { vec![7; n] } else { vec![] },
                offsets: if g.offset == Offset::F16 { vec![f16::from_f32(0.02); n] } else { vec![] },
                codebook: if g.codebook == Codebook::Learned {
                    (0..g.bits.levels()).map(|c| c as f32 * 0.1).collect()
                } else {
                    vec![]
                },
            };
            pack_quantized(g, rows, columns, &block)
        }
    };
    let upload = |_| GpuMatrix { scheme, rows, columns, chunks: vec![GpuChunk::upload(gpu, 0, rows, &planes)], lookup: None };
    (0..copies).map(upload).collect()
}

fn bench(gpu: &Gpu, line: &str, matrices: &[GpuMatrix], mode: Output, tokens: usize) -> Result<(), GpuError> {
    let (scheme, rows, columns) = (matrices[0].scheme, matrices[0].rows, matrices[0].columns);
    let x = gpu.upload("x", &vec![0.5f32; tokens * padded(columns)]);
    let gain = gpu.upload("gain", &vec![1f32; padded(columns)]);
    let y = gpu.storage("y", (4 * tokens * rows) as u64);
    let bind = |matrix: &GpuMatrix| {
        let projection = Projection {
            matrix,
            input: (&x).into(),
            input_stride: padded(columns),
            output: (&y).into(),
            output_stride: rows,
            tokens,
            bias: None,
            mode,
            times: None,
        };
        if tokens > 8 {
            Matmul { projection }.bind(gpu)
        } else {
            Matvec { projection, norm: Some(Norm { gain: (&gain).into(), epsilon: 1e-5 }) }.bind(gpu)
        }
    };
    let start = Instant::now();
    let dispatches: Vec<Dispatch> = matrices.iter().map(bind).collect::<Result<Vec<_>, _>>()?.concat();
    // Encoding takes as long as a small kernel runs: it is over before the time is taken.
    let run = |times: usize| -> Result<Duration, GpuError> {
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        dispatches.iter().cycle().take(times).for_each(|dispatch| dispatch.encode(&mut pass));
        drop(pass);
        let commands = encoder.finish();
        let start = Instant::now();
        gpu.queue.submit([commands]);
        pollster::block_on(gpu.read::<f32>(&y, 0, 1))?;
        Ok(start.elapsed())
    };
    run(1)?;
    let compile = start.elapsed();
    // Enough runs for a tenth of a second, the best of five.
    let once = run(1)?.min(run(1)?);
    let times = (0.1 / once.as_secs_f64()).clamp(1.0, 4000.0) as usize;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        best = best.min(run(times)?.as_secs_f64() / times as f64);
    }
    let flop = 2.0 * (rows * columns * tokens) as f64;
    println!(
        "{line:<64} {:>10.0} {:>10.1} {:>9.2} {:>9.2}",
        compile.as_secs_f64() * 1e3,
        best * 1e6,
        flop / best * 1e-9,
        bytes(scheme, rows, columns) as f64 / best * 1e-9
    );
    Ok(())
}
