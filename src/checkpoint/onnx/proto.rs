//! The file as protobuf, read so that no weight is copied: messages are walked field by field, large byte fields are
//! kept as ranges of the mapped file, and only what is small and flat is parsed with the generated types.
//!
//! Messages within messages are walked here, with a limit on their depth.

use super::messages::{AttributeProto, DataLocation, NodeProto, StringStringEntryProto, TensorProto, ValueInfoProto};
use crate::checkpoint::protobuf::{Field, fields, packed};
use prost::Message;
use prost::encoding::WireType;
use std::ops::Range;

/// Graphs within graphs; real models have two or three.
const MAX_DEPTH: usize = 16;

/// A tensor as the file describes it.
#[derive(Clone, Debug, Default)]
pub(super) struct RawTensor {
    pub(super) name: String,
    pub(super) dims: Vec<i64>,
    pub(super) data_type: i32,
    pub(super) data: RawData,
    /// Its place in the list of all tensors, once there is one.
    pub(super) index: usize,
}

/// Where its numbers are.
#[derive(Clone, Debug, Default)]
pub(super) enum RawData {
    #[default]
    None,
    /// Bytes of the model's file.
    Inline(Range<usize>),
    /// Little-endian numbers that lay in the file in another form.
    Unpacked(Vec<u8>),
    /// Keys and values of `external_data`.
    External(Vec<(String, String)>),
}

/// A node. Its attributes are without tensors and graphs, which are beside them.
#[derive(Clone, Debug, Default)]
pub(super) struct RawNode {
    pub(super) node: NodeProto,
    pub(super) attributes: Vec<AttributeProto>,
    pub(super) metadata: Vec<(String, String)>,
    pub(super) tensors: Vec<(String, RawTensor)>,
    pub(super) graphs: Vec<RawGraph>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct RawGraph {
    pub(super) nodes: Vec<RawNode>,
    pub(super) initializers: Vec<RawTensor>,
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<String>,
    pub(super) sparse: bool,
}

/// A function that nodes may call by domain and name.
#[derive(Clone, Debug, Default)]
pub(super) struct RawFunction {
    pub(super) domain: String,
    pub(super) name: String,
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<String>,
    pub(super) nodes: Vec<RawNode>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct RawModel {
    pub(super) graph: RawGraph,
    pub(super) functions: Vec<RawFunction>,
}

type Parsed<T> = Result<T, String>;

/// Reads a model. Fails with the reason.
pub(super) fn read_model(bytes: &[u8]) -> Parsed<RawModel> {
    let (mut model, mut found) = (RawModel::default(), false);
    fields(bytes, 0..bytes.len(), |field| {
        match field.number {
            7 => {
                model.graph = read_graph(bytes, field.bytes()?, 0)?;
                found = true;
            }
            25 => model.functions.push(read_function(bytes, field.bytes()?)?),
            _ => {}
        }
        Ok(())
    })?;
    if found { Ok(model) } else { Err("it has no graph".into()) }
}

fn read_graph(bytes: &[u8], range: Range<usize>, depth: usize) -> Parsed<RawGraph> {
    if depth > MAX_DEPTH {
        return Err(format!("graphs within graphs deeper than {MAX_DEPTH}"));
    }
    let mut graph = RawGraph::default();
    fields(bytes, range, |field| {
        match field.number {
            1 => graph.nodes.push(read_node(bytes, field.bytes()?, depth)?),
            5 => graph.initializers.push(read_tensor(bytes, field.bytes()?)?),
            11 => graph.inputs.push(read_name(bytes, field.bytes()?)?),
            12 => graph.outputs.push(read_name(bytes, field.bytes()?)?),
            15 => graph.sparse = true,
            _ => {}
        }
        Ok(())
    })?;
    Ok(graph)
}

fn read_function(bytes: &[u8], range: Range<usize>) -> Parsed<RawFunction> {
    let mut function = RawFunction::default();
    fields(bytes, range, |field| {
        match field.number {
            1 => function.name = read_text(bytes, &field)?,
            4 => function.inputs.push(read_text(bytes, &field)?),
            5 => function.outputs.push(read_text(bytes, &field)?),
            7 => function.nodes.push(read_node(bytes, field.bytes()?, 1)?),
            10 => function.domain = read_text(bytes, &field)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(function)
}

fn read_node(bytes: &[u8], range: Range<usize>, depth: usize) -> Parsed<RawNode> {
    let node = parse_flat::<NodeProto>(bytes, range.clone(), &[1, 2, 3, 4, 7, 8])?;
    let mut raw = RawNode { node, ..RawNode::default() };
    fields(bytes, range, |field| {
        match field.number {
            5 => read_attribute(bytes, field.bytes()?, depth, &mut raw)?,
            9 => raw.metadata.push(read_entry(bytes, field.bytes()?)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(raw)
}

fn read_attribute(bytes: &[u8], range: Range<usize>, depth: usize, node: &mut RawNode) -> Parsed<()> {
    let attribute = parse_flat::<AttributeProto>(bytes, range.clone(), &[1, 2, 3, 4, 7, 8, 20, 21])?;
    fields(bytes, range, |field| {
        match field.number {
            5 | 10 => node.tensors.push((attribute.name.clone(), read_tensor(bytes, field.bytes()?)?)),
            6 | 11 => node.graphs.push(read_graph(bytes, field.bytes()?, depth + 1)?),
            _ => {}
        }
        Ok(())
    })?;
    node.attributes.push(attribute);
    Ok(())
}

fn read_tensor(bytes: &[u8], range: Range<usize>) -> Parsed<RawTensor> {
    let flat = parse_flat::<TensorProto>(bytes, range.clone(), &[1, 2, 7, 8, 14])?;
    let (mut raw, mut chunks, mut external) = (None, Vec::new(), Vec::new());
    fields(bytes, range, |field| {
        match field.number {
            // The last one counts, as for every field that is no list.
            9 => raw = Some(field.bytes()?),
            4 | 5 => chunks.push(field),
            13 => external.push(read_entry(bytes, field.bytes()?)?),
            _ => {}
        }
        Ok(())
    })?;
    let external = (flat.data_location() == DataLocation::External || !external.is_empty()).then_some(external);
    let data = match (external, raw) {
        (Some(entries), _) => RawData::External(entries),
        (None, Some(range)) => RawData::Inline(range),
        (None, None) if !flat.int64_data.is_empty() => {
            RawData::Unpacked(flat.int64_data.iter().flat_map(|n| n.to_le_bytes()).collect())
        }
        (None, None) => unpack(bytes, &chunks, flat.data_type)?,
    };
    Ok(RawTensor { name: flat.name, dims: flat.dims, data_type: flat.data_type, data, index: 0 })
}

/// Numbers of `float_data` and `int32_data`: floats lie there as they are, 16-bit floats and integers as varints.
fn unpack(bytes: &[u8], chunks: &[Field], data_type: i32) -> Parsed<RawData> {
    match chunks {
        [] => return Ok(RawData::None),
        [one] if one.number == 4 && one.wire == WireType::LengthDelimited => return Ok(RawData::Inline(one.payload.clone())),
        _ => {}
    }
    let mut data = Vec::new();
    for field in chunks {
        match (field.number, field.wire) {
            (4, WireType::LengthDelimited | WireType::ThirtyTwoBit) => data.extend_from_slice(&bytes[field.payload.clone()]),
            (5, WireType::LengthDelimited | WireType::Varint) => {
                for value in packed(&bytes[field.payload.clone()])? {
                    let value = value as i32;
                    match data_type {
                        // F16 and BF16.
                        10 | 16 => {
                            let bits = u16::try_from(value).map_err(|_| format!("{value} in int32_data is no 16-bit float"))?;
                            data.extend(bits.to_le_bytes());
                        }
                        2 | 3 | 9 => data.push(value as u8),
                        4 | 5 => data.extend((value as u16).to_le_bytes()),
                        _ => data.extend(value.to_le_bytes()),
                    }
                }
            }
            _ => return Err("numbers of a wire type that they do not have".into()),
        }
    }
    Ok(RawData::Unpacked(data))
}

fn read_name(bytes: &[u8], range: Range<usize>) -> Parsed<String> {
    Ok(parse_flat::<ValueInfoProto>(bytes, range, &[1])?.name)
}

fn read_entry(bytes: &[u8], range: Range<usize>) -> Parsed<(String, String)> {
    let entry = parse_flat::<StringStringEntryProto>(bytes, range, &[1, 2])?;
    Ok((entry.key, entry.value))
}

fn read_text(bytes: &[u8], field: &Field) -> Parsed<String> {
    String::from_utf8(bytes[field.bytes()?].to_vec()).map_err(|_| "a name that is not UTF-8".into())
}

/// Parses those fields of a message that are `flat`, no messages themselves.
fn parse_flat<M: Message + Default>(bytes: &[u8], range: Range<usize>, flat: &[u32]) -> Parsed<M> {
    let mut kept = Vec::new();
    fields(bytes, range, |field| {
        if flat.contains(&field.number) {
            kept.extend_from_slice(&bytes[field.whole]);
        }
        Ok(())
    })?;
    M::decode(&kept[..]).map_err(|error| error.to_string())
}

impl RawModel {
    /// All tensors, those of nodes and of graphs within graphs included.
    pub(super) fn tensors_mut(
        &mut self,
        each: &mut impl FnMut(&mut RawTensor) -> Result<(), super::OnnxError>,
    ) -> Result<(), super::OnnxError> {
        self.graph.tensors_mut(each)?;
        self.functions.iter_mut().flat_map(|f| &mut f.nodes).try_for_each(|node| node.tensors_mut(each))
    }
}

impl RawGraph {
    fn tensors_mut(
        &mut self,
        each: &mut impl FnMut(&mut RawTensor) -> Result<(), super::OnnxError>,
    ) -> Result<(), super::OnnxError> {
        self.initializers.iter_mut().try_for_each(&mut *each)?;
        self.nodes.iter_mut().try_for_each(|node| node.tensors_mut(each))
    }
}

impl RawNode {
    fn tensors_mut(
        &mut self,
        each: &mut impl FnMut(&mut RawTensor) -> Result<(), super::OnnxError>,
    ) -> Result<(), super::OnnxError> {
        // A constant is called by what takes it.
        let output = self.node.output.first().cloned().unwrap_or_default();
        for (_, tensor) in &mut self.tensors {
            if tensor.name.is_empty() {
                tensor.name.clone_from(&output);
            }
            each(tensor)?;
        }
        self.graphs.iter_mut().try_for_each(|graph| graph.tensors_mut(each))
    }
}
