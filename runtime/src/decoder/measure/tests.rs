//! The budget on a clock of its own, and measuring itself on the test adapter.

use super::*;
use crate::decoder::{Choice, DecoderOptions, Next};
use crate::device::GpuOptions;
use crate::kernels::candidate::Numerics;
use crate::kernels::choose::Means;
use crate::kernels::measured::Measured;
use crate::package::Package;
use crate::package::test_package::{build, tiny_spec};
use crate::sampling::SamplingOptions;
use haikuq_format::layout::{QuantizedRows, Scales, groups, pack_f32, pack_quantized, padded};
use haikuq_format::spec::{Attention, LayerSpec, TensorSpec};
use haikuq_format::{DecoderSpec, Scheme};
use half::f16;
use std::sync::Arc;
use std::sync::Mutex;

/// Candidates that take a time of their own on a clock that they move themselves.
struct Fake<'a> {
    clock: &'a Mutex<f64>,
    compile: f64,
    seconds: &'a [f64],
    broken: Option<usize>,
    runs: Vec<usize>,
}

impl Trial for Fake<'_> {
    async fn prepare(&mut self, candidate: usize) -> Result<bool, GpuError> {
        *self.clock.lock().unwrap() += self.compile;
        Ok(self.broken != Some(candidate))
    }

    async fn run(&mut self, candidates: &[usize], repeats: usize) -> Result<Vec<f64>, GpuError> {
        let mut seconds = Vec::new();
        for i in candidates {
            self.runs[*i] += 1;
            *self.clock.lock().unwrap() += self.seconds[*i] * repeats as f64;
            // The first run is slower.
            seconds.push(self.seconds[*i] * if self.runs[*i] == 1 { 2.0 } else { 1.0 });
        }
        Ok(seconds)
    }

    fn least(&self) -> f64 {
        0.0
    }

    fn span(&self, seconds: f64, repeats: usize) -> f64 {
        seconds * repeats as f64
    }
}

/// Times, runs of each candidate, and the time that it took.
fn raced(compile: f64, seconds: &[f64], broken: Option<usize>) -> (Vec<Option<f64>>, Vec<usize>, f64) {
    let clock = Mutex::new(0.0);
    let mut fake = Fake { clock: &clock, compile, seconds, broken, runs: vec![0; seconds.len()] };
    let elapsed = || *clock.lock().unwrap();
    let budget = Budget { elapsed: &elapsed, limit: 0.3 };
    let times = pollster::block_on(race(&mut fake, seconds.len(), &budget)).unwrap();
    (times, fake.runs, elapsed())
}

#[test]
fn the_shortest_of_several_runs_counts_and_the_first_does_not() {
    let (times, runs, _) = raced(0.01, &[0.002, 0.001], None);
    assert_eq!((times, runs), (vec![Some(0.002), Some(0.001)], vec![1 + ROUNDS; 2]));
}

#[test]
fn a_hopeless_candidate_runs_once_and_a_broken_one_never() {
    let (times, runs, _) = raced(0.01, &[0.001, 0.009, 0.002], Some(2));
    assert_eq!((times, runs), (vec![Some(0.001), Some(0.018), None], vec![1 + ROUNDS, 1, 0]));
}

#[test]
fn long_runs_count_at_once() {
    let (times, runs, _) = raced(0.01, &[0.04, 0.03], None);
    assert_eq!((times, runs), (vec![Some(0.08), Some(0.06)], vec![1; 2]));
}

#[test]
fn the_budget_ends_what_there_is_no_time_for() {
    // Four compilations are more than there is time for: the last candidate is not begun.
    let (times, runs, spent) = raced(0.12, &[0.001; 4], None);
    assert_eq!((times, runs), (vec![None; 4], vec![1, 1, 0, 0]));
    assert!(spent < 0.3 + 0.12, "{spent}");
    // Nor does a candidate begin that is likely to need all of the time left.
    let (times, runs, spent) = raced(0.0, &[0.2, 0.1], None);
    assert_eq!((times, runs), (vec![Some(0.4), None], vec![1, 0]));
    assert!(spent <= 0.3, "{spent}");
}

/// A decoder whose prompts are long enough for kernels of many tokens.
fn spec() -> DecoderSpec {
    let mut spec = tiny_spec();
    (spec.hidden_size, spec.max_context) = (32, 256);
    let mut attention = Attention::new(4, 2, 8);
    attention.rope = Some(0);
    let layer = LayerSpec::new(attention, *spec.mlps().next().unwrap());
    spec.layers = vec![layer; 2];
    spec
}

/// Matrices in 4 bits, vectors in f32, all of them arbitrary.
fn package() -> Package {
    let grouped = "q4/32".parse::<Scheme>().unwrap();
    let number = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 8;
    let pack = |tensor: &TensorSpec, rows: std::ops::Range<usize>| {
        let columns = *tensor.shape.last().unwrap();
        let first = rows.start * padded(columns);
        let Scheme::Grouped(g) = grouped else { unreachable!() };
        if tensor.shape.len() == 1 {
            return pack_f32(rows.len(), columns, &vec![1.0; rows.len() * columns]);
        }
        let codes = (first..first + rows.len() * padded(columns)).map(|i| (number(i) % 16) as u8).collect();
        let scales = Scales::F16(vec![f16::from_f32(0.06); rows.len() * groups(columns, g.group)]);
        pack_quantized(
            g,
            rows.len(),
            columns,
            &QuantizedRows { codes, scales, zero_points: Vec::new(), offsets: Vec::new(), codebook: Vec::new() },
        )
    };
    let scheme = |tensor: &TensorSpec| if tensor.shape.len() == 1 { Scheme::F32 } else { grouped };
    let (source, _) = build(spec(), 100, &[], scheme, pack);
    pollster::block_on(Package::open(source)).unwrap()
}

fn gpu(software_as_hardware: bool) -> Arc<Gpu> {
    Arc::new(Gpu::open_blocking(&GpuOptions { software_as_hardware, ..GpuOptions::default() }).unwrap())
}

fn load(gpu: &Arc<Gpu>, options: &DecoderOptions) -> Decoder {
    pollster::block_on(Decoder::load(gpu.clone(), &package(), options, &mut |_| {})).unwrap()
}

/// A text of some tokens after a prompt of 96.
fn text(decoder: &mut Decoder) -> Vec<u32> {
    const GREEDY: SamplingOptions = SamplingOptions::greedy();
    let choice = Choice { sampling: &GREEDY, step: 0 };
    let id = decoder.create_sequence().unwrap();
    pollster::block_on(decoder.prefill(id, &(0..96).map(|i| i * 7 % 40).collect::<Vec<_>>())).unwrap();
    let mut ids = vec![pollster::block_on(decoder.sample_first(id, choice)).unwrap()];
    while ids.len() < 12 {
        let next = Next { sequence: id, token: *ids.last().unwrap(), choice };
        ids.extend(pollster::block_on(decoder.decode(&[next])).unwrap());
    }
    decoder.remove_sequence(id).unwrap();
    ids
}

#[test]
fn measuring_changes_no_exact_text_and_is_not_done_twice() {
    let gpu = gpu(true);
    let exact = DecoderOptions { exact: true, measure: Measure::Never, ..DecoderOptions::default() };
    let expected = text(&mut load(&gpu, &exact));
    let mut options = DecoderOptions { measure: Measure::Always, ..exact };
    // Each load leaves to later ones what it has no time for. So many loads are enough to know all shapes.
    for _ in 0..12 {
        let mut decoder = load(&gpu, &options);
        assert_eq!(text(&mut decoder), expected);
        assert_eq!(decoder.numerics(), Numerics::Exact);
        let known = options.measured.replace(decoder.measured().clone());
        if known.as_ref() == Some(decoder.measured()) {
            break;
        }
    }
    let measured = options.measured.unwrap();
    let mut operations: Vec<_> = measured.entries.iter().map(|e| e.operation.as_str()).collect();
    operations.dedup();
    assert!(operations.contains(&"project") && operations.contains(&"attend"), "{measured:?}");
    assert!(measured.entries.iter().any(|e| e.microseconds.values().flatten().count() > 1), "{measured:?}");
    let fast = |name: &String| name.contains("int8") || name.contains("matrices") || name == "attention_prefill_tile";
    assert!(!measured.entries.iter().any(|e| e.microseconds.keys().any(fast)), "{measured:?}");
}

#[test]
fn software_is_not_measured() {
    for as_hardware in [false, true] {
        let decoder = load(&gpu(as_hardware), &DecoderOptions::default());
        assert_eq!(decoder.measured().entries, []);
    }
}

#[test]
fn given_times_decide_and_those_of_another_device_do_not() {
    let gpu = gpu(true);
    let table = DecoderOptions { measure: Measure::Never, ..DecoderOptions::default() };
    let shape = "a prompt, q4/32, 48 × 32, glu";
    let microseconds = [("matmul_matrices", 80.0), ("matmul_int8", 90.0), ("matmul_tile", 100.0), ("matmul", 20.0)];
    let microseconds: BTreeMap<_, _> = microseconds.into_iter().map(|(name, us)| (name.to_string(), Some(us))).collect();
    let times = Times { operation: "project".into(), shape: shape.into(), microseconds };
    let mut measured = Measured::on(gpu.key());
    measured.add(times.clone());
    let mut foreign = Measured::on("another device".into());
    foreign.add(times);

    let chosen = |decoder: &mut Decoder| {
        let (_, context) = decoder.parts_and_context();
        let program = context.choices().program(Part::Body(Step::of_prefill(96)));
        let product = program.operations.iter().find(|o| o.name() == "gate_up").unwrap();
        let bound = context.bind_operation(&program, product).unwrap();
        (bound.candidate, bound.chosen.unwrap())
    };
    let (by_table, means) = chosen(&mut load(&gpu, &table));
    assert_eq!(means, Means::Table);
    assert_ne!(by_table, "matmul");
    let given = |measured| DecoderOptions { measured: Some(measured), ..table.clone() };
    let mut decoder = load(&gpu, &given(measured.clone()));
    assert_eq!(decoder.measured(), &measured);
    let (candidate, means) = chosen(&mut decoder);
    assert_eq!(candidate, "matmul");
    assert!(matches!(means, Means::Measured { microseconds: 20.0, other, .. } if other == by_table), "{means:?}");
    assert_eq!(chosen(&mut load(&gpu, &given(foreign))), (by_table, Means::Table));
}
