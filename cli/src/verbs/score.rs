//! `haikuq score`: perplexity of a checkpoint or package on a text.

use crate::arguments::checkpoint::{CHECKPOINT_HELP, HubArgs};
use crate::arguments::generation::{CacheArg, ComputeArgs};
use crate::model::{Opened, open, open_tokenizer};
use crate::output::Context;
use crate::output::progress::Progress;
use crate::scored::Scored;
use anyhow::{Context as _, bail};
use clap::Args;
use haikuq::documents::{read_documents, windows};
use haikuq::golden::file::read_input_ids;
use haikuq::golden::record::{Outputs, record};
use haikuq::runner::RunnerOptions;
use haikuq_files::write_atomically;
use haikuq_runtime::kernels::candidate::Numerics;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Logits kept at each position in `--out`.
const TOP: usize = 64;

/// Tokens in a window of `--text` unless said otherwise.
const WINDOW: usize = 512;

/// Perplexity of a checkpoint or package on a text
///
/// A checkpoint is scored by the f32 reference, a package by the runtime on the GPU. Windows are cut from the text's
/// tokens without overlap, and each is a sequence of its own.
#[derive(Args, Debug)]
#[command(after_help = CHECKPOINT_HELP)]
pub struct ScoreArgs {
    /// Folder of the package or checkpoint, or a model on the hub (org/name)
    #[arg(value_name = "PACKAGE|CHECKPOINT")]
    model: PathBuf,
    #[command(flatten)]
    hub: HubArgs,
    #[command(flatten)]
    source: Source,
    /// Tokens in a window [default: 512; with --ids as the file says]
    #[arg(long, value_name = "N", value_parser = crate::arguments::positive)]
    window: Option<usize>,
    /// Windows at most (all by default)
    #[arg(long, value_name = "N", value_parser = crate::arguments::positive)]
    windows: Option<usize>,
    /// Tokens of each window whose likelihood counts
    #[arg(long, value_enum, default_value_t)]
    scored: Scored,
    /// Write nll, logsumexp, top_ids and top_logits of every position to this safetensors file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Precision of a package's key/value cache
    #[arg(long, value_enum, default_value_t, value_name = "PRECISION")]
    cache: CacheArg,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Run a package's weights through the f32 reference on the CPU, to tell quantization from kernels
    #[arg(long)]
    reference: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Where the tokens come from.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Source {
    /// Text to score: plain text, or .jsonl with {text}, {user, reply} or {messages} on each line
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Safetensors file with the windows' token ids: input_ids [windows, tokens]
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
}

/// `score --json`; documented in docs/schemas/score.md.
#[derive(Serialize)]
struct ScoreJson {
    schema: &'static str,
    perplexity: f64,
    mean_nll: f64,
    scored: &'static str,
    windows: usize,
    window: usize,
    adapter: String,
    numerics: Numerics,
    seconds: f64,
    tokens_per_second: f64,
}

/// Runs the verb.
pub fn run(mut args: ScoreArgs, context: &Context) -> anyhow::Result<ExitCode> {
    args.model = args.hub.locate(&args.model, context)?.path;
    let windows = args.windows()?;
    let mut options = RunnerOptions::new(context.adapter.clone(), args.cache.into());
    args.compute.apply(&mut options);
    let mut opened = open(&args.model, args.hub.text_only, args.reference, &options)?;
    context.warn(&opened.notes);
    let mut progress = Progress::new(context, windows.len(), "windows");
    let start = Instant::now();
    // Nobody reads the largest logits if they are not written.
    let top = if args.out.is_some() { TOP } else { 1 };
    let outputs = record(opened.model.as_mut(), &windows, top, &mut |done| progress.set(done))?;
    let seconds = start.elapsed().as_secs_f64();
    if let Some(path) = &args.out {
        write_atomically(path, &outputs.to_bytes(false, None)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let result = result(&outputs, args.scored, &opened, seconds);
    if args.json {
        context.print_json(&result)?;
    } else {
        context.print(format_args!("perplexity {:.6}", result.perplexity))?;
        let ScoreJson { windows, window, tokens_per_second, adapter, .. } = &result;
        context.note(format_args!("{windows} windows of {window} tokens, {tokens_per_second:.0} tokens/s on {adapter}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn result(outputs: &Outputs, scored: Scored, opened: &Opened, seconds: f64) -> ScoreJson {
    let (name, perplexity) = match scored {
        Scored::All => ("all", outputs.perplexity()),
        Scored::SecondHalf => ("second-half", outputs.second_half_perplexity()),
    };
    ScoreJson {
        schema: "haikuq.score/1",
        perplexity,
        mean_nll: perplexity.ln(),
        scored: name,
        windows: outputs.windows,
        window: outputs.context,
        adapter: opened.adapter.clone(),
        numerics: opened.numerics,
        seconds,
        tokens_per_second: outputs.input_ids.len() as f64 / seconds,
    }
}

impl ScoreArgs {
    /// Windows of token ids from either source.
    fn windows(&self) -> anyhow::Result<Vec<Vec<u32>>> {
        if let Some(path) = &self.source.ids {
            let mut windows = read_input_ids(path)?;
            windows.truncate(self.windows.unwrap_or(usize::MAX));
            let tokens = windows.first().map_or(0, Vec::len);
            if let Some(window) = self.window.filter(|w| *w != tokens) {
                bail!("{} has windows of {tokens} tokens, not {window}: leave --window out", path.display());
            }
            return Ok(windows);
        }
        let path = self.source.text.as_deref().context("no --text")?;
        let window = self.window.unwrap_or(WINDOW);
        let tokenizer = open_tokenizer(&self.model)?;
        let cut =
            windows(&read_documents(path)?, &tokenizer, window, self.windows).with_context(|| path.display().to_string())?;
        if cut.windows.is_empty() || window < 2 {
            bail!("{} has {} tokens: not one window of {window} (at least 2); see --window", path.display(), cut.tokens);
        }
        Ok(cut.windows)
    }
}
