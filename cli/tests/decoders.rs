//! Whatever a [`DecoderSpec`] can say, the GPU computes as the f32 reference does: decoders with random weights, made straight
//! from specs, at sizes that are no multiples of anything.
//!
//! Each is given texts longer than a page of the cache, in chunks that windows reach across, then tokens one by one, alone
//! and in a batch.

mod common;
mod random_decoder;

use common::Adapter;
use haikuq::reference::Reference;
use haikuq_format::spec::{
    Activation, AltUp, Attention, AttentionGate, DeltaNet, Experts, GatedNorm, LayerSpec, Mamba2, Mlp, Norm, NormKind,
    NormPlacement, PerLayerEmbedding, QkNorm, QueryScaling, Residual, RopeTable, Scores, ShortConv, TensorSpec,
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

fn rope(pairs: usize, base: f32, factor: f32) -> RopeTable {
    let inv_freq = (0..pairs).map(|i| base.powf(-(i as f32) / pairs as f32)).collect();
    let mut table = RopeTable::new(inv_freq);
    table.factor = factor;
    table
}

/// A small decoder that has none of the rarer features, but a window, two rope tables and a layer without rope.
fn plain() -> DecoderSpec {
    let layer = |window, rope| {
        let mut attention = Attention::new(6, 2, 20);
        (attention.window, attention.rope) = (window, rope);
        LayerSpec::new(attention, Mlp::new(100, Activation::Silu))
    };
    let layers = vec![layer(Some(7), Some(0)), layer(None, Some(1)), layer(Some(40), None)];
    let mut spec = DecoderSpec::new(101, 72, 96, Norm { kind: NormKind::Rms, epsilon: 1e-5 }, layers);
    // All dimensions of a head turn, or 14 of 20.
    spec.ropes = vec![rope(10, 1e4, 1.0), rope(7, 1e6, 1.2)];
    spec
}

/// Four layers that have no size, and hardly anything else, in common. Widths of the feed-forward networks end at different
/// places within a unit, so that one's numbers must not show as another's padding.
fn uneven() -> DecoderSpec {
    let mlp = |intermediate_size, activation, gated, bias| {
        let mut mlp = Mlp::new(intermediate_size, activation);
        (mlp.gated, mlp.bias) = (gated, bias);
        mlp
    };
    let mut first = Attention::new(6, 2, 20);
    (first.window, first.rope) = (Some(7), Some(0));
    let mut second = Attention::new(4, 4, 36);
    (second.softcap, second.qk_norm) = (Some(1.5), Some(QkNorm::Whole));
    (second.qkv_bias, second.output_bias) = (true, true);
    let mut third = Attention::new(3, 1, 12);
    (third.scale, third.rope, third.qk_norm) = (0.2, Some(2), Some(QkNorm::PerHead));
    let mut fourth = Attention::new(8, 2, 32);
    (fourth.window, fourth.rope, fourth.qkv_bias) = (Some(40), Some(1), true);
    let mut layers = vec![
        LayerSpec::new(first, mlp(120, Activation::Silu, true, false)),
        LayerSpec::new(second, mlp(97, Activation::Gelu, false, true)),
        LayerSpec::new(third, mlp(37, Activation::GeluTanh, true, true)),
        LayerSpec::new(fourth, mlp(101, Activation::Silu, false, false)),
    ];
    (layers[1].residual, layers[1].norm_placement) = (Residual::Parallel, NormPlacement::Both);
    layers[2].residual = Residual::ParallelShared;
    layers[3].norm_placement = NormPlacement::Post;
    changed(plain(), |s| {
        s.layers = layers;
        s.ropes.push(rope(5, 1e3, 1.0));
    })
}

/// Short convolutions of several kinds between layers of attention.
fn convolutions() -> DecoderSpec {
    let mlp = |intermediate_size| Mlp::new(intermediate_size, Activation::Silu);
    let mut biased = ShortConv::new(50, 7);
    biased.bias = true;
    let mut attention = Attention::new(3, 1, 24);
    (attention.rope, attention.qk_norm) = (Some(0), Some(QkNorm::PerHead));
    attention.gate = Some(AttentionGate::PerHead);
    let mut layers = vec![
        LayerSpec::new(ShortConv::new(72, 3), mlp(100)),
        LayerSpec::new(attention, mlp(96)),
        LayerSpec::new(biased, mlp(37)),
        LayerSpec::new(ShortConv::new(33, 2), mlp(64)),
    ];
    layers[2].norm_placement = NormPlacement::Both;
    layers[3].residual = Residual::ParallelShared;
    changed(plain(), |s| s.layers = layers)
}

/// Gated delta nets of several kinds beside attention with gates.
fn delta_nets() -> DecoderSpec {
    let mlp = |intermediate_size| Mlp::new(intermediate_size, Activation::Silu);
    let mut attention = Attention::new(3, 1, 24);
    (attention.rope, attention.gate) = (Some(0), Some(AttentionGate::Elementwise));
    let mut layers = vec![
        LayerSpec::new(DeltaNet::new(2, 4, 20, 12, 4), mlp(100)),
        LayerSpec::new(attention, mlp(96)),
        LayerSpec::new(DeltaNet::new(3, 3, 64, 72, 2), mlp(37)),
        LayerSpec::new(DeltaNet::new(1, 2, 12, 8, 1), mlp(64)),
    ];
    layers[2].norm_placement = NormPlacement::Both;
    layers[3].residual = Residual::ParallelShared;
    changed(plain(), |s| s.layers = layers)
}

/// Mamba 2 mixers of several kinds, one of them beside attention, between attention and layers without a feed-forward network.
fn mamba() -> DecoderSpec {
    let mlp = |intermediate_size, activation, gated| {
        let mut mlp = Mlp::new(intermediate_size, activation);
        mlp.gated = gated;
        mlp
    };
    let mut normed = Mamba2::new(6, 12, 2, 20, 4);
    (normed.norm, normed.conv_bias) = (Some(GatedNorm::AfterGate), true);
    let mut biased = Mamba2::new(3, 20, 3, 36, 3);
    (biased.norm, biased.input_bias, biased.output_bias) = (Some(GatedNorm::BeforeGate), true, true);
    let mut limited = Mamba2::new(5, 8, 1, 16, 1);
    (limited.min_step, limited.max_step) = (0.5, Some(0.9));
    let mut attention = Attention::new(3, 1, 24);
    attention.rope = Some(0);
    let mut layers = vec![
        LayerSpec::new(normed, mlp(100, Activation::Silu, true)),
        LayerSpec::new(attention, None),
        LayerSpec::new(attention, mlp(37, Activation::Relu2, false)),
        LayerSpec::new(limited, None),
        LayerSpec::new(biased, mlp(64, Activation::Silu, true)),
    ];
    layers[2].beside = Some(limited.into());
    layers[4].residual = Residual::ParallelShared;
    changed(plain(), |s| s.layers = layers)
}

/// The same with norms after blocks, and the mixers side by side the other way round.
fn mamba_and_norms_after_blocks() -> DecoderSpec {
    let mut spec = with_layers(mamba(), |l| l.norm_placement = NormPlacement::Both);
    let layer = &mut spec.layers[2];
    let attention = std::mem::replace(&mut layer.mixer, Mamba2::new(4, 16, 2, 128, 4).into());
    layer.beside = Some(attention);
    spec.residual_multiplier = 0.7;
    spec
}

/// Experts of several kinds: all scores, biases, activations and places of norms.
fn mixtures() -> DecoderSpec {
    let of = |width, activation, experts: Experts| {
        let mut mlp = Mlp::new(width, activation);
        mlp.experts = Some(experts);
        mlp
    };
    let attention = || {
        let mut attention = Attention::new(3, 1, 24);
        attention.rope = Some(0);
        attention
    };
    let mut sigmoid = Experts::new(7, 3, Scores::Sigmoid);
    (sigmoid.selection_bias, sigmoid.normalized, sigmoid.epsilon, sigmoid.scale) = (true, true, 1e-6, 1.5);
    let mut softmax = Experts::new(5, 2, Scores::Softmax);
    (softmax.normalized, softmax.router_bias) = (true, true);
    let mut biased = of(34, Activation::ClampedSwiglu, softmax);
    biased.bias = true;
    let (mut shared, mut gated) = (Experts::new(6, 3, Scores::Softmax), Experts::new(5, 3, Scores::Sigmoid));
    (shared.shared, shared.normalized) = (2, true);
    (gated.shared, gated.shared_gate, gated.scale) = (1, true, 0.7);
    let mut plain = of(40, Activation::GeluTanh, Experts::new(3, 3, Scores::Sigmoid));
    (plain.gated, plain.bias) = (false, true);
    let mut layers = vec![
        LayerSpec::new(attention(), of(50, Activation::Silu, Experts::new(6, 2, Scores::Softmax))),
        LayerSpec::new(ShortConv::new(33, 2), of(64, Activation::Silu, sigmoid)),
        LayerSpec::new(attention(), biased),
        LayerSpec::new(attention(), plain),
        LayerSpec::new(attention(), Mlp::new(100, Activation::Silu)),
        LayerSpec::new(attention(), of(4, Activation::Gelu, Experts::new(1, 1, Scores::Softmax))),
        LayerSpec::new(attention(), of(12, Activation::Silu, shared)),
        LayerSpec::new(attention(), of(20, Activation::Silu, gated)),
    ];
    layers[1].norm_placement = NormPlacement::Both;
    layers[2].norm_placement = NormPlacement::Post;
    layers[2].residual = Residual::Parallel;
    layers[3].residual = Residual::ParallelShared;
    changed(self::plain(), |s| (s.layers, s.residual_multiplier) = (layers, 0.7))
}

/// Layers with heads of their own width, some of which see the keys and values of earlier ones, of both kinds; values that are keys;
/// values with norms; outputs with factors.
fn shared_kv() -> DecoderSpec {
    let mlp = |intermediate_size| Mlp::new(intermediate_size, Activation::GeluTanh);
    let mut windowed = Attention::new(6, 2, 20);
    (windowed.window, windowed.rope) = (Some(11), Some(0));
    (windowed.qk_norm, windowed.value_norm, windowed.scale) = (Some(QkNorm::PerHead), true, 1.0);
    // Wider than a workgroup of 64 that takes four dimensions an invocation.
    let mut wide = Attention::new(3, 1, 264);
    (wide.rope, wide.qk_norm, wide.scale) = (Some(1), Some(QkNorm::PerHead), 0.2);
    (wide.value_norm, wide.values_are_keys, wide.qkv_bias) = (true, true, true);
    let seeing = |mut attention: Attention, from| {
        (attention.kv_from, attention.values_are_keys, attention.value_norm) = (Some(from), false, false);
        attention
    };
    let mut gated = seeing(windowed, 0);
    (gated.gate, gated.qk_norm) = (Some(AttentionGate::PerHead), Some(QkNorm::EachHead(NormKind::LayerNoBias)));
    let mut keys_alone = Attention::new(4, 2, 12);
    keys_alone.values_are_keys = true;
    let mut layers = vec![
        LayerSpec::new(windowed, mlp(100)),
        LayerSpec::new(wide, mlp(96)),
        LayerSpec::new(gated, mlp(37)),
        LayerSpec::new(seeing(wide, 1), mlp(64)),
        LayerSpec::new(keys_alone, mlp(33)),
        LayerSpec::new(seeing(windowed, 0), mlp(40)),
    ];
    layers.iter_mut().step_by(2).for_each(|l| (l.norm_placement, l.output_scale) = (NormPlacement::Both, true));
    layers[3].output_scale = true;
    changed(plain(), |s| s.layers = layers)
}

/// Numbers that tokens bring along for each layer, so many of them.
fn per_layer(mut spec: DecoderSpec, size: usize) -> DecoderSpec {
    let mut per_layer = PerLayerEmbedding::new(size, Activation::GeluTanh);
    (per_layer.table_multiplier, per_layer.projection_multiplier, per_layer.multiplier) = (1.4, 0.3, 0.7);
    spec.per_layer_embedding = Some(per_layer);
    spec
}

/// Several residual streams, of which blocks compute one, with learned residual layers and gates that are cut off.
fn streams(spec: DecoderSpec, altup: AltUp) -> DecoderSpec {
    let mut spec = changed(spec, |s| s.altup = Some(altup));
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        layer.laurel = Some(9 + 32 * i);
        let mlp = layer.mlp.as_mut().unwrap();
        (mlp.gate_cutoff, mlp.intermediate_size) = ([Some(0.3), None, Some(-0.7)][i % 3], mlp.intermediate_size + 300 * (i % 2));
    }
    spec
}

/// Four of them, of which the first is computed.
fn four_streams(spec: DecoderSpec) -> DecoderSpec {
    let mut altup = AltUp::new(4);
    altup.output_scale = true;
    streams(spec, altup)
}

/// Three of them, of which the last is computed.
fn three_streams(spec: DecoderSpec) -> DecoderSpec {
    let mut altup = AltUp::new(3);
    altup.active = 2;
    streams(spec, altup)
}

fn of_norm(kind: NormKind) -> DecoderSpec {
    changed(plain(), |s| s.norm.kind = kind)
}

fn changed(mut spec: DecoderSpec, change: impl FnOnce(&mut DecoderSpec)) -> DecoderSpec {
    change(&mut spec);
    spec
}

fn with_layers(mut spec: DecoderSpec, change: impl Fn(&mut LayerSpec)) -> DecoderSpec {
    spec.layers.iter_mut().for_each(change);
    spec
}

fn with_attention(mut spec: DecoderSpec, change: impl Fn(&mut Attention)) -> DecoderSpec {
    spec.attentions_mut().for_each(change);
    spec
}

fn with_mlp(mut spec: DecoderSpec, change: impl Fn(&mut Mlp)) -> DecoderSpec {
    spec.mlps_mut().for_each(change);
    spec
}

/// Biases on all projections but the head.
fn with_biases(spec: DecoderSpec) -> DecoderSpec {
    with_mlp(with_attention(spec, |a| (a.qkv_bias, a.output_bias) = (true, true)), |m| m.bias = true)
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
        Self::pinned(what, gpu, spec, scheme, &[])
    }

    /// With these candidates for these operations.
    fn pinned(
        what: &str,
        gpu: &Arc<Gpu>,
        spec: &DecoderSpec,
        scheme: impl Fn(&TensorSpec) -> Scheme,
        pins: &[(&str, &str)],
    ) -> Self {
        let random = RandomDecoder::new(spec, scheme);
        let mut options = DecoderOptions::default();
        (options.cache, options.prefill_chunk) = (CachePrecision::F32, CHUNK);
        options.pins = pins.iter().map(|(operation, candidate)| (operation.to_string(), candidate.to_string())).collect();
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
            block_on(self.gpu.prefill(sequence, chunk)).unwrap();
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

    /// A sequence that is cut, near its end, far back and at a length that nobody kept, goes on as if it had been shorter.
    fn check_cuts(&mut self) {
        let (text, other) = (ids(20, 75), ids(21, 75));
        let keeps_everything = self.reference.spec().attentions().count() == self.reference.spec().num_layers();
        for len in [74, 64, 40, 9, 0] {
            let sequence = self.prefilled(&text);
            let kept = self.gpu.truncate(sequence, len).unwrap();
            assert!(kept <= len && self.gpu.sequence_len(sequence).unwrap() == kept, "{}: {kept} of {len}", self.what);
            let at_least = if keeps_everything { len } else { len / CHUNK * CHUNK };
            assert!(kept >= at_least, "{}: {kept} of {len} positions are left", self.what);
            let whole: Vec<u32> = text[..len].iter().chain(&other[..12]).copied().collect();
            for chunk in whole[kept..whole.len() - 1].chunks(CHUNK) {
                block_on(self.gpu.prefill(sequence, chunk)).unwrap();
            }
            let found = self.step(&[(sequence, whole[whole.len() - 1])]);
            let expected = self.expected(&whole).split_off((whole.len() - 1) * self.vocab());
            self.compare(&format!("cut at {len}"), &found, &expected);
            self.gpu.remove_sequence(sequence).unwrap();
        }
    }

    fn check(mut self) {
        self.check_prefill();
        self.check_decode();
        self.check_cuts();
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
                let mut spec = with_layers(of_norm(kind), |l| (l.norm_placement, l.residual) = (norm_placement, residual));
                // A second layer shows what the first one adds to the stream.
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
        let spec = with_layers(with_biases(of_norm(kind)), |l| l.norm_placement = norm_placement);
        let spec = with_attention(spec, |a| (a.scale, a.softcap) = (0.4, Some(1.5)));
        let spec = changed(spec, |s| {
            (s.head_bias, s.logit_softcap) = (true, Some(0.7));
            (s.residual_multiplier, s.embedding_multiplier, s.logit_multiplier) = (0.6, 3.0, 0.3);
        });
        Pair::new(&format!("{kind:?} {norm_placement:?}, all biases, multipliers and caps"), &gpu, &spec, f32_package).check();
    }
    for (name, spec) in [
        ("qkv", with_attention(plain(), |a| a.qkv_bias = true)),
        ("attention output", with_attention(plain(), |a| a.output_bias = true)),
        ("mlp", with_mlp(plain(), |m| m.bias = true)),
        ("tied head", changed(plain(), |s| (s.head_bias, s.tied_head) = (true, true))),
    ] {
        Pair::new(&format!("bias of {name}"), &gpu, &spec, f32_package).check();
    }
}

#[test]
fn every_activation_gated_or_not() {
    let gpu = gpu();
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        for gated in [true, false] {
            let spec = with_mlp(plain(), |m| (m.activation, m.gated, m.bias) = (activation, gated, true));
            Pair::new(&format!("{activation:?}, gated: {gated}"), &gpu, &spec, f32_package).check();
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
        let spec = with_attention(of_norm(kind), |a| (a.qk_norm, a.scale) = (Some(qk_norm), 0.3));
        Pair::new(&format!("{qk_norm:?} in {kind:?}"), &gpu, &spec, f32_package).check();
    }
}

#[test]
fn norms_after_rope_and_queries_that_grow() {
    let gpu = gpu();
    for (kind, qk_norm) in [
        (NormKind::Rms, QkNorm::PerHead),
        (NormKind::Layer, QkNorm::Whole),
        (NormKind::Rms, QkNorm::EachHead(NormKind::LayerNoBias)),
    ] {
        let spec = with_attention(of_norm(kind), |a| (a.qk_norm, a.qk_norm_after_rope) = (Some(qk_norm), true));
        Pair::new(&format!("{qk_norm:?} after rope in {kind:?}"), &gpu, &spec, f32_package).check();
        let spec = with_attention(spec, grow);
        Pair::new(&format!("{qk_norm:?} after rope in {kind:?}, growing queries"), &gpu, &spec, f32_package).check();
    }
    for scheme in ["f32", "q4/32+f16"] {
        let scheme: Scheme = scheme.parse().unwrap();
        Pair::new(&format!("growing queries in {scheme}"), &gpu, &with_attention(plain(), grow), |_| scheme).check();
    }
}

#[test]
fn attention_sinks_with_and_without_windows() {
    let gpu = gpu();
    for window in [None, Some(5)] {
        let spec = with_attention(plain(), |a| (a.sinks, a.window) = (true, window));
        Pair::new(&format!("sinks and windows of {window:?}"), &gpu, &spec, f32_package).check();
    }
    let spec = with_attention(plain(), |a| (a.sinks, a.softcap, a.gate) = (true, Some(2.0), Some(AttentionGate::PerHead)));
    Pair::new("sinks, a cap and gates", &gpu, &spec, |_| "q4/32+f16".parse().unwrap()).check();
}

/// Sequences far longer than windows, whose layers let go of pages that others take: each goes on as if it were alone, and so
/// does one that is cut where its positions are gone.
#[test]
fn layers_with_a_window_keep_its_pages_alone() {
    let long = changed(plain(), |s| s.max_context = 700);
    let everything = with_attention(long.clone(), |a| a.window = None);
    let gpu = gpu();
    let mut pair = Pair::new("windows", &gpu, &long, f32_package);
    let mut whole = Pair::new("no windows", &gpu, &everything, f32_package);
    let texts: Vec<Vec<u32>> = (30..).zip([600, 330, 90]).map(|(text, len)| ids(text, len + 70)).collect();
    let start = |text: &[u32]| text.len() - 70;
    let sequences: Vec<_> = texts.iter().map(|text| pair.prefilled(&text[..start(text)])).collect();
    texts.iter().for_each(|text| _ = whole.prefilled(&text[..start(text)]));
    // Of three layers, two need only a few pages.
    let [windows, all] = [&pair, &whole].map(|pair| pair.gpu.memory().cache as f64);
    assert!(windows < 0.6 * all, "{windows} bytes, {all} without windows");
    // More than a page of tokens, one by one.
    let mut together = vec![Vec::new(); texts.len()];
    for step in 0..70 {
        let batch: Vec<_> = sequences.iter().zip(&texts).map(|(s, text)| (*s, text[start(text) + step])).collect();
        let logits = pair.step(&batch);
        together.iter_mut().zip(logits.chunks_exact(pair.vocab())).for_each(|(all, row)| all.extend_from_slice(row));
    }
    for ((text, sequence), together) in texts.iter().zip(sequences).zip(together) {
        let expected = pair.expected(text);
        pair.compare("in a batch", &together, &expected[start(text) * pair.vocab()..]);
        // Near the end, at the prompt's end, before it, and far back.
        for len in [text.len() - 20, start(text), start(text) - 5, 40] {
            let kept = pair.gpu.truncate(sequence, len).unwrap();
            assert!(kept <= len && (len < start(text) - 5 || kept == len), "{kept} of {len} positions are left");
            for chunk in text[kept..text.len() - 1].chunks(CHUNK) {
                block_on(pair.gpu.prefill(sequence, chunk)).unwrap();
            }
            let found = pair.step(&[(sequence, text[text.len() - 1])]);
            pair.compare(&format!("cut at {len}"), &found, &expected[(text.len() - 1) * pair.vocab()..]);
        }
        pair.gpu.remove_sequence(sequence).unwrap();
    }
}

/// States that go through a prompt a chunk at a time, and through other tokens one by one.
#[test]
fn delta_nets_in_chunks() {
    let pins = [("delta_scan", "delta_chunks")];
    // Packages in f32 would be exact.
    Pair::pinned("delta nets in chunks", &gpu(), &delta_nets(), |_| "f16".parse().unwrap(), &pins).check();
}

#[test]
fn mamba_in_chunks() {
    let pins = [("mamba_scan", "mamba_chunks")];
    Pair::pinned("Mamba in chunks", &gpu(), &mamba(), |_| "f16".parse().unwrap(), &pins).check();
}

/// Queries that grow within a text.
fn grow(attention: &mut Attention) {
    attention.query_scaling = Some(QueryScaling { beta: 0.8, original_context: 9 });
}

#[test]
fn learned_positions_in_any_scheme() {
    let gpu = gpu();
    for scheme in ["f32", "f16", "q8/32", "q3/32+u4"] {
        let scheme: Scheme = scheme.parse().unwrap();
        let spec = without_rope(with_biases(of_norm(NormKind::Layer)));
        let spec = changed(spec, |s| (s.learned_positions, s.tied_head, s.head_bias) = (true, true, true));
        Pair::new(&format!("positions in {scheme}"), &gpu, &spec, |_| scheme).check();
    }
}

/// Split attention counts in memory that must be as it left it when a prompt with experts has been computed.
#[test]
fn experts_leave_the_counters_of_attention_alone() {
    let pins = [("attend", "attention_split")];
    Pair::pinned("experts and split attention", &gpu(), &mixtures(), f32_package, &pins).check();
}

#[test]
fn mixtures_of_experts_in_any_scheme() {
    let gpu = gpu();
    for scheme in ["f32", "f16", "q8/32", "q4/32+f16", "q3/32+u4", "q5/32", "q4/32:e4m4 learned"] {
        let scheme: Scheme = scheme.parse().unwrap();
        Pair::new(&format!("experts in {scheme}"), &gpu, &mixtures(), |_| scheme).check();
    }
    let tied = changed(mixtures(), |s| s.tied_head = true);
    let pair = Pair::new("experts, and the bytes that a token reads", &gpu, &tied, f32_package);
    let sizes = tied.tensors().into_iter().map(|t| {
        let padded = t.shape.last().unwrap().next_multiple_of(32) * if t.shape.len() == 2 { t.shape[0] } else { 1 };
        let (active, all) = tied.active_share(&t.name);
        4 * padded as u64 / all * active
    });
    assert_eq!(pair.gpu.bytes_per_token(), sizes.sum::<u64>());
}

#[test]
fn layers_of_different_sizes_in_any_scheme() {
    let gpu = gpu();
    for scheme in ["f32", "f16", "q8/32", "q4/32+f16", "q3/32+u4"] {
        let scheme: Scheme = scheme.parse().unwrap();
        Pair::new(&format!("uneven layers in {scheme}"), &gpu, &uneven(), |_| scheme).check();
    }
}

#[test]
fn rows_of_a_table_for_each_layer_are_read_in_any_scheme() {
    let gpu = gpu();
    let schemes = ["f32", "f16", "q8/32", "q4/32+f16", "q3/32+u4", "q5/64", "q4/32:e4m4 learned", "q3/64 learned"];
    for scheme in schemes {
        let parsed: Scheme = scheme.parse().unwrap();
        // 33 numbers a row: the second unit is nearly empty, and rows of one or two groups begin within a byte of zero points.
        let of = |tensor: &TensorSpec| if tensor.name == PerLayerEmbedding::TABLE { parsed } else { Scheme::F32 };
        let spec = changed(per_layer(plain(), 11), |s| s.residual_multiplier = 0.8);
        Pair::new(&format!("rows in {scheme}"), &gpu, &spec, of).check();
    }
    let spec = per_layer(changed(with_layers(of_norm(NormKind::Layer), |l| l.output_scale = true), |s| s.tied_head = true), 32);
    let q4: Scheme = "q4/32".parse().unwrap();
    Pair::new("all matrices in q4/32", &gpu, &spec, |_| q4).check();
}

fn without_rope(spec: DecoderSpec) -> DecoderSpec {
    changed(with_attention(spec, |a| a.rope = None), |s| s.ropes.clear())
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
        let spec = with_biases(plain());
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
        let spec = changed(plain(), |s| s.tied_head = tied_head);
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
    let parallel = |spec, residual| with_layers(spec, move |l| l.residual = residual);
    let placed = |spec, placement| with_layers(spec, move |l| l.norm_placement = placement);
    let plain_gelu = |spec, activation| with_mlp(spec, move |m| (m.activation, m.gated) = (activation, false));
    let layer_norm = || of_norm(NormKind::Layer);
    vec![
        (
            "learned positions, layer norm, plain GELU, tied",
            changed(
                with_attention(plain_gelu(without_rope(with_biases(layer_norm())), Activation::GeluTanh), |a| {
                    (a.window, a.num_kv_heads) = (None, 6);
                }),
                |s| (s.learned_positions, s.tied_head) = (true, true),
            ),
        ),
        (
            "parallel with two layer norms, partial rope",
            with_attention(parallel(plain_gelu(with_biases(layer_norm()), Activation::Gelu), Residual::Parallel), |a| {
                (a.window, a.rope) = (None, Some(1));
            }),
        ),
        (
            "parallel with one layer norm, one key/value head, biased head",
            changed(
                with_mlp(
                    with_attention(parallel(with_biases(layer_norm()), Residual::ParallelShared), |a| a.num_kv_heads = 1),
                    |m| m.activation = Activation::GeluTanh,
                ),
                |s| s.head_bias = true,
            ),
        ),
        (
            "parallel with one norm, gains of each head, logit multiplier",
            changed(
                with_attention(parallel(of_norm(NormKind::LayerNoBias), Residual::ParallelShared), |a| {
                    a.qk_norm = Some(QkNorm::EachHead(NormKind::LayerNoBias));
                }),
                |s| (s.logit_multiplier, s.tied_head) = (0.0625, true),
            ),
        ),
        (
            "norms after blocks, whole q/k norm",
            with_attention(placed(plain(), NormPlacement::Post), |a| a.qk_norm = Some(QkNorm::Whole)),
        ),
        (
            "norms before and after blocks, q/k norm per head, windows, caps, scaled embedding",
            changed(
                with_attention(with_mlp(placed(plain(), NormPlacement::Both), |m| m.activation = Activation::GeluTanh), |a| {
                    (a.softcap, a.qk_norm) = (Some(50.0), Some(QkNorm::PerHead));
                }),
                |s| (s.logit_softcap, s.embedding_multiplier, s.tied_head) = (Some(30.0), 72f32.sqrt(), true),
            ),
        ),
        (
            "everything at once",
            changed(
                with_attention(
                    with_mlp(placed(parallel(with_biases(layer_norm()), Residual::ParallelShared), NormPlacement::Both), |m| {
                        m.activation = Activation::Gelu;
                    }),
                    |a| (a.softcap, a.qk_norm) = (Some(2.0), Some(QkNorm::Whole)),
                ),
                |s| {
                    (s.head_bias, s.learned_positions, s.logit_softcap) = (true, true, Some(3.0));
                    (s.embedding_multiplier, s.residual_multiplier, s.logit_multiplier) = (2.0, 0.5, 0.7);
                },
            ),
        ),
        (
            "norm per head after rope, growing queries",
            with_attention(plain(), |a| {
                (a.qk_norm, a.qk_norm_after_rope) = (Some(QkNorm::PerHead), true);
                grow(a);
            }),
        ),
        ("layers of different sizes", uneven()),
        ("short convolutions", convolutions()),
        ("gated delta nets", delta_nets()),
        ("Mamba mixers", mamba()),
        ("Mamba mixers, norms after blocks", mamba_and_norms_after_blocks()),
        ("mixtures of experts", mixtures()),
        ("keys and values of other layers", shared_kv()),
        ("numbers for each layer", per_layer(shared_kv(), 9)),
        (
            "several residual streams, numbers for each layer",
            per_layer(
                four_streams(with_layers(shared_kv(), |l| (l.output_scale, l.norm_placement) = (false, NormPlacement::Both))),
                9,
            ),
        ),
        (
            "several residual streams, layer norms",
            changed(three_streams(of_norm(NormKind::Layer)), |s| s.residual_multiplier = 0.8),
        ),
        ("a learned residual layer, biases", with_layers(with_biases(plain()), |l| l.laurel = Some(5))),
        (
            "gates on heads, biases, partial rope",
            with_attention(with_biases(plain()), |a| (a.gate, a.rope) = (Some(AttentionGate::Elementwise), Some(1))),
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
    let poor = common::poor();
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
