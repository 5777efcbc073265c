//! ONNX exports give the models that they were made from: every folder under `tests/fixtures/onnx`, whoever exported it,
//! computes what transformers computes, and becomes the same shards as the safetensors checkpoint. Whatever is open,
//! damaged or hostile is refused with words of its own.
//!
//! `HAIKUQ_ONNX_EXPORTS` may name another folder of exports (`tests/fixtures/onnx/make.py` makes them) to be tested too.

mod common;
mod support;

use common::expected::{assert_reference_agrees, folders};
use haikuq::architecture::Decoder;
use haikuq::checkpoint::Checkpoint;
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{
    AttributeProto, FunctionProto, GraphProto, Message, ModelProto, NodeProto, StringStringEntryProto, TensorProto,
    ValueInfoProto,
};
use std::path::{Path, PathBuf};
use support::{contents, convert, succeed};

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
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/architectures").join(name);
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
    succeed(convert(checkpoint, &folder.path().join("package"), &["--recipe", "q4", "--quiet"]));
    let all = contents(&folder.path().join("package"));
    all.into_iter().filter(|(name, _)| name.extension().is_some_and(|e| e != "json" && e != "jinja")).collect()
}

#[test]
fn every_export_becomes_the_shards_of_its_safetensors_original() {
    let mut compared = 0;
    for export in exports().iter().filter(|e| is_full_precision(e)) {
        let Some(original) = original(export) else { continue };
        let (a, b) = (shards(export), shards(&original));
        assert!(!a.is_empty());
        assert!(a == b, "{} and {} differ", export.display(), original.display());
        compared += 1;
    }
    assert!(compared >= 3);
}

/// A model with its graph at hand.
struct Model {
    graph: GraphProto,
    functions: Vec<FunctionProto>,
}

/// A folder with a fixture's export, to be changed.
struct Export {
    dir: tempfile::TempDir,
    model: Model,
}

impl Export {
    fn of(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let from = fixture(name);
        for (name, bytes) in contents(&from) {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        let mut model = ModelProto::parse_from_bytes(&std::fs::read(from.join("model.onnx")).unwrap()).unwrap();
        Self { dir, model: Model { graph: model.graph.take().unwrap(), functions: model.functions } }
    }

    fn changed(name: &str, change: impl FnOnce(&mut Model)) -> Self {
        let mut this = Self::of(name);
        change(&mut this.model);
        this.write();
        this
    }

    fn write(&self) {
        let (graph, functions) = (Some(self.model.graph.clone()).into(), self.model.functions.clone());
        let model = ModelProto { graph, functions, ..ModelProto::default() };
        std::fs::write(self.path("model.onnx"), model.write_to_bytes().unwrap()).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn refusal(&self) -> String {
        refusal(self.dir.path())
    }

    /// Panics unless the weights are those of the fixture that it was made from.
    #[track_caller]
    fn assert_still(&self, name: &str) {
        assert_same_weights(self.dir.path(), &fixture(name));
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/onnx").join(name)
}

fn open(path: &Path) -> Result<Decoder, String> {
    let checkpoint = Checkpoint::open(path).map_err(|e| e.to_string())?;
    Decoder::from_checkpoint(checkpoint).map_err(|e| e.to_string())
}

fn refusal(path: &Path) -> String {
    open(path).err().expect("a refusal")
}

#[track_caller]
fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

#[track_caller]
fn assert_same_weights(a: &Path, b: &Path) {
    let (a, b) = (open(a).unwrap(), open(b).unwrap());
    assert_eq!(a.spec, b.spec);
    for tensor in a.spec.tensors() {
        assert!(a.read(&tensor.name).unwrap() == b.read(&tensor.name).unwrap(), "{}", tensor.name);
    }
}

fn tensor<'a>(graph: &'a mut GraphProto, name: &str) -> &'a mut TensorProto {
    graph.initializer.iter_mut().find(|t| t.name == name).expect("a tensor of the fixture")
}

fn node<'a>(graph: &'a mut GraphProto, name: &str) -> &'a mut NodeProto {
    graph.node.iter_mut().find(|n| n.name == name).expect("a node of the fixture")
}

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: key.into(), value: value.into(), ..Default::default() }
}

fn set_external(tensor: &mut TensorProto, key: &str, value: &str) {
    tensor.external_data.retain(|e| e.key != key);
    tensor.external_data.push(entry(key, value));
}

fn float_tensor(name: &str, dims: &[i64], value: f32) -> TensorProto {
    let count = dims.iter().product::<i64>() as usize;
    let raw_data = value.to_le_bytes().repeat(count);
    TensorProto { name: name.into(), dims: dims.to_vec(), data_type: 1, raw_data, ..Default::default() }
}

fn new_node(op: &str, name: &str, inputs: &[&str], output: &str) -> NodeProto {
    let input = inputs.iter().map(|i| (*i).to_string()).collect();
    NodeProto { op_type: op.into(), name: name.into(), input, output: vec![output.into()], ..Default::default() }
}

fn int_attribute(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i, type_: AttributeType::INT.into(), ..Default::default() }
}

/// The first query projection of `llama-inline`.
const QUERY: &str = "val_130";

// ---- What exports may look like ----

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
        let alpha = AttributeProto { name: "alpha".into(), f: 0.5, type_: AttributeType::FLOAT.into(), ..Default::default() };
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
            ..Default::default()
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
        let t = Some(value).into();
        constant.attribute.push(AttributeProto {
            name: "value".into(),
            t,
            type_: AttributeType::TENSOR.into(),
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
            AttributeProto { name: name.into(), g: Some(g).into(), type_: AttributeType::GRAPH.into(), ..Default::default() }
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

// ---- What is refused ----

#[test]
fn weights_without_names_or_scopes_are_refused_with_what_they_could_be() {
    let export = Export::changed("llama-inline", |model| {
        model.graph.node.iter_mut().for_each(|n| n.metadata_props.clear());
    });
    let said = export.refusal();
    assert_says(
        &said,
        &["cannot tell which tensor is model.layers.0.self_attn", "could be", "val_130 [64, 64], taken by MatMul node_linear"],
    );
    assert_says(&said, &["Export the model again", "safetensors"]);
}

#[test]
fn a_tensor_whose_name_and_node_disagree_is_refused() {
    let export = Export::changed("llama-inline", |model| {
        let name = "model.layers.1.self_attn.k_proj.weight";
        tensor(&mut model.graph, "val_137").name = name.into();
        node(&mut model.graph, "node_linear_1").input[1] = name.into();
    });
    let said = export.refusal();
    assert_says(&said, &["model.layers.1.self_attn.k_proj.weight", "its node is of model.layers.0.self_attn.k_proj.weight"]);
}

#[test]
fn two_different_tensors_for_one_weight_are_refused() {
    let export = Export::changed("llama-inline", |model| {
        let scope = node(&mut model.graph, "node_linear_1").metadata_props.clone();
        node(&mut model.graph, "node_linear_2").metadata_props = scope;
    });
    assert_says(
        &export.refusal(),
        &["model.layers.0.self_attn.k_proj.weight: tensors that differ", "val_137 [64, 32]", "val_144"],
    );
}

#[test]
fn a_weight_that_nothing_asks_for_is_refused() {
    let export = Export::changed("llama-inline", |model| {
        model.graph.initializer.push(float_tensor("lora", &[64, 8], 0.5));
        model.graph.node.push(new_node("MatMul", "extra", &["embedding", "lora"], "lost"));
    });
    assert_says(&export.refusal(), &["tensor lora [64, 8] (MatMul extra) is none of the weights"]);
    let export = Export::changed("llama-inline", |model| model.graph.initializer.push(float_tensor("lost", &[64, 8], 0.5)));
    assert_says(&export.refusal(), &["tensor lost [64, 8] (nothing takes it)"]);
    let export = Export::changed("llama-inline", |model| {
        let output = std::mem::replace(&mut node(&mut model.graph, "node_linear").output[0], "product".into());
        model.graph.node.push(new_node("Add", "extra", &["product", "bias"], &output));
        model.graph.initializer.push(float_tensor("bias", &[64], 0.5));
    });
    assert_says(&export.refusal(), &["tensor bias [64] (Add extra)"]);
}

#[test]
fn a_tied_head_that_differs_is_refused_and_an_equal_copy_is_not() {
    let with_copy = |value: Option<f32>| {
        Export::changed("llama-inline", |model| {
            let mut copy = tensor(&mut model.graph, "lm_head.weight").clone();
            copy.name = "copy".into();
            if let Some(value) = value {
                copy.raw_data[4 * 64 * 7..][..4].copy_from_slice(&value.to_le_bytes());
            }
            model.graph.initializer.push(copy);
            node(&mut model.graph, "node_Transpose_384").input[0] = "copy".into();
        })
    };
    with_copy(None).assert_still("llama-inline");
    assert_says(
        &with_copy(Some(9.0)).refusal(),
        &["the config says that lm_head.weight is model.embed_tokens.weight", "copy", "row 7"],
    );
}

#[test]
fn quantized_exports_are_refused_as_such() {
    let export = Export::changed("llama-inline", |model| {
        let product = node(&mut model.graph, "node_linear");
        (product.op_type, product.domain) = ("MatMulNBits".into(), "com.microsoft".into());
    });
    assert_says(&export.refusal(), &["quantized already", "MatMulNBits nodes, such as node_linear"]);
    let export = Export::changed("llama-inline", |model| {
        let query = tensor(&mut model.graph, QUERY);
        (query.data_type, query.raw_data) = (3, vec![1; 64 * 64]);
        query.name = "packed".into();
        model.graph.node.insert(0, new_node("Cast", "", &["packed"], QUERY));
    });
    assert_says(&export.refusal(), &["quantized already", "tensor packed holds I8 numbers"]);
}

#[test]
fn number_formats_that_weights_do_not_have_are_refused() {
    for (data_type, label) in [(11, "F64"), (99, "unknown (99)")] {
        let export = Export::changed("llama-inline", |model| tensor(&mut model.graph, QUERY).data_type = data_type);
        let said = export.refusal();
        assert!(said.contains(label) || said.contains("quantized"), "{said}");
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused_with_numbers() {
    let with_dims =
        |dims: &[i64]| Export::changed("llama-inline", |m| tensor(&mut m.graph, QUERY).dims = dims.to_vec()).refusal();
    assert_says(&with_dims(&[64, 65]), &["tensor val_130: shape [64, 65] of F32 takes 16640 bytes, it has 16384"]);
    assert_says(&with_dims(&[64, -64]), &["tensor val_130: shape [64, -64] is beyond all bounds"]);
    assert_says(&with_dims(&[i64::MAX, i64::MAX]), &["beyond all bounds"]);
    assert_says(&with_dims(&[128, 32]), &["model.layers.0.self_attn.q_proj.weight has shape [32, 128]", "[64, 64]"]);
}

#[test]
fn external_data_stays_in_its_folder() {
    let at = |location: &str| {
        Export::changed("qwen3-genai", |m| set_external(tensor(&mut m.graph, "lm_head.MatMul.weight"), "location", location))
            .refusal()
    };
    for location in ["../model.onnx.data", "/etc/passwd", "a/../../x", "C:\\x", "C:x", "..\\x", "a\\b", "", ".."] {
        assert_says(&at(location), &["tensor lm_head.MatMul.weight is said to lie in", "plain path within the model's folder"]);
    }
    assert_says(&at("missing.data"), &["\"missing.data\": cannot read", "missing.data"]);
    assert_says(&at("."), &["it is no file"]);
}

#[test]
fn external_data_beyond_its_file_or_on_each_other_is_refused() {
    let with = |key: &str, value: &str| {
        Export::changed("qwen3-genai", |m| set_external(tensor(&mut m.graph, "lm_head.MatMul.weight"), key, value)).refusal()
    };
    assert_says(&with("length", "81916"), &["takes 81920 bytes, it has 81916"]);
    assert_says(&with("length", "18446744073709551615"), &["18446744073709551615 bytes from byte", "the file has 460288"]);
    assert_says(&with("offset", "460284"), &["81920 bytes from byte 460284 on are wanted, the file has 460288"]);
    assert_says(&with("offset", "-1"), &["offset \"-1\" is no number of bytes"]);
    assert_says(&with("offset", "0"), &["inside tensor"]);
    assert_says(&with("checksum", &"0".repeat(40)), &["its SHA-1 is", "the model says 0000"]);
}

#[test]
#[cfg(unix)]
fn links_lead_no_further_than_the_folder_or_the_blobs_of_the_same_cache() {
    use std::os::unix::fs::symlink;
    let outside = tempfile::tempdir().unwrap();
    let export = Export::of("qwen3-genai");
    let data = std::fs::read(export.path("model.onnx.data")).unwrap();
    std::fs::write(outside.path().join("data"), &data).unwrap();
    std::fs::remove_file(export.path("model.onnx.data")).unwrap();
    symlink(outside.path().join("data"), export.path("model.onnx.data")).unwrap();
    assert_says(&export.refusal(), &["it leads to", "outside of the model's folder"]);
    std::fs::remove_file(export.path("model.onnx.data")).unwrap();
    std::fs::write(export.path("weights"), &data).unwrap();
    symlink("weights", export.path("model.onnx.data")).unwrap();
    export.assert_still("qwen3-genai");

    // models--o--n/snapshots/revision/model.onnx is a link to models--o--n/blobs/hash.
    let cache = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (cache.path().join("models--o--n/blobs"), cache.path().join("models--o--n/snapshots/0123"));
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    for (i, (name, bytes)) in contents(&fixture("qwen3-genai")).into_iter().enumerate() {
        std::fs::write(blobs.join(i.to_string()), bytes).unwrap();
        symlink(format!("../../blobs/{i}"), snapshot.join(name)).unwrap();
    }
    assert_same_weights(&snapshot, &fixture("qwen3-genai"));
    // Another repository's blobs are not its own.
    let other = cache.path().join("models--o--other/blobs");
    std::fs::create_dir_all(&other).unwrap();
    std::fs::write(other.join("data"), &data).unwrap();
    std::fs::remove_file(snapshot.join("model.onnx.data")).unwrap();
    symlink(other.join("data"), snapshot.join("model.onnx.data")).unwrap();
    assert_says(&refusal(&snapshot), &["it leads to", "outside of the model's folder"]);
    // Blobs are none of a model that is no link itself.
    std::fs::remove_file(snapshot.join("model.onnx.data")).unwrap();
    std::fs::write(blobs.join("data"), &data).unwrap();
    symlink("../../blobs/data", snapshot.join("model.onnx.data")).unwrap();
    assert_same_weights(&snapshot, &fixture("qwen3-genai"));
    std::fs::remove_file(snapshot.join("model.onnx")).unwrap();
    std::fs::copy(fixture("qwen3-genai").join("model.onnx"), snapshot.join("model.onnx")).unwrap();
    assert_says(&refusal(&snapshot), &["outside of the model's folder"]);
}

#[test]
fn no_damage_makes_it_panic() {
    let export = Export::of("llama-inline");
    let good = std::fs::read(export.path("model.onnx")).unwrap();
    let try_with = |bytes: &[u8]| {
        std::fs::write(export.path("model.onnx"), bytes).unwrap();
        open(export.dir.path()).err()
    };
    for length in [0, 1, 7, 8, 9, 100, 1000, good.len() / 3, good.len() / 2, good.len() - 100, good.len() - 1] {
        let said = try_with(&good[..length]).expect("a refusal");
        assert!(said.contains("model.onnx"), "{said}");
    }
    assert_says(&try_with(&[0xff; 64]).unwrap(), &["is not an ONNX model that can be read"]);
    // Bytes that say how long things are, turned over.
    let mut state = 1u64;
    for _ in 0..300 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut bytes = good.clone();
        let at = (state >> 33) as usize % bytes.len();
        bytes[at] ^= 1 << (state >> 20 & 7);
        bytes[at / 8] ^= 0x80;
        try_with(&bytes);
    }
}

#[test]
fn nesting_without_end_is_refused() {
    let nested = |depth: usize| {
        let mut graph = GraphProto::default();
        for _ in 0..depth {
            let mut inner = new_node("If", "", &[], "y");
            let g = Some(std::mem::take(&mut graph)).into();
            inner.attribute.push(AttributeProto {
                name: "then_branch".into(),
                g,
                type_: AttributeType::GRAPH.into(),
                ..Default::default()
            });
            graph.node.push(inner);
        }
        Export::changed("llama-inline", |model| model.graph.node.extend(graph.node)).refusal()
    };
    assert_says(&nested(40), &["graphs within graphs deeper than 16"]);
    // A function that calls itself, and functions that call the next one twice.
    let calls = |name: &str, next: &str| FunctionProto {
        name: name.into(),
        domain: "local".into(),
        node: vec![NodeProto { domain: "local".into(), ..new_node(next, "", &[], "y") }; 2],
        ..Default::default()
    };
    let export = Export::changed("llama-inline", |model| {
        model.functions.push(calls("f", "f"));
        model.graph.node.push(NodeProto { domain: "local".into(), ..new_node("f", "", &[], "y") });
    });
    assert_says(&export.refusal(), &["functions within functions deeper than 32, at f"]);
    let export = Export::changed("llama-inline", |model| {
        model.functions.extend((0..30).map(|i| calls(&format!("f{i}"), &format!("f{}", i + 1))));
        model.graph.node.push(NodeProto { domain: "local".into(), ..new_node("f0", "", &[], "y") });
    });
    assert_says(&export.refusal(), &["call each other more than"]);
    // Groups, which protobuf's own parser follows as deep as they go.
    let mut bytes = vec![0x0b; 100_000];
    bytes.extend(vec![0x0c; 100_000]);
    std::fs::write(export.path("model.onnx"), bytes).unwrap();
    assert_says(&export.refusal(), &["a group at byte 0"]);
}
