//! `haikuq convert`: a checkpoint becomes a package.

use super::Context;
use super::checkpoint_argument::{CHECKPOINT_HELP, HubArgs};
use super::convert_calibration::Calibrating;
use super::convert_device::DeviceArgs;
use super::convert_progress::{ConvertProgress, duration};
use super::convert_report::{plan_json, plan_text, result_json, result_text, summary};
use super::convert_spill::Spill;
use super::convert_timings::{timings_json, timings_text};
use super::units::{human_bytes, parse_bytes};
use crate::architecture::Decoder;
use crate::calibrate::{self, CalibrationSource};
use crate::checkpoint::Checkpoint;
use crate::convert::{self, Estimate, Options, Plan, Speeds, memory};
use crate::quantize::Choice;
use crate::quantize::{Equalized, Recipe};
use crate::timings::{Step, Timings};
use crate::tokenizer::Findings;
use crate::zeros::{give_back, keep_large_buffers};
use anyhow::Context as _;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Expected times are told from here on.
const TOLD_SECONDS: f64 = 20.0;

/// Smallest shard size: below it, headers and padding outweigh the weights.
const MIN_SHARD_BYTES: u64 = 16 << 10;

/// Quantize a checkpoint into a package
#[derive(Args, Debug)]
#[command(after_long_help = CHECKPOINT_HELP)]
pub struct ConvertArgs {
    /// Folder with config.json and safetensors weights or an ONNX export, a .gguf or .onnx file, or a model on the hub
    /// (org/name)
    checkpoint: PathBuf,
    #[command(flatten)]
    hub: HubArgs,
    /// Folder of the package to make
    #[arg(short, long, value_name = "DIR", required_unless_present = "dry_run")]
    out: Option<PathBuf>,
    /// Recipe: q4, q4-small, q3, q3-small, q4-fast, q3-fast, q8, f16, f32, or the path of a .toml file
    #[arg(short, long, value_name = "NAME|FILE.toml", default_value = "q4")]
    recipe: String,
    /// Text that says which errors matter: plain text, chats as .jsonl, or a file made by `haikuq calibrate` (default: a
    /// small built-in text)
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Bits a weight to aim for in place of the recipe's, everything counted
    #[arg(long, value_name = "BITS", conflicts_with = "target_size")]
    target_bits: Option<f64>,
    /// Size of all weight files to aim for in place of the recipe's bits
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    target_size: Option<u64>,
    /// Largest size of a weight file
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = shard_bytes)]
    shard_size: u64,
    /// Threads (default: one a CPU); the package does not depend on it
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Folder for activations that are not needed yet, in place of memory; nothing stays there. Chosen where memory is short
    #[arg(long, value_name = "DIR")]
    spill: Option<PathBuf>,
    /// Print the plan and stop
    #[arg(long)]
    dry_run: bool,
    /// Time between two savings of what `--resume` goes on from beside finished matrices
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    save_interval: u64,
    /// Go on from an interrupted conversion to the same folder
    #[arg(long)]
    resume: bool,
    /// Replace a package at --out, once the new one is complete
    #[arg(long)]
    force: bool,
    /// Print what each step took, by kind of matrix, and how well it used the machine
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
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = args.jobs.map_or(cpus, usize::from);
    let recipe = Recipe::load(&args.recipe)?;
    if recipe.calibrate {
        keep_large_buffers();
    }
    let threads = rayon::ThreadPoolBuilder::new().num_threads(jobs).build()?;
    let timings = Timings::default();
    if let Some(out) = args.out.as_deref().filter(|_| !args.dry_run) {
        convert::check_target(out, args.force, args.resume).with_context(failed)?;
    }
    let located = args.hub.locate(&args.checkpoint, context)?;
    let checkpoint = Checkpoint::open(&located.path).with_context(failed)?;
    let decoder = Decoder::from_checkpoint(checkpoint).with_context(failed)?;
    context.warn(decoder.notes());
    let texts = Findings::of(decoder.checkpoint(), &decoder.spec).with_context(failed)?;
    context.warn(&texts.warnings);
    let recipe = match (args.target_bits, args.target_size) {
        (Some(bits), _) => recipe.with_target(bits)?,
        (None, Some(bytes)) => {
            let bits = Plan::bits_for_size(&decoder.spec, args.shard_size, bytes).with_context(failed)?;
            recipe.with_target(bits)?
        }
        (None, None) => recipe,
    };
    let mut accelerator = if recipe.calibrate { args.device.open(context).with_context(failed)? } else { None };
    let mut speeds = recipe.calibrate.then(|| threads.install(|| Speeds::measure(accelerator.as_deref())));
    let source = args.calibration.as_deref().map_or(CalibrationSource::BuiltIn, CalibrationSource::from_path);
    let is_measured = matches!(source, CalibrationSource::File(_));
    let mut sizes = calibrate::Options::default();
    if is_measured {
        sizes.sensitivity_tokens = 0;
    }
    let candidates = if let Choice::Target { schemes, .. } = &recipe.choice { schemes.len() } else { 0 };
    let estimate = |speeds: Speeds, text: &calibrate::Options| Estimate::new(&decoder.spec, text, candidates, speeds);
    if let Some(found) = speeds.filter(|s| s.gpu.is_some() && args.device.is_auto()) {
        let without = Speeds { gpu: None, ..found };
        let [with_gpu, alone] = [found, without].map(|s| estimate(s, &sizes).seconds());
        if alone < with_gpu {
            let [with_gpu, alone] = [with_gpu, alone].map(duration);
            context.note(format_args!(
                "the processor computes, in about {alone}; --device gpu uses the GPU, which would take about {with_gpu}"
            ));
            (accelerator, speeds) = (None, Some(without));
        }
    }
    let expected = |text: &calibrate::Options| speeds.map(|s| estimate(s, text));
    let spill = Spill { named: args.spill.as_deref(), out: args.out.as_deref().filter(|_| !args.dry_run), context };
    if let Some(estimate) = expected(&sizes).filter(|e| !is_measured && e.seconds() > TOLD_SECONDS) {
        context.note(format_args!("this will take about {} in all", duration(estimate.seconds())));
    }
    let calibration = match recipe.calibrate {
        true => {
            let calibrating = Calibrating {
                source: &source,
                spill: match is_measured {
                    true => None,
                    false => {
                        let memory = |spilled| memory::measuring(&decoder.spec, &sizes, jobs, spilled);
                        spill.folder("calibration", memory(false), memory(true))
                    }
                },
                out: args.out.as_deref().filter(|_| !args.dry_run),
                resume: args.resume,
                threads: &threads,
                accelerator: accelerator.as_ref(),
                timings: &timings,
            };
            Some(calibrating.load(&decoder, context).with_context(failed)?)
        }
        false if args.calibration.is_some() => {
            anyhow::bail!("recipe {} rounds without calibration, so --calibration has no use; q4 and q3 use it", recipe.name)
        }
        false => None,
    };
    give_back();
    let weights = timings.measure(Step::Equalization, "", 0.0, || threads.install(|| Equalized::for_recipe(&decoder, &recipe)));
    let weights = weights.with_context(failed)?;
    let choose = || threads.install(|| convert::choose_schemes(&weights, &recipe, calibration.as_ref()));
    let (schemes, losses) = timings.measure(Step::Schemes, "", 0.0, choose).with_context(failed)?;
    let mut plan = Plan::new(&decoder.spec, &recipe.name, schemes, args.shard_size, jobs).with_context(failed)?;
    let spill = match &calibration {
        Some(c) if accelerator.is_none() => {
            let memory = |spilled| memory::rounding(&decoder.spec, &c.sizes(), jobs, spilled);
            spill.folder("rounding", memory(false), memory(true))
        }
        // A GPU has them in its own memory.
        _ => args.spill.clone(),
    };
    plan.expect(&decoder.spec, losses, calibration.as_ref(), spill.is_some());
    let estimate = calibration.as_ref().and_then(|c| {
        let sensitivity_tokens = if is_measured { 0 } else { c.sensitivity_tokens };
        expected(&calibrate::Options { sensitivity_tokens, ..c.sizes() })
    });
    let seconds = estimate.as_ref().map(Estimate::seconds);
    let Some(out) = args.out.filter(|_| !args.dry_run) else {
        match args.json {
            true => context.print_json(&plan_json(&plan, estimate.as_ref(), &texts))?,
            false => context.print(plan_text(&plan, seconds, &texts))?,
        }
        return Ok(ExitCode::SUCCESS);
    };
    context.note(format_args!("{}\n{}", summary(&plan, seconds), texts.text()));
    let options = Options {
        out,
        jobs,
        resume: args.resume,
        force: args.force,
        save_interval: Duration::from_secs(args.save_interval),
        accelerator,
        spill,
        hub: located.hub,
    };
    let progress = ConvertProgress::new(context, &plan, args.json);
    let advance = |p: convert::Progress<'_>| progress.advance(p);
    let result = convert::convert(&weights, &recipe, &plan, calibration.as_ref(), &options, &timings, &advance);
    let costs = progress.finish();
    let manifest = result.with_context(failed)?;
    context.warn(&convert::heavy_losses(&manifest));
    match args.json {
        true => {
            let mut result = result_json(&options, &manifest, &costs);
            if args.timings {
                result["timings"] = timings_json(&timings, jobs, &threads);
            }
            context.print_json(&result)?;
        }
        false => {
            if args.timings {
                context.print(timings_text(&timings, jobs, &threads))?;
            }
            context.print(result_text(&options, &manifest, &costs))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
