//! Layers of every kind against the reference.

use super::tests::{accelerator, assert_close, numbers};
use super::{AcceleratorError, LayerOnGpu};
use crate::reference::{LayerWindows, Observe, ProjectionKind, with_numbers};
use candle_core::{Device, Tensor};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{
    Activation, Attention, AttentionGate, LayerSpec, Mlp, Norm, NormKind, NormPlacement, QkNorm, QueryScaling, Residual,
    RopeTable, ShortConv,
};
use std::collections::BTreeMap;
use std::convert::Infallible;

/// Layers that have hardly anything in common.
fn spec() -> DecoderSpec {
    let mlp = |intermediate_size, activation, gated, bias| {
        let mut mlp = Mlp::new(intermediate_size, activation);
        (mlp.gated, mlp.bias) = (gated, bias);
        mlp
    };
    let mut first = Attention::new(6, 2, 16);
    (first.window, first.rope, first.gate) = (Some(7), Some(0), Some(AttentionGate::PerHead));
    let mut second = Attention::new(4, 4, 32);
    (second.softcap, second.qk_norm) = (Some(1.5), Some(QkNorm::Whole));
    (second.qkv_bias, second.output_bias, second.gate, second.sinks) = (true, true, Some(AttentionGate::Elementwise), true);
    let mut third = Attention::new(3, 1, 16);
    (third.scale, third.rope, third.qk_norm) = (0.2, Some(1), Some(QkNorm::PerHead));
    let mut fourth = Attention::new(8, 2, 16);
    (fourth.window, fourth.rope) = (Some(40), Some(0));
    fourth.qk_norm = Some(QkNorm::EachHead(NormKind::LayerNoBias));
    let after = |qk_norm| {
        let mut attention = third;
        (attention.qk_norm, attention.qk_norm_after_rope) = (Some(qk_norm), true);
        attention.query_scaling = Some(QueryScaling { beta: 0.6, original_context: 5 });
        attention
    };
    let mut biased = ShortConv::new(40, 7);
    biased.bias = true;
    let mut layers = vec![
        LayerSpec::new(first, mlp(120, Activation::Silu, true, false)),
        LayerSpec::new(second, mlp(97, Activation::Gelu, false, true)),
        LayerSpec::new(third, mlp(37, Activation::GeluTanh, true, true)),
        LayerSpec::new(fourth, mlp(101, Activation::Silu, false, false)),
        LayerSpec::new(after(QkNorm::PerHead), mlp(64, Activation::Silu, true, false)),
        LayerSpec::new(after(QkNorm::Whole), mlp(64, Activation::Silu, true, false)),
        LayerSpec::new(ShortConv::new(72, 3), mlp(64, Activation::Silu, true, false)),
        LayerSpec::new(biased, mlp(64, Activation::Silu, true, false)),
    ];
    (layers[1].residual, layers[1].norm_placement) = (Residual::Parallel, NormPlacement::Both);
    layers[2].residual = Residual::ParallelShared;
    layers[3].norm_placement = NormPlacement::Post;
    let rope = |pairs: usize, factor| {
        let mut table = RopeTable::new((0..pairs).map(|i| 1e4f32.powf(-(i as f32) / pairs as f32)).collect());
        table.factor = factor;
        table
    };
    let mut spec = DecoderSpec::new(11, 72, 96, Norm { kind: NormKind::Layer, epsilon: 1e-5 }, layers);
    spec.ropes = vec![rope(8, 1.0), rope(5, 1.2)];
    spec.tied_head = true;
    spec.residual_multiplier = 0.7;
    spec
}

/// The inputs of all matrices.
#[derive(Default)]
struct Inputs(BTreeMap<ProjectionKind, Vec<f32>>);

impl Observe for Inputs {
    fn replace(&mut self, kind: ProjectionKind, _: &Tensor, input: &Tensor) -> candle_core::Result<Option<Vec<f32>>> {
        self.0.insert(kind, with_numbers(input, <[f32]>::to_vec)?);
        Ok(None)
    }
}

#[test]
fn layers_are_those_of_the_reference() {
    let (accelerator, spec, length, windows) = (accelerator(), spec(), 29, 3);
    let weights: BTreeMap<String, Vec<f32>> =
        spec.tensors().iter().enumerate().map(|(i, t)| (t.name.clone(), numbers(t.shape.iter().product(), i as u64))).collect();
    let read = |name: &str| Ok::<_, Infallible>(weights[name].iter().map(|w| 0.3 * w).collect());
    let x = numbers(windows * length * spec.hidden_size, 99);
    for index in 0..spec.layers.len() {
        let mut inputs = Inputs::default();
        let reference = LayerWindows::load(&spec, index, length, read).unwrap();
        let tensor = Tensor::from_slice(&x, (windows * length, spec.hidden_size), &Device::Cpu).unwrap();
        let twin = with_numbers(&reference.forward(&tensor, &mut inputs).unwrap(), <[f32]>::to_vec).unwrap();
        assert!(LayerOnGpu::serves(&accelerator, &spec, index, windows, length));
        let layer = LayerOnGpu::load(&accelerator, &spec, index, length, read).unwrap();
        let on_gpu = accelerator.upload(&x, spec.hidden_size).unwrap();
        let out = layer.forward(&on_gpu, |kind, input| {
            let name = format!("layers.{index}.{}", kind.matrix(&spec.layers[index]));
            assert_close(&name, &accelerator.download(&input)?, &inputs.0[&kind], 1e-4);
            let Ok(matrix) = read(&name);
            accelerator.times_transposed(&input, &accelerator.upload(&matrix, input.columns())?)
        });
        let out: Result<_, AcceleratorError> = out;
        assert_close(&format!("layer {index}"), &accelerator.download(&out.unwrap()).unwrap(), &twin, 1e-4);
    }
}
