//! What the graph does with a tensor: it is followed through nodes that only turn, cast or rename it, to the node that
//! calculates with it. That node says which way round a matrix lies; its shape never does.

use super::graph::{Graph, Node, ValueId};
use super::stored::Stored;
use crate::checkpoint::file::MappedFile;
use crate::checkpoint::tensor::Bytes;
use std::collections::BTreeSet;

/// What a node does with a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Inputs are multiplied with it; `outputs` is the dimension of the stored tensor that outputs have.
    Matrix { outputs: usize },
    /// Rows of it are looked up by their number along `rows`.
    Rows { rows: usize },
    /// A vector that something is multiplied with, such as a norm's gain.
    Gain,
    /// A vector that is added.
    Bias,
    /// A vector that is added where it is another module's, such as a matrix's bias in the norm after it.
    BiasBefore,
    /// A vector whose exponential is taken.
    Exponent,
    /// A vector that something else is done with: it joins others, or is taken off.
    Apart,
    /// The kernel of a convolution whose channels are apart.
    Kernel,
    /// Matrices of experts, of which some are looked up by their number. In each, `rows_first` says that outputs are its first dimension.
    Experts { rows_first: bool },
    /// Part of something that is no weight: masks, rotation tables, shapes, limits.
    Constant,
    /// Anything else.
    Other,
}

impl Kind {
    /// Whether it takes vectors.
    pub(super) fn is_vector(self) -> bool {
        matches!(self, Self::Gain | Self::Bias | Self::BiasBefore | Self::Exponent | Self::Apart)
    }

    /// Whether it takes matrices.
    pub(super) fn is_matrix(self) -> bool {
        matches!(self, Self::Matrix { .. } | Self::Rows { .. })
    }

    /// Whether it takes one weight, and says how that lies.
    pub(super) fn is_weight(self) -> bool {
        self.is_vector() || self.is_matrix() || self == Self::Kernel
    }
}

/// One use of a tensor.
#[derive(Clone, Debug)]
pub(super) struct Use {
    pub(super) node: usize,
    pub(super) kind: Kind,
    /// What the graph adds to every number before.
    pub(super) plus: f32,
    /// Whether the result is an output of the model, but for steps number by number.
    pub(super) to_output: bool,
}

/// A view of a tensor: for each dimension, the stored dimension that it is; none for those of size 1.
type Axes = Vec<Option<usize>>;

/// Graph, tensors and files, to look things up in.
pub(super) struct Context<'a> {
    pub(super) graph: &'a Graph<'a>,
    pub(super) stored: &'a [Stored],
    pub(super) files: &'a [MappedFile],
}

impl Context<'_> {
    /// All uses of the tensor that `values` are.
    pub(super) fn uses(&self, tensor: usize, values: &[ValueId]) -> Vec<Use> {
        let dims = &self.stored[tensor].dims;
        let axes: Axes = dims.iter().enumerate().map(|(i, &size)| (size != 1).then_some(i)).collect();
        let mut open: Vec<(ValueId, Axes, f32)> = values.iter().map(|&value| (value, axes.clone(), 0.0)).collect();
        let (mut seen, mut uses) = (BTreeSet::new(), Vec::new());
        while let Some((value, axes, plus)) = open.pop() {
            if !seen.insert(value) {
                continue;
            }
            for &(index, slot) in &self.graph.values[value].takers {
                let node = &self.graph.nodes[index];
                match self.step(node, slot, &axes, dims) {
                    Step::Through { axes, adds } => {
                        open.extend(node.outputs.iter().take(1).flatten().map(|&next| (next, axes.clone(), plus + adds)));
                    }
                    Step::Used(kind) => {
                        let to_output = matches!(kind, Kind::Matrix { .. }) && self.reaches_output(node);
                        uses.push(Use { node: index, kind, plus, to_output });
                    }
                }
            }
        }
        uses.sort_by_key(|u| u.node);
        uses
    }

    fn step(&self, node: &Node<'_>, slot: usize, axes: &Axes, dims: &[usize]) -> Step {
        let rank = axes.len();
        let significant = axes.iter().flatten().count();
        let vector = |kind| Step::Used(if significant <= 1 { kind } else { Kind::Constant });
        let matrix = |transposed: bool| {
            if significant == 3 && rank == 3 {
                // Every expert calculates.
                return Step::Used(Kind::Experts { rows_first: transposed });
            }
            let last_two = rank.checked_sub(2).map(|i| (axes[i], axes[i + 1]));
            Step::Used(match last_two {
                Some((Some(first), Some(last))) if significant == 2 => {
                    Kind::Matrix { outputs: if transposed { first } else { last } }
                }
                // One output.
                Some((None, Some(_))) if rank == 2 && transposed => one_output(dims),
                Some((Some(_), None)) if rank == 2 && !transposed => one_output(dims),
                _ => Kind::Other,
            })
        };
        let unscaled = |name: &str| node.float(name).is_none_or(|x| x == 1.0);
        let flag = |name: &str| node.int(name).unwrap_or(0) != 0;
        if node.is_open() {
            return Step::Used(Kind::Other);
        }
        // ONNX has an operator of that name that takes no weights.
        let is_contrib = node.raw.is_some_and(|raw| raw.node.domain == "com.microsoft");
        match (node.op, slot) {
            ("Identity" | "Cast" | "CastLike" | "Dropout", 0) => Step::Through { axes: axes.clone(), adds: 0.0 },
            ("Transpose" | "Reshape" | "Squeeze" | "Unsqueeze", 0) => match self.turned(node, axes, dims) {
                Some(axes) => Step::Through { axes, adds: 0.0 },
                None => Step::Used(Kind::Other),
            },
            ("MatMul", 1) => matrix(false),
            ("MatMul", 0) => matrix(true),
            ("FusedMatMul", 1) if unscaled("alpha") && !flag("transBatchB") => matrix(flag("transB")),
            ("Gemm", 1) if unscaled("alpha") => matrix(flag("transB")),
            ("Gemm", 2) if unscaled("beta") => vector(Kind::Bias),
            ("Attention", 1) if is_contrib => matrix(false),
            ("Gather" | "GatherND", 0) if significant == 3 && rank == 3 && node.int("axis").unwrap_or(0) == 0 => {
                Step::Used(self.rows_first(node).map_or(Kind::Other, |rows_first| Kind::Experts { rows_first }))
            }
            ("MoE", 2 | 4) if significant == 3 && rank == 3 => Step::Used(Kind::Experts { rows_first: true }),
            ("MoE", 3 | 5) if significant == 2 && rank == 2 => Step::Used(Kind::Rows { rows: 0 }),
            ("Conv" | "CausalConvWithState", 1) if matches!(axes[..], [Some(0), None, Some(1 | 2)]) => Step::Used(Kind::Kernel),
            ("Conv" | "CausalConvWithState", 2) => vector(Kind::Bias),
            ("Exp", 0) => vector(Kind::Exponent),
            ("Sub", 1) | ("Expand" | "Concat", 0) | ("GroupQueryAttention", 11) if significant <= 1 => Step::Used(Kind::Apart),
            ("Gather", 0) => {
                let axis = node.int("axis").unwrap_or(0);
                let axis = if axis < 0 { axis + rank as i64 } else { axis };
                match usize::try_from(axis).ok().and_then(|axis| axes.get(axis)) {
                    Some(Some(rows)) if significant == 2 => Step::Used(Kind::Rows { rows: *rows }),
                    _ => Step::Used(Kind::Constant),
                }
            }
            ("Add", _) => match self.other_scalar(node, slot) {
                Some(scalar) => Step::Through { axes: axes.clone(), adds: scalar },
                None => vector(Kind::Bias),
            },
            ("Mul", _) => match self.other_scalar(node, slot) {
                Some(1.0) => Step::Through { axes: axes.clone(), adds: 0.0 },
                Some(_) => Step::Used(Kind::Other),
                None => vector(Kind::Gain),
            },
            ("LayerNormalization" | "SimplifiedLayerNormalization" | "RMSNormalization" | "GatedRMSNorm", 1)
            | ("SkipLayerNormalization" | "SkipSimplifiedLayerNormalization" | "LinearAttentionGate", 2)
            | ("GroupQueryAttention", 14 | 15) => vector(Kind::Gain),
            ("LinearAttentionGate", 1) => vector(Kind::Bias),
            ("LayerNormalization", 2) | ("SkipLayerNormalization", 3) => vector(Kind::Bias),
            ("Attention", 2) if is_contrib => vector(Kind::BiasBefore),
            ("SkipLayerNormalization", 4) | ("SkipSimplifiedLayerNormalization" | "MultiHeadAttention", 3) => {
                vector(Kind::BiasBefore)
            }
            ("GroupQueryAttention", 7 | 8) | ("RotaryEmbedding" | "Where" | "Range" | "Pow" | "Clip" | "Max" | "Min", _) => {
                Step::Used(Kind::Constant)
            }
            (
                "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "Shape" | "Size" | "Trilu" | "ScatterND"
                | "Cos" | "Sin" | "ConstantOfShape",
                _,
            ) => Step::Used(Kind::Constant),
            ("Reshape" | "Expand" | "Slice" | "Unsqueeze" | "Squeeze" | "Tile" | "Split", 1..) => Step::Used(Kind::Constant),
            _ => Step::Used(Kind::Other),
        }
    }

    /// Whether the matrices that a node looks up have a row for each output, as the product with them says.
    fn rows_first(&self, node: &Node<'_>) -> Option<bool> {
        const STEPS: usize = 8;
        let (mut node, mut turned) = (node, false);
        for _ in 0..STEPS {
            let value = &self.graph.values[(*node.outputs.first()?)?];
            let [(index, slot)] = value.takers[..] else { return None };
            node = &self.graph.nodes[index];
            match (node.op, slot) {
                ("MatMul", slot) => return Some((slot == 0) != turned),
                ("Identity" | "Cast", 0) => {}
                ("Transpose", 0) if node.ints("perm") == Some(&[0, 2, 1]) => turned = !turned,
                _ => return None,
            }
        }
        None
    }

    /// The view after a node that moves no number.
    fn turned(&self, node: &Node<'_>, axes: &Axes, dims: &[usize]) -> Option<Axes> {
        let size = |axis: &Option<usize>| axis.map_or(1, |i| dims[i]);
        let list = |name: &str| node.ints(name).map(<[i64]>::to_vec).or_else(|| self.ints(self.graph.constant(node, 1)?));
        match node.op {
            "Transpose" => match node.ints("perm") {
                Some(perm) if perm.len() == axes.len() => {
                    let mut taken = vec![false; perm.len()];
                    let one = |&i: &i64| {
                        let i = usize::try_from(i).ok()?;
                        let axis = axes.get(i)?;
                        (!std::mem::replace(&mut taken[i], true)).then_some(*axis)
                    };
                    perm.iter().map(one).collect()
                }
                Some(_) => None,
                None => Some(axes.iter().rev().copied().collect()),
            },
            "Reshape" => {
                let shape = list("shape")?;
                let count = axes.iter().map(size).try_fold(1usize, usize::checked_mul)?;
                let sizes: Vec<Option<usize>> = shape
                    .iter()
                    .enumerate()
                    .map(|(i, &n)| match n {
                        -1 => Some(None),
                        0 => axes.get(i).map(|axis| Some(size(axis))),
                        n => usize::try_from(n).ok().map(Some),
                    })
                    .collect::<Option<_>>()?;
                let known = sizes.iter().flatten().try_fold(1usize, |n, &d| n.checked_mul(d))?;
                let mut rest = axes.iter().flatten();
                let new: Axes = sizes
                    .iter()
                    .map(|n| match n.unwrap_or(count.checked_div(known)?) {
                        1 => Some(None),
                        n => rest.next().filter(|&&axis| dims[axis] == n).map(|axis| Some(*axis)),
                    })
                    .collect::<Option<_>>()?;
                rest.next().is_none().then_some(new)
            }
            "Squeeze" => {
                let drop = list("axes").unwrap_or_default();
                let rank = axes.len() as i64;
                let kept = axes.iter().enumerate().filter(|(i, axis)| {
                    let named = drop.iter().any(|&d| if d < 0 { d + rank } else { d } == *i as i64);
                    axis.is_some() || !(named || drop.is_empty())
                });
                Some(kept.map(|(_, axis)| *axis).collect())
            }
            _ => {
                let mut new = axes.clone();
                let add = list("axes")?;
                let rank = (axes.len() + add.len()) as i64;
                let mut places: Vec<i64> = add.iter().map(|&d| if d < 0 { d + rank } else { d }).collect();
                places.sort_unstable();
                for place in places {
                    let place = usize::try_from(place).ok().filter(|&p| p <= new.len())?;
                    new.insert(place, None);
                }
                Some(new)
            }
        }
    }

    /// The number that the other input of a node of two inputs is, if it is a constant one.
    fn other_scalar(&self, node: &Node<'_>, slot: usize) -> Option<f32> {
        let other = self.graph.constant(node, 1 - slot.min(1))?;
        self.scalar(other)
    }

    fn scalar(&self, tensor: usize) -> Option<f32> {
        let stored = self.stored.get(tensor).filter(|s| s.count == 1)?;
        let bytes = self.bytes(tensor)?;
        match stored.data_type {
            1 => bytes.first_chunk().map(|b| f32::from_le_bytes(*b)),
            10 => bytes.first_chunk().map(|b| half::f16::from_le_bytes(*b).to_f32()),
            16 => bytes.first_chunk().map(|b| half::bf16::from_le_bytes(*b).to_f32()),
            _ => None,
        }
    }

    /// A short list of whole numbers.
    fn ints(&self, tensor: usize) -> Option<Vec<i64>> {
        let stored = self.stored.get(tensor).filter(|s| s.count <= 16)?;
        let bytes = self.bytes(tensor)?;
        match stored.data_type {
            7 => Some(bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
            6 => Some(bytes.as_chunks().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect()),
            _ => None,
        }
    }

    /// All bytes of a tensor.
    pub(super) fn bytes(&self, tensor: usize) -> Option<&[u8]> {
        match self.stored[tensor].bytes.as_ref()? {
            Bytes::Mapped { file, range } => self.files.get(*file)?.bytes().get(range.clone()),
            Bytes::Owned { bytes, .. } => Some(bytes),
            Bytes::Stacked { .. } | Bytes::Mxfp4 { .. } => None,
        }
    }

    /// Whether a node's result becomes an output of the model, but for steps number by number with constants.
    fn reaches_output(&self, node: &Node<'_>) -> bool {
        let mut open: Vec<ValueId> = node.outputs.iter().take(1).flatten().copied().collect();
        let mut seen = BTreeSet::new();
        while let Some(value) = open.pop() {
            if self.graph.values[value].is_output {
                return true;
            }
            if !seen.insert(value) {
                continue;
            }
            for &(index, slot) in &self.graph.values[value].takers {
                let next = &self.graph.nodes[index];
                let through = match next.op {
                    "Identity" | "Cast" | "Tanh" | "Reshape" | "Squeeze" | "Unsqueeze" => slot == 0,
                    "Add" | "Mul" | "Div" | "Sub" => self.graph.constant(next, 1 - slot.min(1)).is_some(),
                    _ => false,
                };
                if through {
                    open.extend(next.outputs.iter().take(1).flatten());
                }
            }
        }
        false
    }

    /// Whether something constant is added to what a matrix gives.
    pub(super) fn has_bias(&self, node: &Node<'_>) -> bool {
        if matches!(node.op, "Gemm" | "Attention") {
            return node.inputs.get(2).is_some_and(Option::is_some);
        }
        let mut open: Vec<ValueId> = node.outputs.iter().take(1).flatten().copied().collect();
        let mut seen = BTreeSet::new();
        while let Some(value) = open.pop() {
            if !seen.insert(value) {
                continue;
            }
            for &(index, slot) in &self.graph.values[value].takers {
                let next = &self.graph.nodes[index];
                match next.op {
                    "Add" if self.graph.constant(next, 1 - slot.min(1)).is_some() => return true,
                    "Identity" | "Cast" | "Reshape" if slot == 0 => open.extend(next.outputs.iter().take(1).flatten()),
                    _ => {}
                }
            }
        }
        false
    }
}

/// A matrix with one output.
fn one_output(dims: &[usize]) -> Kind {
    dims.iter().position(|n| *n == 1).map_or(Kind::Other, |outputs| Kind::Matrix { outputs })
}

/// What a node does to a view.
enum Step {
    /// Hands it on, with something added to every number.
    Through { axes: Axes, adds: f32 },
    /// Calculates with it.
    Used(Kind),
}
