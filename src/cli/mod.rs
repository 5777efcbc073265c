//! The command line: one file a verb, each with its `Args` and a `run` that returns the exit code.
//!
//! Data goes to stdout and talk to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 validation below its
//! thresholds.

mod bench;
mod browser;
mod calibrate;
mod chat;
mod checkpoint_argument;
mod completions;
mod context;
mod convert;
mod convert_calibration;
mod convert_device;
mod convert_progress;
mod convert_report;
mod convert_spill;
mod convert_timings;
mod diff;
mod doctor;
mod generation;
mod golden;
mod hub_progress;
mod inspect;
mod model;
mod progress;
mod run;
mod score;
mod scored;
mod serve;
mod site;
pub mod table;
pub mod units;
mod validate;
mod verify;

pub use context::Context;

use clap::{ArgAction, Parser, Subcommand};
use std::process::ExitCode;

/// Exit code of a validation that ran and found the package below a threshold.
pub const BELOW_THRESHOLDS: u8 = 3;

/// Turn decoder checkpoints into small WebGPU packages, prove them by real inference, and run them.
#[derive(Parser, Debug)]
#[command(
    name = "haikuq",
    version,
    propagate_version = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 validation below its thresholds."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// GPU to use, by a part of its name or by its number in `haikuq doctor`
    #[arg(long, global = true, value_name = "NAME|INDEX", env = "HAIKUQ_ADAPTER")]
    adapter: Option<String>,
    /// Say more (twice: still more)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

/// A verb. Adding one is its file, its line here and its line in [`Command::run`].
#[allow(missing_docs, reason = "each verb's text stands on its Args")]
#[derive(Subcommand, Debug)]
pub enum Command {
    Convert(convert::ConvertArgs),
    Calibrate(calibrate::CalibrateArgs),
    Inspect(inspect::InspectArgs),
    Verify(verify::VerifyArgs),
    Diff(diff::DiffArgs),
    Golden(golden::GoldenArgs),
    Validate(validate::ValidateArgs),
    Score(score::ScoreArgs),
    Run(run::RunArgs),
    Chat(chat::ChatArgs),
    Serve(serve::ServeArgs),
    Site(site::SiteArgs),
    Bench(bench::BenchArgs),
    Doctor(doctor::DoctorArgs),
    Completions(completions::CompletionsArgs),
}

impl Command {
    /// Runs the verb.
    ///
    /// # Errors
    /// Whatever kept it from being done; [`Context::finish`] reports it.
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        match self {
            Self::Convert(args) => convert::run(args, context),
            Self::Calibrate(args) => calibrate::run(args, context),
            Self::Inspect(args) => inspect::run(args, context),
            Self::Verify(args) => verify::run(args, context),
            Self::Diff(args) => diff::run(args, context),
            Self::Golden(args) => golden::run(args, context),
            Self::Validate(args) => validate::run(args, context),
            Self::Score(args) => score::run(args, context),
            Self::Run(args) => run::run(args, context),
            Self::Chat(args) => chat::run(args, context),
            Self::Serve(args) => serve::run(args, context),
            Self::Site(args) => site::run(args, context),
            Self::Bench(args) => bench::run(args, context),
            Self::Doctor(args) => doctor::run(args, context),
            Self::Completions(args) => completions::run(args, context),
        }
    }
}

impl Cli {
    /// From what was typed to what was meant: the verb, and what all verbs share.
    pub fn prepare(self) -> (Command, Context) {
        (self.command, Context::new(self.adapter, self.verbose, self.quiet))
    }
}

/// A whole number of at least 1.
fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(e) => Err(format!("{e}")),
    }
}
