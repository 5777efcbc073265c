//! [`StreamDecoder`]: text of tokens as they come, never with half a character.
//!
//! A token is not text: a character may span several tokens, and some decoders treat a sequence's first token in their
//! own way (sentencepiece drops its leading space). So each new token is decoded together with the tokens just before it, whose
//! text is known. The new text is shown once it ends with a whole character.

use super::Tokenizer;

/// Tokens without a whole character after which the bytes are taken for the nonsense that they are, and shown as
/// U+FFFD. A character has four bytes at most; runs of them that share one byte-fallback decoding are longer.
const MAX_HELD: usize = 64;

/// Tokens of a prompt that [`StreamDecoder::continuing`] decodes along.
const CONTEXT: usize = 8;

/// Turns token ids into text as they come.
///
/// The pieces together are [`Tokenizer::decode`] of all ids, without an incomplete character at the end. (Byte-fallback
/// decoders turn a whole run of byte tokens into U+FFFD when one byte of it is wrong; what was shown before stays then.)
#[derive(Clone, Debug)]
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// Special tokens that are text all the same.
    spelled: Vec<u32>,
    /// Ids whose text was shown (the first `shown`) and ids that are held back.
    window: Vec<u32>,
    shown: usize,
}

impl<'a> StreamDecoder<'a> {
    /// A stream that starts a text of its own and leaves special tokens out.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, skip_special: true, spelled: Vec::new(), window: Vec::new(), shown: 0 }
    }

    /// The same with special tokens spelled out.
    pub fn with_special(tokenizer: &'a Tokenizer) -> Self {
        Self { skip_special: false, ..Self::new(tokenizer) }
    }

    /// The same with these special tokens spelled out, and all others left out.
    pub fn spelling(tokenizer: &'a Tokenizer, spelled: &[u32]) -> Self {
        Self { spelled: spelled.to_vec(), ..Self::new(tokenizer) }
    }

    /// A stream that goes on after `prompt`, so that a first word keeps the space before it.
    pub fn continuing(tokenizer: &'a Tokenizer, prompt: &[u32]) -> Self {
        let visible = prompt.iter().rev().filter(|id| tokenizer.is_visible(**id, true));
        let mut window: Vec<u32> = visible.take(CONTEXT).copied().collect();
        window.reverse();
        Self { shown: window.len(), window, ..Self::new(tokenizer) }
    }

    /// Takes the next token and gives the text that it completes; empty while a character is incomplete.
    pub fn push(&mut self, id: u32) -> String {
        if !self.tokenizer.is_visible(id, self.skip_special && !self.spelled.contains(&id)) {
            return String::new();
        }
        self.window.push(id);
        let all = self.decode(&self.window);
        if all.ends_with(char::REPLACEMENT_CHARACTER) && self.window.len() - self.shown < MAX_HELD {
            return String::new();
        }
        let new = self.new_text(all);
        self.window.drain(..self.shown);
        self.shown = self.window.len();
        new
    }

    /// The text that is still held back, now that nothing follows. An incomplete character is dropped.
    pub fn finish(&mut self) -> String {
        let new = self.new_text(self.decode(&self.window));
        self.window.clear();
        self.shown = 0;
        new.trim_end_matches(char::REPLACEMENT_CHARACTER).to_owned()
    }

    /// The part of `all`, the window's text, that was not shown yet.
    fn new_text(&self, all: String) -> String {
        match all.strip_prefix(&self.decode(&self.window[..self.shown])) {
            Some(new) => new.to_owned(),
            // The new tokens changed the reading of the old ones: a wrong byte in a byte-fallback run.
            None => self.decode(&self.window[self.shown..]),
        }
    }

    /// Where a decoder fails (none of the known ones does) the vocabulary's spelling is better than an end of the text.
    fn decode(&self, ids: &[u32]) -> String {
        let spelled = |_| ids.iter().filter_map(|id| self.tokenizer.token(*id)).collect();
        self.tokenizer.decode(ids, false).unwrap_or_else(spelled)
    }
}
