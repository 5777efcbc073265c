//! The graph, flat: functions are written out where they are called, and the branches of conditions lie beside each
//! other, so that a weight can be followed to what takes it.

use super::proto::{RawFunction, RawGraph, RawModel, RawNode};
use std::collections::HashMap;

/// Nodes, inputs and outputs after all functions are written out; the largest models have some ten thousand nodes.
const MAX_SIZE: usize = 1 << 21;
/// Casts in a row.
const MAX_CASTS: usize = 8;
/// Functions that call functions.
const MAX_DEPTH: usize = 32;

pub(super) type ValueId = usize;

/// What nodes take and make.
#[derive(Debug, Default)]
pub(super) struct Value {
    /// The tensor that it is, if it is constant.
    pub(super) tensor: Option<usize>,
    /// The node that makes it.
    maker: Option<usize>,
    /// Nodes that take it, and as which input.
    pub(super) takers: Vec<(usize, usize)>,
    /// Whether it is an output of the model.
    pub(super) is_output: bool,
}

/// A node.
#[derive(Debug)]
pub(super) struct Node<'a> {
    pub(super) op: &'a str,
    pub(super) name: &'a str,
    /// Nothing for the link from a branch's output to the condition's.
    pub(super) raw: Option<&'a RawNode>,
    pub(super) inputs: Vec<Option<ValueId>>,
    pub(super) outputs: Vec<Option<ValueId>>,
}

/// A flat graph.
#[derive(Debug, Default)]
pub(super) struct Graph<'a> {
    pub(super) values: Vec<Value>,
    pub(super) nodes: Vec<Node<'a>>,
}

/// Names that a graph within others sees: its own, then those around it.
type Scope<'a> = HashMap<&'a str, ValueId>;

impl<'a> Graph<'a> {
    /// Fails with the reason.
    pub(super) fn new(model: &'a RawModel) -> Result<Self, String> {
        let mut graph = Self::default();
        let mut builder = Builder {
            functions: model.functions.iter().map(|f| ((f.domain.as_str(), f.name.as_str()), f)).collect(),
            depth: 0,
            size: 0,
        };
        let mut scopes = vec![Scope::new()];
        builder.graph(&mut graph, &model.graph, &mut scopes)?;
        for name in &model.graph.outputs {
            if let Some(id) = scopes[0].get(name.as_str()) {
                graph.values[*id].is_output = true;
            }
        }
        Ok(graph)
    }

    fn value(&mut self) -> ValueId {
        self.values.push(Value::default());
        self.values.len() - 1
    }

    /// The tensor that a node's input is, if it is constant, perhaps in another number format.
    pub(super) fn constant(&self, node: &Node<'_>, input: usize) -> Option<usize> {
        let mut value = &self.values[(*node.inputs.get(input)?)?];
        for _ in 0..MAX_CASTS {
            if value.tensor.is_some() {
                return value.tensor;
            }
            let maker = value.maker.map(|i| &self.nodes[i]).filter(|n| matches!(n.op, "Cast" | "CastLike" | "Identity"))?;
            value = &self.values[(*maker.inputs.first()?)?];
        }
        None
    }
}

impl Node<'_> {
    /// An attribute that is a whole number.
    pub(super) fn int(&self, name: &str) -> Option<i64> {
        self.attribute(name).map(|a| a.i)
    }

    pub(super) fn float(&self, name: &str) -> Option<f32> {
        self.attribute(name).map(|a| a.f)
    }

    pub(super) fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).map(|a| a.ints.as_slice())
    }

    /// Whether an attribute is given by whoever calls the function that the node is in.
    pub(super) fn is_open(&self) -> bool {
        self.raw.is_some_and(|raw| raw.attributes.iter().any(|a| !a.ref_attr_name.is_empty()))
    }

    fn attribute(&self, name: &str) -> Option<&super::messages::AttributeProto> {
        self.raw?.attributes.iter().find(|a| a.name == name)
    }

    /// The innermost module that the node was exported from, such as `model.layers.0.self_attn.q_proj`, as PyTorch's
    /// exporter writes it: a list of all modules around the node, then the node itself.
    pub(super) fn scope(&self) -> Option<String> {
        let entry = self.raw?.metadata.iter().find(|(key, _)| key == "pkg.torch.onnx.name_scopes")?;
        let list = entry.1.trim().strip_prefix('[')?.strip_suffix(']')?;
        let names: Vec<&str> = list.split(", ").map(|name| name.trim_matches(['\'', '"'])).collect();
        let module = names.get(names.len().checked_sub(2)?)?;
        (!module.is_empty()).then(|| (*module).to_string())
    }

    /// The module that a name such as `/model/layers.0/self_attn/q_proj/MatMul` says.
    pub(super) fn path(&self) -> Option<String> {
        let (module, _) = self.name.strip_prefix('/')?.rsplit_once('/')?;
        Some(module.replace('/', "."))
    }

    /// For messages.
    pub(super) fn describe(&self) -> String {
        let name = if self.name.is_empty() { "without a name" } else { self.name };
        match self.scope() {
            Some(scope) => format!("{} {name} of {scope}", self.op),
            None => format!("{} {name}", self.op),
        }
    }
}

struct Builder<'a> {
    functions: HashMap<(&'a str, &'a str), &'a RawFunction>,
    depth: usize,
    size: usize,
}

impl<'a> Builder<'a> {
    fn graph(&mut self, graph: &mut Graph<'a>, raw: &'a RawGraph, scopes: &mut Vec<Scope<'a>>) -> Result<(), String> {
        let names = raw.inputs.iter().map(String::as_str);
        for name in names {
            let id = graph.value();
            innermost(scopes).insert(name, id);
        }
        for tensor in &raw.initializers {
            // Old models list initializers among the inputs too.
            let id = match innermost(scopes).get(tensor.name.as_str()) {
                Some(id) => *id,
                None => graph.value(),
            };
            if graph.values[id].tensor.is_some() {
                return Err(format!("two initializers are called {}", tensor.name));
            }
            graph.values[id].tensor = Some(tensor.index);
            innermost(scopes).insert(&tensor.name, id);
        }
        self.nodes(graph, &raw.nodes, scopes)
    }

    fn nodes(&mut self, graph: &mut Graph<'a>, nodes: &'a [RawNode], scopes: &mut Vec<Scope<'a>>) -> Result<(), String> {
        // All outputs first, whatever the nodes' order.
        for name in nodes.iter().flat_map(|n| &n.node.output).filter(|name| !name.is_empty()) {
            if !innermost(scopes).contains_key(name.as_str()) {
                let id = graph.value();
                innermost(scopes).insert(name, id);
            }
        }
        nodes.iter().try_for_each(|node| self.node(graph, node, scopes))
    }

    fn node(&mut self, graph: &mut Graph<'a>, raw: &'a RawNode, scopes: &mut Vec<Scope<'a>>) -> Result<(), String> {
        self.size += 1 + raw.node.input.len() + raw.node.output.len();
        if self.size > MAX_SIZE {
            return Err(format!("its functions call each other more than {MAX_SIZE} times"));
        }
        let mut find = |name: &'a String| {
            if name.is_empty() {
                return None;
            }
            let found = scopes.iter().rev().find_map(|scope| scope.get(name.as_str()).copied());
            Some(found.unwrap_or_else(|| {
                let id = graph.value();
                innermost(scopes).insert(name, id);
                id
            }))
        };
        let inputs: Vec<_> = raw.node.input.iter().map(&mut find).collect();
        let outputs: Vec<_> = raw.node.output.iter().map(&mut find).collect();
        if let Some(function) = self.functions.get(&(raw.node.domain.as_str(), raw.node.op_type.as_str())).copied() {
            return self.call(graph, function, &inputs, &outputs);
        }
        if let ("Constant", [Some(output)], [(_, tensor)]) = (raw.node.op_type.as_str(), &outputs[..], &raw.tensors[..]) {
            graph.values[*output].tensor = Some(tensor.index);
        }
        for inner in &raw.graphs {
            scopes.push(Scope::new());
            self.graph(graph, inner, scopes)?;
            if raw.node.op_type == "If" {
                for (name, output) in inner.outputs.iter().zip(&outputs) {
                    let made = scopes.iter().rev().find_map(|scope| scope.get(name.as_str()).copied());
                    self.push(graph, Node { op: "Identity", name: "", raw: None, inputs: vec![made], outputs: vec![*output] });
                }
            }
            scopes.pop();
        }
        self.push(graph, Node { op: &raw.node.op_type, name: &raw.node.name, raw: Some(raw), inputs, outputs });
        Ok(())
    }

    /// Writes out a function's nodes, on the values that it is called with.
    fn call(
        &mut self,
        graph: &mut Graph<'a>,
        function: &'a RawFunction,
        inputs: &[Option<ValueId>],
        outputs: &[Option<ValueId>],
    ) -> Result<(), String> {
        if self.depth >= MAX_DEPTH {
            return Err(format!("functions within functions deeper than {MAX_DEPTH}, at {}", function.name));
        }
        let mut scope = Scope::new();
        let formal = function.inputs.iter().zip(inputs).chain(function.outputs.iter().zip(outputs));
        scope.extend(formal.filter_map(|(name, id)| Some((name.as_str(), (*id)?))));
        self.depth += 1;
        self.nodes(graph, &function.nodes, &mut vec![scope])?;
        self.depth -= 1;
        Ok(())
    }

    fn push(&mut self, graph: &mut Graph<'a>, node: Node<'a>) {
        for (slot, id) in node.inputs.iter().enumerate() {
            if let Some(id) = id {
                graph.values[*id].takers.push((graph.nodes.len(), slot));
            }
        }
        for id in node.outputs.iter().flatten() {
            graph.values[*id].maker = Some(graph.nodes.len());
        }
        graph.nodes.push(node);
    }
}

fn innermost<'s, 'a>(scopes: &'s mut Vec<Scope<'a>>) -> &'s mut Scope<'a> {
    if scopes.is_empty() {
        scopes.push(Scope::new());
    }
    let last = scopes.len() - 1;
    &mut scopes[last]
}
