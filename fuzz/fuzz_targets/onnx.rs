//! ONNX models, with a file of zeros beside them for tensors that lie there.

#![cfg_attr(fuzzing, no_main)]

use haikuq::architecture::Decoder;
use haikuq::checkpoint::Checkpoint;
use haikuq::checkpoint::onnx_messages::{
    DataLocation, FunctionProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto,
};
use haikuq_fuzz::fixtures::{path, read, write};
use haikuq_fuzz::fuzz_target;
use haikuq_fuzz::mutate::Mutator;
use haikuq_fuzz::target::{Outcome, Target, folder};
use prost::Message;
use std::path::PathBuf;
use std::sync::LazyLock;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = folder().join("model");
    std::fs::create_dir_all(&folder).expect("a folder of the run");
    write(&folder.join("config.json"), &read("tests/fixtures/onnx/llama-inline/config.json"), 0);
    write(&folder.join("model.onnx.data"), &[], 1 << 20);
    folder
});

/// Functions that call each other twice, `deep` times: many nodes of few bytes.
fn doubling(deep: usize) -> Vec<u8> {
    let call = |i: usize, input: &str, output: &str| NodeProto {
        op_type: format!("f{i}"),
        domain: "own".into(),
        input: vec![input.into()],
        output: vec![output.into()],
        ..Default::default()
    };
    let function = |i: usize| FunctionProto {
        name: format!("f{i}"),
        domain: "own".into(),
        input: vec!["x".into()],
        output: vec!["y".into()],
        node: vec![call(i + 1, "x", "z"), call(i + 1, "z", "y")],
        ..Default::default()
    };
    let graph = GraphProto { node: vec![call(0, "a", "b")], ..Default::default() };
    let model = ModelProto { graph, functions: (0..deep).map(function).collect(), ..Default::default() };
    model.encode_to_vec()
}

/// A fixture's export with its tensors' bytes in the file beside it, and `nodes` of its nodes.
fn export(name: &str, nodes: usize) -> Vec<u8> {
    let bytes = std::fs::read(path(&format!("tests/fixtures/onnx/{name}/model.onnx"))).expect("a fixture");
    let mut model = ModelProto::decode(&bytes[..]).expect("a fixture");
    let graph = &mut model.graph;
    let mut at = 0;
    for tensor in &mut graph.initializer {
        let bytes = tensor.raw_data.len();
        if bytes < 64 {
            continue;
        }
        tensor.raw_data.clear();
        tensor.data_location = DataLocation::External.into();
        let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value };
        let place = [("location", "model.onnx.data".into()), ("offset", at.to_string()), ("length", bytes.to_string())];
        tensor.external_data = place.into_iter().map(|(key, value)| entry(key, value)).collect();
        at += bytes;
    }
    graph.node.truncate(nodes);
    let used: Vec<String> = graph.node.iter().flat_map(|n| n.input.clone()).collect();
    graph.initializer.retain(|t| nodes == usize::MAX || used.contains(&t.name));
    for node in &mut graph.node {
        // Stack traces of the exporter.
        node.metadata_props.retain(|e| e.value.len() < 200);
    }
    model.functions.truncate(nodes);
    model.encode_to_vec()
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for name in ["llama-inline", "phi3-external", "gpt2-torchscript-whole", "gemma2-genai", "qwen3-genai"] {
        seeds.extend([4, 24, usize::MAX].map(|nodes| export(name, nodes)));
    }
    // A small tensor in the file itself, and numbers in lists.
    let mut small = ModelProto::decode(&export("llama-inline", 4)[..]).expect("a model that was written");
    for (i, tensor) in small.graph.initializer.iter_mut().enumerate() {
        (tensor.dims, tensor.data_location) = (vec![2, 2], DataLocation::Default.into());
        tensor.external_data.clear();
        match i % 3 {
            0 => (tensor.float_data, tensor.data_type) = (vec![1.0; 4], 1),
            1 => (tensor.int32_data, tensor.data_type) = (vec![1; 4], 10),
            _ => (tensor.raw_data, tensor.data_type) = (vec![0; 8], 16),
        }
    }
    seeds.push(small.encode_to_vec());
    seeds.sort_by_key(Vec::len);
    seeds.extend([2, 9].map(doubling));
    // A whole model is enough of the long ones.
    let whole = export("llama-inline", usize::MAX);
    seeds.retain(|s| s.len() < 8 << 10);
    seeds.push(whole);
    seeds
}

fn mutate(input: &mut Vec<u8>, mutator: &mut Mutator<'_>) {
    if mutator.random.one_in(5) || !mutator.protobuf(input) {
        mutator.bytes(input);
    }
}

fn run(input: &[u8]) -> Outcome {
    write(&FOLDER.join("model.onnx"), input, 0);
    let checkpoint = Checkpoint::open(&*FOLDER).map_err(|e| e.to_string())?;
    let decoder = Decoder::from_checkpoint(checkpoint).map_err(|e| format!("opened, {e}"))?;
    decoder.read("layers.0.mixer_norm.gain").map_err(|e| format!("a decoder, {e}"))?;
    decoder.read("layers.0.qkv").map_err(|e| format!("a decoder, {e}"))?;
    Ok("a decoder".into())
}

fuzz_target!(Target {
    name: "onnx",
    seeds,
    dictionary: &[
        "MatMul",
        "Gemm",
        "Gather",
        "Add",
        "Mul",
        "Transpose",
        "Reshape",
        "Constant",
        "Cast",
        "Identity",
        "Split",
        "If",
        "Loop",
        "MatMulNBits",
        "DequantizeLinear",
        "LayerNormalization",
        "SimplifiedLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "GroupQueryAttention",
        "RotaryEmbedding",
        "com.microsoft",
        "perm",
        "transB",
        "axis",
        "value",
        "location",
        "offset",
        "length",
        "model.onnx.data",
        "../model.onnx.data",
        "model.onnx",
        "-1",
        "4096",
        "1048577",
        "18446744073709551615",
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.layers.0.attn.qkv_proj.MatMul.weight",
        "/model/layers.0/mlp/up_proj/MatMul",
    ],
    mutate,
    most_bytes: 48 << 10,
    run,
});
