//! `haikuq fleet`: a list of models becomes packages, on as many machines as there are.

use crate::BELOW_THRESHOLDS;
use crate::fleet::job::{State, Work};
use crate::fleet::list::List;
use crate::fleet::machine::Machine;
use crate::fleet::schedule::{costs, schedule};
use crate::fleet::status::{Counts, Status};
use crate::output::Context;
use crate::output::table::Table;
use crate::output::units::human_bytes;
use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use haikuq_files::write_atomically;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// The first lines of the help.
const EXAMPLES: &str = "\
haikuq fleet models.toml --dry-run                   who does which job
haikuq fleet models.toml                             all of them, here
haikuq fleet models.toml --index 0 --of 8            the jobs of one machine of eight
haikuq fleet status packages --page status.html      where they stand";

/// The last lines.
const SCHEDULERS: &str = "\
Without --index, the scheduler that started this machine tells it: an array of Slurm, an Indexed Job of Kubernetes (with --of or \
JOB_COMPLETIONS), SkyPilot's nodes, a parallel job of GitLab. docs/scale.md has the list's format and a file for each scheduler.";

/// Convert and validate a list of models, on as many machines as there are
///
/// Each job is a model by a recipe. The longest go first. A job that was done is not done again unless something that decides its
/// result is another: checkpoint, recipe, texts, thresholds or version. Exits 1 if a job failed, 3 if one is below its thresholds.
#[derive(Args, Debug)]
#[command(
    before_help = EXAMPLES,
    after_help = SCHEDULERS,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct FleetArgs {
    #[command(subcommand)]
    command: Option<FleetCommand>,
    /// The list of models
    #[arg(required = true, value_name = "MODELS.toml")]
    list: Option<PathBuf>,
    /// Which machine this is, from 0 on
    #[arg(long, value_name = "I")]
    index: Option<usize>,
    /// How many machines there are
    #[arg(long, value_name = "N", value_parser = crate::arguments::positive)]
    of: Option<usize>,
    /// Print who does which job and stop
    #[arg(long)]
    dry_run: bool,
    /// Print jobs or results as JSON
    #[arg(long)]
    json: bool,
}

/// What else there is to a fleet.
#[derive(Subcommand, Debug)]
enum FleetCommand {
    /// Show where the jobs of a fleet stand, from the folders of all its machines
    Status(StatusArgs),
}

#[derive(Args, Debug)]
struct StatusArgs {
    /// Folders of results
    #[arg(required = true, value_name = "DIR")]
    folders: Vec<PathBuf>,
    /// The list of models: jobs that no machine has begun are shown, too
    #[arg(long, value_name = "MODELS.toml")]
    list: Option<PathBuf>,
    /// Write a page with the table
    #[arg(long, value_name = "FILE.html")]
    page: Option<PathBuf>,
    /// Print the records as JSON
    #[arg(long)]
    json: bool,
}

/// Runs this machine's jobs, or shows where all stand.
pub fn run(args: FleetArgs, context: &Context) -> anyhow::Result<ExitCode> {
    if let Some(FleetCommand::Status(args)) = args.command {
        return status(&args, context);
    }
    let Some(path) = &args.list else { bail!("name a list of models") };
    let list = List::read(path)?;
    let machine = Machine::new(args.index, args.of, &|name| std::env::var(name).ok())?;
    let costs = costs(&list.jobs);
    let machines = schedule(&costs, machine.of);
    if args.dry_run {
        return dry_run(&list, &costs, &machines, args.json, context);
    }
    let mine = &machines[machine.index];
    context.note(format_args!("{machine}: {} of {} jobs", mine.len(), list.jobs.len()));
    let mut records = Vec::with_capacity(mine.len());
    for &job in mine {
        let job = &list.jobs[job];
        let record = Work::new(job, &list.out, context).run()?;
        match (&record.error, record.state) {
            (Some(error), _) => context.note(format_args!("{}: failed: {error}", job.name)),
            (None, State::BelowThresholds) => context.note(format_args!("{}: below its thresholds", job.name)),
            (None, _) => context.note(format_args!("{}: done", job.name)),
        }
        records.push(record);
    }
    let counts = Counts::of(&records);
    match args.json {
        true => context.print_json(&json!({
            "schema": "haikuq.fleet/1", "index": machine.index, "of": machine.of, "counts": counts, "jobs": records,
        }))?,
        false => context.print(format_args!("{machine}: {counts}"))?,
    }
    Ok(match counts {
        Counts { failed, .. } if failed > 0 => ExitCode::FAILURE,
        Counts { below_thresholds, .. } if below_thresholds > 0 => ExitCode::from(BELOW_THRESHOLDS),
        _ => ExitCode::SUCCESS,
    })
}

fn dry_run(list: &List, costs: &[u64], machines: &[Vec<usize>], json: bool, context: &Context) -> anyhow::Result<ExitCode> {
    let all = costs.iter().sum::<u64>().max(1) as f64;
    let jobs = || machines.iter().enumerate().flat_map(|(index, jobs)| jobs.iter().map(move |&job| (index, job)));
    if json {
        let job = |(index, job): (usize, usize)| {
            let share = costs[job] as f64 / all;
            json!({"name": list.jobs[job].name, "machine": index, "bytes": list.jobs[job].bytes, "share": share})
        };
        let jobs: Vec<_> = jobs().map(job).collect();
        context.print_json(&json!({"schema": "haikuq.fleet-plan/1", "out": list.out, "of": machines.len(), "jobs": jobs}))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&[">machine", "job", ">checkpoint", ">share of the work"]);
    for (index, job) in jobs() {
        let bytes = list.jobs[job].bytes.map_or("unknown".into(), human_bytes);
        let share = format!("{:.1} %", 100.0 * costs[job] as f64 / all);
        table.row([index.to_string(), list.jobs[job].name.clone(), bytes, share]);
    }
    let load = |jobs: &Vec<usize>| jobs.iter().map(|&job| costs[job]).sum::<u64>();
    let most = machines.iter().map(load).max().unwrap_or(0) as f64;
    context.print(format_args!(
        "{table}\n\n{} jobs on {} machines: the busiest has {:.1} times the mean",
        list.jobs.len(),
        machines.len(),
        most * machines.len() as f64 / all
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn status(args: &StatusArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let mut status = Status::read(&args.folders)?;
    if let Some(list) = &args.list {
        status.expect(&List::read(list)?);
    }
    if let Some(path) = &args.page {
        write_atomically(path, status.page()?.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
        context.note(format_args!("page: {}", path.display()));
    }
    match args.json {
        true => context
            .print_json(&json!({"schema": "haikuq.fleet-status/1", "counts": status.counts(), "jobs": status.records()}))?,
        false => context.print(status.text())?,
    }
    Ok(ExitCode::SUCCESS)
}
