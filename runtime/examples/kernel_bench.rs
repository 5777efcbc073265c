//! Speed of the weight kernels on any adapter:
//! `cargo run --release -p haikuq-runtime --example kernel_bench -- [--adapter NAME] [--filter TEXT] [--large]`
//!
//! Prints, for each kernel, scheme and shape, the time to compile, the time of a dispatch, GFLOP/s and GB/s of weights.
//! Shapes are those of a 7M-parameter decoder (hidden 256), with `--large` of a 3B one (hidden 3072).

use haikuq_format::layout::{QuantizedRows, Scales, groups, pack_f16, pack_f32, pack_quantized, padded, plane_sizes};
use haikuq_format::scheme::{Bits, Codebook, Grouped, Offset, ScaleType, Scheme};
use haikuq_format::spec::Activation;
use haikuq_runtime::gpu::{Dispatch, Gpu, GpuError, GpuOptions};
use haikuq_runtime::kernels::matmul::Matmul;
use haikuq_runtime::kernels::matvec::{Matvec, Norm};
use haikuq_runtime::kernels::projection::{Output, Projection};
use haikuq_runtime::kernels::weights::{GpuChunk, GpuMatrix};
use half::f16;
use std::time::{Duration, Instant};

fn main() -> Result<(), GpuError> {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |name: &str| arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1)).cloned();
    let filter = after("--filter").unwrap_or_default();
    let large = arguments.iter().any(|a| a == "--large");
    let gpu = Gpu::open_blocking(&GpuOptions { adapter: after("--adapter"), ..Default::default() })?;
    println!("{} ({}), {}", gpu.description.name, gpu.description.backend, gpu.description.driver);
    println!("{:<44} {:>10} {:>10} {:>9} {:>9}", "kernel", "compile ms", "run µs", "GFLOP/s", "GB/s");
    for scheme in schemes() {
        for (name, rows, columns, mode) in shapes(large) {
            let matrix = matrix(&gpu, scheme, rows, columns);
            for tokens in [1, 4, 8, 512] {
                let kernel = if tokens > 8 { "matmul" } else { "matvec" };
                let line = format!("{kernel} {scheme} {name} {rows}×{columns} T={tokens}");
                if line.contains(&filter) {
                    bench(&gpu, &line, &matrix, mode, tokens)?;
                }
            }
        }
    }
    Ok(())
}

fn schemes() -> [Scheme; 7] {
    let grouped =
        |bits, group, offset, codebook| Scheme::Grouped(Grouped { bits, group, scale: ScaleType::F16, offset, codebook });
    [
        grouped(Bits::B4, 32, Offset::None, Codebook::Uniform),
        grouped(Bits::B4, 64, Offset::U4, Codebook::Uniform),
        grouped(Bits::B4, 32, Offset::None, Codebook::Learned),
        grouped(Bits::B3, 64, Offset::F16, Codebook::Uniform),
        grouped(Bits::B8, 32, Offset::None, Codebook::Uniform),
        Scheme::F16,
        Scheme::F32,
    ]
}

fn shapes(large: bool) -> Vec<(&'static str, usize, usize, Output)> {
    let (hidden, intermediate, qkv, vocabulary) = if large { (3072, 8192, 5120, 16384) } else { (256, 768, 512, 4096) };
    vec![
        ("qkv", qkv, hidden, Output::Store),
        ("down", hidden, intermediate, Output::Residual { multiplier: 1.0 }),
        ("gate_up", 2 * intermediate, hidden, Output::Glu(Activation::Silu)),
        ("head", vocabulary, hidden, Output::Logits { multiplier: 1.0, softcap: None }),
    ]
}

fn matrix(gpu: &Gpu, scheme: Scheme, rows: usize, columns: usize) -> GpuMatrix {
    let planes = match scheme {
        Scheme::F32 => pack_f32(rows, columns, &vec![0.01; rows * columns]),
        Scheme::F16 => pack_f16(rows, columns, &vec![0.01; rows * columns]),
        Scheme::Grouped(g) => {
            let n = rows * groups(columns, g.group);
            let block = QuantizedRows {
                codes: (0..rows * padded(columns)).map(|i| (i % 7) as u8).collect(),
                scales: Scales::nearest(g.scale, vec![0.01; n]),
                zero_points: if g.offset == Offset::U4 { vec![7; n] } else { vec![] },
                offsets: if g.offset == Offset::F16 { vec![f16::from_f32(0.02); n] } else { vec![] },
                codebook: if g.codebook == Codebook::Learned { vec![0.5; g.bits.levels() as usize] } else { vec![] },
            };
            pack_quantized(g, rows, columns, &block)
        }
    };
    GpuMatrix { scheme, rows, columns, chunks: vec![GpuChunk::upload(gpu, 0, rows, &planes)] }
}

fn bench(gpu: &Gpu, line: &str, matrix: &GpuMatrix, mode: Output, tokens: usize) -> Result<(), GpuError> {
    let (rows, columns) = (matrix.rows, matrix.columns);
    let x = gpu.upload("x", &vec![0.5f32; tokens * padded(columns)]);
    let gain = gpu.upload("gain", &vec![1f32; padded(columns)]);
    let y = gpu.storage("y", (4 * tokens * rows) as u64);
    let projection = Projection {
        matrix,
        input: (&x).into(),
        input_stride: padded(columns),
        output: (&y).into(),
        output_stride: rows,
        tokens,
        bias: None,
        mode,
    };
    let start = Instant::now();
    let dispatches = if tokens > 8 {
        Matmul { projection }.bind(gpu)?
    } else {
        Matvec { projection, norm: Some(Norm { gain: (&gain).into(), epsilon: 1e-5 }) }.bind(gpu)?
    };
    let run = |times: usize| -> Result<Duration, GpuError> {
        let start = Instant::now();
        let all: Vec<&Dispatch> = (0..times).flat_map(|_| &dispatches).collect();
        gpu.run(&all);
        pollster::block_on(gpu.read::<f32>(&y, 0, 1))?;
        Ok(start.elapsed())
    };
    run(1)?;
    let compile = start.elapsed();
    // Enough runs for a tenth of a second, the best of five.
    let once = run(1)?.min(run(1)?);
    let times = (0.1 / once.as_secs_f64()).clamp(1.0, 1000.0) as usize;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        best = best.min(run(times)?.as_secs_f64() / times as f64);
    }
    let flop = 2.0 * (rows * columns * tokens) as f64;
    let bytes: usize = plane_sizes(matrix.scheme, rows, columns).iter().map(|p| 4 * p.words).sum();
    println!(
        "{line:<44} {:>10.0} {:>10.0} {:>9.2} {:>9.2}",
        compile.as_secs_f64() * 1e3,
        best * 1e6,
        flop / best * 1e-9,
        bytes as f64 / best * 1e-9
    );
    Ok(())
}
