//! [`Scheme`]: how one tensor's numbers are stored, as data.
//!
//! A quantization algorithm chooses codes, scales and offsets *for* a scheme; a kernel decodes a scheme; neither
//! needs to know the other. For a code `c` of a group with scale `s`:
//!
//! | offset | codebook | value |
//! | --- | --- | --- |
//! | `none` | `uniform` | `s × (c − 2^(bits−1))` |
//! | `u4` (zero point `z`, 0 to 15) | `uniform` | `s × (c − z × 2^bits / 16)` |
//! | `f16` (offset `o`) | `uniform` | `s × c + o` |
//! | `none` | `learned` (table `t`) | `s × t[c]` |
//!
//! Scales are f16, or with learned codebooks [`E4M4`](crate::E4M4): the table then has the tensor's magnitude, and half as
//! many bits tell the groups' magnitudes apart.

use serde::{Deserialize, Serialize};

/// How one tensor's numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Scheme {
    /// 32-bit floats as they are.
    F32,
    /// 16-bit floats as they are.
    F16,
    /// Integer codes in groups along the input dimension, one scale a group.
    Grouped(Grouped),
}

/// Integer codes with a scale a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Grouped {
    /// Width of a code.
    pub bits: Bits,
    /// Weights that share a scale: 32, 64 or 128. The last group of a row may be shorter.
    pub group: usize,
    /// How a group's scale is stored.
    #[serde(default)]
    pub scale: ScaleType,
    /// What is subtracted from or added to a code.
    #[serde(default)]
    pub offset: Offset,
    /// What a code stands for.
    #[serde(default)]
    pub codebook: Codebook,
}

impl Grouped {
    /// Evenly spaced values around zero, with an f16 as each group's scale.
    pub const fn new(bits: Bits, group: usize) -> Self {
        Self { bits, group, scale: ScaleType::F16, offset: Offset::None, codebook: Codebook::Uniform }
    }
}

/// Width of a code, written as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub enum Bits {
    /// Three bits: a plane of two low bits and a plane of high bits.
    B3,
    /// Four bits.
    B4,
    /// Five bits: a plane of four low bits and a plane of high bits.
    B5,
    /// Eight bits.
    B8,
}

impl Bits {
    /// The width as a number.
    pub const fn get(self) -> u32 {
        match self {
            Self::B3 => 3,
            Self::B4 => 4,
            Self::B5 => 5,
            Self::B8 => 8,
        }
    }

    /// Number of different codes.
    pub const fn levels(self) -> u32 {
        1 << self.get()
    }
}

impl From<Bits> for u32 {
    fn from(bits: Bits) -> Self {
        bits.get()
    }
}

impl TryFrom<u32> for Bits {
    type Error = String;
    fn try_from(bits: u32) -> Result<Self, String> {
        match bits {
            3 => Ok(Self::B3),
            4 => Ok(Self::B4),
            5 => Ok(Self::B5),
            8 => Ok(Self::B8),
            _ => Err(format!("no scheme has {bits} bits (3, 4, 5 and 8 exist)")),
        }
    }
}

/// How a group's scale is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScaleType {
    /// An f16, of either sign.
    #[default]
    F16,
    /// An [`E4M4`](crate::E4M4), which is never negative (learned codebooks only).
    E4M4,
}

impl ScaleType {
    /// Width of a scale.
    pub const fn bits(self) -> u32 {
        match self {
            Self::F16 => 16,
            Self::E4M4 => 8,
        }
    }
}

/// What is stored beside a group's scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offset {
    /// Nothing: codes are centred on `2^(bits−1)`.
    #[default]
    None,
    /// A four-bit zero point in steps of `2^bits / 16` codes.
    U4,
    /// An f16 that is added.
    F16,
}

/// What a code stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Codebook {
    /// Evenly spaced values.
    #[default]
    Uniform,
    /// A table of `2^bits` f32 values, one table a tensor (3, 4 and 5 bits, offset `none`).
    Learned,
}

impl Scheme {
    /// Checks that the parts fit together.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self) -> Result<(), String> {
        let Self::Grouped(g) = self else { return Ok(()) };
        if ![32, 64, 128].contains(&g.group) {
            return Err(format!("a group of {} weights (32, 64 and 128 exist)", g.group));
        }
        if g.offset == Offset::U4 && g.bits == Bits::B8 {
            return Err("8-bit codes have no u4 zero points".into());
        }
        if g.codebook == Codebook::Learned && (g.bits == Bits::B8 || g.offset != Offset::None) {
            return Err("learned codebooks have 3, 4 or 5 bits and no offset".into());
        }
        if g.scale == ScaleType::E4M4 && g.codebook != Codebook::Learned {
            return Err("e4m4 scales need a learned codebook, which holds the tensor's magnitude".into());
        }
        Ok(())
    }

    /// Bits a weight, scales and offsets included, before padding.
    pub fn bits_per_weight(&self) -> f64 {
        match self {
            Self::F32 => 32.0,
            Self::F16 => 16.0,
            Self::Grouped(g) => {
                let offset = match g.offset {
                    Offset::None => 0.0,
                    Offset::U4 => 4.0,
                    Offset::F16 => 16.0,
                };
                f64::from(g.bits.get()) + (f64::from(g.scale.bits()) + offset) / g.group as f64
            }
        }
    }
}

/// The inverse of [`Scheme`]'s `Display`.
impl std::str::FromStr for Scheme {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || {
            format!(
                "{text:?} is no scheme; write f32, f16, or bits and group such as q4/32, q3/64+u4, q8/32+f16, q4/32:e4m4 learned"
            )
        };
        match text {
            "f32" => return Ok(Self::F32),
            "f16" => return Ok(Self::F16),
            _ => {}
        }
        let (body, codebook) = match text.strip_suffix(" learned") {
            Some(body) => (body, Codebook::Learned),
            None => (text, Codebook::Uniform),
        };
        let (bits, group) = body.strip_prefix('q').and_then(|t| t.split_once('/')).ok_or_else(unknown)?;
        let (group, offset) = match group.split_once('+') {
            None => (group, Offset::None),
            Some((group, "u4")) => (group, Offset::U4),
            Some((group, "f16")) => (group, Offset::F16),
            Some(_) => return Err(unknown()),
        };
        let (group, scale) = match group.split_once(':') {
            None => (group, ScaleType::F16),
            Some((group, "e4m4")) => (group, ScaleType::E4M4),
            Some(_) => return Err(unknown()),
        };
        let number = |t: &str| t.parse::<u32>().map_err(|_| unknown());
        let (bits, group) = (Bits::try_from(number(bits)?)?, number(group)? as usize);
        let scheme = Self::Grouped(Grouped { bits, group, scale, offset, codebook });
        scheme.check().map(|()| scheme).map_err(|why| format!("{text:?}: {why}"))
    }
}

/// `q4/32`, `q3/64+u4`, `q4/32 learned`, `q4/32:e4m4 learned`, `f16`: as plans, tables and file names write a scheme.
impl std::fmt::Display for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::F32 => f.pad("f32"),
            Self::F16 => f.pad("f16"),
            Self::Grouped(g) => {
                let mut text = format!("q{}/{}", g.bits.get(), g.group);
                if g.scale == ScaleType::E4M4 {
                    text += ":e4m4";
                }
                match g.offset {
                    Offset::None => {}
                    Offset::U4 => text += "+u4",
                    Offset::F16 => text += "+f16",
                }
                if g.codebook == Codebook::Learned {
                    text += " learned";
                }
                f.pad(&text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_are_read_as_they_are_written() {
        for text in ["f32", "f16", "q4/32", "q3/64+u4", "q8/128+f16", "q4/32 learned", "q3/64:e4m4 learned", "q5/32:e4m4 learned"]
        {
            assert_eq!(text.parse::<Scheme>().unwrap().to_string(), text);
        }
        for text in ["", "q4", "q6/32", "q4/31", "q8/32+u4", "q4/32+f32", "q4/32+u4 learned", "Q4/32", "q4/32:f16", "q4/32:e4m3"]
        {
            assert!(text.parse::<Scheme>().is_err(), "{text}");
        }
    }

    #[test]
    fn e4m4_scales_go_with_learned_codebooks_alone() {
        for text in ["q4/32:e4m4", "q3/64:e4m4", "q8/32:e4m4", "q4/32:e4m4+f16"] {
            let why = text.parse::<Scheme>().unwrap_err();
            assert!(why.contains("e4m4 scales need a learned codebook"), "{why}");
        }
        for text in ["q8/32:e4m4 learned", "q4/32:e4m4+u4 learned"] {
            let why = text.parse::<Scheme>().unwrap_err();
            assert!(why.contains("learned codebooks have"), "{why}");
        }
    }

    #[test]
    fn scales_of_eight_bits_take_half_the_room() {
        let bits = |text: &str| text.parse::<Scheme>().unwrap().bits_per_weight();
        assert_eq!((bits("q4/32 learned"), bits("q4/32:e4m4 learned"), bits("q3/64:e4m4 learned")), (4.5, 4.25, 3.125));
    }

    #[test]
    fn a_scheme_without_a_scale_type_has_f16() {
        let read = |text: &str| serde_json::from_str::<Scheme>(text);
        let f16 = read(r#"{"kind": "grouped", "bits": 4, "group": 32, "codebook": "learned"}"#).unwrap();
        assert_eq!(f16, "q4/32 learned".parse().unwrap());
        let e4m4 = read(r#"{"kind": "grouped", "bits": 4, "group": 32, "scale": "e4m4", "codebook": "learned"}"#).unwrap();
        assert_eq!(e4m4, "q4/32:e4m4 learned".parse().unwrap());
        assert!(read(r#"{"kind": "grouped", "bits": 4, "group": 32, "scale": "e4m3"}"#).is_err());
    }
}
