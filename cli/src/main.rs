//! The `haikuq` command: parse, choose, run, exit code.

mod arguments;
mod browser;
mod command;
mod fleet;
mod model;
mod output;
mod scored;
mod verbs;

use clap::Parser;
use command::Cli;
use std::process::ExitCode;

/// Exit code of a validation that ran and found the package below a threshold.
const BELOW_THRESHOLDS: u8 = 3;

fn main() -> ExitCode {
    spare_candle_its_threads();
    let cli = Cli::parse();
    let (command, context) = cli.prepare();
    let result = command.run(&context);
    context.finish(result)
}

/// candle hands parts of every large sum to threads of its own and waits for them, spinning. Whatever takes long here runs
/// on rayon's threads, several of which do such sums at a time, so that most would wait.
fn spare_candle_its_threads() {
    const THREADS: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(THREADS).is_none() {
        // SAFETY: this is the program's first statement, so that no other thread reads the environment.
        unsafe { std::env::set_var(THREADS, "1") };
    }
}
