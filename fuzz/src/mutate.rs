//! How inputs are changed: bytes and words anywhere, and JSON and protobuf where they are what they should be.

use crate::random::Random;
use serde_json::{Map, Value};

/// What changes an input, and what it takes parts from.
pub struct Mutator<'a> {
    /// Decides what is changed.
    pub random: Random,
    /// Words of the format.
    pub dictionary: &'a [&'a str],
    /// Another input, of which parts are taken.
    pub other: &'a [u8],
    /// Longest input.
    pub most_bytes: usize,
}

/// Numbers as text that readers have to mind.
const NUMBERS: [&str; 24] = [
    "0",
    "-1",
    "1",
    "2",
    "255",
    "256",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e400",
    "-0.0",
    "1e-400",
    "0.5",
    "NaN",
    "Infinity",
    "1e18",
    "340282366920938463463374607431768211456",
];

/// Texts likewise.
const TEXTS: [&str; 14] =
    ["", "\u{0}", "é", "😀", "..", "/", "a/b", "\\", "\"", "\u{feff}", "{{ x }}", "%00", "\u{ffff}", "model.layers.0"];

impl Mutator<'_> {
    /// Changes bytes in one to eight places, whatever they mean.
    pub fn bytes(&mut self, input: &mut Vec<u8>) {
        for _ in 0..1 << self.random.below(4) {
            self.change(input);
        }
        input.truncate(self.most_bytes);
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let random = &mut self.random;
        let at = random.below(input.len() + 1);
        let rest = input.len() - at;
        match random.below(14) {
            0 if rest > 0 => input[at] ^= 1 << random.below(8),
            1 if rest > 0 => input[at] = random.number() as u8,
            2 if rest > 0 => input[at] = *random.choose(&[0, 1, 0x7f, 0x80, 0xff, b' ', b'"', b'{', b'\n', b'0', b'-']),
            3 => self.word(input, at),
            4 => {
                let new: Vec<u8> = (0..random.length(16)).map(|_| random.number() as u8).collect();
                input.splice(at..at, new);
            }
            5 => drop(input.drain(at..at + random.length(rest))),
            6 => {
                let part = input[at..at + random.length(rest)].to_vec();
                let to = random.below(input.len() + 1);
                input.splice(to..to, part);
            }
            7 => {
                let part = input[at..at + random.length(rest)].to_vec();
                let to = random.below(input.len() + 1);
                let end = (to + part.len()).min(input.len());
                input.splice(to..end, part);
            }
            8 if !self.other.is_empty() => {
                let from = random.below(self.other.len());
                let part = &self.other[from..from + random.length(self.other.len() - from)];
                let end = if random.one_in(2) { at } else { at + random.length(rest) };
                input.splice(at..end, part.iter().copied());
            }
            9 | 10 if !self.dictionary.is_empty() => {
                let word = random.choose(self.dictionary).as_bytes();
                let end = if random.one_in(2) { at } else { (at + word.len()).min(input.len()) };
                input.splice(at..end, word.iter().copied());
            }
            11 | 12 => self.digits(input, at),
            13 => {
                // Much of the same: nesting, long texts, long lists.
                let part = input[at..at + random.length(rest.min(24))].to_vec();
                let times = random.length(2000);
                let room = self.most_bytes.saturating_sub(input.len()) / part.len().max(1);
                input.splice(at..at, part.repeat(times.min(room)));
            }
            _ => input.truncate(at),
        }
    }

    /// Another number in place of a little-endian one.
    fn word(&mut self, input: &mut [u8], at: usize) {
        let random = &mut self.random;
        let width = *random.choose(&[2, 4, 8]);
        let Some(place) = input.get_mut(at..at + width) else { return };
        let mut old = [0; 8];
        old[..width].copy_from_slice(place);
        let old = u64::from_le_bytes(old);
        let new = match random.below(3) {
            0 => random.bound(),
            1 => old.wrapping_add(random.below(17) as u64),
            _ => old.wrapping_sub(random.below(17) as u64),
        };
        place.copy_from_slice(&new.to_le_bytes()[..width]);
    }

    /// Another number in place of the next one in decimal.
    fn digits(&mut self, input: &mut Vec<u8>, at: usize) {
        let Some(start) = input[at..].iter().position(u8::is_ascii_digit).map(|n| at + n) else { return };
        let end = input[start..].iter().position(|b| !b.is_ascii_digit()).map_or(input.len(), |n| start + n);
        let number: u64 = std::str::from_utf8(&input[start..end]).ok().and_then(|n| n.parse().ok()).unwrap_or(0);
        let new = match self.random.below(4) {
            0 => self.random.choose(&NUMBERS).to_string(),
            1 => self.random.bound().to_string(),
            2 => number.wrapping_add(self.random.below(3) as u64).to_string(),
            _ => number.wrapping_sub(self.random.below(3) as u64).to_string(),
        };
        input.splice(start..end, new.bytes());
    }

    /// Changes values of JSON; false where it is none.
    pub fn json(&mut self, input: &mut Vec<u8>) -> bool {
        let Ok(mut value) = serde_json::from_slice::<Value>(input) else { return false };
        for _ in 0..1 + self.random.below(3) {
            self.json_value(&mut value);
        }
        *input = value.to_string().into_bytes();
        input.truncate(self.most_bytes);
        true
    }

    /// Changes something within a value of JSON.
    pub fn json_value(&mut self, root: &mut Value) {
        let count = nodes(root);
        let (from, to) = (self.random.below(count), self.random.below(count));
        let copy = node(root, &mut { from }).cloned().unwrap_or_default();
        let Some(place) = node(root, &mut { to }) else { return };
        let random = &mut self.random;
        match (random.below(8), &mut *place) {
            (0 | 1, Value::Object(map)) if !map.is_empty() => self.member(map),
            (0 | 1, Value::Array(list)) if !list.is_empty() => {
                let at = random.below(list.len());
                match random.below(4) {
                    0 => drop(list.remove(at)),
                    1 => list.insert(at, copy),
                    2 => list.push(list[at].clone()),
                    _ => list.truncate(at),
                }
            }
            (0 | 1, Value::String(text)) => {
                let mut bytes = std::mem::take(text).into_bytes();
                self.change(&mut bytes);
                *text = String::from_utf8_lossy(&bytes).into_owned();
            }
            (0..=2, Value::Number(n)) => {
                let n = n.as_u64().unwrap_or(0);
                *place = match random.below(3) {
                    0 => n.wrapping_add(1 + random.below(3) as u64).into(),
                    1 => n.wrapping_sub(1 + random.below(3) as u64).into(),
                    _ => random.bound().into(),
                };
            }
            (3 | 4, _) => *place = copy,
            _ => *place = self.any(),
        }
    }

    fn member(&mut self, map: &mut Map<String, Value>) {
        let random = &mut self.random;
        let Some(key) = map.keys().nth(random.below(map.len())).cloned() else { return };
        let value = match random.below(3) {
            0 => map.remove(&key),
            _ => map.get(&key).cloned(),
        };
        let name = match random.below(3) {
            0 if !self.dictionary.is_empty() => random.choose(self.dictionary).to_string(),
            1 => random.choose(&TEXTS).to_string(),
            _ => format!("{key}{}", random.below(3)),
        };
        if random.one_in(2) {
            map.insert(name, value.unwrap_or_default());
        }
    }

    fn any(&mut self) -> Value {
        let random = &mut self.random;
        match random.below(10) {
            0 => Value::Null,
            1 => random.one_in(2).into(),
            2 | 3 => random.bound().into(),
            4 => (random.bound() as i64).into(),
            5 => f64::from_bits(random.number()).into(),
            6 => (*random.choose(&TEXTS)).into(),
            7 if !self.dictionary.is_empty() => (*random.choose(self.dictionary)).into(),
            8 => Value::Array(vec![random.bound().into(); random.length(200)]),
            9 => Value::Object(Map::new()),
            _ => Value::Array(Vec::new()),
        }
    }

    /// Changes fields of a protobuf message, with the lengths around them; false where it is none.
    pub fn protobuf(&mut self, input: &mut Vec<u8>) -> bool {
        let Some(mut fields) = Field::parse(input, 0) else { return false };
        for _ in 0..1 + self.random.below(3) {
            let all: usize = fields.iter().map(Field::count).sum();
            let (from, to) = (self.random.below(all), self.random.below(all));
            let copy = Field::at(&mut fields, &mut { from }, &mut |list, at| list[at].clone());
            let mut changed = false;
            Field::at(&mut fields, &mut { to }, &mut |list, at| {
                changed = true;
                self.field(list, at, &copy);
            });
            if !changed {
                return false;
            }
        }
        input.clear();
        fields.iter().for_each(|f| f.write(input));
        input.truncate(self.most_bytes);
        true
    }

    fn field(&mut self, list: &mut Vec<Field>, at: usize, copy: &Option<Field>) {
        let random = &mut self.random;
        match random.below(8) {
            0 => drop(list.remove(at)),
            1 => list.push(list[at].clone()),
            2 => list.extend(copy.clone()),
            3 => list[at].content = copy.as_ref().map_or(Content::Varint(0), |f| f.content.clone()),
            4 => list[at].number = 1 + random.below(26) as u64,
            _ => match &mut list[at].content {
                Content::Varint(n) => {
                    *n = match random.below(3) {
                        0 => n.wrapping_add(1),
                        1 => n.wrapping_sub(1),
                        _ => random.bound(),
                    };
                }
                Content::Fixed(bytes) => bytes.iter_mut().for_each(|b| *b = random.number() as u8),
                Content::Message(fields) => fields.truncate(random.below(fields.len() + 1)),
                Content::Bytes(bytes) => match self.dictionary.is_empty() || random.one_in(2) {
                    true => self.change(bytes),
                    false => *bytes = random.choose(self.dictionary).as_bytes().to_vec(),
                },
            },
        }
    }
}

fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(nodes).sum(),
        Value::Object(map) => map.values().map(nodes).sum(),
        _ => 0,
    }
}

/// The value that comes `left` values later.
fn node<'a>(value: &'a mut Value, left: &mut usize) -> Option<&'a mut Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Array(list) => list.iter_mut().find_map(|v| node(v, left)),
        Value::Object(map) => map.values_mut().find_map(|v| node(v, left)),
        _ => None,
    }
}

/// A field of a protobuf message.
#[derive(Clone)]
struct Field {
    number: u64,
    content: Content,
}

#[derive(Clone)]
enum Content {
    Varint(u64),
    Fixed(Vec<u8>),
    Bytes(Vec<u8>),
    Message(Vec<Field>),
}

impl Field {
    /// The fields that bytes are, as far as that can be told.
    fn parse(mut bytes: &[u8], depth: usize) -> Option<Vec<Self>> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes)?;
            let content = match tag & 7 {
                0 => Content::Varint(varint(&mut bytes)?),
                1 => Content::Fixed(take(&mut bytes, 8)?.to_vec()),
                2 => {
                    let length = varint(&mut bytes)?;
                    let held = take(&mut bytes, usize::try_from(length).ok()?)?;
                    // A text may look like a message, and then it only changes otherwise.
                    let message = if depth < 6 && held.len() > 1 { Self::parse(held, depth + 1) } else { None };
                    message.map_or_else(|| Content::Bytes(held.to_vec()), Content::Message)
                }
                5 => Content::Fixed(take(&mut bytes, 4)?.to_vec()),
                _ => return None,
            };
            if tag >> 3 == 0 {
                return None;
            }
            fields.push(Self { number: tag >> 3, content });
        }
        Some(fields)
    }

    fn count(&self) -> usize {
        1 + if let Content::Message(fields) = &self.content { fields.iter().map(Self::count).sum() } else { 0 }
    }

    /// Calls `each` with the field that comes `left` fields later, in its list.
    fn at<T>(list: &mut Vec<Self>, left: &mut usize, each: &mut impl FnMut(&mut Vec<Self>, usize) -> T) -> Option<T> {
        for i in 0..list.len() {
            if *left == 0 {
                return Some(each(list, i));
            }
            *left -= 1;
            if let Content::Message(fields) = &mut list[i].content
                && let Some(found) = Self::at(fields, left, each)
            {
                return Some(found);
            }
        }
        None
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut held = Vec::new();
        let (wire, bytes) = match &self.content {
            Content::Varint(n) => {
                write_varint(self.number << 3, out);
                return write_varint(*n, out);
            }
            Content::Fixed(bytes) => (if bytes.len() == 8 { 1 } else { 5 }, bytes),
            Content::Bytes(bytes) => (2, bytes),
            Content::Message(fields) => {
                fields.iter().for_each(|f| f.write(&mut held));
                (2, &held)
            }
        };
        write_varint(self.number << 3 | wire, out);
        if wire == 2 {
            write_varint(bytes.len() as u64, out);
        }
        out.extend(bytes);
    }
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The header of a safetensors file and what follows it; `None` where it has none.
pub fn split_safetensors(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = input.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

impl Mutator<'_> {
    /// Changes a safetensors file: its header as JSON or as text, mostly with the right length before it, or any bytes.
    pub fn safetensors(&mut self, input: &mut Vec<u8>) {
        let Some((header, data)) = split_safetensors(input) else { return self.bytes(input) };
        let (mut header, mut data) = (header.to_vec(), data.to_vec());
        match self.random.below(8) {
            0 => return self.bytes(input),
            1 if !data.is_empty() => self.bytes(&mut data),
            2 => self.bytes(&mut header),
            _ if self.json(&mut header) => {}
            _ => self.bytes(&mut header),
        }
        input.clear();
        let off = if self.random.one_in(16) { self.random.below(9) as u64 } else { 0 };
        input.extend((header.len() as u64 + off).to_le_bytes());
        input.extend(header);
        input.extend(data);
        input.truncate(self.most_bytes);
    }
}
