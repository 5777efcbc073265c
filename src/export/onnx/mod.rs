//! A folder for programs that run ONNX models by ONNX Runtime: its own GenAI library and transformers.js.
//!
//! | file | read by |
//! | --- | --- |
//! | `onnx/model_q4.onnx` | both: the graph, with what is smaller than a page |
//! | `onnx/model_q4.onnx_data`, `…_data_1`, … | both: the other tensors |
//! | `config.json` | transformers.js: sizes, and under `transformers.js_config` which file has which type |
//! | `genai_config.json` | GenAI: names of inputs and outputs, sizes, tokens |
//! | tokenizer and templates | both |
//!
//! The graph is made of the decoder that the package has, not of a class (`decoder`); `support` refuses what it cannot say. Matrices
//! are written as their codes where an operator has the grid (`matrix`). Before the folder gets its name, `again` reads the model
//! again: every number must be the package's.

mod again;
mod config;
mod data;
mod decoder;
mod graph;
mod matrix;
mod support;

use super::class::Class;
use super::{ExportError, Rounding};
use crate::reference::stored::StoredWeights;
use crate::staging::Folder;
use decoder::Builder;
use graph::{Graph, code};
use haikuq_format::scheme::{Bits, Scheme};
use half::f16;
use prost::Message;

/// What errors call it.
const FORMAT: &str = "onnx";

/// Most bytes of a part. Browsers have no array of 2³¹ bytes.
pub(super) const PART_BYTES: u64 = 2_000_000_000;

/// What a model computes with, between its products and in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnnxFloats {
    /// f32, which every processor has.
    #[default]
    F32,
    /// f16, half as large: for GPUs.
    F16,
}

use OnnxFloats as Floats;

impl OnnxFloats {
    fn code(self) -> i32 {
        match self {
            Self::F32 => code::F32,
            Self::F16 => code::F16,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "FLOAT",
            Self::F16 => "FLOAT16",
        }
    }

    fn bytes(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }

    /// Stores a number, if it has room for it.
    fn store(self, x: f32, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::F32 => out.extend(x.to_le_bytes()),
            Self::F16 => {
                let x = f16::from_f32(x);
                out.extend(x.to_le_bytes());
                return x.is_finite().then_some(());
            }
        }
        Some(())
    }
}

/// What transformers.js calls a type of files, and what it has behind their names.
fn dtype(weights: &StoredWeights, floats: Floats) -> (&'static str, &'static str) {
    let bits = |scheme: Scheme| match scheme {
        Scheme::Grouped(g) if matches!(g.bits, Bits::B3 | Bits::B4) => 4,
        Scheme::Grouped(_) => 8,
        Scheme::F16 | Scheme::F32 => 32,
    };
    let matrices = weights.manifest.tensors.iter().filter(|t| t.shape.len() == 2);
    let least = matrices.map(|t| bits(t.scheme)).min().unwrap_or(32);
    match (least, floats) {
        (4, Floats::F32) => ("q4", "_q4"),
        (4, Floats::F16) => ("q4f16", "_q4f16"),
        (8, Floats::F32) => ("q8", "_quantized"),
        (_, Floats::F16) => ("fp16", "_fp16"),
        _ => ("fp32", ""),
    }
}

/// Why no operator has a scheme's grid, if none has.
pub(super) fn not_held(scheme: Scheme) -> Option<&'static str> {
    matrix::not_held(scheme)
}

/// Refuses a class whose decoder no graph says.
pub(super) fn check(class: &Class) -> Result<(), ExportError> {
    support::check(class.layout.architecture, &class.layout.spec)
}

/// Writes the folder's files, `files` of the package among them. What rounding cost.
pub(super) fn write(
    folder: &mut Folder,
    class: &Class,
    weights: &StoredWeights,
    floats: Floats,
    part_bytes: u64,
    files: &[(String, Vec<u8>)],
) -> Result<Rounding, ExportError> {
    check(class)?;
    let (dtype, behind) = dtype(weights, floats);
    let model_file = format!("model{behind}.onnx");
    let path = format!("onnx/{model_file}");
    let graph = Graph::new(data::Data::new(folder, &path, part_bytes), floats);
    let mut builder = Builder::new(graph, class, weights);
    builder.build()?;
    let Builder { graph, written, .. } = builder;
    let (model, parts) = graph.finish()?;
    folder.write(&path, &model.encode_to_vec())?;
    for (name, bytes) in files {
        folder.write(name, bytes)?;
    }
    folder.write("config.json", &config::of_class(class, dtype, &model_file, parts))?;
    folder.write("genai_config.json", &config::of_genai(class, &path, files))?;
    again::check(&folder.root().join(&path), &written, weights)
}
