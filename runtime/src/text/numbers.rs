//! Numbers of JSON as Python reads them, where a [`serde_json::Value`] cannot hold them: integers beyond 64 bits keep their
//! digits, `-0` is the integer 0, and floats of many digits are the nearest `f64`.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Serialize, Serializer};
use serde_json::Value as Json;
use std::borrow::Cow;

/// The only key of an object that stands for a number; its value is the number as JSON spells it.
const NUMBER: &str = "\u{0}number";

/// Digits that every float keeps: with no more, serde_json reads it exactly.
const EXACT_DIGITS: usize = 15;

/// Reads JSON that a chat template will be given: messages, tools, documents, variables.
///
/// As [`serde_json::from_slice`], but for numbers that would lose digits there: they become objects that templates take for
/// the numbers that they are.
///
/// # Errors
/// Those of [`serde_json::from_slice`], and of category `Data` an integer beyond 128 bits: -2^127 to 2^128 - 1.
pub fn read_json<T: DeserializeOwned>(json: &[u8]) -> serde_json::Result<T> {
    match with_wide_numbers(json).map_err(serde_json::Error::custom)? {
        Cow::Borrowed(json) => serde_json::from_slice(json),
        // Errors quote the text as it was.
        Cow::Owned(written) => serde_json::from_slice(&written).map_err(|e| serde_json::from_slice::<T>(json).err().unwrap_or(e)),
    }
}

/// JSON in which objects stand for the numbers that serde_json would round.
fn with_wide_numbers(json: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    let mut written: Option<Vec<u8>> = None;
    let (mut at, mut copied) = (0, 0);
    while let Some(byte) = json.get(at) {
        let rest = &json[at..];
        let length = match byte {
            b'"' => string_length(rest),
            b'-' | b'0'..=b'9' => rest.iter().take_while(|b| matches!(b, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')).count(),
            _ => 1,
        };
        let token = std::str::from_utf8(&rest[..length]).unwrap_or_default();
        if *byte != b'"' && is_wide(token)? {
            let out = written.get_or_insert_default();
            out.extend(&json[copied..at]);
            out.extend(format!("{{\"\\u0000number\":\"{token}\"}}").bytes());
            copied = at + length;
        }
        at += length;
    }
    Ok(match written {
        Some(mut out) => {
            out.extend(&json[copied..]);
            Cow::Owned(out)
        }
        None => Cow::Borrowed(json),
    })
}

/// Bytes of the string that `json` begins with, quotes included.
fn string_length(json: &[u8]) -> usize {
    let mut at = 1;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    json.len()
}

/// Whether this is a number that serde_json rounds. serde_json itself refuses what is no number of JSON.
fn is_wide(token: &str) -> Result<bool, String> {
    let digits = token.strip_prefix('-').unwrap_or(token);
    let mut bytes = digits.bytes();
    match (bytes.next(), bytes.next()) {
        (Some(b'0'), None) => return Ok(token == "-0"),
        (Some(b'1'..=b'9'), _) | (Some(b'0'), Some(b'.' | b'e' | b'E')) => {}
        _ => return Ok(false),
    }
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        let long = digits.len() > EXACT_DIGITS || digits.contains(['e', 'E']);
        return Ok(long && is_float(digits));
    }
    if token.parse::<u64>().is_ok() || token.parse::<i64>().is_ok() {
        return Ok(false);
    }
    match token.parse::<u128>().is_ok() || token.parse::<i128>().is_ok() {
        true => Ok(true),
        false => {
            Err(format!("the integer {} has {} digits, and templates take at most 128 bits", shortened(token), digits.len()))
        }
    }
}

/// Whether JSON allows this as a float without its sign: digits around a point, where there is one.
fn is_float(digits: &str) -> bool {
    !digits.contains(".e") && !digits.contains(".E") && !digits.ends_with('.') && digits.parse::<f64>().is_ok()
}

/// An integer by its first and last digits, where it is long.
fn shortened(token: &str) -> Cow<'_, str> {
    match token.len() {
        ..=60 => token.into(),
        length => format!("{}…{}", &token[..30], &token[length - 10..]).into(),
    }
}

/// The number that an object stands for, if it does.
fn wide(fields: &serde_json::Map<String, Json>) -> Option<&str> {
    match fields.get(NUMBER) {
        Some(Json::String(number)) if fields.len() == 1 => Some(number),
        _ => None,
    }
}

/// Whether an object stands for a number.
pub(super) fn is_number(fields: &serde_json::Map<String, Json>) -> bool {
    wide(fields).is_some()
}

/// JSON as a template is given it: with numbers in the places of the objects that stand for them.
pub(super) struct Python<'a>(pub(super) &'a Json);

impl Serialize for Python<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Json::Array(items) => serializer.collect_seq(items.iter().map(Python)),
            Json::Object(fields) => match wide(fields) {
                Some(number) => {
                    if let Ok(number) = number.parse::<i128>() {
                        serializer.serialize_i128(number)
                    } else if let Ok(number) = number.parse::<u128>() {
                        serializer.serialize_u128(number)
                    } else {
                        match number.parse::<f64>() {
                            Ok(float) if number.contains(['.', 'e', 'E']) => serializer.serialize_f64(float),
                            // No number that was read, so an object after all.
                            _ => serializer.collect_map(fields),
                        }
                    }
                }
                None => serializer.collect_map(fields.iter().map(|(name, value)| (name, Python(value)))),
            },
            plain => plain.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{ChatOptions, Message, Tokenizer, TokenizerFiles};
    use std::collections::BTreeMap;

    fn written(json: &str) -> String {
        String::from_utf8(with_wide_numbers(json.as_bytes()).unwrap().into_owned()).unwrap()
    }

    #[test]
    fn only_numbers_that_would_be_rounded_are_written_otherwise() {
        let plain = r#"{"a": [0, -7, 1.5, 18446744073709551615, -9223372036854775808, 0.25], "123456789012345678901": "\"99999999999999999999"}"#;
        assert!(matches!(with_wide_numbers(plain.as_bytes()), Ok(Cow::Borrowed(_))));
        let wide = |number: &str| format!("{{\"\\u0000number\":\"{number}\"}}");
        for number in ["18446744073709551616", "-9223372036854775809", "-0", "0.30000000000000004", "1e5", "-2.5E-3", "1e999"] {
            assert_eq!(written(&format!("[{number},1]")), format!("[{},1]", wide(number)));
        }
        // Python's JSON refuses these as serde_json does.
        for wrong in ["012345678901234567890123", "1.", "1.e5", "-", "1e", "1e+", "--1", ".5", "+123456789012345678901", "1-2"] {
            assert!(read_json::<Json>(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let error = read_json::<Json>(br#"{"a": 123456789012345678901, "b": }"#).unwrap_err().to_string();
        assert_eq!(error, "expected value at line 1 column 35");
    }

    #[test]
    fn integers_beyond_128_bits_are_refused_by_their_digits() {
        let refusal = |json: &str| {
            let error = read_json::<Json>(json.as_bytes()).unwrap_err();
            assert!(error.is_data(), "{error}");
            error.to_string()
        };
        let beyond = "340282366920938463463374607431768211456";
        assert_eq!(refusal(beyond), format!("the integer {beyond} has 39 digits, and templates take at most 128 bits"));
        assert!(refusal("[-170141183460469231731687303715884105729]").contains("-170141183460469231731687303715884105729"));
        assert!(refusal(&format!("[1{}]", "0".repeat(5000))).contains("0…0000000000 has 5001 digits"));
        let message = serde_json::from_str::<Message>(&format!(r#"{{"role": "user", "content": {beyond}}}"#));
        assert!(message.unwrap_err().to_string().contains(beyond));
    }

    #[test]
    fn messages_tools_and_variables_keep_their_digits() {
        let json = br#"{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#;
        let template = "{{ messages[0].tool_calls[0].function.arguments|tojson }} {{ messages[0].content }} {{ tools[0]|tojson }} \
                        {{ documents[0].n }} {{ v }} {{ v + 1 }}";
        let files = TokenizerFiles { tokenizer: json, chat_template: Some(template), ..TokenizerFiles::default() };
        let tokenizer = Tokenizer::from_files(files).unwrap();
        let text = r#"[{"role": "assistant", "content": 123456789012345678901,
            "tool_calls": [{"function": {"name": "f", "arguments": {"id": 340282366920938463463374607431768211455, "x": -0, "y": 1e22}}}]}]"#;
        let messages: Vec<Message> = serde_json::from_str(text).unwrap();
        assert_eq!(messages, read_json::<Vec<Message>>(text.as_bytes()).unwrap());
        // Also by way of a value, which has nothing to lose any more.
        let value: Json = read_json(text.as_bytes()).unwrap();
        assert_eq!(messages, serde_json::from_value::<Vec<Message>>(value).unwrap());
        let one = |json: &str| read_json::<Vec<Json>>(json.as_bytes()).ok();
        let options = ChatOptions {
            tools: one(r#"[{"maximum": 98765432109876543210}]"#),
            documents: one(r#"[{"n": -98765432109876543210}]"#),
            variables: BTreeMap::from([("v".into(), read_json(b"18446744073709551616").unwrap())]),
            ..ChatOptions::default()
        };
        assert_eq!(
            tokenizer.render_chat(&messages, &options).unwrap(),
            r#"{"id": 340282366920938463463374607431768211455, "x": 0, "y": 1e+22} 123456789012345678901 {"maximum": 98765432109876543210} -98765432109876543210 18446744073709551616 18446744073709551617"#
        );
    }

    #[test]
    fn a_message_is_an_object_with_one_role() {
        let error = |json: &str| serde_json::from_str::<Message>(json).unwrap_err().to_string();
        assert!(error(r#"{"content": "a"}"#).contains("missing field `role`"));
        assert!(error(r#"{"role": 1}"#).contains("expected a string"));
        assert!(error(r#"{"role": "a", "role": "b"}"#).contains("duplicate field `role`"));
        assert!(error("3").contains("a message: an object"));
        let message: Message = serde_json::from_str(r#"{"z": 1, "role": "user", "a": 2}"#).unwrap();
        assert_eq!(message, Message::new("user", Json::Null).with("z", 1).with("a", 2));
    }
}
