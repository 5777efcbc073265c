//! Templates that people reported, and others of their kinds, with what jinja2 makes of them in the environment that
//! transformers gives it.

use super::{TextError, render};
use crate::text::{ChatOptions, Message};
use serde_json::Value;
use std::collections::BTreeMap;

fn rendered(template: &str, variables: &Value) -> Result<String, TextError> {
    let messages: Vec<Message> = serde_json::from_value(variables["messages"].clone()).unwrap();
    let tokens = ["bos_token", "eos_token"].map(|name| (name.into(), variables[name].as_str().unwrap().into()));
    let further = BTreeMap::from([("v".to_string(), variables["v"].clone())]);
    let options = ChatOptions { variables: further, now: Some(1_735_689_600), ..ChatOptions::default() };
    render(template, &tokens.into(), &messages, &options, None)
}

#[test]
fn templates_of_many_kinds_give_what_jinja2_gives() {
    let cases: Value = serde_json::from_str(include_str!("reported.json")).unwrap();
    let mut wrong = Vec::new();
    for case in cases["templates"].as_array().unwrap() {
        let rendered = rendered(case["template"].as_str().unwrap(), &cases["variables"]);
        let right = match &rendered {
            Ok(text) => case["text"].as_str() == Some(text),
            Err(_) => case["text"].is_null() || case["refused"] == true,
        };
        if !right {
            wrong.push(format!("{}: {rendered:?}, not {}{}", case["name"], case["text"], case["error"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
