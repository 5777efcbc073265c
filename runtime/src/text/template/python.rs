//! What templates expect of Python: how values print, what white space is, and methods and filters of strings where
//! minijinja has none or means something else.

use super::arithmetic;
use super::operators::{operands, pay};
use minijinja::formatting::{FormatStyle, format as format_text};
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
    environment.add_filter("int", arithmetic::int);
    environment.add_filter("round", arithmetic::round);
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

/// Methods that the library of Python's methods lacks or has otherwise; the rest is its.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let found = match value.as_str() {
        Some(text) => {
            pay(state, text.len())?;
            string_method(state, text, name, args)?
        }
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
        "split" | "rsplit" => split(state, text, name == "rsplit", args)?,
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            let mut joined = String::new();
            for (i, item) in items.try_iter()?.enumerate() {
                let item = item.as_str().ok_or_else(|| wrong("join: an item is no text"))?.to_owned();
                let between = if i > 0 { text } else { "" };
                pay(state, 64 + between.len() + item.len())?;
                joined.push_str(between);
                joined.push_str(&item);
            }
            Value::from(joined)
        }
        "replace" => {
            let (old, new, count, named): (&str, &str, Option<i64>, Kwargs) = from_args(args)?;
            Value::from(replace(state, text, old, new, count, &named)?)
        }
        "format" => str_format(state, text, args)?,
        "capitalize" => {
            let () = from_args(args)?;
            let mut characters = text.chars();
            let first = characters.next().map_or(String::new(), |c| c.to_uppercase().to_string());
            Value::from(first + &characters.as_str().to_lowercase())
        }
        "swapcase" => {
            let () = from_args(args)?;
            let mut swapped = String::with_capacity(text.len());
            for c in text.chars() {
                match c.is_uppercase() {
                    true => swapped.extend(c.to_lowercase()),
                    false => swapped.extend(c.to_uppercase()),
                }
            }
            Value::from(swapped)
        }
        "expandtabs" => {
            let (size, named): (Option<usize>, Kwargs) = from_args(args)?;
            let size = size.map_or_else(|| named.get::<Option<usize>>("tabsize"), |v| Ok(Some(v)))?.unwrap_or(8);
            named.assert_all_used()?;
            pay(state, text.matches('\t').count().saturating_mul(size))?;
            let (mut out, mut column) = (String::with_capacity(text.len()), 0);
            for c in text.chars() {
                let spaces = if c != '\t' || size == 0 { 0 } else { size - column % size };
                match c {
                    '\t' => out.extend(std::iter::repeat_n(' ', spaces)),
                    c => out.push(c),
                }
                column = match c {
                    '\n' | '\r' => 0,
                    '\t' => column + spaces,
                    _ => column + 1,
                };
            }
            Value::from(out)
        }
        "translate" => {
            let (table,): (&Value,) = from_args(args)?;
            let mut out = String::with_capacity(text.len());
            for c in text.chars() {
                let to = table.get_item(&Value::from(u32::from(c)))?;
                match (to.as_str(), u32::try_from(to.clone()).ok().and_then(char::from_u32)) {
                    _ if to.is_undefined() => out.push(c),
                    _ if to.is_none() => {}
                    (Some(to), _) => {
                        pay(state, to.len())?;
                        out.push_str(to);
                    }
                    (_, Some(to)) => out.push(to),
                    _ => return Err(wrong("translate: neither text nor a character's number nor None")),
                }
            }
            Value::from(out)
        }
        "isidentifier" => {
            let () = from_args(args)?;
            let letter = |c: char| c.is_alphabetic() || c == '_';
            let rest = |c: char| letter(c) || c.is_numeric();
            Value::from(text.starts_with(letter) && text.chars().all(rest))
        }
        "splitlines" => {
            let (keep_ends,): (Option<bool>,) = from_args(args)?;
            split_lines(state, text, keep_ends.unwrap_or(false))?
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

/// Python's `str.replace`, paid for before it takes any memory.
pub(super) fn replace(
    state: &State,
    text: &str,
    old: &str,
    new: &str,
    count: Option<i64>,
    named: &Kwargs,
) -> Result<String, Error> {
    let count = count.map_or_else(|| named.get::<Option<i64>>("count"), |v| Ok(Some(v)))?;
    named.assert_all_used()?;
    let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    pay(state, text.len().saturating_add(text.matches(old).count().min(count).saturating_mul(new.len())))?;
    Ok(text.replacen(old, new, count))
}

/// Characters `start..end` of `text` as Python slices it, with the number of those before.
fn slice(text: &str, start: Option<i64>, end: Option<i64>) -> (usize, &str) {
    let length = text.chars().count();
    let clamp = |at: i64| if at < 0 { length.saturating_sub(at.unsigned_abs() as usize) } else { length.min(at as usize) };
    let (start, end) = (start.map_or(0, clamp), end.map_or(length, clamp));
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    (start, if start < end { &text[byte(start)..byte(end)] } else { "" })
}

fn split(state: &State, text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator, limit, named): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = separator.map_or_else(|| named.get::<Option<Value>>("sep"), |v| Ok(Some(v)))?;
    let limit = limit.map_or_else(|| named.get::<Option<i64>>("maxsplit"), |v| Ok(Some(v)))?;
    named.assert_all_used()?;
    let pieces = limit.and_then(|limit| usize::try_from(limit).ok()).map_or(usize::MAX, |limit| limit.saturating_add(1));
    let separator = separator.filter(|separator| !separator.is_none());
    // Each part costs as much as its place in a list does.
    let count = match separator.as_ref().and_then(Value::as_str) {
        Some(separator) if !separator.is_empty() => text.matches(separator).count(),
        _ => text.split(is_space).count(),
    };
    pay(state, count.min(pieces).saturating_mul(64))?;
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

/// The first line of a text, and the rest after the line's end.
pub(super) fn line_end(text: &str) -> (&str, &str) {
    let ends = |c: char| matches!(c, '\n'..='\r' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let line = text.find(ends).unwrap_or(text.len());
    let after = match &text[line..] {
        after if after.starts_with("\r\n") => 2,
        after => after.chars().next().map_or(0, char::len_utf8),
    };
    (&text[..line], &text[line + after..])
}

fn split_lines(state: &State, text: &str, keep_ends: bool) -> Result<Value, Error> {
    let (mut lines, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        pay(state, 64)?;
        let (line, after) = line_end(rest);
        lines.push(Value::from(if keep_ends { &rest[..rest.len() - after.len()] } else { line }));
        rest = after;
    }
    Ok(Value::from(lines))
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
    pay(state, missing.saturating_mul(4))?;
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

/// Python's `str` of a value.
pub(super) fn text(value: &Value, mark: Option<char>) -> Result<String, Error> {
    match value.kind() {
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_owned()),
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => repr(value, mark),
        _ => Ok(as_float(value).map_or_else(|| value.to_string(), float)),
    }
}

/// `value`, or the text that Python makes of it where that is not what the library makes of it.
fn spelled(value: &Value, mark: Option<char>) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => Ok(value.clone()),
        _ => text(value, mark).map(Value::from),
    }
}

/// Numbers in a format, widths and precisions, may have so many digits together as to ask for this much.
const WIDEST: usize = 1 << 20;

/// Pays for the widths and precisions that a format asks for, before they take any memory.
fn pay_widths(state: &State, format: &str) -> Result<(), Error> {
    let digits = format.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let asked = digits.fold(0_usize, |sum, digits| sum.saturating_add(digits.parse().unwrap_or(usize::MAX)));
    if asked > WIDEST {
        return Err(wrong("a format is too wide"));
    }
    pay(state, asked)
}

/// Python's `format % values`.
pub(super) fn percent(state: &State, format: &str, values: &Value, mark: Option<char>) -> Result<Value, Error> {
    pay_widths(state, format)?;
    let by_name = values.kind() == ValueKind::Map && format.contains("%(");
    let mut values = operands(values)?;
    let (mut rest, mut at, mut out) = (format, 0, String::with_capacity(format.len()));
    while let Some(start) = rest.find('%') {
        let (before, specifier) = rest.split_at(start);
        out.push_str(before);
        let kind = specifier[1..].find(|c: char| c.is_ascii_alphabetic() || c == '%').map(|kind| kind + 1);
        let key = specifier.starts_with("%(").then(|| specifier.find(')')).flatten();
        // A key has letters that say nothing of the kind.
        let kind = match key {
            Some(end) => specifier[end..].find(|c: char| c.is_ascii_alphabetic() || c == '%').map(|kind| end + kind),
            None => kind,
        };
        let Some(kind) = kind else { return Err(wrong("% format: it ends within a specifier")) };
        let (specifier, after) = specifier.split_at(kind + 1);
        rest = after;
        if specifier == "%%" {
            out.push_str(specifier);
            continue;
        }
        if specifier.contains('*') {
            return Err(wrong("% format: widths among the values are not supported"));
        }
        let conversion = &specifier[kind..];
        if by_name {
            let key = key.map(|end| Value::from(&specifier[2..end])).ok_or_else(|| wrong("% format: a key is missing"))?;
            let value = values[0].get_item(&key)?;
            if value.is_undefined() {
                return Err(wrong("% format: a key that there is not"));
            }
            values.push(value);
            at = values.len() - 1;
            out.push('%');
            out.push_str(&specifier[key_end(specifier)..kind]);
        } else {
            out.push_str(&specifier[..kind]);
        }
        let value = values.get_mut(at).ok_or_else(|| wrong("% format: not enough values"))?;
        match conversion {
            "s" => *value = spelled(value, mark)?,
            "r" => *value = Value::from(repr(value, mark)?),
            _ => {}
        }
        out.push_str(if conversion == "r" { "s" } else { conversion });
        at += 1;
    }
    out.push_str(rest);
    let first = usize::from(by_name);
    if !by_name && at != values.len() && !matches!(values[0].kind(), ValueKind::Map | ValueKind::Seq) {
        return Err(wrong("% format: more values than it takes"));
    }
    values.truncate(at.max(first));
    values.splice(0..first, [Value::from(out)]);
    let (format, values) = values.split_first().ok_or_else(|| wrong("% format: no format"))?;
    Ok(Value::from(format_text(FormatStyle::Printf, format.as_str().unwrap_or_default(), values)?))
}

/// Where the key of a specifier ends.
fn key_end(specifier: &str) -> usize {
    specifier.find(')').map_or(1, |end| end + 1)
}

/// Python's `format.format(…)`.
fn str_format(state: &State, format: &str, args: &[Value]) -> Result<Value, Error> {
    pay_widths(state, format)?;
    let bare = |name: &str| format.contains(&format!("{{{name}}}"));
    // Fields without a format of their own print as `str` does.
    let mut args = args.to_vec();
    for (i, arg) in args.iter_mut().enumerate() {
        let plain = arg.kind() == ValueKind::Map && !bare(&i.to_string());
        if (bare("") || bare(&i.to_string())) && !plain && !format.contains("{:") {
            *arg = spelled(arg, None)?;
        }
    }
    let formatted = format_text(FormatStyle::StrFormat, format, &args)?;
    Ok(Value::from(formatted))
}

/// Python's `repr` of a list or a dict, as `{{ value }}` prints it, but with `mark` as it is.
pub(super) fn repr(value: &Value, mark: Option<char>) -> Result<String, Error> {
    let mut out = String::new();
    write_repr(&mut out, value, mark, 0, false)?;
    Ok(out)
}

/// The same with the keys of dicts in order, as `pprint` has them.
pub(super) fn repr_sorted(value: &Value, mark: Option<char>) -> Result<String, Error> {
    let mut out = String::new();
    write_repr(&mut out, value, mark, 0, true)?;
    Ok(out)
}

/// As deep as lists within lists are printed; JSON that was read is never deeper.
const DEEPEST: usize = 128;

/// Bytes of what is printed of one value, and of its items one more at most.
pub(super) const LONGEST: usize = 16 << 20;

fn write_repr(out: &mut String, value: &Value, mark: Option<char>, depth: usize, sorted: bool) -> Result<(), Error> {
    if depth > DEEPEST {
        return Err(wrong("a value is nested too deeply to be printed"));
    }
    if out.len() > LONGEST {
        return Err(wrong("a value is too long to be printed"));
    }
    match value.kind() {
        ValueKind::String => write_quoted(out, value.as_str().unwrap_or_default(), mark),
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = if value.is_tuple() { ('(', ')') } else { ('[', ']') };
            out.push(open);
            let mut count = 0;
            for item in value.try_iter()? {
                out.push_str(if count > 0 { ", " } else { "" });
                write_repr(out, &item, mark, depth + 1, sorted)?;
                count += 1;
            }
            out.push_str(if count == 1 && value.is_tuple() { "," } else { "" });
            out.push(close);
        }
        ValueKind::Map => {
            out.push('{');
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if sorted {
                keys.sort();
            }
            for (i, key) in keys.into_iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(out, &key, mark, depth + 1, sorted)?;
                out.push_str(": ");
                write_repr(out, &value.get_item(&key)?, mark, depth + 1, sorted)?;
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
