//! What the runtime's profile is to JavaScript: `EngineProfile` of `web/src/engine/engine.ts`. Times are milliseconds.

use crate::error::Thrown;
use crate::values::{number, object};
use haikuq_runtime::decoder::{Decoder, DecoderError, OperationProfile, SequenceId, StepProfile};
use haikuq_runtime::kernels::stream_read::StreamRead;
use js_sys::Array;
use wasm_bindgen::JsValue;

/// Read to learn how fast the GPU can: more than caches hold, and little beside a model.
const STREAM_BYTES: u64 = 256 << 20;

/// The same where the "GPU" is a program on the processor.
const SOFTWARE_STREAM_BYTES: u64 = 64 << 20;

/// A step of prefill in an empty sequence, of one chunk at most, and a step of decode after it.
pub async fn profile(decoder: &mut Decoder, prompt_tokens: usize) -> Result<JsValue, Thrown> {
    let bytes = if decoder.gpu().is_software() { SOFTWARE_STREAM_BYTES } else { STREAM_BYTES };
    let read = StreamRead::measure(decoder.gpu(), bytes).await?;
    let sequence = decoder.create_sequence()?;
    let steps = steps(decoder, sequence, prompt_tokens).await;
    // The only error is a sequence that is gone already.
    let _ = decoder.remove_sequence(sequence);
    let steps = steps?;
    let timestamp_s = steps.iter().filter_map(|s| s.timestamp_step_s).reduce(f64::min);
    Ok(object([
        ("steps", steps.iter().map(step).collect::<Array>().into()),
        ("timestampMs", milliseconds(timestamp_s)),
        ("readBytesPerSecond", read.into()),
    ]))
}

async fn steps(decoder: &mut Decoder, sequence: SequenceId, tokens: usize) -> Result<Vec<StepProfile>, DecoderError> {
    let tokens = tokens.min(decoder.prefill_chunk()).min(decoder.max_context() - 1).max(2);
    let prefill = decoder.profile_prefill(sequence, tokens).await?;
    // Speed does not depend on which ids these are.
    decoder.prefill(sequence, &vec![0; tokens]).await?;
    Ok(vec![prefill, decoder.profile_decode(&[sequence]).await?])
}

fn step(step: &StepProfile) -> JsValue {
    object([
        ("phase", step.phase.into()),
        ("tokens", (step.tokens as u32).into()),
        ("depth", (step.depth as u32).into()),
        ("gpuMs", milliseconds(step.gpu_s)),
        ("encodeMs", milliseconds(Some(step.encode_s))),
        ("submitMs", milliseconds(Some(step.submit_s))),
        ("waitMs", milliseconds(Some(step.wait_s))),
        ("dispatches", (step.dispatches as u32).into()),
        ("operations", step.operations.iter().map(operation).collect::<Array>().into()),
    ])
}

fn operation(o: &OperationProfile) -> JsValue {
    object([
        ("operation", o.operation.as_str().into()),
        ("kernel", o.candidate.into()),
        ("shape", o.shape.as_str().into()),
        ("count", (o.count as u32).into()),
        ("dispatches", (o.dispatches as u32).into()),
        ("gpuMs", milliseconds(o.gpu_s)),
        ("bytes", number(o.bytes)),
        ("flops", number(o.flops)),
    ])
}

fn milliseconds(seconds: Option<f64>) -> JsValue {
    seconds.map_or(JsValue::NULL, |s| (s * 1e3).into())
}
