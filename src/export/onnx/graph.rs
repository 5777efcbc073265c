//! [`Graph`]: nodes and tensors of a model while it is written.

use super::super::ExportError;
use super::data::Data;
use super::{FORMAT, Floats};
use crate::checkpoint::onnx_messages::{
    AttributeProto, AttributeType, DataLocation, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use std::collections::BTreeSet;

/// Version of ONNX's own operators, of the format, and of ONNX Runtime's operators: those of ONNX Runtime GenAI's builder.
const VERSIONS: (i64, i64, i64) = (21, 10, 1);

/// Tensors of fewer bytes lie in the model.
const BESIDE: usize = 1 << 10;

/// Numbers of tensors, by their code.
pub(super) mod code {
    pub(in super::super) const F32: i32 = 1;
    pub(in super::super) const U8: i32 = 2;
    pub(in super::super) const I32: i32 = 6;
    pub(in super::super) const I64: i32 = 7;
    pub(in super::super) const F16: i32 = 10;
}

/// Operators of ONNX Runtime's own.
pub(super) const MICROSOFT: &str = "com.microsoft";

/// What an operator is told.
pub(super) enum Told<'a> {
    Int(i64),
    Float(f32),
    Ints(&'a [i64]),
    Text(&'a str),
}

/// A dimension.
pub(super) enum Dimension<'a> {
    Of(usize),
    Called(&'a str),
}

/// A model while it is written.
pub(super) struct Graph<'a> {
    data: Data<'a>,
    /// What activations are.
    pub(super) floats: Floats,
    graph: GraphProto,
    known: BTreeSet<String>,
}

impl<'a> Graph<'a> {
    pub(super) fn new(data: Data<'a>, floats: Floats) -> Self {
        let graph = GraphProto { name: "decoder".into(), ..GraphProto::default() };
        Self { data, floats, graph, known: BTreeSet::new() }
    }

    /// What the model is given.
    pub(super) fn input(&mut self, name: &str, kind: i32, shape: &[Dimension<'_>]) -> String {
        self.graph.input.push(value(name, kind, shape));
        name.into()
    }

    /// What it gives, under the name that a node's output has.
    pub(super) fn output(&mut self, name: &str, kind: i32, shape: &[Dimension<'_>]) {
        self.graph.output.push(value(name, kind, shape));
    }

    /// Adds a node with an output of its own, whose name comes back.
    pub(super) fn node(&mut self, (domain, op): (&str, &str), name: &str, inputs: &[&str], told: &[(&str, Told<'_>)]) -> String {
        let output = format!("{name}/output_0");
        self.node_with((domain, op), name, inputs, vec![output.clone()], told);
        output
    }

    /// Adds a node with these outputs.
    pub(super) fn node_with(
        &mut self,
        (domain, op): (&str, &str),
        name: &str,
        inputs: &[&str],
        output: Vec<String>,
        told: &[(&str, Told<'_>)],
    ) {
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|input| (*input).to_string()).collect(),
            output,
            name: name.into(),
            op_type: op.into(),
            domain: domain.into(),
            attribute: told.iter().map(|(name, told)| attribute(name, told)).collect(),
            ..NodeProto::default()
        });
    }

    /// A node of ONNX's own that is told nothing.
    pub(super) fn plain(&mut self, op: &str, name: &str, inputs: &[&str]) -> String {
        self.node(("", op), name, inputs, &[])
    }

    /// Gives the last node's first output another name.
    pub(super) fn call_last(&mut self, name: &str) {
        if let Some(output) = self.graph.node.last_mut().and_then(|node| node.output.first_mut()) {
            *output = name.into();
        }
    }

    /// Adds a tensor. Those of a few bytes lie in the model.
    pub(super) fn tensor(&mut self, name: &str, dims: &[usize], kind: i32, bytes: Vec<u8>) -> Result<String, ExportError> {
        if !self.known.insert(name.into()) {
            return Ok(name.into());
        }
        let mut tensor = TensorProto {
            name: name.into(),
            dims: dims.iter().map(|n| *n as i64).collect(),
            data_type: kind,
            ..TensorProto::default()
        };
        if bytes.len() < BESIDE {
            tensor.raw_data = bytes;
        } else {
            tensor.external_data = self.data.add(name, &bytes)?;
            tensor.set_data_location(DataLocation::External);
        }
        self.graph.initializer.push(tensor);
        Ok(name.into())
    }

    /// Adds numbers in the type of activations.
    pub(super) fn numbers(&mut self, name: &str, dims: &[usize], numbers: &[f32]) -> Result<String, ExportError> {
        let mut bytes = Vec::with_capacity(numbers.len() * self.floats.bytes());
        for x in numbers {
            self.floats.store(*x, &mut bytes).ok_or_else(|| {
                let largest = half::f16::MAX.to_f32();
                ExportError::Range { tensor: name.into(), number: *x, dtype: "float16", largest }
            })?;
        }
        self.tensor(name, dims, self.floats.code(), bytes)
    }

    /// A number in the type of activations.
    pub(super) fn number(&mut self, x: f32) -> Result<String, ExportError> {
        self.numbers(&format!("/model/constants/{}/{x}", self.floats.name()), &[], &[x])
    }

    /// A list of whole numbers.
    pub(super) fn ints(&mut self, list: &[i64]) -> Result<String, ExportError> {
        let bytes = list.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.tensor(&format!("/model/constants/INT64/{list:?}"), &[list.len()], code::I64, bytes)
    }

    /// A whole number.
    pub(super) fn int(&mut self, n: i64) -> Result<String, ExportError> {
        self.tensor(&format!("/model/constants/INT64/{n}"), &[], code::I64, n.to_le_bytes().to_vec())
    }

    /// The model, and the number of parts beside it.
    pub(super) fn finish(self) -> Result<(ModelProto, usize), ExportError> {
        let parts = self.data.finish()?;
        let (own, format, microsoft) = VERSIONS;
        let operators = |domain: &str, version| OperatorSetIdProto { domain: domain.into(), version };
        let model = ModelProto {
            ir_version: format,
            producer_name: "haikuq".into(),
            producer_version: env!("CARGO_PKG_VERSION").into(),
            graph: self.graph,
            opset_import: vec![operators("", own), operators(MICROSOFT, microsoft)],
            functions: Vec::new(),
        };
        Ok((model, parts))
    }
}

/// An error that names the decoder's part.
pub(super) fn refused(what: impl Into<String>, why: impl Into<String>) -> ExportError {
    ExportError::Refused { what: what.into(), format: FORMAT, why: why.into() }
}

fn attribute(name: &str, told: &Told<'_>) -> AttributeProto {
    let mut out = AttributeProto { name: name.into(), ..AttributeProto::default() };
    match told {
        Told::Int(n) => {
            out.i = *n;
            out.set_type(AttributeType::Int);
        }
        Told::Float(x) => {
            out.f = *x;
            out.set_type(AttributeType::Float);
        }
        Told::Ints(list) => {
            out.ints = list.to_vec();
            out.set_type(AttributeType::Ints);
        }
        Told::Text(text) => {
            out.s = text.as_bytes().to_vec();
            out.set_type(AttributeType::String);
        }
    }
    out
}

fn value(name: &str, elem_type: i32, shape: &[Dimension<'_>]) -> ValueInfoProto {
    let dimension = |dimension: &Dimension<'_>| match dimension {
        Dimension::Of(n) => DimensionProto { dim_value: Some(*n as i64), dim_param: None },
        Dimension::Called(name) => DimensionProto { dim_value: None, dim_param: Some((*name).into()) },
    };
    let shape = Some(TensorShapeProto { dim: shape.iter().map(dimension).collect() });
    let r#type = Some(TypeProto { tensor_type: Some(TensorTypeProto { elem_type, shape }) });
    ValueInfoProto { name: name.into(), r#type }
}
