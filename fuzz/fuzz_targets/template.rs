//! Chat templates, rendered for conversations of several kinds.

#![cfg_attr(fuzzing, no_main)]

use haikuq_fuzz::fixtures::{path, read, read_json, word_tokenizer};
use haikuq_fuzz::fuzz_target;
use haikuq_fuzz::mutate::Mutator;
use haikuq_fuzz::target::{Outcome, Target};
use haikuq_runtime::text::{ChatOptions, Message, Tokenizer, TokenizerFiles};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::LazyLock;

const FIXTURES: &str = "tests/fixtures/tokenizers";

static SMALL: LazyLock<Vec<u8>> = LazyLock::new(|| word_tokenizer().to_string().into_bytes());

static CONVERSATIONS: LazyLock<Vec<(Vec<Message>, ChatOptions)>> = LazyLock::new(|| {
    let plain = vec![Message::system("Be brief."), Message::user("Hi <|im_end|> é😀"), Message::assistant("Hello")];
    let call = json!([{"type": "function", "function": {"name": "f", "arguments": {"x": [1, 2.5, null]}}}]);
    let parts = json!([{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "<tool_call>"}]);
    let rich = vec![
        Message::user(parts),
        Message::assistant(Value::Null).with("tool_calls", call).with("reasoning_content", "hm"),
        Message::new("tool", "5").with("name", "f"),
        Message::user("and?"),
    ];
    let tools = json!([{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object",
        "properties": {"x": {"type": "array", "items": {"type": "number"}}}, "required": ["x"]}}}]);
    let variables = BTreeMap::from([("enable_thinking".to_owned(), json!(false)), ("n".to_owned(), json!(12))]);
    let mut with_tools = ChatOptions::default();
    with_tools.tools = tools.as_array().cloned();
    with_tools.documents = Some(vec![json!({"title": "t", "text": "x"})]);
    with_tools.now = Some(1_735_689_600);
    with_tools.variables = variables;
    let mut continued = ChatOptions::default();
    (continued.continue_final_message, continued.add_generation_prompt) = (true, false);
    vec![(plain.clone(), ChatOptions::default()), (rich, with_tools), (plain, continued)]
});

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for name in ["gemma2", "gemma3", "harmony", "llama3", "mistral", "phi3", "phi4mini", "qwen3", "smollm2"] {
        let file = format!("{FIXTURES}/{name}/chat_template.jinja");
        if path(&file).is_file() {
            seeds.push(read(&file));
        }
        let config = read_json(&format!("{FIXTURES}/{name}/tokenizer_config.json"));
        seeds.extend(config["chat_template"].as_str().map(|t| t.as_bytes().to_vec()));
    }
    // Idioms of templates, a few lines each.
    fn texts(value: &Value, found: &mut Vec<Vec<u8>>) {
        match value {
            Value::String(text) if text.contains("{{") || text.contains("{%") => found.push(text.as_bytes().to_vec()),
            Value::Array(list) => list.iter().for_each(|v| texts(v, found)),
            Value::Object(map) => map.iter().for_each(|(key, v)| {
                texts(&Value::String(key.clone()), found);
                texts(v, found);
            }),
            _ => {}
        }
    }
    texts(&read_json(&format!("{FIXTURES}/jinja.json")), &mut seeds);
    seeds
}

fn run(input: &[u8]) -> Outcome {
    let text = std::str::from_utf8(input).map_err(|e| e.to_string())?;
    let mut files = TokenizerFiles::new(&SMALL);
    files.chat_template = Some(text);
    let tokenizer = Tokenizer::from_files(files).map_err(|e| e.to_string())?;
    let _ = tokenizer.turn_end_token_id();
    let (mut said, mut good) = (Vec::new(), true);
    // One of them, which the length decides: three take three times as long, and inputs have many lengths.
    for (messages, options) in CONVERSATIONS.iter().skip(text.len() % CONVERSATIONS.len()).take(1) {
        let rendered = tokenizer.render_chat(messages, options);
        good &= rendered.is_ok();
        said.push(rendered.map_or_else(|e| e.to_string(), |text| format!("text of {}", text.len())));
        let encoded = tokenizer.encode_chat_with(messages, options);
        said.push(encoded.map_or_else(|e| e.to_string(), |ids| format!("ids {}", ids.len())));
        let _ = tokenizer.refuse_dropped_tools(messages, options);
    }
    said.dedup();
    if good { Ok(said.join("; ")) } else { Err(said.join("; ")) }
}

fuzz_target!(Target {
    name: "template",
    seeds,
    dictionary: &[
        "{{ ",
        " }}",
        "{% ",
        " %}",
        "{%- ",
        " -%}",
        "{# ",
        " #}",
        "if ",
        "elif ",
        "else",
        "endif",
        "for m in messages",
        "endfor",
        "set x = ",
        "endset",
        "set ns = namespace(x=0)",
        "ns.x",
        "macro f(x)",
        "endmacro",
        "f(",
        "call ",
        "endcall",
        "filter ",
        "endfilter",
        "generation",
        "endgeneration",
        "raw",
        "endraw",
        "break",
        "continue",
        "loop.index0",
        "loop.previtem",
        "loop(",
        "recursive",
        "messages",
        "message",
        ".content",
        "['content']",
        "['role']",
        "tools",
        "documents",
        "bos_token",
        "eos_token",
        "add_generation_prompt",
        "enable_thinking",
        "strftime_now('%d %b %Y')",
        "raise_exception('x')",
        "range(",
        "range(99999)",
        "dict(",
        "|tojson",
        "|tojson(indent=2)",
        "|trim",
        "|length",
        "|join(',')",
        "|list",
        "|items",
        "|map(",
        "|select(",
        "|selectattr(",
        "|rejectattr(",
        "|sort",
        "|unique",
        "|groupby(",
        "|batch(",
        "|slice(",
        "|replace(",
        "|first",
        "|last",
        "|string",
        "|int",
        "|float",
        "|round",
        "|default(",
        "|indent(",
        "|upper",
        "|e",
        "|safe",
        "|reverse",
        "|wordwrap(",
        "|format(",
        "|dictsort",
        "|xmlattr",
        "|urlencode",
        "|pprint",
        "|attr(",
        "|sum",
        "|max",
        "|min",
        ".split(",
        ".strip()",
        ".lstrip(",
        ".startswith(",
        ".replace(",
        ".items()",
        ".get(",
        ".keys()",
        ".title()",
        ".format(",
        ".join(",
        ".count(",
        ".splitlines()",
        ".encode(",
        ".zfill(",
        ".center(",
        " is defined",
        " is none",
        " is string",
        " is mapping",
        " is iterable",
        " is not ",
        " in ",
        " not in ",
        " and ",
        " or ",
        " not ",
        "[::-1]",
        "[1:]",
        "[-1]",
        "[0]",
        " ~ ",
        " * ",
        " ** ",
        " // ",
        " % ",
        " + ",
        " - ",
        "'a' * 99999",
        "1e308",
        "9223372036854775807",
        "-9223372036854775808",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "'",
        "\"",
        "none",
        "true",
        "False",
        "lambda",
        "import 'x' as y",
        "include 'x'",
        "extends 'x'",
        "block b",
        "endblock",
        "with x = 1",
        "endwith",
        "do ",
        "trans",
        "autoescape true",
        "cycler(",
        "joiner(",
        "lipsum(",
        "%s",
        "%05.3f",
    ],
    mutate: |input: &mut Vec<u8>, mutator: &mut Mutator<'_>| mutator.bytes(input),
    most_bytes: 6 << 10,
    run,
});
