//! Gradients against finite differences, on tiny decoders of different arithmetic.

use super::*;
use crate::accelerator::{Accelerator, AcceleratorError};
use crate::logits::{logsumexp, nll};
use haikuq_format::spec::*;

fn llama() -> DecoderSpec {
    let mut attention = Attention::new(4, 2, 4);
    attention.rope = Some(0);
    let layer = LayerSpec::new(attention, Mlp::new(10, Activation::Silu));
    let norm = Norm { kind: NormKind::Rms, epsilon: 1e-5 };
    let mut spec = DecoderSpec::new(23, 12, 16, norm, vec![layer; 2]);
    spec.ropes = vec![RopeTable::new(vec![1.0, 0.1])];
    spec.tied_head = true;
    spec
}

/// Layers that differ from those of [`llama`] in everything, and in sizes from each other.
fn everything_else() -> DecoderSpec {
    let layer = |num_kv_heads, head_dim, intermediate_size| {
        let mut attention = Attention::new(4, num_kv_heads, head_dim);
        attention.scale = 0.5;
        attention.softcap = Some(2.0);
        attention.window = Some(3);
        attention.qk_norm = Some(QkNorm::PerHead);
        (attention.qkv_bias, attention.output_bias) = (true, true);
        let mut mlp = Mlp::new(intermediate_size, Activation::GeluTanh);
        (mlp.gated, mlp.bias) = (false, true);
        let mut layer = LayerSpec::new(attention, mlp);
        (layer.residual, layer.norm_placement) = (Residual::Parallel, NormPlacement::Both);
        layer
    };
    let norm = Norm { kind: NormKind::Layer, epsilon: 1e-5 };
    let mut spec = DecoderSpec::new(23, 12, 16, norm, vec![layer(2, 4, 10), layer(1, 2, 7)]);
    (spec.head_bias, spec.learned_positions) = (true, true);
    spec.logit_softcap = Some(3.0);
    spec.embedding_multiplier = 1.5;
    spec.residual_multiplier = 0.7;
    spec.logit_multiplier = 1.3;
    spec
}

/// Norms of queries and keys after rope, and queries that grow.
fn norms_after_rope() -> DecoderSpec {
    let mut spec = llama();
    spec.ropes[0].factor = 1.3;
    for (attention, qk_norm) in spec.attentions_mut().zip([QkNorm::PerHead, QkNorm::Whole]) {
        (attention.qk_norm, attention.qk_norm_after_rope) = (Some(qk_norm), true);
        attention.query_scaling = Some(QueryScaling { beta: 0.7, original_context: 2 });
    }
    spec
}

/// A Mamba 2 mixer alone, and one beside attention.
fn mamba() -> DecoderSpec {
    let mut spec = llama();
    let mut mixer = Mamba2::new(4, 3, 2, 5, 3);
    (mixer.norm, mixer.conv_bias, mixer.input_bias) = (Some(GatedNorm::AfterGate), true, true);
    spec.layers[0] = LayerSpec::new(mixer, None);
    let mut beside = Mamba2::new(3, 4, 1, 2, 2);
    // Without a norm it would be too quiet for differences.
    beside.norm = Some(GatedNorm::AfterGate);
    spec.layers[1].beside = Some(beside.into());
    let mut mlp = Mlp::new(10, Activation::Relu2);
    mlp.gated = false;
    spec.layers[1].mlp = Some(mlp);
    spec
}

/// Random weights by canonical name.
fn weights(spec: &DecoderSpec) -> BTreeMap<String, Vec<f32>> {
    let random = |(seed, t): (usize, TensorSpec)| {
        let n = t.shape.iter().product::<usize>() as u64;
        let centre = if t.name.ends_with(".gain") { 1.0 } else { 0.0 };
        (t.name, (0..n).map(|i| centre + 1.2 * (uniform(seed as u64, i) - 0.5)).collect())
    };
    spec.tensors().into_iter().enumerate().map(random).collect()
}

/// Adds `delta` to one number of one kind's output.
struct Nudge {
    kind: ProjectionKind,
    element: usize,
    delta: f32,
}

impl Observe for Nudge {
    fn replace(&mut self, _: ProjectionKind, _: &Tensor, _: &Tensor) -> candle_core::Result<Option<Vec<f32>>> {
        Ok(None)
    }

    fn output(&mut self, kind: ProjectionKind, output: Tensor) -> candle_core::Result<Tensor> {
        if kind != self.kind {
            return Ok(output);
        }
        let shape = output.shape().clone();
        let mut values = output.flatten_all()?.to_vec1::<f32>()?;
        values[self.element] += self.delta;
        Tensor::from_vec(values, shape, &Device::Cpu)
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    for spec in [llama(), everything_else(), norms_after_rope(), mamba()] {
        spec.check().unwrap();
        let weights = weights(&spec);
        let read = |name: &str| weights.get(name).cloned().ok_or("no such tensor");
        let (ids, labels): (Vec<u32>, Vec<u32>) = (vec![3, 7, 1, 22, 7], vec![5, 0, 9, 22, 11]);
        let (embedding, head) = (Embedding::load(&spec, read).unwrap(), OutputHead::load(&spec, read).unwrap());
        let layers: Vec<_> = (0..2).map(|i| LayerWindows::load(&spec, i, ids.len(), read).unwrap()).collect();
        let embedded = embedding.embed(std::slice::from_ref(&ids)).unwrap();
        // The loss with what stands before the first layer, and one number in layer `at`, changed.
        let loss = |embedded: &Tensor, at: usize, nudge: &mut Nudge| -> f64 {
            let mut x = embedded.clone();
            for (i, layer) in layers.iter().enumerate() {
                x = if i == at { layer.forward(&x, nudge) } else { layer.forward(&x, &mut Unseen) }.unwrap();
            }
            let logits = head.logits(&head.normed(&x).unwrap()).unwrap().to_vec2::<f32>().unwrap();
            logits.iter().zip(&labels).map(|(row, label)| nll(row, logsumexp(row), *label)).sum()
        };
        let still = || Nudge { kind: ProjectionKind::MixerInput, element: 0, delta: 0.0 };

        let middle = layers[0].forward(&embedded, &mut Unseen).unwrap();
        let last = layers[1].forward(&middle, &mut Unseen).unwrap();
        let end = at_the_end(&head, &last, &|position, _, _| labels[position] as usize).unwrap();
        let second = backward(&layers[1], &middle, &end.gradient).unwrap();
        let first = backward(&layers[0], &embedded, &second.gradient).unwrap();

        let check = |gradient: &Tensor, difference: &dyn Fn(usize, f32) -> f64, what: &str| {
            let gradient = gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let size = (gradient.iter().map(|g| g * g).sum::<f32>() / gradient.len() as f32).sqrt();
            assert!(size > 1e-3, "{what}: {size}");
            for (i, &expected) in gradient.iter().enumerate() {
                let delta = 4e-3;
                let have = (difference(i, delta) - difference(i, -delta)) / (2.0 * f64::from(delta));
                let off = (have as f32 - expected).abs();
                assert!(off < 0.01 * (expected.abs() + size), "{what}, element {i}: {have} by differences, {expected}");
            }
        };
        for (at, back) in [(0, &first), (1, &second)] {
            let kinds: Vec<ProjectionKind> = back.outputs.iter().map(|o| o.0).collect();
            let (layer, feed_forward) = (&spec.layers[at], [ProjectionKind::Up, ProjectionKind::Down]);
            let mixers = layer.mixers().zip(ProjectionKind::MIXERS).flat_map(|(_, kinds)| kinds);
            assert_eq!(kinds, mixers.chain(feed_forward.into_iter().filter(|_| layer.mlp.is_some())).collect::<Vec<_>>());
            for (kind, gradient) in &back.outputs {
                let difference = |element, delta| loss(&embedded, at, &mut Nudge { kind: *kind, element, delta });
                check(gradient, &difference, &format!("layer {at}, {kind:?}"));
            }
        }
        let moved = |element: usize, delta: f32| {
            let mut values = embedded.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            values[element] += delta;
            loss(&Tensor::from_vec(values, embedded.shape(), &Device::Cpu).unwrap(), 0, &mut still())
        };
        check(&first.gradient, &moved, "embedded");
    }
}

#[test]
fn every_matrix_is_measured_whatever_the_arithmetic() {
    for spec in [llama(), everything_else(), norms_after_rope(), mamba()] {
        let weights = weights(&spec);
        let read = |name: &str| weights.get(name).cloned().ok_or("no such tensor");
        let windows: Vec<Vec<u32>> = (0..3).map(|w| (0..8).map(|i| (7 * w + 5 * i) % 23).collect()).collect();
        let mut seen = Vec::new();
        let seed = |seed| Options { seed, ..Options::default() };
        let measured = sensitivities(Products::Floats, &spec, &windows, &seed(1), read, &mut |done| seen.push(done)).unwrap();
        assert_eq!(seen, (1..=steps(&spec)).collect::<Vec<_>>());
        let have: BTreeMap<_, _> =
            measured.iter().map(|(n, s)| (n.clone(), s.parts().map(|(part, values)| (part, values.len())))).collect();
        assert_eq!(have, crate::calibrate::lengths(&spec));
        let again = sensitivities(Products::Floats, &spec, &windows, &seed(1), read, &mut |_| {}).unwrap();
        assert!(measured == again, "the same seed gives the same numbers");
        let other = sensitivities(Products::Floats, &spec, &windows, &seed(2), read, &mut |_| {}).unwrap();
        assert_eq!(measured["layers.1.qkv"].input, other["layers.1.qkv"].input, "inputs do not depend on labels");
        assert_ne!(measured["layers.1.qkv"].output, other["layers.1.qkv"].output);
    }
}

#[test]
fn a_gpu_measures_the_same() {
    let accelerator = Accelerator::open(Some("0"), None).expect("an adapter; run scripts/setup.sh to install software Vulkan");
    let accelerator = Arc::new(accelerator);
    // All that matrices need, and room for none.
    let without = Arc::new(Accelerator::open(Some("0"), Some(0)).unwrap());
    for spec in [llama(), everything_else(), norms_after_rope(), mamba()] {
        let weights = weights(&spec);
        let read = |name: &str| weights.get(name).cloned().ok_or("no such tensor");
        let windows: Vec<Vec<u32>> = (0..5).map(|w| (0..8).map(|i| (7 * w + 5 * i) % 23).collect()).collect();
        let measured =
            |products: Products<'_>| sensitivities(products, &spec, &windows, &Options::default(), read, &mut |_| {}).unwrap();
        let on_cpu = measured(Products::Floats);
        let products = GpuProducts::new(accelerator.clone()).unwrap();
        assert_close(&measured(Products::OnGpu(&products)), &on_cpu, 1e-3);
        assert!(products.failure().is_none());
        assert_close(&measured(Products::Integers), &on_cpu, 2e-2);
        let products = GpuProducts::new(without.clone()).unwrap();
        assert!(measured(Products::OnGpu(&products)) == on_cpu, "what a GPU has no room for, the processor computes");
        assert!(matches!(products.failure(), Some(AcceleratorError::Memory { .. })));
    }
}

/// Whether all parts are the same, up to `tolerance` of each number.
fn assert_close(found: &BTreeMap<String, Sensitivity>, expected: &BTreeMap<String, Sensitivity>, tolerance: f32) {
    for (name, expected) in expected {
        for ((part, a), (_, b)) in found[name].parts().into_iter().zip(expected.parts()) {
            let largest = b.iter().fold(0.0f32, |a, b| a.max(b.abs()));
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= tolerance * (b.abs() + 1e-3 * largest);
            assert!(a.len() == b.len() && a.iter().zip(b).all(close), "{name}, {part}: {a:?} and {b:?}");
        }
    }
}

#[test]
fn a_matrix_gets_means_of_squares_by_row_and_column() {
    let rows = |values: &[f32]| Tensor::from_vec(values.to_vec(), (2, values.len() / 2), &Device::Cpu).unwrap();
    let mut input = Squares::default();
    let energies = input.add(&rows(&[3.0, 1.0])).unwrap();
    assert_eq!(energies, [9.0, 1.0]);
    // Gate and up, in turn.
    let outputs = vec![(ProjectionKind::Up, rows(&[0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 2.0]))];
    let back = Back { gradient: rows(&[0.0, 0.0]), inputs: BTreeMap::from([(ProjectionKind::Up, (input, energies))]), outputs };
    let [(name, gate_up)] = &by_matrix(&llama(), 1, back.sums().unwrap())[..] else { panic!("one matrix") };
    assert_eq!(name, "layers.1.gate_up");
    assert_eq!((&gate_up.input[..], &gate_up.output[..]), (&[5.0][..], &[0.5, 0.5, 0.5, 2.0][..]));
    // Tokens: 9 · 1 and 1 · 6, on average 7.5, where both on average are 5 and 3.5.
    assert_eq!(gate_up.coupling, 7.5 / (5.0 * 3.5));
}

#[test]
fn sensitivities_are_measured_on_parts_that_are_spread_over_the_text() {
    let windows: Vec<Vec<u32>> = (0..8).map(|w| (0..512).map(|i| 512 * w + i).collect()).collect();
    let firsts = |tokens| cut(&windows, tokens).iter().map(|w| (w[0], w.len())).collect::<Vec<_>>();
    assert_eq!(firsts(1024), [(0, 256), (1024, 256), (2048, 256), (3072, 256)]);
    assert_eq!(firsts(100), [(0, 100)]);
    assert_eq!(firsts(1 << 20).len(), 16, "all of it");
    assert_eq!(cut(&[vec![1, 2, 3]], 2048), [vec![1, 2, 3]]);
}

#[test]
fn labels_are_drawn_in_proportion() {
    let weights = [1.0, 0.0, 2.0, 1.0];
    let drawn = [0.0, 0.24, 0.26, 0.74, 0.76, 0.999].map(|u| draw(&weights, 4.0, u));
    assert_eq!(drawn, [0, 0, 2, 2, 3, 3]);
    assert_eq!(draw(&weights, 4.1, 0.9999), 3, "rounding errors choose no id beyond the last");
}
