//! Mixtures of experts: which experts a token uses, and products with their matrices. Ids of experts never leave the GPU.

use super::projection::{Output, Projection};
use crate::device::{Binding, Dispatch, Flag, Gpu, GpuError, Kernel};
use haikuq_format::layout::padded;
use haikuq_format::spec::{Experts, Scores};

super::shader!(CHOOSE_EXPERTS = "choose_experts");
super::shader!(MATMUL_EXPERTS = "matmul_experts");
super::shader!(MATVEC_EXPERTS = "matvec_experts");
super::shader!(SORT_EXPERTS = "sort_experts");
super::shader!(SUM_EXPERTS = "sum_experts");

/// Pairs of expert and weight from one token's routing to the next one's.
pub fn routing_pitch(active: usize) -> usize {
    padded(2 * active) / 2
}

/// The experts of each token, and their weights, from a router's logits.
#[derive(Clone, Debug)]
pub struct ChooseExperts<'a> {
    /// Rows of logits.
    pub tokens: u32,
    /// How they are chosen.
    pub experts: Experts,
    /// f32 \[tokens\]\[padded(rows of the router)\].
    pub logits: Binding<'a>,
    /// One f32 for each expert that tokens choose among, where there is a bias of the choice.
    pub selection_bias: Option<Binding<'a>>,
    /// \[tokens\]\[[`routing_pitch`]\] of pairs: expert (u32), weight (f32).
    pub routing: Binding<'a>,
}

impl ChooseExperts<'_> {
    /// Binds the kernel.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if it does not fit the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Dispatch, GpuError> {
        let experts = &self.experts;
        let constants = [
            ("EXPERTS", experts.num_routed() as f64),
            ("ACTIVE", experts.num_chosen() as f64),
            ("SHARED", experts.shared as f64),
            ("GATED", f64::from(u8::from(experts.shared_gate))),
            ("PITCH", padded(experts.router_rows()) as f64),
            ("ROUTING_PITCH", routing_pitch(experts.num_active) as f64),
            ("SIGMOID", f64::from(u8::from(experts.scores == Scores::Sigmoid))),
            ("NORMALIZED", f64::from(u8::from(experts.normalized))),
            ("EPSILON", experts.epsilon.into()),
            ("SCALE", experts.scale.into()),
        ];
        let mut bindings = vec![(0, self.logits.clone()), (2, self.routing.clone())];
        let mut flags = Vec::new();
        if let Some(bias) = &self.selection_bias {
            flags.push(Flag::Bias);
            bindings.push((1, bias.clone()));
        }
        let grid = [self.tokens, 1, 1];
        Kernel { shader: &CHOOSE_EXPERTS, flags: &flags, constants: &constants, bindings: &bindings, grid }.bind(gpu)
    }
}

/// The CPU twin of [`ChooseExperts`] for one token: experts and weights.
pub fn choose_cpu(experts: &Experts, logits: &[f32], selection_bias: Option<&[f32]>) -> Vec<(usize, f32)> {
    let (logits, gate) = logits.split_at(experts.num_routed());
    let gate = gate.first().map_or(1.0, |l| (1.0 / (1.0 + f64::from(-l).exp())) as f32);
    let largest = logits.iter().fold(f32::NEG_INFINITY, |a, l| a.max(*l));
    let score = |l: f32| match experts.scores {
        Scores::Softmax => f64::from(l - largest).exp(),
        Scores::Sigmoid => 1.0 / (1.0 + f64::from(-l).exp()),
    };
    let scores: Vec<f64> = logits.iter().map(|l| score(*l)).collect();
    let key = |e: usize| selection_bias.map_or(f64::from(logits[e]), |bias| scores[e] + f64::from(bias[e]));
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| key(b).total_cmp(&key(a)));
    order.truncate(experts.num_chosen());
    let total = match (experts.normalized, experts.scores) {
        (true, _) => f64::from(experts.epsilon) + order.iter().map(|e| scores[*e]).sum::<f64>(),
        (false, Scores::Softmax) => scores.iter().sum(),
        (false, Scores::Sigmoid) => 1.0,
    };
    let chosen = order.into_iter().map(|e| (e, (f64::from(experts.scale) * scores[e] / total) as f32));
    chosen.chain((experts.num_routed()..experts.num_experts).map(|e| (e, gate))).collect()
}

/// A product with the matrices of each token's experts. Where the projection's mode is [`Output::Glu`] or [`Output::Activate`] each expert
/// writes its own output, `padded` to whole units, side by side; where it is [`Output::Store`] or [`Output::Residual`] the inputs lie so, and the
/// output is the sum of the experts', each times its weight.
#[derive(Clone, Debug)]
pub struct MatvecExperts<'a> {
    /// All experts' matrices as one, activations and output. The output's stride counts where experts are summed up, the input's
    /// where they are not.
    pub projection: Projection<'a>,
    /// Experts that there are.
    pub num_experts: usize,
    /// Experts of a token.
    pub active: usize,
    /// As [`ChooseExperts`] writes it.
    pub routing: Binding<'a>,
}

impl MatvecExperts<'_> {
    /// One dispatch a chunk of the matrix, in this order.
    ///
    /// # Errors
    /// [`GpuError::Validation`] if sizes do not fit together, [`GpuError::Limit`] if a chunk is too large for the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Vec<Dispatch>, GpuError> {
        let projection = &self.projection;
        let rows = expert_rows(projection, self.num_experts)?;
        let (matrix, mode) = (projection.matrix, projection.mode);
        let combine = sums_up(mode);
        let mut flags = projection.flags(gpu);
        flags.extend(combine.then_some(Flag::Combine));
        let constants = [
            ("WORKGROUP", 64.0),
            ("ACTIVATION", mode.activation()),
            ("ACTIVE", self.active as f64),
            ("EXPERT_ROWS", rows as f64),
            ("ROUTING_PITCH", routing_pitch(self.active) as f64),
            ("OUTPUT_PITCH", padded(mode.width(rows)) as f64),
        ];
        let pairs = if combine { projection.tokens } else { projection.tokens * self.active };
        let bind = |chunk| {
            let params = projection.params(gpu, chunk, 0.0);
            let mut bindings = projection.bindings(&params, chunk);
            bindings.push((7, self.routing.clone()));
            let grid = [(rows / 4) as u32, pairs as u32, 1];
            Kernel { shader: &MATVEC_EXPERTS, flags: &flags, constants: &constants, bindings: &bindings, grid }.bind(gpu)
        };
        matrix.chunks.iter().map(bind).collect()
    }
}

/// Whether the outputs of a token's experts are summed up; else each is written side by side.
pub(super) const fn sums_up(mode: Output) -> bool {
    matches!(mode, Output::Store | Output::Residual { .. })
}

/// Rows of an expert, a multiple of four, at which chunks begin too.
fn expert_rows(projection: &Projection<'_>, num_experts: usize) -> Result<usize, GpuError> {
    let matrix = projection.matrix;
    matrix.check()?;
    let rows = matrix.rows / num_experts.max(1);
    if rows * num_experts != matrix.rows || !rows.is_multiple_of(4) {
        return Err(GpuError::Validation(format!("{} rows of {num_experts} experts", matrix.rows)));
    }
    // The last chunk ends with its matrix, a multiple of four rows.
    match matrix.chunks.iter().find(|c| !c.first_row.is_multiple_of(4)) {
        Some(chunk) => Err(GpuError::Validation(format!("a chunk of experts begins at row {}", chunk.first_row))),
        None => Ok(rows),
    }
}

/// As [`MatvecExperts`], for many tokens: those that an expert has in common read its weights together, up to [`TILE`] of them.
#[derive(Clone, Debug)]
pub struct MatmulExperts<'a> {
    /// The product.
    pub product: MatvecExperts<'a>,
    /// [`MatmulExperts::group_bytes`], for the order of tokens by expert.
    pub groups: Binding<'a>,
    /// Where experts are summed up, f32 \[tokens × active\]\[padded rows of an expert\]; not the buffer of `groups`.
    pub each: Binding<'a>,
}

/// Tokens of an expert that are computed together, as in `matmul_experts.wgsl`.
pub const TILE: usize = 8;

/// Tiles that `pairs` pairs of token and expert take at most, where a tile has up to `tile` of one expert.
fn tiles(pairs: usize, num_experts: usize, tile: usize) -> usize {
    pairs / tile + num_experts.min(pairs)
}

impl<'a> MatmulExperts<'a> {
    /// Bytes that the order takes, in tiles of [`TILE`] pairs or more.
    pub fn group_bytes(tokens: usize, active: usize, num_experts: usize) -> u64 {
        4 * (3 * tiles(tokens * active, num_experts, TILE) + tokens * active) as u64
    }

    /// Bytes of all experts' outputs of `rows` rows.
    pub fn each_bytes(tokens: usize, active: usize, rows: usize) -> u64 {
        4 * (tokens * active * padded(rows)) as u64
    }

    /// Dispatches in this order.
    ///
    /// # Errors
    /// As those of [`MatvecExperts::bind`].
    pub fn bind(&self, gpu: &Gpu) -> Result<Vec<Dispatch>, GpuError> {
        let Tiled { each, mut tiles, sort, sum } = self.tiled(gpu, TILE)?;
        let mut flags = each.flags(gpu);
        flags.extend(tiles.each_has_input.then_some(Flag::Each));
        tiles.constants.push(("ACTIVATION", each.mode.activation()));
        let constants = tiles.constants;
        let mut dispatches = vec![sort];
        for chunk in &each.matrix.chunks {
            let params = each.params(gpu, chunk, 0.0);
            let mut bindings = each.bindings(&params, chunk);
            bindings.push((7, tiles.groups.clone()));
            let grid = [tiles.rows / 4, tiles.number, 1];
            let kernel = Kernel { shader: &MATMUL_EXPERTS, flags: &flags, constants: &constants, bindings: &bindings, grid };
            dispatches.push(kernel.bind(gpu)?);
        }
        dispatches.extend(sum);
        Ok(dispatches)
    }

    /// What kernels have in common that compute tiles of up to `tile` pairs of an expert.
    ///
    /// # Errors
    /// [`GpuError::Validation`] if sizes do not fit together.
    pub(super) fn tiled(&self, gpu: &Gpu, tile: usize) -> Result<Tiled<'a>, GpuError> {
        let MatvecExperts { projection, num_experts, active, routing } = &self.product;
        let (rows, mode, tokens) = (expert_rows(projection, *num_experts)?, projection.mode, projection.tokens);
        let pairs = tokens * active;
        let tiles = tiles(pairs, *num_experts, tile);
        let constants = [
            ("PAIRS", pairs as f64),
            ("ACTIVE", *active as f64),
            ("EXPERTS", *num_experts as f64),
            ("ROUTING_PITCH", routing_pitch(*active) as f64),
            ("TILE", tile as f64),
            ("TILES", tiles as f64),
        ];
        let bindings = [(0, routing.clone()), (1, self.groups.clone())];
        let sort = Kernel { shader: &SORT_EXPERTS, flags: &[], constants: &constants, bindings: &bindings, grid: [1, 1, 1] };
        let sort = sort.bind(gpu)?;
        let sums = sums_up(mode);
        let own = Projection { output_stride: padded(mode.width(rows)), ..projection.clone() };
        let each = match sums {
            true => Projection { output: self.each.clone(), mode: Output::Store, ..own },
            false => own,
        };
        let sum = if sums { Some(self.sum(gpu, rows)?) } else { None };
        let constants = vec![("ACTIVE", *active as f64), ("EXPERT_ROWS", rows as f64), ("TILES", tiles as f64)];
        let (groups, rows, number) = (self.groups.clone(), rows as u32, tiles as u32);
        let tiles = ExpertTiles { groups, constants, rows, number, each_has_input: sums };
        Ok(Tiled { each, tiles, sort, sum })
    }

    /// Adds up the outputs of each token's experts.
    fn sum(&self, gpu: &Gpu, rows: usize) -> Result<Dispatch, GpuError> {
        let MatvecExperts { projection, active, routing, .. } = &self.product;
        let (multiplier, flags) = match projection.mode {
            Output::Residual { multiplier } => (multiplier, &[Flag::Residual][..]),
            _ => (1.0, &[][..]),
        };
        let constants = [
            ("ACTIVE", *active as f64),
            ("COLUMNS", rows as f64),
            ("ROUTING_PITCH", routing_pitch(*active) as f64),
            ("PITCH", padded(rows) as f64),
            ("MULTIPLIER", multiplier.into()),
        ];
        let bindings = [(0, routing.clone()), (1, self.each.clone()), (2, projection.output.clone())];
        let grid = [rows.div_ceil(64) as u32, projection.tokens as u32, 1];
        Kernel { shader: &SUM_EXPERTS, flags, constants: &constants, bindings: &bindings, grid }.bind(gpu)
    }
}

/// A product with experts, for kernels that compute it by tiles.
pub(super) struct Tiled<'a> {
    /// Each pair's product; its output's stride is that from pair to pair.
    pub each: Projection<'a>,
    /// What a tile is.
    pub tiles: ExpertTiles<'a>,
    /// To run before.
    pub sort: Dispatch,
    /// To run after, where experts are summed up.
    pub sum: Option<Dispatch>,
}

/// Which rows and tokens workgroups have, for kernels that import `shared/tile_rows.wgsl`.
pub(super) struct ExpertTiles<'a> {
    /// As `sort_experts` writes it.
    pub groups: Binding<'a>,
    /// Those of the shared file.
    pub constants: Vec<(&'static str, f64)>,
    /// Rows of an expert.
    pub rows: u32,
    /// Tiles at most.
    pub number: u32,
    /// Whether each pair has an input of its own.
    pub each_has_input: bool,
}

/// Arguments of the CPU twin of [`MatvecExperts`] for one token.
pub struct Cpu<'a> {
    /// All experts' weights.
    pub weights: &'a [f32],
    /// Columns.
    pub columns: usize,
    /// One value a row of all experts.
    pub bias: Option<&'a [f32]>,
    /// Experts that there are.
    pub num_experts: usize,
    /// Experts of the token with their weights.
    pub chosen: &'a [(usize, f32)],
    /// What becomes of the sums.
    pub mode: Output,
}

/// The CPU twin. `input` is one row, or one for each chosen expert where these are summed up; `y` likewise, and no row is padded.
pub fn cpu(arguments: &Cpu<'_>, input: &[f32], y: &mut [f32]) {
    let Cpu { weights, columns, bias, num_experts, chosen, mode } = *arguments;
    let rows = weights.len() / columns / num_experts;
    let sum_of = |expert: usize, row: usize, x: &[f32]| {
        let at = expert * rows + row;
        let dot =
            weights[at * columns..(at + 1) * columns].iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>();
        dot + bias.map_or(0.0, |b| f64::from(b[at]))
    };
    match mode {
        Output::Store | Output::Residual { .. } => {
            let each = || chosen.iter().zip(input.chunks_exact(columns));
            let sums: Vec<f32> =
                (0..rows).map(|row| each().map(|((e, w), x)| f64::from(*w) * sum_of(*e, row, x)).sum::<f64>() as f32).collect();
            mode.cpu(&sums, y);
        }
        _ => {
            for ((e, _), y) in chosen.iter().zip(y.chunks_exact_mut(mode.width(rows))) {
                let sums: Vec<f32> = (0..rows).map(|row| sum_of(*e, row, input) as f32).collect();
                mode.cpu(&sums, y);
            }
        }
    }
}
