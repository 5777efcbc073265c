//! `matvec_int8`: matrix times the activations of one to eight tokens, which are quantized to eight bits in blocks of 32.
//!
//! Its CPU twin is that of [`matvec`](super::matvec) on activations that [`quantize::cpu`](super::quantize::cpu) and a codebook that
//! [`cpu_codebook`] has rounded.

use super::attention::AttentionShape;
use super::candidate::{Candidate, Numerics};
use super::matvec::{MAX_TOKENS, Norm};
use super::project::{Project, ProjectHeads, ProjectHeadsShape, ProjectShape};
use super::projection::Projection;
use super::quantize::Quantize;
use super::rope_cache::{Rope, scaling_constants};
use super::weights::{GpuChunk, GpuMatrix};
use crate::device::{Binding, Dispatch, Flag, Gpu, GpuError, Kernel, Profile, grid_1d};
use haikuq_format::layout::UNIT;
use haikuq_format::scheme::{Bits, Codebook, Grouped, Scheme};
use haikuq_format::spec::QueryScaling;

use crate::program::Phase;

super::shader!(MATVEC_INT8 = "matvec_int8");

/// One to eight tokens on a GPU with packed dot products.
pub static CANDIDATE: Candidate<Project> = Candidate {
    name: "matvec_int8",
    numerics: Numerics::Fast,
    can: |profile, shape| can(profile, shape, false),
    fits: |profile, shape| is_meant(profile, shape, false),
    scratch: |profile, shape| MatvecInt8::scratch_bytes(profile, &Shape::new(shape, false)),
    bind: |gpu, job| {
        let (projection, norm, scratch) = (job.projection.clone(), job.norm.clone(), Some(job.scratch.clone()));
        MatvecInt8 { projection, norm, heads: None, scratch, tuning: None }.bind(gpu)
    },
};

/// The same for queries, keys and values, which are rotated and written to the cache at the end.
pub static HEADS: Candidate<ProjectHeads> = Candidate {
    name: "matvec_int8_heads",
    numerics: Numerics::Fast,
    can: |profile, shape| can(profile, &shape.project, true) && are_heads(shape),
    fits: |profile, shape| is_meant(profile, &shape.project, true) && are_heads(shape),
    scratch: |profile, shape| MatvecInt8::scratch_bytes(profile, &Shape::new(&shape.project, true)),
    bind: |gpu, job| {
        let (projection, norm) = (job.project.projection.clone(), job.project.norm.clone());
        let (heads, scratch) = (Some(job.heads.clone()), Some(job.project.scratch.clone()));
        MatvecInt8 { projection, norm, heads, scratch, tuning: None }.bind(gpu)
    },
};

/// Whether weights are as finely rounded as the activations would be: then these would lose more than the weights do.
pub(super) fn is_as_fine(scheme: Scheme) -> bool {
    grouped(scheme).is_none_or(|g| g.bits == Bits::B8)
}

fn can(profile: &Profile, shape: &ProjectShape, heads: bool) -> bool {
    shape.phase == Phase::Decode && !is_as_fine(shape.scheme) && fits(profile, &Shape::new(shape, heads))
}

fn is_meant(profile: &Profile, shape: &ProjectShape, heads: bool) -> bool {
    !profile.software && can(profile, shape, heads) && pays(&Shape::new(shape, heads))
}

fn are_heads(shape: &ProjectHeadsShape) -> bool {
    let heads = shape.attention.qkv_size() as usize == shape.project.rows && shape.one_chunk && !shape.norms;
    heads && heads_fit(&shape.attention, shape.rotated)
}

/// `y[t] = output(W norm(x[t]) + bias)` for 1 to [`MAX_TOKENS`] tokens, with x in eight bits.
///
/// A token's output is the same for every number of tokens that is quantized in the same way; see [`Tuning::inline`].
#[derive(Clone, Debug)]
pub struct MatvecInt8<'a> {
    /// Matrix, activations and output. With `heads` the output is the queries' buffer.
    pub projection: Projection<'a>,
    /// RMS norm of the input, on the way.
    pub norm: Option<Norm<'a>>,
    /// Queries, keys and values are rotated and go to where attention reads them.
    pub heads: Option<Heads<'a>>,
    /// [`MatvecInt8::scratch_bytes`] for the quantized activations.
    pub scratch: Option<Binding<'a>>,
    /// How the work is divided; [`Tuning::new`] where absent.
    pub tuning: Option<Tuning>,
}

/// Where rows of queries, keys and values go, as [`RopeCache`](super::rope_cache::RopeCache) would write them.
#[derive(Clone, Debug)]
pub struct Heads<'a> {
    /// Heads and cache.
    pub shape: AttentionShape,
    /// No rotation where absent.
    pub rope: Option<Rope<'a>>,
    /// How queries grow, if they do.
    pub query_scaling: Option<QueryScaling>,
    /// [`Token`](super::attention::Token)s of the step.
    pub tokens: Binding<'a>,
    /// Page table, u32 \[sequences\]\[max_pages\].
    pub pages: Binding<'a>,
    /// Pool of keys.
    pub keys: Binding<'a>,
    /// Pool of values.
    pub values: Binding<'a>,
}

/// What decides whether the kernel works on a device, and how it divides its work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// How the weights are stored.
    pub scheme: Scheme,
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns, without padding.
    pub columns: usize,
    /// Tokens.
    pub tokens: usize,
    /// Whether rows are heads.
    pub heads: bool,
}

impl Shape {
    fn new(shape: &ProjectShape, heads: bool) -> Self {
        Self { scheme: shape.scheme, rows: shape.rows, columns: shape.columns, tokens: shape.tokens, heads }
    }
}

/// How the kernel divides its work; all but `depth` are powers of two, but for `rows`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Invocations of a workgroup: 32 to 256.
    pub workgroup: u32,
    /// Neighbouring lanes that share a row: 2 to the smallest subgroup's size.
    pub lanes: u32,
    /// Parts of a workgroup that share the columns of the same rows: 1 to `workgroup / lanes`.
    pub bands: u32,
    /// Tokens that a lane takes: 1, 2, 4 or 8, no more than there are.
    pub tokens: u32,
    /// Rows that they take at once: 1, 2 or 4.
    pub at_once: u32,
    /// Units a lane reads ahead: 1 to 4.
    pub depth: u32,
    /// Rows of a workgroup: a multiple of 8 and of `workgroup / lanes / bands × at_once`, divided by how many lanes share the tokens; with the tokens (2, 4 or 8 of several) no
    /// more than four an invocation.
    pub rows: u32,
    /// Copies of a learned table in workgroup memory: 1 to 32.
    pub replicas: u32,
    /// Whether each workgroup quantizes the activations, and not a dispatch of its own.
    pub inline: bool,
}

impl Tuning {
    /// What was fastest on a large GPU (an NVIDIA H200), within the limits of this one.
    ///
    /// Few rows a workgroup spread a small matrix over all cores; many rows share the cost of quantizing the activations.
    /// Lookups take so long that loads need not be far ahead, and four rows share what is read of the activations.
    pub fn new(profile: &Profile, shape: &Shape) -> Self {
        let units = shape.columns.div_ceil(UNIT) as u32;
        let widest = profile.subgroup_min_size.min(32).min(units.next_power_of_two()).max(2);
        let mut tuning = if shape.tokens == 1 { Self::one(shape, widest, units) } else { Self::several(shape, widest, units) };
        let fits = |tuning: &Self| tuning.memory(profile, shape) <= profile.workgroup_memory;
        while !fits(&tuning) && tuning.replicas > 1 {
            tuning.replicas /= 2;
        }
        tuning.inline &= fits(&tuning);
        tuning
    }

    /// For one token, which has lanes enough in a row.
    fn one(shape: &Shape, lanes: u32, units: u32) -> Self {
        let learned = is_learned(shape.scheme);
        let at_once = if learned { 4 } else { 2 };
        let depth = if learned { 1 } else { Self::depth(units, lanes) };
        let (workgroup, replicas) = ((8 * lanes).clamp(64, 256), 16);
        let turn = workgroup / lanes * at_once;
        let many = (shape.rows / 256).next_power_of_two() as u32;
        let rows = many.clamp(turn, turn.max(if learned { 32 } else { 64 })).next_multiple_of(8);
        Self { workgroup, lanes, bands: 1, tokens: 1, at_once, depth, rows, replicas, inline: true }
    }

    /// Units to read ahead, so that the same number is read in each round.
    fn depth(units: u32, lanes: u32) -> u32 {
        let rounds = units.div_ceil(lanes);
        rounds.div_ceil(rounds.div_ceil(4))
    }

    /// For several tokens. Two is nearly one. More of them read so many activations that few lanes walk along a row, in which
    /// those with the same tokens read the same, and bands give each lane enough to do elsewhere. The more rows there are,
    /// the less it counts how long the code is.
    fn several(shape: &Shape, widest: u32, units: u32) -> Self {
        let all = accumulators(shape.tokens);
        let plain = Self {
            workgroup: 256,
            lanes: widest,
            bands: 1,
            tokens: 2,
            at_once: 2,
            depth: Self::depth(units, widest),
            rows: 0,
            replicas: 16,
            inline: false,
        };
        let mut tuning = if all == 2 {
            plain
        } else {
            let lanes = if units > 128 { 16 } else { 8 }.min(widest);
            let bands = 1 << (units / lanes).max(1).ilog2().min(2);
            let tokens = if shape.rows >= 8192 || units > 128 { 4 } else { 2 };
            Self { lanes, bands, tokens, at_once: 4, depth: 1, ..plain }
        };
        // No more rows than the workgroup can finish, four of a token each.
        while tuning.turn(shape) > 4 * tuning.workgroup / all {
            tuning.bands *= 2;
        }
        let turn = tuning.turn(shape);
        tuning.rows = turn * 8u32.div_ceil(turn);
        tuning
    }

    /// Rows that a workgroup takes at once.
    fn turn(&self, shape: &Shape) -> u32 {
        self.workgroup / (self.lanes * self.token_lanes(shape) * self.bands) * self.at_once
    }

    /// Runs of lanes that share the tokens.
    fn token_lanes(&self, shape: &Shape) -> u32 {
        accumulators(shape.tokens) / self.tokens
    }

    /// Units that the activations have room for: whole runs of all lanes.
    fn room(&self, columns: usize) -> u32 {
        (columns.div_ceil(UNIT) as u32).next_multiple_of(self.lanes * self.bands * self.depth)
    }

    /// Bytes of workgroup memory.
    fn memory(&self, profile: &Profile, shape: &Shape) -> u32 {
        let tokens = accumulators(shape.tokens);
        let inline = if self.inline { tokens * (self.room(shape.columns) * 40 + 4 * self.subgroups(profile)) } else { 0 };
        tokens * self.rows * self.bands * 4 + 4 * table_words(shape.scheme, self.replicas) + inline
    }

    fn subgroups(&self, profile: &Profile) -> u32 {
        self.workgroup.div_ceil(profile.subgroup_min_size.max(1))
    }
}

/// Tokens for which there are accumulators.
fn accumulators(tokens: usize) -> u32 {
    (tokens as u32).next_power_of_two()
}

/// Whether the kernel works: packed dots, subgroups in which pairs of lanes can share a row, weights in codes.
pub fn fits(profile: &Profile, shape: &Shape) -> bool {
    let tuning = Tuning::new(profile, shape);
    profile.packed_dot
        && profile.subgroups
        && profile.subgroup_min_size >= 4
        && matches!(shape.scheme, Scheme::Grouped(_))
        && (1..=MAX_TOKENS).contains(&shape.tokens)
        && tuning.memory(profile, shape) <= profile.workgroup_memory
        && (!shape.heads || profile.max_storage_buffers >= 13)
}

/// Whether the kernel is faster than [`matvec`](super::matvec), as measured on an NVIDIA H200: from one token always, unless a
/// learned codebook of four or five bits must be looked up for few rows; from several tokens where a matrix is large enough
/// to make up for the dispatch that quantizes the activations.
pub fn pays(shape: &Shape) -> bool {
    let Some(g) = grouped(shape.scheme) else { return false };
    if shape.tokens > 1 {
        return shape.rows * shape.columns >= 4 << 20;
    }
    match g.bits {
        _ if !is_learned(shape.scheme) => true,
        Bits::B3 => shape.columns >= 1024,
        Bits::B4 => shape.rows >= 8192,
        Bits::B5 | Bits::B8 => false,
    }
}

/// Whether the kernel can rotate and write heads of this shape.
pub fn heads_fit(shape: &AttentionShape, rotated: u32) -> bool {
    shape.head_dim.is_multiple_of(8) && rotated.is_multiple_of(4) && 2 * rotated <= shape.head_dim
}

fn grouped(scheme: Scheme) -> Option<Grouped> {
    match scheme {
        Scheme::Grouped(g) => Some(g),
        Scheme::F16 | Scheme::F32 => None,
    }
}

fn is_learned(scheme: Scheme) -> bool {
    grouped(scheme).is_some_and(|g| g.codebook == Codebook::Learned)
}

/// Whether codes are looked up in pairs.
fn is_paired(scheme: Scheme) -> bool {
    is_learned(scheme) && grouped(scheme).is_some_and(|g| matches!(g.bits, Bits::B3 | Bits::B4))
}

fn table_words(scheme: Scheme, replicas: u32) -> u32 {
    let entries = match grouped(scheme).map(|g| g.bits) {
        _ if !is_learned(scheme) => return 0,
        Some(Bits::B3) => 64,
        Some(Bits::B4) => 256,
        _ => 32,
    };
    entries * replicas
}

impl MatvecInt8<'_> {
    /// Bytes of scratch memory: none where the activations are quantized inline.
    pub fn scratch_bytes(profile: &Profile, shape: &Shape) -> u64 {
        let tuning = Tuning::new(profile, shape);
        if tuning.inline { 0 } else { tuning.scratch_bytes(shape) }
    }

    fn shape(&self) -> Shape {
        let Projection { matrix, tokens, .. } = &self.projection;
        let GpuMatrix { scheme, rows, columns, .. } = **matrix;
        Shape { scheme, rows, columns, tokens: *tokens, heads: self.heads.is_some() }
    }

    /// The dispatch that quantizes the activations, if it takes one, and then one a chunk of the matrix.
    ///
    /// # Errors
    /// [`GpuError::Validation`] if sizes do not fit together, [`GpuError::Limit`] if a chunk is too large for the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Vec<Dispatch>, GpuError> {
        let (projection, shape, profile) = (&self.projection, self.shape(), &gpu.profile);
        let refuse = |why: &str| Err(GpuError::Validation(format!("a product with activations of eight bits: {why}")));
        match &self.heads {
            None => projection.check()?,
            Some(heads) => {
                projection.check_input()?;
                if projection.matrix.chunks.len() != 1 || projection.matrix.rows != heads.shape.qkv_size() as usize {
                    return refuse("rows are not those of the heads, in one chunk");
                }
                if !heads_fit(&heads.shape, heads.rope.as_ref().map_or(0, |r| r.rotated)) {
                    return refuse("heads whose pairs do not come in fours");
                }
            }
        }
        if !fits(profile, &shape) {
            return refuse("the device or the shape is not fit for it");
        }
        let tuning = self.tuning.unwrap_or_else(|| Tuning::new(profile, &shape));
        let tokens = accumulators(shape.tokens);
        let fits_memory = tuning.memory(profile, &shape) <= profile.workgroup_memory;
        if !fits_memory || tokens * tuning.rows > 4 * tuning.workgroup || tuning.tokens > tokens {
            return refuse("its work cannot be divided like this");
        }
        let room = tuning.room(shape.columns);
        let mut flags: Vec<Flag> = projection.flags_of_packed();
        flags.push(Flag::Subgroups);
        flags.extend(is_paired(shape.scheme).then_some(Flag::Paired));
        flags.extend(match tuning.tokens {
            1 => &[][..],
            2 => &[Flag::Columns2][..],
            4 => &[Flag::Columns4][..],
            _ => &[Flag::Columns8][..],
        });
        flags.extend(match tuning.at_once {
            1 => None,
            2 => Some(Flag::Rows2),
            _ => Some(Flag::Rows4),
        });
        let mut constants = vec![
            ("WORKGROUP", f64::from(tuning.workgroup)),
            ("LANES", tuning.lanes.into()),
            ("LANES_LOG2", tuning.lanes.ilog2().into()),
            ("BANDS", tuning.bands.into()),
            ("TOKEN_LANES", tuning.token_lanes(&shape).into()),
            ("DEPTH", tuning.depth.into()),
            ("ROWS", tuning.rows.into()),
            ("CHUNKS", (room / (tuning.lanes * tuning.bands * tuning.depth)).into()),
            ("UNITS", room.into()),
            ("ROW_UNITS", projection.matrix.units().into()),
            ("GROUPS", projection.matrix.groups().0.into()),
            ("GROUP_UNITS_LOG2", projection.matrix.groups().1.into()),
            ("PASSES", (tuning.rows / tuning.turn(&shape)).into()),
            ("MAX_SUBGROUPS", tuning.subgroups(profile).into()),
            ("ALL_SUMS", (tokens * tuning.rows * tuning.bands).into()),
        ];
        if is_learned(shape.scheme) {
            let levels = grouped(shape.scheme).map_or(0, |g| g.bits.levels());
            flags.extend((profile.subgroup_min_size >= levels).then_some(Flag::TableSubgroup));
            constants.extend([
                ("REPLICAS_LOG2", f64::from(tuning.replicas.ilog2())),
                ("TABLE_WORDS", table_words(shape.scheme, tuning.replicas).into()),
            ]);
        }
        let mut dispatches = Vec::new();
        let mut input = vec![(1, projection.input.clone())];
        let mut epsilon = 0.0;
        if tuning.inline {
            flags.push(Flag::Inline);
            constants.extend([
                ("ALL_WORDS", f64::from(tokens * 2 * room)),
                ("ALL_UNITS", (tokens * room).into()),
                ("INPUT_STRIDE", (projection.input_stride / 4) as f64),
            ]);
            if let Some(norm) = &self.norm {
                flags.push(Flag::Norm);
                constants.push(("ALL_SQUARES", (tokens * tuning.subgroups(profile)).into()));
                input.push((7, norm.gain.clone()));
                epsilon = norm.epsilon;
            }
        } else {
            let Some(scratch) = &self.scratch else { return refuse("there is no scratch memory") };
            let bytes = scratch.size.unwrap_or_else(|| scratch.buffer.size() - scratch.offset);
            if bytes < tuning.scratch_bytes(&shape) {
                return refuse("there is too little scratch memory");
            }
            let part =
                |offset: u64, size: u64| Binding { buffer: scratch.buffer, offset: scratch.offset + offset, size: Some(size) };
            let units = shape.tokens as u64 * u64::from(room);
            let affine = (units * 32).next_multiple_of(256);
            let (codes, affine) = (part(0, units * 32), part(affine, units * 8));
            input = vec![(1, codes.clone()), (7, affine.clone())];
            let quantize = Quantize {
                input: projection.input.clone(),
                stride: projection.input_stride,
                tokens: shape.tokens,
                columns: shape.columns,
                room,
                norm: self.norm.clone(),
                paired: is_paired(shape.scheme),
                codes,
                affine,
            };
            dispatches.push(quantize.bind(gpu)?);
        }
        if let Some(heads) = &self.heads {
            flags.push(Flag::Heads);
            flags.extend(heads.shape.flags());
            constants.extend(heads.shape.constants());
            constants.extend([("HEADS", heads.shape.num_heads.into()), ("Q_PITCH", (heads.shape.pitch() / 4).into())]);
            input.extend([
                (9, heads.tokens.clone()),
                (10, heads.pages.clone()),
                (11, heads.keys.clone()),
                (12, heads.values.clone()),
            ]);
            if let Some(rope) = &heads.rope {
                flags.push(Flag::Rope);
                constants.extend([("ROTATED", rope.rotated.into()), ("FACTOR", rope.factor.into())]);
                input.push((13, rope.inv_freq.clone()));
            }
            if let Some(scaling) = heads.query_scaling {
                flags.push(Flag::QueryScaling);
                constants.extend(scaling_constants(scaling));
            }
        } else {
            constants.push(("ACTIVATION", projection.mode.activation()));
        }
        let bind = |chunk: &GpuChunk| {
            let params = projection.params(gpu, chunk, epsilon);
            let mut bindings = projection.bindings(&params, chunk);
            bindings.retain(|(number, _)| *number != 1);
            bindings.extend(input.iter().cloned());
            let grid = grid_1d((chunk.rows as u32).div_ceil(tuning.rows));
            let mut constants = constants.clone();
            constants.push(("CHUNK_ROWS", chunk.rows as f64));
            Kernel { shader: &MATVEC_INT8, flags: &flags, constants: &constants, bindings: &bindings, grid }.bind(gpu)
        };
        for chunk in &projection.matrix.chunks {
            dispatches.push(bind(chunk)?);
        }
        Ok(dispatches)
    }
}

impl Tuning {
    fn scratch_bytes(&self, shape: &Shape) -> u64 {
        let units = shape.tokens as u64 * u64::from(self.room(shape.columns));
        (units * 32).next_multiple_of(256) + units * 8
    }
}

/// The values of a learned codebook as the kernel rounds them: to steps of the largest one / 127.
pub fn cpu_codebook(codebook: &[f32]) -> Vec<f32> {
    let limit = codebook.iter().fold(0f32, |m, v| m.max(v.abs()));
    if limit == 0.0 {
        return codebook.to_vec();
    }
    codebook.iter().map(|v| (v * (127.0 / limit)).round_ties_even() * (limit / 127.0)).collect()
}
