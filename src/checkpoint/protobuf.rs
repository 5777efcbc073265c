//! Protocol buffers, field by field: where each field lies, so that large ones need no copy and messages within messages are followed
//! only as deep as a reader wants.
//!
//! Groups are refused: no format that is read here has them, and they may lie within each other as deep as a file wants.

use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};
use std::ops::Range;

/// A field of a message.
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) wire: WireType,
    /// With its tag.
    pub(super) whole: Range<usize>,
    /// Of a field with a length, what it holds; of others, the value.
    pub(super) payload: Range<usize>,
}

impl Field {
    /// Where the bytes of a message, a text or a list lie.
    ///
    /// # Errors
    /// If the field has no length.
    pub(super) fn bytes(&self) -> Result<Range<usize>, String> {
        if self.wire == WireType::LengthDelimited { Ok(self.payload.clone()) } else { Err(self.wrong_type()) }
    }

    /// A whole number, or a truth value.
    ///
    /// # Errors
    /// If the field is none.
    pub(super) fn number(&self, file: &[u8]) -> Result<u64, String> {
        match self.wire {
            WireType::Varint => decode_varint(&mut &file[self.payload.clone()]).map_err(|e| e.to_string()),
            _ => Err(self.wrong_type()),
        }
    }

    /// A float.
    ///
    /// # Errors
    /// If the field is none.
    pub(super) fn float(&self, file: &[u8]) -> Result<f32, String> {
        match self.wire {
            WireType::ThirtyTwoBit => Ok((&file[self.payload.clone()]).get_f32_le()),
            _ => Err(self.wrong_type()),
        }
    }

    fn wrong_type(&self) -> String {
        format!("field {} at byte {} has a wire type that it does not have", self.number, self.whole.start)
    }
}

/// Calls `each` for every field of the message that lies in `range` of `file`.
///
/// # Errors
/// Those of `each`, and if the message is cut off or no such.
pub(super) fn fields(file: &[u8], range: Range<usize>, mut each: impl FnMut(Field) -> Result<(), String>) -> Result<(), String> {
    let mut start = range.start;
    while start < range.end {
        let mut rest = &file[start..range.end];
        let fail = |why: &dyn std::fmt::Display| format!("{why} at byte {start}");
        let (number, wire) = decode_key(&mut rest).map_err(|e| fail(&e))?;
        let mut payload = range.end - rest.len();
        let length = match wire {
            WireType::LengthDelimited => {
                let length = decode_varint(&mut rest).map_err(|e| fail(&e))?;
                payload = range.end - rest.len();
                length
            }
            WireType::Varint => {
                decode_varint(&mut rest).map_err(|e| fail(&e))?;
                (range.end - rest.len() - payload) as u64
            }
            WireType::ThirtyTwoBit => 4,
            WireType::SixtyFourBit => 8,
            WireType::StartGroup | WireType::EndGroup => {
                return Err(format!("a group at byte {start}, which the format does not have"));
            }
        };
        let left = (range.end - payload) as u64;
        if length > left {
            return Err(format!("truncated: a field at byte {start} has {length} bytes, {left} are left"));
        }
        let end = payload + length as usize;
        each(Field { number, wire, whole: start..end, payload: payload..end })?;
        start = end;
    }
    Ok(())
}

/// The numbers of a packed list.
///
/// # Errors
/// If the last one is cut off.
pub(super) fn packed(mut bytes: &[u8]) -> Result<Vec<u64>, String> {
    let mut numbers = Vec::new();
    while !bytes.is_empty() {
        numbers.push(decode_varint(&mut bytes).map_err(|e| e.to_string())?);
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(file: &[u8]) -> Result<Vec<(u32, Range<usize>)>, String> {
        let mut found = Vec::new();
        fields(file, 0..file.len(), |f| {
            found.push((f.number, f.payload));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn fields_of_all_types_are_found() {
        let file = [0x08, 0x96, 0x01, 0x12, 2, 7, 8, 0x1d, 0, 0, 0x80, 0x3f, 0x21, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(numbers(&file).unwrap(), [(1, 1..3), (2, 5..7), (3, 8..12), (4, 13..21)]);
        fields(&file, 0..12, |f| {
            match f.number {
                1 => assert_eq!((f.number(&file).unwrap(), f.bytes().is_err(), f.float(&file).is_err()), (150, true, true)),
                2 => assert_eq!((f.bytes().unwrap(), f.number(&file).is_err()), (5..7, true)),
                _ => assert_eq!(f.float(&file).unwrap(), 1.0),
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(packed(&[1, 0x96, 1]).unwrap(), [1, 150]);
    }

    #[test]
    fn what_is_cut_off_or_no_message_is_refused() {
        for (file, why) in [
            (&[0x12, 5, 1][..], "truncated: a field at byte 0 has 5 bytes, 1 are left"),
            (&[0x08, 1, 0x1d, 0, 0], "truncated: a field at byte 2 has 4 bytes, 2 are left"),
            (&[0x08, 0x80], "at byte 0"),
            (&[0x0b, 0x0c], "a group at byte 0, which the format does not have"),
            (&[0x08, 1, 0x0e], "at byte 2"),
            (&[0x00, 1], "at byte 0"),
        ] {
            let said = numbers(file).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        assert!(packed(&[0x80]).is_err());
    }
}
