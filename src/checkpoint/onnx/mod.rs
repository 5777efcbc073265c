//! ONNX exports as checkpoints: initializers become the tensors that the model family has in transformers.
//!
//! An export says what is calculated, not which weight is which. Exporters fold a transposition into a weight and call
//! it `val_130`, join queries, keys and values, add Gemma's 1 to a gain, store a tied head once or twice. So the graph
//! decides, and a model is refused if its graph leaves anything open:
//!
//! 1. [`proto`] reads the file without copying weights, [`stored`] finds and checks every tensor's bytes, in the file or
//!    beside it, [`graph`] makes one flat graph.
//! 2. [`uses`] follows each tensor to the nodes that calculate with it. A matrix product says which dimension is outputs
//!    (so a square matrix is turned right), a lookup which is rows, an addition of 1 on the way to a norm that the gain is
//!    stored without it.
//! 3. The family's own list ([`super::Wanted`], made from the config by `crate::architecture`, so that nothing here knows a
//!    family and no family knows ONNX) is filled: first by name ([`names`]), that is by the module scopes that PyTorch
//!    writes beside nodes, by node names such as `/model/layers.0/mlp/up_proj/MatMul`, by the tensors' own names, or by
//!    those that ONNX Runtime GenAI's builder has for the same modules; then by structure, where exactly one tensor has
//!    the use and the shape of a weight and could be no other ([`identify`]). Parameters that are no module's weight are
//!    looked for in the module that has them, and experts in one tensor of each kind are taken apart. [`assemble`] says how each is read.
//! 4. A weight that two tensors could be, a tensor whose name and node disagree, a tied head that differs from the
//!    embedding, a weight that nothing asks for: each is an error that names both sides.

mod assemble;
mod error;
mod graph;
mod identify;
pub mod messages;
mod names;
mod proto;
mod stored;
mod uses;

pub use error::OnnxError;

use super::file::MappedFile;
use super::tensor::TensorInfo;
use super::{CheckpointError, Wanted, Weights};
use graph::Graph;
use proto::{RawGraph, RawModel, RawNode};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use stored::{Files, Stored};

const MODEL_FILE: &str = "model.onnx";
/// Where repositories keep their exports.
const FOLDER: &str = "onnx";
const CONFIG_FILE: &str = "config.json";

/// An opened model whose tensors have no names yet.
#[derive(Debug)]
pub(super) struct Model {
    file: String,
    raw: RawModel,
    stored: Vec<Stored>,
}

/// The model at `path`: a `.onnx` file, or a folder with `model.onnx`, one `.onnx` file or a folder `onnx` with either.
pub(super) fn find(path: &Path) -> Result<Option<PathBuf>, OnnxError> {
    let is_model = |path: &Path| path.extension().is_some_and(|e| e == "onnx") && path.is_file();
    if !path.is_dir() {
        return Ok(is_model(path).then(|| path.to_path_buf()));
    }
    for folder in [path.to_path_buf(), path.join(FOLDER)] {
        let mut models: Vec<PathBuf> =
            folder.read_dir().into_iter().flatten().flatten().map(|e| e.path()).filter(|p| is_model(p)).collect();
        models.sort();
        let usual = folder.join(MODEL_FILE);
        match &models[..] {
            [] => {}
            _ if models.contains(&usual) => return Ok(Some(usual)),
            [one] => return Ok(Some(one.clone())),
            _ => {
                let names: Vec<_> = models.iter().filter_map(|m| m.file_name()).map(|n| n.to_string_lossy()).collect();
                return Err(OnnxError::Several { path: folder, names: names.join(", ") });
            }
        }
    }
    Ok(None)
}

/// Folders whose config and tokenizer belong to a model: its own, and the one that its folder `onnx` is in.
pub(super) fn folders(model: &Path) -> Vec<PathBuf> {
    let own = match model.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    // The name may be hidden behind a path such as `.`.
    let name = own.canonicalize().ok().and_then(|p| p.file_name().map(|n| n == FOLDER));
    let above = (name == Some(true)).then(|| match own.file_name() {
        Some(_) => own.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf(),
        None => own.join(".."),
    });
    std::iter::once(own).chain(above).collect()
}

/// The config that belongs to a model.
pub(super) fn config(model: &Path) -> Result<PathBuf, OnnxError> {
    let folders = folders(model);
    let found = folders.iter().map(|folder| folder.join(CONFIG_FILE)).find(|config| config.is_file());
    found.ok_or_else(|| OnnxError::NoConfig { path: folders[0].clone(), genai: folders[0].join("genai_config.json").is_file() })
}

/// Opens a model: all lengths and places are checked, also of the files beside it; no weight is read, and none has its
/// name until [`Model::identify`].
pub(super) fn open(path: &Path) -> Result<(Weights, Model), CheckpointError> {
    let mut files = Files::open(path)?;
    let file = files.name().to_string();
    let format = |why: String| OnnxError::Format { file: file.clone(), why };
    let raw = proto::read_model(files.mapped[0].bytes());
    files.mapped[0].check()?;
    let mut raw = raw.map_err(format)?;
    refuse_operators(&file, &raw)?;
    let mut stored = Vec::new();
    raw.tensors_mut(&mut |tensor| {
        stored.push(files.store(tensor)?);
        tensor.index = stored.len() - 1;
        Ok(())
    })?;
    files.check_overlaps()?;
    let mapped = files.mapped;
    mapped.iter().try_for_each(MappedFile::check)?;
    let sources = mapped.iter().map(MappedFile::source).collect();
    Ok((Weights { files: mapped, tensors: BTreeMap::new(), sources }, Model { file, raw, stored }))
}

impl Model {
    /// Finds every tensor that is wanted.
    pub(super) fn identify(
        &self,
        files: &[MappedFile],
        wanted: &Wanted,
    ) -> Result<BTreeMap<String, TensorInfo>, CheckpointError> {
        let graph = Graph::new(&self.raw).map_err(|why| OnnxError::Format { file: self.file.clone(), why })?;
        identify::identify(&self.file, &graph, &self.stored, files, wanted)
    }
}

/// Operators that calculate with quantized weights, and tensors that are stored in a form that nothing here reads.
fn refuse_operators(file: &str, model: &RawModel) -> Result<(), OnnxError> {
    fn quantized(op: &str) -> bool {
        let parts = ["NBits", "Bnb4", "Quant", "QLinear", "MatMulInteger", "ConvInteger", "QMoE", "QAttention", "QGemm"];
        // The activations' own rounding says nothing of the weights, but no full-precision export has it.
        parts.iter().any(|part| op.contains(part)) || op == "DequantizeLinear"
    }
    fn nodes<'a>(list: &'a [RawNode], found: &mut Option<&'a RawNode>, sparse: &mut bool) {
        for node in list {
            if quantized(&node.node.op_type) && found.is_none() {
                *found = Some(node);
            }
            node.graphs.iter().for_each(|g| graph(g, found, sparse));
        }
    }
    fn graph<'a>(graph: &'a RawGraph, found: &mut Option<&'a RawNode>, sparse: &mut bool) {
        *sparse |= graph.sparse;
        nodes(&graph.nodes, found, sparse);
    }
    let (mut found, mut sparse) = (None, false);
    graph(&model.graph, &mut found, &mut sparse);
    model.functions.iter().for_each(|f| nodes(&f.nodes, &mut found, &mut sparse));
    if let Some(node) = found {
        let what = format!("it has {} nodes, such as {}", node.node.op_type, node.node.name);
        return Err(OnnxError::Quantized { file: file.into(), what });
    }
    if sparse {
        return Err(OnnxError::Format { file: file.into(), why: "it has sparse initializers".into() });
    }
    Ok(())
}
