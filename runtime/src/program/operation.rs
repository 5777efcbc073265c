//! [`Operation`]: one thing that a step does.

use super::Value;
use crate::kernels::altup::End;
use haikuq_format::spec::{Activation, Norm};
use std::fmt;

/// One thing that a step does. Tensors are called by their canonical names ([`haikuq_format::DecoderSpec::tensors`]).
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// `into[t] = multiplier × table[id]`, or `into[t] += table[position]`.
    Embed {
        /// The table.
        table: String,
        /// Which of its rows.
        rows: RowSource,
        /// Where they go.
        into: Value,
    },
    /// `into = norm(from)`, or `into += residual × norm(from)`.
    Norm {
        /// Kind and epsilon.
        norm: Norm,
        /// The tensor `parameters.gain`, and `parameters.bias` where the kind has one.
        parameters: String,
        /// What is normalized.
        from: Value,
        /// Where it goes.
        into: Value,
        /// Factor of what is added to `into`; `into` is overwritten where absent.
        residual: Option<f32>,
        /// The tensor of one number that `into` is multiplied with at last.
        scale: Option<String>,
    },
    /// `into = output(matrix × norm(from) + bias)`.
    Project {
        /// The matrix.
        matrix: String,
        /// The tensor of biases.
        bias: Option<String>,
        /// A norm of `from` on the way.
        norm: Option<FusedNorm>,
        /// What is multiplied.
        from: Value,
        /// Where it goes.
        into: Value,
        /// What becomes of the sums.
        output: Output,
    },
    /// Normalizes and rotates queries and keys of a layer, and writes keys and values to its cache if it has them.
    RopeCache {
        /// The layer.
        layer: usize,
        /// Whether it has keys and values of its own.
        writes: bool,
        /// Queries, keys and values.
        from: Value,
        /// Queries.
        into: Value,
    },
    /// A layer's [`Operation::Project`] of queries, keys and values together with its [`Operation::RopeCache`].
    ProjectRopeCache {
        /// The layer.
        layer: usize,
        /// The matrix.
        matrix: String,
        /// The tensor of biases.
        bias: Option<String>,
        /// A norm of `from` on the way.
        norm: Option<FusedNorm>,
        /// What is multiplied.
        from: Value,
        /// Queries.
        into: Value,
    },
    /// An [`Operation::Project`] with an activation, and the [`Operation::TakeLayer`] of its result.
    ProjectTimes {
        /// The layer.
        layer: usize,
        /// The matrix.
        matrix: String,
        /// What becomes of the sums before they are multiplied.
        activation: Activation,
        /// What is multiplied with the matrix.
        from: Value,
        /// The numbers of all layers.
        times: Value,
        /// Where it goes.
        into: Value,
    },
    /// Attention of a layer over its cache, or that of an earlier one.
    Attend {
        /// The layer.
        layer: usize,
        /// The layer whose cache it is.
        cache: usize,
        /// Queries.
        from: Value,
        /// The heads' outputs.
        into: Value,
    },
    /// `into *= σ(gates)`: the gates are the end of a layer's queries, keys and values.
    GateHeads {
        /// The layer.
        layer: usize,
        /// Queries, keys, values and gates.
        from: Value,
        /// The heads' outputs.
        into: Value,
    },
    /// A layer's gated short convolution over its input's rows and the columns that its sequences keep, which it updates.
    ShortConv {
        /// The layer.
        layer: usize,
        /// `b`, `c` and `x`, side by side.
        from: Value,
        /// `c × conv(b × x)`.
        into: Value,
    },
    /// Queries, keys, values, decays and betas of a layer's gated delta net, through a convolution over the columns that its
    /// sequences keep, which it updates.
    DeltaConv {
        /// The layer.
        layer: usize,
        /// What the first matrix makes.
        from: Value,
        /// Queries, keys, values, logarithms of decays, betas.
        into: Value,
    },
    /// Takes the states of a layer's gated delta net from token to token.
    DeltaScan {
        /// The layer.
        layer: usize,
        /// Queries, keys, values, logarithms of decays, betas.
        from: Value,
        /// The heads' outputs.
        into: Value,
    },
    /// Normalizes the outputs of a gated delta net's heads, and gates them.
    DeltaNorm {
        /// The layer.
        layer: usize,
        /// What the first matrix makes.
        from: Value,
        /// The heads' outputs.
        into: Value,
    },
    /// What tokens bring along for all layers: `into = multiplier × (rms(into) + rows of the table)`.
    PerLayerInputs {
        /// The projection of the embedding.
        into: Value,
    },
    /// `into *= from[layer]`.
    TakeLayer {
        /// The layer.
        layer: usize,
        /// The numbers of all layers.
        from: Value,
        /// What those of the layer are multiplied with.
        into: Value,
    },
    /// `into *= by`, which is a tensor of one number.
    Scale {
        /// The tensor.
        by: String,
        /// What is multiplied.
        into: Value,
    },
    /// `into = (into + from) / √2`
    Laurel {
        /// What is added.
        from: Value,
        /// Where it goes.
        into: Value,
    },
    /// A layer's activation of gates that are cut off, times ups.
    CutGates {
        /// The layer.
        layer: usize,
        /// Gates and ups in turn.
        from: Value,
        /// The inner activations.
        into: Value,
    },
    /// `into = from[stream]`
    TakeStream {
        /// The stream.
        stream: usize,
        /// All streams.
        from: Value,
        /// Where it goes.
        into: Value,
    },
    /// A stream before the first layer or after the last, or numbers that are added to all but the first; see [`End`].
    EndStream {
        /// What is done.
        end: End,
        /// Multiplies what is added.
        multiplier: f32,
        /// The numbers.
        from: Value,
        /// All streams.
        streams: Value,
    },
    /// Guesses all streams before a layer's blocks, which compute one, or corrects them.
    AltUp {
        /// The layer.
        layer: usize,
        /// Whether they are corrected.
        correct: bool,
        /// All streams.
        streams: Value,
    },
    /// Chooses each token's experts from a router's logits, and their weights.
    ChooseExperts {
        /// The layer.
        layer: usize,
        /// The logits.
        from: Value,
        /// The routing.
        into: Value,
    },
    /// A product with the matrices of each token's experts: `into[e] = output(matrix[e] × from + bias[e])` for each of them, or where
    /// the output is [`Output::Store`] or [`Output::Residual`] the sum of `weight[e] × (matrix[e] × from[e] + bias[e])`.
    ProjectExperts {
        /// The layer.
        layer: usize,
        /// The matrices, stacked.
        matrix: String,
        /// The tensor of biases, stacked.
        bias: Option<String>,
        /// Which experts, with which weights.
        routing: Value,
        /// What is multiplied.
        from: Value,
        /// Where it goes.
        into: Value,
        /// What becomes of the sums.
        output: Output,
    },
    /// Inputs, `B`, `C`, steps and decays of a layer's Mamba 2 mixer, through a convolution over the columns that its sequences keep,
    /// which it updates.
    MambaConv {
        /// The layer.
        layer: usize,
        /// What the first matrix makes.
        from: Value,
        /// Inputs, `B`, `C`, steps, decays.
        into: Value,
    },
    /// Takes the states of a layer's Mamba 2 mixer from token to token.
    MambaScan {
        /// The layer.
        layer: usize,
        /// Inputs, `B`, `C`, steps, decays.
        from: Value,
        /// The heads' outputs.
        into: Value,
    },
    /// Gates the outputs of a Mamba 2 mixer's heads, and normalizes them where it has a norm.
    MambaNorm {
        /// The layer.
        layer: usize,
        /// What the first matrix makes.
        from: Value,
        /// The heads' outputs.
        into: Value,
    },
    /// Chooses a token from each row of logits.
    Sample {
        /// The logits.
        from: Value,
        /// Whether the token becomes the next step's, at the next position.
        advance: bool,
        /// Whether only tokens of a mask may be chosen.
        masked: bool,
    },
}

/// A root mean square norm that a product does on the way.
#[derive(Clone, Debug, PartialEq)]
pub struct FusedNorm {
    /// The tensor `parameters.gain`.
    pub parameters: String,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// Which rows of a table an [`Operation::Embed`] takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RowSource {
    /// The tokens' ids.
    Ids {
        /// Factor of the rows.
        multiplier: f32,
    },
    /// The tokens' positions; rows are added to what is there.
    Positions,
}

/// What becomes of `v = matrix × x + bias`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Output {
    /// `y = v`
    Store,
    /// `y += multiplier × v`
    Residual {
        /// The factor.
        multiplier: f32,
    },
    /// Rows are gate, up, gate, up: `y[i] = activation(v[2i]) × v[2i + 1]`, half as wide as the matrix has rows.
    Glu(Activation),
    /// `y = activation(v)`
    Activate(Activation),
    /// `y = cap(multiplier × v)` with `cap(l) = softcap × tanh(l / softcap)`, or `l` without a soft cap.
    Logits {
        /// The factor.
        multiplier: f32,
        /// The largest absolute value.
        softcap: Option<f32>,
    },
}

impl Output {
    /// Values that a matrix of `rows` rows writes for a token.
    pub fn width(self, rows: usize) -> usize {
        if matches!(self, Self::Glu(_)) { rows / 2 } else { rows }
    }
}

impl Output {
    /// Prints what becomes of a product.
    fn fmt(self, f: &mut fmt::Formatter<'_>, into: &Value, product: &str) -> fmt::Result {
        match self {
            Self::Store => write!(f, "{into} = {product}"),
            Self::Residual { multiplier: 1.0 } => write!(f, "{into} += {product}"),
            Self::Residual { multiplier } => write!(f, "{into} += {multiplier} × ({product})"),
            Self::Glu(activation) => write!(f, "{into} = glu {activation:?}({product})"),
            Self::Activate(activation) => write!(f, "{into} = {activation:?}({product})"),
            Self::Logits { multiplier, softcap } => {
                let cap = softcap.map_or(String::new(), |cap| format!(", capped at {cap}"));
                let times = if multiplier == 1.0 { String::new() } else { format!("{multiplier} × ") };
                write!(f, "{into} = {times}({product}){cap}")
            }
        }
    }
}

impl Operation {
    /// Values that it reads.
    pub fn reads(&self) -> Vec<Value> {
        match *self {
            Self::Embed { rows: RowSource::Positions, into, .. } | Self::Scale { into, .. } | Self::PerLayerInputs { into } => {
                vec![into]
            }
            Self::Embed { .. } => vec![],
            Self::Norm { from, into, residual: Some(_), .. } => vec![from, into],
            Self::Project { from, into, output: Output::Residual { .. }, .. }
            | Self::GateHeads { from, into, .. }
            | Self::TakeLayer { from, into, .. }
            | Self::Laurel { from, into }
            | Self::DeltaNorm { from, into, .. }
            | Self::MambaNorm { from, into, .. } => {
                vec![from, into]
            }
            // The residual stream is the active one of several.
            Self::AltUp { correct: true, streams, .. } => vec![Value::Hidden, streams],
            Self::AltUp { streams, .. } => vec![streams],
            Self::EndStream { end: End::First(1), from, .. } => vec![from, Value::Hidden],
            Self::EndStream { end: End::Last(1) | End::Add, from, streams, .. } => vec![from, streams],
            Self::EndStream { from, streams, .. } => vec![from, streams, Value::Hidden],
            Self::ProjectTimes { from, times, .. } => vec![from, times],
            Self::ProjectExperts { routing, from, into, output: Output::Residual { .. }, .. } => vec![routing, from, into],
            Self::ProjectExperts { routing, from, .. } => vec![routing, from],
            Self::Norm { from, .. }
            | Self::ChooseExperts { from, .. }
            | Self::CutGates { from, .. }
            | Self::TakeStream { from, .. }
            | Self::Project { from, .. }
            | Self::RopeCache { from, .. }
            | Self::ProjectRopeCache { from, .. }
            | Self::Attend { from, .. }
            | Self::ShortConv { from, .. }
            | Self::DeltaConv { from, .. }
            | Self::DeltaScan { from, .. }
            | Self::MambaConv { from, .. }
            | Self::MambaScan { from, .. }
            | Self::Sample { from, .. } => vec![from],
        }
    }

    /// The value that it writes.
    pub fn writes(&self) -> Option<Value> {
        match *self {
            Self::Embed { into, .. }
            | Self::Norm { into, .. }
            | Self::Project { into, .. }
            | Self::RopeCache { into, .. }
            | Self::ProjectRopeCache { into, .. }
            | Self::ProjectTimes { into, .. }
            | Self::Attend { into, .. }
            | Self::Scale { into, .. }
            | Self::PerLayerInputs { into }
            | Self::TakeLayer { into, .. }
            | Self::Laurel { into, .. }
            | Self::CutGates { into, .. }
            | Self::TakeStream { into, .. }
            | Self::GateHeads { into, .. }
            | Self::DeltaConv { into, .. }
            | Self::DeltaScan { into, .. }
            | Self::DeltaNorm { into, .. }
            | Self::MambaConv { into, .. }
            | Self::MambaScan { into, .. }
            | Self::MambaNorm { into, .. }
            | Self::ShortConv { into, .. }
            | Self::ChooseExperts { into, .. }
            | Self::ProjectExperts { into, .. } => Some(into),
            Self::AltUp { .. } | Self::EndStream { end: End::Last(_), .. } => Some(Value::Hidden),
            Self::EndStream { streams, .. } => Some(streams),
            Self::Sample { .. } => None,
        }
    }

    /// What it is for, without its layer: profiles add up operations of one name.
    pub fn name(&self) -> String {
        let part = |tensor: &str| tensor.rsplit('.').next().unwrap_or(tensor).to_string();
        match self {
            Self::Embed { table, .. } => format!("embed {table}"),
            Self::Norm { parameters, .. } => part(parameters),
            Self::Project { matrix, .. } | Self::ProjectTimes { matrix, .. } => part(matrix),
            Self::ProjectExperts { matrix, .. } => format!("{} of experts", part(matrix)),
            Self::ChooseExperts { .. } => "choose experts".into(),
            Self::RopeCache { .. } => "rope and cache".into(),
            Self::ProjectRopeCache { matrix, .. } => format!("{}, rope and cache", part(matrix)),
            Self::Attend { .. } => "attend".into(),
            Self::GateHeads { .. } => "gates of heads".into(),
            Self::ShortConv { .. } => "short convolution".into(),
            Self::DeltaConv { .. } => "delta net, convolution".into(),
            Self::DeltaScan { .. } => "delta net, scan".into(),
            Self::DeltaNorm { .. } => "delta net, norm".into(),
            Self::PerLayerInputs { .. } => "numbers for each layer".into(),
            Self::TakeLayer { .. } => "numbers for a layer".into(),
            Self::Scale { by, .. } => part(by),
            Self::Laurel { .. } => "laurel".into(),
            Self::CutGates { .. } => "cut gates".into(),
            Self::TakeStream { .. } | Self::EndStream { .. } | Self::AltUp { .. } => "streams".into(),
            Self::MambaConv { .. } => "mamba, convolution".into(),
            Self::MambaScan { .. } => "mamba, scan".into(),
            Self::MambaNorm { .. } => "mamba, norm".into(),
            Self::Sample { .. } => "sample".into(),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let normed = |from: &Value, norm: &Option<FusedNorm>| match norm {
            Some(norm) => format!("norm({from}, {})", norm.parameters),
            None => from.to_string(),
        };
        let plus = |bias: &Option<String>| bias.as_ref().map_or(String::new(), |b| format!(" + {b}"));
        let times = |factor: f32| if factor == 1.0 { String::new() } else { format!("{factor} × ") };
        match self {
            Self::Embed { table, rows: RowSource::Ids { multiplier }, into } => {
                write!(f, "{into} = {}{table}[ids]", times(*multiplier))
            }
            Self::Embed { table, rows: RowSource::Positions, into } => write!(f, "{into} += {table}[positions]"),
            Self::Norm { parameters, from, into, residual: None, .. } => write!(f, "{into} = norm({from}, {parameters})"),
            Self::Norm { parameters, from, into, residual: Some(factor), scale, .. } => match scale {
                None => write!(f, "{into} += {}norm({from}, {parameters})", times(*factor)),
                Some(by) => write!(f, "{into} = ({into} + {}norm({from}, {parameters})) * {by}", times(*factor)),
            },
            Self::Project { matrix, bias, norm, from, into, output } => {
                output.fmt(f, into, &format!("{matrix} · {}{}", normed(from, norm), plus(bias)))
            }
            Self::ChooseExperts { from, into, .. } => write!(f, "{into} = choose({from})"),
            Self::ProjectExperts { matrix, bias, routing, from, into, output, .. } => {
                output.fmt(f, into, &format!("{matrix}[{routing}] · {from}{}", plus(bias)))
            }
            Self::RopeCache { layer, writes: true, from, into } => write!(f, "{into}, cache[{layer}] = rope({from})"),
            Self::RopeCache { writes: false, from, into, .. } => write!(f, "{into} = rope({from})"),
            Self::ProjectRopeCache { layer, matrix, bias, norm, from, into } => {
                write!(f, "{into}, cache[{layer}] = rope({matrix} · {}{})", normed(from, norm), plus(bias))
            }
            Self::ProjectTimes { layer, matrix, activation, from, times, into } => {
                write!(f, "{into} = {activation:?}({matrix} · {from}) * {times}[{layer}]")
            }
            Self::Attend { cache, from, into, .. } => write!(f, "{into} = attend({from}, cache[{cache}])"),
            Self::PerLayerInputs { into } => write!(f, "{into} = norm({into}, per_layer_norm) + per_layer_embedding[ids]"),
            Self::TakeLayer { layer, from, into } => write!(f, "{into} *= {from}[{layer}]"),
            Self::Scale { by, into } => write!(f, "{into} *= {by}"),
            Self::Laurel { from, into } => write!(f, "{into} = ({into} + {from}) / sqrt(2)"),
            Self::CutGates { from, into, .. } => write!(f, "{into} = glu(cut({from}))"),
            Self::TakeStream { stream, from, into } => write!(f, "{into} = {from}[{stream}]"),
            Self::EndStream { end, from, streams, .. } => write!(f, "{streams}: {end:?} {from}"),
            Self::AltUp { layer, correct: false, streams } => write!(f, "{streams}, hidden = predict[{layer}]({streams})"),
            Self::AltUp { layer, streams, .. } => write!(f, "{streams}, hidden = correct[{layer}]({streams}, hidden)"),
            Self::GateHeads { from, into, .. } => write!(f, "{into} *= sigmoid(gates of {from})"),
            Self::ShortConv { layer, from, into } => write!(f, "{into}, state[{layer}] = short_conv({from}, state[{layer}])"),
            Self::DeltaConv { layer, from, into } => write!(f, "{into}, columns[{layer}] = delta_conv({from}, columns[{layer}])"),
            Self::DeltaScan { layer, from, into } => write!(f, "{into}, state[{layer}] = delta_scan({from}, state[{layer}])"),
            Self::DeltaNorm { from, into, .. } => write!(f, "{into} = norm({into}) * silu(gates of {from})"),
            Self::MambaConv { layer, from, into } => write!(f, "{into}, columns[{layer}] = mamba_conv({from}, columns[{layer}])"),
            Self::MambaScan { layer, from, into } => write!(f, "{into}, state[{layer}] = mamba_scan({from}, state[{layer}])"),
            Self::MambaNorm { from, into, .. } => write!(f, "{into} = gated({into}, gates of {from})"),
            Self::Sample { from, advance, masked } => {
                let next = if *advance { ", next ids" } else { "" };
                let mask = if *masked { ", mask" } else { "" };
                write!(f, "chosen{next} = sample({from}{mask})")
            }
        }
    }
}
