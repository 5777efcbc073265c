//! Planes of a chunk: their kinds, sizes, and how rows are packed into them.

use super::{UNIT, codes, groups, padded};
use crate::scheme::{Codebook, Grouped, Offset, ScaleType, Scheme};
use crate::{E4M4, MAX_PLANE_BYTES};
use half::f16;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What a plane holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlaneKind {
    /// Codes, or for q3 their two, for q5 their four low bits.
    Codes,
    /// Third bits of q3, fifth bits of q5 codes.
    HighBits,
    /// f16 scales, two a word, or E4M4 scales, a word for the same group of four rows.
    Scales,
    /// u4 zero points, eight a word, or f16 offsets, two a word.
    Offsets,
    /// A table of f32 values.
    Codebook,
    /// f16 or f32 weights as they are.
    Values,
}

impl PlaneKind {
    /// The kind as manifests and shard entries write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Codes => "codes",
            Self::HighBits => "high_bits",
            Self::Scales => "scales",
            Self::Offsets => "offsets",
            Self::Codebook => "codebook",
            Self::Values => "values",
        }
    }
}

/// A plane's kind and its size before padding to [`crate::PLANE_ALIGNMENT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaneSize {
    /// What the plane holds.
    pub kind: PlaneKind,
    /// 32-bit words.
    pub words: usize,
}

/// The planes of a chunk of `rows` × `columns` weights in `scheme`, in the order in which they are stored.
pub fn plane_sizes(scheme: Scheme, rows: usize, columns: usize) -> Vec<PlaneSize> {
    let units = rows * padded(columns) / UNIT;
    let plane = |kind, words| PlaneSize { kind, words };
    let g = match scheme {
        Scheme::F32 => return vec![plane(PlaneKind::Values, units * UNIT)],
        Scheme::F16 => return vec![plane(PlaneKind::Values, units * UNIT / 2)],
        Scheme::Grouped(g) => g,
    };
    let all_groups = rows * groups(columns, g.group);
    let mut planes = vec![plane(PlaneKind::Codes, units * codes::code_words(g.bits))];
    if codes::high_words(g.bits) > 0 {
        planes.push(plane(PlaneKind::HighBits, units * codes::high_words(g.bits)));
    }
    let scale_words = match g.scale {
        ScaleType::F16 => all_groups.div_ceil(2),
        ScaleType::E4M4 => rows.div_ceil(4) * groups(columns, g.group),
    };
    planes.push(plane(PlaneKind::Scales, scale_words));
    match g.offset {
        Offset::None => {}
        Offset::U4 => planes.push(plane(PlaneKind::Offsets, all_groups.div_ceil(8))),
        Offset::F16 => planes.push(plane(PlaneKind::Offsets, all_groups.div_ceil(2))),
    }
    if g.codebook == Codebook::Learned {
        planes.push(plane(PlaneKind::Codebook, g.bits.levels() as usize));
    }
    planes
}

/// Cuts `rows` × `columns` weights into chunks of whole rows whose planes are at most [`MAX_PLANE_BYTES`] large. All
/// chunks but the last have the same number of rows, a multiple of 8 where more than 8 rows fit.
pub fn row_chunks(scheme: Scheme, rows: usize, columns: usize) -> Vec<Range<usize>> {
    row_chunks_of(scheme, rows, columns, MAX_PLANE_BYTES)
}

fn row_chunks_of(scheme: Scheme, rows: usize, columns: usize, max_plane_bytes: u64) -> Vec<Range<usize>> {
    let row_bytes = plane_sizes(scheme, 1, columns).iter().map(|p| p.words as u64 * 4).max().unwrap_or(4).max(4);
    let fit = usize::try_from(max_plane_bytes / row_bytes).unwrap_or(usize::MAX).max(1);
    let step = if fit > 8 { fit / 8 * 8 } else { fit };
    (0..rows).step_by(step).map(|start| start..rows.min(start + step)).collect()
}

/// The scales of a block of rows, of the type that its scheme says.
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// For [`ScaleType::F16`].
    F16(Vec<f16>),
    /// For [`ScaleType::E4M4`].
    E4M4(Vec<E4M4>),
}

impl Scales {
    /// The nearest scales of type `scale` to `values`.
    pub fn nearest(scale: ScaleType, values: impl IntoIterator<Item = f32>) -> Self {
        match scale {
            ScaleType::F16 => Self::F16(values.into_iter().map(f16::from_f32).collect()),
            ScaleType::E4M4 => Self::E4M4(values.into_iter().map(E4M4::from_f32).collect()),
        }
    }

    /// Their type.
    pub const fn scale_type(&self) -> ScaleType {
        match self {
            Self::F16(_) => ScaleType::F16,
            Self::E4M4(_) => ScaleType::E4M4,
        }
    }

    /// Some of them.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Self {
        match self {
            Self::F16(scales) => Self::F16(scales[range].to_vec()),
            Self::E4M4(scales) => Self::E4M4(scales[range].to_vec()),
        }
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        match self {
            Self::F16(scales) => scales.len(),
            Self::E4M4(scales) => scales.len(),
        }
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Scale `i`, exactly.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn get(&self, i: usize) -> f32 {
        match self {
            Self::F16(scales) => scales[i].to_f32(),
            Self::E4M4(scales) => scales[i].to_f32(),
        }
    }
}

/// No scales, f16.
impl Default for Scales {
    fn default() -> Self {
        Self::F16(Vec::new())
    }
}

/// Codes, scales and offsets of a block of whole rows: what a quantization algorithm hands over to be packed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuantizedRows {
    /// `rows × padded(columns)` codes.
    pub codes: Vec<u8>,
    /// `rows × groups` scales, of the scheme's type.
    pub scales: Scales,
    /// u4 zero points (each 0 to 15), one a scale; empty unless the scheme has them.
    pub zero_points: Vec<u8>,
    /// f16 offsets, one a scale; empty unless the scheme has them.
    pub offsets: Vec<f16>,
    /// Table of `2^bits` values; empty unless the scheme has one.
    pub codebook: Vec<f32>,
}

/// The planes of one chunk, in the order of [`plane_sizes`], unpadded.
pub type PlaneBuffers = Vec<(PlaneKind, Vec<u32>)>;

/// Packs the rows of one chunk.
///
/// # Panics
/// If the lengths or the type of the scales do not fit `scheme`, `rows` and `columns`.
pub fn pack_quantized(scheme: Grouped, rows: usize, columns: usize, block: &QuantizedRows) -> PlaneBuffers {
    let sizes = plane_sizes(Scheme::Grouped(scheme), rows, columns);
    let words = |kind| vec![0u32; sizes.iter().find(|p| p.kind == kind).map_or(0, |p| p.words)];
    let (mut low, mut high) = (words(PlaneKind::Codes), words(PlaneKind::HighBits));
    codes::pack(scheme.bits, &block.codes, &mut low, &mut high);
    assert_eq!(block.scales.scale_type(), scheme.scale, "scales of the scheme's type");
    assert_eq!(block.scales.len(), rows * groups(columns, scheme.group), "a scale a group");
    sizes
        .iter()
        .map(|p| {
            let plane = match p.kind {
                PlaneKind::Codes => std::mem::take(&mut low),
                PlaneKind::HighBits => std::mem::take(&mut high),
                PlaneKind::Scales => match &block.scales {
                    Scales::F16(scales) => halves(scales),
                    Scales::E4M4(scales) => four_rows(scales, groups(columns, scheme.group)),
                },
                PlaneKind::Offsets if scheme.offset == Offset::U4 => nibbles(&block.zero_points),
                PlaneKind::Offsets => halves(&block.offsets),
                PlaneKind::Codebook => block.codebook.iter().map(|v| v.to_bits()).collect(),
                PlaneKind::Values => unreachable!("grouped schemes have no values plane"),
            };
            assert_eq!(plane.len(), p.words, "{} plane of {rows} × {columns}", p.kind.name());
            (p.kind, plane)
        })
        .collect()
}

/// Codes, scales and offsets of a chunk of `rows` × `columns` weights: what [`pack_quantized`] made its planes of.
///
/// # Panics
/// If a plane is missing or short.
pub fn unpack_quantized(scheme: Grouped, rows: usize, columns: usize, planes: &[(PlaneKind, &[u32])]) -> QuantizedRows {
    let plane = |kind| planes.iter().find(|p| p.0 == kind).map_or(&[][..], |p| p.1);
    let (units, per_row) = (rows * padded(columns) / UNIT, groups(columns, scheme.group));
    let mut codes = vec![0; units * UNIT];
    let (low, high) = (units * codes::code_words(scheme.bits), units * codes::high_words(scheme.bits));
    codes::unpack(scheme.bits, &plane(PlaneKind::Codes)[..low], &plane(PlaneKind::HighBits)[..high], &mut codes);
    let half = |words: &[u32], i: usize| f16::from_bits((words[i / 2] >> (i % 2 * 16)) as u16);
    let all = 0..rows * per_row;
    let (scales, offsets) = (plane(PlaneKind::Scales), plane(PlaneKind::Offsets));
    let of_four = |i: usize| {
        let (row, group) = (i / per_row, i % per_row);
        E4M4::from_bits((scales[row / 4 * per_row + group] >> (row % 4 * 8)) as u8)
    };
    QuantizedRows {
        codes,
        scales: match scheme.scale {
            ScaleType::F16 => Scales::F16(all.clone().map(|i| half(scales, i)).collect()),
            ScaleType::E4M4 => Scales::E4M4(all.clone().map(of_four).collect()),
        },
        zero_points: match scheme.offset {
            Offset::U4 => all.clone().map(|i| (offsets[i / 8] >> (i % 8 * 4) & 15) as u8).collect(),
            _ => Vec::new(),
        },
        offsets: match scheme.offset {
            Offset::F16 => all.map(|i| half(offsets, i)).collect(),
            _ => Vec::new(),
        },
        codebook: match scheme.codebook {
            Codebook::Learned => {
                plane(PlaneKind::Codebook)[..scheme.bits.levels() as usize].iter().map(|w| f32::from_bits(*w)).collect()
            }
            Codebook::Uniform => Vec::new(),
        },
    }
}

/// Packs rows of f32 values as f32. `values` has `rows × columns` entries.
///
/// # Panics
/// If it has not.
pub fn pack_f32(rows: usize, columns: usize, values: &[f32]) -> PlaneBuffers {
    assert_eq!(values.len(), rows * columns);
    let mut words = vec![0u32; rows * padded(columns)];
    if columns > 0 {
        for (to, from) in words.chunks_exact_mut(padded(columns)).zip(values.chunks_exact(columns)) {
            to.iter_mut().zip(from).for_each(|(t, f)| *t = f.to_bits());
        }
    }
    vec![(PlaneKind::Values, words)]
}

/// Packs rows of f32 values as f16, rounded to nearest even. `values` has `rows × columns` entries.
///
/// # Panics
/// If it has not.
pub fn pack_f16(rows: usize, columns: usize, values: &[f32]) -> PlaneBuffers {
    assert_eq!(values.len(), rows * columns);
    let mut rounded = vec![f16::ZERO; rows * padded(columns)];
    if columns > 0 {
        for (to, from) in rounded.chunks_exact_mut(padded(columns)).zip(values.chunks_exact(columns)) {
            to.iter_mut().zip(from).for_each(|(t, f)| *t = f16::from_f32(*f));
        }
    }
    vec![(PlaneKind::Values, halves(&rounded))]
}

fn halves(values: &[f16]) -> Vec<u32> {
    values.chunks(2).map(|p| u32::from(p[0].to_bits()) | p.get(1).map_or(0, |v| u32::from(v.to_bits()) << 16)).collect()
}

/// A word for each group of four rows, the first row in the low byte. Kernels take four rows at a time, and get their
/// scales with one read.
fn four_rows(scales: &[E4M4], per_row: usize) -> Vec<u32> {
    let rows = scales.chunks(4 * per_row);
    let word = |four: &[E4M4], group: usize| {
        four.chunks(per_row).enumerate().fold(0, |w, (r, row)| w | u32::from(row[group].to_bits()) << (8 * r))
    };
    rows.flat_map(|four| (0..per_row).map(move |group| word(four, group))).collect()
}

fn nibbles(values: &[u8]) -> Vec<u32> {
    values.chunks(8).map(|c| c.iter().enumerate().fold(0, |w, (i, v)| w | u32::from(v & 15) << (4 * i))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_all_rows_and_fit_the_plane_limit() {
        let q4: Scheme = "q4/32".parse().unwrap();
        let chunks = row_chunks(q4, 128_256, 2048);
        assert_eq!(chunks, [0..65_536, 65_536..128_256], "141 MiB of codes are two chunks");
        let chunks = row_chunks_of(Scheme::F32, 100, 64, 64 * 4 * 20);
        assert_eq!(chunks.iter().map(|c| c.len()).collect::<Vec<_>>(), [16, 16, 16, 16, 16, 16, 4]);
    }

    #[test]
    fn three_bits_are_exactly_three_bits() {
        let planes = plane_sizes("q3/128".parse().unwrap(), 7, 576);
        let bits: usize = planes.iter().filter(|p| p.kind != PlaneKind::Scales).map(|p| p.words * 32).sum();
        assert_eq!(bits, 7 * 576 * 3);
        assert_eq!(planes.last().unwrap().words, 18, "5 groups a row (4.5 rounded up), 35 scales, two a word");
    }

    #[test]
    fn a_word_of_e4m4_scales_is_of_four_rows() {
        let Ok(Scheme::Grouped(g)) = "q4/64:e4m4 learned".parse() else { panic!("a grouped scheme") };
        let block = QuantizedRows {
            codes: vec![0; 5 * 96],
            scales: Scales::E4M4([0x11, 0x22, 0xfe, 0x80, 3, 4, 5, 6, 7, 8].map(E4M4::from_bits).to_vec()),
            codebook: vec![0.0; 16],
            ..QuantizedRows::default()
        };
        let planes = pack_quantized(g, 5, 70, &block);
        let words = vec![0x0503_fe11, 0x0604_8022, 0x07, 0x08];
        assert_eq!(planes[1], (PlaneKind::Scales, words), "weights 64 to 95 of a row are its second group");
        for columns in [1, 32, 65, 576] {
            let words = |rows| plane_sizes(Scheme::Grouped(g), rows, columns)[1].words;
            assert_eq!(words(24), 3 * words(8), "{columns} columns");
        }
    }

    #[test]
    #[should_panic(expected = "scales of the scheme's type")]
    fn scales_of_another_type_are_not_packed() {
        let Ok(Scheme::Grouped(g)) = "q4/32:e4m4 learned".parse() else { panic!("a grouped scheme") };
        let block = QuantizedRows { codes: vec![0; 32], scales: Scales::F16(vec![f16::ONE]), ..QuantizedRows::default() };
        pack_quantized(g, 1, 32, &block);
    }
}
