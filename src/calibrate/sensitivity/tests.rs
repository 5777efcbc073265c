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

/// Experts of both kinds of scores, after both kinds of norms.
fn experts() -> DecoderSpec {
    let mut spec = llama();
    let mut sigmoid = Experts::new(5, 2, Scores::Sigmoid);
    (sigmoid.normalized, sigmoid.epsilon, sigmoid.selection_bias) = (true, 0.01, true);
    for (mlp, experts) in spec.mlps_mut().zip([Experts::new(4, 3, Scores::Softmax), sigmoid]) {
        mlp.experts = Some(experts);
    }
    let second = &mut spec.layers[1];
    let mlp = second.mlp.as_mut().unwrap();
    (mlp.activation, mlp.bias) = (Activation::ClampedSwiglu, true);
    second.norm_placement = NormPlacement::Both;
    spec
}

/// Layers that see the keys and values of another, values that are keys, and numbers for each layer.
fn shared() -> DecoderSpec {
    let mut spec = llama();
    let mut seeing = spec.layers[0].clone();
    seeing.output_scale = true;
    let attention = seeing.attention_mut().unwrap();
    (attention.kv_from, attention.qk_norm) = (Some(0), Some(QkNorm::PerHead));
    let own = spec.layers[0].attention_mut().unwrap();
    (own.value_norm, own.values_are_keys, own.qk_norm) = (true, true, Some(QkNorm::PerHead));
    spec.layers.extend([seeing.clone(), seeing]);
    let mut per_layer = PerLayerEmbedding::new(3, Activation::GeluTanh);
    (per_layer.table_multiplier, per_layer.projection_multiplier, per_layer.multiplier) = (1.7, 0.5, 0.8);
    spec.per_layer_embedding = Some(per_layer);
    spec
}

/// Several residual streams, learned residual layers, gates that are cut off in one layer, and numbers for each layer.
fn streams() -> DecoderSpec {
    let mut spec = shared();
    let mut altup = AltUp::new(3);
    (altup.active, altup.output_scale) = (1, true);
    spec.altup = Some(altup);
    spec.layers.iter_mut().for_each(|l| (l.output_scale, l.laurel) = (false, Some(3)));
    let mut mlp = Mlp::new(10, Activation::GeluTanh);
    mlp.gate_cutoff = Some(-0.4);
    spec.layers[1].mlp = Some(mlp);
    spec
}

/// Rows of the table of all layers' numbers.
fn rows_of<'a>(
    spec: &DecoderSpec,
    weights: &'a BTreeMap<String, Vec<f32>>,
) -> impl Fn(&[u32]) -> Result<Vec<f32>, &'static str> + Copy + 'a {
    let width = spec.per_layer_embedding.map_or(0, |p| p.size * spec.num_layers());
    move |ids| {
        let table = weights.get(PerLayerEmbedding::TABLE).ok_or("no such table")?;
        Ok(ids.iter().flat_map(|id| &table[*id as usize * width..][..width]).copied().collect())
    }
}

/// Attention sinks beside windows.
fn sinks() -> DecoderSpec {
    let mut spec = llama();
    spec.attentions_mut().for_each(|attention| (attention.sinks, attention.window) = (true, Some(3)));
    spec
}

/// Random weights by canonical name.
fn weights(spec: &DecoderSpec) -> BTreeMap<String, Vec<f32>> {
    let random = |(seed, t): (usize, TensorSpec)| {
        let n = t.shape.iter().product::<usize>() as u64;
        let centre = if t.name.ends_with(".gain") || t.name.ends_with(".output_scale") { 1.0 } else { 0.0 };
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
    for spec in [llama(), everything_else(), norms_after_rope(), sinks(), experts(), mamba()] {
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
        let second = backward(&layers[1], &middle, &Beside::default(), &end.gradient, &[]).unwrap();
        let first = backward(&layers[0], &embedded, &Beside::default(), &second.gradient, &[]).unwrap();

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
            let of_layer = |kind: &ProjectionKind| format!("layers.{at}.{}", kind.matrix(&spec.layers[at]));
            let names: std::collections::BTreeSet<String> = kinds.iter().map(of_layer).collect();
            let matrices =
                spec.tensors().into_iter().filter(|t| t.class.is_quantized() && t.name.starts_with(&format!("layers.{at}.")));
            assert_eq!(names, matrices.map(|t| t.name).collect());
            // Each once; each token has as many experts as it uses.
            let tokens = |expert: bool| back.outputs.iter().filter(move |o| (o.0.expert().is_some()) == expert);
            let rows: usize = tokens(true).map(|o| o.1.dim(0).unwrap()).sum();
            let layer = &spec.layers[at];
            let experts = layer.mlp.filter(|mlp| mlp.experts.is_some());
            assert_eq!(rows, experts.map_or(0, |mlp| 2 * ids.len() * mlp.num_active()));
            let of_mlp = if layer.mlp.is_some() && experts.is_none() { 2 } else { 0 };
            assert_eq!(tokens(false).count(), 2 * layer.mixers().count() + of_mlp);
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

/// What the numbers of a window cost, with one number in layer `at` changed, or in the projection of all layers' numbers.
fn loss_beside(
    spec: &DecoderSpec,
    x: &Tensor,
    ids: &[u32],
    labels: &[u32],
    at: usize,
    nudge: &mut Nudge,
) -> (Vec<Vec<f32>>, f64) {
    let weights = weights(spec);
    let read = |name: &str| weights.get(name).cloned().ok_or("no such tensor");
    let inputs = PerLayerInputs::load(spec, read).unwrap().unwrap();
    let layers = spec.num_layers();
    let size = spec.per_layer_embedding.unwrap().size;
    let rows = Tensor::from_vec(rows_of(spec, &weights)(ids).unwrap(), (ids.len(), layers * size), &Device::Cpu).unwrap();
    let numbers = if at == layers { inputs.forward(x, &rows, nudge) } else { inputs.forward(x, &rows, &mut Unseen) }.unwrap();
    let ends = StreamEnds::load(spec, read).unwrap();
    let mut x = match &ends {
        Some(ends) if at == layers + 1 => ends.expand(x, nudge).unwrap(),
        Some(ends) => ends.expand(x, &mut Unseen).unwrap(),
        None => x.clone(),
    };
    let mut kv = Vec::new();
    for index in 0..layers {
        let layer = LayerWindows::load(spec, index, ids.len(), read).unwrap();
        let numbers = numbers.narrow(1, index * size, size).unwrap().contiguous().unwrap();
        let seen = spec.layers[index].attention().unwrap().kv_from.map(|from: usize| Vec::clone(&kv[from]));
        let beside = Beside { kv: seen.unwrap_or_default(), numbers: Some(numbers) };
        let (after, made) = match index == at {
            true => layer.forward_beside(&x, &beside, nudge),
            false => layer.forward_beside(&x, &beside, &mut Unseen),
        }
        .unwrap();
        kv.push(made);
        x = after;
    }
    x = match &ends {
        Some(ends) if at == layers + 2 => ends.contract(&x, nudge).unwrap(),
        Some(ends) => ends.contract(&x, &mut Unseen).unwrap(),
        None => x,
    };
    let head = OutputHead::load(spec, read).unwrap();
    let logits = head.logits(&head.normed(&x).unwrap()).unwrap().to_vec2::<f32>().unwrap();
    let loss = logits.iter().zip(labels).map(|(row, label)| nll(row, logsumexp(row), *label)).sum();
    (logits, loss)
}

#[test]
fn gradients_come_back_from_all_layers_that_see_keys_and_values_and_through_numbers_for_each() {
    let measured = [
        ("layers.0.qkv", 0, ProjectionKind::MixerInput),
        ("layers.1.down", 1, ProjectionKind::Down),
        ("layers.2.per_layer_gate", 2, ProjectionKind::PerLayerGate),
        ("layers.2.qkv", 2, ProjectionKind::MixerInput),
        ("layers.3.per_layer_output", 3, ProjectionKind::PerLayerOutput),
        ("per_layer_projection", 4, ProjectionKind::PerLayerProjection),
    ];
    assert_gradients(&shared(), &measured);
    let of_streams = [
        ("layers.1.gate_up", 1, ProjectionKind::Up),
        ("layers.0.laurel_left", 0, ProjectionKind::LaurelLeft),
        ("layers.3.laurel_right", 3, ProjectionKind::LaurelRight),
        ("altup_in.1", 5, ProjectionKind::StreamIn(1)),
        ("altup_in.2", 5, ProjectionKind::StreamIn(2)),
        ("altup_out.1", 6, ProjectionKind::StreamOut(1)),
        ("altup_out.2", 6, ProjectionKind::StreamOut(2)),
    ];
    assert_gradients(&streams(), &[&measured[..], &of_streams].concat());
}

/// Compares sensitivities of some matrices with finite differences.
fn assert_gradients(spec: &DecoderSpec, matrices: &[(&str, usize, ProjectionKind)]) {
    spec.check().unwrap();
    let (weights, ids) = (weights(spec), vec![3, 7, 1, 22, 7]);
    let read = |name: &str| weights.get(name).cloned().ok_or("no such tensor");
    let tables = (read, rows_of(spec, &weights));
    let measured =
        sensitivities(Products::Floats, spec, std::slice::from_ref(&ids), &Options::default(), tables, &mut |_| {}).unwrap();
    let embedded = Embedding::load(spec, read).unwrap().embed(std::slice::from_ref(&ids)).unwrap();
    let still = || Nudge { kind: ProjectionKind::MixerInput, element: 0, delta: 0.0 };
    let (logits, _) = loss_beside(spec, &embedded, &ids, &[], usize::MAX, &mut still());
    let label = |(position, mut row): (usize, Vec<f32>)| {
        exponentials(&mut row);
        let total = row.iter().map(|&w| f64::from(w)).sum();
        draw(&row, total, uniform(0, position as u64)) as u32
    };
    let labels: Vec<u32> = logits.into_iter().enumerate().map(label).collect();
    let slope = |loss: &dyn Fn(f32) -> f64| (loss(1e-3) - loss(-1e-3)) / 2e-3;
    // Means over positions of squares, column by column, against those that were measured.
    let check = |what: &str, measured: &[f32], slope: &dyn Fn(usize) -> f64| {
        let (columns, mut sizes) = (measured.len(), vec![0.0; measured.len()]);
        (0..columns * ids.len()).for_each(|i| sizes[i % columns] += slope(i).powi(2) / ids.len() as f64);
        let largest = sizes.iter().fold(0.0, |a: f64, b| a.max(*b));
        assert!(largest > 1e-5, "{what}: {largest}");
        for (c, (found, expected)) in measured.iter().zip(&sizes).enumerate() {
            assert!((f64::from(*found) - expected).abs() < 0.02 * (expected + largest), "{what}, {c}: {found}, {expected}");
        }
    };
    let moved = |element: usize| {
        slope(&|delta| {
            let mut values = embedded.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            values[element] += delta;
            let x = Tensor::from_vec(values, embedded.shape(), &Device::Cpu).unwrap();
            loss_beside(spec, &x, &ids, &labels, usize::MAX, &mut still()).1
        })
    };
    check("embedding", &measured["embedding"].lookup, &moved);
    for &(name, at, kind) in matrices {
        let nudged =
            |element| slope(&|delta| loss_beside(spec, &embedded, &ids, &labels, at, &mut Nudge { kind, element, delta }).1);
        check(name, &measured[name].output, &nudged);
    }
}

#[test]
fn every_matrix_is_measured_whatever_the_arithmetic() {
    for spec in [llama(), everything_else(), norms_after_rope(), sinks(), experts(), shared(), streams(), mamba()] {
        let weights = weights(&spec);
        let read = |name: &str| weights.get(name).cloned().ok_or("no such tensor");
        let windows: Vec<Vec<u32>> = (0..3).map(|w| (0..8).map(|i| (7 * w + 5 * i) % 23).collect()).collect();
        let mut seen = Vec::new();
        let seed = |seed| Options { seed, ..Options::default() };
        let measured =
            sensitivities(Products::Floats, &spec, &windows, &seed(1), (read, rows_of(&spec, &weights)), &mut |done| {
                seen.push(done);
            })
            .unwrap();
        assert_eq!(seen, (1..=steps(&spec)).collect::<Vec<_>>());
        let have: BTreeMap<_, _> =
            measured.iter().map(|(n, s)| (n.clone(), s.parts().map(|(part, values)| (part, values.len())))).collect();
        assert_eq!(have, crate::calibrate::lengths(&spec));
        let again =
            sensitivities(Products::Floats, &spec, &windows, &seed(1), (read, rows_of(&spec, &weights)), &mut |_| {}).unwrap();
        assert!(measured == again, "the same seed gives the same numbers");
        let other =
            sensitivities(Products::Floats, &spec, &windows, &seed(2), (read, rows_of(&spec, &weights)), &mut |_| {}).unwrap();
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
    for spec in [llama(), everything_else(), norms_after_rope(), sinks(), mamba()] {
        let weights = weights(&spec);
        let read = |name: &str| weights.get(name).cloned().ok_or("no such tensor");
        let windows: Vec<Vec<u32>> = (0..5).map(|w| (0..8).map(|i| (7 * w + 5 * i) % 23).collect()).collect();
        let measured = |products: Products<'_>| {
            sensitivities(products, &spec, &windows, &Options::default(), (read, rows_of(&spec, &weights)), &mut |_| {}).unwrap()
        };
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
    let inputs = BTreeMap::from([(ProjectionKind::Up, (input, energies))]);
    let back = Back { gradient: rows(&[0.0, 0.0]), kv: Vec::new(), numbers: None, inputs, outputs };
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
