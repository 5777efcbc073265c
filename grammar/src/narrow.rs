//! A checked schema made narrower where llguidance would let through what readers of JSON refuse.
//!
//! * Numbers without bounds would have exponents as large as a model likes, `2e9999`, which many parsers refuse and others read
//!   as infinity. They keep within the integers that every reader keeps.
//! * Dates would have a 29th of February in every year, times a 60th second, and addresses parts of any length.

use crate::schema::{LISTS, MAPS, SINGLE};
use serde_json::{Map, Value, json};

/// The largest integer up to which a double has all of them.
const LARGEST: i64 = (1 << 53) - 1;

/// Where the definition of any value stands.
const ANY: &str = "haikuq: any value";

/// Days that there are.
const DATE: &str = "([0-9]{4}-(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|[0-9]{4}-(0[469]|11)-(0[1-9]|[12][0-9]|30)|\
    [0-9]{4}-02-(0[1-9]|1[0-9]|2[0-8])|\
    ([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26]|00)00)-02-29)";

/// Of a minute.
const SECONDS: &str = "[0-9]{2}:[0-9]{2}:[0-5][0-9]";

/// Of a host: its labels are not too long, and have no two hyphens, which would say that they are encoded.
const HOST: &str = r"[a-zA-Z0-9]{1,24}(-[a-zA-Z0-9]{1,24})?(\.[a-zA-Z0-9]{1,24}(-[a-zA-Z0-9]{1,24})?){0,3}";

/// Makes `schema` narrower.
pub(crate) fn narrow(schema: &mut Value) {
    // Schemas that are put together would go through this definition without end.
    let fill = !combines(schema);
    narrow_one(schema, fill);
    if let Value::Object(root) = schema
        && fill
    {
        let definitions = root.entry("$defs").or_insert_with(|| Map::new().into());
        if let Value::Object(definitions) = definitions {
            definitions.insert(ANY.into(), any_value());
        }
    }
}

fn any_value() -> Value {
    json!({ "anyOf": [
        { "type": ["null", "boolean", "string"] },
        { "type": "number", "minimum": -LARGEST, "maximum": LARGEST },
        { "type": "array", "items": reference() },
        { "type": "object", "additionalProperties": reference() },
    ] })
}

fn reference() -> Value {
    json!({ "$ref": format!("#/$defs/{ANY}") })
}

/// The schemas right within one.
fn within(keywords: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    keywords.iter().flat_map(|(keyword, value)| match value {
        Value::Object(schemas) if MAPS.contains(&keyword.as_str()) => schemas.values().collect(),
        Value::Array(schemas) if LISTS.contains(&keyword.as_str()) || keyword == "items" => schemas.iter().collect(),
        schema if SINGLE.contains(&keyword.as_str()) => vec![schema],
        _ => Vec::new(),
    })
}

/// Whether it holds for values alone that have no others within.
fn is_plain(schema: &Value) -> bool {
    let plain = |name: &Value| ["null", "boolean", "integer", "number", "string"].iter().any(|plain| name == plain);
    match &schema["type"] {
        Value::Array(names) => names.iter().all(plain),
        name => plain(name),
    }
}

/// Whether a value would have to keep to several schemas at once.
fn combines(schema: &Value) -> bool {
    let Value::Object(keywords) = schema else { return false };
    let alone = |keyword: &str| ["anyOf", "oneOf", "$ref"].contains(&keyword);
    let binds = |keyword: &&String| {
        matches!(keyword.as_str(), "type" | "enum" | "const" | "properties" | "items" | "additionalProperties" | "required")
            || alone(keyword)
    };
    let combined = keywords.keys().any(|k| alone(k)) && keywords.keys().filter(binds).count() > 1;
    let all = keywords.get("allOf").and_then(Value::as_array).is_some_and(|all| !all.iter().all(is_plain));
    combined || all || keywords.contains_key("patternProperties") || within(keywords).any(combines)
}

fn narrow_one(schema: &mut Value, fill: bool) {
    if fill && (*schema == json!(true) || *schema == json!({})) {
        *schema = reference();
    }
    let Value::Object(keywords) = schema else { return };
    for (keyword, value) in keywords.iter_mut() {
        let name = keyword.as_str();
        match value {
            Value::Object(schemas) if MAPS.contains(&name) => schemas.values_mut().for_each(|s| narrow_one(s, fill)),
            Value::Array(schemas) if LISTS.contains(&name) || name == "items" => {
                schemas.iter_mut().for_each(|s| narrow_one(s, fill));
            }
            schema if SINGLE.contains(&name) => narrow_one(schema, fill),
            _ => {}
        }
    }
    let has = |name: &str| match keywords.get("type") {
        Some(Value::String(only)) => only == name,
        Some(Value::Array(names)) => names.iter().any(|n| n == name),
        _ => false,
    };
    let bounds = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
    let unbounded = has("number") && bounds.iter().all(|bound| !keywords.contains_key(*bound));
    let (object, array) = (has("object"), has("array"));
    if unbounded {
        keywords.insert("minimum".into(), (-LARGEST).into());
        keywords.insert("maximum".into(), LARGEST.into());
    }
    if fill && object {
        keywords.entry("additionalProperties").or_insert_with(reference);
    }
    if fill && array && !keywords.contains_key("additionalItems") {
        keywords.entry("items").or_insert_with(reference);
    }
    let pattern = match keywords.get("format").and_then(Value::as_str) {
        Some("date") => format!("^{DATE}$"),
        Some("date-time") => format!("^{DATE}[tT]{SECONDS}"),
        Some("time") => format!("^{SECONDS}"),
        Some("email") => format!(r"^[^@]{{1,64}}@(\[[0-9.]+\]|{HOST})$"),
        Some("hostname") => format!("^{HOST}$"),
        _ => return,
    };
    if !keywords.contains_key("pattern") {
        keywords.insert("pattern".into(), pattern.into());
    } else if let Value::Array(all) = keywords.entry("allOf").or_insert_with(|| json!([])) {
        all.push(json!({ "pattern": pattern }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn narrowed(mut schema: Value) -> Value {
        narrow(&mut schema);
        schema
    }

    #[test]
    fn numbers_without_bounds_get_some_and_others_keep_theirs() {
        let schema =
            json!({ "allOf": [{ "type": ["number", "null"] }, { "type": "number", "minimum": 3 }, { "type": "integer" }] });
        let found = narrowed(schema);
        assert_eq!(found["allOf"][0]["maximum"], LARGEST);
        assert_eq!(found["allOf"][1], json!({ "type": "number", "minimum": 3 }));
        assert_eq!(found["allOf"][2], json!({ "type": "integer" }));
    }

    #[test]
    fn values_of_which_nothing_is_said_are_any_value_unless_schemas_are_combined() {
        let found = narrowed(json!({ "type": "object", "properties": { "a": {}, "b": { "type": "array" }, "c": false } }));
        assert_eq!(found["properties"]["a"], reference());
        assert_eq!(found["properties"]["b"]["items"], reference());
        assert_eq!(found["properties"]["c"], false);
        assert_eq!(found["additionalProperties"], reference());
        let combined = json!({ "properties": { "a": {} }, "anyOf": [{ "required": ["a"] }, { "required": ["b"] }] });
        assert_eq!(narrowed(combined.clone()), combined);
    }

    #[test]
    fn a_format_of_time_gets_a_pattern_beside_its_own() {
        assert!(narrowed(json!({ "format": "date" }))["pattern"].as_str().unwrap().starts_with("^([0-9]{4}-"));
        let both = narrowed(json!({ "format": "time", "pattern": "^1" }));
        assert_eq!((both["pattern"].as_str(), both["allOf"].as_array().map(Vec::len)), (Some("^1"), Some(1)));
    }
}
