//! Chat templates: the Jinja dialect in which checkpoints say how a conversation becomes a prompt.
//!
//! Templates are written for Python's jinja2 as Hugging Face transformers sets it up, so this sets minijinja up the
//! same: blocks trimmed, loop controls, Python's string methods, `raise_exception`, `strftime_now`, a `tojson` that
//! writes what `json.dumps` writes, and Python's spelling of `None`, `True` and `False`.

mod arithmetic;
mod builtins;
mod continued;
mod filters;
#[cfg(test)]
mod hostile;
mod json;
mod operators;
mod python;
#[cfg(test)]
mod reported;
mod rewrite;

use super::numbers::Python;
use super::{ChatOptions, Message, TextError};
use crate::ordered;
use chrono::DateTime;
use continued::Open;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fmt::Write;

/// What a template may use up: one for an instruction, one for 64 bytes of text, so 64 MB of it. A long conversation needs
/// a fiftieth; a template without end stops here.
const FUEL: u64 = 1_000_000;

/// Macros within macros, each of which costs several.
const DEEPEST_CALLS: usize = 250;

const NAME: &str = "chat_template";

/// Names of what a model thought before it spoke; templates read one or another.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A template's own refusal, found again at the end of minijinja's chain of errors.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

/// Renders `source` for `messages`. `tokens` are the variables `bos_token`, `eos_token` and so on. `mark` is a character
/// that is written as it is even where others of its kind are spelled in ASCII.
///
/// # Errors
/// [`TextError::Conversation`] where the last message is to go on and cannot,
/// [`TextError::Refused`] where the template calls `raise_exception`, [`TextError::Template`] where it is malformed or
/// does what it may not.
pub fn render(
    source: &str,
    tokens: &BTreeMap<String, String>,
    messages: &[Message],
    options: &ChatOptions,
    mark: Option<char>,
) -> Result<String, TextError> {
    let mut messages: Vec<Json> = messages.iter().map(as_templates_see).collect();
    let open = match (options.continue_final_message, options.add_generation_prompt) {
        (false, _) => None,
        (true, false) => Some(Open::mark(&mut messages, source)?),
        (true, true) => {
            let why = "a final message that goes on and a new message by the assistant exclude each other".into();
            return Err(TextError::Conversation { why });
        }
    };
    let text = evaluate(source, tokens, &messages, options, mark).map_err(|error| {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(e) = cause {
            if let Some(Refusal(message)) = e.downcast_ref() {
                return TextError::Refused { message: message.clone() };
            }
            cause = e.source();
        }
        TextError::Template { why: error.to_string() }
    })?;
    match open {
        Some(open) => open.cut(text),
        None => Ok(text),
    }
}

fn evaluate(
    source: &str,
    tokens: &BTreeMap<String, String>,
    messages: &[Json],
    options: &ChatOptions,
    mark: Option<char>,
) -> Result<String, Error> {
    let source = without_generation_blocks(&source.replace("\r\n", "\n").replace('\r', "\n"));
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    rewrite::check(&source, syntax.clone())?;
    let tree = rewrite::rewrite(&minijinja::machinery::parse(&source, NAME, syntax)?)?;
    let mut generator = minijinja::machinery::CodeGenerator::new(NAME, &source);
    generator.compile_stmt(&tree);
    drop(tree);
    let (instructions, blocks) = generator.finish();
    let environment = environment(options, mark);
    let text = |(name, token): (&String, &String)| (name.clone(), Value::from(token.as_str()));
    let variable = |(name, value): (&String, &Json)| (name.clone(), Value::from(Serde(Python(value))));
    let all = |list: &[Json]| list.iter().map(|value| Value::from(Serde(Python(value)))).collect::<Value>();
    let mut variables = ordered::map(tokens.iter().map(text));
    for (name, list) in [("tools", &options.tools), ("documents", &options.documents)] {
        variables.insert(name.into(), list.as_ref().map_or(Value::from(()), |list| all(list)));
    }
    variables.extend(options.variables.iter().map(variable));
    variables.insert("messages".into(), all(messages));
    variables.insert("add_generation_prompt".into(), Value::from(options.add_generation_prompt));
    let mut out = String::new();
    let variables = Value::from(variables);
    let output = &mut minijinja::machinery::make_string_output(&mut out);
    minijinja::machinery::eval(&environment, &instructions, variables, &blocks, output, AutoEscape::None)?;
    Ok(out)
}

/// A message as transformers hands it to a template: reasoning under all its names.
fn as_templates_see(message: &Message) -> Json {
    let mut fields = match serde_json::to_value(message) {
        Ok(Json::Object(fields)) => fields,
        // Nothing in a message can fail.
        _ => serde_json::Map::new(),
    };
    if let Some(reasoning) = REASONING.iter().find_map(|name| fields.get(*name)).cloned() {
        fields.entry("thinking").or_insert_with(|| reasoning.clone());
        fields.insert("reasoning_content".into(), reasoning);
    }
    Json::Object(fields)
}

fn environment(options: &ChatOptions, mark: Option<char>) -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEEPEST_CALLS);
    builtins::extend(&mut environment);
    python::extend(&mut environment);
    operators::extend(&mut environment, mark);
    filters::extend(&mut environment, mark);
    environment.add_function("joiner", operators::joiner);
    environment.add_function("cycler", operators::cycler);
    environment.set_formatter(move |out, state, value| match value.kind() {
        ValueKind::None => out.write_str("None").map_err(Error::from),
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" }).map_err(Error::from),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => out.write_str(&python::repr(value, mark)?).map_err(Error::from),
        _ => match python::as_float(value) {
            Some(number) => out.write_str(&python::float(number)).map_err(Error::from),
            None => minijinja::escape_formatter(out, state, value),
        },
    });
    environment.add_filter("tojson", move |value: &Value, ascii: Option<bool>, indent: Option<Value>, options: Kwargs| {
        json::to_json(value, ascii, indent, options, mark)
    });
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
    environment
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

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(source: &str, options: &ChatOptions) -> Result<String, TextError> {
        let tokens = BTreeMap::from([("bos_token".to_string(), "<s>".to_string()), ("eos_token".into(), "</s>".into())]);
        let messages = [Message::system("Be brief."), Message::user("Hi"), Message::assistant("Hello"), Message::user("Bye")];
        render(source, &tokens, &messages, options, None)
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
        assert_eq!(plain("{{ 'abc'[::-9223372036854775807 - 1] }}{{ [1, 2][::-9223372036854775807 - 1] }}"), "c[2]");
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
    fn a_content_that_is_null_is_none_to_the_template() {
        // As transformers 5 has it: `apply_chat_template` leaves out what is None.
        let source = "{% for m in messages %}[{{ m.content is defined }} {{ m.content is none }} {{ m.content }} {{ m['content'] or '-' }} \
                      {{ m.get('content') is none }} {{ 'content' in m }} {{ m.content is string }}\
                      {% for c in m.tool_calls %} {{ c.function.arguments|tojson }}{% endfor %}]{% endfor %}";
        let calls = r#""tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]"#;
        let said = |content: &str| {
            let json = format!(r#"[{{"role": "assistant", "content": {content}, {calls}}}]"#);
            let messages: Vec<Message> = serde_json::from_str(&json).unwrap();
            render(source, &BTreeMap::new(), &messages, &ChatOptions::default(), None).unwrap()
        };
        assert_eq!(said("null"), "[False False  - True False False {\"x\": 1}]");
        assert_eq!(said("\"\""), "[True False  - False True True {\"x\": 1}]");
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
