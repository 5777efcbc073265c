//! `sample_scan` and `sample_choose` choose what `sample_cpu` chooses.

mod support;

use haikuq_format::layout::padded;
use haikuq_runtime::device::Gpu;
use haikuq_runtime::kernels::attention::{IDLE, Token};
use haikuq_runtime::kernels::sample::{MarkSeen, Sample, SampleParams, mask_words, seen_words};
use haikuq_runtime::sampling::{SamplingOptions, sample_cpu, uniform};
use rstest::rstest;
use support::{Random, gpu, read};

/// Rows of logits on a device with all that sampling needs.
struct Bench {
    gpu: Gpu,
    rows: usize,
    vocab: usize,
    logits: wgpu::Buffer,
    seen: wgpu::Buffer,
    next: wgpu::Buffer,
}

impl Bench {
    fn new(vocab: usize, rows: &[Vec<f32>], seen: &[Vec<u32>]) -> Self {
        let gpu = gpu();
        let padding = vec![100.0; padded(vocab) - vocab];
        let logits: Vec<f32> = rows.iter().flat_map(|row| row.iter().chain(&padding).copied()).collect();
        let words = seen_words(vocab as u32) as usize;
        let mut bits = vec![0u32; words * rows.len().max(1)];
        for (row, ids) in seen.iter().enumerate() {
            ids.iter().for_each(|id| bits[row * words + *id as usize / 32] |= 1 << (id % 32));
        }
        let next: Vec<_> = (0..rows.len() as u32).map(|t| Token { id: 0, position: 10 + t, sequence: t, long: 0 }).collect();
        let (logits, seen, next) = (gpu.upload("logits", &logits), gpu.upload("seen", &bits), gpu.upload("next", &next));
        Self { rows: rows.len(), vocab, logits, seen, next, gpu }
    }

    fn sample(&self, params: &[SampleParams]) -> Vec<u32> {
        self.sample_of(params, None)
    }

    /// The same where only the ids of each row's list may be chosen.
    fn sample_among(&self, params: &[SampleParams], allowed: &[Vec<u32>]) -> Vec<u32> {
        let words = mask_words(self.vocab as u32) as usize;
        let mut bits = vec![0u32; words * allowed.len()];
        for (row, ids) in allowed.iter().enumerate() {
            ids.iter().for_each(|id| bits[row * words + *id as usize / 32] |= 1 << (id % 32));
        }
        self.sample_of(params, Some(&self.gpu.upload("mask", &bits)))
    }

    fn sample_of(&self, params: &[SampleParams], mask: Option<&wgpu::Buffer>) -> Vec<u32> {
        let (rows, vocab) = (self.rows as u32, self.vocab as u32);
        let chosen = self.gpu.storage("chosen", 4 * u64::from(rows));
        let params = self.gpu.upload("params", params);
        let scratch = self.gpu.storage("scratch", Sample::scratch_bytes(rows, vocab));
        let kernel = Sample {
            rows,
            vocab,
            logits: (&self.logits).into(),
            params: (&params).into(),
            seen: (&self.seen).into(),
            scratch: (&scratch).into(),
            chosen: (&chosen).into(),
            next: Some((&self.next).into()),
            mask: mask.map(Into::into),
        };
        let [scan, choose] = kernel.bind(&self.gpu).unwrap();
        self.gpu.run(&[&scan, &choose]);
        read(&self.gpu, &chosen, self.rows).unwrap()
    }
}

/// One draw each of `rows` with `options`, nothing seen before.
fn sample_rows(vocab: usize, rows: &[Vec<f32>], options: &SamplingOptions, step: u64) -> Vec<u32> {
    let params: Vec<_> = (0..rows.len() as u32).map(|t| SampleParams::new(options, step, t)).collect();
    Bench::new(vocab, rows, &[]).sample(&params)
}

fn warm() -> SamplingOptions {
    let mut options = SamplingOptions::greedy();
    (options.temperature, options.seed) = (0.8, 7);
    options
}

/// [`warm`], but for what `change` changes.
fn warm_with(change: impl FnOnce(&mut SamplingOptions)) -> SamplingOptions {
    let mut options = warm();
    change(&mut options);
    options
}

#[rstest]
fn greedy_takes_the_lowest_id_of_the_largest_logits(#[values(1, 7, 2048, 2049, 50_257)] vocab: usize) {
    let mut random = Random::new(vocab as u64);
    let mut rows: Vec<Vec<f32>> = (0..3).map(|_| random.values(vocab).iter().map(|x| x * 20.0 - 30.0).collect()).collect();
    // The largest twice, in two spans where there are two.
    let (a, b) = (vocab / 3, vocab - 1);
    (rows[1][a], rows[1][b]) = (-5.0, -5.0);
    rows[2].iter_mut().for_each(|x| *x = -0.0);
    rows[2][b] = 0.0;
    let expected: Vec<_> = rows.iter().map(|r| sample_cpu(r, &[], &SamplingOptions::greedy(), 0.0).unwrap()).collect();
    assert_eq!(sample_rows(vocab, &rows, &SamplingOptions::greedy(), 0), expected);
    assert_eq!(expected[1..], [a as u32, 0]);
}

#[rstest]
fn meaningless_logits_give_no_token(#[values(0.0, 1.0)] temperature: f32) {
    let options = warm_with(|o| o.temperature = temperature);
    let mut random = Random::new(2);
    let mut rows: Vec<Vec<f32>> = (0..4).map(|_| random.values(3000)).collect();
    rows[0][2999] = f32::NAN;
    rows[1][5] = f32::INFINITY;
    rows[2].fill(f32::NEG_INFINITY);
    rows[3].fill(f32::NEG_INFINITY);
    rows[3][2500] = -50.0;
    assert_eq!(sample_rows(3000, &rows, &options, 0), [IDLE, IDLE, IDLE, 2500]);
}

/// Every combination of filters, on logits that are a random order of well separated steps (no threshold falls within
/// rounding of a logit), with ties and excluded tokens.
#[rstest]
fn filters_agree_with_the_cpu_twin(#[values(5, 100, 300, 4099)] vocab: usize) {
    let mut random = Random::new(vocab as u64);
    let row: Vec<f32> = random
        .permutation(vocab)
        .iter()
        .map(|i| match i % 11 {
            3 => f32::NEG_INFINITY,
            _ => 8.0 - (i / 2) as f32 * 0.07,
        })
        .collect();
    let seen: Vec<u32> = (0..vocab as u32).step_by(3).collect();
    let mut cases = Vec::new();
    for top_k in [0, 1, 2, 40, 1 << 20] {
        for top_p in [1.0, 0.93, 0.3, 1e-6] {
            for min_p in [0.0, 0.033, 1.0] {
                for repetition_penalty in [1.0, 1.3] {
                    for temperature in [0.0, 0.31, 1.7] {
                        cases.push(warm_with(|o| {
                            (o.temperature, o.repetition_penalty, o.seed) = (temperature, repetition_penalty, 99);
                            (o.top_k, o.top_p, o.min_p) = (top_k, top_p, min_p);
                        }));
                    }
                }
            }
        }
    }
    let bench = Bench::new(vocab, &vec![row.clone(); cases.len()], &vec![seen.clone(); cases.len()]);
    let params: Vec<_> = (0..).zip(&cases).map(|(t, c)| SampleParams::new(c, u64::from(t), t)).collect();
    let found = bench.sample(&params);
    for (t, case) in cases.iter().enumerate() {
        let number = uniform(99, t as u64);
        assert_eq!(Some(found[t]), sample_cpu(&row, &seen, case, number), "{case:?}, uniform number {number}");
    }
}

/// More equal logits than the kernel lists, and a top-k that wants more tokens than there are spans to look into.
#[test]
fn ties_and_large_top_k_are_exact() {
    let vocab = 5000;
    let mut random = Random::new(12);
    let flat = vec![1.5; vocab];
    let steps: Vec<f32> = random.permutation(vocab).iter().map(|i| 4.0 - *i as f32 / 512.0).collect();
    for row in [flat, steps] {
        let cases = [(5, 1.0), (900, 1.0), (4000, 0.97), (0, 0.25)];
        let cases = cases.map(|(top_k, top_p)| warm_with(|o| (o.top_k, o.top_p) = (top_k, top_p)));
        let bench = Bench::new(vocab, &vec![row.clone(); cases.len()], &[]);
        let params: Vec<_> = (0..).zip(&cases).map(|(t, c)| SampleParams::new(c, 3, t)).collect();
        for (found, case) in bench.sample(&params).into_iter().zip(&cases) {
            // Weights are rounded differently, so the id may be a neighbour's where the sum nearly hits the number.
            let draw = |shift: f32| sample_cpu(&row, &[], case, uniform(case.seed, 3) + shift).unwrap();
            assert!((draw(-1e-5)..=draw(1e-5)).contains(&found), "{case:?}: {found}, expected {}", draw(0.0));
        }
    }
}

#[test]
fn frequencies_of_draws_are_the_probabilities() {
    let probabilities = [0.02f32, 0.4, 0.08, 0.3, 0.0, 0.2];
    let row: Vec<f32> = probabilities.iter().map(|p| p.ln()).collect();
    let draws = 10_000;
    let options = warm_with(|o| o.temperature = 1.0);
    // 50 rows at once, 200 times.
    let bench = Bench::new(6, &vec![row; 50], &[]);
    let mut counts = [0u32; 6];
    for round in 0..draws / 50 {
        let params: Vec<_> = (0..50).map(|t| SampleParams::new(&options, round * 50 + u64::from(t), t)).collect();
        bench.sample(&params).iter().for_each(|id| counts[*id as usize] += 1);
    }
    for (count, p) in counts.iter().zip(probabilities) {
        let (n, p) = (draws as f32, p);
        // Four standard deviations of a binomial count.
        let tolerance = 4.0 * (n * p * (1.0 - p)).sqrt();
        assert!((*count as f32 - n * p).abs() <= tolerance, "{counts:?}");
    }
}

#[test]
fn a_large_vocabulary_is_drawn_from_as_the_twin_does() {
    let vocab = 262_144;
    let mut random = Random::new(1);
    // Steps of 2^-10 or ties, up to 16 above the least: large against rounding in a logit, small in probability.
    let row: Vec<f32> = random.values(vocab).iter().map(|x| (x * 8192.0).round() / 1024.0).collect();
    for (step, options) in
        [warm(), warm_with(|o| o.top_p = 0.9), warm_with(|o| (o.top_k, o.top_p) = (50, 0.95)), warm_with(|o| o.min_p = 0.1003)]
            .iter()
            .enumerate()
    {
        let found = sample_rows(vocab, std::slice::from_ref(&row), options, step as u64)[0];
        let number = uniform(options.seed, step as u64);
        // Weights are rounded differently, so the id may be a neighbour's where the sum nearly hits the number.
        let near =
            [number - 1e-5, number, number + 1e-5].map(|u| sample_cpu(&row, &[], options, u.clamp(0.0, 0.999_999)).unwrap());
        assert!((near[0]..=near[2]).contains(&found), "{options:?}: {found}, expected {near:?}");
    }
}

#[test]
fn members_of_a_batch_differ_and_idle_ones_are_left_alone() {
    let mut random = Random::new(3);
    let rows: Vec<Vec<f32>> = (0..4).map(|_| random.values(500)).collect();
    let options = [SamplingOptions::greedy(), warm_with(|o| o.top_k = 3), warm(), warm()];
    let bench = Bench::new(500, &rows, &[]);
    // Rows of `seen` need not be in the order of the batch.
    let sequences = [2, 0, 3, IDLE];
    let params: Vec<_> = options
        .iter()
        .zip(sequences)
        .map(|(o, s)| if s == IDLE { SampleParams::idle() } else { SampleParams::new(o, 5, s) })
        .collect();
    let found = bench.sample(&params);
    for t in 0..3 {
        assert_eq!(Some(found[t]), sample_cpu(&rows[t], &[], &options[t], uniform(options[t].seed, 5)));
    }
    assert_eq!(found[3], IDLE);

    let next: Vec<Token> = read(&bench.gpu, &bench.next, 4).unwrap();
    for t in 0..3 {
        assert_eq!((next[t].id, next[t].position, next[t].sequence), (found[t], 11 + t as u32, t as u32));
    }
    assert_eq!((next[3].id, next[3].position), (0, 13));

    let words = seen_words(500) as usize;
    let seen: Vec<u32> = read(&bench.gpu, &bench.seen, 4 * words).unwrap();
    for (row, expected) in [(0, vec![found[1]]), (1, vec![]), (2, vec![found[0]]), (3, vec![found[2]])] {
        let ids: Vec<u32> = (0..500).filter(|id| seen[row * words + *id as usize / 32] >> (id % 32) & 1 == 1).collect();
        assert_eq!(ids, expected, "row {row}");
    }
}

/// A row in which what is not allowed is excluded as the twin knows it.
fn excluding(row: &[f32], allowed: &[u32]) -> Vec<f32> {
    (0..).zip(row).map(|(id, l)| if allowed.contains(&id) { *l } else { f32::NEG_INFINITY }).collect()
}

#[rstest]
fn tokens_outside_a_mask_have_no_part_in_any_step(#[values(5, 100, 300, 4099)] vocab: usize, #[values(1, 3, 40)] of: usize) {
    let mut random = Random::new(vocab as u64);
    let rows: Vec<Vec<f32>> = (0..5).map(|_| random.values(vocab).iter().map(|x| (x * 64.0).round() / 16.0).collect()).collect();
    let allowed: Vec<Vec<u32>> =
        (0..5).map(|t| (0..vocab as u32).filter(|id| ((id * 7 + t) as usize).is_multiple_of(of)).collect()).collect();
    let options = [
        SamplingOptions::greedy(),
        warm(),
        warm_with(|o| o.top_k = 3),
        warm_with(|o| o.top_p = 0.4),
        warm_with(|o| (o.min_p, o.repetition_penalty) = (0.2, 1.3)),
    ];
    let seen: Vec<Vec<u32>> = (0..5).map(|t| (t..vocab as u32).step_by(3).collect()).collect();
    let bench = Bench::new(vocab, &rows, &seen);
    for step in 0..4 {
        let params: Vec<_> = (0..).zip(&options).map(|(t, o)| SampleParams::new(o, step, t)).collect();
        let fresh = Bench::new(vocab, &rows, &seen);
        let found = fresh.sample_among(&params, &allowed);
        for (t, options) in options.iter().enumerate() {
            let row = excluding(&rows[t], &allowed[t]);
            let expected = sample_cpu(&row, &seen[t], options, uniform(options.seed, step)).unwrap_or(IDLE);
            assert_eq!(found[t], expected, "{options:?}");
        }
    }
    // Without a mask the same rows have their own largest logits.
    let greedy: Vec<_> = (0..5).map(|t| SampleParams::new(&SamplingOptions::greedy(), 0, t)).collect();
    for (t, id) in bench.sample(&greedy).into_iter().enumerate() {
        assert_eq!(Some(id), sample_cpu(&rows[t], &[], &SamplingOptions::greedy(), 0.0));
    }
}

#[test]
fn a_mask_hides_no_broken_logit_and_an_empty_one_leaves_no_token() {
    let mut broken = vec![1.0; 70];
    broken[40] = f32::NAN;
    let bench = Bench::new(70, &[broken, vec![1.0; 70]], &[]);
    let params: Vec<_> = (0..2).map(|t| SampleParams::new(&SamplingOptions::greedy(), 0, t)).collect();
    assert_eq!(bench.sample_among(&params, &[vec![3, 69], vec![]]), [IDLE, IDLE]);
    assert_eq!(bench.sample_among(&params, &[vec![3, 69], vec![69]]), [IDLE, 69]);
}

#[test]
fn prompts_are_noted_for_the_penalty() {
    let gpu = gpu();
    let (vocab, sequences) = (1000, 3);
    let words = seen_words(vocab) as usize;
    let tokens: Vec<Token> = (0..150)
        .map(|i| Token { id: i * 7 % 1010, position: i, sequence: if i % 5 == 4 { IDLE } else { i % 3 }, long: 0 })
        .collect();
    let seen = gpu.storage("seen", 4 * (words * sequences) as u64);
    let buffer = gpu.upload("tokens", &tokens);
    let kernel = MarkSeen { num_tokens: 150, vocab, tokens: (&buffer).into(), seen: (&seen).into() };
    gpu.run(&[&kernel.bind(&gpu).unwrap()]);
    let bits: Vec<u32> = read(&gpu, &seen, words * sequences).unwrap();
    let mut expected = vec![0u32; words * sequences];
    for t in tokens.iter().filter(|t| t.sequence != IDLE && t.id < vocab) {
        expected[t.sequence as usize * words + t.id as usize / 32] |= 1 << (t.id % 32);
    }
    assert_eq!(bits, expected);
}
