//! `embed`, `matvec` and `matmul` give what their CPU twins give: in every scheme, at odd sizes, in chunks, with every
//! output, with and without subgroups and f16.
//!
//! Sums have about unit size and at most 700 terms, whose absolute values sum up to about 20; rounding each addition
//! in f32 (6e-8 of a partial sum) leaves errors of 1e-6 at worst, exponentials of software adapters as much again.

mod weights;

use haikuq_format::layout::padded;
use haikuq_format::scheme::Scheme;
use haikuq_format::spec::Activation;
use haikuq_runtime::device::{Dispatch, Gpu};
use haikuq_runtime::kernels::embed::{self, Embed, Rows};
use haikuq_runtime::kernels::matmul::Matmul;
use haikuq_runtime::kernels::matvec::{self, Cpu, Matvec, Norm};
use haikuq_runtime::kernels::projection::{Output, Projection, Times};
use haikuq_runtime::kernels::weights::{GpuMatrix, Lookup};
use weights::{Random, assert_close, devices, matrix, pad, read, scheme, schemes};

const TOLERANCE: f32 = 1e-5;

/// One projection of random activations.
struct Case {
    gpu_matrix: GpuMatrix,
    values: Vec<f32>,
    x: Vec<f32>,
    previous: Vec<f32>,
    bias: Option<Vec<f32>>,
    gain: Option<Vec<f32>>,
    mode: Output,
    tokens: usize,
    /// What activations are multiplied with: rows of three times their width and five more, from [`Case::first`] on.
    times: Option<Vec<f32>>,
}

const EPSILON: f32 = 1e-5;

impl Case {
    fn new(gpu: &Gpu, scheme: Scheme, chunk_rows: &[usize], columns: usize, tokens: usize, mode: Output, seed: u32) -> Self {
        let mut random = Random::new(seed);
        let (gpu_matrix, values) = matrix(gpu, scheme, chunk_rows, columns, &mut random);
        let x = random.values(tokens * columns);
        let previous = random.values(tokens * gpu_matrix.rows);
        Self { gpu_matrix, values, x, previous, bias: None, gain: None, mode, tokens, times: None }
    }

    fn with_bias(mut self) -> Self {
        self.bias = Some(Random::new(7).values(self.gpu_matrix.rows));
        self
    }

    fn with_norm(mut self) -> Self {
        self.gain = Some(Random::new(8).values(self.gpu_matrix.columns));
        // Norms matter where activations do not have unit size.
        self.x.iter_mut().for_each(|x| *x *= 30.0);
        self
    }

    fn with_times(mut self) -> Self {
        self.times = Some(Random::new(9).values(self.tokens * self.stride()));
        self
    }

    fn stride(&self) -> usize {
        3 * self.width() + 5
    }

    fn first(&self) -> usize {
        self.width() + 3
    }

    fn width(&self) -> usize {
        self.mode.width(self.gpu_matrix.rows)
    }

    /// Runs `tokens` of the activations through a kernel, and asserts that it leaves the padding as it was.
    fn gpu(&self, gpu: &Gpu, tokens: std::ops::Range<usize>, matmul: bool) -> Vec<f32> {
        let (columns, width) = (self.gpu_matrix.columns, self.width());
        let (input_stride, output_stride) = (padded(columns), padded(width) + 32);
        let x = gpu.upload("x", &pad(&self.x[tokens.start * columns..tokens.end * columns], columns, input_stride));
        let before = pad(&self.previous[tokens.start * width..tokens.end * width], width, output_stride);
        let y = gpu.upload("y", &before);
        let bias = self.bias.as_ref().map(|b| gpu.upload("bias", b));
        let times = self.times.as_ref().map(|t| gpu.upload("times", &t[tokens.start * self.stride()..]));
        let gain = self.gain.as_ref().map(|g| gpu.upload("gain", &pad(g, columns, padded(columns))));
        let projection = Projection {
            matrix: &self.gpu_matrix,
            input: (&x).into(),
            input_stride,
            output: (&y).into(),
            output_stride,
            tokens: tokens.len(),
            bias: bias.as_ref().map(Into::into),
            mode: self.mode,
            times: times.as_ref().map(|t| Times { values: t.into(), stride: self.stride(), first: self.first() }),
        };
        let dispatches = if matmul {
            Matmul { projection }.bind(gpu)
        } else {
            let norm = gain.as_ref().map(|g| Norm { gain: g.into(), epsilon: EPSILON });
            Matvec { projection, norm }.bind(gpu)
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

    fn cpu(&self) -> Vec<f32> {
        let mut y = self.previous[..self.tokens * self.width()].to_vec();
        let arguments = Cpu {
            weights: &self.values,
            columns: self.gpu_matrix.columns,
            input: &self.x,
            norm: self.gain.as_deref().map(|g| (g, EPSILON)),
            bias: self.bias.as_deref(),
            mode: self.mode,
        };
        matvec::cpu(&arguments, &mut y);
        if let Some(times) = &self.times {
            for (y, times) in y.chunks_mut(self.width()).zip(times.chunks(self.stride())) {
                y.iter_mut().zip(&times[self.first()..]).for_each(|(y, t)| *y *= t);
            }
        }
        y
    }

    fn check_matvec(&self, gpu: &Gpu, what: &str) {
        let what = format!("matvec {what} {} tokens on {}", self.tokens, gpu.description.name);
        assert_close(&what, &self.gpu(gpu, 0..self.tokens, false), &self.cpu(), TOLERANCE);
    }

    fn check_matmul(&self, gpu: &Gpu, what: &str) {
        let what = format!("matmul {what} {} tokens on {}", self.tokens, gpu.description.name);
        assert_close(&what, &self.gpu(gpu, 0..self.tokens, true), &self.cpu(), TOLERANCE);
    }
}

/// Every output, with numbers that show when one is forgotten.
fn outputs() -> Vec<Output> {
    let mut all = vec![Output::Store, Output::Residual { multiplier: 0.7 }];
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        all.extend([Output::Glu(activation), Output::Activate(activation)]);
    }
    all.extend([None, Some(1.5)].map(|softcap| Output::Logits { multiplier: 1.3, softcap }));
    all
}

fn q4() -> Scheme {
    scheme("q4/32")
}

#[test]
fn matvec_reads_every_scheme() {
    for gpu in devices() {
        for (i, scheme) in schemes().into_iter().enumerate() {
            let columns = [96, 333, 608][i % 3];
            Case::new(&gpu, scheme, &[37], columns, 1 + i % 3, Output::Store, i as u32).check_matvec(&gpu, &scheme.to_string());
        }
    }
}

#[test]
fn activations_are_multiplied_with_other_numbers() {
    for gpu in devices() {
        let case = Case::new(&gpu, q4(), &[24, 13], 96, 3, Output::Activate(Activation::GeluTanh), 5).with_bias().with_times();
        case.check_matvec(&gpu, "times");
        case.check_matmul(&gpu, "times");
    }
}

#[test]
fn matmul_reads_every_scheme() {
    // Matmul has no permutations: one device is enough.
    let gpu = &devices()[0];
    for (i, scheme) in schemes().into_iter().enumerate() {
        let columns = [96, 333, 608][i % 3];
        Case::new(gpu, scheme, &[37], columns, 9 + i, Output::Store, i as u32).check_matmul(gpu, &scheme.to_string());
    }
}

#[test]
fn a_codebook_is_read_alike_wherever_it_is_looked_up() {
    for gpu in devices() {
        for lookup in Lookup::ALL {
            for text in ["q3/32 learned", "q4/64:e4m4 learned", "q5/32:e4m4 learned"] {
                // Octets that are fewer than the workgroup's invocations, and no multiple of them.
                for (rows, columns, tokens) in [(5, 40, 1), (37, 1100, 2)] {
                    let mut case = Case::new(&gpu, scheme(text), &[rows], columns, tokens, Output::Store, 13).with_bias();
                    case.gpu_matrix.lookup = Some(lookup);
                    case.check_matmul(&gpu, &format!("{text} {lookup:?}"));
                    case.with_norm().check_matvec(&gpu, &format!("{text} {lookup:?}"));
                }
            }
        }
    }
}

#[test]
fn odd_sizes_and_chunks_are_whole() {
    for gpu in devices() {
        let shapes: [(&[usize], usize, usize); 6] =
            [(&[1], 1, 1), (&[3], 32, 2), (&[8, 8, 5], 100, 5), (&[301], 257, 8), (&[16, 2], 600, 7), (&[7, 3, 1], 65, 4)];
        for (rows, columns, tokens) in shapes {
            for scheme in [q4(), scheme("q3/64+u4"), scheme("q3/32:e4m4 learned"), Scheme::F16] {
                let case = Case::new(&gpu, scheme, rows, columns, tokens, Output::Residual { multiplier: 1.0 }, 3);
                case.check_matvec(&gpu, &format!("{scheme} {rows:?} × {columns}"));
                case.check_matmul(&gpu, &format!("{scheme} {rows:?} × {columns}"));
            }
        }
        for tokens in [1, 15, 16, 17, 70] {
            Case::new(&gpu, q4(), &[264, 10], 160, tokens, Output::Store, 4).check_matmul(&gpu, "274 × 160");
        }
    }
}

#[test]
fn every_output_is_what_its_formula_says() {
    for gpu in devices() {
        for mode in outputs() {
            let what = format!("{mode:?}");
            Case::new(&gpu, q4(), &[8, 38], 130, 3, mode, 5).with_bias().with_norm().check_matvec(&gpu, &what);
            Case::new(&gpu, q4(), &[8, 38], 130, 21, mode, 6).with_bias().check_matmul(&gpu, &what);
        }
    }
}

#[test]
fn activations_do_not_overflow() {
    let gpu = &devices()[0];
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        let mut case = Case::new(gpu, Scheme::F32, &[2], 32, 1, Output::Activate(activation), 9);
        case.bias = Some(vec![-3e4, 3e4]);
        case.check_matvec(gpu, &format!("{activation:?} of ±30000"));
    }
    let mut case = Case::new(gpu, Scheme::F32, &[2], 32, 1, Output::Logits { multiplier: 1.0, softcap: Some(30.0) }, 9);
    case.bias = Some(vec![-3e6, 3e6]);
    case.check_matvec(gpu, "soft cap of ±3000000");
}

#[test]
fn a_token_gets_the_same_bits_alone_and_beside_others() {
    for gpu in devices() {
        for scheme in [q4(), scheme("q3/128+f16"), scheme("q4/32:e4m4 learned"), Scheme::F32] {
            let case = Case::new(&gpu, scheme, &[41], 333, 8, Output::Residual { multiplier: 0.5 }, 11).with_bias().with_norm();
            let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            for together in [2, 3, 4, 8] {
                let all = bits(case.gpu(&gpu, 0..together, false));
                for (token, row) in all.chunks_exact(case.width()).enumerate() {
                    let alone = bits(case.gpu(&gpu, token..token + 1, false));
                    assert_eq!(row, alone, "{scheme}: token {token} of {together} on {}", gpu.description.name);
                }
            }
        }
    }
}

#[test]
fn embed_gathers_rows_of_every_scheme_and_zeros_for_unknown_ids() {
    let gpu = &devices()[0];
    for (i, scheme) in schemes().into_iter().enumerate() {
        let columns = [64, 333, 600][i % 3];
        let stride = padded(columns);
        let (gpu_matrix, values) = matrix(gpu, scheme, &[16, 16, 9], columns, &mut Random::new(i as u32));
        let ids = [0u32, 40, 15, 16, 31, 32, 41, u32::MAX, 16];
        let tokens: Vec<[u32; 4]> = ids.iter().map(|id| [*id, 7, 7, 7]).collect();
        let tokens = gpu.upload("tokens", &tokens);
        let y = gpu.upload("y", &vec![9.0f32; ids.len() * stride]);
        let embed = Embed {
            matrix: &gpu_matrix,
            rows: Rows::Ids { multiplier: 2.5 },
            tokens: (&tokens).into(),
            output: (&y).into(),
            output_stride: stride,
            token_count: ids.len(),
        };
        gpu.run(&embed.bind(gpu).expect("sizes fit").iter().collect::<Vec<_>>());
        let expected = embed::cpu(&values, columns, &ids, 2.5, stride);
        // The value of a weight is rounded once on both sides; the multiplication once more.
        assert_close(&scheme.to_string(), &read(gpu, &y, expected.len()), &expected, 2e-7);
    }
}

#[test]
fn embed_adds_rows_of_positions_to_what_is_there() {
    let gpu = &devices()[0];
    for (i, scheme) in schemes().into_iter().enumerate() {
        let columns = [64, 333, 600][i % 3];
        let stride = padded(columns);
        let (gpu_matrix, values) = matrix(gpu, scheme, &[16, 16, 9], columns, &mut Random::new(i as u32));
        let positions = [0u32, 40, 15, 16, 31, 32, 41, u32::MAX, 16];
        let tokens: Vec<[u32; 4]> = positions.iter().map(|position| [7, *position, 7, 7]).collect();
        let tokens = gpu.upload("tokens", &tokens);
        let before = pad(&Random::new(77).values(positions.len() * columns), columns, stride);
        let y = gpu.upload("y", &before);
        let embed = Embed {
            matrix: &gpu_matrix,
            rows: Rows::Positions,
            tokens: (&tokens).into(),
            output: (&y).into(),
            output_stride: stride,
            token_count: positions.len(),
        };
        gpu.run(&embed.bind(gpu).expect("sizes fit").iter().collect::<Vec<_>>());
        let added = embed::cpu(&values, columns, &positions, 1.0, stride);
        let expected: Vec<f32> = before.iter().zip(&added).map(|(y, w)| y + w).collect();
        assert_close(&scheme.to_string(), &read(gpu, &y, expected.len()), &expected, 2e-7);
    }
}

/// `erf` by its Taylor series, which has converged in f64 long before 60 terms where `|x| <= 3`.
fn erf(x: f64) -> f64 {
    let term = |t: f64, n: f64| -t * x * x / n;
    let (mut t, mut sum) = (x, x);
    for n in 1..60 {
        t = term(t, f64::from(n));
        sum += t / f64::from(2 * n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

#[test]
fn gelu_is_that_of_the_error_function() {
    // The biases of a matrix of zeros are the activation's arguments.
    let arguments: Vec<f32> = (-420..=420).map(|i| i as f32 / 100.0).collect();
    for gpu in devices() {
        let mut case = Case::new(&gpu, Scheme::F32, &[arguments.len()], 32, 1, Output::Activate(Activation::Gelu), 1);
        case.x.fill(0.0);
        case.bias = Some(arguments.clone());
        for (x, found) in arguments.iter().zip(case.gpu(&gpu, 0..1, false)) {
            let x = f64::from(*x);
            let expected = 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2));
            let error = (f64::from(found) - expected).abs();
            // Relative down to where 1 + erf has lost its digits in f32, as every implementation's has.
            assert!(error <= 1e-6 * expected.abs().max(0.05), "gelu({x}) is {found}, expected {expected}");
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let gpu = &devices()[0];
    let (gpu_matrix, _) = matrix(gpu, q4(), &[8], 64, &mut Random::new(1));
    let (x, y) = (gpu.storage("x", 4 * 64), gpu.storage("y", 4 * 8));
    let good = Projection {
        matrix: &gpu_matrix,
        input: (&x).into(),
        input_stride: 64,
        output: (&y).into(),
        output_stride: 8,
        tokens: 1,
        bias: None,
        mode: Output::Store,
        times: None,
    };
    let refused = |projection: Projection<'_>| Matmul { projection }.bind(gpu).err().map(|e| e.to_string());
    assert_eq!(refused(good.clone()), None);
    let error = refused(Projection { input_stride: 63, ..good.clone() }).unwrap();
    assert!(error.contains("63") && error.contains("64"), "{error}");
    assert!(refused(Projection { output_stride: 7, ..good.clone() }).is_some());
    assert!(refused(Projection { tokens: 2, ..good.clone() }).unwrap().contains("input"), "beyond the end of x");
    assert!(refused(Projection { bias: Some((&gpu.storage("b", 16)).into()), ..good.clone() }).unwrap().contains("bias"));
    let mut cut = gpu_matrix.clone();
    cut.chunks[0].rows = 9;
    assert!(refused(Projection { matrix: &cut, ..good.clone() }).unwrap().contains("8 rows"));
    let mut missing = gpu_matrix.clone();
    missing.chunks[0].planes.pop();
    assert!(refused(Projection { matrix: &missing, ..good }).unwrap().contains("scales"));
}
