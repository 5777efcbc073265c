//! [`ConversationPool`]: which cached conversation serves a prompt, for callers that only have prompts.

use super::Conversation;
use crate::decoder::{Decoder, DecoderError};

/// Conversations of the recent past, kept so that a prompt that goes on from one of them pays only for what is new.
#[derive(Debug)]
pub struct ConversationPool {
    /// Not in use now; the one used last at the end.
    idle: Vec<Conversation>,
    keep: usize,
}

impl ConversationPool {
    /// A pool that keeps at most `keep` conversations (at least one) and their memory between uses.
    pub fn new(keep: usize) -> Self {
        Self { idle: Vec::new(), keep: keep.max(1) }
    }

    /// The conversation to write `prompt`'s continuation in: the one that it shares most tokens with, if these are half
    /// of the prompt or half of what the conversation holds (less would cost another conversation more than it saves
    /// this one); else a new one, in place of the oldest where all sequences of the decoder are in use. Give it back
    /// with [`ConversationPool::put`].
    ///
    /// # Errors
    /// [`DecoderError::TooManySequences`] if every sequence was taken and not given back.
    pub fn take(&mut self, prompt: &[u32], decoder: &mut Decoder) -> Result<Conversation, DecoderError> {
        let shared = |c: &Conversation| c.cached().iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let candidates = self.idle.iter().enumerate().map(|(i, c)| (shared(c), i));
        let pays = |shared: usize, i: usize| 2 * shared >= prompt.len().min(self.idle[i].cached().len()).max(1);
        let best = candidates.filter(|(n, i)| pays(*n, *i)).max();
        if let Some((_, index)) = best {
            return Ok(self.idle.remove(index));
        }
        match Conversation::start(decoder) {
            Err(DecoderError::TooManySequences(_)) if !self.idle.is_empty() => {
                self.idle.remove(0).end(decoder);
                Conversation::start(decoder)
            }
            result => result,
        }
    }

    /// Takes a conversation back, and frees the oldest ones beyond those to keep.
    pub fn put(&mut self, conversation: Conversation, decoder: &mut Decoder) {
        self.idle.push(conversation);
        while self.idle.len() > self.keep {
            self.idle.remove(0).end(decoder);
        }
    }
}
