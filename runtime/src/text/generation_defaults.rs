//! [`GenerationDefaults`]: what a checkpoint's `generation_config.json` says about how it wants to be sampled.

use super::TextError;
use crate::sampling::{SamplingError, SamplingOptions};
use serde::{Deserialize, Deserializer};

/// What a caller asks of sampling. The package supplies the options that are absent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SamplingOverrides {
    /// See [`SamplingOptions::temperature`].
    pub temperature: Option<f32>,
    /// See [`SamplingOptions::top_k`].
    pub top_k: Option<u32>,
    /// See [`SamplingOptions::top_p`].
    pub top_p: Option<f32>,
    /// See [`SamplingOptions::min_p`].
    pub min_p: Option<f32>,
    /// See [`SamplingOptions::repetition_penalty`].
    pub repetition_penalty: Option<f32>,
    /// See [`SamplingOptions::seed`].
    pub seed: u64,
}

/// The fields of `generation_config.json` that this runtime knows; all of them optional, unknown ones ignored.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct GenerationDefaults {
    /// Token ids that end a generation: one id or a list in the file.
    #[serde(rename = "eos_token_id", deserialize_with = "one_or_many")]
    pub eos_token_ids: Vec<u32>,
    /// Token id that starts a sequence.
    #[serde(deserialize_with = "first")]
    pub bos_token_id: Option<u32>,
    /// Whether to sample at all; greedy where absent.
    pub do_sample: Option<bool>,
    /// See [`SamplingOptions::temperature`].
    pub temperature: Option<f32>,
    /// See [`SamplingOptions::top_k`].
    pub top_k: Option<u32>,
    /// See [`SamplingOptions::top_p`].
    pub top_p: Option<f32>,
    /// See [`SamplingOptions::min_p`].
    pub min_p: Option<f32>,
    /// See [`SamplingOptions::repetition_penalty`].
    pub repetition_penalty: Option<f32>,
}

impl GenerationDefaults {
    /// Parses `generation_config.json`.
    ///
    /// # Errors
    /// If it is not JSON or a known field has another type.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TextError> {
        // By way of a map, because serde takes a list for a struct too.
        serde_json::from_slice(super::config::without_mark(bytes))
            .and_then(|map: serde_json::Map<_, _>| serde_json::from_value(map.into()))
            .map_err(|e| TextError::File { file: "generation_config.json", why: e.to_string() })
    }

    /// The sampling that the checkpoint recommends, as transformers understands the file: greedy unless `do_sample`
    /// is true, and then 1 for a temperature and 50 for a top-k that are not given.
    pub fn sampling(&self) -> SamplingOptions {
        let greedy = SamplingOptions::greedy();
        let repetition_penalty = self.repetition_penalty.unwrap_or(greedy.repetition_penalty);
        if self.do_sample != Some(true) {
            return SamplingOptions { repetition_penalty, ..greedy };
        }
        SamplingOptions {
            temperature: self.temperature.unwrap_or(1.0),
            top_k: self.top_k.unwrap_or(50),
            top_p: self.top_p.unwrap_or(greedy.top_p),
            min_p: self.min_p.unwrap_or(greedy.min_p),
            repetition_penalty,
            ..greedy
        }
    }

    /// [`GenerationDefaults::sampling`] with a caller's overrides on top. Asking for top-k and kin alone means to sample.
    ///
    /// # Errors
    /// If an option is out of its range.
    pub fn sampling_with(&self, overrides: &SamplingOverrides) -> Result<SamplingOptions, SamplingError> {
        let mut sampling = self.sampling();
        let samples = overrides.top_k.is_some() || overrides.top_p.is_some() || overrides.min_p.is_some();
        if samples && sampling.temperature == 0.0 {
            sampling.temperature = 1.0;
        }
        sampling.temperature = overrides.temperature.unwrap_or(sampling.temperature);
        sampling.top_k = overrides.top_k.unwrap_or(sampling.top_k);
        sampling.top_p = overrides.top_p.unwrap_or(sampling.top_p);
        sampling.min_p = overrides.min_p.unwrap_or(sampling.min_p);
        sampling.repetition_penalty = overrides.repetition_penalty.unwrap_or(sampling.repetition_penalty);
        sampling.seed = overrides.seed;
        sampling.validate()?;
        Ok(sampling)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    Ok(match Option::deserialize(deserializer)? {
        None => Vec::new(),
        Some(OneOrMany::One(id)) => vec![id],
        Some(OneOrMany::Many(ids)) => ids,
    })
}

fn first<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    one_or_many(deserializer).map(|ids| ids.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_tokens_are_a_number_or_a_list_or_nothing() {
        let eos = |json: &str| GenerationDefaults::from_json(json.as_bytes()).unwrap().eos_token_ids;
        assert_eq!(eos(r#"{"eos_token_id": 7, "transformers_version": "4.0"}"#), [7]);
        assert_eq!(eos(r#"{"eos_token_id": [128001, 128008], "bos_token_id": 1}"#), [128001, 128008]);
        assert_eq!(eos(r#"{"eos_token_id": null}"#), [0u32; 0]);
        assert_eq!(eos("{}"), [0u32; 0]);
    }

    #[test]
    fn a_checkpoint_that_does_not_sample_is_greedy() {
        let json = br#"{"temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1}"#;
        let sampling = GenerationDefaults::from_json(json).unwrap().sampling();
        assert!(sampling.is_greedy());
        assert_eq!(sampling.repetition_penalty, 1.1);
    }

    #[test]
    fn a_checkpoint_that_samples_says_how() {
        let json = br#"{"do_sample": true, "temperature": 0.6, "top_p": 0.9}"#;
        let sampling = GenerationDefaults::from_json(json).unwrap().sampling();
        assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p), (0.6, 50, 0.9));
        sampling.validate().unwrap();
    }

    #[test]
    fn a_field_of_another_type_is_refused() {
        for json in ["", "[]", r#"{"eos_token_id": "x"}"#, r#"{"top_k": -1}"#] {
            assert!(matches!(GenerationDefaults::from_json(json.as_bytes()), Err(TextError::File { .. })), "{json}");
        }
    }
}
