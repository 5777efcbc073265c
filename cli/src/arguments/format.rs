//! Arguments that hold an answer to a format.

use anyhow::Context as _;
use clap::Args;
use haikuq::runner::Runner;
use haikuq_grammar::{Format, Matcher, Vocabulary};
use haikuq_runtime::text::{Tokenizer, read_json};
use std::path::{Path, PathBuf};

/// Largest file of a schema or a grammar that is read.
const MAX_BYTES: u64 = 4 << 20;

/// What an answer is to be.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Format")]
pub struct FormatArgs {
    /// Answer with a JSON object
    #[arg(long, group = "format")]
    json_object: bool,
    /// Answer with JSON that validates against the schema in this file
    #[arg(long, value_name = "FILE", group = "format")]
    json_schema: Option<PathBuf>,
    /// Answer with text that this regular expression matches as a whole
    #[arg(long, value_name = "REGEX", group = "format")]
    regex: Option<String>,
    /// Answer with text of the grammar in this file, in llguidance's variant of Lark
    #[arg(long, value_name = "FILE", group = "format")]
    grammar: Option<PathBuf>,
}

/// A format, and a vocabulary that it is compiled for.
pub struct Formatting {
    format: Format,
    vocabulary: Vocabulary,
    /// The file or argument that it came from.
    of: String,
}

impl FormatArgs {
    /// What was asked for, as it can be read before a package is loaded.
    fn format(&self) -> anyhow::Result<Option<(Format, String)>> {
        let read = |path: &Path| haikuq_files::read_at_most(path, MAX_BYTES).with_context(|| path.display().to_string());
        Ok(if self.json_object {
            Some((Format::JsonObject, "--json-object".into()))
        } else if let Some(path) = &self.json_schema {
            let schema = read_json(&read(path)?).with_context(|| format!("{}: no JSON schema", path.display()))?;
            Some((Format::JsonSchema(schema), path.display().to_string()))
        } else if let Some(regex) = &self.regex {
            Some((Format::Regex(regex.clone()), "--regex".into()))
        } else if let Some(path) = &self.grammar {
            let text = String::from_utf8(read(path)?).with_context(|| format!("{}: no text", path.display()))?;
            Some((Format::Grammar(text), path.display().to_string()))
        } else {
            None
        })
    }

    /// What was asked for, for texts that end with one of `ends`. A format that cannot be kept is refused here, before anything is
    /// written.
    ///
    /// # Errors
    /// If a file cannot be read, or the format cannot be kept.
    pub fn resolve(&self, runner: &Runner, tokenizer: &Tokenizer, ends: &[u32]) -> anyhow::Result<Option<Formatting>> {
        let Some((format, of)) = self.format()? else { return Ok(None) };
        let vocabulary = Vocabulary::of_tokenizer(tokenizer, runner.decoder.spec().vocab_size, ends)?;
        let formatting = Formatting { format, vocabulary, of };
        formatting.matcher()?;
        Ok(Some(formatting))
    }
}

impl Formatting {
    /// The format at the beginning of a text.
    ///
    /// # Errors
    /// If it cannot be kept.
    pub fn matcher(&self) -> anyhow::Result<Matcher> {
        self.vocabulary.matcher(&self.format).with_context(|| self.of.clone())
    }
}
