//! `haikuq convert`: a checkpoint becomes a package.

mod notes;
mod progress;
mod report;
mod timings;

use crate::arguments::checkpoint::{CHECKPOINT_HELP, HubArgs};
use crate::arguments::device::DeviceArgs;
use crate::output::Context;
use crate::output::units::{human_bytes, parse_bytes};
use anyhow::Context as _;
use clap::Args;
use haikuq::calibrate::CalibrationSource;
use haikuq::convert::memory::keep_large_buffers;
use haikuq::convert::{self, Conversion, Part, Target};
use haikuq::quantize::Recipe;
pub use progress::ConvertProgress;
use report::{part_json, part_text, plan_json, plan_text, result_json, result_text};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use timings::{timings_json, timings_text};

/// Smallest shard size: below it, headers and padding outweigh the weights.
const MIN_SHARD_BYTES: u64 = 16 << 10;

/// The first lines of the help.
const EXAMPLES: &str = "\
haikuq convert SmolLM2-135M --out smollm2.q4                        a folder
haikuq convert HuggingFaceTB/SmolLM2-135M --out smollm2.q4          a model on the hub
haikuq convert model-f16.gguf -r q3 --calibration text.txt -o m.q3  3 bits, by a text
haikuq convert SmolLM2-135M --dry-run                               plan, size, time, memory";

/// Quantize a checkpoint into a package
#[derive(Args, Debug)]
#[command(before_help = EXAMPLES, after_help = CHECKPOINT_HELP)]
pub struct ConvertArgs {
    /// A folder, a .gguf or .onnx file, or a model on the hub (org/name)
    checkpoint: PathBuf,
    #[command(flatten)]
    hub: HubArgs,
    /// Folder of the package to make
    #[arg(short, long, value_name = "DIR", required_unless_present = "dry_run")]
    out: Option<PathBuf>,
    /// q4, q4-small, q3, q3-small, q4-fast, q3-fast, q4-uniform, q8, f16, f32, or a .toml file
    #[arg(short, long, value_name = "NAME|FILE.toml", default_value = "q4")]
    recipe: String,
    /// Text, chats as .jsonl, or a file of `haikuq calibrate` [default: a built-in text]
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Bits a weight to aim for, everything counted
    #[arg(long, value_name = "BITS", conflicts_with = "target_size")]
    target_bits: Option<f64>,
    /// Size of all weight files to aim for
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    target_size: Option<u64>,
    /// Largest size of a weight file
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = shard_bytes)]
    shard_size: u64,
    /// Threads; the package does not depend on it [default: one a CPU]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Folder for waiting activations [default: memory, or disk where it is short]
    #[arg(long, value_name = "DIR")]
    spill: Option<PathBuf>,
    /// Print the plan and stop
    #[arg(long)]
    dry_run: bool,
    /// Make part I of N alone, of a recipe without calibration; `haikuq merge` makes the package of all parts
    #[arg(long, value_name = "I/N", conflicts_with_all = ["dry_run", "timings"])]
    part: Option<Part>,
    /// Time between two savings for --resume
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    save_interval: u64,
    /// Go on from an interrupted conversion to the same folder
    #[arg(long)]
    resume: bool,
    /// Replace a package at --out, once the new one is complete
    #[arg(long)]
    force: bool,
    /// Print how long each step took, and its share of the machine's speed
    #[arg(long)]
    timings: bool,
    /// Print the plan or the result as JSON
    #[arg(long)]
    json: bool,
}

fn shard_bytes(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        bytes if bytes < MIN_SHARD_BYTES => Err(format!("at least {} are needed", human_bytes(MIN_SHARD_BYTES))),
        bytes => Ok(bytes),
    }
}

/// Plans, and unless it is a dry run, converts.
pub fn run(args: ConvertArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let failed = || format!("cannot convert {}", args.checkpoint.display());
    let recipe = Recipe::load(&args.recipe)?;
    if recipe.calibrate {
        keep_large_buffers();
    }
    let out = args.out.as_deref().filter(|_| !args.dry_run);
    if let Some(out) = out {
        // Before anything is downloaded.
        let checked = match args.part {
            Some(_) => convert::check_part_target(out, args.resume),
            None => convert::check_target(out, args.force, args.resume),
        };
        checked.with_context(failed)?;
    }
    let located = args.hub.locate(&args.checkpoint, context)?;
    let mut conversion = Conversion::new(located.path, recipe)
        .hub(located.hub)
        .text_only(args.hub.text_only)
        .shard_bytes(args.shard_size)
        .device(args.device.choice(context))
        .save_interval(Duration::from_secs(args.save_interval))
        .resume(args.resume)
        .force(args.force);
    if let Some(target) = args.target_bits.map(Target::Bits).or(args.target_size.map(Target::Bytes)) {
        conversion = conversion.target(target);
    }
    if let Some(path) = &args.calibration {
        conversion = conversion.calibration(CalibrationSource::from_path(path));
    }
    if let Some(jobs) = args.jobs {
        conversion = conversion.jobs(jobs.into());
    }
    if let Some(folder) = &args.spill {
        conversion = conversion.spill(folder);
    }
    let progress = ConvertProgress::new(context, args.json);
    let observe = |event: convert::Event<'_>| progress.take(event);
    let Some(out) = out else {
        let planned = conversion.plan(&observe).with_context(failed)?;
        match args.json {
            true => context.print_json(&plan_json(&planned))?,
            false => context.print(plan_text(&planned))?,
        }
        return Ok(ExitCode::SUCCESS);
    };
    if let Some(part) = args.part {
        let result = conversion.run_part(part, out, &observe);
        progress.finish();
        let converted = result.with_context(failed)?;
        match args.json {
            true => context.print_json(&part_json(out, &converted))?,
            false => context.print(part_text(out, &converted))?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let result = conversion.run(out, &observe);
    let costs = progress.finish();
    let converted = result.with_context(failed)?;
    context.warn(&convert::heavy_losses(&converted.manifest));
    match args.json {
        true => {
            let mut result = result_json(out, &converted.manifest, &costs);
            if args.timings {
                result["timings"] = timings_json(&converted);
            }
            context.print_json(&result)?;
        }
        false => {
            if args.timings {
                context.print(timings_text(&converted))?;
            }
            context.print(result_text(out, &converted.manifest, &costs))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
