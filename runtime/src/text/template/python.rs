//! What templates expect of Python: how values print, what white space is, and methods and filters of strings where
//! minijinja has none or means something else.

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use std::fmt::Write;

/// Adds the filters, tests and methods.
pub(super) fn extend(environment: &mut Environment) {
    environment.add_filter("trim", |value: &Value, characters: Option<&str>| match value.as_str() {
        Some(text) => strip(text, characters, true, true).to_owned(),
        None => strip(&value.to_string(), characters, true, true).to_owned(),
    });
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("int", int);
    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_test("sequence", |value: &Value| {
        use ValueKind::{Iterable, Map, Seq, String, Undefined};
        matches!(value.kind(), Undefined | String | Seq | Map | Iterable)
    });
    environment.set_unknown_method_callback(method);
}

/// Python's `str.isspace`, for one character.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Python's `str.strip`, on the left and on the right.
fn strip<'a>(text: &'a str, characters: Option<&str>, left: bool, right: bool) -> &'a str {
    let goes = |c: char| characters.map_or_else(|| is_space(c), |set| set.contains(c));
    let text = if left { text.trim_start_matches(goes) } else { text };
    if right { text.trim_end_matches(goes) } else { text }
}

fn default(value: &Value, other: Option<Value>, falsy_too: Option<bool>, named: Kwargs) -> Result<Value, Error> {
    let other = other.map_or_else(|| named.get::<Option<Value>>("default_value"), |v| Ok(Some(v)))?;
    let falsy_too = falsy_too.map_or_else(|| named.get::<Option<bool>>("boolean"), |v| Ok(Some(v)))?;
    named.assert_all_used()?;
    let absent = value.is_undefined() || falsy_too == Some(true) && !value.is_true();
    Ok(if absent { other.unwrap_or_else(|| Value::from("")) } else { value.clone() })
}

/// What is no number becomes the default instead of an error.
fn int(state: &State, value: &Value, other: Option<Value>, base: Option<u32>, named: Kwargs) -> Result<Value, Error> {
    let other = other.map_or_else(|| named.get::<Option<Value>>("default"), |v| Ok(Some(v)))?;
    let found = minijinja::filters::int(state, value, other.clone(), base, named);
    Ok(found.unwrap_or_else(|_| other.unwrap_or_else(|| Value::from(0))))
}

/// Methods that the library of Python's methods lacks or has otherwise; the rest is its.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let found = match value.as_str() {
        Some(text) => string_method(state, text, name, args)?,
        None => match (value.kind(), name) {
            (ValueKind::Map, "copy") => Some(value.clone()),
            (ValueKind::Seq, "index") => {
                let (what,): (&Value,) = from_args(args)?;
                let at = value.try_iter()?.position(|item| item == *what);
                Some(Value::from(at.ok_or_else(|| wrong("index: the value is not in the list"))?))
            }
            _ => None,
        },
    };
    match found {
        Some(result) => Ok(result),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

fn wrong(why: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, why)
}

fn string_method(state: &State, text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "strip" | "lstrip" | "rstrip" => {
            let (characters,): (Option<&str>,) = from_args(args)?;
            Value::from(strip(text, characters, name != "rstrip", name != "lstrip"))
        }
        "split" | "rsplit" => split(text, name == "rsplit", args)?,
        "splitlines" => {
            let (keep_ends,): (Option<bool>,) = from_args(args)?;
            split_lines(text, keep_ends.unwrap_or(false))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let from_right = name == "rpartition";
            let cut = if from_right { text.rsplit_once(separator) } else { text.split_once(separator) };
            let parts = match cut {
                _ if separator.is_empty() => return Err(wrong("partition: empty separator")),
                Some((before, after)) => [before, separator, after],
                None if from_right => ["", "", text],
                None => [text, "", ""],
            };
            Value::from(Tuple::from(parts.map(Value::from)))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "find" | "rfind" | "index" | "rindex" => {
            let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let (first, part) = slice(text, start, end);
            let at = if name.starts_with('r') { part.rfind(what) } else { part.find(what) };
            match at.map(|at| first + part[..at].chars().count()) {
                Some(at) => Value::from(at),
                None if name.ends_with("find") => Value::from(-1),
                None => return Err(wrong("index: substring not found")),
            }
        }
        "count" => {
            let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            Value::from(slice(text, start, end).1.matches(what).count())
        }
        // With one argument it is the library's.
        "startswith" | "endswith" if args.len() > 1 => {
            let (what, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
            let part = slice(text, start, end).1;
            let matches = |what: &str| if name == "endswith" { part.ends_with(what) } else { part.starts_with(what) };
            let any = match what.as_str() {
                Some(what) => matches(what),
                None => what.try_iter()?.any(|what| what.as_str().is_some_and(matches)),
            };
            Value::from(any)
        }
        "title" => {
            let () = from_args(args)?;
            Value::from(title(text))
        }
        "zfill" | "ljust" | "rjust" | "center" => pad(state, text, name, args)?,
        "casefold" => {
            let () = from_args(args)?;
            Value::from(text.to_lowercase().replace('ß', "ss"))
        }
        "isdigit" | "isnumeric" | "isdecimal" => {
            let () = from_args(args)?;
            Value::from(!text.is_empty() && text.chars().all(char::is_numeric))
        }
        _ => return Ok(None),
    }))
}

/// Characters `start..end` of `text` as Python slices it, with the number of those before.
fn slice(text: &str, start: Option<i64>, end: Option<i64>) -> (usize, &str) {
    let length = text.chars().count();
    let clamp = |at: i64| if at < 0 { length.saturating_sub(at.unsigned_abs() as usize) } else { length.min(at as usize) };
    let (start, end) = (start.map_or(0, clamp), end.map_or(length, clamp));
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    (start, if start < end { &text[byte(start)..byte(end)] } else { "" })
}

fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator, limit, named): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = separator.map_or_else(|| named.get::<Option<Value>>("sep"), |v| Ok(Some(v)))?;
    let limit = limit.map_or_else(|| named.get::<Option<i64>>("maxsplit"), |v| Ok(Some(v)))?;
    named.assert_all_used()?;
    let pieces = limit.and_then(|limit| usize::try_from(limit).ok()).map_or(usize::MAX, |limit| limit.saturating_add(1));
    let separator = separator.filter(|separator| !separator.is_none());
    let parts: Vec<&str> = match separator.as_ref().map(Value::as_str) {
        Some(None) => return Err(wrong("split: the separator is no text")),
        Some(Some("")) => return Err(wrong("split: empty separator")),
        Some(Some(separator)) if from_right => {
            let mut parts: Vec<_> = text.rsplitn(pieces, separator).collect();
            parts.reverse();
            parts
        }
        Some(Some(separator)) => text.splitn(pieces, separator).collect(),
        None => split_at_space(text, pieces, from_right),
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Words of `text`, `pieces` at most: the last (or first) keeps the white space within it.
fn split_at_space(text: &str, pieces: usize, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = strip(text, None, true, true);
    while !rest.is_empty() {
        if parts.len() + 1 >= pieces {
            parts.push(if from_right { strip(rest, None, false, true) } else { strip(rest, None, true, false) });
            break;
        }
        let cut = if from_right { rest.rsplit_once(is_space) } else { rest.split_once(is_space) };
        let (part, more) = match cut {
            Some((more, part)) if from_right => (part, strip(more, None, false, true)),
            Some((part, more)) => (part, strip(more, None, true, false)),
            None => (rest, ""),
        };
        parts.push(part);
        rest = more;
    }
    if from_right {
        parts.reverse();
    }
    parts
}

fn split_lines(text: &str, keep_ends: bool) -> Value {
    let ends = |c: char| matches!(c, '\n'..='\r' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let (mut lines, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let line = rest.find(ends).unwrap_or(rest.len());
        let end = match &rest[line..] {
            after if after.starts_with("\r\n") => line + 2,
            after => line + after.chars().next().map_or(0, char::len_utf8),
        };
        lines.push(Value::from(&rest[..if keep_ends { end } else { line }]));
        rest = &rest[end..];
    }
    Value::from(lines)
}

/// Python's `str.title`: a letter after anything but a letter is upper case, also after an apostrophe.
fn title(text: &str) -> String {
    let mut titled = String::with_capacity(text.len());
    let mut after_letter = false;
    for c in text.chars() {
        match after_letter {
            true => titled.extend(c.to_lowercase()),
            false => titled.extend(c.to_uppercase()),
        }
        after_letter = c.is_lowercase() || c.is_uppercase();
    }
    titled
}

fn pad(state: &State, text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (usize, Option<char>) = from_args(args)?;
    let missing = width.saturating_sub(text.chars().count());
    // As much as the result costs, before it takes any memory.
    state.consume_fuel((missing / 64) as u64)?;
    let fill = |n: usize| fill.unwrap_or(' ').to_string().repeat(n);
    Ok(Value::from(match name {
        "ljust" => format!("{text}{}", fill(missing)),
        "rjust" => format!("{}{text}", fill(missing)),
        "center" => {
            let left = missing / 2 + (missing & width & 1);
            format!("{}{text}{}", fill(left), fill(missing - left))
        }
        _ => {
            let sign = usize::from(text.starts_with(['+', '-']));
            format!("{}{}{}", &text[..sign], "0".repeat(missing), &text[sign..])
        }
    }))
}

/// What Python prints of a float: `1.0`, `1e-05`, `1e+20`.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".into();
    }
    let text = format!("{number:?}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => text,
    }
}

/// The float that `value` is, if it is one.
pub(super) fn as_float(value: &Value) -> Option<f64> {
    (value.is_number() && !value.is_integer()).then(|| f64::try_from(value.clone()).ok()).flatten()
}

/// Python's `repr` of a list or a dict, as `{{ value }}` prints it, but with `mark` as it is.
pub(super) fn repr(value: &Value, mark: Option<char>) -> Result<String, Error> {
    let mut out = String::new();
    write_repr(&mut out, value, mark, 0)?;
    Ok(out)
}

/// As deep as lists within lists are printed; JSON that was read is never deeper.
const DEEPEST: usize = 128;

fn write_repr(out: &mut String, value: &Value, mark: Option<char>, depth: usize) -> Result<(), Error> {
    if depth > DEEPEST {
        return Err(wrong("a value is nested too deeply to be printed"));
    }
    match value.kind() {
        ValueKind::String => write_quoted(out, value.as_str().unwrap_or_default(), mark),
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = if value.is_tuple() { ('(', ')') } else { ('[', ']') };
            out.push(open);
            let mut count = 0;
            for item in value.try_iter()? {
                out.push_str(if count > 0 { ", " } else { "" });
                write_repr(out, &item, mark, depth + 1)?;
                count += 1;
            }
            out.push_str(if count == 1 && value.is_tuple() { "," } else { "" });
            out.push(close);
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(out, &key, mark, depth + 1)?;
                out.push_str(": ");
                write_repr(out, &value.get_item(&key)?, mark, depth + 1)?;
            }
            out.push('}');
        }
        ValueKind::Undefined => out.push_str("Undefined"),
        _ => match as_float(value) {
            Some(number) => out.push_str(&float(number)),
            None => {
                let _ = write!(out, "{value}");
            }
        },
    }
    Ok(())
}

/// Python's `repr` of a string.
fn write_quoted(out: &mut String, text: &str, mark: Option<char>) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c if Some(c) == mark => out.push(c),
            // Rust's debug form escapes what cannot be printed; a letter before it keeps accents from counting as such.
            c if format!("{:?}", format!("a{c}")).contains('\\') || c.is_whitespace() => {
                let _ = match u32::from(c) {
                    code @ ..=0xff => write!(out, "\\x{code:02x}"),
                    code @ ..=0xffff => write!(out, "\\u{code:04x}"),
                    code => write!(out, "\\U{code:08x}"),
                };
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}
