//! ONNX exports to be changed.

use super::contents;
use haikuq::architecture::Decoder;
use haikuq::checkpoint::Checkpoint;
use haikuq::checkpoint::onnx_messages::{
    AttributeProto, AttributeType, FunctionProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto,
};
use prost::Message;
use std::path::{Path, PathBuf};

/// A model with its graph at hand.
pub struct Model {
    pub graph: GraphProto,
    pub functions: Vec<FunctionProto>,
}

/// A folder with a fixture's export, to be changed.
pub struct Export {
    pub dir: tempfile::TempDir,
    pub model: Model,
}

impl Export {
    pub fn of(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let from = fixture(name);
        for (name, bytes) in contents(&from) {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        let model = ModelProto::decode(&std::fs::read(from.join("model.onnx")).unwrap()[..]).unwrap();
        Self { dir, model: Model { graph: model.graph, functions: model.functions } }
    }

    pub fn changed(name: &str, change: impl FnOnce(&mut Model)) -> Self {
        let mut this = Self::of(name);
        change(&mut this.model);
        this.write();
        this
    }

    pub fn write(&self) {
        let model = ModelProto { graph: self.model.graph.clone(), functions: self.model.functions.clone(), ..Default::default() };
        std::fs::write(self.path("model.onnx"), model.encode_to_vec()).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn refusal(&self) -> String {
        refusal(self.dir.path())
    }

    /// Panics unless the weights are those of the fixture that it was made from.
    #[track_caller]
    pub fn assert_still(&self, name: &str) {
        assert_same_weights(self.dir.path(), &fixture(name));
    }
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/fixtures/onnx").join(name)
}

pub fn open(path: &Path) -> Result<Decoder, String> {
    let checkpoint = Checkpoint::open(path).map_err(|e| e.to_string())?;
    Decoder::from_checkpoint(checkpoint).map_err(|e| e.to_string())
}

pub fn refusal(path: &Path) -> String {
    open(path).expect_err("a refusal")
}

#[track_caller]
pub fn assert_same_weights(a: &Path, b: &Path) {
    let (a, b) = (open(a).unwrap(), open(b).unwrap());
    assert_eq!(a.spec, b.spec);
    for tensor in a.spec.tensors() {
        assert!(a.read(&tensor.name).unwrap() == b.read(&tensor.name).unwrap(), "{}", tensor.name);
    }
}

pub fn tensor<'a>(graph: &'a mut GraphProto, name: &str) -> &'a mut TensorProto {
    graph.initializer.iter_mut().find(|t| t.name == name).expect("a tensor of the fixture")
}

pub fn node<'a>(graph: &'a mut GraphProto, name: &str) -> &'a mut NodeProto {
    graph.node.iter_mut().find(|n| n.name == name).expect("a node of the fixture")
}

pub fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: key.into(), value: value.into() }
}

pub fn set_external(tensor: &mut TensorProto, key: &str, value: &str) {
    tensor.external_data.retain(|e| e.key != key);
    tensor.external_data.push(entry(key, value));
}

pub fn float_tensor(name: &str, dims: &[i64], value: f32) -> TensorProto {
    let count = dims.iter().product::<i64>() as usize;
    let raw_data = value.to_le_bytes().repeat(count);
    TensorProto { name: name.into(), dims: dims.to_vec(), data_type: 1, raw_data, ..Default::default() }
}

pub fn new_node(op: &str, name: &str, inputs: &[&str], output: &str) -> NodeProto {
    let input = inputs.iter().map(|i| (*i).to_string()).collect();
    NodeProto { op_type: op.into(), name: name.into(), input, output: vec![output.into()], ..Default::default() }
}

pub fn int_attribute(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i, r#type: AttributeType::Int.into(), ..Default::default() }
}

/// The first query projection of `llama-inline`.
pub const QUERY: &str = "val_130";
