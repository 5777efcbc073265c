//! Whatever a [`DecoderSpec`] can say, the GPU computes as the f32 reference does: decoders with random weights, made straight
//! from specs, at sizes that are no multiples of anything.
//!
//! Each is given texts longer than a page of the cache, in chunks that windows reach across, then tokens one by one, alone
//! and in a batch.

mod common;
mod random_decoder;

use common::Adapter;
use haikuq::golden::reference::Reference;
use haikuq_format::spec::{
    Activation, Biases, LayerSpec, Norm, NormKind, NormPlacement, QkNorm, Residual, RopeTable, TensorSpec,
};
use haikuq_format::{DecoderSpec, Scheme};
use haikuq_runtime::decoder::{CachePrecision, Choice, Decoder, DecoderOptions, Next, SequenceId};
use haikuq_runtime::device::{Gpu, GpuOptions};
use haikuq_runtime::sampling::{SamplingOptions, uniform};
use pollster::block_on;
use random_decoder::RandomDecoder;
use std::sync::Arc;

/// Largest error of a logit, in standard deviations of all logits.
const TOLERANCE: f32 = 1e-4;

/// Tokens of a prefill step: texts have three.
const CHUNK: usize = 32;

/// A small decoder that has none of the rarer features, but a window, two rope tables and a layer without rope.
fn plain() -> DecoderSpec {
    let rope = |pairs: usize, base: f32, factor| RopeTable {
        inv_freq: (0..pairs).map(|i| base.powf(-(i as f32) / pairs as f32)).collect(),
        factor,
        long: None,
    };
    DecoderSpec {
        vocab_size: 101,
        hidden_size: 72,
        intermediate_size: 100,
        num_heads: 6,
        num_kv_heads: 2,
        head_dim: 20,
        max_context: 96,
        norm: Norm { kind: NormKind::Rms, epsilon: 1e-5 },
        activation: Activation::Silu,
        gated_mlp: true,
        attention_scale: 20f32.sqrt().recip(),
        layers: vec![
            LayerSpec { window: Some(7), rope: Some(0) },
            LayerSpec { window: None, rope: Some(1) },
            LayerSpec { window: Some(40), rope: None },
        ],
        // All dimensions of a head turn, or 14 of 20.
        ropes: vec![rope(10, 1e4, 1.0), rope(7, 1e6, 1.2)],
        tied_head: false,
        qk_norm: None,
        biases: Biases::default(),
        residual: Residual::Sequential,
        norm_placement: NormPlacement::Pre,
        learned_positions: false,
        attention_softcap: None,
        logit_softcap: None,
        embedding_multiplier: 1.0,
        residual_multiplier: 1.0,
        logit_multiplier: 1.0,
        eos_token_ids: vec![],
        bos_token_id: None,
    }
}

const ALL_BIASES: Biases = Biases { qkv: true, attention_output: true, mlp: true, head: true };

fn of_norm(kind: NormKind) -> DecoderSpec {
    DecoderSpec { norm: Norm { kind, epsilon: 1e-5 }, ..plain() }
}

fn f32_package(_: &TensorSpec) -> Scheme {
    Scheme::F32
}

/// Ids of text number `text`.
fn ids(text: u64, len: usize) -> Vec<u32> {
    (0..len as u64).map(|i| (uniform(1000 + text, i) * 101.0) as u32).collect()
}

fn greedy() -> Choice<'static> {
    const GREEDY: SamplingOptions = SamplingOptions::greedy();
    Choice { sampling: &GREEDY, step: 0 }
}

/// A decoder on the GPU beside its reference.
struct Pair {
    what: String,
    gpu: Decoder,
    reference: Reference,
    largest: f32,
}

impl Pair {
    fn new(what: &str, gpu: &Arc<Gpu>, spec: &DecoderSpec, scheme: impl Fn(&TensorSpec) -> Scheme) -> Self {
        let random = RandomDecoder::new(spec, scheme);
        let options = DecoderOptions { cache: CachePrecision::F32, prefill_chunk: CHUNK, ..DecoderOptions::default() };
        let decoder = block_on(Decoder::load(gpu.clone(), &random.package(), &options, &mut |_| {})).unwrap();
        Self { what: what.into(), gpu: decoder, reference: random.reference(), largest: 0.0 }
    }

    fn vocab(&self) -> usize {
        self.reference.spec().vocab_size
    }

    /// The reference's logits after each of `ids`.
    fn expected(&self, ids: &[u32]) -> Vec<f32> {
        let mut logits = Vec::new();
        self.reference.forward(ids, &mut self.reference.new_cache(), |_, row| logits.extend_from_slice(row)).unwrap();
        logits
    }

    fn compare(&mut self, when: &str, found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        let n = expected.len() as f32;
        let mean = expected.iter().sum::<f32>() / n;
        let deviation = (expected.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / n).sqrt();
        assert!(deviation > 1e-3, "{}: these logits say nothing", self.what);
        for (i, (a, b)) in found.iter().zip(expected).enumerate() {
            let error = (a - b).abs() / deviation;
            let (row, id) = (i / self.vocab(), i % self.vocab());
            // Not `error > TOLERANCE`, which no NaN is.
            assert!(error <= TOLERANCE, "{}, {when}: logit {id} of row {row} is {a}, expected {b}", self.what);
            self.largest = self.largest.max(error);
        }
    }

    fn prefilled(&mut self, ids: &[u32]) -> SequenceId {
        let sequence = self.gpu.create_sequence().unwrap();
        for chunk in ids.chunks(CHUNK) {
            self.gpu.prefill(sequence, chunk).unwrap();
        }
        sequence
    }

    /// Logits after one more token of each sequence.
    fn step(&mut self, batch: &[(SequenceId, u32)]) -> Vec<f32> {
        let next: Vec<_> = batch.iter().map(|&(sequence, token)| Next { sequence, token, choice: greedy() }).collect();
        block_on(self.gpu.decode(&next)).unwrap();
        block_on(self.gpu.logits(next.len())).unwrap()
    }

    /// Every position of a text in three chunks.
    fn check_prefill(&mut self) {
        let ids = ids(0, 75);
        let mut found = Vec::new();
        block_on(self.gpu.score(&ids, &mut |_, row| found.extend_from_slice(row))).unwrap();
        let expected = self.expected(&ids);
        self.compare("prefill", &found, &expected);
    }

    /// Texts of several lengths, each with some more tokens: together in a batch, then each alone, to the same bits.
    fn check_decode(&mut self) {
        const STEPS: usize = 3;
        let texts: Vec<Vec<u32>> = (1..).zip([70, 9, 1, 33, 62]).map(|(text, len)| ids(text, len + STEPS)).collect();
        let start = |text: &[u32]| text.len() - STEPS;
        let sequences: Vec<_> = texts.iter().map(|text| self.prefilled(&text[..start(text)])).collect();
        let mut together = vec![Vec::new(); texts.len()];
        for step in 0..STEPS {
            let batch: Vec<_> = sequences.iter().zip(&texts).map(|(s, text)| (*s, text[start(text) + step])).collect();
            let logits = self.step(&batch);
            together.iter_mut().zip(logits.chunks_exact(self.vocab())).for_each(|(all, row)| all.extend_from_slice(row));
        }
        for ((text, sequence), together) in texts.iter().zip(sequences).zip(together) {
            let expected = self.expected(text).split_off(start(text) * self.vocab());
            self.compare(&format!("batch, after {}", start(text)), &together, &expected);
            self.gpu.truncate(sequence, start(text)).unwrap();
            let alone: Vec<f32> = text[start(text)..].iter().flat_map(|id| self.step(&[(sequence, *id)])).collect();
            assert!(alone == together, "{}: a sequence of {} fares differently in a batch", self.what, start(text));
            self.gpu.remove_sequence(sequence).unwrap();
        }
    }

    fn check_continuation(&mut self) {
        let prompt = ids(9, 40);
        let expected = self.reference.generate_greedy(&prompt, 12).unwrap();
        let sequence = self.prefilled(&prompt);
        let mut found = vec![block_on(self.gpu.sample_first(sequence, greedy())).unwrap()];
        while found.len() < expected.len() {
            let next = Next { sequence, token: found[found.len() - 1], choice: greedy() };
            found.extend(block_on(self.gpu.decode(&[next])).unwrap());
        }
        self.gpu.remove_sequence(sequence).unwrap();
        assert_eq!(found, expected, "{}", self.what);
    }

    fn check(mut self) {
        self.check_prefill();
        self.check_decode();
        self.check_continuation();
        println!("{}: largest error {:.1e} standard deviations", self.what, self.largest);
    }
}

fn gpu() -> Arc<Gpu> {
    gpu_with(&GpuOptions::default())
}

fn gpu_with(options: &GpuOptions) -> Arc<Gpu> {
    Arc::new(Gpu::open_blocking(options).expect("an adapter; run scripts/setup.sh to install software Vulkan"))
}

#[test]
fn every_norm_in_every_place_with_every_residual() {
    let gpu = gpu();
    for kind in [NormKind::Rms, NormKind::Layer, NormKind::LayerNoBias] {
        for norm_placement in [NormPlacement::Pre, NormPlacement::Post, NormPlacement::Both] {
            for residual in [Residual::Sequential, Residual::Parallel, Residual::ParallelShared] {
                let mut spec = DecoderSpec { norm_placement, residual, ..of_norm(kind) };
                // What adds to the stream shows in the next layer.
                spec.layers.truncate(2);
                Pair::new(&format!("{kind:?} {norm_placement:?} {residual:?}"), &gpu, &spec, f32_package).check();
            }
        }
    }
}

#[test]
fn biases_multipliers_and_caps_with_and_without_layer_norms() {
    let gpu = gpu();
    for (norm_placement, kind) in [
        (NormPlacement::Pre, NormKind::Rms),
        (NormPlacement::Pre, NormKind::Layer),
        (NormPlacement::Both, NormKind::Rms),
        (NormPlacement::Post, NormKind::Layer),
    ] {
        let spec = DecoderSpec {
            norm_placement,
            biases: ALL_BIASES,
            residual_multiplier: 0.6,
            embedding_multiplier: 3.0,
            logit_multiplier: 0.3,
            attention_scale: 0.4,
            attention_softcap: Some(1.5),
            logit_softcap: Some(0.7),
            ..of_norm(kind)
        };
        Pair::new(&format!("{kind:?} {norm_placement:?}, all biases, multipliers and caps"), &gpu, &spec, f32_package).check();
    }
    for (name, biases) in [
        ("qkv", Biases { qkv: true, ..Biases::default() }),
        ("attention output", Biases { attention_output: true, ..Biases::default() }),
        ("mlp", Biases { mlp: true, ..Biases::default() }),
        ("tied head", Biases { head: true, ..Biases::default() }),
    ] {
        let spec = DecoderSpec { biases, tied_head: biases.head, ..plain() };
        Pair::new(&format!("bias of {name}"), &gpu, &spec, f32_package).check();
    }
}

#[test]
fn every_activation_gated_or_not() {
    let gpu = gpu();
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        for gated_mlp in [true, false] {
            let biases = Biases { mlp: true, ..Biases::default() };
            let spec = DecoderSpec { activation, gated_mlp, biases, ..plain() };
            Pair::new(&format!("{activation:?}, gated: {gated_mlp}"), &gpu, &spec, f32_package).check();
        }
    }
}

#[test]
fn every_norm_of_queries_and_keys() {
    let gpu = gpu();
    let kinds = [NormKind::Rms, NormKind::Layer, NormKind::LayerNoBias];
    let shared = [QkNorm::PerHead, QkNorm::Whole].into_iter().flat_map(|qk_norm| kinds.map(|kind| (kind, qk_norm)));
    let own = [
        (NormKind::Layer, QkNorm::EachHead(NormKind::LayerNoBias)),
        (NormKind::Rms, QkNorm::EachHead(NormKind::Layer)),
        (NormKind::Layer, QkNorm::EachHead(NormKind::Rms)),
    ];
    for (kind, qk_norm) in shared.chain(own) {
        let spec = DecoderSpec { qk_norm: Some(qk_norm), attention_scale: 0.3, ..of_norm(kind) };
        Pair::new(&format!("{qk_norm:?} in {kind:?}"), &gpu, &spec, f32_package).check();
    }
}

#[test]
fn learned_positions_in_any_scheme() {
    let gpu = gpu();
    for scheme in ["f32", "f16", "q8/32", "q3/32+u4"] {
        let scheme: Scheme = scheme.parse().unwrap();
        let mut spec = DecoderSpec { learned_positions: true, tied_head: true, biases: ALL_BIASES, ..of_norm(NormKind::Layer) };
        spec.layers.iter_mut().for_each(|layer| layer.rope = None);
        spec.ropes.clear();
        Pair::new(&format!("positions in {scheme}"), &gpu, &spec, |_| scheme).check();
    }
}

/// Schemes with a table of values for each matrix: three that the default recipes choose from, then others.
const LEARNED: [&str; 7] = [
    "q3/32:e4m4 learned",
    "q4/32:e4m4 learned",
    "q5/32:e4m4 learned",
    "q4/64:e4m4 learned",
    "q3/64 learned",
    "q4/32 learned",
    "q5/128 learned",
];

#[test]
fn learned_tables_in_every_matrix() {
    let gpu = gpu();
    for scheme in &LEARNED[..3] {
        let spec = DecoderSpec { biases: ALL_BIASES, ..plain() };
        let parsed: Scheme = scheme.parse().unwrap();
        Pair::new(scheme, &gpu, &spec, |_| parsed).check();
    }
}

/// Decoders whose matrices have each a scheme of its own, as calibrated packages do.
fn schemes_in_turn_on(gpu: &Arc<Gpu>) {
    let schemes: Vec<Scheme> = LEARNED.iter().chain(&["q8/64", "f16"]).map(|scheme| scheme.parse().unwrap()).collect();
    let matrices = std::cell::Cell::new(0);
    for tied_head in [true, false] {
        // Nine schemes for four matrices a layer: none has the scheme that it has in another layer.
        let in_turn = |_: &TensorSpec| schemes[matrices.replace(matrices.get() + 1) % schemes.len()];
        let spec = DecoderSpec { tied_head, ..plain() };
        Pair::new(&format!("schemes in turn, tied head: {tied_head}"), gpu, &spec, in_turn).check();
    }
    assert_eq!(matrices.get(), 3 * schemes.len(), "each has served three matrices");
}

#[test]
fn schemes_in_turn() {
    schemes_in_turn_on(&gpu());
}

/// Combinations as published models have them.
fn combinations() -> Vec<(&'static str, DecoderSpec)> {
    let without_rope = |spec: DecoderSpec| {
        let layers = vec![LayerSpec::default(); 3];
        DecoderSpec { layers, ropes: Vec::new(), ..spec }
    };
    vec![
        (
            "learned positions, layer norm, plain GELU, tied",
            without_rope(DecoderSpec {
                learned_positions: true,
                activation: Activation::GeluTanh,
                gated_mlp: false,
                biases: Biases { head: false, ..ALL_BIASES },
                tied_head: true,
                num_kv_heads: 6,
                ..of_norm(NormKind::Layer)
            }),
        ),
        (
            "parallel with two layer norms, partial rope",
            DecoderSpec {
                residual: Residual::Parallel,
                activation: Activation::Gelu,
                gated_mlp: false,
                biases: Biases { head: false, ..ALL_BIASES },
                layers: vec![LayerSpec { window: None, rope: Some(1) }; 3],
                ..of_norm(NormKind::Layer)
            },
        ),
        (
            "parallel with one layer norm, one key/value head, biased head",
            DecoderSpec {
                residual: Residual::ParallelShared,
                activation: Activation::GeluTanh,
                gated_mlp: false,
                biases: ALL_BIASES,
                num_kv_heads: 1,
                ..of_norm(NormKind::Layer)
            },
        ),
        (
            "parallel with one norm, gains of each head, logit multiplier",
            DecoderSpec {
                residual: Residual::ParallelShared,
                qk_norm: Some(QkNorm::EachHead(NormKind::LayerNoBias)),
                logit_multiplier: 0.0625,
                tied_head: true,
                ..of_norm(NormKind::LayerNoBias)
            },
        ),
        (
            "norms after blocks, whole q/k norm",
            DecoderSpec { norm_placement: NormPlacement::Post, qk_norm: Some(QkNorm::Whole), ..plain() },
        ),
        (
            "norms before and after blocks, q/k norm per head, windows, caps, scaled embedding",
            DecoderSpec {
                norm_placement: NormPlacement::Both,
                qk_norm: Some(QkNorm::PerHead),
                activation: Activation::GeluTanh,
                attention_softcap: Some(50.0),
                logit_softcap: Some(30.0),
                embedding_multiplier: 72f32.sqrt(),
                tied_head: true,
                ..plain()
            },
        ),
        (
            "everything at once",
            DecoderSpec {
                norm_placement: NormPlacement::Both,
                residual: Residual::ParallelShared,
                qk_norm: Some(QkNorm::Whole),
                biases: ALL_BIASES,
                learned_positions: true,
                activation: Activation::Gelu,
                attention_softcap: Some(2.0),
                logit_softcap: Some(3.0),
                embedding_multiplier: 2.0,
                residual_multiplier: 0.5,
                logit_multiplier: 0.7,
                ..of_norm(NormKind::Layer)
            },
        ),
    ]
}

#[test]
fn features_work_together() {
    let gpu = gpu();
    for (name, spec) in combinations() {
        Pair::new(name, &gpu, &spec, f32_package).check();
    }
}

#[test]
fn a_device_with_webgpus_default_limits_and_no_features_computes_the_same() {
    let poor = GpuOptions { without_f16: true, without_subgroups: true, default_limits: true, ..GpuOptions::default() };
    let gpu = gpu_with(&poor);
    let q3: Scheme = "q3/32+u4".parse().unwrap();
    for (name, spec) in combinations() {
        Pair::new(name, &gpu, &spec, |_| q3).check();
    }
    schemes_in_turn_on(&gpu);
}

#[test]
fn features_and_schemes_work_on_swiftshader() {
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    Adapter::swiftshader().show_alone(&mut again);
    // The other tests pass there too, but take minutes.
    let tests = ["features_work_together", "schemes_in_turn"];
    let output = again.arg("--exact").args(tests).arg("--nocapture").output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && said.contains("2 passed"), "{said}");
}
