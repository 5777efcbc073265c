//! Chat templates: the Jinja dialect in which checkpoints say how a conversation becomes a prompt.
//!
//! Templates are written for Python's jinja2 as Hugging Face transformers sets it up, so this sets minijinja up the
//! same: blocks trimmed, loop controls, Python's string methods, `raise_exception`, `strftime_now`, a `tojson` that
//! writes what `json.dumps` writes, and Python's spelling of `None`, `True` and `False`.

use super::TextError;
use chrono::DateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// What a template may use up: one for an instruction, one for 64 bytes of text. A long conversation needs a
/// hundredth; a template without end stops here.
const FUEL: u64 = 2_000_000;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }

    /// What the user says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    /// What the model is told to be.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }
}

/// How a conversation is rendered.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatOptions {
    /// Whether the prompt ends where the assistant begins to speak.
    pub add_generation_prompt: bool,
    /// What `strftime_now` formats: seconds since 1970 in local time. Templates that ask whether there is such a
    /// function find none where this is `None`, so that the same conversation gives the same prompt on any day.
    pub now: Option<i64>,
    /// Further variables that a template may know, such as `enable_thinking`.
    pub variables: BTreeMap<String, serde_json::Value>,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self { add_generation_prompt: true, now: None, variables: BTreeMap::new() }
    }
}

/// A template's own refusal, found again at the end of minijinja's chain of errors.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

/// Renders `source` for `messages`. `tokens` are the variables `bos_token`, `eos_token` and so on.
///
/// # Errors
/// [`TextError::Refused`] where the template calls `raise_exception`, [`TextError::Template`] where it is malformed or
/// does what it may not.
pub fn render(
    source: &str,
    tokens: &BTreeMap<String, String>,
    messages: &[Message],
    options: &ChatOptions,
) -> Result<String, TextError> {
    let render = || {
        let mut environment = environment(options)?;
        let source = without_generation_blocks(source);
        environment.add_template_owned("chat_template", source)?;
        let text = |(name, token): (&String, &String)| (name.clone(), Value::from(token.as_str()));
        let variable = |(name, value): (&String, &serde_json::Value)| (name.clone(), Value::from(Serde(value)));
        let mut variables: BTreeMap<String, Value> = tokens.iter().map(text).collect();
        variables.extend(options.variables.iter().map(variable));
        variables.insert("messages".into(), Value::from(Serde(messages)));
        variables.insert("add_generation_prompt".into(), Value::from(options.add_generation_prompt));
        for absent in ["tools", "documents"] {
            variables.entry(absent.into()).or_insert(Value::from(()));
        }
        environment.get_template("chat_template")?.render(Value::from(variables))
    };
    render().map_err(|error: Error| {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(e) = cause {
            if let Some(Refusal(message)) = e.downcast_ref() {
                return TextError::Refused { message: message.clone() };
            }
            cause = e.source();
        }
        TextError::Template { why: error.to_string() }
    })
}

fn environment(options: &ChatOptions) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(|out, state, value| match value.kind() {
        ValueKind::None => out.write_str("None").map_err(Error::from),
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" }).map_err(Error::from),
        _ => minijinja::escape_formatter(out, state, value),
    });
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Refusal(message)))
    });
    if let Some(now) = options.now.and_then(|seconds| DateTime::from_timestamp(seconds, 0)) {
        environment.add_function("strftime_now", move |format: String| -> Result<String, Error> {
            let mut text = String::new();
            let unknown = |_| Error::new(ErrorKind::InvalidOperation, format!("strftime_now does not know {format:?}"));
            write!(text, "{}", now.format(&format)).map_err(unknown)?;
            Ok(text)
        });
    }
    Ok(environment)
}

/// `{% generation %}` blocks mark the assistant's words for training; for inference they are what is in them.
fn without_generation_blocks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (inner, after) = tag.split_at(end);
        match inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+') {
            "generation" => out.push_str(&inner.replace("generation", "if true")),
            "endgeneration" => out.push_str(&inner.replace("endgeneration", "endif")),
            _ => out.push_str(inner),
        }
        rest = after;
    }
    out + rest
}

/// The filter `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)` of transformers: what
/// Python's `json.dumps` writes, and no HTML escapes.
fn to_json(value: &Value, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    let indent = indent.map_or_else(|| options.get::<Option<usize>>("indent"), |i| Ok(Some(i)))?;
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    options.assert_all_used()?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators are two strings")),
        None => (if indent.is_some() { "," } else { ", " }, ": "),
    };
    let json = serde_json::to_value(value).map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("tojson: {e}")))?;
    let mut writer = JsonWriter { out: String::new(), indent, item, key, ascii, sort };
    writer.value(&json, 0);
    Ok(writer.out)
}

/// Python's `json.dumps`.
struct JsonWriter<'a> {
    out: String,
    indent: Option<usize>,
    item: &'a str,
    key: &'a str,
    ascii: bool,
    sort: bool,
}

impl JsonWriter<'_> {
    fn value(&mut self, value: &serde_json::Value, depth: usize) {
        use serde_json::Value as Json;
        match value {
            Json::Array(items) => {
                self.sequence('[', ']', depth, items.iter(), |writer, item| writer.value(item, depth + 1));
            }
            Json::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                if self.sort {
                    entries.sort_by_key(|(key, _)| *key);
                }
                self.sequence('{', '}', depth, entries.into_iter(), |writer, (key, value)| {
                    writer.string(key);
                    writer.out.push_str(writer.key);
                    writer.value(value, depth + 1);
                });
            }
            Json::String(text) => self.string(text),
            other => self.out.push_str(&other.to_string()),
        }
    }

    fn sequence<T>(
        &mut self,
        open: char,
        close: char,
        depth: usize,
        items: impl ExactSizeIterator<Item = T>,
        mut one: impl FnMut(&mut Self, T),
    ) {
        self.out.push(open);
        let empty = items.len() == 0;
        for (i, item) in items.enumerate() {
            if i > 0 {
                self.out.push_str(self.item);
            }
            self.new_line(depth + 1);
            one(self, item);
        }
        if !empty {
            self.new_line(depth);
        }
        self.out.push(close);
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn string(&mut self, text: &str) {
        let quoted = serde_json::Value::from(text).to_string();
        if !self.ascii {
            self.out.push_str(&quoted);
            return;
        }
        for c in quoted.chars() {
            if c.is_ascii() {
                self.out.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(self.out, "\\u{unit:04x}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(source: &str, options: &ChatOptions) -> Result<String, TextError> {
        let tokens = BTreeMap::from([("bos_token".to_string(), "<s>".to_string()), ("eos_token".into(), "</s>".into())]);
        let messages = [Message::system("Be brief."), Message::user("Hi"), Message::assistant("Hello"), Message::user("Bye")];
        render(source, &tokens, &messages, options)
    }

    fn plain(source: &str) -> String {
        rendered(source, &ChatOptions::default()).unwrap()
    }

    #[test]
    fn a_conversation_renders_with_the_models_own_tokens() {
        let source = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m.content }}{{ eos_token }}{% endfor %}\
                      {% if add_generation_prompt %}[assistant]{% endif %}";
        assert_eq!(plain(source), "<s>[system] Be brief.</s>[user] Hi</s>[assistant] Hello</s>[user] Bye</s>[assistant]");
        let closed = ChatOptions { add_generation_prompt: false, ..Default::default() };
        assert!(rendered(source, &closed).unwrap().ends_with("Bye</s>"));
    }

    #[test]
    fn blocks_are_trimmed_as_transformers_trims_them() {
        assert_eq!(plain("{% for m in messages %}\n    {% if loop.first %}\nA\n    {% endif %}\n{% endfor %}\nB\n"), "A\nB");
    }

    #[test]
    fn python_idioms_of_real_templates_work() {
        assert_eq!(
            plain(
                "{% set ns = namespace(n=0) %}{% for m in messages[1:] %}{% if m.role != 'user' %}{% continue %}{% endif %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"
            ),
            "2"
        );
        assert_eq!(plain("{{ messages[0]['content'].strip('.').upper().split(' ')[-1] }}"), "BRIEF");
        assert_eq!(plain("{{ 'a</think>b'.split('</think>')[-1] }}|{{ ' x '|trim }}|{{ messages|length }}"), "b|x|4");
        assert_eq!(plain("{{ none }} {{ true }} {{ undefined_name }}."), "None True .");
        assert_eq!(plain("{% if tools is none and not documents %}no tools{% endif %}"), "no tools");
        assert_eq!(plain("{{ messages[::-1][0].content }} {{ '%s!' % 'x' if false else messages[-1]['content'] }}"), "Bye Bye");
        assert_eq!(plain("{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}{{ twice('ab') }}"), "abab");
        assert_eq!(plain("{% if messages[0].content is string and messages is not mapping %}text{% endif %}"), "text");
        assert_eq!(plain("{% if 'role' in messages[0] and messages[0].get('name') is none %}ok{% endif %}"), "ok");
    }

    #[test]
    fn nothing_is_escaped_for_html() {
        assert_eq!(plain("{{ '<b>&\"' }}{{ {'a': '<é>'}|tojson }}"), "<b>&\"{\"a\": \"<é>\"}");
    }

    #[test]
    fn tojson_writes_what_python_writes() {
        assert_eq!(plain("{{ {'b': [1, 2.5, none, true], 'a': {}}|tojson }}"), r#"{"b": [1, 2.5, null, true], "a": {}}"#);
        assert_eq!(plain("{{ {'b': [1], 'a': []}|tojson(indent=2) }}"), "{\n  \"b\": [\n    1\n  ],\n  \"a\": []\n}");
        assert_eq!(plain("{{ {'b': 1, 'a': 2}|tojson(sort_keys=true, separators=(',', ':')) }}"), r#"{"a":2,"b":1}"#);
        assert_eq!(plain("{{ 'é😀'|tojson(ensure_ascii=true) }}"), r#""\u00e9\ud83d\ude00""#);
    }

    #[test]
    fn a_refusal_is_told_in_the_templates_words() {
        let source = "{% macro check(m) %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% endmacro %}{{ check(messages[0]) }}";
        match rendered(source, &ChatOptions::default()) {
            Err(TextError::Refused { message }) => assert_eq!(message, "System role not supported"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_malformed_or_endless_template_is_an_error() {
        let error = |source| rendered(source, &ChatOptions::default()).unwrap_err();
        assert!(matches!(error("{% if %}"), TextError::Template { .. }));
        assert!(matches!(error("{{ messages.nothing.at.all }}"), TextError::Template { .. }));
        let nested =
            "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x{% endfor %}{% endfor %}{% endfor %}";
        assert!(matches!(error(nested), TextError::Template { .. }));
    }

    #[test]
    fn the_date_is_what_the_caller_says() {
        let source = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}26 Jul 2024{% endif %}";
        assert_eq!(plain(source), "26 Jul 2024");
        let now = ChatOptions { now: Some(1_735_689_600), ..Default::default() };
        assert_eq!(rendered(source, &now).unwrap(), "01 Jan 2025");
        assert!(matches!(rendered("{{ strftime_now('%Q') }}", &now), Err(TextError::Template { .. })));
    }

    #[test]
    fn generation_blocks_are_what_is_in_them() {
        assert_eq!(plain("a{%- generation -%} b {%- endgeneration %}{% generation %}c{% endgeneration %}"), "abc");
    }

    #[test]
    fn further_variables_reach_the_template() {
        let variables = BTreeMap::from([("enable_thinking".to_string(), serde_json::json!(false))]);
        let options = ChatOptions { variables, ..Default::default() };
        let source = "{% if enable_thinking is defined and enable_thinking is false %}no{% else %}yes{% endif %}";
        assert_eq!((rendered(source, &options).unwrap(), plain(source)), ("no".into(), "yes".into()));
    }
}
