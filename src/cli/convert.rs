//! `haikuq convert`: a checkpoint becomes a package.

use super::checkpoint_argument::{CHECKPOINT_HELP, HubArgs};
use super::convert_device::DeviceArgs;
use super::convert_timings::{timings_json, timings_text};
use super::progress::Progress;
use super::table::{Table, shape};
use super::units::{counted, human_bytes, human_count, parse_bytes};
use super::{Context, convert_progress::ConvertProgress};
use crate::architecture::Decoder;
use crate::calibrate::{self, Calibration, CalibrationSource, sensitivity};
use crate::checkpoint::Checkpoint;
use crate::convert::{self, MatrixCost, Options, Plan};
use crate::quantize::{Equalized, Recipe};
use crate::timings::{Step, Stopwatch, Timings};
use crate::tokenizer::Findings;
use anyhow::Context as _;
use clap::Args;
use haikuq_format::Manifest;
use haikuq_format::scheme::Scheme;
use haikuq_format::spec::TensorClass;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// What quantizing a matrix took.
type Cost = (String, Scheme, MatrixCost);

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
    /// Folder for what calibration keeps of every layer, in place of memory; nothing stays there
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
    let calibration = match recipe.calibrate {
        true => {
            let source = args.calibration.as_deref();
            Some(calibrate(source, &decoder, &threads, &timings, args.spill.clone(), context).with_context(failed)?)
        }
        false if args.calibration.is_some() => {
            anyhow::bail!("recipe {} rounds without calibration, so --calibration has no use; q4 and q3 use it", recipe.name)
        }
        false => None,
    };
    let weights = timings.measure(Step::Equalization, "", 0.0, || threads.install(|| Equalized::for_recipe(&decoder, &recipe)));
    let weights = weights.with_context(failed)?;
    let choose = || threads.install(|| convert::choose_schemes(&weights, &recipe, calibration.as_ref()));
    let (schemes, losses) = timings.measure(Step::Schemes, "", 0.0, choose).with_context(failed)?;
    let mut plan = Plan::new(&decoder.spec, &recipe.name, schemes, args.shard_size, jobs).with_context(failed)?;
    plan.expect(&decoder.spec, losses, calibration.as_ref());
    let Some(out) = args.out.filter(|_| !args.dry_run) else {
        match args.json {
            true => context.print_json(&plan_json(&plan, &texts))?,
            false => context.print(plan_text(&plan, &texts))?,
        }
        return Ok(ExitCode::SUCCESS);
    };
    context.note(format_args!("{}\n{}", summary(&plan), texts.text()));
    let options = Options {
        out,
        jobs,
        resume: args.resume,
        force: args.force,
        save_interval: Duration::from_secs(args.save_interval),
        accelerator: if recipe.calibrate { args.device.open(context).with_context(failed)? } else { None },
        hub: located.hub,
    };
    let progress = ConvertProgress::new(context, plan.weights(), plan.shards.len());
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

/// The calibration that is asked for, measured if need be.
fn calibrate(
    path: Option<&Path>,
    decoder: &Decoder,
    threads: &rayon::ThreadPool,
    timings: &Timings,
    spill: Option<PathBuf>,
    context: &Context,
) -> anyhow::Result<Calibration> {
    let source = path.map_or(CalibrationSource::BuiltIn, CalibrationSource::from_path);
    if source == CalibrationSource::BuiltIn {
        context.note("calibrating on the built-in text; --calibration FILE takes one like what the model will see");
    }
    let folder = decoder.checkpoint().path();
    let mut progress = Progress::new(context, calibrate::sensitivity::steps(&decoder.spec), "steps of calibration");
    let tokenizer = || super::model::open_tokenizer(folder).map_err(|e| e.into_boxed_dyn_error());
    let options = calibrate::Options { spill, ..calibrate::Options::default() };
    let mut watch = Stopwatch::start();
    let mut advance = |done| {
        timings.add(sensitivity::step(&decoder.spec, done), "", watch.lap(sensitivity::flop(&decoder.spec, &options, done)));
        progress.set(done);
    };
    let calibration = threads.install(|| source.load(decoder, tokenizer, &options, &mut advance))?;
    Ok(calibration)
}

fn summary(plan: &Plan) -> String {
    let expected = plan.expected_loss().map_or(String::new(), |kl| format!("; expected KL divergence {kl:.3}"));
    let calibrated = match plan.calibration_tokens {
        0 => String::new(),
        n => format!(", calibrated on {} tokens", human_count(n as u64)),
    };
    format!(
        "{}: {} weights to {} in {}, {:.3} bits a weight{calibrated}{expected}; up to {} of memory with {}",
        plan.recipe,
        human_count(plan.weights()),
        human_bytes(plan.total_bytes()),
        counted(plan.shards.len(), "shard"),
        plan.bits_per_weight(),
        human_bytes(plan.peak_memory()),
        counted(plan.jobs, "thread")
    )
}

fn plan_text(plan: &Plan, texts: &Findings) -> String {
    let mut table = Table::new(&["tensor", ">shape", "scheme", ">bits", ">bytes", ">chunks", ">expected loss"]);
    for (i, t) in plan.tensors.iter().enumerate() {
        let loss = plan.losses.as_ref().map_or(0.0, |l| l[i]);
        let bits = format!("{:.3}", t.scheme.bits_per_weight());
        table.row([
            t.name.clone(),
            shape(&t.shape),
            t.scheme.to_string(),
            bits,
            t.bytes().to_string(),
            t.chunks.len().to_string(),
            if loss > 0.0 { format!("{loss:.5}") } else { String::new() },
        ]);
    }
    format!("{table}\n\n{}\n{}", summary(plan), texts.text())
}

fn plan_json(plan: &Plan, texts: &Findings) -> Value {
    let tensor = |t: &haikuq_format::manifest::TensorEntry| {
        json!({"name": t.name, "class": t.class, "shape": t.shape, "scheme": t.scheme.to_string(),
               "bits": t.scheme.bits_per_weight(), "bytes": t.bytes(), "chunks": t.chunks.len()})
    };
    json!({
        "schema": "haikuq.plan/1",
        "recipe": plan.recipe,
        "tensors": plan.tensors.iter().map(tensor).collect::<Vec<_>>(),
        "shards": plan.shards.iter().map(|s| json!({"name": s.name, "bytes": s.layout.file_bytes})).collect::<Vec<_>>(),
        "weights": plan.weights(),
        "bytes": plan.total_bytes(),
        "bits_per_weight": plan.bits_per_weight(),
        "expected_kl": plan.expected_loss(),
        "jobs": plan.jobs,
        "peak_memory_bytes": plan.peak_memory(),
        "end_tokens": texts.json(),
    })
}

fn result_text(options: &Options, manifest: &Manifest, costs: &[Cost]) -> String {
    let mut text = format!(
        "{}: {} in {}, {:.3} bits a weight",
        options.out.display(),
        human_bytes(manifest.weight_bytes()),
        counted(manifest.shards.len(), "shard"),
        manifest.bits_per_weight()
    );
    let errors = |t: &&haikuq_format::manifest::TensorEntry| t.class != TensorClass::Vector && t.relative_error > Some(0.0);
    let worst = manifest
        .tensors
        .iter()
        .filter(errors)
        .max_by(|a, b| a.relative_error.partial_cmp(&b.relative_error).unwrap_or(std::cmp::Ordering::Equal));
    if let Some((t, error)) = worst.and_then(|t| Some((t, t.relative_error?))) {
        text += &format!("; largest error of a matrix {:.2} % ({}, {})", error * 100.0, t.name, t.scheme);
    }
    if costs.is_empty() { text } else { format!("{}\n{text}", costs_text(costs)) }
}

/// What each kind of matrix took and lost, layers together.
fn costs_text(costs: &[Cost]) -> Table {
    let mut kinds: Vec<(&str, Vec<&Cost>)> = Vec::new();
    for cost in costs {
        let kind = cost.0.rsplit('.').next().unwrap_or(&cost.0);
        match kinds.iter_mut().find(|k| k.0 == kind) {
            Some((_, list)) => list.push(cost),
            None => kinds.push((kind, vec![cost])),
        }
    }
    let mut table = Table::new(&["matrix", ">number", ">seconds", ">mean loss", ">largest loss", "schemes"]);
    for (kind, list) in kinds {
        let losses = || list.iter().map(|c| c.2.relative_loss);
        let mut schemes: Vec<String> = list.iter().map(|c| c.1.to_string()).collect();
        schemes.sort();
        let counted = schemes.chunk_by(|a, b| a == b).map(|s| format!("{} × {}", s.len(), s[0]));
        table.row([
            kind.to_string(),
            list.len().to_string(),
            format!("{:.1}", list.iter().map(|c| c.2.seconds).sum::<f64>()),
            format!("{:.2} %", losses().sum::<f64>() / list.len() as f64 * 100.0),
            format!("{:.2} %", losses().fold(0.0, f64::max) * 100.0),
            counted.collect::<Vec<_>>().join(", "),
        ]);
    }
    table
}

fn result_json(options: &Options, manifest: &Manifest, costs: &[Cost]) -> Value {
    let cost = |c: &Cost| json!({"name": c.0, "scheme": c.1.to_string(), "bits": c.2.bits, "seconds": c.2.seconds, "relative_loss": c.2.relative_loss});
    let tensor = |t: &haikuq_format::manifest::TensorEntry| json!({"name": t.name, "scheme": t.scheme.to_string(), "bytes": t.bytes(), "relative_error": t.relative_error});
    json!({
        "schema": "haikuq.convert/1",
        "package": options.out,
        "recipe": manifest.provenance.recipe,
        "bytes": manifest.weight_bytes(),
        "bits_per_weight": manifest.bits_per_weight(),
        "shards": manifest.shards,
        "tensors": manifest.tensors.iter().map(tensor).collect::<Vec<_>>(),
        "costs": costs.iter().map(cost).collect::<Vec<_>>(),
        "warnings": convert::heavy_losses(manifest),
    })
}
