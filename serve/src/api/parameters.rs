//! The parameters of a request, each taken by name, and those that both kinds of request share.

use super::engine::Engine;
use super::error::ApiError;
use haikuq_runtime::generate::GenerateOptions;
use haikuq_runtime::text::{SamplingOverrides, read_json};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Choices of one request at most: a step's width.
const MAX_CHOICES: usize = haikuq_runtime::decoder::MAX_BATCH;

/// A request's parameters; one that is null counts as absent.
pub(super) struct Parameters {
    fields: BTreeMap<String, Box<RawValue>>,
}

impl Parameters {
    pub(super) fn read(body: &[u8]) -> Result<Self, ApiError> {
        let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(body).map_err(ApiError::malformed)?;
        fields.retain(|_, value| value.get() != "null");
        Ok(Self { fields })
    }

    /// Takes a parameter. Numbers keep the digits that they are spelled with.
    pub(super) fn take<T: DeserializeOwned>(&mut self, name: &str, expected: &str) -> Result<Option<T>, ApiError> {
        let Some(value) = self.fields.remove(name) else { return Ok(None) };
        let read = read_json(value.get().as_bytes());
        read.map(Some).map_err(|e| ApiError::invalid(name, &format!("{} is not {expected} ({e})", shown(value.get()))))
    }

    pub(super) fn need<T: DeserializeOwned>(&mut self, name: &str, expected: &str) -> Result<T, ApiError> {
        self.take(name, expected)?.ok_or_else(|| ApiError::invalid(name, &format!("needed, {expected}")))
    }

    /// Takes parameters that change nothing with these values, and are refused with any other.
    pub(super) fn neutral(&mut self, table: &[(&str, &[&str])]) -> Result<(), ApiError> {
        for (name, values) in table {
            let Some(value) = self.fields.remove(*name) else { continue };
            let compact = serde_json::from_str::<Value>(value.get()).map(|v| v.to_string()).unwrap_or_default();
            if !values.contains(&compact.as_str()) && !values.contains(&"*") {
                let which = match values {
                    [] => String::new(),
                    _ => format!(", other than as {}", values.join(" or ")),
                };
                return Err(ApiError::unsupported(name, &which));
            }
        }
        Ok(())
    }

    /// Refuses what was not taken.
    pub(super) fn end(self) -> Result<(), ApiError> {
        self.fields.into_keys().next().map_or(Ok(()), |name| Err(ApiError::unknown(&name)))
    }
}

fn shown(text: &str) -> String {
    let end = text.char_indices().nth(60).map_or(text.len(), |(at, _)| at);
    text[..end].to_string()
}

/// How texts are written and sent.
#[derive(Clone, Debug)]
pub(super) struct Writing {
    pub(super) options: GenerateOptions,
    /// Texts for each prompt.
    pub(super) choices: usize,
    pub(super) stream: bool,
    /// Whether a stream ends with what it cost.
    pub(super) include_usage: bool,
}

/// Parameters that say who asks, or ask for what is so anyway.
const NEUTRAL: [(&str, &[&str]); 10] = [
    ("user", &["*"]),
    ("safety_identifier", &["*"]),
    ("prompt_cache_key", &["*"]),
    ("metadata", &["*"]),
    ("frequency_penalty", &["0", "0.0"]),
    ("presence_penalty", &["0", "0.0"]),
    ("logit_bias", &["{}"]),
    ("store", &["false"]),
    ("service_tier", &["\"auto\"", "\"default\""]),
    ("suffix", &["\"\""]),
];

/// One text or several.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Several(Vec<String>),
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
    #[serde(default, rename = "include_obfuscation")]
    _include_obfuscation: bool,
}

/// What both kinds of request say of their texts. `max_tokens` are the names of the limit.
pub(super) fn writing(parameters: &mut Parameters, engine: &Engine, max_tokens: &[&str]) -> Result<Writing, ApiError> {
    const NUMBER: &str = "a number";
    let mut overrides = SamplingOverrides::default();
    overrides.temperature = parameters.take("temperature", NUMBER)?;
    overrides.top_p = parameters.take("top_p", NUMBER)?;
    overrides.min_p = parameters.take("min_p", NUMBER)?;
    overrides.top_k = parameters.take("top_k", "an integer, 0 or more")?;
    overrides.repetition_penalty = parameters.take("repetition_penalty", NUMBER)?;
    let seed: Option<i64> = parameters.take("seed", "an integer")?;
    overrides.seed = seed.map_or_else(drawn_seed, i64::cast_unsigned);
    let mut options = GenerateOptions::default();
    options.sampling = engine.defaults().sampling_with(&overrides).map_err(|e| ApiError::refused(e.to_string()))?;
    options.stop_tokens = engine.stop_tokens().to_vec();
    options.stop_strings = match parameters.take("stop", "a text or a list of texts")? {
        None => Vec::new(),
        Some(Texts::One(text)) => vec![text],
        Some(Texts::Several(texts)) => texts,
    };
    if options.stop_strings.iter().any(String::is_empty) {
        return Err(ApiError::invalid("stop", "an empty text would end every answer before it begins"));
    }
    for name in max_tokens {
        let limit: Option<usize> = parameters.take(name, "an integer, 0 or more")?;
        options.max_tokens = options.max_tokens.or(limit);
    }
    let choices = parameters.take("n", "an integer, 1 or more")?.unwrap_or(1);
    if !(1..=MAX_CHOICES).contains(&choices) {
        return Err(ApiError::invalid("n", &format!("{choices} is not 1 to {MAX_CHOICES}")));
    }
    let stream = parameters.take("stream", "true or false")?.unwrap_or(false);
    let stream_options: Option<StreamOptions> = parameters.take("stream_options", "an object with include_usage")?;
    if stream_options.is_some() && !stream {
        return Err(ApiError::invalid("stream_options", "only with stream"));
    }
    parameters.neutral(&NEUTRAL)?;
    let include_usage = stream_options.is_some_and(|o| o.include_usage);
    Ok(Writing { options, choices, stream, include_usage })
}

/// A seed for those who name none: another text each time.
fn drawn_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::time::Instant::now())
}
