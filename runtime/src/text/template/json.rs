//! The filter `tojson` as transformers defines it: what Python's `json.dumps` writes.

use super::python;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use std::fmt::Write;

/// As deep as values within values are written; JSON that was read is never deeper.
const DEEPEST: usize = 128;

/// Longest text that stands before or between values, which is written again and again.
const LONGEST_SEPARATOR: usize = 64;

/// `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`, without HTML escapes.
pub(super) fn to_json(
    value: &Value,
    ensure_ascii: Option<bool>,
    indent: Option<Value>,
    options: Kwargs,
    mark: Option<char>,
) -> Result<String, Error> {
    let ascii = ensure_ascii.map_or_else(|| options.get::<Option<bool>>("ensure_ascii"), |v| Ok(Some(v)))?.unwrap_or(false);
    let indent = indent.map_or_else(|| options.get::<Option<Value>>("indent"), |v| Ok(Some(v)))?;
    let sort = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    options.assert_all_used()?;
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(indent)?.min(LONGEST_SEPARATOR)),
        }),
    };
    let longest = separators.iter().flatten().chain(&indent).map(String::len).max().unwrap_or(0);
    if longest > LONGEST_SEPARATOR {
        return Err(wrong(&format!("a separator or indent of {longest} bytes, of at most {LONGEST_SEPARATOR}")));
    }
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => return Err(wrong("separators are two strings")),
        None => (if indent.is_some() { "," } else { ", " }, ": "),
    };
    let mut writer = JsonWriter { out: String::new(), indent, item, key, ascii, sort, mark };
    writer.value(value, 0)?;
    Ok(writer.out)
}

fn wrong(why: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {why}"))
}

/// Python's `json.dumps`.
struct JsonWriter<'a> {
    out: String,
    indent: Option<String>,
    item: &'a str,
    key: &'a str,
    ascii: bool,
    sort: bool,
    mark: Option<char>,
}

impl JsonWriter<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEEPEST {
            return Err(wrong("a value is nested too deeply"));
        }
        if self.out.len() > python::LONGEST {
            return Err(wrong("a value is too long"));
        }
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.sequence(['[', ']'], depth, items, |writer, item| writer.value(&item, depth + 1))
            }
            ValueKind::Map => {
                let entry = |key: Value| Ok((key_text(&key)?, value.get_item(&key)?));
                let mut entries = value.try_iter()?.map(entry).collect::<Result<Vec<_>, Error>>()?;
                if self.sort {
                    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.sequence(['{', '}'], depth, entries, |writer, (key, value)| {
                    writer.string(&key);
                    writer.out.push_str(writer.key);
                    writer.value(&value, depth + 1)
                })
            }
            ValueKind::String => {
                self.string(value.as_str().unwrap_or_default());
                Ok(())
            }
            ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                self.out.push_str(&scalar(value));
                Ok(())
            }
            kind => Err(wrong(&format!("a value of kind {kind} has no form in JSON"))),
        }
    }

    fn sequence<T>(
        &mut self,
        [open, close]: [char; 2],
        depth: usize,
        items: Vec<T>,
        mut one: impl FnMut(&mut Self, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        let empty = items.is_empty();
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                self.out.push_str(self.item);
            }
            self.new_line(depth + 1);
            one(self, item)?;
        }
        if !empty {
            self.new_line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    fn string(&mut self, text: &str) {
        let quoted = serde_json::Value::from(text).to_string();
        if !self.ascii {
            self.out.push_str(&quoted);
            return;
        }
        for c in quoted.chars() {
            if (' '..='~').contains(&c) || Some(c) == self.mark {
                self.out.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(self.out, "\\u{unit:04x}");
                }
            }
        }
    }
}

/// None, a boolean or a number.
fn scalar(value: &Value) -> String {
    match (value.kind(), python::as_float(value)) {
        (ValueKind::None, _) => "null".into(),
        (ValueKind::Bool, _) => value.is_true().to_string(),
        (_, Some(number)) if number.is_nan() => "NaN".into(),
        (_, Some(number)) if number.is_infinite() => if number > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        (_, Some(number)) => python::float(number),
        _ => value.to_string(),
    }
}

fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None | ValueKind::Bool | ValueKind::Number => Ok(scalar(key)),
        kind => Err(wrong(&format!("a key of kind {kind} has no form in JSON"))),
    }
}
