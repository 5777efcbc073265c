//! What ends a text: ids of tokens, with the files that name them.

use super::{ChatOptions, GenerationDefaults, Message, Tokenizer};
use haikuq_format::DecoderSpec;
use std::collections::BTreeMap;
use std::fmt;

/// What the assistant says where a template is asked how it ends a turn.
const WORDS: &str = "haikuqanswer";

/// A place that names a token as the end of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndSource {
    /// `config.json`, or what its family takes where it says nothing.
    Config,
    /// `generation_config.json`.
    GenerationConfig,
    /// `eos_token` of the tokenizer's configuration.
    Tokenizer,
    /// The chat template, which ends a turn of the assistant with it.
    ChatTemplate,
}

impl fmt::Display for EndSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Config => "config",
            Self::GenerationConfig => "generation_config",
            Self::Tokenizer => "the tokenizer's eos_token",
            Self::ChatTemplate => "the end of a turn in the chat template",
        })
    }
}

/// A token that ends a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndToken {
    /// Its id.
    pub id: u32,
    /// Everything that names it.
    pub sources: Vec<EndSource>,
}

impl GenerationDefaults {
    /// Every token that ends a text, by id: those of the decoder's spec, of this file, and of the tokenizer, which names
    /// one and whose chat template ends the assistant's turns with one. Checkpoints that were tuned to chat often keep
    /// the base model's token in all but one of these places. Ids that the decoder has no row for are left out.
    pub fn end_tokens(&self, spec: &DecoderSpec, tokenizer: Option<&Tokenizer>) -> Vec<EndToken> {
        let mut ends = BTreeMap::<u32, Vec<EndSource>>::new();
        let of_tokenizer = tokenizer.and_then(Tokenizer::eos_token_id);
        let of_template = tokenizer.and_then(Tokenizer::turn_end_token_id);
        // The spec has them of both configurations.
        let of_config = spec.eos_token_ids.iter().filter(|id| !self.eos_token_ids.contains(id));
        let all = (of_config.map(|id| (*id, EndSource::Config)))
            .chain(self.eos_token_ids.iter().map(|id| (*id, EndSource::GenerationConfig)))
            .chain(of_tokenizer.map(|id| (id, EndSource::Tokenizer)))
            .chain(of_template.map(|id| (id, EndSource::ChatTemplate)));
        for (id, source) in all.filter(|(id, _)| (*id as usize) < spec.vocab_size) {
            let sources = ends.entry(id).or_default();
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        ends.into_iter().map(|(id, sources)| EndToken { id, sources }).collect()
    }

    /// The ids of [`GenerationDefaults::end_tokens`].
    pub fn stop_tokens(&self, spec: &DecoderSpec, tokenizer: Option<&Tokenizer>) -> Vec<u32> {
        self.end_tokens(spec, tokenizer).into_iter().map(|end| end.id).collect()
    }
}

impl Tokenizer {
    /// The control token with which the chat template ends what the assistant says, if it does: the first thing but
    /// white space after the words of a conversation's last message.
    pub fn turn_end_token_id(&self) -> Option<u32> {
        *self.inner.turn_end.get_or_init(|| self.find_turn_end())
    }

    fn find_turn_end(&self) -> Option<u32> {
        let options = ChatOptions { add_generation_prompt: false, now: Some(0), ..ChatOptions::default() };
        let in_parts = |role: &str| {
            let part = serde_json::json!([{"type": "text", "text": WORDS}]);
            let mut message = Message::new(role, "");
            message.content = part;
            message
        };
        // Some templates take a list of parts alone.
        let conversations = [[Message::user("?"), Message::assistant(WORDS)], [in_parts("user"), in_parts("assistant")]];
        let text = conversations.iter().find_map(|messages| {
            let text = self.render_chat(messages, &options).ok()?;
            text.contains(WORDS).then_some(text)
        })?;
        let (_, after) = text.rsplit_once(WORDS)?;
        self.inner.control.at_start_of(after.trim_start()).map(|(id, _)| id)
    }
}
