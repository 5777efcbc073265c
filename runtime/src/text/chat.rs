//! Conversations to token ids, with the words of the messages kept apart from the control tokens of the template.

use super::template::{ChatOptions, Message, render};
use super::tokenizer::cannot_encode;
use super::{Special, TextError, Tokenizer};

impl Tokenizer {
    /// The chat template's text, where the model has one.
    pub fn chat_template(&self) -> Option<&str> {
        self.inner.chat_template.as_deref()
    }

    /// The prompt of a conversation as text, as transformers' `apply_chat_template(tokenize=False)` gives it. For
    /// reading only: encode conversations with [`Tokenizer::encode_chat`], which knows whose words are whose.
    ///
    /// # Errors
    /// If there is no template, it is malformed, or it refuses the conversation.
    pub fn render_chat(&self, messages: &[Message], options: &ChatOptions) -> Result<String, TextError> {
        let template = self.chat_template().ok_or(TextError::NoChatTemplate)?;
        render(template, &self.inner.named, messages, options)
    }

    /// [`Tokenizer::encode_chat_with`] the default [`ChatOptions`].
    ///
    /// # Errors
    /// As there.
    pub fn encode_chat(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Vec<u32>, TextError> {
        self.encode_chat_with(messages, &ChatOptions { add_generation_prompt, ..ChatOptions::default() })
    }

    /// Token ids of a conversation: what transformers' `apply_chat_template` gives, except that control tokens spelled
    /// in a message become plain text.
    ///
    /// In what the assistant said, only tokens marked special are taken for plain text: templates look there for
    /// markers such as `</think>` that the model itself wrote.
    ///
    /// # Errors
    /// If there is no template, it is malformed or refuses the conversation, or the tokenizer cannot encode the result.
    pub fn encode_chat_with(&self, messages: &[Message], options: &ChatOptions) -> Result<Vec<u32>, TextError> {
        if messages.iter().all(|m| self.foreign_control_token(m, &m.content).is_none()) {
            return self.encode_bare(&self.render_chat(messages, options)?, Special::Recognize);
        }
        // A mark within each spelled token lets it pass the template as text. Of the control tokens that are then in
        // the prompt, the template wrote each one; they get their private names, the marks go, and the twin encodes
        // the whole.
        let said: String = messages.iter().map(|m| m.content.as_str()).collect();
        let twin = self.plain_twin(&said)?;
        let marked: Vec<Message> = messages
            .iter()
            .map(|m| {
                let mut content = m.content.clone();
                while let Some(at) = self.foreign_control_token(m, &content) {
                    let first = content[at..].chars().next().map_or(0, char::len_utf8);
                    content.insert(at + first, twin.mark());
                }
                Message::new(m.role.as_str(), content)
            })
            .collect();
        let prompt = self.render_chat(&marked, options)?;
        let (mut renamed, mut end) = (String::with_capacity(prompt.len()), 0);
        for (at, id, token) in self.inner.control.find_in(&prompt) {
            renamed.push_str(&prompt[end..at]);
            renamed.extend(twin.name(id));
            end = at + token.len();
        }
        renamed.push_str(&prompt[end..]);
        renamed.retain(|c| c != twin.mark());
        let encoding = twin.tokenizer().encode_fast(renamed, false).map_err(|e| cannot_encode(&prompt, &e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Where the first control token begins that `content` of `message` spells and may not be.
    fn foreign_control_token(&self, message: &Message, content: &str) -> Option<usize> {
        let assistant = message.role == "assistant";
        let mut found = self.inner.control.find_in(content);
        found.find(|(_, id, _)| !assistant || self.is_special(*id)).map(|(at, ..)| at)
    }
}
