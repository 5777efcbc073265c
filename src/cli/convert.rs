//! `haikuq convert`: a checkpoint becomes a package.

use super::checkpoint_argument::{CHECKPOINT_HELP, HubArgs};
use super::table::{Table, shape};
use super::units::{counted, human_bytes, human_count, parse_bytes};
use super::{Context, convert_progress::ConvertProgress};
use crate::architecture::Decoder;
use crate::checkpoint::Checkpoint;
use crate::convert::{self, Options, Plan};
use crate::quantize::Recipe;
use anyhow::Context as _;
use clap::Args;
use haikuq_format::Manifest;
use haikuq_format::spec::TensorClass;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

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
    /// Recipe: q4, q3, q8, f16, f32, or the path of a .toml file
    #[arg(short, long, value_name = "NAME|FILE.toml", default_value = "q4")]
    recipe: String,
    /// Largest size of a weight file
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = shard_bytes)]
    shard_size: u64,
    /// Threads (default: one a CPU); the package does not depend on it
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Print the plan and stop
    #[arg(long)]
    dry_run: bool,
    /// Go on from an interrupted conversion to the same folder
    #[arg(long)]
    resume: bool,
    /// Replace a package at --out, once the new one is complete
    #[arg(long)]
    force: bool,
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
    let located = args.hub.locate(&args.checkpoint, context)?;
    let checkpoint = Checkpoint::open(&located.path).with_context(failed)?;
    context.warn(checkpoint.warnings());
    let decoder = Decoder::from_checkpoint(checkpoint).with_context(failed)?;
    let plan = Plan::new(&decoder.spec, &recipe, args.shard_size, jobs).with_context(failed)?;
    let Some(out) = args.out.filter(|_| !args.dry_run) else {
        match args.json {
            true => context.print_json(&plan_json(&plan))?,
            false => context.print(plan_text(&plan))?,
        }
        return Ok(ExitCode::SUCCESS);
    };
    context.note(format_args!("{}", summary(&plan)));
    let options = Options { out, jobs, resume: args.resume, force: args.force, hub: located.hub };
    let progress = ConvertProgress::new(context, plan.weights(), plan.shards.len());
    let result = convert::convert(&decoder, &recipe, &plan, &options, &|p| progress.advance(p));
    progress.finish();
    let manifest = result.with_context(failed)?;
    match args.json {
        true => context.print_json(&result_json(&options, &manifest))?,
        false => context.print(result_text(&options, &manifest))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn summary(plan: &Plan) -> String {
    format!(
        "{}: {} weights to {} in {}, {:.3} bits a weight; up to {} of memory with {}",
        plan.recipe,
        human_count(plan.weights()),
        human_bytes(plan.total_bytes()),
        counted(plan.shards.len(), "shard"),
        plan.bits_per_weight(),
        human_bytes(plan.peak_memory()),
        counted(plan.jobs, "thread")
    )
}

fn plan_text(plan: &Plan) -> String {
    let mut table = Table::new(&["tensor", ">shape", "scheme", ">bits", ">bytes", ">chunks"]);
    for t in &plan.tensors {
        let bits = format!("{:.3}", t.scheme.bits_per_weight());
        table.row([
            t.name.clone(),
            shape(&t.shape),
            t.scheme.to_string(),
            bits,
            t.bytes().to_string(),
            t.chunks.len().to_string(),
        ]);
    }
    format!("{table}\n\n{}", summary(plan))
}

fn plan_json(plan: &Plan) -> Value {
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
        "jobs": plan.jobs,
        "peak_memory_bytes": plan.peak_memory(),
    })
}

fn result_text(options: &Options, manifest: &Manifest) -> String {
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
    text
}

fn result_json(options: &Options, manifest: &Manifest) -> Value {
    let tensor = |t: &haikuq_format::manifest::TensorEntry| json!({"name": t.name, "scheme": t.scheme.to_string(), "bytes": t.bytes(), "relative_error": t.relative_error});
    json!({
        "schema": "haikuq.convert/1",
        "package": options.out,
        "recipe": manifest.provenance.recipe,
        "bytes": manifest.weight_bytes(),
        "bits_per_weight": manifest.bits_per_weight(),
        "shards": manifest.shards,
        "tensors": manifest.tensors.iter().map(tensor).collect::<Vec<_>>(),
    })
}
