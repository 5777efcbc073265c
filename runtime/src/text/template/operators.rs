//! The functions that [`super::rewrite`] puts in the places of operators.

use super::arithmetic::{quotient, remainder};
use super::python::{self, text};
use super::rewrite::{
    ADDED, ATTRIBUTE, COMPARED, CONCAT, HELD, ITERATED, LOOPED, NAMED, QUOTIENT, REMAINDER, SEARCHED, SORTED, SPELLED, STEPPED,
    SUBSCRIPT,
};
use minijinja::value::{ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};

/// As deep as values within values may have names; JSON that was read is never deeper.
const DEEPEST: usize = 128;

pub(super) fn extend(environment: &mut Environment, mark: Option<char>) {
    environment.add_function(CONCAT, move |state: &State, left: &Value, right: &Value| -> Result<String, Error> {
        let (left, right) = (text(left, mark)?, text(right, mark)?);
        pay(state, left.len() + right.len())?;
        Ok([left, right].concat())
    });
    environment.add_function(ADDED, |state: &State, left: &Value, right: &Value| match (left.as_str(), right.as_str()) {
        (Some(one), Some(other)) => joined(state, (one, left.is_safe()), (other, right.is_safe())),
        _ => Err(wrong(format!("+ of a {} and a {}", left.kind(), right.kind()))),
    });
    environment.add_function(REMAINDER, move |state: &State, left: &Value, right: &Value| match left.as_str() {
        Some(format) => python::percent(state, format, right, mark),
        None => remainder(left, right),
    });
    environment.add_function(QUOTIENT, quotient);
    environment.add_function(COMPARED, |state: &State, value: Value| paid(state, value, 1));
    environment.add_function(SEARCHED, |state: &State, value: Value| paid(state, iterable(value)?, 1));
    environment.add_function(ITERATED, iterable);
    // No list is so long that the two differ.
    environment.add_function(STEPPED, |value: Value| match i64::try_from(value.clone()) {
        Ok(i64::MIN) => Value::from(-i64::MAX),
        _ => value,
    });
    // minijinja knows of no last character of a text.
    environment.add_function(LOOPED, |state: &State, value: Value| match value.as_str() {
        Some(text) => {
            pay(state, text.len() * size_of::<Value>())?;
            Ok(Value::from(text.chars().map(|c| Value::from(c.to_string())).collect::<Vec<_>>()))
        }
        None => iterable(value),
    });
    environment.add_function(SPELLED, move |value: Value| match python::as_float(&value) {
        Some(number) => Ok(Value::from(python::float(number))),
        None if matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) => {
            python::repr(&value, mark).map(Value::from)
        }
        None => Ok(value),
    });
    environment.add_function(SORTED, |state: &State, value: Value| {
        // A comparison for each item and each halving of the list.
        let halvings = usize::BITS - value.len().unwrap_or(0).leading_zeros();
        paid(state, iterable(value)?, halvings.into())
    });
    environment.add_function(NAMED, named);
    environment.add_function(ATTRIBUTE, |value: &Value, name: &str| match is_dictionary(value) {
        true => Ok(method(value, name)),
        false => value.get_attr(name),
    });
    environment.add_function(SUBSCRIPT, |value: &Value, name: &Value| -> Result<Value, Error> {
        let item = value.get_item(name)?;
        match name.as_str().filter(|_| item.is_undefined() && is_dictionary(value)) {
            Some(name) => Ok(method(value, name)),
            None => Ok(item),
        }
    });
    environment.add_function(HELD, |state: &State, value: Value| {
        let value = named(state, value)?;
        match holds_namespace(&value)? {
            true => Err(wrong("a namespace cannot hold a namespace")),
            false => Ok(value),
        }
    });
    environment.add_test("in", |state: &State, value: &Value, within: &Value| -> Result<bool, Error> {
        walk(state, within, 1, 0)?;
        match (within.as_str(), value.as_str()) {
            (Some(within), Some(value)) => Ok(within.contains(value)),
            _ if within.kind() == ValueKind::Map => Ok(!within.get_item(value)?.is_undefined()),
            _ => Ok(within.try_iter()?.any(|item| item == *value)),
        }
    });
    for names in [["eq", "equalto", "=="], ["ne", "!=", "!="]] {
        for name in names {
            environment.add_test(name, move |state: &State, value: &Value, other: &Value| -> Result<bool, Error> {
                walk(state, other, 1, 0)?;
                Ok((value == other) == (names[0] == "eq"))
            });
        }
    }
}

fn wrong(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, why.into())
}

/// Two texts as one, each with whether it is safe markup. Beside markup, plain text is escaped, as by Python's markupsafe.
fn joined(state: &State, left: (&str, bool), right: (&str, bool)) -> Result<Value, Error> {
    let safe = left.1 || right.1;
    let part = |(text, is_safe): (&str, bool)| if safe && !is_safe { escaped(text) } else { text.to_owned() };
    let whole = [part(left), part(right)].concat();
    pay(state, whole.len())?;
    Ok(if safe { Value::from_safe_string(whole) } else { Value::from(whole) })
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}

/// Takes as much fuel as `bytes` of text cost.
pub(super) fn pay(state: &State, bytes: usize) -> Result<(), Error> {
    match (bytes / 64) as u64 {
        0 => Ok(()),
        fuel => state.consume_fuel(fuel),
    }
}

/// `value`, once the fuel is paid that reading all of it `times` times costs.
pub(super) fn paid(state: &State, value: Value, times: u64) -> Result<Value, Error> {
    walk(state, &value, times, 0)?;
    Ok(value)
}

/// `value`, paid for and no lazier than a list.
fn named(state: &State, value: Value) -> Result<Value, Error> {
    match value.kind() {
        // Lists put together stay apart in minijinja, and are slow to go through.
        ValueKind::Iterable => {
            let mut items = Vec::new();
            for (i, item) in value.try_iter()?.enumerate() {
                if i % 3 == 0 {
                    state.consume_fuel(1)?;
                }
                walk(state, &item, 1, 1)?;
                items.push(item);
            }
            Ok(Value::from(items))
        }
        _ => paid(state, value, 1),
    }
}

/// Whether a namespace is in a value that is nested no deeper than may be.
fn holds_namespace(value: &Value) -> Result<bool, Error> {
    let map = value.kind() == ValueKind::Map;
    if map && is_namespace(value) {
        return Ok(true);
    }
    if !map && value.kind() != ValueKind::Seq {
        return Ok(false);
    }
    for item in value.try_iter()? {
        if holds_namespace(&if map { value.get_item(&item)? } else { item })? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_namespace(value: &Value) -> bool {
    begins(value, "Namespace")
}

/// Whether an object begins to describe itself so: minijinja alone knows its namespaces and loops from dictionaries.
pub(super) fn begins(value: &Value, with: &str) -> bool {
    struct Start(String, usize);
    impl std::fmt::Write for Start {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.push_str(text);
            if self.0.len() < self.1 { Ok(()) } else { Err(std::fmt::Error) }
        }
    }
    let mut start = Start(String::new(), with.len());
    if let Some(object) = value.as_object() {
        let _ = std::fmt::write(&mut start, format_args!("{object:?}"));
    }
    start.0.starts_with(with)
}

/// Pays for reading all that is in `value`, and refuses what is nested too deeply for those who read it by calling
/// themselves: printing, comparing, hashing.
fn walk(state: &State, value: &Value, times: u64, depth: usize) -> Result<(), Error> {
    if let Some(text) = value.as_str() {
        return pay(state, text.len() / 8 * times as usize);
    }
    if depth > DEEPEST {
        return Err(wrong("a value is nested too deeply"));
    }
    let map = value.kind() == ValueKind::Map;
    if !map && !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return Ok(());
    }
    for (i, item) in value.try_iter()?.enumerate() {
        if i % 16 == 0 {
            state.consume_fuel(times)?;
        }
        walk(state, &if map { value.get_item(&item)? } else { item }, times, depth + 1)?;
    }
    Ok(())
}

/// `value`, if jinja2 could iterate over it where minijinja takes none for an empty list.
fn iterable(value: Value) -> Result<Value, Error> {
    match value.is_none() {
        true => Err(wrong("None is not iterable")),
        false => Ok(value),
    }
}

/// Items of a `%` format's right side: those of a tuple, or the one value.
pub(super) fn operands(value: &Value) -> Result<Vec<Value>, Error> {
    Ok(if value.is_tuple() { value.try_iter()?.collect() } else { vec![value.clone()] })
}

/// A joiner of jinja2 says nothing at first, and its separator from then on.
#[derive(Debug)]
struct Joiner {
    separator: Value,
    used: std::sync::atomic::AtomicBool,
}

impl minijinja::value::Object for Joiner {
    fn repr(self: &std::sync::Arc<Self>) -> minijinja::value::ObjectRepr {
        minijinja::value::ObjectRepr::Plain
    }

    fn call(self: &std::sync::Arc<Self>, _: &mut State, args: &[Value]) -> Result<Value, Error> {
        let () = from_args(args)?;
        let used = self.used.swap(true, std::sync::atomic::Ordering::Relaxed);
        Ok(if used { self.separator.clone() } else { Value::from("") })
    }
}

/// A cycler of jinja2 goes round its items.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: std::sync::atomic::AtomicUsize,
}

impl minijinja::value::Object for Cycler {
    fn get_value(self: &std::sync::Arc<Self>, key: &Value) -> Option<Value> {
        let at = self.at.load(std::sync::atomic::Ordering::Relaxed);
        (key.as_str() == Some("current")).then(|| self.items[at].clone())
    }

    fn call_method(self: &std::sync::Arc<Self>, _: &mut State, method: &str, args: &[Value]) -> Result<Value, Error> {
        let () = from_args(args)?;
        let at = self.at.load(std::sync::atomic::Ordering::Relaxed);
        let (next, result) = match method {
            "next" => ((at + 1) % self.items.len(), self.items[at].clone()),
            "reset" => (0, Value::from(())),
            _ => return Err(Error::from(ErrorKind::UnknownMethod)),
        };
        self.at.store(next, std::sync::atomic::Ordering::Relaxed);
        Ok(result)
    }
}

/// Whether Python has a dictionary there: maps, but for objects that only look like one.
fn is_dictionary(value: &Value) -> bool {
    value.kind() == ValueKind::Map && !is_namespace(value)
}

/// A method that is not called.
#[derive(Debug)]
struct Method {
    of: Value,
    name: String,
}

fn method(of: &Value, name: &str) -> Value {
    Value::from_object(Method { of: of.clone(), name: name.into() })
}

impl minijinja::value::Object for Method {
    fn repr(self: &std::sync::Arc<Self>) -> minijinja::value::ObjectRepr {
        minijinja::value::ObjectRepr::Plain
    }

    fn call(self: &std::sync::Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        self.of.call_method(state, &self.name, args)
    }

    fn render(self: &std::sync::Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "<built-in method {} of dict object>", self.name)
    }
}

/// `joiner(sep=', ')`.
pub(super) fn joiner(separator: Option<Value>, named: minijinja::value::Kwargs) -> Result<Value, Error> {
    let separator = separator.map_or_else(|| named.get::<Option<Value>>("sep"), |v| Ok(Some(v)))?;
    named.assert_all_used()?;
    Ok(Value::from_object(Joiner { separator: separator.unwrap_or_else(|| Value::from(", ")), used: false.into() }))
}

/// `cycler(…)`.
pub(super) fn cycler(items: minijinja::value::Rest<Value>) -> Result<Value, Error> {
    match items.0.is_empty() {
        true => Err(wrong("cycler: no items")),
        false => Ok(Value::from_object(Cycler { items: items.0, at: 0.into() })),
    }
}
