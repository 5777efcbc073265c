//! Answers as models of each family write them.

use super::{AnswerFormat, AnswerPart, ToolCall};
use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

fn tools() -> Vec<Value> {
    let function = |name: &str, properties: Value| json!({"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}});
    vec![
        function("weather", json!({"city": {"type": "string"}, "days": {"type": "integer"}})),
        function("clock", json!({"zone": {"type": ["string", "null"]}})),
    ]
}

/// The answer taken apart at once, as one line a part.
fn parts(template: &str, prompt_end: &str, pieces: &[&str], tools: &[Value]) -> Vec<String> {
    let mut parser = AnswerFormat::of(template).parser(prompt_end, tools);
    let mut parts: Vec<AnswerPart> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    parts.extend(parser.finish());
    super::parser::joined(parts)
        .into_iter()
        .map(|part| match part {
            AnswerPart::Content(text) => format!("says {text}"),
            AnswerPart::Reasoning(text) => format!("thinks {text}"),
            AnswerPart::Call(ToolCall { name, arguments }) => {
                let arguments: Value = serde_json::from_str(&arguments).expect("arguments are JSON");
                format!("calls {name} {arguments}")
            }
        })
        .collect()
}

const HERMES: &str = "<tool_call> </tool_call> <think> </think>";
const CODER: &str = "<tool_call>\n<function=name>";
const LLAMA: &str = "<|python_tag|> ipython";
const MISTRAL: &str = "[TOOL_CALLS] [ARGS] [THINK]";
const GEMMA: &str = "<|tool_call>call: <|channel>thought <channel|>";
const FUNCTION_GEMMA: &str = "<start_function_call>call:";
const LFM: &str = "<|tool_call_start|>";
const PHI: &str = "<|tool_call|> <|/tool_call|>";
const GRANITE: &str = "<|tool_call|>";
const HARMONY: &str = "<|channel|>analysis<|message|>";

#[rstest]
#[case(HERMES, "<think>\nHm.\n</think>\n\nHello!", &["thinks Hm.", "says Hello!"])]
#[case(HERMES, "Let me see.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>",
    &["says Let me see.", r#"calls weather {"city":"Rome"}"#])]
#[case(HERMES, "<tool_call>{\"name\":\"clock\"}</tool_call>\n<tool_call>{\"name\":\"clock\",\"arguments\":\"{\\\"zone\\\":null}\"}</tool_call>",
    &["calls clock {}", r#"calls clock {"zone":null}"#])]
#[case(CODER, "<tool_call>\n<function=weather>\n<parameter=city>\n12\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
    &[r#"calls weather {"city":"12","days":3}"#])]
#[case(LLAMA, "{\"name\": \"weather\", \"parameters\": {\"city\": \"Rome\", \"days\": 2}}", &[r#"calls weather {"city":"Rome","days":2}"#])]
#[case(LLAMA, "<|python_tag|>{\"name\": \"clock\", \"parameters\": {}}; {\"name\": \"clock\", \"parameters\": {}}", &["calls clock {}", "calls clock {}"])]
#[case(LLAMA, "{\"name\": \"Ada\", \"parameters\": {}}", &["says {\"name\": \"Ada\", \"parameters\": {}}"])]
#[case(LLAMA, "```json\n{\"tool_calls\": [{\"name\": \"clock\", \"arguments\": {}}]}\n```", &["calls clock {}"])]
#[case(MISTRAL, "[TOOL_CALLS][{\"name\": \"clock\", \"arguments\": {\"zone\": \"UTC\"}}, {\"name\": \"clock\", \"arguments\": {}}]",
    &[r#"calls clock {"zone":"UTC"}"#, "calls clock {}"])]
#[case(MISTRAL, "[THINK]So.[/THINK]On it.[TOOL_CALLS]clock[ARGS]{\"zone\": \"UTC\"}[TOOL_CALLS]weather[CALL_ID]a1[ARGS]{\"city\": \"{Rome}\"}",
    &["thinks So.", "says On it.", r#"calls clock {"zone":"UTC"}"#, r#"calls weather {"city":"{Rome}"}"#])]
#[case(GEMMA, "<|channel>thought\nWhere?<channel|><|tool_call>call:weather{city:<|\"|>New \"York\"<|\"|>,days:-3}<tool_call|>",
    &["thinks Where?", r#"calls weather {"city":"New \"York\"","days":-3}"#])]
#[case(FUNCTION_GEMMA, "<start_function_call>call:weather{city:<escape>Rome, {Italy}<escape>,at:{x:[1,2.5e3,true,null]}}<end_function_call>",
    &[r#"calls weather {"city":"Rome, {Italy}","at":{"x":[1,2500.0,true,null]}}"#])]
#[case(LFM, "<|tool_call_start|>[weather(city='Rome \\'25', days=3), clock(zone=None, o={\"a\": [True, (1, 2)]},)]<|tool_call_end|>Done.",
    &[r#"calls weather {"city":"Rome '25","days":3}"#, r#"calls clock {"zone":null,"o":{"a":[true,[1,2]]}}"#, "says Done."])]
#[case(PHI, "<|tool_call|>[{\"name\": \"clock\", \"arguments\": {}}]<|/tool_call|>", &["calls clock {}"])]
#[case(GRANITE, "<|tool_call|>[{\"name\": \"clock\", \"arguments\": {}}]", &["calls clock {}"])]
#[case(HARMONY, "<|channel|>analysis<|message|>Time?<|end|><|start|>assistant<|channel|>commentary to=functions.clock <|constrain|>json<|message|>{\"zone\":\"UTC\"}<|call|>",
    &["thinks Time?", r#"calls clock {"zone":"UTC"}"#])]
#[case(HARMONY, "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>It is noon.", &["thinks Hm.", "says It is noon."])]
#[case(HARMONY, "Plain.", &["says Plain."])]
// Calls that cannot be read stay text.
#[case(HERMES, "<tool_call>{\"name\": 3}</tool_call> ok", &["says <tool_call>{\"name\": 3}</tool_call> ok"])]
#[case(HERMES, "<tool_call>{\"name\": \"clock\"", &["says <tool_call>{\"name\": \"clock\""])]
#[case(MISTRAL, "[TOOL_CALLS] are !! fun", &["says [TOOL_CALLS] are !! fun"])]
#[case(LFM, "<|tool_call_start|>[clock(zone=]<|tool_call_end|>", &["says <|tool_call_start|>[clock(zone=]<|tool_call_end|>"])]
// A call that its end token did not close, for that token ended the answer.
#[case(HERMES, "<tool_call>{\"name\": \"clock\"}\n", &["calls clock {}"])]
fn answers(#[case] template: &str, #[case] answer: &str, #[case] expected: &[&str]) {
    assert_eq!(parts(template, "", &[answer], &tools()), expected);
    // However the text is cut.
    let letters: Vec<String> = answer.chars().map(String::from).collect();
    let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
    assert_eq!(parts(template, "", &letters, &tools()), expected, "letter by letter");
}

#[test]
fn without_tools_nothing_is_a_call() {
    let call = "<tool_call>{\"name\": \"clock\"}</tool_call>";
    assert_eq!(parts(HERMES, "", &[call], &[]), [format!("says {call}")]);
    assert_eq!(parts(LLAMA, "", &[" {\"name\": \"clock\"}"], &[]), ["says  {\"name\": \"clock\"}"], "space is left as it is");
}

#[test]
fn a_template_may_have_opened_the_thoughts() {
    assert_eq!(parts(HERMES, "<|im_start|>assistant\n<think>\n", &["Hm.\n</think>\n\nYes"], &[]), ["thinks Hm.", "says Yes"]);
    assert_eq!(parts(HERMES, "<think>\n\n</think>\n\n", &["Yes"], &[]), ["says Yes"], "and closed them");
    assert_eq!(parts(HERMES, "<think>\n", &["Cut off"], &[]), ["thinks Cut off"]);
}

#[test]
fn thoughts_and_words_come_at_once_and_tags_never() {
    let mut parser = AnswerFormat::of(HERMES).parser("<think>", &tools());
    assert!(parser.is_reasoning());
    assert_eq!(parser.push("One <"), [AnswerPart::Reasoning("One".into())]);
    assert_eq!(parser.push(" two </thi"), [AnswerPart::Reasoning(" < two".into())]);
    assert_eq!(parser.push("nk>Three"), [AnswerPart::Content("Three".into())]);
    assert!(!parser.is_reasoning());
}

proptest! {
    /// Whatever a model writes, nothing panics, and without tags nothing changes.
    #[test]
    fn any_text_passes(
        template in prop::sample::select(vec![HERMES, CODER, LLAMA, MISTRAL, GEMMA, LFM, PHI, GRANITE, HARMONY]),
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|tool_call>", "<tool_call|>", "call:f{", "<|\"|>", "[", "(", "{", "}", "]",
                "<think>", "</think>", "<function=a>", "<parameter=b>", "\"name\"", ":", "\"é\"", "1", "f(a=", ",", "<|channel|>",
                "<|message|>", "<|start|>", "<|end|>", "to=functions.f", "\\u", "'", " ", "\n", "x",
            ]),
            0..24,
        ),
    ) {
        let whole = pieces.concat();
        let cut = parts(template, "", &pieces, &tools());
        prop_assert_eq!(&cut, &parts(template, "", &[&whole], &tools()));
        prop_assert_eq!(parts("", "", &pieces, &[]).concat(), if whole.is_empty() { whole } else { format!("says {whole}") });
    }
}
