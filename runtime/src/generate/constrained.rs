//! A text under a constraint: masks for what is chosen, and no step for what is not.
//!
//! The forward pass of a chosen token is submitted before its id is known; the GPU has it already. While that runs, the id comes
//! back, and the constraint makes the next mask of it. Tokens that the constraint forces go through as a prompt does, all at
//! once.

use super::constraint::{Constraint, ConstraintError, Outlook};
use super::{FinishReason, GenerateError, Request, Text, TokenEvent};
use crate::decoder::Decoder;
use crate::kernels::sample::mask_words;
use std::ops::ControlFlow;

impl Text<'_> {
    /// Writes the text to its end. `outlook` is what the constraint said of what is written already; the conversation has the
    /// prompt and what is written, perhaps also what is forced after it.
    pub(super) async fn write_constrained(
        &mut self,
        decoder: &mut Decoder,
        request: &mut Request<'_>,
        constraint: &mut dyn Constraint,
        mut outlook: Outlook,
        on_token: &mut (impl FnMut(TokenEvent<'_>) -> ControlFlow<()> + ?Sized),
    ) -> Result<(), GenerateError> {
        let sequence = request.conversation.sequence;
        let max_context = decoder.max_context();
        let mut mask = vec![0; mask_words(decoder.spec().vocab_size as u32) as usize];
        loop {
            for id in &outlook.forced {
                self.accept(*id, request, max_context, on_token);
                if self.finish.is_some() {
                    break;
                }
            }
            if outlook.complete && self.finish.is_none() {
                self.finish = Some(FinishReason::Stop);
                self.flush(on_token);
            }
            if self.finish.is_some() {
                break;
            }
            let known = [request.prompt, &self.ids].concat();
            for chunk in known[request.conversation.cached.len()..].chunks(decoder.prefill_chunk()) {
                decoder.prefill(sequence, chunk).await?;
                request.conversation.cached.extend_from_slice(chunk);
            }
            if !outlook.forced.is_empty() && request.options.sampling.repetition_penalty != 1.0 {
                decoder.set_seen(sequence, &known);
            }
            constraint.allow(&mut mask)?;
            if mask.iter().all(|word| *word == 0) {
                return Err(ConstraintError("the vocabulary has no token that may follow".into()).into());
            }
            decoder.choose(sequence, self.choice(request.options), &mask)?;
            let fed = self.tokens_left(request.options) > 1 && decoder.feed_chosen(sequence)?;
            let id = decoder.chosen(sequence, fed).await?;
            self.accept(id, request, max_context, on_token);
            if self.finish.is_some() {
                break;
            }
            if fed {
                request.conversation.cached.push(id);
            }
            outlook = constraint.accept(&[id])?;
        }
        // Without what was computed too far.
        let conversation = &mut *request.conversation;
        conversation.cached.truncate(request.prompt.len() + self.ids.len());
        let kept = decoder.truncate(sequence, conversation.cached.len())?;
        conversation.cached.truncate(kept);
        Ok(decoder.keep_states(sequence)?)
    }
}
