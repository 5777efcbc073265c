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
    let plain = Mlp {
        intermediate_size: 11,
        activation: Activation::GeluTanh,
        gated: false,
        bias: true,
        experts: None,
        gate_cutoff: None,
    };
    spec.layers.push(LayerSpec { norm_placement: NormPlacement::Post, ..LayerSpec::new(wide, plain) });
    let one_head = Attention { rope: Some(0), qk_norm: Some(QkNorm::PerHead), output_bias: true, ..Attention::new(1, 1, 8) };
    let narrow =
        Mlp { intermediate_size: 2, activation: Activation::Gelu, gated: true, bias: false, experts: None, gate_cutoff: None };
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

/// A Mamba 2 mixer with everything that one can have.
fn mamba() -> Mamba2 {
    let mut mamba = Mamba2::new(6, 5, 3, 4, 2);
    mamba.norm = Some(GatedNorm::AfterGate);
    (mamba.conv_bias, mamba.input_bias, mamba.output_bias) = (true, true, true);
    (mamba.min_step, mamba.max_step) = (0.25, Some(4.0));
    mamba
}

/// A short convolution, a delta net, gated attention, and a Mamba 2 mixer without a feed-forward network.
fn mixed() -> DecoderSpec {
    let mut spec = read(tiny());
    let mlp = Mlp::new(7, Activation::Silu);
    let mut conv = ShortConv::new(8, 3);
    conv.bias = true;
    let mut gated = Attention::new(4, 2, 3);
    (gated.gate, gated.sinks) = (Some(AttentionGate::PerHead), true);
    let net = DeltaNet::new(2, 6, 4, 5, 2);
    spec.layers =
        vec![LayerSpec::new(conv, mlp), LayerSpec::new(net, mlp), LayerSpec::new(gated, mlp), LayerSpec::new(mamba(), None)];
    spec
}

/// Names (without the layer's) and shapes of a layer's mixer.
fn mixer_tensors(spec: &DecoderSpec, layer: usize) -> Vec<(String, Vec<usize>)> {
    let prefix = format!("layers.{layer}.");
    let own = spec.tensors().into_iter().filter_map(|t| Some((t.name.strip_prefix(&prefix)?.to_string(), t.shape)));
    own.skip_while(|(name, _)| name.starts_with("mixer_norm")).take_while(|(name, _)| !name.starts_with("mlp_norm")).collect()
}

#[test]
fn each_mixer_has_its_tensors() {
    let named = |list: &[(&str, &[usize])]| list.iter().map(|(n, s)| (n.to_string(), s.to_vec())).collect::<Vec<_>>();
    let mut spec = mixed();
    spec.check().unwrap();
    let biased: [(&str, &[usize]); 6] = [
        ("conv_in", &[24, 6]),
        ("conv_in.bias", &[24]),
        ("conv.kernel", &[24]),
        ("conv.bias", &[8]),
        ("conv_out", &[6, 8]),
        ("conv_out.bias", &[6]),
    ];
    assert_eq!(mixer_tensors(&spec, 0), named(&biased));
    // 2 × 8 queries and keys, 30 values, 30 gates, 6 of `b` and of `a`.
    let delta: [(&str, &[usize]); 6] = [
        ("delta_in", &[88, 6]),
        ("delta.kernel", &[92]),
        ("delta.log_decay", &[6]),
        ("delta.step_bias", &[6]),
        ("delta_norm.gain", &[5]),
        ("delta_out", &[6, 30]),
    ];
    assert_eq!(mixer_tensors(&spec, 1), named(&delta));
    assert_eq!(mixer_tensors(&spec, 2), named(&[("qkv", &[28, 6]), ("sinks", &[4]), ("attention_output", &[6, 12])]));
    // 30 gates and 30 inputs, 2 × 12 of `B` and `C`, 6 steps.
    let scanned: [(&str, &[usize]); 10] = [
        ("mamba_in", &[90, 6]),
        ("mamba_in.bias", &[90]),
        ("mamba.kernel", &[108]),
        ("mamba.bias", &[54]),
        ("mamba.log_decay", &[6]),
        ("mamba.step_bias", &[6]),
        ("mamba.skip", &[6]),
        ("mamba_norm.gain", &[30]),
        ("mamba_out", &[6, 30]),
        ("mamba_out.bias", &[6]),
    ];
    assert_eq!(mixer_tensors(&spec, 3), named(&scanned), "and nothing after it");
    spec.layers[2].beside = Some(Mamba2::new(6, 5, 3, 4, 2).into());
    let beside: Vec<_> = [0, 2, 4, 5, 6, 8].map(|i| scanned[i]).to_vec();
    let both = [&[("qkv", &[28, 6][..]), ("sinks", &[4]), ("attention_output", &[6, 12])][..], &beside[..]].concat();
    assert_eq!(mixer_tensors(&spec, 2), named(&both));
    spec.check().unwrap();
    spec.layers[2].beside = None;
    spec.layers[0].mixer = ShortConv::new(8, 3).into();
    spec.layers[2].attention_mut().unwrap().gate = Some(AttentionGate::Elementwise);
    assert_eq!(mixer_tensors(&spec, 0), named(&[biased[0], biased[2], biased[4]]));
    assert_eq!(mixer_tensors(&spec, 2), named(&[("qkv", &[36, 6]), ("sinks", &[4]), ("attention_output", &[6, 12])]));
}

#[test]
fn each_mixer_tells_its_matrices_and_their_sizes() {
    let spec = mixed();
    for (i, layer) in spec.layers.iter().enumerate() {
        let ([first, last], tensors) = (layer.mixer.matrices(), mixer_tensors(&spec, i));
        let shape = |name: &str| tensors.iter().find(|(n, _)| n == name).map(|(_, shape)| shape.clone());
        assert_eq!(shape(first), Some(vec![layer.mixer.input_rows(), 6]));
        assert_eq!(shape(last), Some(vec![6, layer.mixer.output_columns()]));
        let biases = [first, last].map(|name| shape(&format!("{name}.bias")).is_some());
        assert_eq!(biases, layer.mixer.biases());
    }
}

#[test]
fn mixers_are_written_as_they_are_read() {
    let spec = mixed();
    let json = serde_json::to_value(&spec).unwrap();
    let mixers = json!([
        {"short_conv": {"channels": 8, "kernel_size": 3, "bias": true}},
        {"delta_net": {"num_key_heads": 2, "num_value_heads": 6, "key_dim": 4, "value_dim": 5, "kernel_size": 2}},
        {"attention": {"num_heads": 4, "num_kv_heads": 2, "head_dim": 3, "scale": 3f32.powf(-0.5), "gate": "per_head", "sinks": true}},
        {"mamba2": {
            "num_heads": 6, "head_dim": 5, "num_groups": 3, "state_size": 4, "kernel_size": 2, "norm": "after_gate",
            "min_step": 0.25, "max_step": 4.0, "conv_bias": true, "input_bias": true, "output_bias": true
        }}
    ]);
    for (layer, mixer) in json["layers"].as_array().unwrap().iter().zip(mixers.as_array().unwrap()) {
        assert_eq!(layer["mixer"], *mixer);
    }
    assert_eq!(json["layers"][3].get("mlp"), None);
    assert_eq!(read(json), spec);
    let mut both = spec.layers[2].clone();
    both.beside = Some(Mamba2::new(6, 5, 3, 4, 2).into());
    let json = serde_json::to_value(&both).unwrap();
    let sizes = json!({"num_heads": 6, "head_dim": 5, "num_groups": 3, "state_size": 4, "kernel_size": 2});
    assert_eq!(json["beside"], json!({"mamba2": sizes}));
    assert_eq!(serde_json::from_value::<LayerSpec>(json).unwrap(), both);
    let plain = serde_json::to_value(Mixer::from(ShortConv::new(8, 3))).unwrap();
    assert_eq!(plain, json!({"short_conv": {"channels": 8, "kernel_size": 3}}));
    assert_eq!(serde_json::to_value(AttentionGate::Elementwise).unwrap(), json!("elementwise"));
    for unknown in [
        json!({"short_conv": {"channels": 8, "kernel_size": 3, "surprise": 1}}),
        json!({"delta_net": {"num_key_heads": 2, "num_value_heads": 6, "key_dim": 4, "value_dim": 5, "kernel_size": 2, "surprise": 1}}),
        json!({"mamba2": {"num_heads": 6, "head_dim": 5, "num_groups": 3, "state_size": 4, "kernel_size": 2, "surprise": 1}}),
    ] {
        let said = serde_json::from_value::<Mixer>(unknown).unwrap_err().to_string();
        assert!(said.contains("unknown field `surprise`"), "{said}");
    }
}

#[test]
fn mixers_of_impossible_sizes_are_refused() {
    let said = |i: usize, mixer: Mixer| {
        let mut spec = mixed();
        spec.layers[i].mixer = mixer;
        spec.check().unwrap_err().to_string()
    };
    let conv = |channels, kernel_size| said(0, ShortConv::new(channels, kernel_size).into());
    assert_eq!(conv(0, 3), "layer 0: channels is 0, outside 1 to 16777216");
    assert_eq!(conv(8, 0), "layer 0: kernel_size is 0, outside 1 to 16777216");
    assert_eq!(conv(8, 17), "layer 0: a convolution over 17 positions, over the limit of 16");
    let net = |[key_heads, value_heads, key_dim, value_dim, kernel_size]: [usize; 5]| {
        said(1, DeltaNet::new(key_heads, value_heads, key_dim, value_dim, kernel_size).into())
    };
    let good = [2, 6, 4, 5, 2];
    for (i, name) in ["num_key_heads", "num_value_heads", "key_dim", "value_dim", "kernel_size"].into_iter().enumerate() {
        let mut sizes = good;
        sizes[i] = 0;
        assert_eq!(net(sizes), format!("layer 1: {name} is 0, outside 1 to 16777216"));
    }
    assert_eq!(net([2, 6, 4, 5, 17]), "layer 1: a convolution over 17 positions, over the limit of 16");
    assert_eq!(net([4, 6, 4, 5, 2]), "layer 1: 6 value heads are not a multiple of 4 key heads");
    assert_eq!(net([2, 6, 1 << 14, 1 << 14, 2]), "layer 1: states of [6, 16384, 16384] numbers");
    let scan = |change: &dyn Fn(&mut Mamba2)| {
        let mut mamba = mamba();
        change(&mut mamba);
        said(3, mamba.into())
    };
    assert_eq!(scan(&|m| m.num_groups = 4), "layer 3: 6 heads are not a multiple of 4 groups");
    assert_eq!(scan(&|m| m.state_size = 0), "layer 3: state_size is 0, outside 1 to 16777216");
    assert_eq!(scan(&|m| m.kernel_size = 17), "layer 3: a convolution over 17 positions, over the limit of 16");
    assert_eq!(scan(&|m| (m.head_dim, m.state_size) = (1 << 14, 1 << 14)), "layer 3: states of [6, 16384, 16384] numbers");
    assert_eq!(scan(&|m| m.max_step = Some(0.1)), "layer 3: steps from 0.25 to 0.1");
    assert_eq!(scan(&|m| m.max_step = Some(f32::INFINITY)), "layer 3: steps from 0.25 to inf");
    assert_eq!(scan(&|m| m.min_step = f32::NAN), "layer 3: steps from NaN to 4");
    // More numbers than 64 bits count.
    assert_eq!(net([1 << 24, 1 << 24, 1 << 24, 1 << 24, 2]), "layer 1: states of [16777216, 16777216, 16777216] numbers");
}

/// A layer that sees the keys and values of another, one whose keys are its values, and numbers for each.
fn shared() -> DecoderSpec {
    let mut spec = read(tiny());
    spec.norm.kind = NormKind::Rms;
    let (mut first, mut second) = (Attention::new(4, 2, 3), Attention::new(6, 2, 3));
    (first.values_are_keys, first.value_norm, first.qk_norm) = (true, true, Some(QkNorm::PerHead));
    (second.kv_from, second.qk_norm, second.qkv_bias) = (Some(0), Some(QkNorm::PerHead), true);
    let mlp = Mlp::new(7, Activation::Silu);
    spec.layers = vec![LayerSpec::new(first, mlp), LayerSpec::new(second, mlp)];
    spec.layers[1].output_scale = true;
    spec.per_layer_embedding = Some(PerLayerEmbedding::new(4, Activation::GeluTanh));
    spec
}

#[test]
fn layers_that_share_keys_and_values_have_no_rows_for_them() {
    let named = |list: &[(&str, &[usize])]| list.iter().map(|(n, s)| (n.to_string(), s.to_vec())).collect::<Vec<_>>();
    let spec = shared();
    spec.check().unwrap();
    assert!(spec.shares_kv(0) && !spec.shares_kv(1));
    let keys: [(&str, &[usize]); 4] =
        [("qkv", &[18, 6]), ("q_norm.gain", &[3]), ("k_norm.gain", &[3]), ("attention_output", &[6, 12])];
    assert_eq!(mixer_tensors(&spec, 0), named(&keys));
    let queries: [(&str, &[usize]); 4] =
        [("qkv", &[18, 6]), ("qkv.bias", &[18]), ("q_norm.gain", &[3]), ("attention_output", &[6, 18])];
    assert_eq!(mixer_tensors(&spec, 1), named(&queries));
    let tensors = spec.tensors();
    let names: Vec<_> = tensors.iter().filter(|t| !t.name.starts_with("layers.0")).map(|t| t.name.as_str()).collect();
    assert_eq!(names[..4], ["embedding", "per_layer_embedding", "per_layer_projection", "per_layer_norm.gain"]);
    let last = ["per_layer_gate", "per_layer_output", "per_layer_post_norm.gain", "output_scale"];
    assert_eq!(names[names.len() - 6..names.len() - 2], last.map(|part| format!("layers.1.{part}")));
    let shape = |name: &str| tensors.iter().find(|t| t.name == name).unwrap().shape.clone();
    assert_eq!((shape("per_layer_embedding"), shape("per_layer_projection")), (vec![5, 8], vec![8, 6]));
    assert_eq!((shape("layers.1.per_layer_gate"), shape("layers.1.output_scale")), (vec![4, 6], vec![1]));
    let again: DecoderSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
    assert_eq!(again, spec);
}

#[test]
fn keys_and_values_come_from_an_earlier_layer_of_the_same_sizes() {
    let refused = |change: &dyn Fn(&mut DecoderSpec)| {
        let mut spec = shared();
        change(&mut spec);
        spec.check().unwrap_err().0
    };
    let second = |change: fn(&mut Attention)| refused(&|s| change(s.layers[1].attention_mut().unwrap()));
    for (error, expected) in [
        (second(|a| a.kv_from = Some(1)), "layer 1: sees keys and values of layer 1, which is no earlier one"),
        (second(|a| a.value_norm = true), "says how they are made"),
        (second(|a| a.head_dim = 4), "has 2 key/value heads of 4, and layer 0, whose it sees, 2 of 3"),
        (second(|a| a.window = Some(3)), "has a window of Some(3) positions"),
        (
            refused(&|s| s.layers.insert(0, LayerSpec::new(ShortConv::new(8, 3), Mlp::new(7, Activation::Silu)))),
            "has none of its own",
        ),
    ] {
        assert!(error.contains(expected), "{error}");
    }
    let size = refused(&|s| s.per_layer_embedding = Some(PerLayerEmbedding::new(usize::MAX, Activation::Silu)));
    assert!(size.contains("per_layer_embedding is 18446744073709551615"), "{size}");
    let multiplier = |s: &mut DecoderSpec| s.per_layer_embedding.as_mut().unwrap().multiplier = f32::NAN;
    assert!(refused(&multiplier).contains("a multiplier of per_layer_embedding is NaN"));
}

#[test]
fn experts_are_one_matrix_each_and_have_a_router() {
    let mut spec = tiny();
    let experts = json!({"num_experts": 4, "num_active": 2, "scores": "sigmoid", "normalized": true, "epsilon": 0.5,
                         "router_bias": true, "selection_bias": true, "scale": 2.5});
    spec["layers"][0]["mlp"] = json!({"intermediate_size": 7, "activation": "clamped_swiglu", "bias": true, "experts": experts});
    let read = read(spec.clone());
    assert_eq!(serde_json::to_value(&read).unwrap()["layers"], spec["layers"]);
    let tensors = read.tensors();
    let of_mlp: Vec<_> = tensors.iter().filter(|t| t.name.contains("router") || t.name.contains("experts")).collect();
    let found: Vec<_> = of_mlp.iter().map(|t| (t.name.as_str(), t.class, t.shape.clone())).collect();
    assert_eq!(
        found,
        [
            ("layers.0.router", TensorClass::Router, vec![4, 6]),
            ("layers.0.router.bias", TensorClass::Vector, vec![4]),
            ("layers.0.router.selection_bias", TensorClass::Vector, vec![4]),
            ("layers.0.experts.gate_up", TensorClass::Mlp, vec![56, 6]),
            ("layers.0.experts.gate_up.bias", TensorClass::Vector, vec![56]),
            ("layers.0.experts.down", TensorClass::Mlp, vec![24, 7]),
            ("layers.0.experts.down.bias", TensorClass::Vector, vec![24]),
        ]
    );
    assert_eq!(read.active_share("layers.0.experts.down"), (2, 4));
    assert_eq!(read.active_share("layers.0.router"), (1, 1));
    assert_eq!(read.active_share("layers.9.experts.down"), (1, 1));
    let said = |change: &dyn Fn(&mut Mlp)| {
        let mut spec = read.clone();
        change(spec.layers[0].mlp.as_mut().unwrap());
        spec.check().map_err(|e| e.to_string())
    };
    let experts = |change: &'static dyn Fn(&mut Experts)| {
        said(&|mlp| {
            if let Some(experts) = &mut mlp.experts {
                change(experts);
            }
        })
    };
    assert_eq!(said(&|_| ()), Ok(()));
    let refused = |why: &str| Err(format!("layer 0: {why}"));
    assert_eq!(experts(&|e| e.num_active = 5), refused("5 active of 4 experts (at most 1024)"));
    assert_eq!(experts(&|e| e.num_active = 0), refused("num_active is 0, outside 1 to 16777216"));
    assert_eq!(experts(&|e| e.num_experts = 2000), refused("2 active of 2000 experts (at most 1024)"));
    assert_eq!(said(&|m| m.intermediate_size = 1 << 23), refused("rows of all experts is 67108864, outside 1 to 16777216"));
    assert_eq!(experts(&|e| e.scale = f32::NAN), refused("weights of experts with scale NaN and epsilon 0.5"));
    assert_eq!(experts(&|e| e.epsilon = -1.0), refused("weights of experts with scale 2.5 and epsilon -1"));
    assert_eq!(experts(&|e| e.normalized = false), refused("an epsilon of experts that is not used"));
    assert_eq!(
        experts(&|e| (e.scores, e.selection_bias) = (Scores::Softmax, false)),
        refused("an epsilon of experts that is not used")
    );
    assert_eq!(experts(&|e| e.shared = 2), refused("2 shared of 2 active experts, gated: false"));
    assert_eq!(experts(&|e| e.shared_gate = true), refused("0 shared of 2 active experts, gated: true"));
    assert_eq!(experts(&|e| (e.shared, e.shared_gate) = (1, true)), Ok(()));
    let mut shared = read.clone();
    if let Some(experts) = shared.layers[0].mlp.as_mut().and_then(|mlp| mlp.experts.as_mut()) {
        (experts.shared, experts.shared_gate) = (1, true);
    }
    let rows = |spec: &DecoderSpec, name: &str| spec.tensors().into_iter().find(|t| t.name == name).map(|t| t.shape[0]);
    assert_eq!(rows(&shared, "layers.0.router"), Some(4));
    assert_eq!(rows(&shared, "layers.0.router.selection_bias"), Some(3));
    assert_eq!(rows(&shared, "layers.0.experts.down"), Some(24));
    assert_eq!(experts(&|e| e.scores = Scores::Softmax), refused("a selection bias of softmax scores"));
    assert_eq!(said(&|m| m.gated = false), refused("a clamped SwiGLU without a gate"));
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
    let mut spec = tiny();
    spec["layers"][0]["mlp"]["experts"] = json!({"num_experts": 2, "num_active": 1, "scores": "softmax", "sharing": 1});
    let said = serde_json::from_value::<DecoderSpec>(spec).unwrap_err().to_string();
    assert!(said.contains("unknown field `sharing`"), "{said}");
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
    assert_eq!(
        said(&|s| s.layers[1].mlp.as_mut().unwrap().intermediate_size = 0),
        "layer 1: intermediate_size is 0, outside 1 to 16777216"
    );
    assert_eq!(said(&|s| s.layers[1].beside = Some(s.layers[2].mixer.clone())), "layer 1: two mixers of one kind");
    assert_eq!(said(&|s| s.layers[2].mlp = None), "layer 2: no feed-forward network that a mixer could be parallel to");
    assert_eq!(said(&|s| s.layers.clear()), "number of layers is 0, outside 1 to 4096");
    assert_eq!(said(&|s| s.layers = vec![s.layers[0].clone(); 5000]), "number of layers is 5000, outside 1 to 4096");
    assert_eq!(said(&|s| s.logit_multiplier = f32::INFINITY), "logit multiplier inf is not finite");
    assert_eq!(said(&|s| s.logit_softcap = Some(-1.0)), "logit soft cap -1 is not a positive number");
    assert_eq!(said(&|s| s.ropes[0].inv_freq.clear()), "rope table 0 rotates 0 dimensions");
}

#[test]
fn several_residual_streams_and_learned_residual_layers() {
    let mut spec = read(tiny());
    let mut altup = AltUp::new(3);
    (altup.active, altup.output_scale) = (1, true);
    (spec.altup, spec.layers[0].laurel) = (Some(altup), Some(2));
    spec.layers[0].mlp.as_mut().unwrap().gate_cutoff = Some(1.5);
    spec.check().unwrap();
    let json = serde_json::to_value(&spec).unwrap();
    assert_eq!(json["altup"], json!({"num_streams": 3, "active": 1, "output_scale": true}));
    assert_eq!((&json["layers"][0]["laurel"], &json["layers"][0]["mlp"]["gate_cutoff"]), (&json!(2), &json!(1.5)));
    assert_eq!(read(json), spec);
    let h = spec.hidden_size;
    assert_eq!(spec.stream_size(), 3 * h);
    let tensors = spec.tensors();
    let shape = |name: &str| tensors.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("no {name}")).shape.clone();
    for name in ["altup_in.1", "altup_in.2", "altup_out.1", "altup_out.2"] {
        assert_eq!(shape(name), [h, h], "{name}");
    }
    assert!(tensors.iter().all(|t| t.name != "altup_in.0" && t.name != "altup_in.3"));
    assert_eq!([shape("layers.0.laurel_left"), shape("layers.0.laurel_right")], [vec![2, h], vec![h, 2]]);
    assert_eq!([shape("layers.0.altup.router"), shape("layers.0.altup.scale")], [vec![3 * h], vec![h]]);
    assert_eq!([shape("layers.0.altup.prediction"), shape("layers.0.altup.correction")], [vec![27], vec![9]]);
    let refused = |change: &dyn Fn(&mut DecoderSpec)| {
        let mut spec = spec.clone();
        change(&mut spec);
        spec.check().unwrap_err().to_string()
    };
    assert_eq!(refused(&|s| s.altup = Some(AltUp::new(1))), "1 residual streams, outside 2 to 8");
    assert_eq!(refused(&|s| s.altup.as_mut().unwrap().active = 3), "stream 3 of 3 is active");
    assert_eq!(refused(&|s| s.layers[0].output_scale = true), "layer 0: an output_scale of several residual streams");
    assert_eq!(refused(&|s| s.layers[0].laurel = Some(0)), "layer 0: laurel is 0, outside 1 to 16777216");
    let sequential = "layer 0: laurel in a layer that is not sequential with norms before its blocks";
    assert_eq!(refused(&|s| s.layers[0].residual = Residual::Parallel), sequential);
    assert_eq!(refused(&|s| s.layers[0].norm_placement = NormPlacement::Post), sequential);
    let mlp = |change: &'static dyn Fn(&mut Mlp)| refused(&|s| change(s.layers[0].mlp.as_mut().unwrap()));
    assert_eq!(mlp(&|m| m.gate_cutoff = Some(f32::INFINITY)), "layer 0: gate_cutoff inf is not finite");
    let plain = "layer 0: a gate_cutoff without a gate, of experts or of a clamped SwiGLU";
    assert_eq!(mlp(&|m| m.gated = false), plain);
    assert_eq!(mlp(&|m| m.activation = Activation::ClampedSwiglu), plain);
}
