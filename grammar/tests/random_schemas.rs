//! Whatever a model says, its answers parse and validate: a thousand schemas that a die makes, and answers that it writes, token by
//! token of haiku-7m's vocabulary.

mod support;

use haikuq_grammar::{Format, GrammarError};
use haikuq_runtime::sampling::uniform;
use serde_json::{Map, Value, json};
use support::{answer, is_answer, written};

/// A die that never ends.
struct Die {
    seed: u64,
    step: u64,
}

impl Die {
    fn below(&mut self, n: usize) -> usize {
        self.step += 1;
        ((f64::from(uniform(self.seed, self.step)) * n as f64) as usize).min(n - 1)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }
}

fn string(die: &mut Die) -> Value {
    let mut schema = json!({ "type": "string" });
    match die.below(4) {
        0 => {
            let least = die.below(4);
            (schema["minLength"], schema["maxLength"]) = (least.into(), (least + die.below(20)).into());
        }
        1 => {
            let patterns = [
                "^[a-z]{1,8}$",
                "^(yes|no|maybe)$",
                "^[A-Z][a-z]+( [A-Z][a-z]+)?$",
                r"^\d{3}-\d{4}$",
                "[aeiou]",
                "^(é|ß|日本){1,9}$",
            ];
            schema["pattern"] = die.of(&patterns).into();
        }
        2 => {
            let formats = ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];
            schema["format"] = die.of(&formats).into();
        }
        _ => schema["maxLength"] = (5 + die.below(30)).into(),
    }
    schema
}

fn number(die: &mut Die) -> Value {
    let mut schema = json!({ "type": die.of(&["integer", "number"]) });
    let least = die.below(2000) as i64 - 1000;
    let bounds = [("minimum", "maximum"), ("exclusiveMinimum", "exclusiveMaximum")];
    let (from, to) = die.of(&bounds);
    if !die.one_in(4) {
        schema[from] = least.into();
    }
    if !die.one_in(4) {
        schema[to] = (least + 2 + die.below(500) as i64).into();
    }
    if schema["type"] == "integer" && die.one_in(4) {
        schema["multipleOf"] = die.of(&[2, 3, 5, 10]).into();
        let (low, high) = (die.below(20) as i64, die.below(400) as i64);
        schema = json!({ "type": "integer", "multipleOf": schema["multipleOf"], "minimum": low, "maximum": low + 20 + high });
    }
    schema
}

fn plain_value(die: &mut Die) -> Value {
    let values =
        [json!(null), json!(true), json!(-3), json!(2.5), json!("a \"word\"\n"), json!([1, "x"]), json!({ "k": [false] })];
    die.of(&values)
}

fn array(die: &mut Die, depth: usize) -> Value {
    let mut schema = json!({ "type": "array", "items": schema(die, depth - 1) });
    let least = die.below(3);
    if die.one_in(2) {
        (schema["minItems"], schema["maxItems"]) = (least.into(), (least + die.below(4)).into());
    }
    if die.one_in(3) {
        schema["prefixItems"] = (0..=die.below(2)).map(|_| self::schema(die, depth - 1)).collect();
        schema["maxItems"] = (least + 3).into();
    }
    schema
}

fn object(die: &mut Die, depth: usize) -> Value {
    let names = ["name", "id", "größe", "a b", "quote\"d", "tags", "x/y", "日"];
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for name in names {
        if die.one_in(2) {
            properties.insert(name.to_owned(), schema(die, depth - 1));
            if !die.one_in(3) {
                required.push(name);
            }
        }
    }
    let mut schema = json!({ "type": "object", "properties": properties, "required": required });
    match die.below(3) {
        0 => schema["additionalProperties"] = false.into(),
        1 => schema["additionalProperties"] = self::schema(die, 0),
        _ => {}
    }
    schema
}

fn schema(die: &mut Die, depth: usize) -> Value {
    match die.below(if depth == 0 { 6 } else { 12 }) {
        0 => string(die),
        1 => number(die),
        2 => json!({ "type": die.of(&["boolean", "null"]) }),
        3 => json!({ "enum": (0..=die.below(3)).map(|_| plain_value(die)).collect::<Vec<_>>() }),
        4 => json!({ "const": plain_value(die) }),
        5 => json!({ "type": ["integer", "null", "boolean"] }),
        6 | 7 => array(die, depth),
        8 => json!({ "anyOf": (0..=die.below(2)).map(|_| schema(die, depth - 1)).collect::<Vec<_>>() }),
        9 => json!({ "allOf": [number(die), { "type": "number" }], "description": "both" }),
        _ => object(die, depth),
    }
}

/// A schema of its own number, with definitions that it may ask for.
fn numbered(number: u64) -> Value {
    let mut die = Die { seed: number, step: 0 };
    let mut root = if die.one_in(4) { schema(&mut die, 3) } else { object(&mut die, 3) };
    if die.one_in(4) {
        let list = json!({ "type": "object", "properties": { "value": schema(&mut die, 1), "next": { "anyOf": [{ "$ref": "#/$defs/list" }, { "type": "null" }] } },
            "required": ["value", "next"], "additionalProperties": false });
        root = json!({ "type": "object", "properties": { "list": { "$ref": "#/$defs/list" }, "rest": root }, "required": ["list"],
            "additionalProperties": false, "$defs": { "list": list } });
    }
    root
}

/// Answers to the schemas of these numbers, two each: how many schemas there were, and tokens that were forced.
fn check(numbers: impl Iterator<Item = u64>) -> (usize, usize) {
    let (mut schemas, mut all_forced) = (0, 0);
    for number in numbers {
        let schema = numbered(number);
        let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
        let format = Format::JsonSchema(schema.clone());
        for seed in [number, !number] {
            let (text, forced) = match answer(&format, seed) {
                Ok(answered) => answered,
                // A die makes some schemas that nothing satisfies.
                Err(GrammarError::Schema(why)) if why.contains("Unsatisfiable") => break,
                Err(error) => panic!("{schema}: {error}"),
            };
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{schema}: {e}: {text}"));
            let errors: Vec<_> = validator.iter_errors(&value).map(|e| e.to_string()).collect();
            assert!(errors.is_empty(), "schema {number} {schema}\n{text}\n{errors:?}");
            all_forced += forced;
            schemas += usize::from(seed == number);
        }
    }
    (schemas, all_forced)
}

#[test]
fn every_answer_to_a_thousand_random_schemas_parses_and_validates() {
    let parts: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|part| scope.spawn(move || check((part..1040).step_by(4)))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let schemas: usize = parts.iter().map(|(schemas, _)| schemas).sum();
    assert!(schemas >= 1000, "{schemas} schemas have answers");
    assert!(parts.iter().all(|(_, forced)| *forced > 1000), "tokens are forced: {parts:?}");
}

#[test]
fn an_answer_reads_as_texts_under_a_schema_do() {
    let mut compared = 0;
    for number in 0..60 {
        let format = Format::JsonSchema(numbered(number));
        let Ok((text, _)) = answer(&format, number) else { continue };
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(is_answer(&format, &text).unwrap(), "{text}");
        // Numbers and escapes may be written in several ways.
        if written(&value) == text {
            compared += 1;
        }
    }
    assert!(compared > 20, "{compared}");
}
