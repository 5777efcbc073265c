//! Where the time of a step goes: on the GPU by operation, and on the processor.

use super::{Decoder, DecoderError, MAX_BATCH, SequenceId};
use crate::device::Timestamps;
use crate::kernels::attention::Token;
use crate::kernels::choose::Means;
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
    /// By which means the candidate was chosen, where there was a choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Means>,
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

impl Decoder {
    /// Measures a step of `tokens` tokens at the end of `id`, several times, and gives medians; the sequence keeps its length.
    /// More than one token is a step of prefill.
    ///
    /// # Errors
    /// [`DecoderError`].
    pub async fn profile_step(&mut self, id: SequenceId, tokens: usize) -> Result<StepProfile, DecoderError> {
        const ROUNDS: usize = 5;
        let depth = self.cache.len(id)?;
        let parts = self.prepare(id, depth, tokens)?;
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
            phase: if tokens > 1 { "prefill" } else { "decode" },
            tokens,
            depth,
            gpu_s,
            encode_s: encode_s.unwrap_or(0.0),
            submit_s: submit_s.unwrap_or(0.0),
            wait_s: wait_s.unwrap_or(0.0),
            dispatches: operations.iter().map(|o| o.dispatches).sum(),
            operations,
        })
    }

    /// Writes a step's inputs; the parts that it is made of.
    fn prepare(&mut self, id: SequenceId, depth: usize, tokens: usize) -> Result<[Part; 3], DecoderError> {
        self.forget_flights();
        self.reserve(id, depth + tokens)?;
        let step = Step::of_prefill(tokens);
        let entry = |i: usize| Token { id: 0, position: (depth + i) as u32, sequence: id.row as u32, long: 0 };
        let mut entries: Vec<_> = (0..tokens).map(entry).collect();
        entries.resize(step.tokens, Token::IDLE);
        self.gpu.write(&self.buffers.tokens, 0, &entries);
        let params = SampleParams::new(&SamplingOptions::greedy(), 0, id.row as u32);
        self.gpu.write(&self.buffers.sample_params, 0, &[params; MAX_BATCH]);
        let from = if tokens > 1 { Value::HeadRows } else { Value::Hidden };
        Ok([Part::Body(step), Part::Head { rows: 1, from }, Part::Sample { rows: 1, advance: false }])
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
                        chosen: o.chosen.clone(),
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
