//! The command line: the verbs, and what they share.
//!
//! Data goes to stdout and talk to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 validation below its
//! thresholds.

use crate::output::Context;
use crate::verbs::{
    bench, calibrate, chat, completions, convert, diff, doctor, export, fleet, golden, inspect, merge, publish, run, score,
    serve, site, validate, verify,
};
use clap::{ArgAction, Parser, Subcommand};
use std::process::ExitCode;

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
    Merge(merge::MergeArgs),
    Calibrate(calibrate::CalibrateArgs),
    Inspect(inspect::InspectArgs),
    Verify(verify::VerifyArgs),
    Diff(diff::DiffArgs),
    Export(export::ExportArgs),
    Publish(publish::PublishArgs),
    Fleet(fleet::FleetArgs),
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
            Self::Merge(args) => merge::run(args, context),
            Self::Calibrate(args) => calibrate::run(args, context),
            Self::Inspect(args) => inspect::run(args, context),
            Self::Verify(args) => verify::run(args, context),
            Self::Diff(args) => diff::run(args, context),
            Self::Export(args) => export::run(args, context),
            Self::Publish(args) => publish::run(args, context),
            Self::Fleet(args) => fleet::run(args, context),
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
