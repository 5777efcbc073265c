//! `haikuq calibrate`: measures how a checkpoint feels quantization, for conversions to come.

use crate::arguments::checkpoint::{CHECKPOINT_HELP, HubArgs};
use crate::arguments::positive;
use crate::model::open_tokenizer;
use crate::output::Context;
use crate::output::progress::Progress;
use crate::output::table::{Table, shape};
use crate::output::units::{counted, human_bytes, human_count};
use anyhow::Context as _;
use clap::Args;
use haikuq::architecture::Decoder;
use haikuq::calibrate::file::CalibrationFile;
use haikuq::calibrate::sensitivity::steps;
use haikuq::calibrate::text::checkpoint_files;
use haikuq::calibrate::{Calibration, CalibrationText, Options, measure};
use haikuq_files::write_atomically;
use haikuq_format::spec::{TensorClass, TensorSpec};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// The error that matrices are compared at, as a share of the weights' root mean square: about that of four bits.
const RELATIVE_ERROR: f64 = 0.1;

/// Matrices that are named.
const MOST_SENSITIVE: usize = 10;

/// Measure how sensitive a checkpoint's matrices are, on a text
///
/// Calibrated recipes start from these measurements: what goes into each matrix, and how much an error of what comes out
/// changes the model's predictions. `convert` makes them itself; a file made here saves that for every conversion of the
/// same checkpoint.
#[derive(Args, Debug)]
#[command(after_help = CHECKPOINT_HELP)]
pub struct CalibrateArgs {
    /// Folder or file of the checkpoint, or a model on the hub (org/name)
    checkpoint: PathBuf,
    #[command(flatten)]
    hub: HubArgs,
    /// Text like what the model is for: plain text, or .jsonl with {text}, {user, reply} or {messages} on each line
    /// [default: a built-in text]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    text: Vec<PathBuf>,
    /// Calibration file to write (.safetensors)
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Windows of text at most
    #[arg(long, value_name = "N", default_value_t = Options::default().windows, value_parser = positive)]
    windows: usize,
    /// Tokens in a window, unless the model's context is shorter
    #[arg(long, value_name = "N", default_value_t = Options::default().window_tokens, value_parser = positive)]
    window_tokens: usize,
    /// Tokens to measure sensitivities on, spread over the windows
    #[arg(long, value_name = "N", default_value_t = Options::default().sensitivity_tokens, value_parser = positive)]
    sensitivity_tokens: usize,
    /// Seed of the labels that are drawn from the model
    #[arg(long, value_name = "N", default_value_t = Options::default().seed)]
    seed: u64,
    /// Folder for what is kept of every layer, in place of memory; nothing stays there
    #[arg(long, value_name = "DIR")]
    spill: Option<PathBuf>,
    /// Print what was measured as JSON
    #[arg(long)]
    json: bool,
}

/// `calibrate --json`; documented in docs/schemas/calibrate.md.
#[derive(Serialize)]
struct CalibrateJson<'a> {
    schema: &'static str,
    out: &'a Path,
    bytes: usize,
    text: &'a [haikuq_format::manifest::FileEntry],
    windows: usize,
    window_tokens: usize,
    sensitivity_tokens: usize,
    relative_error: f64,
    matrices: &'a [Matrix],
    seconds: f64,
}

/// One matrix in the summary.
#[derive(Serialize)]
struct Matrix {
    name: String,
    class: TensorClass,
    shape: Vec<usize>,
    /// Expected KL divergence in nats a token, with independent errors of [`RELATIVE_ERROR`].
    kl: f64,
}

impl Matrix {
    fn weights(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }
}

/// Runs the verb.
pub fn run(args: CalibrateArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let failed = || format!("cannot calibrate {}", args.checkpoint.display());
    let start = Instant::now();
    let mut options = Options::default();
    options.windows = args.windows;
    options.window_tokens = args.window_tokens;
    options.sensitivity_tokens = args.sensitivity_tokens;
    options.seed = args.seed;
    options.spill = args.spill.clone();
    let located = args.hub.locate(&args.checkpoint, context)?;
    let tokenizer = open_tokenizer(&located.path)?;
    let checkpoint = args.hub.open(&located.path).with_context(failed)?;
    let decoder = Decoder::from_checkpoint(checkpoint).with_context(failed)?;
    context.warn(decoder.notes());
    let max_context = decoder.spec.max_context;
    let text = match args.text.is_empty() {
        true => CalibrationText::built_in(&tokenizer, max_context, &options),
        false => CalibrationText::read(&args.text, &tokenizer, max_context, &options),
    }
    .with_context(failed)?;
    if let Some(note) = text.note(&options) {
        context.note(note);
    }
    let mut progress = Progress::new(context, steps(&decoder.spec), "steps");
    let calibration = measure(&decoder, text, &options, &mut |done| progress.set(done)).with_context(failed)?;
    let matrices = matrices(&decoder, &calibration).with_context(failed)?;
    let file = CalibrationFile { calibration, checkpoint: checkpoint_files(&decoder)? };
    let bytes = file.to_bytes()?;
    write_atomically(&args.out, &bytes).with_context(|| format!("cannot write {}", args.out.display()))?;

    let calibration = &file.calibration;
    let summary = CalibrateJson {
        schema: "haikuq.calibrate/1",
        out: &args.out,
        bytes: bytes.len(),
        text: &calibration.text,
        windows: calibration.windows.len(),
        window_tokens: calibration.windows.first().map_or(0, Vec::len),
        sensitivity_tokens: calibration.sensitivity_tokens,
        relative_error: RELATIVE_ERROR,
        matrices: &matrices,
        seconds: start.elapsed().as_secs_f64(),
    };
    match args.json {
        true => context.print_json(&summary)?,
        false => context.print(in_words(&summary))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Every matrix, most sensitive first.
fn matrices(decoder: &Decoder, calibration: &Calibration) -> anyhow::Result<Vec<Matrix>> {
    let measured = |TensorSpec { name, class, shape, .. }| {
        let Some(sensitivity) = calibration.sensitivities.get(&name) else { return Ok(None) };
        let weights = decoder.read(&name)?;
        decoder.release(&name);
        let mean_square = weights.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>() / weights.len() as f64;
        let kl = sensitivity.kl(RELATIVE_ERROR.powi(2) * mean_square);
        Ok(Some(Matrix { name, class, shape, kl }))
    };
    let matrices = decoder.spec.tensors().into_iter().filter_map(|t| measured(t).transpose());
    let mut matrices = matrices.collect::<anyhow::Result<Vec<_>>>()?;
    matrices.sort_by(|a, b| b.kl.total_cmp(&a.kl));
    Ok(matrices)
}

fn in_words(summary: &CalibrateJson) -> String {
    let total: f64 = summary.matrices.iter().map(|m| m.kl).sum();
    let share = |kl: f64| format!("{:.1} %", 100.0 * kl / total);
    let mut classes = BTreeMap::<TensorClass, (usize, u64, f64)>::new();
    for matrix in summary.matrices {
        let class = classes.entry(matrix.class).or_default();
        *class = (class.0 + 1, class.1 + matrix.weights(), class.2 + matrix.kl);
    }
    let mut by_class = Table::new(&["class", ">matrices", ">weights", ">KL", ">share"]);
    for (class, (count, weights, kl)) in classes {
        // A class is written as in recipes.
        let name = serde_json::to_value(class).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        by_class.row([name, count.to_string(), human_count(weights), format!("{kl:.2e}"), share(kl)]);
    }
    let mut most = Table::new(&["most sensitive", ">shape", ">KL", ">share"]);
    for m in summary.matrices.iter().take(MOST_SENSITIVE) {
        most.row([m.name.clone(), shape(&m.shape), format!("{:.2e}", m.kl), share(m.kl)]);
    }
    let error = RELATIVE_ERROR * 100.0;
    format!(
        "{by_class}\n\n{most}\n\nKL: nats a token that independent errors of {error} % would cost\n{}: {}, {} of {} tokens, \
         sensitivities of {} tokens",
        summary.out.display(),
        human_bytes(summary.bytes as u64),
        counted(summary.windows, "window"),
        summary.window_tokens,
        summary.sensitivity_tokens
    )
}
