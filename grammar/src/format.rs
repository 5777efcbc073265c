//! [`Format`]: what a text is to be.

use crate::error::{GrammarError, words};
use crate::schema;
use llguidance::api::TopLevelGrammar;
use serde_json::{Value, json};

/// What a text is to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// Any JSON object.
    JsonObject,
    /// JSON that validates against a schema.
    JsonSchema(Value),
    /// Text that a regular expression matches from its first character to its last, in the syntax of Rust's `regex` crate.
    Regex(String),
    /// Text of a context-free grammar in llguidance's variant of Lark.
    Grammar(String),
}

impl Format {
    /// Reads a `response_format` as OpenAI's interface has it, with `regex` and `grammar` besides. `None` is `text`, which asks for
    /// nothing.
    ///
    /// # Errors
    /// [`GrammarError::Format`] if it is none of these.
    pub fn from_request(request: &Value) -> Result<Option<Self>, GrammarError> {
        let missing = |what: &str| GrammarError::Format(format!("{what} is missing"));
        let text = |name: &str| request[name].as_str().map(str::to_owned).ok_or_else(|| missing(name));
        match request["type"].as_str() {
            Some("text") => Ok(None),
            Some("json_object") => Ok(Some(Self::JsonObject)),
            Some("json_schema") => match &request["json_schema"]["schema"] {
                Value::Null => Err(missing("json_schema.schema")),
                schema => Ok(Some(Self::JsonSchema(schema.clone()))),
            },
            Some("regex") => text("regex").map(Self::Regex).map(Some),
            Some("grammar") => text("grammar").map(Self::Grammar).map(Some),
            Some(other) => Err(GrammarError::Format(format!(
                "its type is {other:?}, expected text, json_object, json_schema, regex or grammar"
            ))),
            None => Err(missing("type")),
        }
    }

    /// A JSON schema as a part of a grammar, after `%json`: checked and completed as [`Format::JsonSchema`] is.
    ///
    /// # Errors
    /// [`GrammarError::Keyword`] for a keyword that would not be kept.
    pub fn schema_in_grammar(schema: &Value) -> Result<String, GrammarError> {
        Ok(schema::prepare(schema)?.to_string())
    }

    /// What llguidance is to compile.
    pub(crate) fn grammar(&self) -> Result<TopLevelGrammar, GrammarError> {
        Ok(match self {
            Self::JsonObject => TopLevelGrammar::from_json_schema(schema::prepare(&json!({ "type": "object" }))?),
            Self::JsonSchema(schema) => TopLevelGrammar::from_json_schema(schema::prepare(schema)?),
            Self::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Self::Grammar(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
        })
    }

    /// llguidance's refusal as an error of this format.
    pub(crate) fn refused(&self, error: &dyn std::fmt::Display) -> GrammarError {
        let why = words(error);
        match self {
            Self::JsonObject | Self::JsonSchema(_) => GrammarError::Schema(schema::explain(&why)),
            Self::Regex(_) => GrammarError::Regex(why),
            Self::Grammar(_) => GrammarError::Grammar(why),
        }
    }
}
