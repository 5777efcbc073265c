//! `haikuq completions`: shell completions and the man pages, made from the argument definitions.

use crate::command::Cli;
use crate::output::Context;
use anyhow::Context as _;
use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;
use std::path::PathBuf;
use std::process::ExitCode;

/// Print shell completions or write the man pages
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// Shell to print completions for
    #[arg(value_enum, required_unless_present = "man")]
    shell: Option<Shell>,
    /// Write haikuq.1 and a page for every verb into this folder instead
    #[arg(long, value_name = "DIR", conflicts_with = "shell")]
    man: Option<PathBuf>,
}

/// Prints completions to stdout, or writes man pages.
pub fn run(args: CompletionsArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let mut command = Cli::command();
    if let Some(folder) = args.man {
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        clap_mangen::generate_to(command, &folder).with_context(|| format!("cannot write man pages to {}", folder.display()))?;
        context.note(format_args!("man pages are in {}", folder.display()));
        return Ok(ExitCode::SUCCESS);
    }
    let shell = args.shell.or_else(Shell::from_env).with_context(|| format!("name a shell: {}", shells()))?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "haikuq", &mut script);
    context.print(String::from_utf8_lossy(&script).trim_end())?;
    Ok(ExitCode::SUCCESS)
}

fn shells() -> String {
    Shell::value_variants().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
