//! Every tokenizer of `tests/fixtures/tokenizers` does what Hugging Face transformers does with it: ids, text, rendered
//! conversations and refusals, as its `expected.json` says.

use haikuq_runtime::text::{ChatOptions, Message, Special, StreamDecoder, TextError, Tokenizer, TokenizerFiles};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Expected {
    now: i64,
    vocab_size: usize,
    bos: Option<u32>,
    eos: Option<u32>,
    special: Vec<u32>,
    control: Vec<u32>,
    texts: Vec<TextCase>,
    decodes: Vec<DecodeCase>,
    chats: Vec<ChatCase>,
}

#[derive(Deserialize)]
struct TextCase {
    text: String,
    ids: Vec<u32>,
    /// Without special tokens around; as `ids` where absent.
    bare: Option<Vec<u32>>,
    /// Control tokens as letters; as `bare` where absent.
    plain: Option<Vec<u32>>,
    decoded: String,
    decoded_skip: String,
}

#[derive(Deserialize)]
struct DecodeCase {
    ids: Vec<u32>,
    decoded: String,
    decoded_skip: String,
}

#[derive(Deserialize)]
struct ChatCase {
    name: String,
    messages: Vec<Message>,
    options: Options,
    text: Option<String>,
    ids: Option<Vec<u32>>,
    /// Control tokens of the messages as letters; as `ids` where absent.
    plain: Option<Vec<u32>>,
    /// What the template says as it refuses.
    refused: Option<String>,
    /// What Python says where the template fails.
    error: Option<String>,
}

/// Arguments of `apply_chat_template`.
#[derive(Deserialize)]
struct Options {
    add_generation_prompt: bool,
    #[serde(default)]
    continue_final_message: bool,
    tools: Option<Vec<Value>>,
    documents: Option<Vec<Value>>,
    chat_template: Option<String>,
    #[serde(flatten)]
    variables: BTreeMap<String, Value>,
}

impl Options {
    fn into_options(self, now: i64) -> ChatOptions {
        let mut options = ChatOptions::default();
        options.add_generation_prompt = self.add_generation_prompt;
        options.continue_final_message = self.continue_final_message;
        options.now = Some(now);
        options.tools = self.tools;
        options.documents = self.documents;
        options.template = self.chat_template;
        options.variables = self.variables;
        options
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tokenizers")
}

fn read(path: &Path) -> Option<Vec<u8>> {
    path.is_file().then(|| std::fs::read(path).unwrap())
}

fn open(folder: &Path) -> Tokenizer {
    let file = |name: &str| read(&folder.join(name));
    let text = |path: &Path| String::from_utf8(std::fs::read(path).unwrap()).unwrap();
    let additional = std::fs::read_dir(folder.join("additional_chat_templates")).into_iter().flatten();
    let additional: Vec<_> = additional.map(|entry| entry.unwrap().path()).collect();
    let additional: Vec<_> = additional.iter().map(|p| (p.file_stem().unwrap().to_str().unwrap(), text(p))).collect();
    let additional: Vec<_> = additional.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let chat_template = file("chat_template.jinja").map(|bytes| String::from_utf8(bytes).unwrap());
    let tokenizer = file("tokenizer.json").expect("a tokenizer.json");
    let (config, special_tokens_map) = (file("tokenizer_config.json"), file("special_tokens_map.json"));
    let mut files = TokenizerFiles::new(&tokenizer);
    files.config = config.as_deref();
    files.special_tokens_map = special_tokens_map.as_deref();
    files.chat_template = chat_template.as_deref();
    files.additional_chat_templates = &additional;
    Tokenizer::from_files(files).unwrap()
}

/// Every folder with its tokenizer and what is expected of it.
fn styles() -> Vec<(String, Tokenizer, Expected)> {
    let folders = std::fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = folders.filter(|path| path.is_dir() && !path.ends_with("__pycache__")).collect();
    folders.sort();
    let load = |folder: PathBuf| {
        let expected = std::fs::read(folder.join("expected.json")).unwrap();
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        (name, open(&folder), serde_json::from_slice(&expected).unwrap())
    };
    let styles: Vec<_> = folders.into_iter().map(load).collect();
    assert!(styles.len() >= 9);
    styles
}

/// Collects what differs, so that one run shows all of it.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn check<T: PartialEq + std::fmt::Debug>(&mut self, what: impl std::fmt::Display, found: T, expected: T) {
        if found != expected {
            self.0.push(format!("{what}\n  found    {found:?}\n  expected {expected:?}"));
        }
    }
}

impl Drop for Differences {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.0.is_empty(), "{} differences\n{}", self.0.len(), self.0.join("\n"));
        }
    }
}

fn streamed(mut stream: StreamDecoder, ids: &[u32]) -> String {
    let shown: String = ids.iter().map(|id| stream.push(*id)).collect();
    shown + &stream.finish()
}

#[test]
fn special_and_control_tokens_are_those_of_transformers() {
    let mut differences = Differences::default();
    for (style, t, expected) in styles() {
        let all = 0..t.vocab_size() as u32;
        differences.check(&style, t.vocab_size(), expected.vocab_size);
        differences.check(&style, (t.bos_token_id(), t.eos_token_id()), (expected.bos, expected.eos));
        differences.check(&style, all.clone().filter(|id| t.is_special(*id)).collect(), expected.special);
        differences.check(&style, all.filter(|id| t.is_control(*id)).collect(), expected.control);
    }
}

#[test]
fn texts_have_the_ids_that_transformers_gives() {
    let mut differences = Differences::default();
    for (style, t, expected) in styles() {
        for TextCase { text, ids, bare, plain, .. } in expected.texts {
            let bare = bare.unwrap_or_else(|| ids.clone());
            let plain = plain.unwrap_or_else(|| bare.clone());
            let case = format!("{style}: {text:?}");
            differences.check(&case, t.encode(&text, Special::Recognize).unwrap(), ids);
            differences.check(&case, t.encode_bare(&text, Special::Recognize).unwrap(), bare);
            differences.check(format!("{case} as letters"), t.encode_bare(&text, Special::Plain).unwrap(), plain);
        }
    }
}

#[test]
fn ids_have_the_text_that_transformers_gives() {
    let mut differences = Differences::default();
    for (style, t, expected) in styles() {
        let of_texts = expected.texts.into_iter().map(|c| (c.ids, c.decoded, c.decoded_skip));
        let of_ids = expected.decodes.into_iter().map(|c| (c.ids, c.decoded, c.decoded_skip));
        for (ids, decoded, decoded_skip) in of_texts.chain(of_ids) {
            let case = format!("{style}: {ids:?}");
            differences.check(&case, t.decode(&ids, false).unwrap(), decoded);
            differences.check(&case, t.decode(&ids, true).unwrap(), decoded_skip);
        }
    }
}

#[test]
fn streams_give_the_same_text_up_to_an_incomplete_end() {
    let mut differences = Differences::default();
    for (style, t, expected) in styles() {
        for c in expected.texts {
            let case = format!("{style}: {:?}", c.text);
            differences.check(&case, streamed(StreamDecoder::with_special(&t), &c.ids), c.decoded);
            differences.check(&case, streamed(StreamDecoder::new(&t), &c.ids), c.decoded_skip);
        }
        for c in expected.decodes {
            // A byte-fallback decoder takes back what it has shown of a run of bytes once one of them is wrong, and
            // a stream cannot; so of these only what is whole is compared.
            let whole = |text: &str| text.replace(char::REPLACEMENT_CHARACTER, "");
            let case = format!("{style}: {:?}", c.ids);
            let found = streamed(StreamDecoder::with_special(&t), &c.ids);
            let bytes = c.ids.iter().any(|id| t.token(*id).is_some_and(|token| token.starts_with("<0x")));
            if !bytes {
                differences.check(&case, whole(&found), whole(&c.decoded));
            }
        }
    }
}

#[test]
fn conversations_are_rendered_and_refused_as_transformers_does() {
    let mut differences = Differences::default();
    for (style, t, expected) in styles() {
        for c in expected.chats {
            let case = format!("{style}: {}", c.name);
            let found = t.render_chat(&c.messages, &c.options.into_options(expected.now));
            match (found, c.text, c.refused, c.error) {
                (Ok(found), Some(text), ..) => differences.check(case, found, text),
                (Err(TextError::Refused { message }), _, Some(refused), _) => differences.check(case, message, refused),
                (Err(TextError::Template { .. } | TextError::Conversation { .. }), _, _, Some(_)) => {}
                (found, text, refused, error) => {
                    let expected = text.or(refused).or(error).unwrap_or_default();
                    differences.check(case, format!("{found:?}"), expected);
                }
            }
        }
    }
}

#[test]
fn conversations_have_the_ids_that_transformers_gives_and_spelled_control_tokens_are_letters() {
    let mut differences = Differences::default();
    for (style, t, expected) in styles() {
        for c in expected.chats {
            let (Some(text), Some(ids)) = (c.text, c.ids) else { continue };
            let case = format!("{style}: {}", c.name);
            let plain = c.plain.unwrap_or_else(|| ids.clone());
            differences.check(&case, t.encode_bare(&text, Special::Recognize).unwrap(), ids);
            let options = c.options.into_options(expected.now);
            differences.check(format!("{case} as letters"), t.encode_chat_with(&c.messages, &options).unwrap(), plain);
        }
    }
}
