//! `haikuq run`: prompts in, streamed text out.

use crate::arguments::format::FormatArgs;
use crate::arguments::generation::{LoadArgs, SamplingArgs, TemplateArgs};
use crate::output::Context;
use crate::output::context::harmless;
use anyhow::{Context as _, bail};
use clap::Args;
use haikuq::runner::Runner;
use haikuq_runtime::generate::{Completion, Constraint, Conversation, FinishReason, Request, TokenEvent, Usage, generate};
use haikuq_runtime::text::{Message, Special, Tokenizer};
use serde::Serialize;
use std::io::{IsTerminal, Read, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

/// Write a text from a prompt
///
/// Several prompts are computed together, as one batch; each gets the text that it would get alone.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Folder of the package
    package: PathBuf,
    /// Prompts; standard input where none is given
    #[arg(value_name = "PROMPT")]
    prompts: Vec<String>,
    /// Put each prompt into the model's chat template, as a user's message
    #[arg(long)]
    chat: bool,
    /// Begin the chat with this system message
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// Take control tokens in a prompt, such as <|user|>, for what they are; they are plain text otherwise
    #[arg(long, conflicts_with = "chat")]
    control_tokens: bool,
    /// Print ids, text, finish reason and timings as JSON at the end instead of streaming text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    template: TemplateArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten)]
    load: LoadArgs,
}

/// One text of `run --json`.
#[derive(Serialize)]
struct TextJson<'a> {
    prompt: &'a str,
    prompt_ids: &'a [u32],
    ids: &'a [u32],
    text: &'a str,
    finish: FinishReason,
    usage: UsageJson,
}

/// Token counts and times of `run --json`, in seconds.
#[derive(Serialize)]
pub(super) struct UsageJson {
    prompt_tokens: usize,
    reused_tokens: usize,
    completion_tokens: usize,
    time_to_first_token_s: f64,
    decode_s: f64,
    decode_tokens_per_second: Option<f64>,
}

impl From<&Usage> for UsageJson {
    fn from(u: &Usage) -> Self {
        Self {
            prompt_tokens: u.prompt_tokens,
            reused_tokens: u.reused_tokens,
            completion_tokens: u.completion_tokens,
            time_to_first_token_s: u.time_to_first_token.as_secs_f64(),
            decode_s: u.decode_time.as_secs_f64(),
            decode_tokens_per_second: u.decode_tokens_per_second(),
        }
    }
}

/// Largest prompt on standard input that is read.
const MAX_STDIN_BYTES: u64 = 64 << 20;

/// Bytes of a token on average, at most: four in prose, and some ten where code is indented far.
const MAX_TOKEN_BYTES: usize = 16;

/// Runs the verb.
pub fn run(args: RunArgs, context: &Context) -> anyhow::Result<ExitCode> {
    if !args.chat && !args.template.is_empty() {
        bail!("--tools, --template and --template-var are for the chat template: add --chat");
    }
    let prompts = if args.prompts.is_empty() { vec![prompt_from_stdin()?] } else { args.prompts.clone() };
    let options = args.load.options(context.adapter.clone(), prompts.len());
    let mut runner = Runner::load(&args.package, &options, &mut |_| {})?;
    context.warn(&runner.notes);
    let tokenizer = runner.tokenizer()?;
    let generation = args.sampling.resolve(&runner, &tokenizer)?;
    let format = args.format.resolve(&runner, &tokenizer, &generation.stop_tokens)?;
    let max_context = runner.package.manifest().spec.max_context;
    prompts.iter().try_for_each(|prompt| check_length(prompt, max_context))?;
    let ids = prompts.iter().map(|p| encode(&tokenizer, p, &args)).collect::<anyhow::Result<Vec<_>>>()?;

    let mut conversations = prompts.iter().map(|_| Conversation::start(&mut runner.decoder)).collect::<Result<Vec<_>, _>>()?;
    let mut matchers = format.iter().flat_map(|f| prompts.iter().map(|_| f.matcher())).collect::<anyhow::Result<Vec<_>>>()?;
    let mut constraints = matchers.iter_mut();
    let mut requests: Vec<_> = conversations
        .iter_mut()
        .zip(&ids)
        .map(|(conversation, prompt)| {
            let mut request = Request::new(conversation, prompt, &generation);
            request.constraint = constraints.next().map(|matcher| matcher as &mut dyn Constraint);
            request
        })
        .collect();
    let streams = !args.json && prompts.len() == 1;
    let mut broken = None;
    let mut on_token = |event: TokenEvent<'_>| {
        if streams && let Err(e) = print_piece(event.text) {
            broken = Some(e);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    };
    let work = generate(&mut runner.decoder, &tokenizer, &mut requests, &mut on_token);
    let completions = pollster::block_on(work)?;
    if let Some(error) = broken {
        return Err(error.into());
    }
    if args.json {
        let texts: Vec<_> = prompts.iter().zip(&ids).zip(&completions).map(|((p, i), c)| text_json(p, i, c)).collect();
        context.print_json(
            &serde_json::json!({ "schema": "haikuq.run/1", "adapter": runner.decoder.gpu().description, "texts": texts }),
        )?;
    } else if streams {
        context.print("")?;
        context.note(summary(&completions[0].usage));
    } else {
        for (prompt, completion) in prompts.iter().zip(&completions) {
            context.print(format_args!("=== {prompt}\n{}", completion.text))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text_json<'a>(prompt: &'a str, prompt_ids: &'a [u32], c: &'a Completion) -> TextJson<'a> {
    TextJson { prompt, prompt_ids, ids: &c.ids, text: &c.text, finish: c.finish, usage: (&c.usage).into() }
}

fn encode(tokenizer: &Tokenizer, prompt: &str, args: &RunArgs) -> anyhow::Result<Vec<u32>> {
    let ids = if args.chat {
        let mut messages: Vec<Message> = args.system.iter().map(|s| Message::system(s.as_str())).collect();
        messages.push(Message::user(prompt));
        tokenizer.encode_chat_with(&messages, &args.template.resolve()?)?
    } else {
        tokenizer.encode(prompt, if args.control_tokens { Special::Recognize } else { Special::Plain })?
    };
    if ids.is_empty() {
        bail!("the prompt is empty");
    }
    Ok(ids)
}

/// Refuses a prompt that is far longer than the model's context before it is cut into tokens, which takes many times its size.
fn check_length(prompt: &str, max_context: usize) -> anyhow::Result<()> {
    let limit = (max_context * MAX_TOKEN_BYTES).max(1 << 16);
    if prompt.len() > limit {
        let bytes = prompt.len();
        bail!(
            "a prompt of {bytes} bytes is too long: the model's context is {max_context} tokens, so {limit} bytes are the most"
        );
    }
    Ok(())
}

fn prompt_from_stdin() -> anyhow::Result<String> {
    if std::io::stdin().is_terminal() {
        bail!("no prompt: give one as an argument or on standard input");
    }
    let mut text = String::new();
    let mut input = std::io::stdin().take(MAX_STDIN_BYTES + 1);
    input.read_to_string(&mut text).context("cannot read the prompt from standard input")?;
    if text.len() as u64 > MAX_STDIN_BYTES {
        bail!("standard input has more than {MAX_STDIN_BYTES} bytes, which is no prompt");
    }
    Ok(text.trim_end_matches(['\n', '\r']).to_string())
}

/// Writes a piece of text at once, so that it streams.
pub(super) fn print_piece(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    // Files and pipes get every byte; a terminal must not obey a model.
    let shown = if out.is_terminal() { harmless(text) } else { text.into() };
    out.write_all(shown.as_bytes())?;
    out.flush()
}

/// One line on what a completion cost.
pub(super) fn summary(usage: &Usage) -> String {
    let rate = usage.decode_tokens_per_second().map_or(String::new(), |r| format!(", {r:.1} tokens/s"));
    format!(
        "[{} prompt tokens ({} cached), {} tokens, first after {:.0} ms{rate}]",
        usage.prompt_tokens,
        usage.reused_tokens,
        usage.completion_tokens,
        usage.time_to_first_token.as_secs_f64() * 1e3,
    )
}
