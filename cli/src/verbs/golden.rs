//! `haikuq golden`: records what a checkpoint or package says, for later comparison.

use crate::arguments::checkpoint::{CHECKPOINT_HELP, HubArgs};
use crate::arguments::generation::{CacheArg, KernelsArg};
use crate::model::{Opened, open, open_tokenizer, origin};
use crate::output::Context;
use crate::output::progress::Progress;
use anyhow::{Context as _, bail};
use clap::Args;
use haikuq::documents::{Document, read_documents, windows};
use haikuq::golden::file::{Generation, Golden};
use haikuq::golden::record::record;
use haikuq::runner::RunnerOptions;
use haikuq_files::{hash_file, write_atomically};
use haikuq_runtime::text::{Message, Tokenizer};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Prompts for models that chat.
const CHAT_PROMPTS: [&str; 6] = [
    "Write a haiku about the sea.",
    "Write a short story about a fox and a lantern.",
    "What is the capital of France?",
    "Explain why the sky is blue.",
    "Tell me a story about a boy who finds a map.",
    "Give me three tips for a good night's sleep.",
];

/// Prompts for models that continue text.
const TEXT_PROMPTS: [&str; 6] = [
    "Once upon a time",
    "The capital of France is",
    "The three most important things in life are",
    "In 1969, the first",
    "It was a dark and stormy night, and",
    "The recipe is simple: first,",
];

/// Record golden outputs of a checkpoint or package
///
/// Runs the model over windows of a text and keeps, for every position, what comparisons need: the largest logits,
/// log-sum-exp and negative log-likelihood; and greedy continuations of a few prompts. A checkpoint is run by the f32
/// reference; a package by the runtime on the GPU, so that other devices and browsers can be compared with this one.
#[derive(Args, Debug)]
#[command(after_help = CHECKPOINT_HELP)]
pub struct GoldenArgs {
    /// Folder of the checkpoint or package, or a model on the hub (org/name)
    #[arg(value_name = "CHECKPOINT|PACKAGE")]
    model: PathBuf,
    #[command(flatten)]
    hub: HubArgs,
    /// Text to run on: plain text, or .jsonl with {text}, {user, reply} or {messages} on each line
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Golden file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Windows at most
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = crate::arguments::positive)]
    windows: usize,
    /// Tokens in a window
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = crate::arguments::positive)]
    context: usize,
    /// Largest logits to keep at each position
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = crate::arguments::positive)]
    top: usize,
    /// Prompts to continue instead of the built-in ones: one a line, or .jsonl as for --text
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Tokens to continue each prompt by, at most
    #[arg(long, value_name = "N", default_value_t = 48)]
    max_new: usize,
    /// Precision of a package's key/value cache
    #[arg(long, value_enum, default_value_t, value_name = "PRECISION")]
    cache: CacheArg,
    /// Run a package's weights through the f32 reference on the CPU, to tell quantization from kernels
    #[arg(long)]
    reference: bool,
    /// Print what was recorded as JSON
    #[arg(long)]
    json: bool,
}

/// `golden --json`; documented in docs/schemas/golden.md.
#[derive(Serialize)]
struct GoldenJson<'a> {
    schema: &'static str,
    out: &'a std::path::Path,
    bytes: usize,
    windows: usize,
    context: usize,
    top: usize,
    perplexity: f64,
    generations: &'a [Generation],
    adapter: &'a str,
    seconds: f64,
}

/// Runs the verb.
pub fn run(mut args: GoldenArgs, context: &Context) -> anyhow::Result<ExitCode> {
    args.model = args.hub.locate(&args.model, context)?.path;
    let start = Instant::now();
    let tokenizer = open_tokenizer(&args.model)?;
    let documents = read_documents(&args.text)?;
    let cut =
        windows(&documents, &tokenizer, args.context, Some(args.windows)).with_context(|| args.text.display().to_string())?;
    if cut.windows.is_empty() || args.context < 2 {
        bail!("{} has {} tokens: not one window of {} (at least 2)", args.text.display(), cut.tokens, args.context);
    }
    if cut.windows.len() < args.windows {
        context.note(format_args!("{} has {} windows of {} tokens", args.text.display(), cut.windows.len(), args.context));
    }
    let prompts = prompts(args.prompts.as_deref(), &tokenizer)?;
    let mut options = RunnerOptions::new(context.adapter.clone(), args.cache.into());
    KernelsArg::Auto.apply(&mut options);
    let Opened { mut model, adapter, notes, .. } = open(&args.model, args.hub.text_only, args.reference, &options)?;
    context.warn(&notes);
    let origin = origin(&args.model)?;

    let mut progress = Progress::new(context, cut.windows.len(), "windows");
    let outputs = record(model.as_mut(), &cut.windows, args.top, &mut |done| progress.set(done))?;
    let mut progress = Progress::new(context, prompts.len(), "prompts");
    let mut generations = Vec::with_capacity(prompts.len());
    for prompt in &prompts {
        let prompt_ids = prompt.encode(&tokenizer, true)?;
        let greedy_ids = model.generate_greedy(&prompt_ids, args.max_new).map_err(anyhow::Error::from_boxed)?;
        let greedy_text = tokenizer.decode(&greedy_ids, false)?;
        generations.push(Generation { prompt: prompt.render(&tokenizer, true)?, prompt_ids, greedy_ids, greedy_text });
        progress.set(generations.len());
    }
    let tool = concat!("haikuq ", env!("CARGO_PKG_VERSION"));
    let golden = Golden {
        outputs,
        generations,
        checkpoint: origin.checkpoint,
        text_sha256: Some(hash_file(&args.text)?.sha256),
        tool: Some(origin.recipe.map_or(tool.into(), |recipe| format!("{tool}: {recipe} package on {adapter}"))),
    };
    let bytes = golden.to_bytes()?;
    write_atomically(&args.out, &bytes).with_context(|| format!("cannot write {}", args.out.display()))?;

    let outputs = &golden.outputs;
    let summary = GoldenJson {
        schema: "haikuq.golden/1",
        out: &args.out,
        bytes: bytes.len(),
        windows: outputs.windows,
        context: outputs.context,
        top: outputs.top,
        perplexity: outputs.perplexity(),
        generations: &golden.generations,
        adapter: &adapter,
        seconds: start.elapsed().as_secs_f64(),
    };
    if args.json {
        context.print_json(&summary)?;
    } else {
        context.print(format_args!(
            "{}: {} windows of {} tokens, perplexity {:.4}, {} continuations",
            args.out.display(),
            summary.windows,
            summary.context,
            summary.perplexity,
            summary.generations.len()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prompts of a file, or the built-in ones; lines of plain text go through the chat template where there is one.
fn prompts(file: Option<&std::path::Path>, tokenizer: &Tokenizer) -> anyhow::Result<Vec<Document>> {
    let chats = tokenizer.chat_template().is_some();
    let line = |text: &str| match chats {
        true => Document::Chat(vec![Message::new("user", text)]),
        false => Document::Text(text.into()),
    };
    let Some(path) = file else {
        return Ok(if chats { CHAT_PROMPTS.map(line) } else { TEXT_PROMPTS.map(line) }.into());
    };
    let documents = read_documents(path)?.into_iter().flat_map(|document| match document {
        Document::Text(text) => text.lines().filter(|l| !l.trim().is_empty()).map(line).collect(),
        chat => vec![chat],
    });
    Ok(documents.collect())
}
