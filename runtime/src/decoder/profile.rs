//! Where the time of a step goes: on the GPU by operation, and on the processor.

use super::{Decoder, DecoderError, MAX_BATCH, SequenceId};
use crate::device::Timestamps;
use crate::kernels::attention::Token;
use crate::kernels::sample::SampleParams;
use crate::program::{Part, Step, Value};
use crate::sampling::SamplingOptions;
use serde::Serialize;
use web_time::Instant;

/// All operations of a step that do the same with the same sizes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OperationProfile {
    /// What they are for.
    pub operation: String,
    /// The candidate's name, or the kernel's.
    pub candidate: &'static str,
    /// Their sizes, in words.
    pub shape: String,
    /// How many there are.
    pub count: usize,
    /// Their dispatches.
    pub dispatches: usize,
    /// GPU time of all in seconds, each in a pass of its own: the GPU drains between them, so small ones look longer than they
    /// are in a step. None where the device has no timestamps.
    pub gpu_s: Option<f64>,
    /// Bytes of weights that they read.
    pub bytes: u64,
    /// Multiplications and additions of their products.
    pub flops: u64,
}

/// Where the time of a step goes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepProfile {
    /// `decode` or `prefill`.
    pub phase: &'static str,
    /// Tokens of the step.
    pub tokens: usize,
    /// Positions in the cache before it.
    pub depth: usize,
    /// GPU time of the whole step in seconds, as one pass. None where the device has no timestamps.
    pub gpu_s: Option<f64>,
    /// Time to encode the step, in seconds.
    pub encode_s: f64,
    /// Time to finish the command buffer and submit it.
    pub submit_s: f64,
    /// From the submission until the host knows that it is done.
    pub wait_s: f64,
    /// Dispatches of the step.
    pub dispatches: usize,
    /// Operations, those that take longest first.
    pub operations: Vec<OperationProfile>,
}

impl StepProfile {
    fn new(phase: &'static str, tokens: usize, depth: usize) -> Self {
        let (gpu_s, dispatches, operations) = (None, 0, Vec::new());
        Self { phase, tokens, depth, gpu_s, encode_s: 0.0, submit_s: 0.0, wait_s: 0.0, dispatches, operations }
    }
}

fn entry(id: SequenceId, position: usize) -> Token {
    Token { id: 0, position: position as u32, sequence: id.row as u32, long: 0 }
}

impl Decoder {
    /// Measures a step of prefill with `tokens` tokens at the end of `id`, several times, and gives medians; the sequence keeps
    /// its length.
    ///
    /// # Errors
    /// [`DecoderError`].
    pub async fn profile_prefill(&mut self, id: SequenceId, tokens: usize) -> Result<StepProfile, DecoderError> {
        let depth = self.cache.len(id)?;
        self.forget_flights();
        self.reserve(id, depth + tokens)?;
        let step = Step::of_prefill(tokens);
        let mut entries: Vec<_> = (0..tokens).map(|i| entry(id, depth + i)).collect();
        entries.resize(step.tokens, Token::IDLE);
        self.profile(&entries, &[id], step, Value::HeadRows, StepProfile::new("prefill", tokens, depth)).await
    }

    /// The same for a decode step of one token each of one to [`MAX_BATCH`] sequences.
    ///
    /// # Errors
    /// [`DecoderError`].
    pub async fn profile_decode(&mut self, batch: &[SequenceId]) -> Result<StepProfile, DecoderError> {
        if batch.is_empty() {
            return Err(DecoderError::NoTokens);
        }
        if batch.len() > MAX_BATCH {
            return Err(DecoderError::TooManySequences(MAX_BATCH));
        }
        self.forget_flights();
        let mut entries = Vec::new();
        for id in batch {
            let position = self.cache.len(*id)?;
            self.reserve(*id, position + 1)?;
            entries.push(entry(*id, position));
        }
        let depth = entries.iter().map(|e| e.position as usize).max().unwrap_or(0);
        let profile = StepProfile::new("decode", batch.len(), depth);
        self.profile(&entries, batch, Step::of_decode(batch.len()), Value::Hidden, profile).await
    }

    /// Fills in `profile`, from a step of `entries` that ends with a token for each of `ids`.
    async fn profile(
        &mut self,
        entries: &[Token],
        ids: &[SequenceId],
        step: Step,
        from: Value,
        profile: StepProfile,
    ) -> Result<StepProfile, DecoderError> {
        const ROUNDS: usize = 5;
        let rows = ids.len();
        self.gpu.write(&self.buffers.tokens, 0, entries);
        let params: Vec<_> = ids.iter().map(|id| SampleParams::new(&SamplingOptions::greedy(), 0, id.row as u32)).collect();
        self.write_params(&params);
        let parts = [Part::Body(step), Part::Head { rows, from }, Part::Sample { rows, advance: false }];
        let whole = Timestamps::new(&self.gpu, 2);
        let mut times = [const { Vec::new() }; 4];
        for round in 0..=ROUNDS {
            let started = Instant::now();
            let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
            let mut pass = match &whole {
                Some(timestamps) => timestamps.pass(&mut encoder, 0),
                None => encoder.begin_compute_pass(&Default::default()),
            };
            self.add_to(&mut pass, &parts)?;
            drop(pass);
            if let Some(timestamps) = &whole {
                timestamps.resolve(&mut encoder);
            }
            let encoded = Instant::now();
            self.gpu.queue.submit([encoder.finish()]);
            let submitted = Instant::now();
            self.gpu.finish().await?;
            let done = Instant::now();
            // The first round compiles and warms up.
            if round > 0 {
                let spans = [encoded - started, submitted - encoded, done - submitted];
                times.iter_mut().zip(spans).for_each(|(times, span)| times.push(span.as_secs_f64()));
                if let Some(timestamps) = &whole {
                    let t = timestamps.read(&self.gpu).await?;
                    times[3].push((t[1] - t[0]) * 1e-9);
                }
            }
        }
        let operations = self.profile_operations(&parts).await?;
        let [encode_s, submit_s, wait_s, gpu_s] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times.get(times.len() / 2).copied()
        });
        Ok(StepProfile {
            gpu_s,
            encode_s: encode_s.unwrap_or(0.0),
            submit_s: submit_s.unwrap_or(0.0),
            wait_s: wait_s.unwrap_or(0.0),
            dispatches: operations.iter().map(|o| o.dispatches).sum(),
            operations,
            ..profile
        })
    }

    /// Each operation in a pass of its own, with timestamps around it.
    async fn profile_operations(&mut self, parts: &[Part]) -> Result<Vec<OperationProfile>, DecoderError> {
        let (bound, context) = self.parts_and_context();
        for part in parts {
            bound.get(&context, *part)?;
        }
        let all: Vec<_> = parts.iter().filter_map(|part| self.parts.find(*part)).flatten().collect();
        let mut profiles: Vec<OperationProfile> = Vec::new();
        for run in all.chunks(Timestamps::MAX as usize / 2) {
            let timestamps = Timestamps::new(&self.gpu, 2 * run.len() as u32);
            let mut times: Option<Vec<f64>> = None;
            // Twice: the first time warms up.
            for _ in 0..2 {
                let Some(timestamps) = &timestamps else { break };
                let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
                for (i, operation) in run.iter().enumerate() {
                    let mut pass = timestamps.pass(&mut encoder, 2 * i as u32);
                    operation.dispatches.iter().for_each(|d| d.encode(&mut pass));
                }
                timestamps.resolve(&mut encoder);
                self.gpu.queue.submit([encoder.finish()]);
                times = Some(timestamps.read(&self.gpu).await?);
            }
            for (i, o) in run.iter().enumerate() {
                let gpu_s = times.as_ref().map(|t| (t[2 * i + 1] - t[2 * i]) * 1e-9);
                let same =
                    |p: &&mut OperationProfile| p.operation == o.operation && p.shape == o.shape && p.candidate == o.candidate;
                match profiles.iter_mut().find(same) {
                    Some(p) => {
                        p.count += 1;
                        p.dispatches += o.dispatches.len();
                        p.gpu_s = p.gpu_s.zip(gpu_s).map(|(a, b)| a + b);
                        p.bytes += o.bytes;
                        p.flops += o.flops;
                    }
                    None => profiles.push(OperationProfile {
                        operation: o.operation.clone(),
                        candidate: o.candidate,
                        shape: o.shape.clone(),
                        count: 1,
                        dispatches: o.dispatches.len(),
                        gpu_s,
                        bytes: o.bytes,
                        flops: o.flops,
                    }),
                }
            }
        }
        profiles.sort_by(|a, b| b.gpu_s.partial_cmp(&a.gpu_s).unwrap_or(std::cmp::Ordering::Equal));
        Ok(profiles)
    }
}
