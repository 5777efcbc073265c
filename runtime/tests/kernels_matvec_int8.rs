//! `matvec_int8` gives what its CPU twin gives: in every scheme of codes, at odd sizes, in chunks, with every output; and
//! heads end up rotated where attention reads them.
//!
//! The twin rounds activations and codebooks as the kernel does. Where a value lies halfway between two codes, the two may
//! round it differently: one product of about unit size in 700 is then off by 1/127 of the largest activation. Such errors are
//! rare, so their bound is 0.02, and the root of the mean square stays below 0.001.

mod weights;

use haikuq_format::layout::{PlaneKind, dequantize, padded};
use haikuq_format::scheme::Scheme;
use haikuq_format::spec::{Activation, QueryScaling, RopeTable};
use haikuq_runtime::device::{Dispatch, Gpu};
use haikuq_runtime::kernels::attention::{AttentionShape, CpuCache, Token};
use haikuq_runtime::kernels::matvec::{self, Cpu, Norm};
use haikuq_runtime::kernels::matvec_int8::{self, Heads, MatvecInt8, Shape, Tuning};
use haikuq_runtime::kernels::projection::{Output, Projection, Times};
use haikuq_runtime::kernels::quantize;
use haikuq_runtime::kernels::rope_cache::{self, CpuSteps, Rope};
use haikuq_runtime::kernels::weights::{GpuChunk, GpuMatrix};
use half::f16;
use weights::{Random, assert_close, devices, matrix, pad, read, scheme, schemes};

const EPSILON: f32 = 1e-5;

/// The devices on which the kernel works.
fn gpus() -> Vec<Gpu> {
    let shape = Shape { scheme: scheme("q4/32"), rows: 64, columns: 64, tokens: 1, heads: false };
    let fit = |gpu: &Gpu| {
        let fits = matvec_int8::fits(&gpu.profile, &shape);
        if !fits {
            println!("skipped on {}: no subgroups of four or more", gpu.description.name);
        }
        fits
    };
    devices().into_iter().filter(fit).collect()
}

/// Weights as the kernel sees them: with a rounded codebook.
fn rounded_weights(gpu: &Gpu, matrix: &GpuMatrix) -> Vec<f32> {
    let chunk = |chunk: &GpuChunk| {
        let planes: Vec<(PlaneKind, Vec<u32>)> = chunk
            .planes
            .iter()
            .map(|(kind, plane)| {
                let count = plane.bytes as usize / 4;
                let mut words: Vec<u32> = pollster::block_on(gpu.read(&plane.buffer, plane.offset, count)).unwrap();
                if *kind == PlaneKind::Codebook {
                    let values: Vec<f32> = words.iter().map(|w| f32::from_bits(*w)).collect();
                    words = matvec_int8::cpu_codebook(&values).iter().map(|v| v.to_bits()).collect();
                }
                (*kind, words)
            })
            .collect();
        let borrowed: Vec<(PlaneKind, &[u32])> = planes.iter().map(|(k, p)| (*k, p.as_slice())).collect();
        dequantize(matrix.scheme, chunk.rows, matrix.columns, &borrowed)
    };
    matrix.chunks.iter().flat_map(chunk).collect()
}

/// Activations as the kernel sees them: times the gain, rounded, times the norm's factor.
fn rounded_activations(x: &[f32], columns: usize, gain: Option<&[f32]>) -> Vec<f32> {
    let row = |x: &[f32]| -> Vec<f32> {
        let Some(gain) = gain else { return quantize::cpu(x) };
        let mean = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>() / columns as f64;
        let factor = (1.0 / (mean + f64::from(EPSILON)).sqrt()) as f32;
        let scaled: Vec<f32> = x.iter().zip(gain).map(|(x, g)| x * g).collect();
        quantize::cpu(&scaled).iter().map(|x| x * factor).collect()
    };
    x.chunks_exact(columns).flat_map(row).collect()
}

fn compare(what: &str, found: &[f32], expected: &[f32]) {
    assert_close(what, found, expected, 0.02);
    let squares: f32 = found.iter().zip(expected).map(|(a, b)| (a - b) * (a - b)).sum();
    let size: f32 = expected.iter().map(|b| b * b).sum();
    assert!(squares.sqrt() <= 1e-3 * size.sqrt(), "{what}: error {}", (squares / size).sqrt());
}

struct Case<'a> {
    scheme: Scheme,
    chunk_rows: &'a [usize],
    columns: usize,
    tokens: usize,
    mode: Output,
    bias: bool,
    norm: bool,
    /// Whether activations are multiplied with others.
    times: bool,
    tuning: Option<Tuning>,
}

fn check(gpu: &Gpu, case: &Case<'_>, seed: u32) {
    let Case { columns, tokens, mode, .. } = *case;
    let mut random = Random::new(seed);
    let (gpu_matrix, _) = matrix(gpu, case.scheme, case.chunk_rows, columns, &mut random);
    let weights = rounded_weights(gpu, &gpu_matrix);
    let x: Vec<f32> = random.values(tokens * columns).iter().map(|x| x * if case.norm { 30.0 } else { 1.0 }).collect();
    let width = mode.width(gpu_matrix.rows);
    let previous = random.values(tokens * width);
    let times = random.values(tokens * (width + 2));
    let bias = case.bias.then(|| random.values(gpu_matrix.rows));
    let gain = case.norm.then(|| random.values(columns));
    let (input_stride, output_stride) = (padded(columns), padded(width) + 32);
    let x_buffer = gpu.upload("x", &pad(&x, columns, input_stride));
    let before = pad(&previous, width, output_stride);
    let y = gpu.upload("y", &before);
    let bias_buffer = bias.as_ref().map(|b| gpu.upload("bias", b));
    let gain_buffer = gain.as_ref().map(|g| gpu.upload("gain", &pad(g, columns, input_stride)));
    let times_buffer = gpu.upload("times", &times);
    let scratch = gpu.storage("scratch", (tokens * 2 * columns + 16384) as u64);
    let projection = Projection {
        matrix: &gpu_matrix,
        input: (&x_buffer).into(),
        input_stride,
        output: (&y).into(),
        output_stride,
        tokens,
        bias: bias_buffer.as_ref().map(Into::into),
        mode,
        times: case.times.then(|| Times { values: (&times_buffer).into(), stride: width + 2, first: 1 }),
    };
    let norm = gain_buffer.as_ref().map(|g| Norm { gain: g.into(), epsilon: EPSILON });
    let kernel = MatvecInt8 { projection, norm, heads: None, scratch: Some((&scratch).into()), tuning: case.tuning };
    gpu.run(&kernel.bind(gpu).expect("sizes fit").iter().collect::<Vec<&Dispatch>>());
    let found: Vec<f32> = read(gpu, &y, before.len())
        .chunks_exact(output_stride)
        .flat_map(|row| {
            assert!(row[width..].iter().all(|v| *v == 0.0), "padding was written");
            row[..width].to_vec()
        })
        .collect();
    let mut expected = previous;
    let input = &rounded_activations(&x, columns, gain.as_deref());
    matvec::cpu(&Cpu { weights: &weights, columns, input, norm: None, bias: bias.as_deref(), mode }, &mut expected);
    if case.times {
        for (y, times) in expected.chunks_mut(width).zip(times.chunks(width + 2)) {
            y.iter_mut().zip(&times[1..]).for_each(|(y, t)| *y *= t);
        }
    }
    let Case { scheme, tuning, .. } = case;
    compare(&format!("{scheme} {columns} columns, {tokens} tokens, {mode:?}, {tuning:?}"), &found, &expected);
}

fn plain(scheme: Scheme) -> Case<'static> {
    Case {
        scheme,
        chunk_rows: &[37],
        columns: 333,
        tokens: 1,
        mode: Output::Store,
        bias: false,
        norm: false,
        times: false,
        tuning: None,
    }
}

fn grouped() -> Vec<Scheme> {
    schemes().into_iter().filter(|s| matches!(s, Scheme::Grouped(_))).collect()
}

#[test]
fn every_scheme_of_codes_is_read() {
    for gpu in gpus() {
        for (i, scheme) in grouped().into_iter().enumerate() {
            check(&gpu, &Case { columns: [96, 333, 608][i % 3], tokens: 1 + i % 3, ..plain(scheme) }, i as u32);
        }
    }
}

#[test]
fn every_output_is_made_with_bias_and_norm() {
    let mut modes = vec![Output::Store, Output::Residual { multiplier: 0.7 }, Output::Activate(Activation::GeluTanh)];
    modes.extend([Activation::Silu, Activation::Gelu].map(Output::Glu));
    modes.extend([None, Some(1.5)].map(|softcap| Output::Logits { multiplier: 1.3, softcap }));
    for gpu in gpus() {
        for (i, mode) in modes.iter().enumerate() {
            for tokens in [1, 3] {
                let case =
                    Case { chunk_rows: &[24, 8, 10], tokens, mode: *mode, bias: true, norm: true, ..plain(scheme("q4/32")) };
                check(&gpu, &case, i as u32);
            }
        }
    }
}

#[test]
fn activations_are_multiplied_with_other_numbers() {
    let mode = Output::Activate(Activation::GeluTanh);
    for gpu in gpus() {
        for tokens in [1, 3] {
            let case = Case { chunk_rows: &[24, 8, 10], tokens, mode, times: true, ..plain(scheme("q4/32")) };
            check(&gpu, &case, 2);
        }
    }
}

#[test]
fn every_number_of_tokens_works_inline_and_not() {
    for gpu in gpus() {
        for text in ["q4/32+u4", "q3/64:e4m4 learned"] {
            let scheme = scheme(text);
            for tokens in [1, 2, 3, 5, 8] {
                let shape = Shape { scheme, rows: 37, columns: 333, tokens, heads: false };
                for inline in [false, true] {
                    let tuning = Some(Tuning { inline, replicas: 1, ..Tuning::new(&gpu.profile, &shape) });
                    check(&gpu, &Case { tokens, norm: true, tuning, ..plain(scheme) }, tokens as u32);
                }
            }
        }
    }
}

#[test]
fn the_work_may_be_divided_in_any_way() {
    for gpu in gpus() {
        let most = gpu.profile.subgroup_min_size.min(32);
        // Lanes, bands, tokens and those a lane, rows at once, depth, passes.
        let divisions = [
            (2, 1, 1, 1, 1, 4, 1),
            (4, 1, 1, 1, 2, 3, 2),
            (most, 1, 1, 1, 4, 1, 1),
            (most, 1, 1, 1, 1, 1, 3),
            (2, 4, 1, 1, 4, 1, 1),
            (4, 2, 1, 1, 2, 2, 2),
            (2, 2, 8, 2, 4, 1, 1),
            (4, 4, 3, 1, 2, 2, 2),
            (2, 2, 6, 4, 2, 1, 1),
        ];
        for (lanes, bands, tokens, tokens_a_lane, at_once, depth, passes) in divisions {
            let workgroup = 64;
            // Whole turns, and whole eights.
            let turn: u32 = workgroup / (lanes * bands * (tokens as u32).next_power_of_two() / tokens_a_lane) * at_once;
            let rows = (turn * passes).next_multiple_of(turn.max(8));
            for (text, replicas) in [("q4/32", 1), ("q4/32:e4m4 learned", 8)] {
                let tuning =
                    Tuning { workgroup, lanes, bands, tokens: tokens_a_lane, at_once, depth, rows, replicas, inline: true };
                let tuning = Some(tuning);
                check(&gpu, &Case { chunk_rows: &[72, 13], norm: true, tokens, tuning, ..plain(scheme(text)) }, lanes);
            }
        }
    }
}

#[test]
fn heads_are_rotated_and_written_where_attention_reads_them() {
    let tokens = [(5u32, 1u32), (70, 0), (0, u32::MAX)].map(|(position, sequence)| Token { id: 0, position, sequence, long: 0 });
    for gpu in gpus() {
        for (i, (num_heads, num_kv_heads, head_dim, rotated)) in
            [(4u32, 2u32, 32u32, 16u32), (3, 1, 64, 8), (2, 2, 40, 20), (2, 1, 16, 0), (1, 1, 8, 4)].into_iter().enumerate()
        {
            for (count, cache_f16) in [(1, false), (3, true), (2, false)] {
                let shape = AttentionShape { num_heads, num_kv_heads, head_dim, max_pages: 2, cache_f16 };
                let tokens = &tokens[..count];
                let columns = 96;
                let mut random = Random::new(i as u32);
                let scheme = scheme(["q4/32", "q4/32:e4m4 learned", "q3/64:e4m4 learned"][i % 3]);
                let (gpu_matrix, _) = matrix(&gpu, scheme, &[shape.qkv_size() as usize], columns, &mut random);
                let weights = rounded_weights(&gpu, &gpu_matrix);
                let (x, gain) = (random.values(count * columns), random.values(columns));
                let bias = random.values(gpu_matrix.rows);
                let inv_freq = (0..rotated).map(|i| 0.8f32.powi(i as i32)).collect();
                let mut table = RopeTable::new(inv_freq);
                table.factor = 1.1;
                let table = Some(&table).filter(|_| rotated > 0);
                let query_scaling = (i % 2 == 1).then_some(QueryScaling { beta: 0.4, original_context: 3 });

                let pages = vec![3, 1, 2, 0];
                let mut cache = CpuCache::new(shape, pages.clone(), 4);
                let pool = |name| gpu.storage(name, 4 * shape.page_bytes());
                let (keys, values) = (pool("keys"), pool("values"));
                let (x_buffer, gain_buffer) = (gpu.upload("x", &x), gpu.upload("gain", &gain));
                let bias_buffer = gpu.upload("bias", &bias);
                let (token_buffer, page_buffer) = (gpu.upload("tokens", tokens), gpu.upload("pages", &pages));
                let frequencies = table.map(|t| gpu.upload("frequencies", &rope_cache::frequencies(t)));
                let q = gpu.upload("q", &vec![7f32; count * shape.pitch() as usize]);
                let scratch = gpu.storage("scratch", 16384);
                let kernel = MatvecInt8 {
                    projection: Projection {
                        matrix: &gpu_matrix,
                        input: (&x_buffer).into(),
                        input_stride: columns,
                        output: (&q).into(),
                        output_stride: shape.pitch() as usize,
                        tokens: count,
                        bias: Some((&bias_buffer).into()),
                        mode: Output::Store,
                        times: None,
                    },
                    norm: Some(Norm { gain: (&gain_buffer).into(), epsilon: EPSILON }),
                    heads: Some(Heads {
                        shape,
                        rope: table.zip(frequencies.as_ref()).map(|(t, buffer)| Rope {
                            inv_freq: buffer.into(),
                            rotated,
                            factor: t.factor,
                        }),
                        query_scaling,
                        tokens: (&token_buffer).into(),
                        pages: (&page_buffer).into(),
                        keys: (&keys).into(),
                        values: (&values).into(),
                    }),
                    scratch: Some((&scratch).into()),
                    tuning: None,
                };
                let dispatches = match kernel.bind(&gpu) {
                    Err(error) if gpu.profile.max_storage_buffers < 13 => {
                        println!("skipped: {error}");
                        continue;
                    }
                    dispatches => dispatches.expect("it fits"),
                };
                gpu.run(&dispatches.iter().collect::<Vec<_>>());

                let rows = gpu_matrix.rows;
                let mut sums = vec![0.0; count * rows];
                let input = &rounded_activations(&x, columns, Some(&gain));
                let arguments = Cpu { weights: &weights, columns, input, norm: None, bias: Some(&bias), mode: Output::Store };
                matvec::cpu(&arguments, &mut sums);
                let steps = CpuSteps { rope: table, query_scaling, ..CpuSteps::default() };
                let expected = rope_cache::cpu(&mut cache, steps, tokens, &pad(&sums, rows, padded(rows)));
                let what = format!("{num_heads} heads of {head_dim}, {rotated} pairs, {count} tokens");
                compare(&format!("{what}, queries"), &read(&gpu, &q, expected.len()), &expected);
                let pool = |buffer| -> Vec<f32> {
                    let n = cache.keys.len();
                    if cache_f16 {
                        let halves: Vec<f16> = pollster::block_on(gpu.read(buffer, 0, n)).unwrap();
                        halves.into_iter().map(f32::from).collect()
                    } else {
                        read(&gpu, buffer, n)
                    }
                };
                compare(&format!("{what}, keys"), &pool(&keys), &cache.keys);
                compare(&format!("{what}, values"), &pool(&values), &cache.values);
            }
        }
    }
}
