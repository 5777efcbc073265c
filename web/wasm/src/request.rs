//! Requests in the runtime's terms, and completions in JavaScript's.

use crate::boundary::{EngineCompletion, EngineRequest};
use crate::constraint::JsConstraint;
use crate::error::Thrown;
use haikuq_runtime::generate::{Completion, FinishReason, GenerateOptions};
use haikuq_runtime::text::{GenerationDefaults, SamplingOverrides};
use js_sys::Uint32Array;
use wasm_bindgen::JsValue;

/// A request in the runtime's terms.
pub struct Wanted {
    pub prompt: Vec<u32>,
    pub written: Vec<u32>,
    pub options: GenerateOptions,
    pub constraint: Option<JsConstraint>,
}

impl Wanted {
    pub fn new(request: &EngineRequest, defaults: &GenerationDefaults, ends: &[u32]) -> Result<Self, Thrown> {
        let mut sampling = SamplingOverrides::default();
        sampling.temperature = request.temperature();
        sampling.top_k = request.top_k();
        sampling.top_p = request.top_p();
        sampling.min_p = request.min_p();
        sampling.repetition_penalty = request.repetition_penalty();
        sampling.seed = request.seed().unwrap_or(0.0) as u64;
        let mut options = GenerateOptions::default();
        options.max_tokens = request.max_tokens().map(|n| n as usize);
        options.sampling = defaults.sampling_with(&sampling)?;
        if !request.ignore_eos().unwrap_or(false) {
            options.stop_tokens = ends.to_vec();
        }
        options.stop_strings = request.stop().unwrap_or_default();
        let written = request.written().unwrap_or_default();
        Ok(Self { prompt: request.prompt(), written, options, constraint: request.constraint() })
    }
}

/// A completion as JavaScript gets it.
pub fn completion(completion: &Completion) -> JsValue {
    let finish = match completion.finish {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Context => "context",
        FinishReason::Cancelled => "cancelled",
    };
    let usage = &completion.usage;
    EngineCompletion {
        ids: Uint32Array::from(completion.ids.as_slice()).into(),
        text: completion.text.as_str().into(),
        finish: finish.into(),
        promptTokens: (usage.prompt_tokens as u32).into(),
        reusedTokens: (usage.reused_tokens as u32).into(),
        completionTokens: (usage.completion_tokens as u32).into(),
        timeToFirstTokenMs: (usage.time_to_first_token.as_secs_f64() * 1e3).into(),
        decodeMs: (usage.decode_time.as_secs_f64() * 1e3).into(),
    }
    .into()
}
