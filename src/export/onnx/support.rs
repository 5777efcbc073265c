//! What the operators of ONNX Runtime cannot say of a decoder.

use super::super::ExportError;
use super::graph::refused;
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{Activation, Attention, LayerSpec, Mixer, Mlp};

/// Refuses a decoder by the first thing that no graph here says. `class` is what errors call it.
pub(super) fn check(class: &str, spec: &DecoderSpec) -> Result<(), ExportError> {
    let of_spec = [
        (spec.altup.is_some(), "it has several residual streams"),
        (spec.per_layer_embedding.is_some(), "its tokens bring along numbers for each layer"),
        (
            spec.ropes.iter().any(|r| r.long.is_some()),
            "its ropes have other frequencies for long texts, and a graph has one table",
        ),
    ];
    let whole = first(&of_spec).map(str::to_string);
    let of_layers = || spec.layers.iter().enumerate().find_map(|(i, l)| Some(format!("layer {i} {}", of_layer(spec, l)?)));
    match whole.or_else(of_layers) {
        Some(why) => Err(refused(class, why)),
        None => Ok(()),
    }
}

fn first(list: &[(bool, &'static str)]) -> Option<&'static str> {
    list.iter().find(|(is_so, _)| *is_so).map(|(_, why)| *why)
}

fn of_layer(spec: &DecoderSpec, layer: &LayerSpec) -> Option<&'static str> {
    let mixer = match &layer.mixer {
        _ if layer.beside.is_some() => Some("has two mixers side by side"),
        Mixer::Attention(attention) => of_attention(spec, attention),
        Mixer::ShortConv(_) => Some("has a short convolution"),
        Mixer::DeltaNet(_) => Some("has a gated delta net"),
        Mixer::Mamba2(_) => Some("has a Mamba 2 mixer"),
    };
    let laurel = layer.laurel.map(|_| "has a learned residual layer (LAUREL)");
    mixer.or(laurel).or_else(|| layer.mlp.as_ref().and_then(of_mlp))
}

fn of_attention(spec: &DecoderSpec, a: &Attention) -> Option<&'static str> {
    let of_first = spec.attentions().next().map(|a| (a.num_heads, a.num_kv_heads, a.head_dim));
    let pairs = a.rope.map(|table| spec.ropes[table].inv_freq.len());
    first(&[
        (!a.head_dim.is_multiple_of(8), "has heads whose width is no multiple of 8, as GroupQueryAttention asks for"),
        (
            a.rope.is_some() && !a.head_dim.is_multiple_of(16),
            "has heads whose width is no multiple of 16, and GroupQueryAttention rotates no others",
        ),
        (
            pairs.is_some_and(|n| !n.is_multiple_of(8)),
            "rotates pairs of numbers that are no multiple of 8, as GroupQueryAttention asks for",
        ),
        (a.gate.is_some(), "has gates on the outputs of its heads"),
        (a.kv_from.is_some(), "sees keys and values of an earlier layer"),
        (a.values_are_keys, "makes values of its keys' rows"),
        (a.value_norm, "normalizes its values"),
        (
            of_first != Some((a.num_heads, a.num_kv_heads, a.head_dim)),
            "has other heads than the first, and configs have one size",
        ),
    ])
}

fn of_mlp(mlp: &Mlp) -> Option<&'static str> {
    first(&[
        (mlp.experts.is_some(), "has experts"),
        (mlp.gate_cutoff.is_some(), "cuts off its gates"),
        (mlp.activation == Activation::ClampedSwiglu, "has a clamped SwiGLU"),
    ])
}
