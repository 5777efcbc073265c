//! JSON as people have it: with a byte order mark, in UTF-16, and with the NaN and Infinity that Python's `json` writes.

use super::{CheckpointError, regular};
use serde_json::Value;
use std::path::Path;

/// Largest file of JSON that is read; indexes of the largest models have some megabytes.
const MAX_BYTES: u64 = 256 << 20;

/// Reads a file of JSON.
///
/// # Errors
/// If it cannot be read, is something else, or too large.
pub(super) fn read(path: &Path) -> Result<Value, CheckpointError> {
    let bytes = regular::read(path, MAX_BYTES)?;
    parse(&bytes).map_err(|why| CheckpointError::Json { path: path.into(), why })
}

/// Parses JSON. A number that is none, or that is beyond an f64, becomes the text that it is written as: where nobody
/// reads it, it does no harm, and where somebody does, it is refused as such.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, String> {
    let text = decode(bytes)?;
    // Nearly all files are plain.
    match serde_json::from_str(&text) {
        Ok(value) => Ok(value),
        Err(error) => match quote_numbers(&text) {
            Some(quoted) => serde_json::from_str(&quoted).map_err(|e| e.to_string()),
            None => Err(error.to_string()),
        },
    }
}

fn decode(bytes: &[u8]) -> Result<String, String> {
    let wide = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = bytes.as_chunks().0.iter().map(|b| unit(*b)).collect();
        match bytes.len().is_multiple_of(2) {
            true => String::from_utf16(&units).map_err(|_| "it starts as UTF-16, and is not valid".to_string()),
            false => Err("it starts as UTF-16, and ends within a letter".into()),
        }
    };
    match bytes {
        [] => Err("it is empty".into()),
        [0xef, 0xbb, 0xbf, rest @ ..] => utf8(rest),
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        // Without a mark: JSON starts with a letter of ASCII.
        [first, 0, ..] if *first != 0 => wide(bytes, u16::from_le_bytes),
        [0, second, ..] if *second != 0 => wide(bytes, u16::from_be_bytes),
        _ => utf8(bytes),
    }
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    std::str::from_utf8(bytes).map(str::to_string).map_err(|e| format!("it is not UTF-8 from byte {} on", e.valid_up_to()))
}

/// The text with quotes around the numbers that JSON does not have; none if there are none.
fn quote_numbers(text: &str) -> Option<String> {
    let (mut out, mut rest, mut any) = (String::with_capacity(text.len() + 16), text, false);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => string_length(rest),
            'N' | 'I' | '-' | '0'..='9' => {
                rest.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c)).unwrap_or(rest.len())
            }
            _ => first.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        let beyond = || token.parse::<f64>().is_ok_and(f64::is_infinite) && !token.contains(['i', 'I']);
        if matches!(token, "NaN" | "Infinity" | "-Infinity") || (first != '"' && beyond()) {
            any = true;
            out.extend(["\"", token, "\""]);
        } else {
            out += token;
        }
        rest = after;
    }
    any.then_some(out)
}

/// Bytes of the string that a text starts with, quotes included.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_python_writes_for_numbers_that_are_none_is_kept_as_text() {
        let parsed = parse(br#"{"a": NaN, "b": [Infinity, -Infinity, -1.5e3], "c": "NaN, \" Infinity", "d": 1e400}"#).unwrap();
        let expected = json!({"a": "NaN", "b": ["Infinity", "-Infinity", -1500.0], "c": "NaN, \" Infinity", "d": "1e400"});
        assert_eq!(parsed, expected);
    }

    #[test]
    fn encodings_are_told_apart_with_and_without_a_mark() {
        let text = r#"{"ä": 1}"#;
        let (le, be) = (
            text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>(),
            text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>(),
        );
        for bytes in [
            text.as_bytes().to_vec(),
            [&b"\xef\xbb\xbf"[..], text.as_bytes()].concat(),
            [&b"\xff\xfe"[..], &le[..]].concat(),
            [&b"\xfe\xff"[..], &be[..]].concat(),
            le,
            be,
        ] {
            assert_eq!(parse(&bytes).unwrap(), json!({"ä": 1}), "{bytes:?}");
        }
        assert_eq!(parse(b"").unwrap_err(), "it is empty");
        assert!(parse(b"{\"a\": nan}").is_err() && parse(b"\xff\xfe{").is_err());
    }
}
