//! What the files around a tokenizer say, and the messages about files that cannot be read.

use super::tokenizers::gpt2;
use crate::text::{ChatOptions, Message, Special, TextError, Tokenizer, TokenizerFiles};
use serde_json::{Value, json};

/// The files of a tokenizer: `<|end|>` is special, `<think>` is added and not special, `Ġwor` is a piece.
fn gpt2_json() -> Value {
    serde_json::to_value(&gpt2().inner.tokenizer).unwrap()
}

fn load(tokenizer: &Value, config: &Value, legacy: Option<&Value>) -> Result<Tokenizer, TextError> {
    let (tokenizer, config) = (tokenizer.to_string(), config.to_string());
    let legacy = legacy.map(Value::to_string);
    Tokenizer::from_files(TokenizerFiles {
        tokenizer: tokenizer.as_bytes(),
        config: Some(config.as_bytes()),
        special_tokens_map: legacy.as_ref().map(String::as_bytes),
        ..TokenizerFiles::default()
    })
}

fn configured(config: Value) -> Tokenizer {
    load(&gpt2_json(), &config, None).unwrap()
}

#[test]
fn a_token_with_a_name_is_special() {
    let t = configured(json!({"eos_token": "<think>", "image_token": {"content": "</think>"}, "add_bos_token": true}));
    let id = |token| t.token_id(token).unwrap();
    assert_eq!(t.eos_token_id(), Some(id("<think>")));
    assert!(t.is_special(id("<think>")) && t.is_special(id("</think>")) && !t.is_special(id("<tool_call>")));
    assert_eq!(t.encode("hello", Special::Plain).unwrap(), t.encode_bare("hello", Special::Plain).unwrap(), "no start token");
}

#[test]
fn flags_in_the_configuration_go_before_those_of_the_tokenizer() {
    let json = gpt2_json();
    let id = gpt2().token_id("<|user|>").unwrap();
    let config = json!({"added_tokens_decoder": {id.to_string(): {"content": "<|user|>", "rstrip": true, "special": true}}});
    let t = load(&json, &config, None).unwrap();
    assert_eq!(t.encode_bare("<|user|> \n x", Special::Recognize).unwrap()[0], id);
    assert_eq!(t.decode(&t.encode_bare("<|user|> \n x", Special::Recognize).unwrap(), false).unwrap(), "<|user|>x");
}

#[test]
fn a_token_that_only_the_configuration_has_is_added_if_its_id_is_the_next() {
    let size = gpt2().vocab_size();
    let token = json!({"content": "<|new|>", "special": true});
    let t = configured(json!({"added_tokens_decoder": {size.to_string(): token}, "pad_token": "<nowhere>"}));
    assert_eq!((t.token_id("<|new|>"), t.token_id("<nowhere>")), (Some(size as u32), None));
    let t = configured(json!({"added_tokens_decoder": {(size + 5).to_string(): token}}));
    assert_eq!((t.token_id("<|new|>"), t.vocab_size()), (None, size));
}

#[test]
fn the_legacy_file_counts_where_the_configuration_lists_no_tokens() {
    let json = gpt2_json();
    let legacy = json!({"eos_token": {"content": "<think>"}, "additional_special_tokens": ["</think>"]});
    let t = load(&json, &json!({"eos_token": "<|end|>"}), Some(&legacy)).unwrap();
    assert_eq!(t.eos_token_id(), t.token_id("<think>"));
    let t = load(&json, &json!({"eos_token": "<|end|>", "added_tokens_decoder": {}}), Some(&legacy)).unwrap();
    assert_eq!(t.eos_token_id(), t.token_id("<|end|>"));
    let bad = load(&json, &json!({}), Some(&json!([])));
    assert!(matches!(bad, Err(TextError::File { file: "special_tokens_map.json", .. })));
}

#[test]
fn of_several_templates_the_one_that_is_asked_for_is_used() {
    let list = json!([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}, {"name": "rag", "template": "rag"}]);
    let object = json!({"tool_use": "tools", "default": "plain", "rag": "rag"});
    for templates in [list, object] {
        let t = configured(json!({"chat_template": templates}));
        let render = |tools: Option<Vec<Value>>, template: Option<&str>| {
            let options = ChatOptions { tools, template: template.map(Into::into), ..ChatOptions::default() };
            t.render_chat(&[Message::user("x")], &options)
        };
        assert_eq!(render(None, None).unwrap(), "plain");
        assert_eq!(render(Some(vec![]), None).unwrap(), "tools");
        assert_eq!(render(Some(vec![]), Some("rag")).unwrap(), "rag");
        let error = render(None, Some("other")).unwrap_err().to_string();
        assert_eq!(error, "the model has no chat template called \"other\", but default, rag, tool_use");
        assert_eq!(t.chat_template(), Some("plain"));
        assert_eq!(t.chat_template_names().collect::<Vec<_>>(), ["default", "rag", "tool_use"]);
    }
    let t = configured(json!({"chat_template": [{"name": "a", "template": "x"}, {"name": "b", "template": "y"}]}));
    assert!(matches!(t.encode_chat(&[Message::user("x")], true), Err(TextError::TemplateName { .. })));
    let t = configured(json!({"chat_template": [{"name": "only", "template": "x"}]}));
    assert_eq!(t.render_chat(&[Message::user("x")], &ChatOptions::default()).unwrap(), "x");
}

#[test]
fn malformed_configurations_are_refused_by_name() {
    for config in [
        json!({"chat_template": [{"template": "x"}]}),
        json!({"chat_template": [{"name": "default"}]}),
        json!({"chat_template": {"default": 1}}),
        json!({"added_tokens_decoder": []}),
        json!({"added_tokens_decoder": {"x": {"content": "a"}}}),
        json!({"added_tokens_decoder": {"1": "a"}}),
    ] {
        let result = load(&gpt2_json(), &config, None);
        assert!(matches!(result, Err(TextError::File { file: "tokenizer_config.json", .. })), "{config}");
    }
}

#[test]
fn a_tokenizer_that_cannot_be_loaded_is_told_what_is_not_known() {
    let why = |change: &dyn Fn(&mut Value)| {
        let mut json = gpt2_json();
        change(&mut json);
        load(&json, &json!({}), None).unwrap_err().to_string()
    };
    let starts = |message: String, start: &str| assert!(message.starts_with(start), "{message}");
    starts(
        why(&|json| {
            json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, {"type": "Guess"}]});
        }),
        "tokenizer.json: its pre_tokenizer is of type \"Guess\", which is not known; known are BertPreTokenizer, ",
    );
    starts(why(&|json| json["model"]["type"] = json!("Tiktoken")), "tokenizer.json: its model is of type \"Tiktoken\"");
    starts(why(&|json| json["normalizer"] = json!({})), "tokenizer.json: its normalizer has no \"type\"");
    starts(why(&|json| json["model"]["merges"] = json!(["zz yy"])), "tokenizer.json: its model of type \"BPE\" is malformed: ");
    starts(
        why(&|json| {
            json["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated", "invert": false});
        }),
        "tokenizer.json: its pre_tokenizer has the regular expression \"(a\", which is not understood: ",
    );
    starts(
        why(&|json| json["decoder"] = json!({"type": "Strip"})),
        "tokenizer.json: its decoder of type \"Strip\" is malformed: ",
    );
    starts(why(&|json| json["model"] = Value::Null), "tokenizer.json: it has no \"model\"");
    let error = Tokenizer::from_files(TokenizerFiles { tokenizer: b"\x0a\x0e", ..TokenizerFiles::default() }).unwrap_err();
    starts(error.to_string(), "tokenizer.json: no JSON: ");
}
