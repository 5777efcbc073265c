//! Specs as JSON, their tensors, and what is refused.

use super::*;
use serde_json::{Value, json};

/// A decoder of one layer.
fn tiny() -> Value {
    json!({
        "vocab_size": 5, "hidden_size": 6, "max_context": 8, "norm": {"kind": "layer", "epsilon": 1e-5},
        "layers": [{
            "mixer": {"attention": {"num_heads": 4, "num_kv_heads": 2, "head_dim": 3, "scale": 1.0}},
            "mlp": {"intermediate_size": 7, "activation": "silu"}
        }]
    })
}

fn read(json: Value) -> DecoderSpec {
    serde_json::from_value(json).unwrap()
}

fn with_qk_norm(qk_norm: Value) -> DecoderSpec {
    let mut spec = tiny();
    spec["layers"][0]["mixer"]["attention"]["qk_norm"] = qk_norm;
    read(spec)
}

/// Three layers that have no size in common.
fn uneven() -> DecoderSpec {
    let mut spec = read(tiny());
    spec.norm.kind = NormKind::Rms;
    spec.ropes = vec![RopeTable { inv_freq: vec![1.0, 0.1], factor: 1.0, long: None }];
    let wide = Attention { window: Some(4), qkv_bias: true, ..Attention::new(2, 1, 5) };
    let plain = Mlp { intermediate_size: 11, activation: Activation::GeluTanh, gated: false, bias: true };
    spec.layers.push(LayerSpec { norm_placement: NormPlacement::Post, ..LayerSpec::new(wide, plain) });
    let one_head = Attention { rope: Some(0), qk_norm: Some(QkNorm::PerHead), output_bias: true, ..Attention::new(1, 1, 8) };
    let narrow = Mlp { intermediate_size: 2, activation: Activation::Gelu, gated: true, bias: false };
    spec.layers.push(LayerSpec { residual: Residual::ParallelShared, ..LayerSpec::new(one_head, narrow) });
    spec
}

fn qk_tensors(spec: &DecoderSpec) -> Vec<(String, usize)> {
    let norms = spec.tensors().into_iter().filter(|t| t.name.contains("q_norm") || t.name.contains("k_norm"));
    norms.map(|t| (t.name.trim_start_matches("layers.0.").into(), t.shape[0])).collect()
}

#[test]
fn norms_of_queries_and_keys_have_the_tensors_that_their_kind_needs() {
    let tensors = |qk_norm| qk_tensors(&with_qk_norm(qk_norm));
    let shared = [("q_norm.gain", 3), ("q_norm.bias", 3), ("k_norm.gain", 3), ("k_norm.bias", 3)];
    let own = [("q_norm.gain", 12), ("q_norm.bias", 12), ("k_norm.gain", 6), ("k_norm.bias", 6)];
    let named = |list: &[(&str, usize)]| list.iter().map(|(name, n)| (name.to_string(), *n)).collect::<Vec<_>>();
    assert_eq!(tensors(json!(null)), []);
    assert_eq!(tensors(json!("per_head")), named(&shared));
    assert_eq!(tensors(json!("whole")), named(&own));
    assert_eq!(tensors(json!({"each_head": "layer"})), named(&own));
    assert_eq!(tensors(json!({"each_head": "layer_no_bias"})), named(&[own[0], own[2]]));
    assert_eq!(tensors(json!({"each_head": "rms"})), named(&[own[0], own[2]]));
}

#[test]
fn layers_have_the_tensors_of_their_own_sizes() {
    let spec = uneven();
    spec.check().unwrap();
    let tensors = spec.tensors();
    let of_layer = |i: usize| -> Vec<(&str, &[usize])> {
        let prefix = format!("layers.{i}.");
        let own = tensors.iter().filter_map(|t| Some((t.name.strip_prefix(&prefix)?, t.shape.as_slice())));
        own.collect()
    };
    let shared: [(&str, &[usize]); 6] = [
        ("mixer_norm.gain", &[6]),
        ("qkv", &[24, 6]),
        ("attention_output", &[6, 12]),
        ("mlp_norm.gain", &[6]),
        ("gate_up", &[14, 6]),
        ("down", &[6, 7]),
    ];
    assert_eq!(of_layer(0), shared);
    let after: [(&str, &[usize]); 9] = [
        ("qkv", &[20, 6]),
        ("qkv.bias", &[20]),
        ("attention_output", &[6, 10]),
        ("mixer_post_norm.gain", &[6]),
        ("up", &[11, 6]),
        ("up.bias", &[11]),
        ("down", &[6, 11]),
        ("down.bias", &[6]),
        ("mlp_post_norm.gain", &[6]),
    ];
    assert_eq!(of_layer(1), after);
    let parallel: [(&str, &[usize]); 8] = [
        ("mixer_norm.gain", &[6]),
        ("qkv", &[24, 6]),
        ("q_norm.gain", &[8]),
        ("k_norm.gain", &[8]),
        ("attention_output", &[6, 8]),
        ("attention_output.bias", &[6]),
        ("gate_up", &[4, 6]),
        ("down", &[6, 2]),
    ];
    assert_eq!(of_layer(2), parallel);
    assert_eq!((spec.max_qkv_size(), spec.max_attention_size(), spec.max_intermediate_size()), (24, 12, 11));
}

#[test]
fn queries_grow_beyond_the_original_context() {
    let scaling = QueryScaling { beta: 0.5, original_context: 8 };
    assert_eq!([0, 7].map(|p| scaling.factor(p)), [1.0, 1.0]);
    assert_eq!([8, 15].map(|p| scaling.factor(p)), [1.0 + 0.5 * 2f32.ln(); 2]);
    let mut spec = tiny();
    let attention = &mut spec["layers"][0]["mixer"]["attention"];
    (attention["query_scaling"], attention["qk_norm"]) = (json!({"beta": 0.5, "original_context": 8}), json!("per_head"));
    attention["qk_norm_after_rope"] = json!(true);
    let read = read(spec.clone());
    assert_eq!(read.layers[0].attention().unwrap().query_scaling, Some(scaling));
    assert_eq!(serde_json::to_value(&read).unwrap()["layers"], spec["layers"]);
}

#[test]
fn specs_are_written_as_they_are_read() {
    for (kind, name) in [(NormKind::Rms, "rms"), (NormKind::Layer, "layer"), (NormKind::LayerNoBias, "layer_no_bias")] {
        let spec = with_qk_norm(json!({"each_head": name}));
        assert_eq!(spec.layers[0].attention().unwrap().qk_norm, Some(QkNorm::EachHead(kind)));
        let json = serde_json::to_value(&spec).unwrap();
        assert_eq!(json["layers"][0]["mixer"]["attention"]["qk_norm"], json!({"each_head": name}));
        assert_eq!(read(json), spec);
    }
    let spec = uneven();
    assert_eq!(read(serde_json::to_value(&spec).unwrap()), spec);
    assert!(serde_json::from_value::<QkNorm>(json!("each_head")).is_err());
    assert!(serde_json::from_value::<NormKind>(json!("group")).is_err());
}

#[test]
fn a_layer_is_written_without_what_is_usual() {
    let json = serde_json::to_value(read(tiny())).unwrap();
    assert_eq!(json["layers"], tiny()["layers"]);
    let json = serde_json::to_value(uneven()).unwrap();
    let second = json!({
        "mixer": {"attention": {
            "num_heads": 2, "num_kv_heads": 1, "head_dim": 5, "scale": 5f32.powf(-0.5), "window": 4, "qkv_bias": true
        }},
        "mlp": {"intermediate_size": 11, "activation": "gelu_tanh", "gated": false, "bias": true},
        "norm_placement": "post"
    });
    assert_eq!(json["layers"][1], second);
}

#[test]
fn what_a_reader_does_not_know_is_refused_by_name() {
    let set = |path: &str, member: &str| {
        let mut spec = tiny();
        spec.pointer_mut(path).unwrap()[member] = json!(1);
        serde_json::from_value::<DecoderSpec>(spec).unwrap_err().to_string()
    };
    for path in ["", "/norm", "/layers/0", "/layers/0/mlp", "/layers/0/mixer/attention"] {
        let said = set(path, "surprise");
        assert!(said.contains("unknown field `surprise`"), "{path}: {said}");
    }
    let mut spec = tiny();
    spec["layers"][0]["mixer"] = json!({"sorcery": {}});
    let said = serde_json::from_value::<DecoderSpec>(spec).unwrap_err().to_string();
    assert!(said.contains("unknown variant `sorcery`"), "{said}");
}

#[test]
fn contradictions_are_named_with_their_layer_and_numbers() {
    let said = |change: &dyn Fn(&mut DecoderSpec)| {
        let mut spec = uneven();
        change(&mut spec);
        spec.check().unwrap_err().to_string()
    };
    let attention = |change: &'static dyn Fn(&mut Attention)| said(&|s| change(s.layers[2].attention_mut().unwrap()));
    assert_eq!(
        attention(&|a| (a.num_heads, a.num_kv_heads) = (3, 2)),
        "layer 2: 3 query heads are not a multiple of 2 key/value heads"
    );
    assert_eq!(attention(&|a| a.rope = Some(1)), "layer 2: names rope table 1 of 1");
    assert_eq!(attention(&|a| a.head_dim = 2), "layer 2: rope table 0 rotates 4 of 2 head dimensions");
    assert_eq!(attention(&|a| a.window = Some(0)), "layer 2: an attention window of 0");
    assert_eq!(attention(&|a| a.scale = f32::INFINITY), "layer 2: attention scale inf is not finite");
    assert_eq!(attention(&|a| a.softcap = Some(0.0)), "layer 2: attention soft cap 0 is not a positive number");
    assert_eq!(
        attention(&|a| (a.qk_norm, a.qk_norm_after_rope) = (None, true)),
        "layer 2: queries and keys are normalized after rope, and there is no norm for them"
    );
    assert_eq!(
        attention(&|a| a.query_scaling = Some(QueryScaling { beta: 0.1, original_context: 0 })),
        "layer 2: original_context of query_scaling is 0, outside 1 to 16777216"
    );
    assert_eq!(
        attention(&|a| a.query_scaling = Some(QueryScaling { beta: f32::NAN, original_context: 8 })),
        "layer 2: beta of query_scaling is NaN, which is not finite"
    );
    assert_eq!(attention(&|a| a.num_kv_heads = 0), "layer 2: num_kv_heads is 0, outside 1 to 16777216");
    assert_eq!(said(&|s| s.layers[1].mlp.intermediate_size = 0), "layer 1: intermediate_size is 0, outside 1 to 16777216");
    assert_eq!(said(&|s| s.layers.clear()), "number of layers is 0, outside 1 to 4096");
    assert_eq!(said(&|s| s.layers = vec![s.layers[0].clone(); 5000]), "number of layers is 5000, outside 1 to 4096");
    assert_eq!(said(&|s| s.logit_multiplier = f32::INFINITY), "logit multiplier inf is not finite");
    assert_eq!(said(&|s| s.logit_softcap = Some(-1.0)), "logit soft cap -1 is not a positive number");
    assert_eq!(said(&|s| s.ropes[0].inv_freq.clear()), "rope table 0 rotates 0 dimensions");
}
