//! What every verb shares: the global flags and the two streams.

use serde::Serialize;
use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

/// What every verb shares: the GPU asked for, how much to say, and where to say it.
#[derive(Debug)]
pub struct Context {
    /// GPU asked for with `--adapter` or `HAIKUQ_ADAPTER`.
    pub adapter: Option<String>,
    quiet: bool,
}

impl Context {
    /// Sets up logging to stderr: warnings, with `-v` information, with `-vv` everything, with `-q` errors alone.
    /// `HAIKUQ_LOG` overrides it with a filter such as `haikuq=debug`.
    pub fn new(adapter: Option<String>, verbose: u8, quiet: bool) -> Self {
        let level = match (quiet, verbose) {
            (true, _) => "error",
            (_, 0) => "warn",
            (_, 1) => "warn,haikuq=info,haikuq_runtime=info",
            _ => "info,haikuq=debug,haikuq_runtime=debug",
        };
        let filter = tracing_subscriber::EnvFilter::try_from_env("HAIKUQ_LOG").unwrap_or_else(|_| level.into());
        // A second set-up (tests) keeps the first.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
            .without_time()
            .try_init();
        Self { adapter, quiet }
    }

    /// Data: one line or block of text to stdout, with a final newline.
    ///
    /// # Errors
    /// If stdout cannot be written; a reader that left early ends the program quietly in [`Context::finish`].
    pub fn print(&self, text: impl std::fmt::Display) -> anyhow::Result<()> {
        Ok(writeln!(io::stdout().lock(), "{}", harmless(&text.to_string()))?)
    }

    /// Data: a value as indented JSON to stdout.
    ///
    /// # Errors
    /// As [`Context::print`].
    pub fn print_json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        self.print(serde_json::to_string_pretty(value)?)
    }

    /// Talk: one line to stderr, unless `--quiet`.
    pub fn note(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            // There is nobody left to tell if stderr itself is closed.
            let _ = writeln!(io::stderr().lock(), "{}", harmless(&text.to_string()));
        }
    }

    /// Talk: what a user should know, a line each to stderr, unless `--quiet`.
    pub fn warn(&self, warnings: &[String]) {
        for warning in warnings {
            self.note(format_args!("haikuq: warning: {warning}"));
        }
    }

    /// Whether progress may be drawn in place: stderr is a terminal and `--quiet` was not given.
    pub fn draws_progress(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }
    /// The exit code of a verb's result. An error's chain is printed once, to stderr.
    pub fn finish(&self, result: anyhow::Result<ExitCode>) -> ExitCode {
        let error = match result.and_then(|code| io::stdout().flush().map(|()| code).map_err(Into::into)) {
            Ok(code) => return code,
            Err(error) => error,
        };
        if is_broken_pipe(&error) {
            return ExitCode::SUCCESS;
        }
        let _ = writeln!(io::stderr().lock(), "haikuq: error: {}", harmless(&describe(&error)));
        ExitCode::FAILURE
    }
}

/// `text` with control characters as JSON spells them, but for ends of lines and tabs: names, templates and manifests come
/// from files, and a terminal obeys what it is sent. No output of this program needs any.
pub fn harmless(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(obeyed) {
        return text.into();
    }
    let escape = |mut out: String, c: char| {
        match obeyed(c) {
            true => out += &format!("\\u{:04x}", u32::from(c)),
            false => out.push(c),
        }
        out
    };
    text.chars().fold(String::with_capacity(text.len()), escape).into()
}

/// The reader of stdout (`head`, a pager) has seen enough: that is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}

/// An error and its causes, a line each; causes that the line before already quotes are left out.
fn describe(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    let mut last = text.clone();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !last.contains(&cause) {
            text += &format!("\n  caused by: {cause}");
            last = cause;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn no_file_commands_the_terminal() {
        assert_eq!(harmless("a\tb\né"), "a\tb\né");
        assert_eq!(harmless("\u{1b}]0;title\u{7}\u{9b}31m\r\u{7f}"), "\\u001b]0;title\\u0007\\u009b31m\\u000d\\u007f");
    }

    #[test]
    fn the_chain_is_told_once() {
        let io = io::Error::new(io::ErrorKind::NotFound, "no such file");
        let error = Err::<(), _>(io).context("model.safetensors: no such file").context("cannot convert").unwrap_err();
        assert_eq!(describe(&error), "cannot convert\n  caused by: model.safetensors: no such file");
    }
}
