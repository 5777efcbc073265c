//! Each way of multiplying a matrix with the activations of many tokens gives what the CPU twin gives: in every scheme that it
//! claims, at odd sizes, in chunks, with every output and every tile.
//!
//! Weights and activations have products of variance 1 in all. Tolerances follow from rounding, at 6 times the root of the
//! mean squared error that is expected, since up to 100,000 results are compared:
//!
//! * exact: rounding each addition in f32, as for `matvec`;
//! * matrices: weights and activations are rounded to 11 bits, each by at most 2^-11 of itself: at 2^-11.8 for two roundings
//!   of uniform error, 2.5e-4 in all; f16 products are exact in f32;
//! * integers: uniform activations of ±1.73 are rounded to 254 steps, so that an error has a root mean square of
//!   1.73 / 127 / √12 = 4e-3; √2 times that with a learned table, whose values are rounded alike, and with random
//!   offsets, which make weights larger.
//!
//! Where two sums are multiplied (gate × up), of which either may be 3, the error of one counts three times.

mod weights;

use haikuq_format::layout::padded;
use haikuq_format::scheme::{Codebook, Offset, Scheme};
use haikuq_format::spec::Activation;
use haikuq_runtime::device::{Dispatch, Gpu, GpuOptions};
use haikuq_runtime::kernels::matmul_int8::{self, MatmulInt8};
use haikuq_runtime::kernels::matmul_matrices::{self, MatmulMatrices};
use haikuq_runtime::kernels::matmul_tile::MatmulTile;
use haikuq_runtime::kernels::matvec::{self, Cpu};
use haikuq_runtime::kernels::projection::{Output, Projection, Times};
use haikuq_runtime::kernels::weights::GpuMatrix;
use weights::{Random, assert_close, devices, matrix, pad, read, scheme, schemes};

/// A candidate, with one of its tiles if not its own choice.
#[derive(Clone, Copy, Debug)]
enum Candidate {
    Tile,
    Int8(Option<matmul_int8::Tile>),
    Matrices(Option<matmul_matrices::Tile>),
}

const CANDIDATES: [Candidate; 3] = [Candidate::Tile, Candidate::Int8(None), Candidate::Matrices(None)];

impl Candidate {
    fn fits(self, gpu: &Gpu, scheme: Scheme) -> bool {
        match self {
            Self::Tile => true,
            Self::Int8(_) => matmul_int8::fits(&gpu.profile, scheme),
            Self::Matrices(_) => matmul_matrices::fits(&gpu.profile, scheme),
        }
    }

    fn tolerance(self, scheme: Scheme, mode: Output) -> f32 {
        let more = match scheme {
            Scheme::Grouped(g) if g.codebook == Codebook::Learned || g.offset != Offset::None => std::f32::consts::SQRT_2,
            _ => 1.0,
        };
        let more = if matches!(mode, Output::Glu(_)) { 3.0 * more } else { more };
        match self {
            Self::Tile => 1e-5,
            Self::Int8(_) => 6.0 * 4e-3 * more,
            Self::Matrices(_) => 6.0 * 2.5e-4 * more,
        }
    }
}

/// One product of random activations.
struct Case {
    gpu_matrix: GpuMatrix,
    values: Vec<f32>,
    x: Vec<f32>,
    previous: Vec<f32>,
    bias: Vec<f32>,
    mode: Output,
    tokens: usize,
    /// Whether activations are multiplied with others: rows of two more than their width, all but the first.
    times: Option<Vec<f32>>,
}

impl Case {
    fn new(gpu: &Gpu, scheme: Scheme, chunk_rows: &[usize], columns: usize, tokens: usize, mode: Output, seed: u32) -> Self {
        let mut random = Random::new(seed);
        let (gpu_matrix, values) = matrix(gpu, scheme, chunk_rows, columns, &mut random);
        let x = random.values(tokens * columns);
        let previous = random.values(tokens * gpu_matrix.rows);
        let bias = random.values(gpu_matrix.rows);
        Self { gpu_matrix, values, x, previous, bias, mode, tokens, times: None }
    }

    /// What a candidate writes. Asserts that it leaves the padding as it was.
    fn gpu(&self, gpu: &Gpu, candidate: Candidate) -> Vec<f32> {
        let (columns, width) = (self.gpu_matrix.columns, self.mode.width(self.gpu_matrix.rows));
        let (input_stride, output_stride) = (padded(columns) + 4, padded(width) + 32);
        let x = gpu.upload("x", &pad(&self.x, columns, input_stride));
        let before = pad(&self.previous[..self.tokens * width], width, output_stride);
        let y = gpu.upload("y", &before);
        let bias = gpu.upload("bias", &self.bias);
        let times = self.times.as_ref().map(|t| gpu.upload("times", t));
        let projection = Projection {
            matrix: &self.gpu_matrix,
            input: (&x).into(),
            input_stride,
            output: (&y).into(),
            output_stride,
            tokens: self.tokens,
            bias: Some((&bias).into()),
            mode: self.mode,
            times: times.as_ref().map(|t| Times { values: t.into(), stride: width + 2, first: 1 }),
        };
        let bytes = match candidate {
            Candidate::Tile => 0,
            Candidate::Int8(_) => matmul_int8::scratch_bytes(columns, self.tokens),
            Candidate::Matrices(_) => matmul_matrices::scratch_bytes(columns, self.tokens),
        };
        // What lay in scratch before must not matter.
        let scratch = gpu.upload("scratch", &vec![u32::MAX; (bytes / 4) as usize + 1]);
        let dispatches = match candidate {
            Candidate::Tile => MatmulTile { projection }.bind(gpu),
            Candidate::Int8(tile) => MatmulInt8 { projection, scratch: (&scratch).into(), tile }.bind(gpu),
            Candidate::Matrices(tile) => MatmulMatrices { projection, scratch: (&scratch).into(), tile }.bind(gpu),
        };
        gpu.run(&dispatches.expect("sizes fit").iter().collect::<Vec<&Dispatch>>());
        let rows = read(gpu, &y, before.len());
        rows.chunks_exact(output_stride)
            .flat_map(|row| {
                assert!(row[width..].iter().all(|v| *v == 0.0), "padding was written");
                row[..width].to_vec()
            })
            .collect()
    }

    fn check(&self, gpu: &Gpu, candidate: Candidate) {
        if !candidate.fits(gpu, self.gpu_matrix.scheme) {
            return;
        }
        let mut expected = self.previous[..self.tokens * self.mode.width(self.gpu_matrix.rows)].to_vec();
        let arguments = Cpu {
            weights: &self.values,
            columns: self.gpu_matrix.columns,
            input: &self.x,
            norm: None,
            bias: Some(&self.bias),
            mode: self.mode,
        };
        matvec::cpu(&arguments, &mut expected);
        if let Some(times) = &self.times {
            let width = self.mode.width(self.gpu_matrix.rows);
            for (y, times) in expected.chunks_mut(width).zip(times.chunks(width + 2)) {
                y.iter_mut().zip(&times[1..]).for_each(|(y, t)| *y *= t);
            }
        }
        let GpuMatrix { scheme, rows, columns, .. } = self.gpu_matrix;
        let what = format!(
            "{candidate:?} {scheme} {rows} × {columns}, {} tokens, {:?} on {}",
            self.tokens, self.mode, gpu.description.name
        );
        assert_close(&what, &self.gpu(gpu, candidate), &expected, candidate.tolerance(scheme, self.mode));
    }
}

/// The test device; says what is not tested there.
fn device() -> Gpu {
    let gpu = Gpu::open_blocking(&GpuOptions::default()).expect("an adapter; run scripts/setup.sh to install software Vulkan");
    if !matmul_matrices::fits(&gpu.profile, Scheme::F16) {
        println!("skipped: matmul_matrices, since {} has no cooperative matrices of 16 × 16 × 16", gpu.description.name);
    }
    gpu
}

/// Every output, with numbers that show when one is forgotten.
fn outputs() -> Vec<Output> {
    let mut all = vec![Output::Store, Output::Residual { multiplier: 0.7 }, Output::Activate(Activation::Gelu)];
    all.extend([Output::Glu(Activation::Silu), Output::Logits { multiplier: 1.3, softcap: Some(1.5) }]);
    all
}

#[test]
fn every_scheme_is_read() {
    let gpu = device();
    for (i, scheme) in schemes().into_iter().enumerate() {
        let columns = [96, 333, 608][i % 3];
        let case = Case::new(&gpu, scheme, &[37], columns, 9 + i, Output::Store, i as u32);
        CANDIDATES.iter().for_each(|candidate| case.check(&gpu, *candidate));
    }
}

#[test]
fn every_output_is_what_its_formula_says() {
    for gpu in devices() {
        for (i, mode) in outputs().into_iter().enumerate() {
            let case = Case::new(&gpu, scheme("q4/32"), &[8, 134], 130, 21, mode, i as u32);
            CANDIDATES.iter().for_each(|candidate| case.check(&gpu, *candidate));
        }
    }
}

#[test]
fn activations_are_multiplied_with_other_numbers() {
    for gpu in devices() {
        let mut case = Case::new(&gpu, scheme("q4/32"), &[8, 134], 130, 21, Output::Activate(Activation::Gelu), 4);
        case.times = Some(Random::new(6).values(21 * (142 + 2)));
        CANDIDATES.iter().for_each(|candidate| case.check(&gpu, *candidate));
    }
}

#[test]
fn odd_sizes_and_chunks_are_whole() {
    let gpu = device();
    let shapes: [(&[usize], usize, usize); 6] =
        [(&[1], 1, 1), (&[3], 32, 2), (&[8, 8, 5], 100, 17), (&[301], 257, 40), (&[16, 130], 600, 70), (&[7, 3, 1], 65, 130)];
    for (rows, columns, tokens) in shapes {
        for text in ["q4/32+u4", "q3/64+f16", "q3/32:e4m4 learned", "q8/32+f16", "f16"] {
            let case = Case::new(&gpu, scheme(text), rows, columns, tokens, Output::Residual { multiplier: 1.0 }, 3);
            CANDIDATES.iter().for_each(|candidate| case.check(&gpu, *candidate));
        }
    }
}

#[test]
fn every_tile_gives_the_same() {
    use matmul_matrices::Tile;
    let gpu = device();
    let mut candidates = vec![Candidate::Tile];
    let shared = [(1, 1), (1, 2), (1, 4), (1, 8), (2, 1), (2, 2), (2, 4), (4, 1), (4, 2)];
    candidates.extend(shared.map(|(bands, columns)| Candidate::Int8(Some(matmul_int8::Tile { bands, columns }))));
    let named = [Tile::LARGE, Tile::SMALL, Tile::SMALLER, Tile::SMALLEST];
    candidates.extend(named.map(|tile| Candidate::Matrices(Some(tile))));
    for text in ["q5/32 learned", "q5/64+u4", "q8/32"] {
        let case = Case::new(&gpu, scheme(text), &[150], 417, 140, Output::Store, 5);
        candidates.iter().for_each(|candidate| case.check(&gpu, *candidate));
    }
}

#[test]
fn activations_of_any_size_are_multiplied() {
    // Larger than f16 holds, of which one token does not show in another; smaller than it holds; and all zeros.
    let gpu = device();
    for size in [3e5, 1e30, 1e-9, 0.0] {
        let mut case = Case::new(&gpu, scheme("q4/32"), &[40], 96, 20, Output::Store, 9);
        case.bias.fill(0.0);
        case.x.iter_mut().for_each(|x| *x *= size);
        let mut unit = 1.0 / size;
        if size == 0.0 {
            unit = 1.0;
        }
        for candidate in CANDIDATES.into_iter().filter(|c| c.fits(&gpu, case.gpu_matrix.scheme)) {
            let mut expected = vec![0.0; 20 * 40];
            let arguments =
                Cpu { weights: &case.values, columns: 96, input: &case.x, norm: None, bias: None, mode: Output::Store };
            matvec::cpu(&arguments, &mut expected);
            let scaled = |values: Vec<f32>| values.into_iter().map(|v| v * unit).collect::<Vec<_>>();
            let what = format!("{candidate:?} of activations of size {size}");
            assert_close(
                &what,
                &scaled(case.gpu(&gpu, candidate)),
                &scaled(expected),
                candidate.tolerance(case.gpu_matrix.scheme, case.mode),
            );
        }
    }
}

#[test]
fn too_little_scratch_is_refused() {
    let gpu = device();
    let case = Case::new(&gpu, scheme("q4/32"), &[8], 64, 3, Output::Store, 1);
    let (x, y) = (gpu.storage("x", 4 * 3 * 64), gpu.storage("y", 4 * 3 * 8));
    let projection = Projection {
        matrix: &case.gpu_matrix,
        input: (&x).into(),
        input_stride: 64,
        output: (&y).into(),
        output_stride: 8,
        tokens: 3,
        bias: None,
        mode: Output::Store,
        times: None,
    };
    let scratch = gpu.storage("scratch", matmul_int8::scratch_bytes(64, 3) - 16);
    let refused = MatmulInt8 { projection, scratch: (&scratch).into(), tile: None }.bind(&gpu);
    assert!(refused.unwrap_err().to_string().contains("scratch"));
}
