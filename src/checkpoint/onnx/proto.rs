//! The file as protobuf, read so that no weight is copied: messages are walked field by field, large byte fields are
//! kept as ranges of the mapped file, and only what is small and flat is parsed with the generated types.
//!
//! Messages within messages are walked here, with a limit on their depth, and groups, which ONNX does not have, are
//! refused: protobuf's own parser follows both as deep as a file wants.

use onnx_protobuf::{AttributeProto, Message, NodeProto, StringStringEntryProto, TensorProto, ValueInfoProto};
use protobuf::CodedInputStream;
use protobuf::rt::WireType;
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

/// One field of a message.
struct Field {
    number: u32,
    wire: WireType,
    /// With its tag.
    whole: Range<usize>,
    /// Of a length-delimited field, what it holds; of others, the value.
    payload: Range<usize>,
}

/// Reads a model. Fails with the reason.
pub(super) fn read_model(bytes: &[u8]) -> Parsed<RawModel> {
    let (mut model, mut found) = (RawModel::default(), false);
    walk(bytes, 0..bytes.len(), |field| {
        match field.number {
            7 => {
                model.graph = read_graph(bytes, field.message()?, 0)?;
                found = true;
            }
            25 => model.functions.push(read_function(bytes, field.message()?)?),
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
    walk(bytes, range, |field| {
        match field.number {
            1 => graph.nodes.push(read_node(bytes, field.message()?, depth)?),
            5 => graph.initializers.push(read_tensor(bytes, field.message()?)?),
            11 => graph.inputs.push(read_name(bytes, field.message()?)?),
            12 => graph.outputs.push(read_name(bytes, field.message()?)?),
            15 => graph.sparse = true,
            _ => {}
        }
        Ok(())
    })?;
    Ok(graph)
}

fn read_function(bytes: &[u8], range: Range<usize>) -> Parsed<RawFunction> {
    let mut function = RawFunction::default();
    walk(bytes, range, |field| {
        match field.number {
            1 => function.name = read_text(bytes, &field)?,
            4 => function.inputs.push(read_text(bytes, &field)?),
            5 => function.outputs.push(read_text(bytes, &field)?),
            7 => function.nodes.push(read_node(bytes, field.message()?, 1)?),
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
    walk(bytes, range, |field| {
        match field.number {
            5 => read_attribute(bytes, field.message()?, depth, &mut raw)?,
            9 => raw.metadata.push(read_entry(bytes, field.message()?)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(raw)
}

fn read_attribute(bytes: &[u8], range: Range<usize>, depth: usize, node: &mut RawNode) -> Parsed<()> {
    let attribute = parse_flat::<AttributeProto>(bytes, range.clone(), &[1, 2, 3, 4, 7, 8, 20, 21])?;
    walk(bytes, range, |field| {
        match field.number {
            5 | 10 => node.tensors.push((attribute.name.clone(), read_tensor(bytes, field.message()?)?)),
            6 | 11 => node.graphs.push(read_graph(bytes, field.message()?, depth + 1)?),
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
    walk(bytes, range, |field| {
        match field.number {
            // The last one counts, as for every field that is no list.
            9 => raw = Some(field.message()?),
            4 | 5 => chunks.push(field),
            13 => external.push(read_entry(bytes, field.message()?)?),
            _ => {}
        }
        Ok(())
    })?;
    let external = (flat.data_location.value() == 1 || !external.is_empty()).then_some(external);
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
            (4, WireType::LengthDelimited | WireType::Fixed32) => data.extend_from_slice(&bytes[field.payload.clone()]),
            (5, WireType::LengthDelimited | WireType::Varint) => {
                let mut stream = CodedInputStream::from_bytes(&bytes[field.payload.clone()]);
                while !stream.eof().map_err(text)? {
                    let value = stream.read_int32().map_err(text)?;
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
    String::from_utf8(bytes[field.message()?].to_vec()).map_err(|_| "a name that is not UTF-8".into())
}

/// Parses those fields of a message that are `flat`, no messages themselves.
fn parse_flat<M: Message>(bytes: &[u8], range: Range<usize>, flat: &[u32]) -> Parsed<M> {
    let mut kept = Vec::new();
    walk(bytes, range, |field| {
        if flat.contains(&field.number) {
            kept.extend_from_slice(&bytes[field.whole]);
        }
        Ok(())
    })?;
    M::parse_from_bytes(&kept).map_err(text)
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

impl Field {
    fn message(&self) -> Parsed<Range<usize>> {
        match self.wire {
            WireType::LengthDelimited => Ok(self.payload.clone()),
            _ => Err(format!("field {} at byte {} has a wire type that it does not have", self.number, self.whole.start)),
        }
    }
}

/// Calls `each` for every field of the message in `range`.
fn walk(bytes: &[u8], range: Range<usize>, mut each: impl FnMut(Field) -> Parsed<()>) -> Parsed<()> {
    let message = &bytes[range.clone()];
    let mut stream = CodedInputStream::from_bytes(message);
    let at = |stream: &CodedInputStream| range.start + stream.pos() as usize;
    loop {
        let start = at(&stream);
        let Some(tag) = stream.read_raw_tag_or_eof().map_err(text)? else { return Ok(()) };
        let wire = WireType::new(tag & 7).ok_or_else(|| format!("unknown wire type {} at byte {start}", tag & 7))?;
        let mut value = at(&stream);
        match wire {
            WireType::LengthDelimited => {
                let length = stream.read_raw_varint64().map_err(text)?;
                value = at(&stream);
                let left = (range.end - value) as u64;
                if length > left {
                    return Err(format!("truncated: a field at byte {start} has {length} bytes, {left} are left"));
                }
                // In pieces, since it counts in 32 bits.
                let mut rest = length;
                while rest > 0 {
                    let now = rest.min(1 << 30) as u32;
                    stream.skip_raw_bytes(now).map_err(text)?;
                    rest -= u64::from(now);
                }
            }
            WireType::Varint | WireType::Fixed32 | WireType::Fixed64 => stream.skip_field(wire).map_err(text)?,
            WireType::StartGroup | WireType::EndGroup => {
                return Err(format!("a group at byte {start}, which ONNX does not have"));
            }
        }
        let end = at(&stream);
        each(Field { number: tag >> 3, wire, whole: start..end, payload: value..end })?;
    }
}

fn text(error: protobuf::Error) -> String {
    error.to_string()
}
