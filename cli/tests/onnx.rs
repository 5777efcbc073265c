//! ONNX exports give the models that they were made from: every folder under `tests/fixtures/onnx`, whoever exported it,
//! computes what transformers computes, and becomes the same shards as the safetensors checkpoint. Refused
//! models are in `onnx_hostile.rs`.
//!
//! `HAIKUQ_ONNX_EXPORTS` may name another folder of exports (`tests/fixtures/onnx/make.py` makes them) to be tested too.

mod common;
mod support;

use common::expected::{assert_reference_agrees, folders};
use haikuq::checkpoint::Checkpoint;
use haikuq::checkpoint::onnx_messages::{
    AttributeProto, AttributeType, FunctionProto, GraphProto, NodeProto, TensorProto, ValueInfoProto,
};
use std::path::{Path, PathBuf};
use support::onnx::*;
use support::{assert_says, contents, convert, succeed};

fn exports() -> Vec<PathBuf> {
    let mut all = folders("tests/fixtures/onnx");
    if let Some(more) = std::env::var_os("HAIKUQ_ONNX_EXPORTS") {
        all.extend(folders(more.to_str().unwrap()));
    }
    all
}

/// The safetensors checkpoint that an export was made from, which its name says.
fn original(export: &Path) -> Option<PathBuf> {
    let name = export.file_name()?.to_str()?.split_once('-')?.0;
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/fixtures/architectures").join(name);
    folder.is_dir().then_some(folder)
}

/// Whether an export may be compared number for number.
fn is_full_precision(export: &Path) -> bool {
    !export.to_str().unwrap().contains("-f16")
}

#[test]
fn every_export_computes_what_transformers_computes() {
    for export in exports().iter().filter(|e| is_full_precision(e)) {
        assert_reference_agrees(export, export);
    }
}

/// Names and bytes of a package's weights.
fn shards(checkpoint: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    succeed(convert(checkpoint, &folder.path().join("package"), &["--recipe", "q4-fast", "--quiet"]));
    let all = contents(&folder.path().join("package"));
    all.into_iter().filter(|(name, _)| name.extension().is_some_and(|e| e != "json" && e != "jinja")).collect()
}

/// Whether two checkpoints have the same numbers, but for decays whose exponential an exporter took. These are off by rounding.
#[track_caller]
fn decays_alone_differ(export: &Path, original: &Path) -> bool {
    let (a, b) = (open(export).unwrap(), open(original).unwrap());
    let mut differ = false;
    for tensor in a.spec.tensors().iter().filter(|t| t.name.ends_with(".log_decay")) {
        let (a, b) = (a.read(&tensor.name).unwrap(), b.read(&tensor.name).unwrap());
        let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // Half of the last bit of an exponential is 2^-24 of it, and so as much of its logarithm.
        assert!(worst <= 3e-7, "{}: {} is {worst} off", export.display(), tensor.name);
        differ |= a != b;
    }
    if differ {
        assert_eq!(a.spec, b.spec);
        for tensor in a.spec.tensors().iter().filter(|t| !t.name.ends_with(".log_decay")) {
            assert!(a.read(&tensor.name).unwrap() == b.read(&tensor.name).unwrap(), "{}: {}", export.display(), tensor.name);
        }
    }
    differ
}

#[test]
fn every_export_becomes_the_shards_of_its_safetensors_original() {
    let mut compared = 0;
    for export in exports().iter().filter(|e| is_full_precision(e)) {
        let Some(original) = original(export) else { continue };
        if decays_alone_differ(export, &original) {
            continue;
        }
        let (a, b) = (shards(export), shards(&original));
        assert!(!a.is_empty());
        assert!(a == b, "{} and {} differ", export.display(), original.display());
        compared += 1;
    }
    assert!(compared >= 7, "{compared}");
}

#[test]
fn decays_come_back_from_the_exponentials_that_an_exporter_took() {
    const HYBRID: &str = "granite4_hybrid-dynamo-whole-bare";
    assert!(decays_alone_differ(&fixture(HYBRID), &original(&fixture(HYBRID)).unwrap()));
    // A vector that is not negative throughout is none.
    let export = Export::changed(HYBRID, |model| {
        let decay = tensor(&mut model.graph, "neg");
        decay.raw_data[..4].copy_from_slice(&0.5f32.to_le_bytes());
    });
    assert_says(&export.refusal(), &["tensor model.layers.0.mamba.A_log is missing", "neg"]);
}

/// A tensor's numbers, brought into the model's file.
fn inlined<'a>(graph: &'a mut GraphProto, export: &str, name: &str) -> &'a mut TensorProto {
    let found = tensor(graph, name);
    let number = |key: &str| found.external_data.iter().find(|e| e.key == key).map_or(0, |e| e.value.parse::<usize>().unwrap());
    let data = std::fs::read(fixture(export).join("model.onnx.data")).unwrap();
    found.raw_data = data[number("offset")..][..number("length")].to_vec();
    found.external_data.clear();
    found.data_location = Default::default();
    found
}

#[test]
fn the_operator_says_whether_gate_and_up_of_experts_lie_in_turn() {
    const EXPERTS: &str = "lfm2_moe-genai";
    const GATE_UP: &str = "model.layers.1.moe.experts.gate_up_proj.weight";
    let fuse = |model: &mut Model, how: i64| {
        let product = node(&mut model.graph, "/model/layers.1/moe/MoE");
        product.attribute.iter_mut().find(|a| a.name == "swiglu_fusion").unwrap().i = how;
    };
    let export = Export::changed(EXPERTS, |model| {
        fuse(model, 2);
        let found = inlined(&mut model.graph, EXPERTS, GATE_UP);
        let (rows, bytes) = (found.dims[1] as usize, 4 * found.dims[2] as usize);
        let in_turn = std::mem::take(&mut found.raw_data);
        let expert = |all: &[u8]| -> Vec<u8> {
            let rows: Vec<&[u8]> = all.chunks(bytes).collect();
            [
                rows.iter().step_by(2).copied().collect::<Vec<_>>().concat(),
                rows.iter().skip(1).step_by(2).copied().collect::<Vec<_>>().concat(),
            ]
            .concat()
        };
        found.raw_data = in_turn.chunks(rows * bytes).flat_map(expert).collect();
    });
    export.assert_still(EXPERTS);
    let export = Export::changed(EXPERTS, |model| fuse(model, 2));
    let read = |path: &Path| open(path).unwrap().read("layers.1.experts.gate_up").unwrap();
    assert!(read(export.dir.path()) != read(&fixture(EXPERTS)));
}

#[test]
fn biases_of_experts_that_have_none_are_zeros_or_refused() {
    const EXPERTS: &str = "lfm2_moe-genai";
    let export = Export::changed(EXPERTS, |model| {
        let bias = inlined(&mut model.graph, EXPERTS, "model.layers.1.moe.experts.down_proj.bias");
        bias.raw_data[..4].copy_from_slice(&1f32.to_le_bytes());
    });
    assert_says(
        &export.refusal(),
        &["model.layers.1.moe.experts.down_proj.bias", "none of the weights that the config asks for"],
    );
}

#[test]
fn the_product_says_which_way_round_experts_lie() {
    // Square, and read by inputs: taken the other way round, they are other matrices.
    const EXPERTS: &str = "gpt_oss-torchscript-whole";
    let export = Export::changed(EXPERTS, |model| {
        let looked_up = "/lm/model/layers.0/mlp/experts/Gather_1_output_0".to_string();
        for product in model.graph.node.iter_mut().filter(|n| n.op_type == "MatMul" && n.input.contains(&looked_up)) {
            product.input.reverse();
        }
    });
    let read = |path: &Path| open(path).unwrap().read("layers.0.experts.gate_up").unwrap();
    assert!(read(export.dir.path()) != read(&fixture(EXPERTS)));
}

#[test]
fn a_model_may_be_named_lie_in_a_folder_onnx_or_have_another_name() {
    let export = Export::of("llama-inline");
    assert_same_weights(&export.path("model.onnx"), &fixture("llama-inline"));
    std::fs::create_dir(export.path("onnx")).unwrap();
    std::fs::rename(export.path("model.onnx"), export.path("onnx/model_fp32.onnx")).unwrap();
    export.assert_still("llama-inline");
    assert_same_weights(&export.path("onnx"), &fixture("llama-inline"));
    assert_same_weights(&export.path("onnx/model_fp32.onnx"), &fixture("llama-inline"));
    std::fs::copy(export.path("onnx/model_fp32.onnx"), export.path("onnx/decoder.onnx")).unwrap();
    assert_says(&export.refusal(), &["several ONNX models (decoder.onnx, model_fp32.onnx)"]);
    std::fs::rename(export.path("onnx/decoder.onnx"), export.path("onnx/model.onnx")).unwrap();
    export.assert_still("llama-inline");
    let files = Checkpoint::open(export.dir.path()).unwrap().source_files();
    assert_eq!(files, [export.path("config.json"), export.path("onnx/model.onnx")]);
}

#[test]
fn the_tokenizer_and_external_files_come_along() {
    let checkpoint = Checkpoint::open(fixture("qwen3-genai")).unwrap();
    let companions: Vec<&str> = checkpoint.companions().iter().map(|c| c.name.as_str()).collect();
    assert_eq!(companions, ["tokenizer.json", "tokenizer_config.json"]);
    let names = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let files: Vec<String> = checkpoint.source_files().iter().map(names).collect();
    assert_eq!(files, ["config.json", "model.onnx", "model.onnx.data"]);
}

#[test]
fn safetensors_come_first() {
    let export = Export::of("llama-inline");
    std::fs::write(export.path("model.onnx"), b"no model at all").unwrap();
    std::fs::copy(original(&fixture("llama-inline")).unwrap().join("model.safetensors"), export.path("model.safetensors"))
        .unwrap();
    export.assert_still("llama-inline");
}

#[test]
fn without_a_config_the_message_says_what_is_missing() {
    let export = Export::of("qwen3-genai");
    std::fs::remove_file(export.path("config.json")).unwrap();
    assert_says(&export.refusal(), &["has no config.json", "genai_config.json says too little"]);
}

#[test]
fn only_the_consumer_says_which_way_a_square_matrix_lies() {
    let export = Export::changed("llama-inline", |model| {
        let query = tensor(&mut model.graph, QUERY);
        let mut turned = vec![0; query.raw_data.len()];
        for (i, number) in query.raw_data.chunks(4).enumerate() {
            let at = 4 * (i % 64 * 64 + i / 64);
            turned[at..at + 4].copy_from_slice(number);
        }
        query.raw_data = turned;
        let product = node(&mut model.graph, "node_linear");
        product.op_type = "Gemm".into();
        product.attribute = vec![int_attribute("transB", 1)];
    });
    export.assert_still("llama-inline");
    let export = Export::changed("llama-inline", |model| {
        let product = node(&mut model.graph, "node_linear");
        product.op_type = "Gemm".into();
        let alpha = AttributeProto { name: "alpha".into(), f: 0.5, r#type: AttributeType::Float.into(), ..Default::default() };
        product.attribute = vec![alpha];
    });
    assert_says(&export.refusal(), &["q_proj.weight"]);
}

#[test]
fn weights_are_followed_through_casts_functions_constants_and_branches() {
    // A cast, and a turned copy turned back.
    let export = Export::changed("llama-inline", |model| {
        let at = model.graph.node.iter().position(|n| n.name == "node_linear").unwrap();
        model.graph.node[at].input[1] = "cast".into();
        model.graph.node.insert(at, new_node("Cast", "", &["same"], "cast"));
        model.graph.node.insert(at, new_node("Identity", "", &[QUERY], "same"));
    });
    export.assert_still("llama-inline");
    // The product within a function.
    let export = Export::changed("llama-inline", |model| {
        let body = new_node("MatMul", "", &["x", "w"], "y");
        model.functions.push(FunctionProto {
            name: "linear".into(),
            domain: "local".into(),
            input: vec!["x".into(), "w".into()],
            output: vec!["y".into()],
            node: vec![NodeProto { metadata_props: node(&mut model.graph, "node_linear").metadata_props.clone(), ..body }],
        });
        let product = node(&mut model.graph, "node_linear");
        (product.op_type, product.domain) = ("linear".into(), "local".into());
    });
    export.assert_still("llama-inline");
    // A weight that is a node's attribute.
    let export = Export::changed("llama-inline", |model| {
        let at = model.graph.initializer.iter().position(|t| t.name == QUERY).unwrap();
        let value = model.graph.initializer.remove(at);
        let mut constant = new_node("Constant", "", &[], QUERY);
        let t = Some(value);
        constant.attribute.push(AttributeProto {
            name: "value".into(),
            t,
            r#type: AttributeType::Tensor.into(),
            ..Default::default()
        });
        model.graph.node.insert(0, constant);
    });
    export.assert_still("llama-inline");
    // The same product in both branches of a condition.
    let export = Export::changed("llama-inline", |model| {
        let at = model.graph.node.iter().position(|n| n.name == "node_linear").unwrap();
        let product = model.graph.node[at].clone();
        let branch = |name: &str| {
            let output = ValueInfoProto { name: product.output[0].clone(), ..Default::default() };
            let g = GraphProto { node: vec![product.clone()], output: vec![output], ..Default::default() };
            AttributeProto { name: name.into(), g: Some(g), r#type: AttributeType::Graph.into(), ..Default::default() }
        };
        let mut condition = new_node("If", "", &["new_ones"], &product.output[0]);
        condition.attribute = vec![branch("then_branch"), branch("else_branch")];
        model.graph.node[at] = condition;
    });
    export.assert_still("llama-inline");
}

#[test]
fn numbers_in_typed_fields_are_read_too() {
    let export = Export::changed("llama-inline", |model| {
        let query = tensor(&mut model.graph, QUERY);
        let raw = std::mem::take(&mut query.raw_data);
        query.float_data = raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    });
    export.assert_still("llama-inline");
    // Half precision, as varints and as bytes, is the same numbers.
    let half = |typed: bool| {
        Export::changed("llama-inline", move |model| {
            let query = tensor(&mut model.graph, QUERY);
            query.data_type = 10;
            let raw = std::mem::take(&mut query.raw_data);
            let numbers = raw.as_chunks().0.iter().map(|b| half::f16::from_f32(f32::from_le_bytes(*b)).to_bits());
            match typed {
                true => query.int32_data = numbers.map(i32::from).collect(),
                false => query.raw_data = numbers.flat_map(u16::to_le_bytes).collect(),
            }
        })
    };
    assert_same_weights(half(true).dir.path(), half(false).dir.path());
}

#[test]
fn a_weight_that_only_one_tensor_can_be_needs_no_name() {
    let export = Export::changed("phi3-external", |model| {
        model.graph.node.iter_mut().filter(|n| n.name == "node_linear_8" || n.name == "node_embedding").for_each(|n| {
            n.metadata_props.clear();
            n.name.clear();
        });
        for name in ["model.embed_tokens.weight", "model.norm.weight"] {
            let new = format!("t{}", name.len());
            tensor(&mut model.graph, name).name = new.clone();
            let inputs = model.graph.node.iter_mut().flat_map(|n| &mut n.input);
            inputs.filter(|input| *input == name).for_each(|input| *input = new.clone());
        }
    });
    export.assert_still("phi3-external");
}

#[test]
fn a_bias_that_the_exporter_left_out_is_zero() {
    let mut export = Export::of("llama-inline");
    let mut config = support::read_json(&export.path("config.json"));
    config["attention_bias"] = true.into();
    support::write_json(&export.path("config.json"), &config);
    let decoder = open(export.dir.path()).unwrap();
    assert!(decoder.read("layers.0.qkv.bias").unwrap().iter().all(|x| *x == 0.0));
    // One that is there is no such.
    let graph = &mut export.model.graph;
    let at = graph.node.iter().position(|n| n.name == "node_linear").unwrap();
    let output = std::mem::replace(&mut graph.node[at].output[0], "product".into());
    graph.node.insert(at + 1, new_node("Add", "", &["product", "unnamed"], &output));
    graph.initializer.push(float_tensor("unnamed", &[64], 0.5));
    export.write();
    let said = export.refusal();
    assert_says(&said, &["cannot tell which tensor is model.layers.0.self_attn", "unnamed [64], taken by Add"]);
    // Unless its node says whose it is.
    let scope = node(&mut export.model.graph, "node_linear").metadata_props.clone();
    export.model.graph.node[at + 1].metadata_props = scope;
    export.write();
    let bias = open(export.dir.path()).unwrap().read("layers.0.qkv.bias").unwrap();
    assert!(bias[..64].iter().all(|x| *x == 0.5) && bias[64..].iter().all(|x| *x == 0.0));
}

#[test]
fn a_projection_that_the_family_has_joined_may_be_stored_in_parts() {
    let export = Export::changed("phi3-external", |model| {
        let gate_up = tensor(&mut model.graph, "val_301").clone();
        let number = |key: &str| gate_up.external_data.iter().find(|e| e.key == key).unwrap().value.parse::<usize>().unwrap();
        let data = std::fs::read(fixture("phi3-external").join("model.onnx.data")).unwrap();
        let data = &data[number("offset")..][..number("length")];
        let at = model.graph.node.iter().position(|n| n.name == "node_linear_2").unwrap();
        let whole = model.graph.node.remove(at);
        let mut joined = new_node("Concat", "", &["gate", "up"], &whole.output[0]);
        joined.attribute.push(int_attribute("axis", -1));
        model.graph.node.insert(at, joined);
        // Rows of 320: gate, then up.
        for (part, bytes) in [("gate", 0..640), ("up", 640..1280)] {
            let weight = format!("w_{part}");
            let raw_data = data.chunks(1280).flat_map(|row| row[bytes.clone()].to_vec()).collect();
            let name = format!("/model/layers.0/mlp/{part}_proj/MatMul");
            model.graph.node.insert(at, new_node("MatMul", &name, &[&whole.input[0], &weight], part));
            model.graph.initializer.push(TensorProto { raw_data, ..float_tensor(&weight, &[64, 160], 0.0) });
        }
        model.graph.initializer.retain(|t| t.name != "val_301");
    });
    export.assert_still("phi3-external");
}
