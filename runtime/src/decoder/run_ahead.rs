//! Decode steps that are submitted before the ids of the steps before them are known.
//!
//! The sampling kernel writes each chosen id, and the next position, to where the next step reads its tokens. So the host can
//! submit step after step and read ids as they come; between two tokens the GPU waits for nobody. The end of a text (an end
//! token, a stop string, the caller's wish) is noticed late. The caller then truncates its sequence, which forgets the tokens
//! that were computed too far.

use super::{Choice, Decoder, DecoderError, MAX_BATCH, Next, SequenceId};
use crate::device::Profile;
use crate::kernels::attention::{IDLE, Token};
use crate::kernels::sample::SampleParams;
use crate::program::{Part, Step, Value};
use std::collections::VecDeque;
use std::ops::ControlFlow;

/// Steps beyond the one whose ids are waited for. One keeps a GPU busy if ids come back at once; where they take longer than a
/// step (a browser's GPU is another process), more do.
pub(super) fn depth(profile: &Profile) -> usize {
    if profile.software {
        // A processor that computes too far has less for what is wanted.
        0
    } else if cfg!(target_arch = "wasm32") {
        8
    } else {
        2
    }
}

/// Steps that are submitted together, at most, once those before them are on their way. Between two submissions a GPU is idle
/// for a while, some hundredth of a millisecond; two at once halve that, and a text comes at most a token later.
pub(super) const TOGETHER: usize = 2;

/// Steps on their way, the oldest first.
#[derive(Default)]
pub(super) struct Flights {
    waiting: VecDeque<Flight>,
    /// Sampling parameters as they were last written.
    params: Vec<SampleParams>,
    /// Number of the staging buffer that the next one takes.
    next_staging: usize,
}

/// A step that was submitted.
struct Flight {
    ids: Ids,
    rows: usize,
    /// Sequences that have grown by the step's token, in the order of its rows.
    sequences: Vec<SequenceId>,
}

/// Where a step's ids come from.
enum Ids {
    /// A buffer with those of all steps of a submission, of which this is the first.
    Mapped {
        staging: usize,
        steps: usize,
        submission: wgpu::SubmissionIndex,
        mapped: futures_channel::oneshot::Receiver<Result<(), wgpu::BufferAsyncError>>,
    },
    /// The buffer of the first step of its submission, which lands before.
    WithFirst,
    /// They are known.
    Read(Vec<u32>),
}

impl Decoder {
    /// Appends one token to each of up to [`MAX_BATCH`] sequences, leaves their logits as rows 0, 1, … and chooses each
    /// one's next token. One submission; the ids come back.
    ///
    /// # Errors
    /// [`DecoderError`]; the sequences keep their lengths then.
    pub async fn decode(&mut self, batch: &[Next<'_>]) -> Result<Vec<u32>, DecoderError> {
        self.submit(batch).await?;
        self.land().await
    }

    /// [`Decoder::decode`], and then the same with the tokens that it chose, and so on: at least one step, at most `most`, as
    /// many as can be prepared before their predecessors' ids are known. They are submitted before that, too, but for tokens
    /// that bring numbers along for each layer. `on_ids` sees each step's ids. Once it breaks, no further step is submitted;
    /// those on their way still come, and a caller that does not want them truncates its sequences.
    ///
    /// # Errors
    /// [`DecoderError`].
    pub async fn decode_steps(
        &mut self,
        batch: &[Next<'_>],
        most: usize,
        on_ids: &mut (impl FnMut(&[u32]) -> ControlFlow<()> + ?Sized),
    ) -> Result<(), DecoderError> {
        self.submit(batch).await?;
        let sequences: Vec<_> = batch.iter().map(|n| n.sequence).collect();
        let (mut submitted, mut go_on) = (1, true);
        while !self.flights.waiting.is_empty() {
            let mut prepared = None;
            while go_on && prepared.is_none() && self.flights.waiting.len() <= self.run_ahead {
                // The host looks up what tokens bring along for each layer, so it has to know them.
                let together = if self.per_layer.is_some() { 1 } else { self.run_ahead.clamp(1, TOGETHER) };
                let steps = self.steps_ahead(&sequences, together.min(most - submitted))?;
                if steps == 0 {
                    break;
                }
                let later = |step: usize| {
                    let later = (submitted + step) as u64;
                    let params = |n: &Next<'_>| Choice { step: n.choice.step + later, ..n.choice }.params(n.sequence);
                    batch.iter().map(params).collect()
                };
                let params: Vec<Vec<_>> = (0..steps).map(later).collect();
                submitted += steps;
                match self.per_layer {
                    Some(_) => prepared = Some(self.prepare_ahead(&sequences, &params)?),
                    None => self.submit_ahead(&sequences, &params)?,
                }
            }
            let ids = self.land().await?;
            go_on &= on_ids(&ids).is_continue();
            if let Some(commands) = prepared.filter(|_| go_on) {
                self.look_up(&ids).await?;
                self.take_off(commands, 1, &sequences);
                for (sequence, id) in sequences.iter().zip(&ids) {
                    self.cache.advance(*sequence, &[*id])?;
                    self.cache.keep_some_states(&self.gpu, *sequence);
                }
            }
        }
        Ok(())
    }

    /// Submits a step whose tokens the host knows.
    async fn submit(&mut self, batch: &[Next<'_>]) -> Result<(), DecoderError> {
        self.forget_flights();
        if batch.is_empty() {
            return Err(DecoderError::NoTokens);
        }
        if batch.len() > MAX_BATCH {
            return Err(DecoderError::TooManySequences(MAX_BATCH));
        }
        for next in batch {
            self.fit_ropes(next.sequence, 1).await?;
        }
        self.check_ids(batch.iter().map(|n| n.token))?;
        self.look_up(&batch.iter().map(|n| n.token).collect::<Vec<_>>()).await?;
        let mut entries = Vec::with_capacity(batch.len());
        for Next { sequence, token, .. } in batch {
            let position = self.cache.len(*sequence)?;
            self.reserve(*sequence, position + 1)?;
            let long = u32::from(self.cache.is_long(*sequence)?);
            entries.push(Token { id: *token, position: position as u32, sequence: sequence.row as u32, long });
        }
        self.gpu.write(&self.buffers.tokens, 0, &entries);
        let params: Vec<_> = batch.iter().map(|n| n.choice.params(n.sequence)).collect();
        let sequences: Vec<_> = batch.iter().map(|n| n.sequence).collect();
        let commands = self.encode_decode(&sequences, &[params])?;
        self.take_off(commands, 1, &sequences);
        for next in batch {
            self.cache.advance(next.sequence, &[next.token])?;
            self.cache.keep_some_states(&self.gpu, next.sequence);
        }
        Ok(())
    }

    /// How many steps, at most `most`, can be submitted after those on their way: all `sequences` have room for them, and
    /// none of them becomes a long one, which computes it anew.
    pub(super) fn steps_ahead(&self, sequences: &[SequenceId], most: usize) -> Result<usize, DecoderError> {
        let mut steps = most;
        for sequence in sequences {
            let len = self.cache.len(*sequence)?;
            let end = match self.spec.long_beyond() {
                Some(beyond) if !self.cache.is_long(*sequence)? => self.max_context.min(beyond),
                _ => self.max_context,
            };
            steps = steps.min(end.saturating_sub(len));
        }
        Ok(steps)
    }

    /// Submits the steps after the last one submitted, of the same sequences in the same order: the tokens of each are those
    /// that the one before it chooses. `params` are those of each step.
    fn submit_ahead(&mut self, sequences: &[SequenceId], params: &[Vec<SampleParams>]) -> Result<(), DecoderError> {
        let commands = self.prepare_ahead(sequences, params)?;
        self.take_off(commands, params.len(), sequences);
        for _ in params {
            for sequence in sequences {
                self.cache.advance_unknown(*sequence)?;
            }
        }
        for sequence in sequences {
            self.cache.keep_some_states(&self.gpu, *sequence);
        }
        Ok(())
    }

    /// Commands of these steps, and room for their tokens.
    fn prepare_ahead(
        &mut self,
        sequences: &[SequenceId],
        params: &[Vec<SampleParams>],
    ) -> Result<wgpu::CommandBuffer, DecoderError> {
        for sequence in sequences {
            let len = self.cache.len(*sequence)?;
            self.reserve(*sequence, len + params.len())?;
        }
        self.encode_decode(sequences, params)
    }

    /// Waits for the oldest step on its way: the ids that it chose, in the order of its sequences. After an error, the
    /// steps behind it are forgotten.
    pub(super) async fn land(&mut self) -> Result<Vec<u32>, DecoderError> {
        let result = self.land_oldest().await;
        if result.is_err() {
            self.forget_flights();
        }
        result
    }

    /// Steps on their way from a call that failed, or that nobody waits for any more.
    pub(super) fn forget_flights(&mut self) {
        for flight in self.flights.waiting.drain(..) {
            if let Ids::Mapped { staging, .. } = flight.ids {
                // Gives up the mapping; the buffer is used again.
                self.buffers.staging[staging].unmap();
            }
        }
    }

    async fn land_oldest(&mut self) -> Result<Vec<u32>, DecoderError> {
        let flight = self.flights.waiting.pop_front().ok_or(DecoderError::NoTokens)?;
        let mut ids = match flight.ids {
            Ids::Read(ids) => ids,
            Ids::WithFirst => return Err(DecoderError::NoTokens),
            Ids::Mapped { staging, steps, submission, mapped } => {
                self.gpu.wait_for(&submission)?;
                let all: Vec<u32> = self.gpu.take_mapped(&self.buffers.staging[staging], mapped, steps * MAX_BATCH).await?;
                for (later, ids) in self.flights.waiting.iter_mut().zip(all.chunks(MAX_BATCH).skip(1)) {
                    later.ids = Ids::Read(ids.to_vec());
                }
                all
            }
        };
        ids.truncate(flight.rows);
        if ids.contains(&IDLE) {
            return Err(DecoderError::NotFinite);
        }
        // The step behind this one was given these ids by the GPU.
        if let Some(next) = self.flights.waiting.front() {
            let behind = self.flights.waiting.len();
            for (sequence, id) in next.sequences.iter().zip(&ids) {
                self.cache.learn(*sequence, behind, *id);
            }
        }
        Ok(ids)
    }

    /// Commands of as many steps as there are `params`, which are the next to be submitted.
    fn encode_decode(
        &mut self,
        sequences: &[SequenceId],
        params: &[Vec<SampleParams>],
    ) -> Result<wgpu::CommandBuffer, DecoderError> {
        let rows = sequences.len();
        let parts = [
            Part::Body(Step::of_decode(rows)),
            Part::Head { rows, from: Value::Hidden },
            Part::Sample { rows, advance: true, masked: false },
        ];
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        // One write for all steps: later ones get their parameters by a copy. Where nothing is drawn, all are the same.
        let changing = params.iter().any(|p| *p != params[0]);
        if changing {
            self.gpu.write(&self.buffers.params_ahead, 0, &params.concat());
        } else {
            self.write_params(&params[0]);
        }
        let bytes = (rows * size_of::<SampleParams>()) as u64;
        for step in 0..params.len() {
            if changing {
                let b = &self.buffers;
                encoder.copy_buffer_to_buffer(&b.params_ahead, step as u64 * bytes, &b.sample_params, 0, bytes);
            }
            self.encode(&mut encoder, &parts)?;
            self.copy_chosen(&mut encoder, step);
        }
        if changing {
            self.flights.params = params.last().cloned().unwrap_or_default();
        }
        Ok(encoder.finish())
    }

    /// Writes the sampling parameters of a step's rows, unless they are as they were.
    pub(super) fn write_params(&mut self, params: &[SampleParams]) {
        if self.flights.params != params {
            self.gpu.write(&self.buffers.sample_params, 0, params);
            self.flights.params = params.to_vec();
        }
    }

    /// Submits a sampling that belongs to no step, of one row, and asks for its id.
    pub(super) fn submit_sampling(&mut self, mut encoder: wgpu::CommandEncoder) {
        self.copy_chosen(&mut encoder, 0);
        self.take_off(encoder.finish(), 1, &[]);
    }

    /// Copies the ids that the next submission's step of this number has chosen to where the host can read them.
    fn copy_chosen(&self, encoder: &mut wgpu::CommandEncoder, step: usize) {
        let (b, bytes) = (&self.buffers, (MAX_BATCH * 4) as u64);
        encoder.copy_buffer_to_buffer(&b.chosen, 0, &b.staging[self.flights.next_staging], step as u64 * bytes, bytes);
    }

    /// Submits steps, and asks for their ids.
    fn take_off(&mut self, commands: wgpu::CommandBuffer, steps: usize, sequences: &[SequenceId]) {
        let submission = self.gpu.queue.submit([commands]);
        let staging = self.flights.next_staging;
        self.flights.next_staging = (staging + 1) % self.buffers.staging.len();
        let (sender, mapped) = futures_channel::oneshot::channel();
        self.buffers.staging[staging].map_async(wgpu::MapMode::Read, .., move |result| {
            // Nobody waits for a step that was forgotten.
            let _ = sender.send(result);
        });
        let first = Ids::Mapped { staging, steps, submission, mapped };
        let later = std::iter::repeat_with(|| Ids::WithFirst).take(steps - 1);
        let flight = |ids| Flight { ids, rows: sequences.len().max(1), sequences: sequences.to_vec() };
        self.flights.waiting.extend(std::iter::once(first).chain(later).map(flight));
    }
}
