//! [`Batch`]: texts that are written together, and come and go.

use super::{Completion, Constraint, Conversation, GenerateError, GenerateOptions, Request, Text, TokenEvent, grow};
use crate::decoder::{Decoder, MAX_BATCH};
use crate::text::Tokenizer;
use std::ops::ControlFlow;

/// A text to write, with all that it needs.
pub struct Job {
    /// Where its keys and values are cached; what `prompt` shares with it is not computed again.
    pub conversation: Conversation,
    /// Token ids of everything so far.
    pub prompt: Vec<u32>,
    /// When and how to write.
    pub options: GenerateOptions,
    /// Special tokens that are part of the text, such as the tags of calls.
    pub spelled: Vec<u32>,
    /// What the text may be, at its beginning. Such a text is written to its end when it joins.
    pub constraint: Option<Box<dyn Constraint>>,
}

/// A text that is finished.
#[derive(Debug)]
pub struct Finished {
    /// The number that [`Batch::join`] gave it.
    pub index: usize,
    /// The text.
    pub completion: Completion,
    /// Where its keys and values are cached.
    pub conversation: Conversation,
}

/// Texts that are written together: one joins whenever a step is over, and leaves when it is finished. Its tokens are those that it
/// would have alone, where numerics are exact.
pub struct Batch<'t> {
    tokenizer: &'t Tokenizer,
    jobs: Vec<Job>,
    /// One for each job.
    texts: Vec<Text<'t>>,
    joined: usize,
}

impl<'t> Batch<'t> {
    /// Nothing to write yet.
    pub const fn new(tokenizer: &'t Tokenizer) -> Self {
        Self { tokenizer, jobs: Vec::new(), texts: Vec::new(), joined: 0 }
    }

    /// Texts that are being written.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Whether a further text fits into a step.
    pub fn has_room(&self) -> bool {
        self.jobs.len() < MAX_BATCH
    }

    /// Computes the prompt of `job` and chooses the first token. Gives the number that its events have
    /// ([`TokenEvent::index`]): they count from 0.
    ///
    /// # Errors
    /// [`GenerateError`]; the job's conversation is freed then, and the others go on.
    pub async fn join(
        &mut self,
        decoder: &mut Decoder,
        mut job: Job,
        on_token: &mut (impl FnMut(TokenEvent<'_>) -> ControlFlow<()> + ?Sized),
    ) -> Result<usize, GenerateError> {
        let index = self.joined;
        self.joined += 1;
        let mut request = Request::new(&mut job.conversation, &job.prompt, &job.options);
        request.spelled = &job.spelled;
        request.constraint = job.constraint.as_deref_mut().map(|constraint| constraint as &mut dyn Constraint);
        match Text::start(decoder, self.tokenizer, &mut request, index, on_token).await {
            Ok(text) => {
                self.texts.push(text);
                self.jobs.push(job);
                Ok(index)
            }
            Err(error) => {
                job.conversation.end(decoder);
                Err(error)
            }
        }
    }

    /// Adds tokens to all texts, at least one each, until one is finished or `goes_on` says no; gives those that are finished.
    ///
    /// # Errors
    /// [`GenerateError`]: the device failed, and no text goes on.
    pub async fn step(
        &mut self,
        decoder: &mut Decoder,
        goes_on: &mut (impl FnMut() -> bool + ?Sized),
        on_token: &mut (impl FnMut(TokenEvent<'_>) -> ControlFlow<()> + ?Sized),
    ) -> Result<Vec<Finished>, GenerateError> {
        let growing: Vec<usize> = (0..self.texts.len()).filter(|i| self.texts[*i].finish.is_none()).collect();
        let mut requests: Vec<_> =
            self.jobs.iter_mut().map(|j| Request::new(&mut j.conversation, &j.prompt, &j.options)).collect();
        for group in growing.chunks(MAX_BATCH) {
            let alone = growing.len() <= MAX_BATCH;
            grow(decoder, &mut self.texts, &mut requests, group, alone.then_some(&mut *goes_on), on_token).await?;
        }
        let mut finished = Vec::new();
        for i in (0..self.texts.len()).rev().filter(|i| self.texts[*i].finish.is_some()).collect::<Vec<_>>() {
            let (text, job) = (self.texts.swap_remove(i), self.jobs.swap_remove(i));
            finished.push(Finished { index: text.index, completion: text.finish(), conversation: job.conversation });
        }
        finished.sort_by_key(|f| f.index);
        Ok(finished)
    }
}
