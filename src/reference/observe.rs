//! [`Observe`]: seeing, and replacing, what happens at the matrices of a layer.

use candle_core::{Result, Tensor};
use haikuq_format::spec::LayerSpec;

/// A matrix of a layer, by what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProjectionKind {
    /// The mixer's first: queries, keys and values, or what a convolution sees.
    MixerInput,
    /// The mixer's last, back to the residual stream.
    MixerOutput,
    /// The first matrix of the mixer beside it, where a layer has two.
    BesideInput,
    /// The last matrix of the mixer beside it.
    BesideOutput,
    /// `gate_up` where there is a gate, else `up`.
    Up,
    /// The feed-forward network's last, back to the residual stream.
    Down,
    /// From the residual stream to what a token's numbers for the layer are multiplied with.
    PerLayerGate,
    /// From these back to the residual stream.
    PerLayerOutput,
    /// From embeddings to numbers for all layers. It is no layer's matrix.
    PerLayerProjection,
    /// The learned residual layer's first matrix, from the mixer's input.
    LaurelLeft,
    /// Its last, to the residual stream.
    LaurelRight,
    /// From embeddings to one of several residual streams, from 1 on. It is no layer's matrix.
    StreamIn(usize),
    /// From one of these after the last layer. It is no layer's matrix.
    StreamOut(usize),
    /// The same of one of several experts.
    ExpertUp(usize),
    /// Likewise.
    ExpertDown(usize),
}

impl ProjectionKind {
    /// The expert whose block of rows it is, where it is one's.
    pub fn expert(self) -> Option<usize> {
        match self {
            Self::ExpertUp(expert) | Self::ExpertDown(expert) => Some(expert),
            _ => None,
        }
    }

    /// The first and the last matrix of a layer's mixers, in their order.
    pub const MIXERS: [[Self; 2]; 2] = [[Self::MixerInput, Self::MixerOutput], [Self::BesideInput, Self::BesideOutput]];

    /// Its matrix's canonical name, in layer `index`. The matrices of all experts are one.
    ///
    /// # Panics
    /// If the layer has no such matrix.
    pub fn name(self, layer: &LayerSpec, index: usize) -> String {
        match self {
            Self::StreamIn(stream) => format!("altup_in.{stream}"),
            Self::StreamOut(stream) => format!("altup_out.{stream}"),
            Self::PerLayerProjection => self.matrix(layer).into(),
            _ => format!("layers.{index}.{}", self.matrix(layer)),
        }
    }

    /// The last part of its matrix's canonical name. The matrices of all experts are one.
    ///
    /// # Panics
    /// If the layer has no such matrix.
    pub fn matrix(self, layer: &LayerSpec) -> &'static str {
        let beside = || layer.beside.as_ref().expect("a mixer beside the other").matrices();
        let mlp = || layer.mlp.as_ref().expect("a feed-forward network");
        match self {
            Self::MixerInput => layer.mixer.matrices()[0],
            Self::MixerOutput => layer.mixer.matrices()[1],
            Self::BesideInput => beside()[0],
            Self::BesideOutput => beside()[1],
            Self::Up | Self::ExpertUp(_) => mlp().up_name(),
            Self::Down | Self::ExpertDown(_) => mlp().down_name(),
            Self::PerLayerGate => "per_layer_gate",
            Self::PerLayerOutput => "per_layer_output",
            Self::PerLayerProjection => "per_layer_projection",
            Self::LaurelLeft => "laurel_left",
            Self::LaurelRight => "laurel_right",
            Self::StreamIn(_) | Self::StreamOut(_) => panic!("no layer's matrix"),
        }
    }
}

/// Which tokens go to which experts of a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// By expert, the tokens that use it, in order.
    pub chosen: Vec<Vec<u32>>,
    /// By expert, tokens whose activations are computed besides, and whose outputs go nowhere.
    pub also: Vec<Vec<u32>>,
}

impl Routing {
    /// All tokens that are computed for an expert.
    pub fn of_expert(&self, expert: usize) -> Vec<u32> {
        self.chosen[expert].iter().chain(&self.also[expert]).copied().collect()
    }
}

/// What a forward pass over windows tells of each matrix, in the order of computation.
pub trait Observe {
    /// Before a matrix is used: its weights `[rows, columns]` and its input `[positions, columns]`. Other canonical
    /// weights may take its place.
    ///
    /// # Errors
    /// The observer's own; they end the forward pass.
    fn replace(&mut self, kind: ProjectionKind, weights: &Tensor, input: &Tensor) -> Result<Option<Vec<f32>>>;

    /// Where a layer has experts, which tokens go to which; others may take its place.
    ///
    /// # Errors
    /// The observer's own.
    fn route(&mut self, routing: Routing) -> Result<Routing> {
        Ok(routing)
    }

    /// After: its output before a bias, or part of its rows, which may be changed.
    ///
    /// # Errors
    /// The observer's own.
    fn output(&mut self, _kind: ProjectionKind, output: Tensor) -> Result<Tensor> {
        Ok(output)
    }
}

/// Nobody looks.
pub(super) struct Unobserved;

impl Observe for Unobserved {
    fn replace(&mut self, _: ProjectionKind, _: &Tensor, _: &Tensor) -> Result<Option<Vec<f32>>> {
        Ok(None)
    }
}
