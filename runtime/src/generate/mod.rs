//! Text from a loaded decoder: prompts in, tokens and text out as they are chosen.
//!
//! One loop serves one prompt or many. Prompts are computed one after the other (each exactly as it would be alone), then
//! all texts grow together, up to [`MAX_BATCH`] a step, until each has its own reason to end. A text under a [`Constraint`] is
//! written to its end at once.

mod batch;
mod constrained;
mod constraint;
mod conversation;
mod options;
mod pool;

pub use batch::{Batch, Finished, Job};
pub use constraint::{Constraint, ConstraintError, Outlook};
pub use conversation::Conversation;
pub use options::{Completion, FinishReason, GenerateOptions, TokenEvent, Usage};
pub use pool::ConversationPool;

use crate::decoder::{Choice, Decoder, DecoderError, MAX_BATCH, Next};
use crate::sampling::SamplingError;
use crate::text::{StopStrings, StreamDecoder, Tokenizer};
use std::ops::ControlFlow;
use web_time::Instant;

/// What can go wrong with a generation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The decoder failed.
    #[error(transparent)]
    Decoder(#[from] DecoderError),
    /// A sampling option is out of range.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// A text's constraint cannot go on.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
}

/// One text to write.
#[non_exhaustive]
pub struct Request<'a> {
    /// Where its keys and values are cached; what `prompt` shares with it is not computed again.
    pub conversation: &'a mut Conversation,
    /// Token ids of everything so far.
    pub prompt: &'a [u32],
    /// Tokens of the answer that are written already, by a device that was lost since: the text goes on after them as if
    /// nothing had happened, and only what is new is reported as events.
    pub written: &'a [u32],
    /// When and how to write.
    pub options: &'a GenerateOptions,
    /// Special tokens that are part of the text, such as the tags of calls: see
    /// [`AnswerFormat::markers`](crate::text::AnswerFormat::markers).
    pub spelled: &'a [u32],
    /// What the text may be, at its beginning. Texts with a constraint are written one after the other.
    pub constraint: Option<&'a mut dyn Constraint>,
}

impl<'a> Request<'a> {
    /// A text that nothing is written of yet.
    pub const fn new(conversation: &'a mut Conversation, prompt: &'a [u32], options: &'a GenerateOptions) -> Self {
        Self { conversation, prompt, written: &[], options, spelled: &[], constraint: None }
    }

    /// What is computed before the first new token is chosen.
    fn known(&self) -> Vec<u32> {
        [self.prompt, self.written].concat()
    }
}

/// Writes one text for each of `requests`. `on_token` sees every token as it is chosen, and all the text that is certain;
/// `ControlFlow::Break` ends that text ([`FinishReason::Cancelled`]), also while its prompt is computed: then the event
/// has no id and no text.
///
/// # Errors
/// [`GenerateError`]; the conversations hold what was computed until then.
pub async fn generate(
    decoder: &mut Decoder,
    tokenizer: &Tokenizer,
    requests: &mut [Request<'_>],
    on_token: &mut (impl FnMut(TokenEvent<'_>) -> ControlFlow<()> + ?Sized),
) -> Result<Vec<Completion>, GenerateError> {
    let mut texts = Vec::with_capacity(requests.len());
    for (index, request) in requests.iter_mut().enumerate() {
        texts.push(Text::start(decoder, tokenizer, request, index, on_token).await?);
    }
    loop {
        let growing: Vec<usize> = (0..texts.len()).filter(|i| texts[*i].finish.is_none()).collect();
        if growing.is_empty() {
            break;
        }
        // Several groups take turns, a step each; one alone may run ahead.
        let alone = growing.len() <= MAX_BATCH;
        for group in growing.chunks(MAX_BATCH) {
            grow(decoder, &mut texts, requests, group, alone.then_some(&mut || true), on_token).await?;
        }
    }
    Ok(texts.into_iter().map(Text::finish).collect())
}

/// Adds a token to each text of `group`, or several where the GPU may run ahead: until one of them ends, or `ahead` says no.
async fn grow(
    decoder: &mut Decoder,
    texts: &mut [Text<'_>],
    requests: &mut [Request<'_>],
    group: &[usize],
    mut ahead: Option<&mut (impl FnMut() -> bool + ?Sized)>,
    on_token: &mut (impl FnMut(TokenEvent<'_>) -> ControlFlow<()> + ?Sized),
) -> Result<(), GenerateError> {
    let options = group.iter().map(|i| requests[*i].options).collect::<Vec<_>>();
    let batch: Vec<_> = group.iter().zip(&options).map(|(i, options)| texts[*i].next(&requests[*i], options)).collect();
    let most = group.iter().map(|i| texts[*i].tokens_left(requests[*i].options)).min().unwrap_or(1);
    let max_context = decoder.max_context();
    let most = if ahead.is_some() { most } else { 1 };
    let mut on_ids = |ids: &[u32]| {
        for (&i, &id) in group.iter().zip(ids) {
            // A token that was computed beyond a text's end belongs to nobody.
            if texts[i].finish.is_none() {
                requests[i].conversation.cached.push(texts[i].last);
                texts[i].accept(id, &requests[i], max_context, on_token);
            }
        }
        let go_on = ahead.as_mut().is_some_and(|ahead| ahead()) && group.iter().all(|i| texts[*i].finish.is_none());
        if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    decoder.decode_steps(&batch, most, &mut on_ids).await?;
    for &i in group {
        let conversation = &mut *requests[i].conversation;
        let kept = decoder.truncate(conversation.sequence, conversation.cached.len())?;
        if texts[i].finish.is_some() {
            conversation.cached.truncate(kept);
            decoder.keep_states(conversation.sequence)?;
            continue;
        }
        // A text that goes on needs all of its positions.
        for chunk in conversation.cached[kept..].chunks(decoder.prefill_chunk()) {
            decoder.prefill(conversation.sequence, chunk).await?;
        }
    }
    Ok(())
}

/// A text as it grows.
struct Text<'a> {
    index: usize,
    stream: StreamDecoder<'a>,
    stops: StopStrings,
    ids: Vec<u32>,
    text: String,
    /// The token that the next step is fed.
    last: u32,
    chosen: usize,
    finish: Option<FinishReason>,
    usage: Usage,
    started: Instant,
    first_token: Option<Instant>,
}

impl<'a> Text<'a> {
    /// Computes the prompt and chooses the first token.
    async fn start(
        decoder: &mut Decoder,
        tokenizer: &'a Tokenizer,
        request: &mut Request<'_>,
        index: usize,
        on_token: &mut (impl FnMut(TokenEvent<'_>) -> ControlFlow<()> + ?Sized),
    ) -> Result<Self, GenerateError> {
        let started = Instant::now();
        request.options.sampling.validate()?;
        if request.prompt.is_empty() {
            return Err(DecoderError::NoTokens.into());
        }
        let mut known = request.known();
        if known.len() > decoder.max_context() {
            let (needed, limit) = (known.len(), decoder.max_context());
            return Err(DecoderError::ContextOverflow { needed, limit }.into());
        }
        let reused_tokens = request.conversation.keep_prefix_of(&known, decoder)?;
        let mut text = Self {
            index,
            stream: StreamDecoder::spelling(tokenizer, request.spelled),
            stops: StopStrings::new(request.options.stop_strings.iter().cloned()),
            ids: Vec::new(),
            text: String::new(),
            last: 0,
            chosen: 0,
            finish: None,
            usage: Usage {
                prompt_tokens: request.prompt.len(),
                reused_tokens: reused_tokens.min(request.prompt.len()),
                ..Usage::default()
            },
            started,
            first_token: None,
        };
        for id in request.written {
            text.chosen += 1;
            text.ids.push(*id);
            text.text.push_str(&text.stops.push(&text.stream.push(*id)));
        }
        text.finish = if text.stops.stopped() {
            Some(FinishReason::Stop)
        } else if request.options.max_tokens.is_some_and(|n| text.ids.len() >= n) {
            Some(FinishReason::Length)
        } else if !request.written.is_empty() && known.len() >= decoder.max_context() {
            Some(FinishReason::Context)
        } else {
            None
        };
        if let Some(finish) = text.finish {
            if finish != FinishReason::Stop {
                text.flush(on_token);
            }
            return Ok(text);
        }
        let sequence = request.conversation.sequence;
        let mut constraint = request.constraint.take();
        let mut outlook = Outlook::default();
        if let Some(constraint) = &mut constraint {
            outlook = constraint.accept(request.written)?;
            // Forced tokens are computed with the prompt.
            known.extend(outlook.forced.iter().take(decoder.max_context() - known.len()));
        }
        decoder.expect(sequence, known.len())?;
        for (i, chunk) in known[reused_tokens..].chunks(decoder.prefill_chunk()).enumerate() {
            if i > 0 {
                // Also lets others on this thread have their say, in a browser the one who wants to cancel.
                decoder.gpu().finish().await.map_err(DecoderError::from)?;
                if on_token(TokenEvent { index, id: None, text: "" }).is_break() {
                    text.finish = Some(FinishReason::Cancelled);
                    return Ok(text);
                }
            }
            decoder.prefill(sequence, chunk).await?;
            request.conversation.cached.extend_from_slice(chunk);
        }
        if request.options.sampling.repetition_penalty != 1.0 {
            decoder.set_seen(sequence, &known);
        }
        if let Some(constraint) = constraint {
            // Tokens that are forced are told at once, but the time of the prompt is not theirs.
            decoder.gpu().finish().await.map_err(DecoderError::from)?;
            text.write_constrained(decoder, request, constraint, outlook, on_token).await?;
            return Ok(text);
        }
        let id = decoder.sample_first(sequence, text.choice(request.options)).await?;
        text.accept(id, request, decoder.max_context(), on_token);
        Ok(text)
    }

    fn choice<'o>(&self, options: &'o GenerateOptions) -> Choice<'o> {
        Choice { sampling: &options.sampling, step: self.chosen as u64 }
    }

    /// This text's part in the next step.
    fn next<'o>(&self, request: &Request<'_>, options: &'o GenerateOptions) -> Next<'o> {
        Next { sequence: request.conversation.sequence, token: self.last, choice: self.choice(options) }
    }

    /// Tokens that may still be chosen.
    fn tokens_left(&self, options: &GenerateOptions) -> usize {
        options.max_tokens.map_or(usize::MAX, |n| n.saturating_sub(self.ids.len())).max(1)
    }

    /// Takes a chosen token in: text, events, and whether this was the last one.
    fn accept(
        &mut self,
        id: u32,
        request: &Request<'_>,
        max_context: usize,
        on_token: &mut (impl FnMut(TokenEvent<'_>) -> ControlFlow<()> + ?Sized),
    ) {
        let now = Instant::now();
        let first = *self.first_token.get_or_insert(now);
        self.chosen += 1;
        self.usage.completion_tokens = self.chosen;
        self.usage.time_to_first_token = first - self.started;
        self.usage.decode_time = now - first;
        if request.options.stop_tokens.contains(&id) {
            self.finish = Some(FinishReason::Stop);
        } else {
            self.ids.push(id);
            self.last = id;
            let certain = self.stops.push(&self.stream.push(id));
            self.text.push_str(&certain);
            let go_on = on_token(TokenEvent { index: self.index, id: Some(id), text: &certain });
            let options = request.options;
            self.finish = if self.stops.stopped() {
                Some(FinishReason::Stop)
            } else if go_on.is_break() {
                Some(FinishReason::Cancelled)
            } else if options.max_tokens.is_some_and(|n| self.ids.len() >= n) {
                Some(FinishReason::Length)
            } else if request.prompt.len() + self.ids.len() >= max_context {
                Some(FinishReason::Context)
            } else {
                None
            };
        }
        if self.finish.is_some() && !self.stops.stopped() {
            self.flush(on_token);
        }
    }

    /// Hands out what was held back, now that nothing follows.
    fn flush(&mut self, on_token: &mut (impl FnMut(TokenEvent<'_>) -> ControlFlow<()> + ?Sized)) {
        let mut rest = self.stops.push(&self.stream.finish());
        rest.push_str(&self.stops.finish());
        if !rest.is_empty() {
            self.text.push_str(&rest);
            let _ = on_token(TokenEvent { index: self.index, id: None, text: &rest });
        }
    }

    fn finish(self) -> Completion {
        let finish = self.finish.unwrap_or(FinishReason::Cancelled);
        Completion { ids: self.ids, text: self.text, finish, usage: self.usage }
    }
}
