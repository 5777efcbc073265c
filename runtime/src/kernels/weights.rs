//! [`GpuMatrix`]: a weight matrix whose planes lie in GPU buffers, and what its scheme means to a shader.

use crate::device::{Binding, Flag, Gpu, GpuError};
use haikuq_format::layout::{PlaneBuffers, PlaneKind, UNIT, codes, groups, padded};
use haikuq_format::scheme::{Bits, Codebook, Grouped, Offset, ScaleType, Scheme};

/// A matrix on the GPU: its chunks' planes as bindings into shard buffers.
#[derive(Clone, Debug)]
pub struct GpuMatrix {
    /// How the weights are stored.
    pub scheme: Scheme,
    /// Rows (outputs) of the whole matrix.
    pub rows: usize,
    /// Columns (inputs), without padding.
    pub columns: usize,
    /// Runs of rows, in order.
    pub chunks: Vec<GpuChunk>,
    /// Where a learned codebook is looked up, if not where is best; to measure and to test them all.
    pub lookup: Option<Lookup>,
}

/// A run of whole rows.
#[derive(Clone, Debug)]
pub struct GpuChunk {
    /// The number of its first row in the matrix.
    pub first_row: usize,
    /// Its rows.
    pub rows: usize,
    /// Its planes, each once.
    pub planes: Vec<(PlaneKind, GpuPlane)>,
}

/// Where a plane lies.
#[derive(Clone, Debug)]
pub struct GpuPlane {
    /// The buffer of its shard.
    pub buffer: crate::device::Buffer,
    /// Its first byte, a multiple of 256.
    pub offset: u64,
    /// Its bytes, with or without the padding to a multiple of 256 (which the buffer must have).
    pub bytes: u64,
}

/// Where `matvec` and `matmul` look up the values of a learned codebook. A matvec reads its first weights while the table
/// is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// In workgroup memory, where each value has a bank of its own.
    Workgroup,
    /// In the registers of a subgroup: lane `c` holds the value of code `c`, or of 8 lanes those of `c`, `c + 8` and so on.
    /// Needs subgroups of 8 lanes or more.
    Subgroup,
}

impl Lookup {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Workgroup, Self::Subgroup];

    /// Whether it works on this device.
    pub fn works(self, gpu: &Gpu) -> bool {
        self == Self::Workgroup || (gpu.profile.subgroups && gpu.profile.subgroup_min_size >= 8)
    }

    /// What is fastest: one shuffle rather than workgroup memory; that rather than several shuffles, but for software, where
    /// reads in which lanes differ are slow.
    fn best(gpu: &Gpu, bits: Bits) -> Self {
        let one = gpu.profile.subgroup_min_size >= bits.levels();
        if Self::Subgroup.works(gpu) && (one || gpu.is_software()) { Self::Subgroup } else { Self::Workgroup }
    }

    fn flags(self, gpu: &Gpu, bits: Bits) -> &'static [Flag] {
        match self {
            Self::Workgroup => &[Flag::TableWorkgroup],
            Self::Subgroup if gpu.profile.subgroup_min_size < bits.levels() => {
                &[Flag::TableSubgroup, Flag::TableEightLanes, Flag::Subgroups, Flag::SubgroupLane]
            }
            Self::Subgroup => &[Flag::TableSubgroup, Flag::Subgroups, Flag::SubgroupLane],
        }
    }
}

impl GpuPlane {
    /// The plane as a shader sees it: with its padding, so that reads of whole vectors stay inside.
    pub fn binding(&self) -> Binding<'_> {
        let available = self.buffer.size().saturating_sub(self.offset);
        Binding { buffer: &self.buffer, offset: self.offset, size: Some(haikuq_format::align(self.bytes).min(available)) }
    }
}

impl GpuChunk {
    /// Uploads packed planes, each to a buffer of its own.
    pub fn upload(gpu: &Gpu, first_row: usize, rows: usize, planes: &PlaneBuffers) -> Self {
        let plane = |words: &[u32]| {
            let bytes = 4 * words.len() as u64;
            let buffer = gpu.storage("plane", haikuq_format::align(bytes));
            gpu.write(&buffer, 0, words);
            GpuPlane { buffer, offset: 0, bytes }
        };
        Self { first_row, rows, planes: planes.iter().map(|(kind, words)| (*kind, plane(words))).collect() }
    }

    /// Bindings of the planes by number: 3 codes or values, 4 high bits, 5 scales, 6 offsets or codebook.
    pub(super) fn bindings(&self) -> Vec<(u32, Binding<'_>)> {
        let number = |kind| match kind {
            PlaneKind::Codes | PlaneKind::Values => 3,
            PlaneKind::HighBits => 4,
            PlaneKind::Scales => 5,
            PlaneKind::Offsets | PlaneKind::Codebook => 6,
        };
        self.planes.iter().map(|(kind, plane)| (number(*kind), plane.binding())).collect()
    }
}

impl GpuMatrix {
    /// Bytes of all planes.
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().flat_map(|c| &c.planes).map(|(_, plane)| plane.bytes).sum()
    }

    /// Units of 32 weights in a row.
    pub(super) fn units(&self) -> u32 {
        (padded(self.columns) / UNIT) as u32
    }

    /// Groups in a row, and units in a group as a power of two (1 and 0 without groups).
    pub(super) fn groups(&self) -> (u32, u32) {
        match self.scheme {
            Scheme::Grouped(g) => (groups(self.columns, g.group) as u32, (g.group / UNIT).max(1).ilog2()),
            Scheme::F16 | Scheme::F32 => (1, 0),
        }
    }

    /// Flags that select how `shared/scheme.wgsl` reads the planes.
    pub(super) fn flags(&self) -> Vec<Flag> {
        let Grouped { bits, scale, offset, codebook, .. } = match self.scheme {
            Scheme::F32 => return vec![Flag::F32Weights],
            Scheme::F16 => return vec![Flag::F16Weights],
            Scheme::Grouped(g) => g,
        };
        let mut flags = vec![Flag::Grouped];
        flags.push(match scale {
            ScaleType::F16 => Flag::F16,
            ScaleType::E4M4 => Flag::ScaleE4m4,
        });
        flags.push(match bits {
            Bits::B3 => Flag::Q3,
            Bits::B4 => Flag::Q4,
            Bits::B5 => Flag::Q5,
            Bits::B8 => Flag::Q8,
        });
        flags.extend((codes::high_words(bits) > 0).then_some(Flag::HighBits));
        match offset {
            Offset::None => {}
            Offset::U4 => flags.push(Flag::OffsetU4),
            Offset::F16 => flags.push(Flag::OffsetF16),
        }
        if codebook == Codebook::Learned {
            flags.push(Flag::Learned);
        }
        flags
    }

    /// Flags that select where a learned codebook is looked up; none without one.
    pub(super) fn lookup_flags(&self, gpu: &Gpu) -> &'static [Flag] {
        match self.scheme {
            Scheme::Grouped(g) if g.codebook == Codebook::Learned => {
                let lookup = self.lookup.filter(|l| l.works(gpu)).unwrap_or_else(|| Lookup::best(gpu, g.bits));
                lookup.flags(gpu, g.bits)
            }
            _ => &[],
        }
    }

    /// Refuses what the kernels cannot read: a scheme that does not exist, planes that are missing or too many, chunks
    /// that do not follow one another.
    pub(super) fn check(&self) -> Result<(), GpuError> {
        let fail = |why: String| Err(GpuError::Validation(format!("a matrix of {} rows in {}: {why}", self.rows, self.scheme)));
        if let Err(why) = self.scheme.check() {
            return fail(why);
        }
        if self.columns == 0 {
            return fail("it has no columns".into());
        }
        let mut next = 0;
        for chunk in &self.chunks {
            if chunk.first_row != next || chunk.rows == 0 {
                return fail(format!("a chunk of {} rows begins at row {}, not {next}", chunk.rows, chunk.first_row));
            }
            next += chunk.rows;
            let sizes = haikuq_format::layout::plane_sizes(self.scheme, chunk.rows, self.columns);
            for size in &sizes {
                let enough = |(kind, plane): &&(PlaneKind, GpuPlane)| {
                    *kind == size.kind && plane.binding().size >= Some(4 * size.words as u64)
                };
                if chunk.planes.iter().find(enough).is_none() {
                    return fail(format!(
                        "the chunk at row {} has no plane of {} with {} words",
                        chunk.first_row,
                        size.kind.name(),
                        size.words
                    ));
                }
            }
            if chunk.planes.len() != sizes.len() {
                return fail(format!(
                    "the chunk at row {} has {} planes, not {}",
                    chunk.first_row,
                    chunk.planes.len(),
                    sizes.len()
                ));
            }
        }
        if next != self.rows {
            return fail(format!("its chunks have {next} rows"));
        }
        Ok(())
    }
}
