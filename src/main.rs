//! The `haikuq` command: parse, choose, run, exit code.

use clap::Parser;
use haikuq::cli::Cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (command, context) = cli.prepare();
    let result = command.run(&context);
    context.finish(result)
}
