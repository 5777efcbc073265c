//! [`Value`]: the named values of a program.

use haikuq_format::DecoderSpec;
use haikuq_format::layout::padded;
use std::fmt;

/// A matrix of f32 activations, one row a token (or a row of logits), that operations read and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Value {
    /// The residual stream.
    Hidden,
    /// The residual stream after a norm, where the product that reads it does not normalize on the way.
    Normed,
    /// Queries, keys and values of a layer, side by side.
    Qkv,
    /// Queries, normalized and rotated.
    Query,
    /// The heads' outputs, side by side.
    Attended,
    /// `b`, `c` and `x` of a short convolution, together this wide.
    ConvInput(usize),
    /// A short convolution's gated outputs, of so many channels.
    Convolved(usize),
    /// What the first matrix of a gated delta net makes, so many numbers.
    DeltaInput(usize),
    /// Queries, keys, values, decays and betas of a gated delta net.
    DeltaMixed(usize),
    /// The outputs of a gated delta net's heads, side by side.
    DeltaOutput(usize),
    /// What the first matrix of a Mamba 2 mixer makes, so many numbers.
    MambaInput(usize),
    /// Inputs, `B`, `C`, steps and decays of a Mamba 2 mixer.
    MambaMixed(usize),
    /// The outputs of a Mamba 2 mixer's heads, side by side.
    MambaOutput(usize),
    /// All residual streams of a token, so many numbers, one stream after the other.
    Streams(usize),
    /// What the first matrix of a learned residual layer makes, so many numbers.
    Laurel(usize),
    /// Gates and ups of a feed-forward network in turn, so many numbers together.
    GateUp(usize),
    /// The inner activations of feed-forward networks of this width. A width is a value: where rows end in zeros that pad
    /// them, those of another width may not lie there.
    Inner(usize),
    /// What tokens bring along for each layer, so many numbers.
    PerLayer(usize),
    /// What a layer makes of its own, so many.
    PerLayerGate(usize),
    /// A router's logits, one for each of so many experts.
    RouterLogits(usize),
    /// The experts that a router chose, so many for each token, with their weights.
    Routing(usize),
    /// The inner activations of the experts of each token, side by side; each expert's are padded by itself.
    ExpertsInner {
        /// Experts of a token.
        experts: usize,
        /// Width of each.
        width: usize,
    },
    /// A block's output on its way through a norm.
    BlockOutput,
    /// Rows of the residual stream that logits are wanted for.
    HeadRows,
    /// The same after the final norm.
    HeadNormed,
    /// Logits.
    Logits,
}

impl Value {
    /// Values in a row, at most, over all layers.
    pub fn width(self, spec: &DecoderSpec) -> usize {
        match self {
            Self::Hidden | Self::Normed | Self::BlockOutput | Self::HeadRows | Self::HeadNormed => spec.hidden_size,
            Self::Qkv => spec.max_qkv_size(),
            Self::Query | Self::Attended => spec.max_attention_size(),
            Self::Inner(width)
            | Self::Streams(width)
            | Self::Laurel(width)
            | Self::GateUp(width)
            | Self::PerLayer(width)
            | Self::PerLayerGate(width)
            | Self::ConvInput(width)
            | Self::Convolved(width)
            | Self::DeltaInput(width)
            | Self::DeltaMixed(width)
            | Self::DeltaOutput(width)
            | Self::MambaInput(width)
            | Self::MambaMixed(width)
            | Self::MambaOutput(width)
            | Self::RouterLogits(width) => width,
            // An id and a weight.
            Self::Routing(experts) => 2 * experts,
            Self::ExpertsInner { experts, width } => experts * padded(width),
            Self::Logits => spec.vocab_size,
        }
    }

    /// Whether its rows have zeros that pad them.
    pub fn is_padded(self, spec: &DecoderSpec) -> bool {
        let width = if let Self::ExpertsInner { width, .. } = self { width } else { self.width(spec) };
        width != padded(width)
    }

    /// Whether it has a row a wanted row of logits, and not a row a token.
    pub fn is_of_head(self) -> bool {
        matches!(self, Self::HeadRows | Self::HeadNormed | Self::Logits)
    }

    /// Its name in printed programs and profiles.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hidden => "hidden",
            Self::Normed => "normed",
            Self::Qkv => "qkv",
            Self::Query => "query",
            Self::Attended => "attended",
            Self::ConvInput(_) => "conv_input",
            Self::Convolved(_) => "convolved",
            Self::DeltaInput(_) => "delta_input",
            Self::DeltaMixed(_) => "delta_mixed",
            Self::DeltaOutput(_) => "delta_output",
            Self::MambaInput(_) => "mamba_input",
            Self::MambaMixed(_) => "mamba_mixed",
            Self::MambaOutput(_) => "mamba_output",
            Self::Inner(_) => "inner",
            Self::Streams(_) => "streams",
            Self::Laurel(_) => "laurel",
            Self::GateUp(_) => "gate_up",
            Self::PerLayer(_) => "per_layer",
            Self::PerLayerGate(_) => "per_layer_gate",
            Self::RouterLogits(_) => "router_logits",
            Self::Routing(_) => "routing",
            Self::ExpertsInner { .. } => "experts_inner",
            Self::BlockOutput => "block_output",
            Self::HeadRows => "head_rows",
            Self::HeadNormed => "head_normed",
            Self::Logits => "logits",
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
