//! Arithmetic of Python where minijinja lacks it or rounds: integers have up to 128 bits, and larger ones are errors.

use super::python::is_space;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// From here on `f64` cannot hold every integer.
const EXACT: u128 = 1 << f64::MANTISSA_DIGITS;

fn wrong(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, why.into())
}

fn too_large() -> Error {
    wrong("an integer of more than 128 bits")
}

/// Whether an integer is negative, and its size.
type Whole = (bool, u128);

fn whole(value: &Value) -> Option<Whole> {
    match value.kind() {
        ValueKind::Bool => Some((false, value.is_true().into())),
        ValueKind::Number if value.is_integer() => match i128::try_from(value.clone()) {
            Ok(number) => Some((number < 0, number.unsigned_abs())),
            Err(_) => u128::try_from(value.clone()).ok().map(|number| (false, number)),
        },
        _ => None,
    }
}

fn from_whole((negative, size): Whole) -> Result<Value, Error> {
    match (negative, i128::try_from(size)) {
        (false, Ok(number)) => Ok(Value::from(number)),
        (false, Err(_)) => Ok(Value::from(size)),
        (true, Ok(number)) => Ok(Value::from(-number)),
        (true, Err(_)) if size == i128::MIN.unsigned_abs() => Ok(Value::from(i128::MIN)),
        (true, Err(_)) => Err(too_large()),
    }
}

fn number(value: &Value) -> Option<f64> {
    match value.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        _ => None,
    }
}

fn numbers(left: &Value, right: &Value, operator: &str) -> Result<(f64, f64), Error> {
    let both = number(left).zip(number(right));
    match both.ok_or_else(|| wrong(format!("{operator} of a {} and a {}", left.kind(), right.kind())))? {
        (_, 0.0) => Err(wrong(format!("{operator} by zero"))),
        both => Ok(both),
    }
}

/// Python's `%` of numbers: the sign is the divisor's.
pub(super) fn remainder(left: &Value, right: &Value) -> Result<Value, Error> {
    if let (Some((below, a)), Some((negative, b @ 1..))) = (whole(left), whole(right)) {
        let rest = a % b;
        return from_whole((negative, if rest != 0 && below != negative { b - rest } else { rest }));
    }
    let (a, b) = numbers(left, right, "%")?;
    let rest = a % b;
    Ok(Value::from(if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }))
}

/// Python's `/`: of integers the float that is nearest to the exact quotient.
pub(super) fn quotient(left: &Value, right: &Value) -> Result<Value, Error> {
    match (whole(left), whole(right)) {
        (Some((below, a)), Some((negative, b @ 1..))) if a > EXACT || b > EXACT => {
            let size = nearest(a, b);
            Ok(Value::from(if below != negative { -size } else { size }))
        }
        _ => numbers(left, right, "/").map(|(a, b)| Value::from(a / b)),
    }
}

/// The float that is nearest to `a / b`.
fn nearest(a: u128, b: u128) -> f64 {
    let (mut quotient, mut rest, mut scale) = (a / b, a % b, 1.0);
    // More bits than a float has, and a last one that says whether anything follows.
    while quotient >> 64 == 0 && rest != 0 {
        let doubled_is_more = rest >= b - rest;
        rest = if doubled_is_more { rest - (b - rest) } else { rest * 2 };
        quotient = quotient * 2 + u128::from(doubled_is_more);
        scale *= 0.5;
    }
    (quotient | u128::from(rest != 0)) as f64 * scale
}

/// jinja2's `int`: a value that is no number becomes the default.
pub(super) fn int(
    state: &State,
    value: &Value,
    default: Option<Value>,
    base: Option<u32>,
    named: Kwargs,
) -> Result<Value, Error> {
    let default = default.map_or_else(|| named.get::<Option<Value>>("default"), |v| Ok(Some(v)))?;
    let base = base.map_or_else(|| named.get::<Option<u32>>("base"), |v| Ok(Some(v)))?.unwrap_or(10);
    named.assert_all_used()?;
    let default_or_zero = || default.clone().unwrap_or_else(|| Value::from(0));
    let float = match value.as_str() {
        Some(text) => match parse_whole(text, base) {
            Some(whole) => return from_whole(whole.ok_or_else(too_large)?),
            None => parse_float(text).filter(|number| number.is_finite()),
        },
        None if value.kind() == ValueKind::Number && !value.is_integer() => number(value).filter(|number| !number.is_nan()),
        None => {
            let found =
                minijinja::filters::int(state, value, default.clone(), None, std::iter::empty::<(String, Value)>().collect());
            return Ok(found.unwrap_or_else(|_| default_or_zero()));
        }
    };
    match float {
        None => Ok(default_or_zero()),
        Some(number) if number.abs() < 2_f64.powi(128) => from_whole((number <= -1.0, number.abs() as u128)),
        Some(_) => Err(too_large()),
    }
}

/// Python's `int(text, base)`: `None` where it is no integer, and within that where it has more than 128 bits.
fn parse_whole(text: &str, base: u32) -> Option<Option<Whole>> {
    let text = text.trim_matches(is_space);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let prefix = match digits.as_bytes() {
        [b'0', b'b' | b'B', ..] => 2,
        [b'0', b'o' | b'O', ..] => 8,
        [b'0', b'x' | b'X', ..] => 16,
        _ => 0,
    };
    // After a prefix an underscore may follow.
    let (base, digits) = match base {
        0 if prefix == 0 && digits.starts_with('0') && digits.contains(|c| c != '0' && c != '_') => return None,
        0 if prefix == 0 => (10, digits),
        0 | 2 | 8 | 16 if prefix != 0 && (base == 0 || base == prefix) => {
            (prefix, digits[2..].strip_prefix('_').unwrap_or(&digits[2..]))
        }
        2..=36 => (base, digits),
        _ => return None,
    };
    let mut size = Some(0_u128);
    for group in digits.split('_') {
        if group.is_empty() {
            return None;
        }
        for digit in group.chars() {
            let digit = digit.to_digit(base)?;
            size = size.and_then(|size| size.checked_mul(base.into())?.checked_add(digit.into()));
        }
    }
    Some(size.map(|size| (negative && size != 0, size)))
}

/// Python's `float(text)`.
fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_space);
    let between_digits = |(at, _)| {
        let digit = |b: Option<&u8>| b.is_some_and(u8::is_ascii_digit);
        digit(text.as_bytes().get(at + 1)) && at > 0 && digit(text.as_bytes().get(at - 1))
    };
    match text.match_indices('_').all(between_digits) {
        true => text.replace('_', "").parse().ok(),
        false => None,
    }
}

/// jinja2's `float`.
pub(super) fn float(state: &State, value: &Value, default: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    match value.as_str().and_then(parse_float) {
        Some(number) => {
            let _ = named.get::<Option<Value>>("default")?;
            named.assert_all_used()?;
            Ok(Value::from(number))
        }
        None => minijinja::filters::float(state, value, default, named),
    }
}

/// `common` rounds halves to the even neighbour, as Python does; of a float comes a float, but of a whole number.
pub(super) fn round(value: &Value, precision: Option<i32>, method: Option<String>, named: Kwargs) -> Result<Value, Error> {
    let precision = precision.map_or_else(|| named.get::<Option<i32>>("precision"), |v| Ok(Some(v)))?.unwrap_or(0);
    let method = method.map_or_else(|| named.get::<Option<String>>("method"), |v| Ok(Some(v)))?;
    named.assert_all_used()?;
    let number = number(value).ok_or_else(|| wrong(format!("round of a {}", value.kind())))?;
    let scale = 10_f64.powi(precision);
    Ok(match (method.as_deref().unwrap_or("common"), whole(value)) {
        ("common", Some((negative, size))) => from_whole((negative, round_whole(size, precision)?))?,
        ("common", None) if precision >= 0 => {
            let digits = usize::try_from(precision).unwrap_or(0).min(400);
            Value::from(format!("{number:.digits$}").parse::<f64>().unwrap_or(number))
        }
        ("common", None) => Value::from((number * scale).round_ties_even() / scale),
        ("ceil" | "floor", Some(_)) if precision >= 0 => Value::from(number),
        ("ceil", _) => Value::from((number * scale).ceil() / scale),
        ("floor", _) => Value::from((number * scale).floor() / scale),
        _ => return Err(wrong("round: method must be common, ceil or floor")),
    })
}

/// An integer's size rounded to a power of ten, where `precision` is below zero.
fn round_whole(size: u128, precision: i32) -> Result<u128, Error> {
    if precision >= 0 {
        return Ok(size);
    }
    let Some(unit) = 10_u128.checked_pow(precision.unsigned_abs()) else { return Ok(0) };
    let (below, rest) = (size - size % unit, size % unit);
    let up = rest > unit - rest || rest == unit - rest && below / unit % 2 == 1;
    if up { below.checked_add(unit).ok_or_else(too_large) } else { Ok(below) }
}

#[cfg(test)]
mod tests {
    use crate::text::template::render;
    use crate::text::{ChatOptions, Message, TextError, read_json};
    use std::collections::BTreeMap;

    #[test]
    fn what_needs_more_than_128_bits_is_an_error() {
        let number = |digits: &str| read_json(digits.as_bytes()).unwrap();
        let variables = BTreeMap::from([
            ("most".to_string(), number("340282366920938463463374607431768211455")),
            ("least".to_string(), number("-170141183460469231731687303715884105728")),
        ]);
        let options = ChatOptions { variables, ..ChatOptions::default() };
        for expression in [
            "most + 1",
            "most * 2",
            "least - 1",
            "-most",
            "least * most",
            "2 ** 128",
            "(-2) ** 129",
            "[most, most]|sum",
            "most|round(-1)",
            "'340282366920938463463374607431768211456'|int",
            "'-170141183460469231731687303715884105729'|int(7)",
            "1e39|int",
            "'1e39'|int",
            "340282366920938463463374607431768211456",
            "most % 0",
            "most / 0",
        ] {
            let rendered = render(&format!("{{{{ {expression} }}}}"), &BTreeMap::new(), &[Message::user("Hi")], &options, None);
            assert!(matches!(rendered, Err(TextError::Template { .. })), "{expression}: {rendered:?}");
        }
    }
}
