//! Programs: what a step does, read without a GPU.

use haikuq_format::DecoderSpec;
use haikuq_format::spec::AttentionGate;
use haikuq_runtime::decoder::require_supported;
use haikuq_runtime::program::place::place;
use haikuq_runtime::program::rewrite::{Fusions, fuse};
use haikuq_runtime::program::{Part, Program, Step, Value, build};
use rstest::rstest;
use serde_json::json;

/// A small decoder of two layers; `layer` replaces keys of both, `decoder` its own.
fn spec(layer: serde_json::Value, decoder: serde_json::Value) -> DecoderSpec {
    let attention = json!({"num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "scale": 0.25, "rope": 0});
    let mlp = json!({"intermediate_size": 128, "activation": "silu"});
    let mut own = json!({"mixer": {"attention": attention}, "mlp": mlp});
    own.as_object_mut().unwrap().extend(layer.as_object().unwrap().clone());
    let mut spec = json!({
        "vocab_size": 96, "hidden_size": 64, "max_context": 256, "norm": {"kind": "rms", "epsilon": 1e-5},
        "layers": [own, own], "ropes": [{"inv_freq": [1.0, 0.5, 0.25, 0.125, 0.0625, 0.03, 0.015, 0.007]}], "tied_head": true
    });
    spec.as_object_mut().unwrap().extend(decoder.as_object().unwrap().clone());
    serde_json::from_value(spec).unwrap()
}

fn llama() -> DecoderSpec {
    spec(json!({}), json!({}))
}

const ALL: Fusions = Fusions { norm: true, rope: &|_| true };
const NONE: Fusions = Fusions { norm: false, rope: &|_| false };

/// The lines of layer 0, and what stands before it.
fn first_layer(program: &Program) -> String {
    program.to_string().lines().take_while(|l| !l.contains("layers.1.")).map(|l| format!("{l}\n")).collect()
}

#[test]
fn a_llama_layer_has_five_operations_in_decode() {
    let body = build(&llama(), Part::Body(Step::of_decode(1)));
    insta::assert_snapshot!(first_layer(&fuse(body, ALL)), @r"
    hidden = embedding[ids]
    query, cache[0] = rope(layers.0.qkv · norm(hidden, layers.0.mixer_norm))
    attended = attend(query, cache[0])
    hidden += layers.0.attention_output · attended
    inner = glu Silu(layers.0.gate_up · norm(hidden, layers.0.mlp_norm))
    hidden += layers.0.down · inner
    ");
}

#[test]
fn nothing_is_fused_where_no_kernel_does() {
    let body = build(&llama(), Part::Body(Step::of_prefill(40)));
    assert_eq!(body.rows, 64, "idle tokens fill it up");
    insta::assert_snapshot!(first_layer(&fuse(body, NONE)), @r"
    hidden = embedding[ids]
    normed = norm(hidden, layers.0.mixer_norm)
    qkv = layers.0.qkv · normed
    query, cache[0] = rope(qkv)
    attended = attend(query, cache[0])
    hidden += layers.0.attention_output · attended
    normed = norm(hidden, layers.0.mlp_norm)
    inner = glu Silu(layers.0.gate_up · normed)
    hidden += layers.0.down · inner
    ");
}

#[test]
fn parallel_blocks_read_the_stream_before_either_is_added() {
    let attention =
        json!({"num_heads": 4, "num_kv_heads": 4, "head_dim": 16, "scale": 0.25, "qkv_bias": true, "output_bias": true});
    let mlp = json!({"intermediate_size": 128, "activation": "gelu", "gated": false, "bias": true});
    let layer = json!({"mixer": {"attention": attention}, "mlp": mlp, "residual": "parallel_shared"});
    let parallel = spec(layer, json!({"norm": {"kind": "layer", "epsilon": 1e-5}}));
    let body = build(&parallel, Part::Body(Step::of_decode(2)));
    insta::assert_snapshot!(first_layer(&fuse(body, ALL)), @r"
    hidden = embedding[ids]
    normed = norm(hidden, layers.0.mixer_norm)
    query, cache[0] = rope(layers.0.qkv · normed + layers.0.qkv.bias)
    attended = attend(query, cache[0])
    inner = Gelu(layers.0.up · normed + layers.0.up.bias)
    hidden += layers.0.attention_output · attended + layers.0.attention_output.bias
    hidden += layers.0.down · inner + layers.0.down.bias
    ");
}

#[test]
fn a_shared_norm_is_fused_into_both_products_that_read_it() {
    let shared = spec(json!({"residual": "parallel_shared"}), json!({}));
    let body = build(&shared, Part::Body(Step::of_decode(1)));
    insta::assert_snapshot!(first_layer(&fuse(body, ALL)), @r"
    hidden = embedding[ids]
    query, cache[0] = rope(layers.0.qkv · norm(hidden, layers.0.mixer_norm))
    attended = attend(query, cache[0])
    inner = glu Silu(layers.0.gate_up · norm(hidden, layers.0.mixer_norm))
    hidden += layers.0.attention_output · attended
    hidden += layers.0.down · inner
    ");
}

#[test]
fn norms_after_blocks_stay_operations_of_their_own() {
    let both = spec(json!({"norm_placement": "both"}), json!({"residual_multiplier": 0.5, "embedding_multiplier": 12.0}));
    let body = build(&both, Part::Body(Step::of_decode(1)));
    insta::assert_snapshot!(first_layer(&fuse(body, ALL)), @r"
    hidden = 12 × embedding[ids]
    query, cache[0] = rope(layers.0.qkv · norm(hidden, layers.0.mixer_norm))
    attended = attend(query, cache[0])
    block_output = layers.0.attention_output · attended
    hidden += 0.5 × norm(block_output, layers.0.mixer_post_norm)
    inner = glu Silu(layers.0.gate_up · norm(hidden, layers.0.mlp_norm))
    block_output = layers.0.down · inner
    hidden += 0.5 × norm(block_output, layers.0.mlp_post_norm)
    ");
}

#[test]
fn a_short_convolution_goes_on_from_its_state() {
    let layer = json!({"mixer": {"short_conv": {"channels": 64, "kernel_size": 3, "bias": true}}});
    let body = build(&spec(layer, json!({})), Part::Body(Step::of_decode(1)));
    insta::assert_snapshot!(first_layer(&fuse(body, ALL)), @r"
    hidden = embedding[ids]
    conv_input = layers.0.conv_in · norm(hidden, layers.0.mixer_norm) + layers.0.conv_in.bias
    convolved, state[0] = short_conv(conv_input, state[0])
    hidden += layers.0.conv_out · convolved + layers.0.conv_out.bias
    inner = glu Silu(layers.0.gate_up · norm(hidden, layers.0.mlp_norm))
    hidden += layers.0.down · inner
    ");
}

#[test]
fn experts_are_chosen_between_the_norm_and_their_products() {
    let experts = json!({"num_experts": 8, "num_active": 2, "scores": "softmax", "router_bias": true});
    let mlp = json!({"intermediate_size": 48, "activation": "silu", "bias": true, "experts": experts});
    let sparse = spec(json!({"mlp": mlp}), json!({"residual_multiplier": 0.5}));
    insta::assert_snapshot!(first_layer(&fuse(build(&sparse, Part::Body(Step::of_decode(1))), ALL)), @r"
    hidden = embedding[ids]
    query, cache[0] = rope(layers.0.qkv · norm(hidden, layers.0.mixer_norm))
    attended = attend(query, cache[0])
    hidden += 0.5 × (layers.0.attention_output · attended)
    normed = norm(hidden, layers.0.mlp_norm)
    router_logits = layers.0.router · normed + layers.0.router.bias
    routing = choose(router_logits)
    experts_inner = glu Silu(layers.0.experts.gate_up[routing] · normed + layers.0.experts.gate_up.bias)
    hidden += 0.5 × (layers.0.experts.down[routing] · experts_inner + layers.0.experts.down.bias)
    ");
    let mut post = sparse;
    post.layers.iter_mut().for_each(|l| l.norm_placement = haikuq_format::spec::NormPlacement::Post);
    let text = first_layer(&build(&post, Part::Body(Step::of_decode(1))));
    assert!(text.contains("block_output = layers.0.experts.down[routing] · experts_inner"), "{text}");
}

#[test]
fn a_delta_net_has_three_operations_between_its_matrices() {
    let net = json!({"num_key_heads": 2, "num_value_heads": 4, "key_dim": 16, "value_dim": 32, "kernel_size": 4});
    let body = build(&spec(json!({"mixer": {"delta_net": net}}), json!({})), Part::Body(Step::of_decode(1)));
    insta::assert_snapshot!(first_layer(&fuse(body, ALL)), @r"
    hidden = embedding[ids]
    delta_input = layers.0.delta_in · norm(hidden, layers.0.mixer_norm)
    delta_mixed, columns[0] = delta_conv(delta_input, columns[0])
    delta_output, state[0] = delta_scan(delta_mixed, state[0])
    delta_output = norm(delta_output) * silu(gates of delta_input)
    hidden += layers.0.delta_out · delta_output
    inner = glu Silu(layers.0.gate_up · norm(hidden, layers.0.mlp_norm))
    hidden += layers.0.down · inner
    ");
}

/// A Mamba 2 mixer as JSON.
fn mamba2() -> serde_json::Value {
    json!({"mamba2": {
        "num_heads": 4, "head_dim": 32, "num_groups": 2, "state_size": 16, "kernel_size": 4, "norm": "after_gate", "input_bias": true
    }})
}

#[test]
fn a_mamba_mixer_has_three_operations_between_its_matrices() {
    let body = build(&spec(json!({"mixer": mamba2(), "mlp": null}), json!({})), Part::Body(Step::of_decode(1)));
    insta::assert_snapshot!(first_layer(&fuse(body, ALL)), @r"
    hidden = embedding[ids]
    mamba_input = layers.0.mamba_in · norm(hidden, layers.0.mixer_norm) + layers.0.mamba_in.bias
    mamba_mixed, columns[0] = mamba_conv(mamba_input, columns[0])
    mamba_output, state[0] = mamba_scan(mamba_mixed, state[0])
    mamba_output = gated(mamba_output, gates of mamba_input)
    hidden += layers.0.mamba_out · mamba_output
    ");
}

#[test]
fn mixers_side_by_side_read_the_stream_before_either_is_added() {
    let body = build(&spec(json!({"beside": mamba2()}), json!({})), Part::Body(Step::of_decode(1)));
    insta::assert_snapshot!(first_layer(&fuse(body, ALL)), @r"
    hidden = embedding[ids]
    query, cache[0] = rope(layers.0.qkv · norm(hidden, layers.0.mixer_norm))
    attended = attend(query, cache[0])
    mamba_input = layers.0.mamba_in · norm(hidden, layers.0.mixer_norm) + layers.0.mamba_in.bias
    mamba_mixed, columns[0] = mamba_conv(mamba_input, columns[0])
    mamba_output, state[0] = mamba_scan(mamba_mixed, state[0])
    mamba_output = gated(mamba_output, gates of mamba_input)
    hidden += layers.0.attention_output · attended
    hidden += layers.0.mamba_out · mamba_output
    inner = glu Silu(layers.0.gate_up · norm(hidden, layers.0.mlp_norm))
    hidden += layers.0.down · inner
    ");
    let both = spec(json!({"beside": mamba2(), "norm_placement": "post"}), json!({}));
    let body = build(&both, Part::Body(Step::of_decode(1))).to_string();
    let lines: Vec<&str> = body.lines().filter(|line| line.contains("block_output") && line.contains("layers.0.m")).collect();
    assert_eq!(lines[0], "block_output += layers.0.mamba_out · mamba_output", "{body}");
    assert!(lines[1].contains("norm(block_output, layers.0.mixer_post_norm)"), "{body}");
}

#[test]
fn what_the_kernels_of_mixers_do_not_do_is_refused_by_name() {
    let refused = |layer: serde_json::Value| require_supported(&spec(layer, json!({}))).unwrap_err().to_string();
    let mamba = |key: &str, size: usize| {
        let mut mixer = mamba2();
        mixer["mamba2"][key] = json!(size);
        refused(json!({"mixer": mixer}))
    };
    assert!(mamba("state_size", 260).contains("states of 260 numbers in a Mamba mixer"));
    assert!(mamba("state_size", 18).contains("states of 18 numbers in a Mamba mixer"));
    assert!(mamba("head_dim", 10).contains("heads of 10 dimensions in a Mamba mixer"));
    let conv = json!({"short_conv": {"channels": 64, "kernel_size": 3}});
    assert!(refused(json!({"mixer": conv, "beside": mamba2()})).contains("two mixers of which none is attention"));
    require_supported(&spec(json!({"mixer": mamba2()}), json!({}))).unwrap();
}

#[test]
fn a_layer_sees_the_cache_of_another_and_takes_its_own_numbers() {
    let seeing = json!({"num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "scale": 0.25, "rope": 0, "kv_from": 0});
    let mut both = spec(json!({"output_scale": true}), json!({"per_layer_embedding": {"size": 32, "activation": "gelu_tanh"}}));
    both.layers[1].mixer = serde_json::from_value(json!({"attention": seeing})).unwrap();
    let body = fuse(build(&both, Part::Body(Step::of_decode(1))), ALL).to_string();
    let (first, second): (Vec<_>, Vec<_>) = body.lines().partition(|l| !l.contains("layers.1.") && !l.contains("per_layer[1]"));
    insta::assert_snapshot!(first[..3].join("\n"), @r"
    hidden = embedding[ids]
    per_layer = per_layer_projection · hidden
    per_layer = norm(per_layer, per_layer_norm) + per_layer_embedding[ids]
    ");
    insta::assert_snapshot!(second.join("\n"), @r"
    qkv = layers.1.qkv · norm(hidden, layers.1.mixer_norm)
    hidden += layers.1.attention_output · attended
    inner = glu Silu(layers.1.gate_up · norm(hidden, layers.1.mlp_norm))
    hidden += layers.1.down · inner
    per_layer_gate = GeluTanh(layers.1.per_layer_gate · hidden) * per_layer[1]
    block_output = layers.1.per_layer_output · per_layer_gate
    hidden = (hidden + norm(block_output, layers.1.per_layer_post_norm)) * layers.1.output_scale
    ");
    assert!(body.contains("\nquery = rope(qkv)\nattended = attend(query, cache[0])\nhidden += layers.1."), "{body}");
}

#[test]
fn a_product_that_makes_gates_is_not_fused_with_the_rotation() {
    let body = build(&gated(), Part::Body(Step::of_decode(1)));
    insta::assert_snapshot!(first_layer(&fuse(body, ALL)), @r"
    hidden = embedding[ids]
    qkv = layers.0.qkv · norm(hidden, layers.0.mixer_norm)
    query, cache[0] = rope(qkv)
    attended = attend(query, cache[0])
    attended *= sigmoid(gates of qkv)
    hidden += layers.0.attention_output · attended
    inner = glu Silu(layers.0.gate_up · norm(hidden, layers.0.mlp_norm))
    hidden += layers.0.down · inner
    ");
}

fn gated() -> DecoderSpec {
    let mut spec = llama();
    spec.attentions_mut().for_each(|a| a.gate = Some(AttentionGate::Elementwise));
    spec
}

#[test]
fn a_step_ends_with_logits_and_a_choice() {
    let spec = spec(json!({}), json!({"logit_softcap": 30.0}));
    let head = fuse(build(&spec, Part::Head { rows: 1, from: Value::Hidden }), ALL);
    let sample = build(&spec, Part::Sample { rows: 1, advance: true, masked: false });
    insta::assert_snapshot!(format!("{head}{sample}"), @r"
    logits = (embedding · norm(hidden, final_norm)), capped at 30
    chosen, next ids = sample(logits)
    ");
}

fn programs(spec: &DecoderSpec, fusions: Fusions) -> Vec<Program> {
    let steps = [Step::of_decode(1), Step::of_prefill(64)].map(Part::Body);
    let heads = [Value::Hidden, Value::HeadRows].map(|from| Part::Head { rows: 1, from });
    let parts = steps.into_iter().chain(heads).chain([Part::Sample { rows: 1, advance: true, masked: false }]);
    parts.map(|part| fuse(build(spec, part), fusions)).collect()
}

/// Runs a program over buffers that remember whose value they hold: whatever an operation reads must still be there.
fn assert_values_survive(spec: &DecoderSpec, programs: &[Program]) {
    let placement = place(spec, programs, 64, 8);
    for program in programs {
        let mut held: Vec<Option<Value>> = vec![None; placement.bytes.len()];
        for lasting in [Value::Hidden, Value::HeadRows, Value::Logits] {
            if let Some(slot) = placement.slots.get(&lasting) {
                held[*slot] = Some(lasting);
            }
        }
        for operation in &program.operations {
            for read in operation.reads() {
                assert_eq!(held[placement.slots[&read]], Some(read), "{operation}: in\n{program}");
            }
            if let Some(written) = operation.writes() {
                let slot = placement.slots[&written];
                let others = operation.reads().into_iter().filter(|r| *r != written);
                assert!(others.into_iter().all(|r| placement.slots[&r] != slot), "{operation} writes what it reads");
                held[slot] = Some(written);
            }
        }
    }
}

#[rstest]
#[case::llama(json!({}), json!({}))]
#[case::parallel(json!({"residual": "parallel"}), json!({}))]
#[case::shared(json!({"residual": "parallel_shared"}), json!({}))]
#[case::norms_everywhere(json!({"norm_placement": "both"}), json!({}))]
#[case::layer_norms(json!({}), json!({"norm": {"kind": "layer", "epsilon": 1e-5}}))]
#[case::short_convolution(json!({"mixer": {"short_conv": {"channels": 64, "kernel_size": 3}}}), json!({}))]
#[case::delta_net(json!({"mixer": {"delta_net": {
    "num_key_heads": 2, "num_value_heads": 4, "key_dim": 16, "value_dim": 32, "kernel_size": 4
}}}), json!({}))]
#[case::mamba(json!({"mixer": mamba2(), "mlp": null}), json!({}))]
#[case::streams(json!({"laurel": 8, "norm_placement": "both"}), json!({
    "altup": {"num_streams": 3}, "per_layer_embedding": {"size": 8, "activation": "silu"}
}))]
#[case::streams_alone(json!({"laurel": 8}), json!({"altup": {"num_streams": 2, "active": 1}}))]
#[case::cut_gates(json!({"mlp": {"intermediate_size": 128, "activation": "silu", "gate_cutoff": 0.5}}), json!({}))]
#[case::side_by_side(json!({"beside": mamba2()}), json!({}))]
#[case::gates(json!({"mixer": {"attention": {
    "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "scale": 0.25, "rope": 0, "gate": "elementwise"
}}}), json!({}))]
fn values_that_share_a_buffer_are_never_needed_together(#[case] layer: serde_json::Value, #[case] decoder: serde_json::Value) {
    let spec = spec(layer, decoder);
    for fusions in [ALL, NONE] {
        assert_values_survive(&spec, &programs(&spec, fusions));
    }
}

#[test]
fn buffers_are_shared_but_not_by_rows_that_end_in_padding() {
    let whole = llama();
    let placement = place(&whole, &programs(&whole, NONE), 64, 8);
    assert_eq!(placement.slots[&Value::Qkv], placement.slots[&Value::Inner(128)], "the one is done when the other begins");
    // Zeros beyond the true columns would be overwritten, also by a layer of another width.
    let mut odd = llama();
    for (mlp, width) in odd.mlps_mut().zip([100, 110]) {
        mlp.intermediate_size = width;
    }
    let placement = place(&odd, &programs(&odd, NONE), 64, 8);
    for width in [100, 110] {
        let inner = placement.slots[&Value::Inner(width)];
        assert_eq!(placement.slots.values().filter(|slot| **slot == inner).count(), 1);
    }
}
