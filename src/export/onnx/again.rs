//! Reads a model again: its nodes must have what they take, and its tensors the package's numbers.

use super::super::{ExportError, Rounding};
use super::decoder::Written;
use super::graph::{code, refused};
use crate::checkpoint::onnx_messages::{ModelProto, TensorProto};
use crate::reference::stored::StoredWeights;
use haikuq_files::{Mapped, open_regular};
use half::f16;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// What the model's numbers differ by from the package's; beyond rounding to f16 they may not.
pub(super) fn check(path: &Path, written: &[Written], weights: &StoredWeights) -> Result<Rounding, ExportError> {
    let bytes = fs::read(path).map_err(ExportError::io(path))?;
    let bad = |why: String| refused(path.display().to_string(), why);
    let model = ModelProto::decode(bytes.as_slice()).map_err(|e| bad(e.to_string()))?;
    links(&model).map_err(bad)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let tensors = Tensors::open(folder, &model)?;
    let mut rounding = Rounding::default();
    for tensor in written {
        let columns = weights.manifest.tensor(&tensor.canonical).and_then(|t| t.shape.get(1).copied()).unwrap_or(1);
        let found = tensors.numbers(tensor, columns).ok_or_else(|| bad(format!("{} is not read again", tensor.name)))?;
        let expected = tensor.rows.of(&weights.read(&tensor.canonical)?, columns);
        if found.len() != expected.len() {
            return Err(bad(format!("{} has {} numbers, not {}", tensor.name, found.len(), expected.len())));
        }
        for (found, expected) in found.iter().zip(&expected) {
            let off = (found - expected).abs();
            if off > expected.abs() * 1e-3 + 1e-6 || (off > 0.0 && tensors.exact) {
                return Err(bad(format!("{} has {found:e} for {expected:e}", tensor.name)));
            }
            rounding.add(*expected, *found);
        }
    }
    Ok(rounding)
}

/// Whether every node takes what is there before it, and every output is made.
fn links(model: &ModelProto) -> Result<(), String> {
    let graph = &model.graph;
    let given = graph.input.iter().map(|input| &input.name).chain(graph.initializer.iter().map(|tensor| &tensor.name));
    let mut known: BTreeSet<&str> = given.map(String::as_str).collect();
    for node in &graph.node {
        if let Some(missing) = node.input.iter().find(|name| !name.is_empty() && !known.contains(name.as_str())) {
            return Err(format!("node {} takes {missing}, which nothing makes", node.name));
        }
        for output in node.output.iter().filter(|name| !name.is_empty()) {
            if !known.insert(output) {
                return Err(format!("{output} is made twice"));
            }
        }
    }
    match graph.output.iter().find(|output| !known.contains(output.name.as_str())) {
        Some(missing) => Err(format!("nothing makes its output {}", missing.name)),
        None => Ok(()),
    }
}

/// A model's tensors.
struct Tensors<'a> {
    by_name: BTreeMap<&'a str, &'a TensorProto>,
    parts: BTreeMap<&'a str, Mapped>,
    /// Whether nothing is in f16 that the package has in f32.
    exact: bool,
}

impl<'a> Tensors<'a> {
    fn open(folder: &Path, model: &'a ModelProto) -> Result<Self, ExportError> {
        let mut parts = BTreeMap::new();
        for location in model.graph.initializer.iter().filter_map(|tensor| external(tensor, "location")) {
            if !parts.contains_key(location) {
                let path = folder.join(location);
                let map = open_regular(&path).and_then(|file| Mapped::new(&file)).map_err(ExportError::io(&path))?;
                parts.insert(location, map);
            }
        }
        let halves = |value: &crate::checkpoint::onnx_messages::ValueInfoProto| {
            value.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).is_some_and(|t| t.elem_type == code::F16)
        };
        let by_name = model.graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        Ok(Self { by_name, parts, exact: !model.graph.output.iter().any(halves) })
    }

    fn bytes(&self, tensor: &'a TensorProto) -> Option<&[u8]> {
        let Some(location) = external(tensor, "location") else { return Some(&tensor.raw_data) };
        let number = |key: &str| external(tensor, key)?.parse::<usize>().ok();
        let begin = number("offset")?;
        self.parts.get(location)?.bytes().get(begin..begin + number("length")?)
    }

    fn floats(&self, name: &str) -> Option<Vec<f32>> {
        let tensor = self.by_name.get(name)?;
        let bytes = self.bytes(tensor)?;
        match tensor.data_type {
            code::F32 => Some(bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect()),
            code::F16 => Some(bytes.as_chunks().0.iter().map(|x| f16::from_le_bytes(*x).to_f32()).collect()),
            _ => None,
        }
    }

    /// A tensor's numbers in the package's order: row after row, without what fills up blocks.
    fn numbers(&self, written: &Written, columns: usize) -> Option<Vec<f32>> {
        if let Some(tensor) = self.by_name.get(written.name.as_str()) {
            let numbers = self.floats(&written.name)?;
            let rows = match tensor.dims[..] {
                [_, rows] if written.transposed => rows as usize,
                _ => return Some(numbers),
            };
            let at = |row: usize| (0..columns).map(move |column| column * rows + row);
            return Some((0..rows).flat_map(at).map(|i| numbers[i]).collect());
        }
        let (bits, codes) = [4, 8].into_iter().find_map(|bits: u32| {
            let tensor = self.by_name.get(format!("{}_Q{bits}", written.name).as_str())?;
            Some((bits, *tensor))
        })?;
        let [rows, blocks, blob] = codes.dims[..] else { return None };
        let (rows, blocks, block) = (rows as usize, blocks as usize, blob as usize * 8 / bits as usize);
        let scales = self.floats(&format!("{}_scales", written.name))?;
        let zeros = self.by_name.get(format!("{}_zp", written.name).as_str()).and_then(|tensor| self.bytes(tensor));
        let code = |bytes: &[u8], i: usize| match bits {
            8 => bytes[i],
            _ => bytes[i / 2] >> (4 * (i % 2)) & 15,
        };
        let zero = |row: usize, b: usize| match zeros {
            Some(zeros) => code(&zeros[row * zeros.len() / rows..], b),
            None => 1 << (bits - 1),
        };
        let bytes = self.bytes(codes)?;
        let at = |row: usize, column: usize| {
            let b = column / block;
            let code = code(&bytes[row * blocks * blob as usize..], column);
            (f32::from(code) - f32::from(zero(row, b))) * scales[row * blocks + b]
        };
        Some((0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))).map(|(r, c)| at(r, c)).collect())
    }
}

fn external<'a>(tensor: &'a TensorProto, key: &str) -> Option<&'a str> {
    tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
}
