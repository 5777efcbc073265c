//! The container, version 3.

use super::GgufType;
use std::io::{self, Write};

/// What the offset of a tensor's data is a multiple of.
const ALIGNMENT: u64 = 32;

/// A value of a key.
pub(super) enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

/// A tensor's entry; the shape is outermost dimension first.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) kind: GgufType,
}

impl Entry {
    fn bytes(&self) -> u64 {
        self.kind.bytes(self.shape.iter().product()) as u64
    }
}

/// A file whose header is written.
pub(super) struct Writer<'a, W> {
    file: &'a mut W,
}

impl<'a, W: Write> Writer<'a, W> {
    /// Writes keys and entries; [`Writer::tensor`] takes the data in the same order.
    pub(super) fn begin<'e>(
        file: &'a mut W,
        values: &[(String, Value)],
        entries: impl Iterator<Item = &'e Entry> + Clone,
    ) -> io::Result<Self> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((entries.clone().count() as u64).to_le_bytes());
        out.extend((values.len() as u64).to_le_bytes());
        for (key, value) in values {
            text(&mut out, key);
            add(&mut out, value);
        }
        let mut offset = 0u64;
        for entry in entries {
            text(&mut out, &entry.name);
            out.extend((entry.shape.len() as u32).to_le_bytes());
            entry.shape.iter().rev().for_each(|n| out.extend((*n as u64).to_le_bytes()));
            out.extend(entry.kind.number().to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset = (offset + entry.bytes()).next_multiple_of(ALIGNMENT);
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
        file.write_all(&out)?;
        Ok(Self { file })
    }

    pub(super) fn tensor(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        let padding = bytes.len().next_multiple_of(ALIGNMENT as usize) - bytes.len();
        self.file.write_all(&[0; ALIGNMENT as usize][..padding])
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A value behind the number of its kind.
fn add(out: &mut Vec<u8>, value: &Value) {
    let mut kind = |n: u32| out.extend(n.to_le_bytes());
    let list = |out: &mut Vec<u8>, of: u32, len: usize| {
        out.extend(9u32.to_le_bytes());
        out.extend(of.to_le_bytes());
        out.extend((len as u64).to_le_bytes());
    };
    match value {
        Value::U32(n) => {
            kind(4);
            out.extend(n.to_le_bytes());
        }
        Value::F32(x) => {
            kind(6);
            out.extend(x.to_le_bytes());
        }
        Value::Bool(flag) => {
            kind(7);
            out.push(u8::from(*flag));
        }
        Value::Text(s) => {
            kind(8);
            text(out, s);
        }
        Value::Texts(texts) => {
            list(out, 8, texts.len());
            texts.iter().for_each(|s| text(out, s));
        }
        Value::I32s(numbers) => {
            list(out, 5, numbers.len());
            numbers.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
        Value::F32s(numbers) => {
            list(out, 6, numbers.len());
            numbers.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
    }
}
