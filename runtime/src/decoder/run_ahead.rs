//! Decode steps that are submitted before the ids of the steps before them are known.
//!
//! The sampling kernel writes each chosen id, and the next position, to where the next step reads its tokens. So the host can
//! submit step after step and read ids as they come; between two tokens the GPU waits for nobody. What ends a text (an end
//! token, a stop string, the caller) is noticed late: the caller then truncates its sequence, and what was computed too far
//! is forgotten.

use super::{Choice, Decoder, DecoderError, MAX_BATCH, Next, SequenceId};
use crate::device::Profile;
use crate::kernels::attention::{IDLE, Token};
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

/// Steps on their way, the oldest first.
#[derive(Default)]
pub(super) struct Flights {
    waiting: VecDeque<Flight>,
    /// Number of the staging buffer that the next one takes.
    next_staging: usize,
}

/// A step that was submitted.
struct Flight {
    staging: usize,
    submission: wgpu::SubmissionIndex,
    mapped: futures_channel::oneshot::Receiver<Result<(), wgpu::BufferAsyncError>>,
    rows: usize,
    /// Sequences that have grown by the step's token, in the order of its rows.
    sequences: Vec<SequenceId>,
}

impl Decoder {
    /// Appends one token to each of up to [`MAX_BATCH`] sequences, leaves their logits as rows 0, 1, … and chooses each
    /// one's next token. One submission; the ids come back.
    ///
    /// # Errors
    /// [`DecoderError`]; the sequences keep their lengths then.
    pub async fn decode(&mut self, batch: &[Next<'_>]) -> Result<Vec<u32>, DecoderError> {
        self.submit(batch)?;
        self.land().await
    }

    /// [`Decoder::decode`], and then the same with the tokens that it chose, and so on: at least one step, at most `most`, as
    /// many as can be submitted before their predecessors' ids are known. `on_ids` sees each step's ids. Once it breaks, no
    /// further step is submitted; those on their way still come, and a caller that does not want them truncates its
    /// sequences.
    ///
    /// # Errors
    /// [`DecoderError`].
    pub async fn decode_steps(
        &mut self,
        batch: &[Next<'_>],
        most: usize,
        on_ids: &mut dyn FnMut(&[u32]) -> ControlFlow<()>,
    ) -> Result<(), DecoderError> {
        self.submit(batch)?;
        let sequences: Vec<_> = batch.iter().map(|n| n.sequence).collect();
        let (mut submitted, mut go_on) = (1, true);
        while !self.flights.waiting.is_empty() {
            while go_on && submitted < most && self.can_submit_ahead(&sequences)? {
                let step = |n: &Next<'_>| n.choice.step + submitted as u64;
                let later = batch.iter().map(|n| (n.sequence, Choice { step: step(n), ..n.choice }));
                self.submit_ahead(&later.collect::<Vec<_>>())?;
                submitted += 1;
            }
            go_on &= on_ids(&self.land().await?).is_continue();
        }
        Ok(())
    }

    /// Submits a step whose tokens the host knows.
    fn submit(&mut self, batch: &[Next<'_>]) -> Result<(), DecoderError> {
        self.forget_flights();
        if batch.is_empty() {
            return Err(DecoderError::NoTokens);
        }
        if batch.len() > MAX_BATCH {
            return Err(DecoderError::TooManySequences(MAX_BATCH));
        }
        for next in batch {
            self.fit_ropes(next.sequence, 1)?;
        }
        self.check_ids(batch.iter().map(|n| n.token))?;
        let mut entries = Vec::with_capacity(batch.len());
        for Next { sequence, token, .. } in batch {
            let position = self.cache.len(*sequence)?;
            self.reserve(*sequence, position + 1)?;
            let long = u32::from(self.cache.is_long(*sequence)?);
            entries.push(Token { id: *token, position: position as u32, sequence: sequence.row as u32, long });
        }
        self.gpu.write(&self.buffers.tokens, 0, &entries);
        let choices: Vec<_> = batch.iter().map(|n| (n.sequence, n.choice)).collect();
        self.submit_decode(&choices)?;
        for next in batch {
            self.cache.advance(next.sequence, &[next.token])?;
        }
        Ok(())
    }

    /// Whether the step after those on their way can be submitted: all `sequences` have room for it, and none of them
    /// becomes a long one by it, which computes it anew.
    fn can_submit_ahead(&self, sequences: &[SequenceId]) -> Result<bool, DecoderError> {
        if self.flights.waiting.len() > self.run_ahead {
            return Ok(false);
        }
        for sequence in sequences {
            let len = self.cache.len(*sequence)? + 1;
            let grows_long = self.spec.long_beyond().is_some_and(|beyond| len > beyond) && !self.cache.is_long(*sequence)?;
            if len > self.max_context || grows_long {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Submits the step after the last one submitted, of the same sequences in the same order: its tokens are those that
    /// the last one chooses.
    fn submit_ahead(&mut self, batch: &[(SequenceId, Choice<'_>)]) -> Result<(), DecoderError> {
        for (sequence, _) in batch {
            let len = self.cache.len(*sequence)?;
            self.reserve(*sequence, len + 1)?;
        }
        self.submit_decode(batch)?;
        for (sequence, _) in batch {
            self.cache.advance_unknown(*sequence)?;
        }
        Ok(())
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
            // Gives up the mapping; the buffer is used again.
            self.buffers.staging[flight.staging].unmap();
        }
    }

    async fn land_oldest(&mut self) -> Result<Vec<u32>, DecoderError> {
        let flight = self.flights.waiting.pop_front().ok_or(DecoderError::NoTokens)?;
        self.gpu.wait_for(&flight.submission)?;
        let staging = &self.buffers.staging[flight.staging];
        let ids: Vec<u32> = self.gpu.take_mapped(staging, flight.mapped, flight.rows).await?;
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

    fn submit_decode(&mut self, batch: &[(SequenceId, Choice<'_>)]) -> Result<(), DecoderError> {
        let params: Vec<_> = batch.iter().map(|(sequence, choice)| choice.params(*sequence)).collect();
        self.gpu.write(&self.buffers.sample_params, 0, &params);
        let rows = batch.len();
        let parts =
            [Part::Body(Step::of_decode(rows)), Part::Head { rows, from: Value::Hidden }, Part::Sample { rows, advance: true }];
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.encode(&mut encoder, &parts)?;
        self.submit_flight(encoder, batch.iter().map(|(sequence, _)| *sequence).collect());
        Ok(())
    }

    /// Submits a step that ends with sampling (a row each of `sequences`, or one where these do not grow by it), and asks
    /// for its ids.
    pub(super) fn submit_flight(&mut self, mut encoder: wgpu::CommandEncoder, sequences: Vec<SequenceId>) {
        let (b, bytes) = (&self.buffers, (MAX_BATCH * 4) as u64);
        let staging = self.flights.next_staging;
        encoder.copy_buffer_to_buffer(&b.chosen, 0, &b.staging[staging], 0, bytes);
        let submission = self.gpu.queue.submit([encoder.finish()]);
        let (sender, mapped) = futures_channel::oneshot::channel();
        b.staging[staging].map_async(wgpu::MapMode::Read, 0..bytes, move |result| {
            // Nobody waits for a step that was forgotten.
            let _ = sender.send(result);
        });
        self.flights.next_staging = (staging + 1) % b.staging.len();
        self.flights.waiting.push_back(Flight { staging, submission, mapped, rows: sequences.len().max(1), sequences });
    }
}
