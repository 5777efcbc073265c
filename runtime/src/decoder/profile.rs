//! Where the time of a step goes: on the GPU by operation, and on the processor.

use super::bind::Bound;
use super::{Decoder, DecoderError, MAX_BATCH, SequenceId};
use crate::device::{PassTimes, Timestamps};
use crate::kernels::attention::Token;
use crate::kernels::choose::Means;
use crate::kernels::sample::SampleParams;
use crate::program::{Part, Step, Value};
use crate::sampling::SamplingOptions;
use serde::Serialize;
use web_time::Instant;

/// Measured rounds on the processor, and on the GPU.
const ROUNDS: usize = 5;
const GPU_ROUNDS: usize = 3;

/// Rounds on the GPU before these. The first one compiles and warms up. Where timestamps are rounded, it measures no time at
/// all for short operations, or far too much.
const TRIAL_ROUNDS: usize = 2;

/// GPU time that a measurement should take: browsers round timestamps to 0.1 ms.
const ENOUGH_S: f64 = 0.01;

/// No operation is believed to take less GPU time than this.
const SHORTEST_S: f64 = 1e-5;

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
    /// GPU time of all in seconds, one after the other in a pass of their own. No other operation runs meanwhile, so small
    /// ones look longer than they are in a step. None where the device has no timestamps.
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
    /// All timestamps are multiples of this, in seconds: browsers round them, and measurements repeat a step until that hardly
    /// counts.
    pub timestamp_step_s: Option<f64>,
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
        let (encode_s, submit_s, wait_s) = (0.0, 0.0, 0.0);
        let (dispatches, operations) = (0, Vec::new());
        Self { phase, tokens, depth, gpu_s: None, timestamp_step_s: None, encode_s, submit_s, wait_s, dispatches, operations }
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
        let rows = ids.len();
        self.gpu.write(&self.buffers.tokens, 0, entries);
        let params: Vec<_> = ids.iter().map(|id| SampleParams::new(&SamplingOptions::greedy(), 0, id.row as u32)).collect();
        self.write_params(&params);
        let parts = [Part::Body(step), Part::Head { rows, from }, Part::Sample { rows, advance: false, masked: false }];
        let mut times = [const { Vec::new() }; 3];
        for round in 0..=ROUNDS {
            let started = Instant::now();
            let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
            self.encode(&mut encoder, &parts)?;
            let encoded = Instant::now();
            self.gpu.queue.submit([encoder.finish()]);
            let submitted = Instant::now();
            self.gpu.finish().await?;
            let done = Instant::now();
            // The first round compiles and warms up.
            if round > 0 {
                let spans = [encoded - started, submitted - encoded, done - submitted];
                times.iter_mut().zip(spans).for_each(|(times, span)| times.push(span.as_secs_f64()));
            }
        }
        let [encode_s, submit_s, wait_s] = times.map(median);
        let all: Vec<_> = parts.iter().filter_map(|part| self.parts.find(*part)).flatten().collect();
        // The whole step, and then those of its operations that are alike.
        let mut groups: Vec<Vec<&Bound>> = vec![all.clone()];
        for operation in all {
            match groups[1..].iter_mut().find(|group| group[0].is_like(operation)) {
                Some(group) => group.push(operation),
                None => groups.push(vec![operation]),
            }
        }
        let times = self.gpu_times(&groups).await?;
        let gpu_s = |i: usize| times.as_ref().map(|t| t.seconds[i]);
        let mut operations: Vec<OperationProfile> = Vec::new();
        for (i, group) in groups.iter().enumerate().skip(1) {
            let at = operations.iter().take_while(|o| o.gpu_s >= gpu_s(i)).count();
            operations.insert(at, summary(group, gpu_s(i)));
        }
        Ok(StepProfile {
            gpu_s: gpu_s(0),
            timestamp_step_s: times.as_ref().map(|t| t.step_s),
            encode_s,
            submit_s,
            wait_s,
            dispatches: operations.iter().map(|o| o.dispatches).sum(),
            operations,
            ..profile
        })
    }

    /// GPU time of each group, in a pass of its own in which it runs again and again: medians. Operations may do that, since
    /// none makes its own input but by adding to it.
    async fn gpu_times(&self, groups: &[Vec<&Bound>]) -> Result<Option<PassTimes>, DecoderError> {
        let Some(timestamps) = Timestamps::new(&self.gpu, 2 * groups.len() as u32) else { return Ok(None) };
        let mut repeats = vec![1; groups.len()];
        let mut rounds = vec![Vec::new(); groups.len()];
        let mut step_s = f64::INFINITY;
        for round in 0..TRIAL_ROUNDS + GPU_ROUNDS {
            let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
            for (i, (group, repeats)) in groups.iter().zip(&repeats).enumerate() {
                let mut pass = timestamps.pass(&mut encoder, 2 * i as u32);
                for _ in 0..*repeats {
                    group.iter().flat_map(|operation| &operation.dispatches).for_each(|d| d.encode(&mut pass));
                }
            }
            timestamps.resolve(&mut encoder);
            self.gpu.queue.submit([encoder.finish()]);
            let times = timestamps.read(&self.gpu).await?;
            step_s = step_s.min(times.step_s);
            for ((seconds, repeats), of_group) in times.seconds.iter().zip(&mut repeats).zip(&mut rounds) {
                let each = seconds / *repeats as f64;
                if round < TRIAL_ROUNDS {
                    *repeats = (ENOUGH_S / each.max(SHORTEST_S)).ceil() as usize;
                } else {
                    of_group.push(each);
                }
            }
        }
        Ok(Some(PassTimes { seconds: rounds.into_iter().map(median).collect(), step_s }))
    }
}

impl Bound {
    fn is_like(&self, other: &Self) -> bool {
        self.operation == other.operation && self.shape == other.shape && self.candidate == other.candidate
    }
}

fn summary(group: &[&Bound], gpu_s: Option<f64>) -> OperationProfile {
    OperationProfile {
        operation: group[0].operation.clone(),
        candidate: group[0].candidate,
        chosen: group[0].chosen.clone(),
        shape: group[0].shape.clone(),
        count: group.len(),
        dispatches: group.iter().map(|o| o.dispatches.len()).sum(),
        gpu_s,
        bytes: group.iter().map(|o| o.bytes).sum(),
        flops: group.iter().map(|o| o.flops).sum(),
    }
}

/// Of a few: a sort would be a kilobyte of every page.
fn median(times: Vec<f64>) -> f64 {
    let below = |t: f64| times.iter().filter(|other| **other < t).count();
    let middle = times.len() / 2;
    let is_median = |t: &&f64| below(**t) <= middle && times.iter().filter(|other| *other <= *t).count() > middle;
    times.iter().find(is_median).copied().unwrap_or(0.0)
}
