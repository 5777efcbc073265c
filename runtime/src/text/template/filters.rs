//! Filters of jinja2 that minijinja lacks or has otherwise.

use super::operators::{begins, pay};
use super::python::{is_space, line_end, percent, replace, repr_sorted, text};
use minijinja::value::{Kwargs, Rest, Tuple, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use std::fmt::Write;

pub(super) fn extend(environment: &mut Environment, mark: Option<char>) {
    environment.add_filter("string", move |state: &State, value: &Value| charged(state, text(value, mark)?));
    environment.add_filter(
        "join",
        move |state: &State, value: &Value, between: Option<Value>, attribute: Option<Value>, named: Kwargs| {
            join(state, value, between, attribute, &named, mark)
        },
    );
    environment.add_filter("replace", |state: &State, value: &Value, args: Rest<ValueOrKwargs>| {
        let args = args.into_values();
        let (old, new, count, named): (&str, &str, Option<i64>, Kwargs) = from_args(&args)?;
        replace(state, value.as_str().unwrap_or_default(), old, new, count, &named)
    });
    environment.add_filter("format", move |state: &State, format: &str, args: Rest<ValueOrKwargs>| {
        let args = args.into_values();
        let values = match args.as_slice() {
            [named] if named.is_kwargs() => named.clone(),
            values => Value::from(Tuple::from(values.to_vec())),
        };
        percent(state, format, &values, mark)
    });
    environment.add_filter("attr", attribute_of);
    environment.add_filter("center", center);
    environment.add_filter("indent", indent);
    environment.add_filter("truncate", truncate);
    environment.add_filter("wordwrap", word_wrap);
    environment.add_filter("wordcount", |text: &str| words(text).count());
    environment.add_filter("urlencode", move |value: &Value| url_encode(value, mark));
    environment.add_filter("filesizeformat", file_size);
    environment.add_filter("pprint", move |value: &Value| {
        let text = repr_sorted(value, mark)?;
        // Beyond that Python breaks lines, by rules of its own.
        if text.chars().count() > 80 { Err(wrong("pprint of a value that needs more than a line")) } else { Ok(text) }
    });
    environment.add_filter("striptags", |value: &str| strip_tags(value));
    environment.add_filter("xmlattr", move |value: &Value, space: Option<bool>| xml_attributes(value, space, mark));
}

fn wrong(why: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, why)
}

fn charged(state: &State, text: String) -> Result<String, Error> {
    pay(state, text.len())?;
    Ok(text)
}

/// An argument by position or by name.
fn argument<T>(given: Option<T>, named: &Kwargs, name: &'static str) -> Result<Option<T>, Error>
where
    for<'a> Option<T>: minijinja::value::ArgType<'a, Output = Option<T>>,
{
    given.map_or_else(|| named.get::<Option<T>>(name), |value| Ok(Some(value)))
}

fn join(
    state: &State,
    value: &Value,
    between: Option<Value>,
    attribute: Option<Value>,
    named: &Kwargs,
    mark: Option<char>,
) -> Result<String, Error> {
    let between = argument(between, named, "d")?.map_or(Ok(String::new()), |d| text(&d, mark))?;
    let attribute = argument(attribute, named, "attribute")?;
    named.assert_all_used()?;
    let mut joined = String::new();
    if value.is_undefined() {
        return Ok(joined);
    }
    for (i, item) in value.try_iter()?.enumerate() {
        let item = match &attribute {
            Some(path) => by_path(item, path)?,
            None => item,
        };
        let (item, between) = (text(&item, mark)?, if i > 0 { between.as_str() } else { "" });
        // A whole fuel an item, besides its bytes.
        pay(state, 64 + item.len() + between.len())?;
        joined.push_str(between);
        joined.push_str(&item);
    }
    Ok(joined)
}

/// `a.b.0` of a value, as jinja2's `attribute` means it.
fn by_path(value: Value, path: &Value) -> Result<Value, Error> {
    let Some(path) = path.as_str() else { return value.get_item(path) };
    path.split('.').try_fold(value, |value, part| match part.parse::<usize>() {
        Ok(at) => value.get_item(&Value::from(at)),
        Err(_) => value.get_item(&Value::from(part)),
    })
}

fn indent(state: &State, value: &str, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let args = args.into_values();
    let (width, first, blank, named): (Option<Value>, Option<bool>, Option<bool>, Kwargs) = from_args(&args)?;
    let width = argument(width, &named, "width")?;
    let first = argument(first, &named, "first")?.unwrap_or(false);
    let blank = argument(blank, &named, "blank")?.unwrap_or(false);
    named.assert_all_used()?;
    let lines = value.matches('\n').count() + 2;
    let width = match width {
        None => "    ".to_owned(),
        Some(width) => match width.as_str() {
            Some(text) => text.to_owned(),
            None => {
                let width = usize::try_from(width)?;
                pay(state, width.saturating_mul(lines))?;
                " ".repeat(width)
            }
        },
    };
    pay(state, width.len().saturating_mul(lines) + value.len())?;
    // As in jinja2: a text that ends a line keeps its end.
    let value = format!("{value}\n");
    let mut rest = value.as_str();
    let mut out = String::new();
    for i in 0.. {
        if rest.is_empty() {
            break;
        }
        let (line, after) = line_end(rest);
        if i > 0 {
            out.push('\n');
        }
        if if i == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&width);
        }
        out.push_str(line);
        rest = after;
    }
    Ok(out)
}

fn truncate(state: &State, value: &str, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let args = args.into_values();
    let (length, kill_words, end, named): (Option<usize>, Option<bool>, Option<String>, Kwargs) = from_args(&args)?;
    pay(state, value.len())?;
    let length = argument(length, &named, "length")?.unwrap_or(255);
    let kill_words = argument(kill_words, &named, "killwords")?.unwrap_or(false);
    let end = argument(end, &named, "end")?.unwrap_or_else(|| "...".into());
    let leeway = named.get::<Option<usize>>("leeway")?.unwrap_or(5);
    named.assert_all_used()?;
    let room = length.checked_sub(end.chars().count()).ok_or_else(|| wrong("truncate: the end is longer than the length"))?;
    if value.chars().count() <= length.saturating_add(leeway) {
        return Ok(value.to_owned());
    }
    let cut = &value[..value.char_indices().nth(room).map_or(value.len(), |(at, _)| at)];
    let cut = if kill_words { cut } else { cut.rsplit_once(' ').map_or(cut, |(before, _)| before) };
    Ok(format!("{cut}{end}"))
}

/// Runs of what Python's `\w` matches.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// White space and words of a line, words cut after the hyphens within them.
fn chunks(line: &str, hyphens: bool) -> Vec<&str> {
    let mut chunks = Vec::new();
    let mut start = 0;
    let mut before = [' ', ' '];
    for (at, c) in line.char_indices() {
        let last = before[1];
        let after_hyphen = hyphens && last == '-' && before[0].is_alphanumeric() && c.is_alphabetic();
        if at > start && (is_space(c) != is_space(last) || after_hyphen) {
            chunks.push(&line[start..at]);
            start = at;
        }
        before = [last, c];
    }
    if start < line.len() {
        chunks.push(&line[start..]);
    }
    chunks
}

/// Python's `textwrap.wrap` of each line.
/// Attributes alone, as of `loop` or a namespace: entries of a dictionary are none in Python.
fn attribute_of(value: &Value, name: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Map if begins(value, "{") => Ok(Value::UNDEFINED),
        _ => minijinja::filters::attr(value, name),
    }
}

/// Python's `str.center`: of an odd number of spaces the one left over is on the left where the width is odd.
fn center(state: &State, value: &str, width: Option<usize>) -> Result<String, Error> {
    let width = width.unwrap_or(80);
    let room = width.saturating_sub(value.chars().count());
    pay(state, room + value.len())?;
    let left = room / 2 + (room & width & 1);
    Ok(format!("{}{value}{}", " ".repeat(left), " ".repeat(room - left)))
}

fn word_wrap(state: &State, value: &str, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let args = args.into_values();
    let (width, break_long, between, named): (Option<usize>, Option<bool>, Option<String>, Kwargs) = from_args(&args)?;
    let width = argument(width, &named, "width")?.unwrap_or(79);
    let break_long = argument(break_long, &named, "break_long_words")?.unwrap_or(true);
    let between = argument(between, &named, "wrapstring")?.unwrap_or_else(|| "\n".into());
    let hyphens = named.get::<Option<bool>>("break_on_hyphens")?.unwrap_or(true);
    named.assert_all_used()?;
    if width == 0 {
        return Err(wrong("wordwrap: a width of 0"));
    }
    pay(state, value.len().saturating_mul(8 + between.len()))?;
    let mut lines: Vec<String> = Vec::new();
    let mut rest = value;
    while !rest.is_empty() {
        let (line, after) = line_end(rest);
        rest = after;
        let (mut current, mut length, mut any) = (Vec::<&str>::new(), 0, false);
        let mut finish = |current: &mut Vec<&str>| {
            if current.last().is_some_and(|chunk| chunk.trim_matches(is_space).is_empty()) {
                current.pop();
            }
            let text = current.concat();
            current.clear();
            any |= !text.is_empty();
            if !text.is_empty() {
                lines.push(text);
            }
        };
        for (i, mut chunk) in chunks(line, hyphens).into_iter().enumerate() {
            loop {
                let size = chunk.chars().count();
                // White space at a line's start goes, but for that of the first line.
                if current.is_empty() && i > 0 && chunk.trim_matches(is_space).is_empty() {
                    break;
                }
                if length + size <= width {
                    current.push(chunk);
                    length += size;
                    break;
                }
                if size > width && break_long {
                    let room = width.saturating_sub(length);
                    let at = chunk.char_indices().nth(room).map_or(chunk.len(), |(at, _)| at);
                    current.push(&chunk[..at]);
                    chunk = &chunk[at..];
                } else if current.is_empty() {
                    current.push(chunk);
                    length += size;
                    break;
                }
                finish(&mut current);
                length = 0;
            }
        }
        finish(&mut current);
        if !any {
            lines.push(String::new());
        }
    }
    Ok(lines.join(&between))
}

fn quote(out: &mut String, text: &str, query: bool) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(byte.into()),
            b'/' if !query => out.push('/'),
            b' ' if query => out.push('+'),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

fn url_encode(value: &Value, mark: Option<char>) -> Result<String, Error> {
    let mut out = String::new();
    let map = value.kind() == ValueKind::Map;
    if !map && !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        quote(&mut out, &text(value, mark)?, false);
        return Ok(out);
    }
    for (i, item) in value.try_iter()?.enumerate() {
        let (key, value) = match map {
            true => (item.clone(), value.get_item(&item)?),
            false => (item.get_item(&Value::from(0))?, item.get_item(&Value::from(1))?),
        };
        out.push_str(if i > 0 { "&" } else { "" });
        quote(&mut out, &text(&key, mark)?, true);
        out.push('=');
        quote(&mut out, &text(&value, mark)?, true);
    }
    Ok(out)
}

fn file_size(value: &Value, binary: Option<bool>, named: Kwargs) -> Result<String, Error> {
    let binary = argument(binary, &named, "binary")?.unwrap_or(false);
    named.assert_all_used()?;
    let parsed = value.as_str().and_then(|text| text.trim().parse().ok());
    let bytes: f64 = parsed.map_or_else(|| f64::try_from(value.clone()), Ok)?;
    let (base, infix): (f64, _) = if binary { (1024.0, "iB") } else { (1000.0, "B") };
    if bytes == 1.0 {
        return Ok("1 Byte".into());
    }
    if bytes < base {
        return Ok(format!("{} Bytes", bytes as i64));
    }
    let prefixes = if binary { "KMGTPEZY" } else { "kMGTPEZY" };
    let mut unit = base;
    let mut last = String::new();
    for prefix in prefixes.chars() {
        unit *= base;
        last = format!("{:.1} {prefix}{infix}", base * bytes / unit);
        if bytes < unit {
            break;
        }
    }
    Ok(last)
}

/// Text without comments and tags, its white space one space each, entities as the characters that they are.
fn strip_tags(value: &str) -> Result<String, Error> {
    let mut out = String::new();
    let mut rest = value;
    while let Some(at) = rest.find('<') {
        let end = match rest[at..].starts_with("<!--") {
            true => rest[at..].find("-->").map(|end| at + end + 3),
            false => rest[at..].find('>').map(|end| at + end + 1),
        };
        let Some(end) = end else { break };
        out.push_str(&rest[..at]);
        rest = &rest[end..];
    }
    out.push_str(rest);
    let spaced = out.split(is_space).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    let named =
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&#34;", "\""), ("&nbsp;", "\u{a0}"), ("&amp;", "&")];
    let plain = named.iter().fold(spaced, |text, (entity, character)| text.replace(entity, character));
    Ok(plain)
}

fn xml_attributes(value: &Value, space: Option<bool>, mark: Option<char>) -> Result<String, Error> {
    let mut out = String::new();
    for key in value.try_iter()? {
        let item = value.get_item(&key)?;
        if item.is_none() || item.is_undefined() {
            continue;
        }
        let name = text(&key, mark)?;
        if name.contains([' ', '\t', '\n', '\x0c', '\r', '/', '>', '=']) {
            return Err(wrong("xmlattr: a name that is none"));
        }
        out.push_str(if out.is_empty() && space == Some(false) { "" } else { " " });
        let escaped = |text: String| {
            let escapes = [("&", "&amp;"), (">", "&gt;"), ("<", "&lt;"), ("'", "&#39;"), ("\"", "&#34;")];
            escapes.iter().fold(text, |text, (character, entity)| text.replace(character, entity))
        };
        let _ = write!(out, "{}=\"{}\"", escaped(name), escaped(text(&item, mark)?));
    }
    Ok(out)
}
