//! Conversations to token ids, with the words of the messages kept apart from the control tokens of the template.

use super::control::ControlTokens;
use super::numbers::is_number;
use super::template::render;
use super::tokenizer::encode;
use super::{ChatOptions, Message, Special, TextError, Tokenizer};
use serde_json::Value;

impl Tokenizer {
    /// The chat template's text, where the model has one; the one without tools, where it has several.
    pub fn chat_template(&self) -> Option<&str> {
        self.inner.templates.choose(None, false).ok()
    }

    /// Names of the chat templates: none, `default`, or several.
    pub fn chat_template_names(&self) -> impl Iterator<Item = &str> {
        self.inner.templates.names()
    }

    /// The prompt of a conversation as text, as transformers' `apply_chat_template(tokenize=False)` gives it. For
    /// reading only: encode conversations with [`Tokenizer::encode_chat`], which knows whose words are whose.
    ///
    /// # Errors
    /// If there is no template, it is malformed, or it refuses the conversation.
    pub fn render_chat(&self, messages: &[Message], options: &ChatOptions) -> Result<String, TextError> {
        self.render_marked(messages, options, None)
    }

    /// The same of a conversation with `mark` in it, a character that no filter may spell otherwise.
    fn render_marked(&self, messages: &[Message], options: &ChatOptions, mark: Option<char>) -> Result<String, TextError> {
        let with_tools = options.tools.is_some() || options.variables.get("tools").is_some_and(|tools| !tools.is_null());
        let template = self.inner.templates.choose(options.template.as_deref(), with_tools)?;
        render(template, &self.inner.named, messages, options, mark)
    }

    /// [`Tokenizer::encode_chat_with`] the default [`ChatOptions`].
    ///
    /// # Errors
    /// As there.
    pub fn encode_chat(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Vec<u32>, TextError> {
        self.encode_chat_with(messages, &ChatOptions { add_generation_prompt, ..ChatOptions::default() })
    }

    /// Token ids of a conversation: what transformers' `apply_chat_template` gives, except that control tokens spelled
    /// in messages, tools, documents or variables become plain text.
    ///
    /// In what the assistant said, only tokens marked special are taken for plain text: templates look there for
    /// markers such as `</think>` that the model itself wrote.
    ///
    /// # Errors
    /// If there is no template, it is malformed or refuses the conversation, or the tokenizer cannot encode the result.
    pub fn encode_chat_with(&self, messages: &[Message], options: &ChatOptions) -> Result<Vec<u32>, TextError> {
        let marks = |mark| Marks { tokenizer: self, mark };
        // Which character the marks will be is not known yet; any tells whether there is something to mark.
        if marks('\u{0}').everywhere(messages, options).is_none() {
            return self.encode_bare(&self.render_chat(messages, options)?, Special::Recognize);
        }
        // A mark within each spelled token lets it pass the template as text. Of the control tokens that are then in
        // the prompt, the template wrote each one; they get their private names, the marks go, and the twin encodes
        // the whole.
        let said = serde_json::to_string(&(messages, &options.tools, &options.documents, &options.variables));
        let twin = self.plain_twin(&said.unwrap_or_default())?;
        let marked = marks(twin.mark()).everywhere(messages, options);
        let prompt = match &marked {
            Some((messages, options)) => self.render_marked(messages, options, Some(twin.mark()))?,
            None => self.render_chat(messages, options)?,
        };
        let (mut renamed, mut end) = (String::with_capacity(prompt.len()), 0);
        for (at, id, token) in self.inner.control.find_in(&prompt) {
            renamed.push_str(&prompt[end..at]);
            renamed.extend(twin.name(id));
            end = at + token.len();
        }
        renamed.push_str(&prompt[end..]);
        renamed.retain(|c| c != twin.mark());
        Ok(encode(twin.tokenizer(), &renamed)?.get_ids().to_vec())
    }
}

/// Puts a mark within every control token that is spelled in what a template is given.
struct Marks<'a> {
    tokenizer: &'a Tokenizer,
    mark: char,
}

impl Marks<'_> {
    /// Everything with marks; `None` where there is nothing to mark.
    fn everywhere(&self, messages: &[Message], options: &ChatOptions) -> Option<(Vec<Message>, ChatOptions)> {
        let mut any = false;
        let mut said = messages.to_vec();
        for message in &mut said {
            let assistant = message.role == "assistant";
            let in_list = message.content.is_array();
            any |= self.text(&mut message.role, false, false);
            any |= self.value(&mut message.content, assistant, in_list);
            for (_, value) in &mut message.fields {
                any |= self.value(value, assistant, false);
            }
        }
        let mut options = options.clone();
        let lists = [&mut options.tools, &mut options.documents].into_iter().flatten().flatten();
        for value in lists.chain(options.variables.values_mut()) {
            any |= self.value(value, false, false);
        }
        any.then_some((said, options))
    }

    /// Marks the strings within `value`, keys included, and tells whether there was anything to mark.
    fn value(&self, value: &mut Value, assistant: bool, in_list: bool) -> bool {
        match value {
            Value::String(text) => self.text(text, assistant, in_list),
            Value::Array(items) => items.iter_mut().fold(false, |any, item| self.value(item, assistant, in_list) | any),
            Value::Object(fields) if !is_number(fields) => {
                let mut any = false;
                let entries = std::mem::take(fields).into_iter().map(|(mut key, mut value)| {
                    any |= self.text(&mut key, assistant, false) | self.value(&mut value, assistant, in_list);
                    (key, value)
                });
                *fields = entries.collect();
                any
            }
            _ => false,
        }
    }

    /// Marks `text`. The parts of a list may be joined by the template, so there the beginning of a control token at
    /// the end of a text is marked too.
    fn text(&self, text: &mut String, assistant: bool, in_list: bool) -> bool {
        let mut done = 0;
        while let Some(at) = self.foreign(&text[done..], assistant) {
            done = self.insert(text, done + at);
        }
        if in_list && let Some(at) = self.control().begins_at_end_of(text) {
            done = self.insert(text, at);
        }
        done > 0
    }

    /// Puts a mark after the first character of the token at `at`, and tells where what follows begins.
    fn insert(&self, text: &mut String, at: usize) -> usize {
        let first = text[at..].chars().next().map_or(0, char::len_utf8);
        text.insert(at + first, self.mark);
        at + first + self.mark.len_utf8()
    }

    /// Where the first control token begins that `text` spells and may not be.
    fn foreign(&self, text: &str, assistant: bool) -> Option<usize> {
        let mut found = self.control().find_in(text);
        found.find(|(_, id, _)| !assistant || self.tokenizer.is_special(*id)).map(|(at, ..)| at)
    }

    fn control(&self) -> &ControlTokens {
        &self.tokenizer.inner.control
    }
}
