//! A conversation: tokens whose keys and values stay cached from one call to the next.

use crate::decoder::{Decoder, DecoderError, SequenceId};

/// A sequence of the decoder together with the ids that it holds, so that a later prompt pays only for what is new.
#[derive(Debug)]
pub struct Conversation {
    pub(super) sequence: SequenceId,
    pub(super) cached: Vec<u32>,
}

impl Conversation {
    /// Takes one of the decoder's sequences; give it back with [`Conversation::end`].
    ///
    /// # Errors
    /// [`DecoderError::TooManySequences`].
    pub fn start(decoder: &mut Decoder) -> Result<Self, DecoderError> {
        Ok(Self { sequence: decoder.create_sequence()?, cached: Vec::new() })
    }

    /// Frees the sequence and its memory.
    pub fn end(self, decoder: &mut Decoder) {
        // The only error is a sequence that is gone already.
        let _ = decoder.remove_sequence(self.sequence);
    }

    /// Ids whose keys and values are cached.
    pub fn cached(&self) -> &[u32] {
        &self.cached
    }

    /// Drops what `prompt` does not begin with. At least the last token of `prompt` is left to be computed, since its
    /// logits are needed. Returns the number of tokens kept.
    pub(super) fn keep_prefix_of(&mut self, prompt: &[u32], decoder: &mut Decoder) -> Result<usize, DecoderError> {
        let common = self.cached.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let kept = common.min(prompt.len().saturating_sub(1));
        let kept = decoder.truncate(self.sequence, kept)?;
        self.cached.truncate(kept);
        Ok(kept)
    }
}
