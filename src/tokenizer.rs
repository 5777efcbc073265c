//! The tokenizer of a checkpoint, looked at once before anything is converted: whether it can be read, whether its ids are
//! the model's, whether a chat model has a chat template, and which tokens end a text.

use crate::checkpoint::{Checkpoint, Companion};
use haikuq_format::DecoderSpec;
use haikuq_runtime::package::additional_chat_template_name;
use haikuq_runtime::text::{EndToken, GenerationDefaults, TextError, Tokenizer, TokenizerFiles};
use serde_json::{Value, json};

/// Tokens with which turns of conversations end: a model whose texts end with one was made to chat.
const TURN_ENDS: [&str; 6] = ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|end_of_turn|>", "<|eom_id|>"];

/// What is wrong with the files of a tokenizer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file that is no file of a tokenizer.
    #[error("{file} {why}")]
    File {
        /// Its name.
        file: String,
        /// What it is, and what to do.
        why: String,
    },
    /// A file that cannot be understood.
    #[error(transparent)]
    Text(#[from] TextError),
    /// There is none.
    #[error("{0}")]
    Missing(String),
}

/// Refuses texts of another encoding and files without a text; pointers and pages were refused when they were read.
fn check_file(companion: &Companion) -> Result<(), TokenizerError> {
    let Companion { name, bytes } = companion;
    let refuse = |why: &str| Err(TokenizerError::File { file: name.clone(), why: why.into() });
    let start = bytes.trim_ascii_start();
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return refuse("is in UTF-16: save it in UTF-8");
    }
    if start.is_empty() && name.ends_with(".json") {
        return refuse("is empty: download it again");
    }
    Ok(())
}

/// The tokenizer that files of a checkpoint or package make; none without `tokenizer.json`.
///
/// # Errors
/// If a file is another thing than its name says, or cannot be understood.
pub fn from_companions(companions: &[Companion]) -> Result<Option<Tokenizer>, TokenizerError> {
    companions.iter().try_for_each(check_file)?;
    let find = |name: &str| companions.iter().find(|c| c.name == name).map(|c| c.bytes.as_slice());
    let text = |c: &Companion| {
        let wrong = |_| TokenizerError::File { file: c.name.clone(), why: "is no UTF-8".into() };
        String::from_utf8(c.bytes.clone()).map_err(wrong)
    };
    let Some(tokenizer) = find("tokenizer.json") else { return Ok(None) };
    let template = companions.iter().find(|c| c.name == "chat_template.jinja").map(text).transpose()?;
    let named = companions.iter().filter_map(|c| Some((additional_chat_template_name(&c.name)?, c)));
    let others = named.map(|(name, c)| Ok((name, text(c)?))).collect::<Result<Vec<_>, TokenizerError>>()?;
    let others: Vec<(&str, &str)> = others.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let mut files = TokenizerFiles::new(tokenizer);
    files.config = find("tokenizer_config.json");
    files.special_tokens_map = find("special_tokens_map.json");
    files.chat_template = template.as_deref();
    files.additional_chat_templates = &others;
    Ok(Some(Tokenizer::from_files(files)?))
}

/// The tokenizer of a checkpoint.
///
/// # Errors
/// As [`from_companions`], or if there is none.
pub fn of_checkpoint(checkpoint: &Checkpoint) -> Result<Tokenizer, TokenizerError> {
    from_companions(checkpoint.companions())?.ok_or_else(|| TokenizerError::Missing(missing_tokenizer(folder_of(checkpoint))))
}

/// What is known of a checkpoint's texts.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Tokens that end a text, by id.
    pub end_tokens: Vec<(EndToken, Option<String>)>,
    /// What a user should know, a sentence each.
    pub warnings: Vec<String>,
}

impl Findings {
    /// Looks at the tokenizer of `checkpoint`, whose decoder is `spec`.
    ///
    /// # Errors
    /// As [`from_companions`].
    pub fn of(checkpoint: &Checkpoint, spec: &DecoderSpec) -> Result<Self, TokenizerError> {
        let tokenizer = from_companions(checkpoint.companions())?;
        let defaults = checkpoint.companion("generation_config.json").map(GenerationDefaults::from_json).transpose()?;
        let ends = defaults.unwrap_or_default().end_tokens(spec, tokenizer.as_ref());
        let spelled = |end: EndToken| {
            let token = tokenizer.as_ref().and_then(|t| t.token(end.id));
            (end, token)
        };
        let mut findings = Self { end_tokens: ends.into_iter().map(spelled).collect(), warnings: Vec::new() };
        match &tokenizer {
            Some(tokenizer) => {
                findings.compare_sizes(tokenizer, spec);
                findings.look_for_template(tokenizer, checkpoint);
            }
            // GGUF files say so themselves.
            None if checkpoint.warnings().iter().any(|w| w.contains("has no tokenizer")) => {}
            None => findings.warnings.push(no_tokenizer(checkpoint)),
        }
        Ok(findings)
    }

    fn compare_sizes(&mut self, tokenizer: &Tokenizer, spec: &DecoderSpec) {
        let rows = spec.vocab_size;
        let beyond: Vec<(u32, String)> = tokenizer.tokens_from(rows);
        if let Some((id, token)) = beyond.first() {
            let others = if beyond.len() > 1 { format!(" and {} more", beyond.len() - 1) } else { String::new() };
            self.warnings.push(format!(
                "the tokenizer has tokens that the model has no row for: {token:?} is {id}{others}, and the embedding has \
                 {rows} rows; a text with one cannot be run. Enlarge the embedding with transformers' \
                 resize_token_embeddings, or take the token out of tokenizer.json"
            ));
        }
        let size = tokenizer.vocab_size();
        // Embeddings are padded to round sizes, by a percent or two.
        if size < rows && rows - size > (rows / 10).max(1024) {
            self.warnings.push(format!(
                "the tokenizer has {size} tokens and the embedding {rows} rows: is it this model's? The rows beyond have no text"
            ));
        }
    }

    fn look_for_template(&mut self, tokenizer: &Tokenizer, checkpoint: &Checkpoint) {
        if tokenizer.chat_template_names().next().is_some() {
            return;
        }
        let folder = std::path::absolute(checkpoint.path()).unwrap_or_default();
        let name = folder.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let by_name = name.split(|c: char| !c.is_alphanumeric()).any(|w| ["instruct", "chat", "it"].contains(&w));
        let ends = |(_, token): &(EndToken, Option<String>)| token.as_deref().is_some_and(|t| TURN_ENDS.contains(&t));
        if by_name || self.end_tokens.iter().any(ends) {
            self.warnings.push(
                "this looks like a chat model, and it has no chat template: `haikuq chat` and conversations in pages will be \
                 refused. Put the model's chat_template.jinja beside its weights, or a \"chat_template\" into \
                 tokenizer_config.json"
                    .into(),
            );
        }
    }

    /// A line on the tokens that end a text; none without any.
    pub fn text(&self) -> String {
        let one = |(end, token): &(EndToken, Option<String>)| {
            let sources: Vec<String> = end.sources.iter().map(ToString::to_string).collect();
            let token = token.as_ref().map_or_else(String::new, |t| format!(" {t:?}"));
            format!("{}{token} ({})", end.id, sources.join(", "))
        };
        match self.end_tokens.is_empty() {
            true => "no token ends a text".into(),
            false => format!("a text ends with {}", self.end_tokens.iter().map(one).collect::<Vec<_>>().join(" or ")),
        }
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let one = |(end, token): &(EndToken, Option<String>)| {
            let sources: Vec<String> = end.sources.iter().map(ToString::to_string).collect();
            json!({"id": end.id, "token": token, "sources": sources})
        };
        self.end_tokens.iter().map(one).collect()
    }
}

/// What is missing, and the way out where there is a tokenizer of another kind.
fn no_tokenizer(checkpoint: &Checkpoint) -> String {
    format!("{}; the package will read and write token ids alone", missing_tokenizer(folder_of(checkpoint)))
}

fn folder_of(checkpoint: &Checkpoint) -> &std::path::Path {
    let path = checkpoint.path();
    if path.is_dir() { path } else { path.parent().unwrap_or(path) }
}

/// That a folder has no tokenizer, and what to do.
pub fn missing_tokenizer(folder: &std::path::Path) -> String {
    let others = ["tokenizer.model", "tekken.json", "vocab.json", "vocab.txt", "qwen.tiktoken"];
    let missing = format!("{} has no tokenizer.json", folder.display());
    match others.iter().find(|name| folder.join(name).is_file()) {
        Some(other) => format!(
            "{missing}; make one of its {other} with Hugging Face transformers: \
             AutoTokenizer.from_pretrained({0:?}).save_pretrained({0:?})",
            folder.display().to_string()
        ),
        None => missing,
    }
}
