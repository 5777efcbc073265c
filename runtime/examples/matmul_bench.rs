//! Speed of every way of multiplying a matrix with a prompt's activations, by the GPU's own clock:
//! `cargo run --release -p haikuq-runtime --example matmul_bench -- [--adapter NAME] [--candidate NAME]… [--scheme TEXT]…
//! [--tokens N]… [--model 3b|1b|tiny] [--shape NAME]… [--all-tiles] [--matrices-tile 4.2.1/4]… [--int8-tile 2/4]…`
//!
//! Prints, for each candidate, scheme, shape and number of tokens, the time of a product (with that of narrowing its
//! activations), TFLOP/s, and by how much the result differs from products in f64: the root of the mean squared difference
//! as a share of that of the results, over some rows and tokens. Then what all products of the model would take. Weights
//! are cold: dispatches go round as many copies of a matrix as no cache holds.

use haikuq_format::layout::{PlaneBuffers, PlaneKind, dequantize, padded, plane_sizes};
use haikuq_format::scheme::{Offset, ScaleType, Scheme};
use haikuq_runtime::device::{Dispatch, Gpu, GpuError, GpuOptions};
use haikuq_runtime::kernels::matmul::Matmul;
use haikuq_runtime::kernels::matmul_int8::{self, MatmulInt8};
use haikuq_runtime::kernels::matmul_matrices::{self, MatmulMatrices};
use haikuq_runtime::kernels::matmul_tile::MatmulTile;
use haikuq_runtime::kernels::projection::{Output, Projection};
use haikuq_runtime::kernels::weights::{GpuChunk, GpuMatrix};
use half::f16;
use std::collections::BTreeMap;

/// More than the caches of any GPU.
const COLD_BYTES: usize = 256 << 20;

const SCHEMES: [&str; 5] = ["q4/32+u4", "q4/32:e4m4 learned", "q3/32:e4m4 learned", "q8/32", "f16"];

/// A candidate, with one of its tiles if not its own choice.
#[derive(Clone, Copy, Debug)]
enum Candidate {
    Matmul,
    Tile,
    Int8(Option<matmul_int8::Tile>),
    Matrices(Option<matmul_matrices::Tile>),
}

impl Candidate {
    fn all(tiles: bool) -> Vec<Self> {
        let mut all = vec![Self::Matmul, Self::Tile, Self::Int8(None), Self::Matrices(None)];
        if tiles {
            use matmul_matrices::Tile;
            let shared = [(1, 8), (1, 4), (1, 2), (2, 4), (2, 2), (4, 2), (4, 1)];
            all.extend(shared.map(|(bands, columns)| Self::Int8(Some(matmul_int8::Tile { bands, columns }))));
            let named = [Tile::LARGE, Tile::SMALL, Tile::SMALLER, Tile::SMALLEST];
            all.extend(named.map(|tile| Self::Matrices(Some(tile))));
        }
        all
    }

    fn name(self) -> String {
        match self {
            Self::Matmul => "matmul".into(),
            Self::Tile => "matmul_tile".into(),
            Self::Int8(None) => "matmul_int8".into(),
            Self::Int8(Some(t)) => format!("matmul_int8 {}/{}", t.bands, t.columns),
            Self::Matrices(None) => "matmul_matrices".into(),
            Self::Matrices(Some(t)) => {
                format!("matmul_matrices {}.{}.{}/{}", t.row_bands, t.token_bands, t.column_bands, t.blocks)
            }
        }
    }

    fn fits(self, gpu: &Gpu, scheme: Scheme) -> bool {
        match self {
            Self::Matmul | Self::Tile => true,
            Self::Int8(_) => matmul_int8::fits(&gpu.profile, scheme),
            Self::Matrices(_) => matmul_matrices::fits(&gpu.profile, scheme),
        }
    }

    fn bind(self, gpu: &Gpu, projection: Projection<'_>, scratch: &wgpu::Buffer) -> Result<Vec<Dispatch>, GpuError> {
        let scratch = scratch.into();
        match self {
            Self::Matmul => Matmul { projection }.bind(gpu),
            Self::Tile => MatmulTile { projection }.bind(gpu),
            Self::Int8(tile) => MatmulInt8 { projection, scratch, tile }.bind(gpu),
            Self::Matrices(tile) => MatmulMatrices { projection, scratch, tile }.bind(gpu),
        }
    }
}

fn main() -> Result<(), GpuError> {
    let arguments: Vec<String> = std::env::args().collect();
    let after =
        |name: &str| -> Vec<String> { arguments.windows(2).filter(|pair| pair[0] == name).map(|pair| pair[1].clone()).collect() };
    let or = |values: Vec<String>, otherwise: &[&str]| {
        if values.is_empty() { otherwise.iter().map(|s| (*s).to_string()).collect() } else { values }
    };
    let gpu = Gpu::open_blocking(&GpuOptions::new(after("--adapter").pop()))?;
    println!("{} ({}), {}", gpu.description.name, gpu.description.backend, gpu.description.driver);
    if !gpu.profile.timestamps {
        println!("This device has no timestamps.");
        return Ok(());
    }
    let (layers, shapes) = model(&or(after("--model"), &["3b"])[0]);
    let wanted = after("--shape");
    let wanted_candidates = after("--candidate");
    let tokens: Vec<usize> = or(after("--tokens"), &["512"]).iter().map(|t| t.parse().expect("a number of tokens")).collect();
    let mut candidates = Candidate::all(arguments.iter().any(|a| a == "--all-tiles"));
    for tile in after("--matrices-tile") {
        let n: Vec<u32> = tile.split(['.', '/']).map(|n| n.parse().expect("a number")).collect();
        let tile = matmul_matrices::Tile { row_bands: n[0], token_bands: n[1], column_bands: n[2], blocks: n[3] };
        candidates.push(Candidate::Matrices(Some(tile)));
    }
    for tile in after("--int8-tile") {
        let n: Vec<u32> = tile.split('/').map(|n| n.parse().expect("a number")).collect();
        candidates.push(Candidate::Int8(Some(matmul_int8::Tile { bands: n[0], columns: n[1] })));
    }
    println!(
        "{:<28} {:<20} {:<10} {:>6} {:>10} {:>9} {:>10}",
        "candidate", "scheme", "shape", "tokens", "µs", "TFLOP/s", "error"
    );
    for scheme in or(after("--scheme"), &SCHEMES).iter().map(|text| text.parse::<Scheme>().expect("a scheme")) {
        let mut totals: BTreeMap<(String, usize), f64> = BTreeMap::new();
        for (name, rows, columns) in shapes.iter().filter(|s| wanted.is_empty() || wanted.iter().any(|w| w == s.0)) {
            let matrix = Matrix::new(&gpu, scheme, *rows, *columns);
            for candidate in candidates.iter().filter(|c| c.fits(&gpu, scheme)) {
                let label = candidate.name();
                if !wanted_candidates.is_empty() && !wanted_candidates.contains(&label) {
                    continue;
                }
                for &tokens in &tokens {
                    let (seconds, error) = matrix.bench(&gpu, *candidate, tokens)?;
                    let flop = 2.0 * (rows * columns * tokens) as f64;
                    println!(
                        "{label:<28} {scheme:<20} {name:<10} {tokens:>6} {:>10.1} {:>9.1} {error:>10.6}",
                        seconds * 1e6,
                        flop / seconds * 1e-12
                    );
                    *totals.entry((label.clone(), tokens)).or_default() += layers as f64 * seconds;
                }
            }
        }
        for ((label, tokens), seconds) in totals {
            println!("{label:<28} {scheme:<20} {:<10} {tokens:>6} {:>7.2} ms", "model", seconds * 1e3);
        }
    }
    Ok(())
}

/// Layers, and what is multiplied in each: name, rows, columns.
fn model(name: &str) -> (usize, Vec<(&'static str, usize, usize)>) {
    let (layers, hidden, intermediate, qkv) = match name {
        "3b" => (28, 3072, 8192, 5120),
        "1b" => (16, 2048, 8192, 3072),
        _ => (2, 256, 768, 512),
    };
    let shapes =
        [("qkv", qkv, hidden), ("out", hidden, hidden), ("gate_up", 2 * intermediate, hidden), ("down", hidden, intermediate)];
    (layers, shapes.to_vec())
}

/// Rows whose results are compared.
const CHECKED_ROWS: usize = 64;

/// Equal matrices, each with memory of its own.
struct Matrix {
    copies: Vec<GpuMatrix>,
    /// The first rows as numbers.
    first: Vec<f32>,
}

impl Matrix {
    fn new(gpu: &Gpu, scheme: Scheme, rows: usize, columns: usize) -> Self {
        let planes = planes(scheme, rows, columns);
        let bytes: usize = planes.iter().map(|(_, words)| 4 * words.len()).sum();
        let copy = |_| GpuMatrix { scheme, rows, columns, chunks: vec![GpuChunk::upload(gpu, 0, rows, &planes)], lookup: None };
        let copies = (0..COLD_BYTES.div_ceil(bytes).max(2)).map(copy).collect();
        let checked = CHECKED_ROWS.min(rows);
        let sizes = plane_sizes(scheme, checked, columns);
        let some: Vec<(PlaneKind, &[u32])> = planes.iter().zip(&sizes).map(|((k, w), s)| (*k, &w[..s.words])).collect();
        Self { copies, first: dequantize(scheme, checked, columns, &some) }
    }

    /// Seconds of a product, and the relative difference of results.
    fn bench(&self, gpu: &Gpu, candidate: Candidate, tokens: usize) -> Result<(f64, f64), GpuError> {
        let GpuMatrix { rows, columns, .. } = self.copies[0];
        let stride = padded(columns);
        let mut random = Random(7);
        // Nearly normal, and some that are large, as activations are.
        let x: Vec<f32> = (0..tokens * stride)
            .map(|i| {
                let value = random.next() + random.next() + random.next();
                if i % stride >= columns { 0.0 } else { value * if i % 97 == 0 { 20.0 } else { 1.0 } }
            })
            .collect();
        let input = gpu.upload("x", &x);
        let y = gpu.storage("y", (4 * tokens * rows) as u64);
        let scratch = matmul_matrices::scratch_bytes(columns, tokens).max(matmul_int8::scratch_bytes(columns, tokens));
        let scratch = gpu.storage("scratch", scratch);
        let bind = |matrix| {
            let projection = Projection {
                matrix,
                input: (&input).into(),
                input_stride: stride,
                output: (&y).into(),
                output_stride: rows,
                tokens,
                bias: None,
                mode: Output::Store,
                times: None,
            };
            candidate.bind(gpu, projection, &scratch)
        };
        let dispatches = self.copies.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
        let once = time(gpu, &dispatches, dispatches.len())?;
        // 15 ms a time, the best of three.
        let times = ((0.015 / once) as usize).clamp(dispatches.len(), 2000);
        let mut best = f64::INFINITY;
        for _ in 0..3 {
            best = best.min(time(gpu, &dispatches, times)?);
        }
        let (mut difference, mut size) = (0.0, 0.0);
        for token in [0, tokens / 3, tokens / 2, tokens - 1] {
            let found: Vec<f32> = pollster::block_on(gpu.read(&y, (4 * token * rows) as u64, CHECKED_ROWS.min(rows)))?;
            for (row, found) in self.first.chunks_exact(columns).zip(found) {
                let products = row.iter().zip(&x[token * stride..]).map(|(w, x)| f64::from(*w) * f64::from(*x));
                let expected: f64 = products.sum();
                difference += (f64::from(found) - expected).powi(2);
                size += expected.powi(2);
            }
        }
        Ok((best, (difference / size).sqrt()))
    }
}

/// Seconds of one of `times` products in one pass.
fn time(gpu: &Gpu, dispatches: &[Vec<Dispatch>], times: usize) -> Result<f64, GpuError> {
    let queries =
        gpu.device.create_query_set(&wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count: 2 });
    let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
    let resolved = gpu.device.create_buffer(&wgpu::BufferDescriptor { label: None, size: 256, usage, mapped_at_creation: false });
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
        label: None,
        timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
            query_set: &queries,
            beginning_of_pass_write_index: Some(0),
            end_of_pass_write_index: Some(1),
        }),
    });
    dispatches.iter().cycle().take(times).flatten().for_each(|dispatch| dispatch.encode(&mut pass));
    drop(pass);
    encoder.resolve_query_set(&queries, 0..2, &resolved, 0);
    gpu.queue.submit([encoder.finish()]);
    let ticks: Vec<u64> = pollster::block_on(gpu.read(&resolved, 0, 2))?;
    let period = f64::from(gpu.queue.get_timestamp_period());
    Ok(ticks[1].saturating_sub(ticks[0]) as f64 * period * 1e-9 / times as f64)
}

/// Planes of random codes, with scales of about 0.01.
fn planes(scheme: Scheme, rows: usize, columns: usize) -> PlaneBuffers {
    let mut random = Random(1);
    let half = |v: f32| u32::from(f16::from_f32(v).to_bits());
    let halves = |a: f32, b: f32| half(a) | half(b) << 16;
    let grouped = |scheme| match scheme {
        Scheme::Grouped(g) => Some(g),
        Scheme::F16 | Scheme::F32 => None,
    };
    let plane = |size: haikuq_format::layout::PlaneSize| {
        let mut word = || match size.kind {
            PlaneKind::Codes | PlaneKind::HighBits => random.word(),
            PlaneKind::Scales if grouped(scheme).is_some_and(|g| g.scale == ScaleType::E4M4) => {
                // From 1 to 4, times 2^-6: fields of 9 and 10.
                0x9090_9090 | (random.word() & 0x1f1f_1f1f)
            }
            PlaneKind::Scales => halves(0.01 + 0.004 * random.next(), 0.01 + 0.004 * random.next()),
            PlaneKind::Offsets if grouped(scheme).is_some_and(|g| g.offset == Offset::F16) => {
                halves(0.02 * random.next(), 0.02 * random.next())
            }
            PlaneKind::Offsets => random.word(),
            PlaneKind::Codebook => (random.next() + random.next()).to_bits(),
            PlaneKind::Values if scheme == Scheme::F32 => (0.02 * random.next()).to_bits(),
            PlaneKind::Values => halves(0.02 * random.next(), 0.02 * random.next()),
        };
        (size.kind, (0..size.words).map(|_| word()).collect::<Vec<u32>>())
    };
    plane_sizes(scheme, rows, columns).into_iter().map(plane).collect()
}

/// A xorshift generator.
struct Random(u32);

impl Random {
    fn word(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0.wrapping_mul(0x9e37_79b9).rotate_left(11)
    }

    /// From -1 to 1.
    fn next(&mut self) -> f32 {
        (self.word() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}
