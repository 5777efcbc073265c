//! Typed access to `config.json`, with the key and the file in every error.

use super::ArchitectureError;
use haikuq_format::spec::Activation;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// Largest size in a config: products of two still fit a `usize`.
const MAX_SIZE: usize = 1 << 24;

/// Most layers in a config: lists of them are built before any tensor is looked at.
const MAX_LAYERS: usize = 1 << 12;

/// A table of `config.json` (the whole, or one nested in it). A missing key and `null` are the same.
pub(super) struct Config<'a> {
    path: &'a Path,
    /// Where the table stands, such as `rope_parameters.`; empty for the whole.
    prefix: String,
    value: &'a Value,
    generation: Option<&'a Value>,
    /// Keys that were looked at, of nested tables too: a test holds them against those that the config classes know.
    #[cfg(test)]
    pub(super) read: std::rc::Rc<std::cell::RefCell<BTreeSet<String>>>,
}

impl<'a> Config<'a> {
    pub(super) fn new(path: &'a Path, value: &'a Value, generation: Option<&'a Value>) -> Self {
        Self {
            path,
            prefix: String::new(),
            value,
            generation,
            #[cfg(test)]
            read: std::rc::Rc::default(),
        }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        #[cfg(test)]
        self.read.borrow_mut().insert(format!("{}{key}", self.prefix));
        self.value.get(key).filter(|v| !v.is_null())
    }

    /// Whether the key is there, `null` included.
    pub(super) fn has(&self, key: &str) -> bool {
        #[cfg(test)]
        self.read.borrow_mut().insert(format!("{}{key}", self.prefix));
        self.value.get(key).is_some()
    }

    fn wrong(&self, key: &str, found: &Value, expected: &str) -> ArchitectureError {
        ArchitectureError::Value {
            path: self.path.into(),
            key: format!("{}{key}", self.prefix),
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    pub(super) fn unsupported(&self, key: &str, found: &str, supported: &str) -> ArchitectureError {
        ArchitectureError::Unsupported {
            path: self.path.into(),
            key: format!("{}{key}", self.prefix),
            found: found.into(),
            supported: supported.into(),
        }
    }

    /// A positive whole number, up to [`MAX_SIZE`].
    pub(super) fn size(&self, key: &str, default: usize) -> Result<usize, ArchitectureError> {
        self.at_most(key, default, MAX_SIZE)
    }

    /// A whole number up to [`MAX_SIZE`], 0 being as good as none.
    pub(super) fn size_or_zero(&self, key: &str, default: usize) -> Result<usize, ArchitectureError> {
        if self.get(key).and_then(Value::as_u64) == Some(0) { Ok(default) } else { self.size(key, default) }
    }

    /// The same, with 0 where the key is there and says that there is none.
    pub(super) fn size_or_none(&self, key: &str, default: usize) -> Result<usize, ArchitectureError> {
        match self.get(key) {
            None if self.has(key) => Ok(0),
            Some(value) if value.as_u64() == Some(0) => Ok(0),
            _ => self.size(key, default),
        }
    }

    /// As [`Config::size`], or nothing where the key is absent or says `auto`.
    pub(super) fn size_or_auto(&self, key: &str) -> Result<Option<usize>, ArchitectureError> {
        if self.get(key).and_then(Value::as_str) == Some("auto") { Ok(None) } else { self.optional_size(key) }
    }

    /// A number of layers, up to [`MAX_LAYERS`].
    pub(super) fn layers(&self, key: &str, default: usize) -> Result<usize, ArchitectureError> {
        self.at_most(key, default, MAX_LAYERS)
    }

    fn at_most(&self, key: &str, default: usize, limit: usize) -> Result<usize, ArchitectureError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=limit).contains(n));
        number.ok_or_else(|| self.wrong(key, value, &format!("a whole number from 1 to {limit}")))
    }

    /// A finite number, if the key is there.
    pub(super) fn optional_number(&self, key: &str) -> Result<Option<f64>, ArchitectureError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        // Everything is calculated in f32, and packages hold no more.
        let number = value.as_f64().filter(|n| (*n as f32).is_finite());
        number.map(Some).ok_or_else(|| self.wrong(key, value, "a number that an f32 holds"))
    }

    /// A finite number.
    pub(super) fn number(&self, key: &str, default: f64) -> Result<f64, ArchitectureError> {
        Ok(self.optional_number(key)?.unwrap_or(default))
    }

    /// A number that must be there and be positive.
    pub(super) fn required_positive(&self, key: &str) -> Result<f64, ArchitectureError> {
        match self.optional_number(key)? {
            Some(number) if number > 0.0 => Ok(number),
            _ => Err(self.wrong(key, self.get(key).unwrap_or(&Value::Null), "a positive number")),
        }
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, ArchitectureError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(key, value, "true or false"))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, ArchitectureError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(key, value, "a text"))
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, ArchitectureError> {
        self.list(key, "a list of texts", Value::as_str)
    }

    /// A list of finite numbers.
    pub(super) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, ArchitectureError> {
        self.list(key, "a list of numbers that an f32 holds", |v| v.as_f64().filter(|n| (*n as f32).is_finite()))
    }

    /// The least and the largest of what is allowed, where infinity is no limit.
    pub(super) fn limits(&self, key: &str) -> Result<(f64, Option<f64>), ArchitectureError> {
        let Some(value) = self.get(key) else { return Ok((0.0, None)) };
        let wrong = || self.wrong(key, value, "two numbers, the lesser first");
        let [least, largest] = value.as_array().map(Vec::as_slice).ok_or_else(wrong)? else { return Err(wrong()) };
        // As transformers writes it, and as Python does.
        let infinite = largest.get("__float__").unwrap_or(largest) == "Infinity";
        let number = |v: &Value| v.as_f64().filter(|n| *n >= 0.0 && (*n as f32).is_finite()).ok_or_else(wrong);
        Ok((number(least)?, if infinite { None } else { Some(number(largest)?) }))
    }

    /// A list of positive whole numbers.
    pub(super) fn sizes(&self, key: &str) -> Result<Option<Vec<usize>>, ArchitectureError> {
        let size = |v: &Value| usize::try_from(v.as_u64()?).ok().filter(|n| (1..=MAX_SIZE).contains(n));
        self.list(key, "a list of positive whole numbers", size)
    }

    /// Whether the key has a list.
    pub(super) fn is_list(&self, key: &str) -> bool {
        self.get(key).is_some_and(Value::is_array)
    }

    fn list<T>(
        &self,
        key: &str,
        expected: &str,
        item: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, ArchitectureError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let list: Option<Vec<T>> = value.as_array().and_then(|list| list.iter().map(item).collect());
        list.map(Some).ok_or_else(|| self.wrong(key, value, expected))
    }

    /// A positive whole number, if the key is there.
    pub(super) fn optional_size(&self, key: &str) -> Result<Option<usize>, ArchitectureError> {
        if self.get(key).is_some() { self.size(key, 1).map(Some) } else { Ok(None) }
    }

    /// A number that must be positive, if the key is there.
    pub(super) fn optional_positive(&self, key: &str) -> Result<Option<f64>, ArchitectureError> {
        if self.get(key).is_some() { self.required_positive(key).map(Some) } else { Ok(None) }
    }

    /// Refuses a flag that changes the arithmetic in a way that a spec cannot say.
    pub(super) fn refuse_flag(&self, key: &str) -> Result<(), ArchitectureError> {
        if self.flag(key, false)? { Err(self.unsupported(key, "true", "false")) } else { Ok(()) }
    }

    /// A nested table; one without entries is none.
    pub(super) fn table(&self, key: &str) -> Result<Option<Self>, ArchitectureError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let table = value.as_object().ok_or_else(|| self.wrong(key, value, "a table"))?;
        Ok((!table.is_empty()).then(|| self.with(key, value)))
    }

    /// `value` as if it stood under `key`.
    pub(super) fn with<'b>(&self, key: &str, value: &'b Value) -> Config<'b>
    where
        'a: 'b,
    {
        Config {
            path: self.path,
            prefix: format!("{}{key}.", self.prefix),
            value,
            generation: None,
            #[cfg(test)]
            read: self.read.clone(),
        }
    }

    /// Refuses a table in which tables lie: settings for kinds of layers, which the family's class does not read so.
    pub(super) fn refuse_nested(&self) -> Result<(), ArchitectureError> {
        let nested = self.value.as_object().into_iter().flatten().find(|(_, value)| value.is_object());
        match nested {
            Some((key, _)) => Err(self.unsupported(key, "a table", "numbers, texts and lists")),
            None => Ok(()),
        }
    }

    /// Refuses keys that are not `known`.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), ArchitectureError> {
        let other = self.value.as_object().into_iter().flatten().find(|(key, _)| !known.contains(&key.as_str()));
        match other {
            Some((key, value)) => Err(self.unsupported(key, &value.to_string(), &known.join(", "))),
            None => Ok(()),
        }
    }

    /// `hidden_act`.
    pub(super) fn activation(&self, key: &str, default: &str) -> Result<Activation, ArchitectureError> {
        match self.text(key)?.unwrap_or(default) {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu" | "gelu_python" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_accurate" | "gelu_pytorch_tanh" | "gelu_python_tanh" => Ok(Activation::GeluTanh),
            "relu2" => Ok(Activation::Relu2),
            other => Err(self.unsupported(key, other, "silu, gelu, gelu_new, gelu_pytorch_tanh, relu2")),
        }
    }

    /// Token ids under `key`: one, a list of them, or none. `generation_config.json` comes first, as it does when
    /// transformers generates; what only the config names follows, since either may be what is left of a base model.
    pub(super) fn token_ids(&self, key: &str, default: Option<u32>) -> Result<Vec<u32>, ArchitectureError> {
        let generation = self.generation.and_then(|g| g.get(key)).filter(|v| !v.is_null());
        // An explicit null means that there is none; only a key that is absent has the default.
        #[cfg(test)]
        self.read.borrow_mut().insert(key.to_string());
        let values: Vec<&Value> = generation.into_iter().chain(self.value.get(key)).collect();
        if values.is_empty() {
            return Ok(default.into_iter().collect());
        }
        let mut ids = Vec::new();
        for value in values {
            let wrong = || self.wrong(key, value, "a token id or a list of them");
            let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(wrong);
            // A negative id is no token's: some write -1 where there is none.
            let is_id = |v: &&Value| v.as_i64().is_none_or(|n| n >= 0);
            let named: Vec<u32> = match value {
                Value::Null => Vec::new(),
                Value::Array(list) => list.iter().filter(is_id).map(id).collect::<Result<_, _>>()?,
                one => [one].into_iter().filter(is_id).map(id).collect::<Result<_, _>>()?,
            };
            let known: BTreeSet<u32> = ids.iter().copied().collect();
            ids.extend(named.into_iter().filter(|id| !known.contains(id)));
        }
        Ok(ids)
    }
}
