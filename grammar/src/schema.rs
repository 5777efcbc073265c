//! A JSON schema before llguidance compiles it: a keyword that would not be kept is refused, by its name and place.
//!
//! llguidance refuses keywords that it knows and does not implement, but passes over those that it does not know: a misspelled
//! `maxLenght` would bind nothing, and nobody would be told.

use crate::error::GrammarError;
use crate::narrow::narrow;
use serde_json::{Value, json};

/// Keywords that hold a schema by a name.
pub(crate) const MAPS: &[&str] = &["properties", "patternProperties", "$defs", "definitions"];

/// Keywords that hold a list of schemas.
pub(crate) const LISTS: &[&str] = &["anyOf", "oneOf", "allOf", "prefixItems"];

/// Keywords that hold a schema. `items` may also be a list, up to draft 2019-09.
pub(crate) const SINGLE: &[&str] = &["items", "additionalItems", "additionalProperties"];

/// Keywords that say something of a value themselves.
const PLAIN: &[&str] = &[
    "$ref",
    "const",
    "enum",
    "type",
    "minItems",
    "maxItems",
    "required",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
];

/// Keywords that bind nothing.
const ANNOTATIONS: &[&str] = &[
    "$schema",
    "$id",
    "id",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "contentMediaType",
    "contentEncoding",
];

/// Values of `format` that a text is held to.
const FORMATS: &[&str] = &["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

/// Types that a value may have.
const TYPES: &[&str] = &["null", "boolean", "integer", "number", "string", "array", "object"];

/// Drafts that `$schema` may name.
const DRAFTS: &[&str] = &[
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
    "http://json-schema.org/draft-06/schema",
    "http://json-schema.org/draft-04/schema",
];

/// Checks a schema, and adds how its JSON is to be written: on one line, with a space after a comma and a colon as most JSON of
/// this size has it. White space as a model likes would be a choice at every turn, and a way never to end.
pub(crate) fn prepare(schema: &Value) -> Result<Value, GrammarError> {
    check(schema, schema, "#")?;
    let style = json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " });
    let mut prepared = match schema {
        Value::Object(_) => schema.clone(),
        // `true` and `false` have no room for it.
        other => json!({ "anyOf": [other] }),
    };
    narrow(&mut prepared);
    prepared["x-guidance"] = style;
    Ok(prepared)
}

/// llguidance's reasons, where ours can be clearer.
pub(crate) fn explain(why: &str) -> String {
    if why.contains("oneOf constraints are not supported") {
        return "\"oneOf\" has alternatives that may both hold, so one token after the other cannot tell them apart; use anyOf"
            .into();
    }
    why.to_owned()
}

fn check(schema: &Value, root: &Value, at: &str) -> Result<(), GrammarError> {
    let keywords = match schema {
        Value::Bool(_) => return Ok(()),
        Value::Object(keywords) => keywords,
        other => return Err(GrammarError::Schema(format!("at {at} is {}, expected an object, true or false", kind(other)))),
    };
    for (keyword, value) in keywords {
        let refuse = |why: String| Err(GrammarError::Keyword { keyword: keyword.clone(), at: at.into(), why });
        let name = keyword.as_str();
        match value {
            Value::Object(schemas) if MAPS.contains(&name) => {
                schemas.iter().try_for_each(|(key, schema)| check(schema, root, &format!("{at}/{keyword}/{}", escaped(key))))?;
            }
            Value::Array(schemas) if LISTS.contains(&name) || name == "items" => {
                schemas.iter().enumerate().try_for_each(|(i, schema)| check(schema, root, &format!("{at}/{keyword}/{i}")))?;
            }
            schema if SINGLE.contains(&name) => check(schema, root, &format!("{at}/{keyword}"))?,
            _ if MAPS.contains(&name) || LISTS.contains(&name) => return refuse(format!("which is {}", kind(value))),
            _ if name == "$ref" => match value.as_str() {
                Some("#") => {}
                Some(target) if target.starts_with("#/") && root.pointer(&target[1..]).is_some() => {}
                Some(target) if target.starts_with("#/") => {
                    return refuse(format!("which is {target:?}: the schema has no such place"));
                }
                _ => {
                    return refuse(format!(
                        "which is {value}: only places of the same schema are looked up, such as \"#/$defs/name\""
                    ));
                }
            },
            _ if name == "format" && !value.as_str().is_some_and(|f| FORMATS.contains(&f)) => {
                return refuse(format!("which is {value}: the formats that a text is held to are {}", FORMATS.join(", ")));
            }
            _ if name == "type" => {
                let names = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
                if let Some(other) = names.iter().find(|n| !n.as_str().is_some_and(|n| TYPES.contains(&n))) {
                    return refuse(format!("which has {other}: types are {}", TYPES.join(", ")));
                }
            }
            _ if name == "$schema" && !value.as_str().is_some_and(|d| DRAFTS.contains(&d.trim_end_matches('#'))) => {
                return refuse(format!("which is {value}: known are drafts 4, 6, 7, 2019-09 and 2020-12"));
            }
            _ if PLAIN.contains(&name) || ANNOTATIONS.contains(&name) => {}
            _ => {
                return refuse(
                    "which a text cannot be held to: leave it out and check the answer for it, or say it otherwise".into(),
                );
            }
        }
    }
    Ok(())
}

/// A key in a JSON pointer.
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(schema: &Value) -> String {
        prepare(schema).unwrap_err().to_string()
    }

    #[test]
    fn keywords_that_bind_nothing_are_passed_over() {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.org/s", "title": "t",
            "type": "object", "description": "d", "$comment": "c",
            "properties": { "a": { "type": "string", "default": "x", "examples": ["y"], "deprecated": true } },
        });
        let prepared = prepare(&schema).unwrap();
        assert_eq!(prepared["properties"], schema["properties"]);
        assert!(prepare(&json!(true)).unwrap().get("anyOf").is_some());
    }

    #[test]
    fn a_keyword_that_would_not_be_kept_is_refused_by_name_and_place() {
        let nested = json!({ "properties": { "a/b": { "items": [{ "anyOf": [{ "uniqueItems": true }] }] } } });
        assert!(refusal(&nested).contains(r##""uniqueItems" at #/properties/a~1b/items/0/anyOf/0, which a text cannot"##));
        for keyword in ["not", "if", "then", "else", "contains", "dependentRequired", "propertyNames", "unevaluatedProperties"] {
            assert!(refusal(&json!({ keyword: {} })).contains(&format!("{keyword:?} at #,")));
        }
        for misspelled in ["maxLenght", "x-guidance", "nullable", "$dynamicRef", "$anchor"] {
            assert!(refusal(&json!({ "allOf": [{ misspelled: 3 }] })).contains(&format!("{misspelled:?} at #/allOf/0,")));
        }
    }

    #[test]
    fn values_that_no_keyword_has_are_refused() {
        assert!(refusal(&json!({ "format": "regex" })).contains("formats that a text is held to are date-time"));
        assert!(refusal(&json!({ "type": ["string", "text"] })).contains(r#"has "text""#));
        assert!(refusal(&json!({ "$ref": "https://example.org/other.json" })).contains("only places of the same schema"));
        assert!(refusal(&json!({ "$ref": "#/$defs/a" })).contains("no such place"));
        assert!(refusal(&json!({ "$schema": "draft-99" })).contains("known are drafts"));
        assert!(refusal(&json!({ "anyOf": {} })).contains("which is an object"));
        assert!(refusal(&json!([1])).contains("at # is a list"));
        // Names of properties are no keywords.
        prepare(&json!({ "properties": { "not": { "type": "string" }, "if": true } })).unwrap();
    }
}
