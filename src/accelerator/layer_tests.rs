//! Layers of every kind against the reference.

use super::tests::{accelerator, assert_close, numbers};
use super::{AcceleratorError, LayerOnGpu};
use crate::reference::{LayerWindows, Observe, ProjectionKind, with_numbers};
use candle_core::{Device, Tensor};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{
    Activation, Attention, LayerSpec, Mlp, Norm, NormKind, NormPlacement, QkNorm, QueryScaling, Residual, RopeTable,
};
use std::collections::BTreeMap;
use std::convert::Infallible;

/// Layers that have hardly anything in common.
fn spec() -> DecoderSpec {
    let mlp = |intermediate_size, activation, gated, bias| Mlp { intermediate_size, activation, gated, bias };
    let first = Attention { window: Some(7), rope: Some(0), ..Attention::new(6, 2, 16) };
    let second = Attention {
        softcap: Some(1.5),
        qk_norm: Some(QkNorm::Whole),
        qkv_bias: true,
        output_bias: true,
        ..Attention::new(4, 4, 32)
    };
    let third = Attention { scale: 0.2, rope: Some(1), qk_norm: Some(QkNorm::PerHead), ..Attention::new(3, 1, 16) };
    let qk_norm = Some(QkNorm::EachHead(NormKind::LayerNoBias));
    let fourth = Attention { window: Some(40), rope: Some(0), qk_norm, ..Attention::new(8, 2, 16) };
    let query_scaling = Some(QueryScaling { beta: 0.6, original_context: 5 });
    let after = |qk_norm| Attention { qk_norm: Some(qk_norm), qk_norm_after_rope: true, query_scaling, ..third };
    let layers = vec![
        LayerSpec::new(first, mlp(120, Activation::Silu, true, false)),
        LayerSpec {
            residual: Residual::Parallel,
            norm_placement: NormPlacement::Both,
            ..LayerSpec::new(second, mlp(97, Activation::Gelu, false, true))
        },
        LayerSpec { residual: Residual::ParallelShared, ..LayerSpec::new(third, mlp(37, Activation::GeluTanh, true, true)) },
        LayerSpec { norm_placement: NormPlacement::Post, ..LayerSpec::new(fourth, mlp(101, Activation::Silu, false, false)) },
        LayerSpec::new(after(QkNorm::PerHead), mlp(64, Activation::Silu, true, false)),
        LayerSpec::new(after(QkNorm::Whole), mlp(64, Activation::Silu, true, false)),
    ];
    let rope = |pairs: usize, factor| RopeTable {
        inv_freq: (0..pairs).map(|i| 1e4f32.powf(-(i as f32) / pairs as f32)).collect(),
        factor,
        long: None,
    };
    DecoderSpec {
        vocab_size: 11,
        hidden_size: 72,
        max_context: 96,
        norm: Norm { kind: NormKind::Layer, epsilon: 1e-5 },
        layers,
        ropes: vec![rope(8, 1.0), rope(5, 1.2)],
        tied_head: true,
        head_bias: false,
        learned_positions: false,
        logit_softcap: None,
        embedding_multiplier: 1.0,
        residual_multiplier: 0.7,
        logit_multiplier: 1.0,
        eos_token_ids: vec![],
        bos_token_id: None,
    }
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
            let name = format!("layers.{index}.{}", kind.matrix(spec.layers[index].mlp.gated));
            assert_close(&name, &accelerator.download(&input)?, &inputs.0[&kind], 1e-4);
            let Ok(matrix) = read(&name);
            accelerator.times_transposed(&input, &accelerator.upload(&matrix, input.columns())?)
        });
        let out: Result<_, AcceleratorError> = out;
        assert_close(&format!("layer {index}"), &accelerator.download(&out.unwrap()).unwrap(), &twin, 1e-4);
    }
}
