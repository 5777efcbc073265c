//! A tensor of a checkpoint: what its file calls it, where its bytes lie, and how its rows become f32.
//!
//! Every reader presents its tensors under the names and in the shapes that the model family's own safetensors
//! checkpoint has. Where a file holds them otherwise (transposed, fused with others, rows in another order, one
//! added), its [`Placement`] says so, and reading undoes it. Nothing outside of this folder knows of it.

use super::CheckpointError;
use super::file::MappedFile;
use candle_core::quantized::GgmlDType;
use half::f16;
use std::ops::Range;
use std::sync::Arc;

/// Number formats that weights may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit IEEE float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// Numbers of 4 bits (E2M1), 32 of which share a power of two that lies elsewhere (OCP Microscaling Formats 1.0).
    Mxfp4,
    /// The same in blocks of GGUF files: a power of two, then 16 bytes with the first 16 numbers in their low halves.
    Mxfp4Blocks,
    /// A block format of GGUF files, which candle dequantizes.
    Ggml(GgmlDType),
}

impl Dtype {
    /// Bytes of `count` numbers that lie one after the other; `None` where that is no whole number of blocks.
    pub fn bytes(self, count: usize) -> Option<usize> {
        match self {
            Self::F32 => count.checked_mul(4),
            Self::F16 | Self::Bf16 => count.checked_mul(2),
            Self::Mxfp4 if count.is_multiple_of(MX_BLOCK) => Some(count / 2),
            Self::Mxfp4Blocks if count.is_multiple_of(MX_BLOCK) => (count / MX_BLOCK).checked_mul(MX_BLOCK / 2 + 1),
            Self::Mxfp4 | Self::Mxfp4Blocks => None,
            Self::Ggml(t) if count.is_multiple_of(t.block_size()) => (count / t.block_size()).checked_mul(t.type_size()),
            Self::Ggml(_) => None,
        }
    }
}

/// Numbers of MXFP4 that share a scale.
const MX_BLOCK: usize = 32;

/// Where a tensor's bytes are.
#[derive(Clone, Debug)]
pub(super) enum Bytes {
    /// In a file of [`super::Checkpoint`], from its start.
    Mapped { file: usize, range: Range<usize> },
    /// In memory, unpacked from a file of that number.
    Owned { file: usize, bytes: Arc<Vec<u8>> },
    /// Numbers and powers of two of MXFP4, in files of these numbers.
    Mxfp4 { numbers: (usize, Range<usize>), scales: (usize, Range<usize>) },
    /// In several tensors, at least one, whose rows follow each other, in the order that the placement says. A row may be several of theirs.
    Stacked { parts: Vec<TensorInfo> },
}

impl Bytes {
    pub(super) fn file(&self) -> usize {
        match self {
            Self::Mapped { file, .. } | Self::Owned { file, .. } => *file,
            Self::Mxfp4 { numbers: (file, _), .. } => *file,
            Self::Stacked { parts } => parts.first().map_or(0, |part| part.bytes.file()),
        }
    }
}

/// A tensor as a reader found it.
#[derive(Clone, Debug)]
pub(super) struct TensorInfo {
    /// The number format as the file writes it, such as `BF16`.
    pub(super) label: String,
    /// The number format, where it is one that weights may have; only reading refuses others.
    pub(super) dtype: Option<Dtype>,
    /// The shape that the family's own checkpoint has, outermost dimension first.
    pub(super) shape: Vec<usize>,
    /// All bytes of the stored tensor.
    pub(super) bytes: Bytes,
    pub(super) placement: Placement,
}

impl TensorInfo {
    /// Numbers in a row.
    fn width(&self) -> usize {
        if self.shape.len() < 2 { 1 } else { self.shape[1..].iter().product() }
    }
}

/// How the stored tensor holds this one. With all defaults, and `columns` as the shape says, it is it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Placement {
    /// Numbers in a stored row.
    pub(super) columns: usize,
    /// Whether stored columns are rows.
    pub(super) transposed: bool,
    /// Which stored row (or column) is the first, where several tensors are stored as one.
    pub(super) first: usize,
    pub(super) order: RowOrder,
    /// In which order the numbers of a row are stored.
    pub(super) column_order: RowOrder,
    /// What was added to every number, and is taken off again.
    pub(super) added: f32,
    /// Whether `-exp(x)` is stored for `x`.
    pub(super) exponential: bool,
}

/// In which order a tensor's rows are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowOrder {
    /// As they are.
    #[default]
    Same,
    /// Within each head of `head_dim` rows, the two halves alternate: row `i` is stored as row `2i`, row
    /// `i + head_dim / 2` as row `2i + 1`. Models that rotate neighbours have them so, and llama.cpp, which does, stores
    /// others so.
    RotaryPairs {
        /// Rows of a head.
        head_dim: usize,
    },
    /// `[parts, heads, head_dim]` is stored where the family has `[heads, parts, head_dim]`.
    PartsFirst {
        /// Such as 3 for queries, keys and values.
        parts: usize,
        /// Heads of each.
        heads: usize,
        /// Rows of a head.
        head_dim: usize,
    },
}

impl RowOrder {
    /// Where `row` is stored.
    pub fn stored(self, row: usize) -> usize {
        match self {
            Self::Same => row,
            Self::RotaryPairs { head_dim } => {
                let (head, i, half) = (row / head_dim, row % head_dim, head_dim / 2);
                head * head_dim + if i < half { 2 * i } else { 2 * (i - half) + 1 }
            }
            Self::PartsFirst { parts, heads, head_dim } => {
                let (head, part, i) = (row / (parts * head_dim), row / head_dim % parts, row % head_dim);
                (part * heads + head) * head_dim + i
            }
        }
    }
}

impl Placement {
    /// A tensor of `shape` that is stored as it is.
    pub(super) fn plain(shape: &[usize]) -> Self {
        let columns = if shape.len() < 2 { 1 } else { shape[1..].iter().product() };
        Self {
            columns,
            transposed: false,
            first: 0,
            order: RowOrder::Same,
            column_order: RowOrder::Same,
            added: 0.0,
            exponential: false,
        }
    }
}

/// One tensor of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    pub(super) info: &'a TensorInfo,
    pub(super) dtype: Dtype,
    pub(super) data: &'a [u8],
    pub(super) files: &'a [MappedFile],
    pub(super) file: &'a str,
    pub(super) name: &'a str,
}

impl<'a> TensorView<'a> {
    /// A view of a tensor in `files`, if its numbers are in a format that weights may have.
    pub(super) fn new(info: &'a TensorInfo, files: &'a [MappedFile], name: &'a str) -> Option<Self> {
        let file = &files[info.bytes.file()];
        let data = match &info.bytes {
            Bytes::Mapped { range, .. } => &file.bytes()[range.clone()],
            Bytes::Owned { bytes, .. } => bytes.as_slice(),
            Bytes::Mxfp4 { numbers: (_, range), .. } => &file.bytes()[range.clone()],
            Bytes::Stacked { parts } if parts.iter().any(|p| p.dtype.is_none()) => return None,
            Bytes::Stacked { .. } => &[],
        };
        Some(Self { info, dtype: info.dtype?, data, files, file: file.name(), name })
    }

    /// Views of the tensors that this one is stacked of, with the rows that each has; none if it is none.
    fn stacked(&self) -> impl Iterator<Item = (TensorView<'a>, Range<usize>)> + use<'a> {
        let (files, name) = (self.files, self.name);
        let parts = match &self.info.bytes {
            Bytes::Stacked { parts } => parts.as_slice(),
            _ => &[],
        };
        let mut first = 0;
        parts.iter().filter_map(move |part| {
            let rows = first..first + part.shape[0];
            first = rows.end;
            Some((TensorView::new(part, files, name)?, rows))
        })
    }

    /// Shape, outermost dimension first.
    pub fn shape(&self) -> &'a [usize] {
        &self.info.shape
    }

    /// Number format in the file.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The file's name, for messages.
    pub fn file(&self) -> &'a str {
        self.file
    }

    /// Reads `rows` (of a vector: its elements) as f32 into `out`, one after the other.
    ///
    /// # Errors
    /// If a number is NaN or infinite, or candle cannot dequantize the format.
    ///
    /// # Panics
    /// If there are no such rows, or `out` has another length.
    pub fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), CheckpointError> {
        let (place, width) = (&self.info.placement, self.width());
        assert_eq!(out.len(), rows.len() * width, "rows {rows:?} of {}", self.name);
        if let Bytes::Stacked { parts } = &self.info.bytes {
            // Rows of the parts, of which a row here may be several.
            let many = parts.first().map_or(1, |part| width / part.width().max(1)).max(1);
            let (rows, width) = (many * rows.start..many * rows.end, width / many);
            return if place.order == RowOrder::Same {
                self.read_stacked(rows, width, out)
            } else {
                self.read_ordered(rows, width, out)
            };
        }
        if place.transposed && place.order == RowOrder::Same {
            // Along the stored rows, which are columns here: a matrix is read from front to back, not across.
            let mut stored = vec![0.0; rows.len()];
            for column in 0..width {
                self.run(column * place.columns + place.first + rows.start, &mut stored)?;
                stored.iter().enumerate().for_each(|(row, x)| out[row * width + column] = *x);
            }
        } else if !place.transposed && place.order == RowOrder::Same {
            self.run((place.first + rows.start) * place.columns, out)?;
        } else {
            for (row, out) in rows.clone().zip(out.chunks_exact_mut(width)) {
                let stored = place.first + place.order.stored(row);
                if place.transposed {
                    self.gather(stored, out)?;
                } else {
                    self.run(stored * place.columns, out)?;
                }
            }
        }
        if place.column_order != RowOrder::Same {
            let mut stored = vec![0.0; width];
            for row in out.chunks_exact_mut(width) {
                stored.copy_from_slice(row);
                row.iter_mut().enumerate().for_each(|(column, x)| *x = stored[place.column_order.stored(column)]);
            }
        }
        self.finish(out, |at| rows.start * width + at)
    }

    /// Reads rows of `width` numbers of what this tensor is stacked of, as they follow each other.
    fn read_stacked(&self, rows: Range<usize>, width: usize, out: &mut [f32]) -> Result<(), CheckpointError> {
        for (part, has) in self.stacked() {
            let (start, end) = (rows.start.clamp(has.start, has.end), rows.end.clamp(has.start, has.end));
            if start < end {
                let out = &mut out[(start - rows.start) * width..(end - rows.start) * width];
                part.read_rows(start - has.start..end - has.start, out)?;
            }
        }
        Ok(())
    }

    /// Such rows in the placement's order, those that follow each other in one go.
    fn read_ordered(&self, rows: Range<usize>, width: usize, out: &mut [f32]) -> Result<(), CheckpointError> {
        let mut stored: Vec<(usize, usize)> =
            rows.enumerate().map(|(at, row)| (self.info.placement.order.stored(row), at)).collect();
        stored.sort_unstable();
        let mut some = Vec::new();
        for run in stored.chunk_by(|a, b| a.0 + 1 == b.0) {
            some.resize(run.len() * width, 0.0);
            self.read_stacked(run[0].0..run[0].0 + run.len(), width, &mut some)?;
            for ((_, at), some) in run.iter().zip(some.chunks_exact(width)) {
                out[at * width..(at + 1) * width].copy_from_slice(some);
            }
        }
        Ok(())
    }

    /// Reads `columns` of a matrix as f32 into `out`, one after the other: rows of the transposed matrix.
    ///
    /// # Errors
    /// As [`TensorView::read_rows`].
    ///
    /// # Panics
    /// Likewise.
    pub fn read_columns(&self, columns: Range<usize>, out: &mut [f32]) -> Result<(), CheckpointError> {
        let (place, width, height) = (&self.info.placement, self.width(), self.info.shape[0]);
        assert_eq!(out.len(), columns.len() * height, "columns {columns:?} of {}", self.name);
        if matches!(self.info.bytes, Bytes::Stacked { .. }) {
            for (part, has) in self.stacked().filter(|(_, has)| !has.is_empty()) {
                let mut some = vec![0.0; columns.len() * has.len()];
                part.read_columns(columns.clone(), &mut some)?;
                for (some, out) in some.chunks_exact(has.len()).zip(out.chunks_exact_mut(height)) {
                    out[has.clone()].copy_from_slice(some);
                }
            }
            for out in out.chunks_exact_mut(height).filter(|_| place.order != RowOrder::Same) {
                let stored = out.to_vec();
                out.iter_mut().enumerate().for_each(|(row, x)| *x = stored[place.order.stored(row)]);
            }
            return Ok(());
        }
        let mut stored = vec![0.0; height];
        for (column, out) in columns.clone().zip(out.chunks_exact_mut(height)) {
            let column = place.column_order.stored(column);
            if place.transposed {
                self.run(column * place.columns + place.first, &mut stored)?;
            } else {
                self.gather(place.first * place.columns + column, &mut stored)?;
            }
            for (row, x) in out.iter_mut().enumerate() {
                *x = stored[place.order.stored(row)];
            }
        }
        self.finish(out, |at| at % height * width + columns.start + at / height)
    }

    /// The first row in which two tensors differ, as numbers; 0 where their shapes do.
    ///
    /// # Errors
    /// As [`TensorView::read_rows`].
    pub(super) fn first_difference(&self, other: &TensorView<'_>) -> Result<Option<usize>, CheckpointError> {
        if self.shape() != other.shape() {
            return Ok(Some(0));
        }
        let same_form = self.dtype == other.dtype && self.info.placement == other.info.placement;
        if same_form && !self.data.is_empty() && self.data == other.data {
            return Ok(None);
        }
        let (rows, width) = (self.rows(), self.width());
        const ROWS: usize = 64;
        let (mut x, mut y) = (vec![0.0; ROWS * width], vec![0.0; ROWS * width]);
        for start in (0..rows).step_by(ROWS) {
            let now = start..(start + ROWS).min(rows);
            let (x, y) = (&mut x[..now.len() * width], &mut y[..now.len() * width]);
            self.read_rows(now.clone(), x)?;
            other.read_rows(now, y)?;
            if let Some(at) = x.iter().zip(&*y).position(|(x, y)| x != y) {
                return Ok(Some(start + at / width.max(1)));
            }
        }
        Ok(None)
    }

    fn rows(&self) -> usize {
        self.info.shape.first().copied().unwrap_or(1)
    }

    /// Numbers in a row.
    fn width(&self) -> usize {
        self.info.width()
    }

    /// Makes sure that the file did not change meanwhile, undoes what was done to the numbers and looks for numbers that are none; `index` says which element is `out[at]`.
    fn finish(&self, out: &mut [f32], index: impl Fn(usize) -> usize) -> Result<(), CheckpointError> {
        match &self.info.bytes {
            Bytes::Mapped { file, .. } if !self.files.is_empty() => self.files[*file].check()?,
            Bytes::Mxfp4 { numbers, scales } => [numbers.0, scales.0].iter().try_for_each(|file| self.files[*file].check())?,
            _ => {}
        }
        let mut finite = true;
        let Placement { added, exponential, .. } = self.info.placement;
        for x in out.iter_mut() {
            *x = if exponential { (-f64::from(*x)).ln() as f32 } else { *x - added };
            finite &= x.is_finite();
        }
        if finite {
            return Ok(());
        }
        let at = out.iter().position(|x| !x.is_finite()).unwrap_or(0);
        let (file, tensor) = (self.file.into(), self.name.into());
        Err(CheckpointError::NotFinite { file, tensor, index: index(at), value: out[at] })
    }

    /// Numbers that lie side by side, from number `start` of the stored tensor on.
    fn run(&self, start: usize, out: &mut [f32]) -> Result<(), CheckpointError> {
        let bytes = |count| self.dtype.bytes(count).ok_or_else(|| self.blocks(start, out.len()));
        let data = &self.data[bytes(start)?..bytes(start + out.len())?];
        match self.dtype {
            Dtype::F32 => convert(data, out, f32_of),
            Dtype::F16 => convert(data, out, f16_of),
            Dtype::Bf16 => convert(data, out, bf16_of),
            Dtype::Mxfp4 => {
                let Bytes::Mxfp4 { scales: (file, range), .. } = &self.info.bytes else {
                    return Err(self.blocks(start, out.len()));
                };
                let scales = &self.files[*file].bytes()[range.clone()];
                mxfp4(data, &scales[start / MX_BLOCK..(start + out.len()) / MX_BLOCK], out);
            }
            Dtype::Mxfp4Blocks => mxfp4_blocks(data, out),
            Dtype::Ggml(dtype) => super::ggml::dequantize(dtype, data, out).map_err(|why| self.entry(why))?,
        }
        Ok(())
    }

    /// Numbers below each other, from number `start` of the stored tensor on.
    fn gather(&self, start: usize, out: &mut [f32]) -> Result<(), CheckpointError> {
        let pitch = self.info.placement.columns;
        match self.dtype {
            Dtype::F32 => gather(self.data, start, pitch, out, f32_of),
            Dtype::F16 => gather(self.data, start, pitch, out, f16_of),
            Dtype::Bf16 => gather(self.data, start, pitch, out, bf16_of),
            // No file holds these with the blocks across rows.
            Dtype::Ggml(_) | Dtype::Mxfp4 | Dtype::Mxfp4Blocks => return Err(self.blocks(start, out.len())),
        }
        Ok(())
    }

    fn blocks(&self, start: usize, count: usize) -> CheckpointError {
        self.entry(format!("numbers {start} to {} are not whole blocks of {}", start + count, self.info.label))
    }

    fn entry(&self, why: String) -> CheckpointError {
        CheckpointError::Entry { file: self.file.into(), tensor: self.name.into(), why }
    }
}

/// Whole blocks of MXFP4, as the Hugging Face integration reads them: the low half of a byte comes first. Every number is exact in f32,
/// or too large for it.
fn mxfp4(data: &[u8], scales: &[u8], out: &mut [f32]) {
    for ((out, data), scale) in out.chunks_exact_mut(MX_BLOCK).zip(data.chunks_exact(MX_BLOCK / 2)).zip(scales) {
        let factor = f64::from(i32::from(*scale) - 127).exp2();
        for (pair, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(data) {
            *pair = [byte & 15, byte >> 4].map(|code| (E2M1[usize::from(code)] * factor) as f32);
        }
    }
}

/// The same of GGUF files.
fn mxfp4_blocks(data: &[u8], out: &mut [f32]) {
    for (out, block) in out.chunks_exact_mut(MX_BLOCK).zip(data.chunks_exact(MX_BLOCK / 2 + 1)) {
        let factor = f64::from(i32::from(block[0]) - 127).exp2();
        for (i, byte) in block[1..].iter().enumerate() {
            out[i] = (E2M1[usize::from(byte & 15)] * factor) as f32;
            out[i + MX_BLOCK / 2] = (E2M1[usize::from(byte >> 4)] * factor) as f32;
        }
    }
}

/// What the codes of MXFP4 stand for.
const E2M1: [f64; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

fn f32_of(bytes: [u8; 4]) -> f32 {
    f32::from_le_bytes(bytes)
}

fn f16_of(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

fn bf16_of(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

fn convert<const N: usize>(data: &[u8], out: &mut [f32], number: impl Fn([u8; N]) -> f32) {
    for (bytes, x) in data.as_chunks::<N>().0.iter().zip(out) {
        *x = number(*bytes);
    }
}

fn gather<const N: usize>(data: &[u8], start: usize, pitch: usize, out: &mut [f32], number: impl Fn([u8; N]) -> f32) {
    for (bytes, x) in data.as_chunks::<N>().0.iter().skip(start).step_by(pitch).zip(out) {
        *x = number(*bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_order_is_a_permutation_and_undoes_what_it_says() {
        let pairs = RowOrder::RotaryPairs { head_dim: 6 };
        // Stored 0 1 2 3 4 5 is rows 0 3 1 4 2 5 of a head.
        assert_eq!((0..12).map(|r| pairs.stored(r)).collect::<Vec<_>>(), [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
        let parts = RowOrder::PartsFirst { parts: 3, heads: 2, head_dim: 2 };
        // Stored q0 q0 q1 q1 k0 k0 k1 k1 v0 v0 v1 v1, wanted head by head.
        assert_eq!((0..12).map(|r| parts.stored(r)).collect::<Vec<_>>(), [0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11]);
    }

    #[test]
    fn mxfp4_is_read_exactly() {
        let mut data = [0u8; 32];
        (data[0], data[1], data[16]) = (0x71, 0x2a, 0xf3);
        let mut out = [9.0; 64];
        mxfp4(&data, &[127, 120], &mut out);
        assert_eq!(out[..4], [0.5, 6.0, -1.0, 1.0]);
        assert_eq!(out[32..34], [1.5 / 128.0, -6.0 / 128.0]);
        assert!(out[4..32].iter().chain(&out[34..]).all(|x| *x == 0.0));
        // The smallest scale, and the largest that f32 holds with every number.
        mxfp4(&data, &[0, 252], &mut out);
        assert_eq!(out[..2], [f32::from_bits(1 << 21), 6.0 * 2f32.powi(-127)]);
        assert_eq!(out[33], -6.0 * 2f32.powi(125));
    }

    #[test]
    fn blocks_of_mxfp4_are_the_same_numbers() {
        let (mut data, mut blocks) = ([0u8; 16], [0u8; 17]);
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = (i * 37 + 11) as u8;
        }
        let codes: Vec<u8> = data.iter().flat_map(|byte| [byte & 15, byte >> 4]).collect();
        blocks[0] = 121;
        (0..16).for_each(|i| blocks[1 + i] = codes[i] | codes[16 + i] << 4);
        let (mut expected, mut found) = ([0.0; 32], [9.0; 32]);
        mxfp4(&data, &[121], &mut expected);
        mxfp4_blocks(&blocks, &mut found);
        assert_eq!(found, expected);
    }

    fn vector(numbers: &[f32], file: usize) -> TensorInfo {
        let bytes = Arc::new(numbers.iter().flat_map(|x| x.to_le_bytes()).collect());
        let (shape, label) = (vec![numbers.len()], "F32".into());
        let placement = Placement::plain(&shape);
        TensorInfo { label, dtype: Some(Dtype::F32), shape, bytes: Bytes::Owned { file, bytes }, placement }
    }

    #[test]
    fn stacked_rows_come_in_the_order_that_was_said() {
        // Two rows of two pairs, of which the first halves lie in one tensor and the second ones in another.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, [0]).unwrap();
        let files = [MappedFile::open_any(&path).unwrap()];
        let parts = vec![vector(&[0.0, 1.0, 2.0, 3.0], 0), vector(&[10.0, 11.0, 12.0, 13.0], 0)];
        let order = RowOrder::PartsFirst { parts: 2, heads: 4, head_dim: 1 };
        let placement = Placement { order, ..Placement::plain(&[2, 4]) };
        let (shape, bytes) = (vec![2, 4], Bytes::Stacked { parts });
        let info = TensorInfo { label: "F32".into(), dtype: Some(Dtype::F32), shape, bytes, placement };
        let view = TensorView::new(&info, &files, "t").unwrap();
        let mut out = [0.0; 8];
        view.read_rows(0..2, &mut out).unwrap();
        assert_eq!(out, [0.0, 10.0, 1.0, 11.0, 2.0, 12.0, 3.0, 13.0]);
        view.read_rows(1..2, &mut out[..4]).unwrap();
        assert_eq!(out[..4], [2.0, 12.0, 3.0, 13.0]);
    }

    #[test]
    fn columns_come_in_the_order_that_was_said_and_exponentials_are_undone() {
        let numbers: Vec<u8> = (0..8).flat_map(|i| (-(i as f32 + 1.0)).to_le_bytes()).collect();
        let column_order = RowOrder::PartsFirst { parts: 2, heads: 2, head_dim: 1 };
        let placement = Placement { column_order, exponential: true, ..Placement::plain(&[2, 4]) };
        let bytes = Bytes::Mapped { file: 0, range: 0..numbers.len() };
        let info = TensorInfo { label: "F32".into(), dtype: Some(Dtype::F32), shape: vec![2, 4], bytes, placement };
        let view = TensorView { info: &info, dtype: Dtype::F32, data: &numbers, files: &[], file: "f", name: "t" };
        let (mut out, logs) = ([0.0; 8], |of: [f64; 8]| of.map(|x| x.ln() as f32));
        view.read_rows(0..2, &mut out).unwrap();
        assert_eq!(out, logs([1.0, 3.0, 2.0, 4.0, 5.0, 7.0, 6.0, 8.0]));
        view.read_columns(0..4, &mut out).unwrap();
        assert_eq!(out, logs([1.0, 5.0, 3.0, 7.0, 2.0, 6.0, 4.0, 8.0]));
    }

    #[test]
    fn a_slice_of_a_transposed_matrix_is_read_by_its_columns() {
        // Stored [3, 4]; the tensor is columns 1 and 2, as rows of 3.
        let numbers: Vec<u8> = (0..12).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let placement = Placement { columns: 4, transposed: true, first: 1, added: 1.0, ..Placement::plain(&[2, 3]) };
        let bytes = Bytes::Mapped { file: 0, range: 0..numbers.len() };
        let info = TensorInfo { label: "F32".into(), dtype: Some(Dtype::F32), shape: vec![2, 3], bytes, placement };
        let view = TensorView { info: &info, dtype: Dtype::F32, data: &numbers, files: &[], file: "f", name: "t" };
        let mut out = [0.0; 6];
        view.read_rows(0..2, &mut out).unwrap();
        assert_eq!(out, [0.0, 4.0, 8.0, 1.0, 5.0, 9.0]);
        view.read_columns(0..3, &mut out).unwrap();
        assert_eq!(out, [0.0, 1.0, 4.0, 5.0, 8.0, 9.0]);
    }
}
