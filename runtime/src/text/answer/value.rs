//! Values as Gemma and Python spell them, to JSON.

use serde_json::{Map, Number, Value};

/// Reads values of one spelling from a text, one after the other.
pub(super) struct Reader<'a> {
    rest: &'a str,
    /// What stands around strings, beside quotes.
    quote: Option<&'static str>,
    /// Levels of lists and objects that may still be opened.
    depth: usize,
}

/// More than any sensible call has.
const MAX_DEPTH: usize = 64;

impl<'a> Reader<'a> {
    pub(super) const fn new(text: &'a str, quote: Option<&'static str>) -> Self {
        Self { rest: text, quote, depth: MAX_DEPTH }
    }

    /// Takes `token` if it is next, whatever space is before it.
    pub(super) fn take(&mut self, token: &str) -> Option<()> {
        self.rest = self.rest.trim_start().strip_prefix(token)?;
        Some(())
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.rest.trim().is_empty()
    }

    /// A name: letters, digits, and what else names of functions have.
    pub(super) fn name(&mut self) -> Option<&'a str> {
        let text = self.rest.trim_start();
        let end = text.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        self.rest = rest;
        (!name.is_empty()).then_some(name)
    }

    /// `key = value` or `key: value`, separated by commas, to what closes them, which is taken too.
    pub(super) fn fields(&mut self, assign: &str, close: &str) -> Option<Map<String, Value>> {
        let mut fields = Map::new();
        while self.take(close).is_none() {
            if !fields.is_empty() {
                self.take(",")?;
                // Python allows a last comma.
                if self.take(close).is_some() {
                    break;
                }
            }
            let key = match self.string() {
                Some(key) => key,
                None => self.name()?.to_string(),
            };
            self.take(assign)?;
            fields.insert(key, self.value()?);
        }
        Some(fields)
    }

    fn value(&mut self) -> Option<Value> {
        if let Some(text) = self.string() {
            return Some(Value::String(text));
        }
        let nested = |open: &str, reader: &mut Self| reader.take(open).and_then(|()| reader.depth.checked_sub(1));
        let outside = self.depth;
        let value = if let Some(depth) = nested("{", self) {
            self.depth = depth;
            self.fields(":", "}").map(Value::Object)
        } else if let Some(depth) = nested("[", self) {
            self.depth = depth;
            self.list("]")
        } else if let Some(depth) = nested("(", self) {
            self.depth = depth;
            self.list(")")
        } else {
            self.word()
        };
        self.depth = outside;
        value
    }

    fn list(&mut self, close: &str) -> Option<Value> {
        let mut items = Vec::new();
        while self.take(close).is_none() {
            if !items.is_empty() {
                self.take(",")?;
                if self.take(close).is_some() {
                    break;
                }
            }
            items.push(self.value()?);
        }
        Some(Value::Array(items))
    }

    /// A number or one of the names of three values.
    fn word(&mut self) -> Option<Value> {
        let text = self.rest.trim_start();
        let end = text.find(|c: char| !(c.is_alphanumeric() || matches!(c, '+' | '-' | '.' | '_'))).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        let value = match word {
            "true" | "True" => Value::Bool(true),
            "false" | "False" => Value::Bool(false),
            "null" | "None" => Value::Null,
            _ => Value::Number(word.parse::<Number>().ok()?),
        };
        self.rest = rest;
        Some(value)
    }

    /// A string in the spelling's own quotes, where nothing is escaped, or in those of JSON and Python.
    fn string(&mut self) -> Option<String> {
        let text = self.rest.trim_start();
        if let Some(quote) = self.quote
            && let Some(inner) = text.strip_prefix(quote)
        {
            let (value, rest) = inner.split_once(quote)?;
            self.rest = rest;
            return Some(value.to_string());
        }
        let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let mut value = String::new();
        let mut chars = text[1..].char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                _ if c == quote => {
                    self.rest = &text[1 + at + 1..];
                    return Some(value);
                }
                '\\' => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    't' => value.push('\t'),
                    'r' => value.push('\r'),
                    'b' => value.push('\u{8}'),
                    'f' => value.push('\u{c}'),
                    'x' => value.push(hexadecimal(&mut chars, 2)?),
                    'u' => value.push(hexadecimal(&mut chars, 4)?),
                    other => value.push(other),
                },
                _ => value.push(c),
            }
        }
        None
    }
}

fn hexadecimal(chars: &mut std::str::CharIndices<'_>, digits: usize) -> Option<char> {
    let mut unit = || (0..digits).try_fold(0, |n, _| Some(16 * n + chars.next()?.1.to_digit(16)?));
    let high = unit()?;
    if !(0xd800..0xdc00).contains(&high) {
        return char::from_u32(high);
    }
    // The other half of a pair, as JSON spells characters beyond 16 bits.
    (chars.next()?.1 == '\\' && chars.next()?.1 == 'u').then_some(())?;
    let low = (0..digits).try_fold(0, |n, _| Some(16 * n + chars.next()?.1.to_digit(16)?))?;
    char::from_u32(0x10000 + ((high - 0xd800) << 10) + low.checked_sub(0xdc00)?)
}
