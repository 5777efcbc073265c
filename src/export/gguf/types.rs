//! Number formats. Numbers are rounded as candle does, which is llama.cpp's way without an importance matrix; or they are stored as
//! they are, where a package's scheme has the very grid of a type.

use super::super::tensors::Named;
use super::super::{ExportError, Rounding};
use super::FORMAT;
use super::container::Entry;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use haikuq_format::scheme::{Bits, Codebook, Offset, Scheme};
use half::f16;
use std::str::FromStr;

/// A number format of GGUF files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgufType(GgmlDType);

/// Those that are written: name, format, and what `general.file_type` calls a file in it.
const WRITTEN: [(&str, GgmlDType, u32); 11] = [
    ("F32", GgmlDType::F32, 0),
    ("F16", GgmlDType::F16, 1),
    ("Q8_0", GgmlDType::Q8_0, 7),
    ("Q4_0", GgmlDType::Q4_0, 2),
    ("Q4_1", GgmlDType::Q4_1, 3),
    ("Q5_0", GgmlDType::Q5_0, 8),
    ("Q5_1", GgmlDType::Q5_1, 9),
    ("Q3_K", GgmlDType::Q3K, 11),
    ("Q4_K", GgmlDType::Q4K, 14),
    ("Q5_K", GgmlDType::Q5K, 16),
    ("Q6_K", GgmlDType::Q6K, 18),
];

/// Those that llama.cpp has beside them.
const NOT_WRITTEN: [&str; 14] = [
    "BF16", "Q2_K", "IQ4_NL", "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_S", "IQ1_M", "TQ1_0", "TQ2_0",
    "MXFP4",
];

impl FromStr for GgufType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || WRITTEN.map(|(name, ..)| name).join(", ");
        let found = WRITTEN.iter().find(|(name, ..)| name.eq_ignore_ascii_case(text));
        let known = NOT_WRITTEN.iter().any(|name| name.eq_ignore_ascii_case(text));
        found.map(|(_, kind, _)| Self(*kind)).ok_or_else(|| match known {
            true => format!("{} is a type of llama.cpp that is not written yet; written are {}", text.to_uppercase(), names()),
            false => format!("{text:?} is no type of GGUF files; written are {}", names()),
        })
    }
}

impl GgufType {
    pub(super) const F32: Self = Self(GgmlDType::F32);

    /// As llama.cpp writes it.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    fn row(self) -> (&'static str, GgmlDType, u32) {
        WRITTEN.into_iter().find(|(_, kind, _)| *kind == self.0).unwrap_or(WRITTEN[0])
    }

    /// What `general.file_type` calls a file in it.
    pub(super) fn file_type(self) -> u32 {
        self.row().2
    }

    /// The number that a tensor's entry has for it.
    pub(super) fn number(self) -> u32 {
        match self.0 {
            GgmlDType::F16 => 1,
            GgmlDType::Q4_0 => 2,
            GgmlDType::Q4_1 => 3,
            GgmlDType::Q5_0 => 6,
            GgmlDType::Q5_1 => 7,
            GgmlDType::Q8_0 => 8,
            GgmlDType::Q3K => 11,
            GgmlDType::Q4K => 12,
            GgmlDType::Q5K => 13,
            GgmlDType::Q6K => 14,
            _ => 0,
        }
    }

    /// The type that holds the numbers of a tensor in that scheme as they are.
    pub(super) fn holding(tensor: &Named, scheme: Scheme) -> Result<Self, ExportError> {
        let fits = |kind: GgmlDType| tensor.shape.last().is_some_and(|n| n.is_multiple_of(kind.block_size()));
        let kind = match scheme {
            Scheme::F32 => Some(GgmlDType::F32),
            Scheme::F16 => Some(GgmlDType::F16),
            Scheme::Grouped(g) if g.offset == Offset::None && g.codebook == Codebook::Uniform => Some(match g.bits {
                Bits::B3 | Bits::B4 => GgmlDType::Q4_0,
                Bits::B5 => GgmlDType::Q5_0,
                Bits::B8 => GgmlDType::Q8_0,
            }),
            Scheme::Grouped(_) => None,
        };
        // A vector is f32 in both.
        let vector = tensor.shape.len() < 2;
        kind.filter(|kind| fits(*kind)).map(|kind| if vector { Self::F32 } else { Self(kind) }).ok_or_else(|| {
            let why =
                "no type of GGUF files holds these numbers as they are; name one to round them to (--type), or convert the \
                       checkpoint by a recipe whose grids llama.cpp has, such as q4-uniform"
                    .into();
            ExportError::Refused { what: format!("{} {:?} in {scheme}", tensor.name, tensor.shape), format: FORMAT, why }
        })
    }

    /// Steps on either side of zero in a block of 32 numbers with one scale.
    fn steps(self) -> Option<i32> {
        match self.0 {
            GgmlDType::Q4_0 => Some(8),
            GgmlDType::Q5_0 => Some(16),
            GgmlDType::Q8_0 => Some(128),
            _ => None,
        }
    }

    /// Bytes of so many numbers, which are whole blocks.
    pub(super) fn bytes(self, numbers: usize) -> usize {
        numbers / self.0.block_size() * self.0.type_size()
    }

    /// What a tensor is stored in where matrices are wanted in this: vectors in f32, the matrix that makes logits in Q6_K at least,
    /// and in another type what has no whole blocks, as llama-quantize does.
    pub(super) fn of(self, shape: &[usize], is_head: bool) -> Self {
        let [_, columns] = shape else { return Self::F32 };
        let fits = |kind: GgmlDType| columns.is_multiple_of(kind.block_size());
        let wanted = match self.0 {
            GgmlDType::F32 | GgmlDType::F16 | GgmlDType::Q8_0 => self.0,
            _ if is_head => GgmlDType::Q6K,
            kind => kind,
        };
        let smaller = match wanted {
            GgmlDType::Q3K | GgmlDType::Q4K => GgmlDType::Q5_0,
            GgmlDType::Q5K => GgmlDType::Q5_1,
            GgmlDType::Q6K => GgmlDType::Q8_0,
            _ => GgmlDType::F16,
        };
        Self([wanted, smaller, GgmlDType::F16].into_iter().find(|kind| fits(*kind)).unwrap_or(GgmlDType::F32))
    }
}

/// A tensor's blocks; with `exact` they hold the very numbers.
pub(super) fn encode(entry: &Entry, numbers: &[f32], exact: bool, rounding: &mut Rounding) -> Result<Vec<u8>, ExportError> {
    if let Some(steps) = entry.kind.steps().filter(|_| exact) {
        let mut bytes = Vec::with_capacity(entry.kind.bytes(numbers.len()));
        for (i, block) in numbers.as_chunks::<32>().0.iter().enumerate() {
            let Some((scale, codes)) = on_grid(steps, block) else {
                let what = format!("{} in {}", entry.name, entry.kind.name());
                let why =
                    format!("the 32 numbers from number {} on are no multiples of an f16; name a --type to round to", 32 * i);
                return Err(ExportError::Refused { what, format: FORMAT, why });
            };
            store(steps, scale, &codes, &mut bytes);
        }
        numbers.iter().for_each(|x| rounding.add(*x, *x));
        return Ok(bytes);
    }
    if entry.kind == GgufType::F32 {
        numbers.iter().for_each(|x| rounding.add(*x, *x));
        return Ok(numbers.iter().flat_map(|x| x.to_le_bytes()).collect());
    }
    let blocks = || {
        let matrix = Tensor::from_slice(numbers, entry.shape.as_slice(), &Device::Cpu)?;
        let blocks = QTensor::quantize(&matrix, entry.kind.0)?;
        let stored = blocks.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        Ok((blocks.data()?.into_owned(), stored))
    };
    let (bytes, stored) = blocks().map_err(|e: candle_core::Error| {
        let what = format!("{} in {}", entry.name, entry.kind.name());
        ExportError::Refused { what, format: FORMAT, why: e.to_string() }
    })?;
    for (x, stored) in numbers.iter().zip(&stored) {
        if !stored.is_finite() {
            let (tensor, largest) = (entry.name.clone(), f16::MAX.to_f32());
            return Err(ExportError::Range { tensor, number: *x, dtype: entry.kind.name(), largest });
        }
        rounding.add(*x, *stored);
    }
    Ok(bytes)
}

/// A scale of which all numbers of a block are multiples, by at most so many `steps` below zero and one less above.
fn on_grid(steps: i32, block: &[f32; 32]) -> Option<(f16, [i32; 32])> {
    let largest = block.iter().copied().fold(0.0f32, |a, b| if b.abs() > a.abs() { b } else { a });
    if largest == 0.0 {
        return Some((f16::ZERO, [0; 32]));
    }
    let codes_by = |scale: f16| {
        let step = scale.to_f32();
        let mut codes = [0; 32];
        for (code, x) in codes.iter_mut().zip(block) {
            let near = (x / step).round();
            if !(-steps as f32..steps as f32).contains(&near) || near * step != *x {
                return None;
            }
            *code = near as i32;
        }
        Some((scale, codes))
    };
    let of_code = |code: i32| {
        let scale = f16::from_f32(largest / code as f32);
        (scale.to_f32() * code as f32 == largest).then(|| codes_by(scale)).flatten()
    };
    (1..=steps).find_map(|code| of_code(-code).or_else(|| of_code(code)))
}

/// A block as ggml has it.
fn store(steps: i32, scale: f16, codes: &[i32; 32], bytes: &mut Vec<u8>) {
    bytes.extend(scale.to_le_bytes());
    if steps == 128 {
        bytes.extend(codes.map(|code| code as i8 as u8));
        return;
    }
    let codes = codes.map(|code| (code + steps) as u32);
    if steps == 16 {
        let high = codes.iter().enumerate().fold(0, |high, (i, code)| high | (code >> 4) << i);
        bytes.extend(high.to_le_bytes());
    }
    let (low, high) = codes.split_at(16);
    bytes.extend(low.iter().zip(high).map(|(a, b)| (a & 15 | (b & 15) << 4) as u8));
}
