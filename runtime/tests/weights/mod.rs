//! Random matrices in every scheme, on the GPU and dequantized, and devices in every permutation.
#![allow(dead_code, reason = "each test program uses a part")]

use haikuq_format::layout::{PlaneKind, QuantizedRows, Scales, dequantize, groups, pack_f16, pack_f32, pack_quantized, padded};
use haikuq_format::scheme::{Bits, Codebook, Grouped, Offset, ScaleType, Scheme};
use haikuq_runtime::device::{Gpu, GpuOptions};
use haikuq_runtime::kernels::weights::{GpuChunk, GpuMatrix};
use half::f16;

/// A xorshift generator: the same numbers on every run.
pub struct Random(u32);

impl Random {
    pub fn new(seed: u32) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9) | 1)
    }

    pub fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        (self.0 >> 4) % n
    }

    /// Uniform in -1.7 to 1.7: variance 1.
    pub fn value(&mut self) -> f32 {
        (self.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0) * 1.73
    }

    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

pub fn scheme(text: &str) -> Scheme {
    text.parse().expect("a scheme")
}

/// Every scheme there is.
pub fn schemes() -> Vec<Scheme> {
    let mut all = vec![Scheme::F32, Scheme::F16];
    for bits in [Bits::B3, Bits::B4, Bits::B5, Bits::B8] {
        for group in [32, 64, 128] {
            let some = [
                (ScaleType::F16, Offset::None, Codebook::Uniform),
                (ScaleType::F16, Offset::U4, Codebook::Uniform),
                (ScaleType::F16, Offset::F16, Codebook::Uniform),
                (ScaleType::F16, Offset::None, Codebook::Learned),
                (ScaleType::E4M4, Offset::None, Codebook::Learned),
            ];
            let grouped = |(scale, offset, codebook)| {
                let mut grouped = Grouped::new(bits, group);
                (grouped.scale, grouped.offset, grouped.codebook) = (scale, offset, codebook);
                Scheme::Grouped(grouped)
            };
            all.extend(some.map(grouped).into_iter().filter(|s| s.check().is_ok()));
        }
    }
    assert_eq!(all.len(), 2 + 3 * 3 * 5 + 3 * 2);
    all
}

/// A random matrix whose products with activations of variance 1 have a variance of about 1. The codes that pad its
/// rows are random too: no kernel may let them show.
pub fn matrix(gpu: &Gpu, scheme: Scheme, chunk_rows: &[usize], columns: usize, random: &mut Random) -> (GpuMatrix, Vec<f32>) {
    let (mut chunks, mut all, mut first_row) = (Vec::new(), Vec::new(), 0);
    let size = 1.0 / (columns as f32).sqrt();
    let table: Vec<f32> = random.values(32);
    for &rows in chunk_rows {
        let planes = match scheme {
            Scheme::F32 => pack_f32(rows, columns, &random.values(rows * columns).iter().map(|v| v * size).collect::<Vec<_>>()),
            Scheme::F16 => pack_f16(rows, columns, &random.values(rows * columns).iter().map(|v| v * size).collect::<Vec<_>>()),
            Scheme::Grouped(g) => {
                let n = rows * groups(columns, g.group);
                let levels = g.bits.levels();
                let learned = g.codebook == Codebook::Learned;
                let step = if learned { size } else { size * 3.5 / levels as f32 };
                let scales: Vec<f32> = (0..n).map(|_| step * (1.0 + 0.3 * random.value())).collect();
                let block = QuantizedRows {
                    codes: (0..rows * padded(columns)).map(|_| random.below(levels) as u8).collect(),
                    scales: Scales::nearest(g.scale, scales.iter().copied()),
                    zero_points: (0..if g.offset == Offset::U4 { n } else { 0 }).map(|_| random.below(16) as u8).collect(),
                    offsets: match g.offset {
                        Offset::F16 => scales
                            .iter()
                            .map(|s| f16::from_f32(-s * levels as f32 * 0.5 * (1.0 + 0.2 * random.value())))
                            .collect(),
                        _ => vec![],
                    },
                    codebook: if learned { table[..levels as usize].to_vec() } else { vec![] },
                };
                pack_quantized(g, rows, columns, &block)
            }
        };
        let borrowed: Vec<(PlaneKind, &[u32])> = planes.iter().map(|(k, p)| (*k, p.as_slice())).collect();
        all.extend(dequantize(scheme, rows, columns, &borrowed));
        chunks.push(GpuChunk::upload(gpu, first_row, rows, &planes));
        first_row += rows;
    }
    (GpuMatrix { scheme, rows: first_row, columns, chunks, lookup: None }, all)
}

/// Rows of `columns` values in rows of `stride`, the rest zero.
pub fn pad(values: &[f32], columns: usize, stride: usize) -> Vec<f32> {
    let mut out = vec![0.0; values.len() / columns * stride];
    for (to, from) in out.chunks_exact_mut(stride).zip(values.chunks_exact(columns)) {
        to[..columns].copy_from_slice(from);
    }
    out
}

/// The device as it is, and as if it had no subgroups and no f16.
pub fn devices() -> Vec<Gpu> {
    [false, true]
        .map(|without| {
            let mut options = GpuOptions::default();
            (options.without_f16, options.without_subgroups, options.default_limits) = (without, without, without);
            options
        })
        .iter()
        .map(|options| Gpu::open_blocking(options).expect("an adapter; run scripts/setup.sh to install software Vulkan"))
        .collect()
}

pub fn read(gpu: &Gpu, buffer: &wgpu::Buffer, count: usize) -> Vec<f32> {
    let values = pollster::block_on(gpu.read(buffer, 0, count)).expect("the device works");
    gpu.check().expect("no validation error");
    values
}

/// Fails unless every value is within `tolerance × max(1, |expected|)`.
pub fn assert_close(what: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((g - e).abs() <= tolerance * e.abs().max(1.0), "{what}: value {i} is {g}, not {e}");
    }
}
