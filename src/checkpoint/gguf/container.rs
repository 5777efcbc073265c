//! The container: header, key/value pairs and tensor table of a GGUF file (versions 2 and 3, little-endian), checked
//! before anything is believed.
//!
//! candle reads the same container, but takes big-endian files for little-endian ones, keeps the last of two entries
//! of one name, unpacks every array into values of 32 bytes each (a vocabulary of 262,144 tokens and as many numbers
//! in a hostile file alike), and its errors name neither file nor tensor. Here arrays stay where they are in the mapped
//! file, and nothing is allocated by a length that a file claims.

use super::super::CheckpointError;
use super::types::{self, Kind};
use std::collections::BTreeMap;
use std::ops::Range;

/// What an offset of tensor data is a multiple of where `general.alignment` does not say.
const DEFAULT_ALIGNMENT: u64 = 32;

/// Most dimensions of a tensor, as in ggml.
const MAX_DIMENSIONS: u32 = 4;

/// How deep arrays lie in arrays before a file is refused; real ones do not.
const MAX_DEPTH: usize = 4;

/// A parsed file.
#[derive(Debug)]
pub(super) struct Container<'a> {
    /// The file's name, for messages.
    pub(super) file: &'a str,
    values: BTreeMap<&'a str, Value<'a>>,
    /// In the order of their data.
    pub(super) tensors: Vec<Tensor<'a>>,
}

/// A tensor's entry.
#[derive(Clone, Debug)]
pub(super) struct Tensor<'a> {
    pub(super) name: &'a str,
    pub(super) kind: Kind,
    /// Outermost dimension first.
    pub(super) shape: Vec<usize>,
    /// From the start of the file.
    pub(super) range: Range<usize>,
}

/// A value of a key. Numbers are widened.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    /// Of an f32 the shortest decimal number that it stands for, which is what the model's config said.
    Float(f64),
    Bool(bool),
    Text(&'a [u8]),
    Array(Array<'a>),
}

/// A list that stays in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Array<'a> {
    kind: u32,
    pub(super) len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// Its items; every one was checked when the file was parsed.
    pub(super) fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (kind, mut reader) = (self.kind, Reader { file: "", bytes: self.bytes, at: 0 });
        (0..self.len).map_while(move |_| reader.value(kind, 0).ok())
    }
}

impl<'a> Container<'a> {
    /// Parses a file's bytes.
    ///
    /// # Errors
    /// If it is no such file, ends early, or contradicts itself.
    pub(super) fn parse(file: &'a str, bytes: &'a [u8]) -> Result<Self, CheckpointError> {
        let mut reader = Reader { file, bytes, at: 0 };
        if reader.take(4, "the magic number")? != b"GGUF" {
            return Err(reader.bad(0, "it does not start with \"GGUF\""));
        }
        match reader.u32("the version")? {
            2 | 3 => {}
            1 => return Err(reader.bad(4, "version 1 is not supported (2 and 3 are); convert the model again")),
            version if version & 0xffff == 0 && version != 0 => {
                return Err(reader.bad(4, "it is big-endian; only little-endian files are supported"));
            }
            version => return Err(reader.bad(4, &format!("version {version} is not supported (2 and 3 are)"))),
        }
        let tensor_count = reader.u64("the number of tensors")?;
        let value_count = reader.u64("the number of keys")?;
        let mut values = BTreeMap::new();
        for _ in 0..value_count {
            let at = reader.at;
            let key = reader.name("a key")?;
            let kind = reader.u32("a value's type")?;
            let value = reader.value(kind, 0)?;
            if values.insert(key, value).is_some() {
                return Err(reader.bad(at, &format!("the key {key} is there twice")));
            }
        }
        let mut entries = Vec::new();
        for _ in 0..tensor_count {
            entries.push(reader.entry()?);
        }
        let mut this = Self { file, values, tensors: Vec::new() };
        let alignment = this.alignment()?;
        let data_start = (reader.at as u64).next_multiple_of(alignment);
        this.place(entries, data_start, alignment, bytes.len() as u64)?;
        Ok(this)
    }

    fn alignment(&self) -> Result<u64, CheckpointError> {
        const KEY: &str = "general.alignment";
        match self.size(KEY)? {
            None => Ok(DEFAULT_ALIGNMENT),
            Some(n) if n >= 8 && n.is_power_of_two() && n <= 1 << 20 => Ok(n as u64),
            Some(n) => Err(self.wrong(KEY, &format!("is {n}, expected a power of two from 8 to {}", 1 << 20))),
        }
    }

    /// Turns offsets into ranges of the file and checks that they lie in it, one after the other.
    fn place(&mut self, entries: Vec<Entry<'a>>, data_start: u64, alignment: u64, total: u64) -> Result<(), CheckpointError> {
        let file = self.file;
        for Entry { name, kind, shape, offset } in entries {
            let bad = |why: String| CheckpointError::Entry { file: file.into(), tensor: name.into(), why };
            if !offset.is_multiple_of(alignment) {
                return Err(bad(format!("its offset, {offset}, is no multiple of the alignment, {alignment}")));
            }
            let overflow = || bad(format!("shape {shape:?} at offset {offset} is beyond all bounds"));
            let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(overflow)?;
            let columns = shape.last().copied().unwrap_or(1);
            let blocks = || bad(format!("its rows of {columns} numbers are not whole blocks of {}", kind.name));
            kind.dtype.bytes(columns).ok_or_else(blocks)?;
            let size = kind.dtype.bytes(count).ok_or_else(overflow)?;
            let start = data_start.checked_add(offset).ok_or_else(overflow)?;
            let end = start.checked_add(size as u64).ok_or_else(overflow)?;
            if end > total {
                let what = format!("tensor {name}");
                return Err(CheckpointError::Truncated { file: file.into(), what, needed: end, bytes: total });
            }
            self.tensors.push(Tensor { name, kind, shape, range: start as usize..end as usize });
        }
        self.tensors.sort_by_key(|t| (t.range.start, t.range.end));
        for pair in self.tensors.windows(2) {
            let ((first, end), (second, start)) = ((pair[0].name, pair[0].range.end), (pair[1].name, pair[1].range.start));
            if start < end {
                return Err(CheckpointError::Overlap {
                    file: file.into(),
                    first: first.into(),
                    second: second.into(),
                    start: start as u64 - data_start,
                    end: end as u64 - data_start,
                });
            }
        }
        let mut names: Vec<&str> = self.tensors.iter().map(|t| t.name).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            let (tensor, file) = (twice[0].to_string(), self.file.to_string());
            return Err(CheckpointError::Duplicate { tensor, first: file.clone(), second: file });
        }
        Ok(())
    }

    /// The tensor of that name.
    pub(super) fn tensor(&self, name: &str) -> Option<&Tensor<'a>> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// An error about a key.
    pub(super) fn wrong(&self, key: &str, why: &str) -> CheckpointError {
        CheckpointError::GgufKey { file: self.file.into(), key: key.into(), why: why.into() }
    }

    fn expected(&self, key: &str, value: &Value<'_>, expected: &str) -> CheckpointError {
        let found = match value {
            Value::Unsigned(n) => n.to_string(),
            Value::Signed(n) => n.to_string(),
            Value::Float(x) => x.to_string(),
            Value::Bool(b) => b.to_string(),
            Value::Text(bytes) => format!("{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(60)])),
            Value::Array(array) => format!("a list of {}", array.len),
        };
        self.wrong(key, &format!("is {found}, expected {expected}"))
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.values.get(key)
    }

    /// All keys that start with `prefix`.
    pub(super) fn keys_from(&self, prefix: &str) -> impl Iterator<Item = &'a str> {
        self.values.keys().copied().filter(move |key| key.starts_with(prefix))
    }

    /// A whole number; of a list with one entry a layer, what all entries say.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let whole = |v: &Value<'_>| match v {
            Value::Unsigned(n) => usize::try_from(*n).ok(),
            Value::Signed(n) => usize::try_from(*n).ok(),
            _ => None,
        };
        let found = match value {
            Value::Array(array) => {
                let first = array.iter().next().and_then(|v| whole(&v));
                first.filter(|n| array.iter().all(|v| whole(&v) == Some(*n)))
            }
            one => whole(one),
        };
        found.map(Some).ok_or_else(|| self.expected(key, value, "a whole number, the same for every layer"))
    }

    /// A whole number that must be there and not be 0.
    pub(super) fn required(&self, key: &str) -> Result<usize, CheckpointError> {
        match self.size(key)? {
            Some(0) => Err(self.wrong(key, "is 0")),
            Some(n) => Ok(n),
            None => Err(self.wrong(key, "is missing")),
        }
    }

    /// A finite number.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value {
            Value::Float(x) if x.is_finite() => Ok(Some(*x)),
            Value::Unsigned(n) => Ok(Some(*n as f64)),
            Value::Signed(n) => Ok(Some(*n as f64)),
            _ => Err(self.expected(key, value, "a number")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, CheckpointError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(value) => Err(self.expected(key, value, "true or false")),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let text = match value {
            Value::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        };
        text.map(Some).ok_or_else(|| self.expected(key, value, "a text in UTF-8"))
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, CheckpointError> {
        self.list(key, "texts in UTF-8", |value| match value {
            Value::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        })
    }

    /// A list of numbers.
    pub(super) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, CheckpointError> {
        self.list(key, "finite numbers", |value| match value {
            Value::Float(x) => Some(x).filter(|x| x.is_finite()),
            Value::Unsigned(n) => Some(n as f64),
            Value::Signed(n) => Some(n as f64),
            _ => None,
        })
    }

    /// A list of numbers, of which some may be infinite.
    pub(super) fn limits(&self, key: &str) -> Result<Option<Vec<f64>>, CheckpointError> {
        self.list(key, "numbers", |value| match value {
            Value::Float(x) => Some(x).filter(|x| !x.is_nan()),
            _ => None,
        })
    }

    /// A list of yes and no.
    pub(super) fn flags(&self, key: &str) -> Result<Option<Vec<bool>>, CheckpointError> {
        self.list(key, "truth values", |value| match value {
            Value::Bool(flag) => Some(flag),
            Value::Unsigned(n) => Some(n != 0),
            Value::Signed(n) => Some(n != 0),
            _ => None,
        })
    }

    fn list<T>(&self, key: &str, of: &str, item: impl Fn(Value<'a>) -> Option<T>) -> Result<Option<Vec<T>>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let Value::Array(array) = value else { return Err(self.expected(key, value, &format!("a list of {of}"))) };
        let items = array.iter().enumerate().map(|(i, v)| item(v).ok_or(i));
        items
            .collect::<Result<_, _>>()
            .map(Some)
            .map_err(|i| self.wrong(key, &format!("has an entry, {i}, that is none of {of}")))
    }
}

/// A tensor's entry as it is written.
struct Entry<'a> {
    name: &'a str,
    kind: Kind,
    shape: Vec<usize>,
    offset: u64,
}

/// Reads a file's header from front to back.
struct Reader<'a> {
    file: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn bad(&self, at: usize, why: &str) -> CheckpointError {
        CheckpointError::Gguf { file: self.file.into(), at, why: why.into() }
    }

    fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8], CheckpointError> {
        let (needed, bytes) = ((self.at as u64).saturating_add(count), self.bytes.len() as u64);
        if needed > bytes {
            return Err(CheckpointError::Truncated { file: self.file.into(), what: what.into(), needed, bytes });
        }
        let taken = &self.bytes[self.at..needed as usize];
        self.at = needed as usize;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self, what: &str) -> Result<[u8; N], CheckpointError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> Result<u32, CheckpointError> {
        self.fixed(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, CheckpointError> {
        self.fixed(what).map(u64::from_le_bytes)
    }

    fn text(&mut self, what: &str) -> Result<&'a [u8], CheckpointError> {
        let length = self.u64(what)?;
        self.take(length, what)
    }

    /// A text that must be UTF-8.
    fn name(&mut self, what: &str) -> Result<&'a str, CheckpointError> {
        let at = self.at;
        std::str::from_utf8(self.text(what)?).map_err(|_| self.bad(at, &format!("{what} is not UTF-8")))
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value<'a>, CheckpointError> {
        let what = "a value";
        Ok(match kind {
            0 => Value::Unsigned(self.fixed::<1>(what)?[0].into()),
            1 => Value::Signed(i8::from_le_bytes(self.fixed(what)?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.fixed(what)?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.fixed(what)?).into()),
            4 => Value::Unsigned(self.u32(what)?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.fixed(what)?).into()),
            6 => Value::Float(decimal(f32::from_le_bytes(self.fixed(what)?))),
            7 => match self.fixed::<1>(what)?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return Err(self.bad(self.at - 1, &format!("a truth value is {other}"))),
            },
            8 => Value::Text(self.text(what)?),
            9 => self.array(depth)?,
            10 => Value::Unsigned(self.u64(what)?),
            11 => Value::Signed(i64::from_le_bytes(self.fixed(what)?)),
            12 => Value::Float(f64::from_le_bytes(self.fixed(what)?)),
            other => return Err(self.bad(self.at, &format!("a value has the unknown type {other}"))),
        })
    }

    /// Checks every item, and keeps the bytes.
    fn array(&mut self, depth: usize) -> Result<Value<'a>, CheckpointError> {
        let what = "a list";
        if depth >= MAX_DEPTH {
            return Err(self.bad(self.at, &format!("lists lie in lists more than {MAX_DEPTH} deep")));
        }
        let kind = self.u32(what)?;
        let len = self.u64(what)?;
        let start = self.at;
        let width = match kind {
            0 | 1 | 7 => Some(1),
            2 | 3 => Some(2),
            4..=6 => Some(4),
            10..=12 => Some(8),
            _ => None,
        };
        match width {
            // Truth values are looked at one by one.
            Some(width) if kind != 7 => {
                self.take(len.saturating_mul(width), what)?;
            }
            _ => {
                for _ in 0..len {
                    self.value(kind, depth + 1)?;
                }
            }
        }
        // Every item takes a byte at least, so the length fits.
        Ok(Value::Array(Array { kind, len: len as usize, bytes: &self.bytes[start..self.at] }))
    }

    fn entry(&mut self) -> Result<Entry<'a>, CheckpointError> {
        let name = self.name("a tensor's name")?;
        let bad = |why: String| CheckpointError::Entry { file: self.file.into(), tensor: name.into(), why };
        let what = format!("the entry of tensor {name}");
        let dimensions = self.u32(&what)?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(bad(format!("it has {dimensions} dimensions, expected 1 to {MAX_DIMENSIONS}")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let size = self.u64(&what)?;
            let size = usize::try_from(size).ok().filter(|n| (1..=isize::MAX as usize).contains(n));
            shape.push(size.ok_or_else(|| bad("a dimension is 0 or beyond all bounds".into()))?);
        }
        // The file starts with the innermost dimension.
        shape.reverse();
        let kind = self.u32(&what)?;
        let kind = types::kind(kind).map_err(|found| CheckpointError::GgufType {
            file: self.file.into(),
            tensor: name.into(),
            found,
            supported: types::supported(),
        })?;
        Ok(Entry { name, kind, shape, offset: self.u64(&what)? })
    }
}

/// The shortest decimal number that rounds to `x`.
fn decimal(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::NAN)
}
