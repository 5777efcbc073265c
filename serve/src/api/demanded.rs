//! What an answer has to be: JSON, or calls of tools.

use super::error::ApiError;
use haikuq_grammar::Format;
use haikuq_runtime::text::{AnswerFormat, CallCount, CallRule, Tokenizer};
use serde_json::{Value, json};

/// What `tool_choice` may be.
pub(super) const CHOICES: &str = "\"none\", \"auto\", \"required\" or {\"type\": \"function\", \"function\": {\"name\": …}}";

/// What an answer has to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Demanded {
    Format(Format),
    Calls(Vec<CallRule>, CallCount),
}

/// A format, and the parameter that asks for it.
pub(super) struct Wanted {
    pub(super) param: &'static str,
    pub(super) format: Format,
}

impl Demanded {
    /// Reads `tool_choice` and `response_format`. Tools that may not be called are taken from `tools`. Nothing is demanded where an
    /// answer may be text, and calls may have any arguments.
    pub(super) fn new(
        tools: &mut Option<Vec<Value>>,
        choice: Option<&Value>,
        one_call: bool,
        format: Option<&Value>,
    ) -> Result<Option<Self>, ApiError> {
        let wrong = |why: &str| ApiError::invalid("tool_choice", why);
        let named = choice.and_then(|choice| choice["function"]["name"].as_str());
        let mut count = match (choice.map(|choice| choice.as_str()), named) {
            (None | Some(Some("auto")), _) => CallCount::Any,
            (Some(Some("none")), _) => {
                *tools = None;
                CallCount::Any
            }
            (Some(Some("required")), _) => CallCount::Some,
            (Some(None), Some(_)) => CallCount::One,
            (Some(_), _) => return Err(wrong(&format!("not {CHOICES}"))),
        };
        if one_call && count == CallCount::Some {
            count = CallCount::One;
        }
        let format = match format {
            Some(format) => Format::from_request(format).map_err(|e| ApiError::invalid("response_format", &e.to_string()))?,
            None => None,
        };
        let called = |tool: &&Value| named.is_none_or(|name| tool["function"]["name"] == name);
        let called: Vec<_> = tools.iter().flatten().filter(called).collect();
        let must = count != CallCount::Any;
        if must && called.is_empty() {
            return Err(wrong(&named.map_or("there are no tools".into(), |name| format!("there is no tool {name:?}"))));
        }
        let is_strict = |tool: &Value| tool["function"]["strict"] == true;
        if !must && !called.iter().any(|tool| is_strict(tool)) {
            return Ok(format.map(Self::Format));
        }
        if format.is_some() {
            return Err(ApiError::unsupported("response_format", " beside calls that have to keep to a schema"));
        }
        let rules = called.into_iter().map(|tool| {
            let function = &tool["function"];
            let name = function["name"].as_str().unwrap_or_default().to_string();
            let any = json!({ "type": "object" });
            let schema = if is_strict(tool) { function.get("parameters").unwrap_or(&any) } else { &any };
            let refused = |e: haikuq_grammar::GrammarError| ApiError::invalid("tools", &format!("parameters of {name:?}: {e}"));
            Ok(CallRule { arguments: Format::schema_in_grammar(schema).map_err(refused)?, name })
        });
        Ok(Some(Self::Calls(rules.collect::<Result<_, ApiError>>()?, count)))
    }

    /// The format of the whole answer, by the way in which the model writes calls.
    pub(super) fn format(self, format: &AnswerFormat, tokenizer: &Tokenizer, prompt_end: &str) -> Result<Wanted, ApiError> {
        match self {
            Self::Format(format) => Ok(Wanted { param: "response_format", format }),
            Self::Calls(rules, count) => {
                let lark = format.lark(tokenizer, &rules, count, prompt_end);
                let why = match count {
                    CallCount::Any => " with strict functions: this model's calls cannot be told from text while it writes",
                    _ => " for this model, whose calls are not JSON",
                };
                let param = if count == CallCount::Any { "tools" } else { "tool_choice" };
                Ok(Wanted { param, format: Format::Grammar(lark.ok_or_else(|| ApiError::unsupported(param, why))?) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(strict: bool) -> Option<Vec<Value>> {
        let schema = json!({ "type": "object", "properties": { "zone": { "type": "string" } } });
        Some(vec![
            json!({ "type": "function", "function": { "name": "clock", "parameters": schema, "strict": strict } }),
            json!({ "type": "function", "function": { "name": "dice" } }),
        ])
    }

    fn demanded(strict: bool, choice: Value, one_call: bool) -> Result<Option<Demanded>, ApiError> {
        Demanded::new(&mut tools(strict), Some(&choice), one_call, None)
    }

    fn names(demanded: Option<Demanded>) -> (Vec<String>, CallCount) {
        let Some(Demanded::Calls(rules, count)) = demanded else { panic!("{demanded:?} are no calls") };
        (rules.into_iter().map(|rule| rule.name).collect(), count)
    }

    #[test]
    fn only_what_has_to_be_kept_is_demanded() {
        assert_eq!(demanded(false, json!("auto"), false), Ok(None));
        assert_eq!(demanded(true, json!("none"), false), Ok(None));
        assert_eq!(names(demanded(true, json!("auto"), false).unwrap()).1, CallCount::Any);
        assert_eq!(
            names(demanded(false, json!("required"), false).unwrap()),
            (vec!["clock".into(), "dice".into()], CallCount::Some)
        );
        assert_eq!(names(demanded(false, json!("required"), true).unwrap()).1, CallCount::One);
        let one = json!({ "type": "function", "function": { "name": "dice" } });
        assert_eq!(names(demanded(false, one, false).unwrap()), (vec!["dice".into()], CallCount::One));
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        for (choice, why) in [(json!("sometimes"), "not \"none\""), (json!({ "type": "function" }), "not \"none\"")] {
            assert!(demanded(false, choice, false).unwrap_err().message.contains(why));
        }
        let other = json!({ "type": "function", "function": { "name": "compass" } });
        assert!(demanded(false, other, false).unwrap_err().message.contains("no tool \"compass\""));
        let none = Demanded::new(&mut None, Some(&json!("required")), false, None);
        assert!(none.unwrap_err().message.contains("there are no tools"));
        let mut odd = Some(vec![json!({ "function": { "name": "f", "strict": true, "parameters": { "if": {} } } })]);
        let error = Demanded::new(&mut odd, None, false, None).unwrap_err();
        assert!(error.message.contains("parameters of \"f\"") && error.message.contains("\"if\""), "{}", error.message);
        let both = Demanded::new(&mut tools(true), None, false, Some(&json!({ "type": "json_object" })));
        assert!(both.unwrap_err().message.contains("response_format"));
    }
}
