//! Texts that are held to a format beside free ones, for `haikuq bench`: the same prompt, the same options, the same loop.

use crate::arguments::format::{FormatArgs, Formatting};
use crate::output::Context;
use haikuq::runner::Runner;
use haikuq_grammar::Matcher;
use haikuq_runtime::generate::{
    Completion, Constraint, ConstraintError, Conversation, GenerateOptions, Outlook, Request, generate,
};
use haikuq_runtime::text::{Special, Tokenizer};
use serde::Serialize;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// What the texts go on from.
const PROMPT: &str = "An object in JSON:\n";

/// What a format costs.
#[derive(Serialize)]
pub struct Formatted {
    /// Of free texts, after the first token.
    free_tokens_per_second: f64,
    /// Of texts in the format, forced tokens included.
    tokens_per_second: f64,
    /// The same of tokens that the model chose alone, with the time of the forced ones.
    chosen_tokens_per_second: f64,
    /// Share of the tokens that were forced.
    forced_share: f64,
    /// Time of the parser for a chosen token.
    parser_s: f64,
}

/// What was written in one round.
#[derive(Clone, Copy, Default)]
struct Round {
    tokens: usize,
    forced: usize,
    time: Duration,
    parser: Duration,
}

/// A matcher with a clock.
struct Timed {
    matcher: Matcher,
    forced: usize,
    spent: Duration,
}

impl Constraint for Timed {
    fn accept(&mut self, ids: &[u32]) -> Result<Outlook, ConstraintError> {
        let started = Instant::now();
        let outlook = Constraint::accept(&mut self.matcher, ids)?;
        self.spent += started.elapsed();
        self.forced += outlook.forced.len();
        Ok(outlook)
    }

    fn allow(&mut self, mask: &mut [u32]) -> Result<(), ConstraintError> {
        let started = Instant::now();
        Constraint::allow(&mut self.matcher, mask)?;
        self.spent += started.elapsed();
        Ok(())
    }
}

/// Writes texts of `tokens` tokens in the format that was asked for, and free ones, in turn; the median round of each counts.
pub fn measure(runner: &mut Runner, format: &FormatArgs, tokens: usize, repeat: u32) -> anyhow::Result<Option<Formatted>> {
    let tokenizer = runner.tokenizer()?;
    let defaults = runner.generation_defaults()?;
    let ends = defaults.stop_tokens(runner.decoder.spec(), Some(&tokenizer));
    let Some(formatting) = format.resolve(runner, &tokenizer, &ends)? else { return Ok(None) };
    let (mut free, mut held) = (Vec::new(), Vec::new());
    // The first round compiles pipelines; it does not count.
    for round in 0..=repeat {
        let of_free = write(runner, &tokenizer, None, &ends, tokens)?;
        let of_held = write(runner, &tokenizer, Some(&formatting), &ends, tokens)?;
        if round > 0 {
            free.push(of_free);
            held.push(of_held);
        }
    }
    let (free, held) = (median(&mut free), median(&mut held));
    let rate = |tokens: usize, of: &Round| tokens as f64 / of.time.as_secs_f64().max(1e-9);
    let chosen = held.tokens.saturating_sub(held.forced);
    Ok(Some(Formatted {
        free_tokens_per_second: rate(free.tokens, &free),
        tokens_per_second: rate(held.tokens, &held),
        chosen_tokens_per_second: rate(chosen, &held),
        forced_share: held.forced as f64 / held.tokens.max(1) as f64,
        parser_s: held.parser.as_secs_f64() / chosen.max(1) as f64,
    }))
}

/// The round of median speed.
fn median(rounds: &mut [Round]) -> Round {
    rounds.sort_by(|a, b| (a.time.as_secs_f64() * b.tokens as f64).total_cmp(&(b.time.as_secs_f64() * a.tokens as f64)));
    rounds.get(rounds.len() / 2).copied().unwrap_or_default()
}

/// Texts one after the other, until they have `tokens` tokens. Each counts from its first token on.
fn write(
    runner: &mut Runner,
    tokenizer: &Tokenizer,
    format: Option<&Formatting>,
    ends: &[u32],
    tokens: usize,
) -> anyhow::Result<Round> {
    let prompt = tokenizer.encode(PROMPT, Special::Plain)?;
    let mut round = Round::default();
    for seed in 0.. {
        if round.tokens >= tokens || seed as usize > tokens {
            break;
        }
        let mut options = GenerateOptions::default();
        // A model's likeliest text in a format may never end; one by chance does. A free one goes on.
        (options.sampling.temperature, options.sampling.seed) = (1.0, seed);
        options.max_tokens = Some(tokens - round.tokens + 1);
        if format.is_some() {
            options.stop_tokens = ends.to_vec();
        }
        let matcher = format.map(Formatting::matcher).transpose()?;
        let mut timed = matcher.map(|matcher| Timed { matcher, forced: 0, spent: Duration::ZERO });
        let mut conversation = Conversation::start(&mut runner.decoder)?;
        let written = write_one(runner, tokenizer, &mut conversation, &prompt, &options, timed.as_mut());
        conversation.end(&mut runner.decoder);
        let usage = written?.usage;
        round.tokens += usage.completion_tokens.saturating_sub(1);
        round.time += usage.decode_time;
        if let Some(timed) = timed {
            round.forced += timed.forced;
            round.parser += timed.spent;
        }
    }
    Ok(round)
}

fn write_one(
    runner: &mut Runner,
    tokenizer: &Tokenizer,
    conversation: &mut Conversation,
    prompt: &[u32],
    options: &GenerateOptions,
    constraint: Option<&mut Timed>,
) -> anyhow::Result<Completion> {
    let mut request = Request::new(conversation, prompt, options);
    request.constraint = constraint.map(|timed| timed as &mut dyn Constraint);
    let mut go_on = |_: haikuq_runtime::generate::TokenEvent<'_>| ControlFlow::Continue(());
    let work = generate(&mut runner.decoder, tokenizer, std::slice::from_mut(&mut request), &mut go_on);
    Ok(pollster::block_on(work)?.remove(0))
}

/// Prints it as lines of the report.
pub fn print(f: &Formatted, context: &Context) -> anyhow::Result<()> {
    context.print(format_args!("free texts       {:8.1} tokens/s", f.free_tokens_per_second))?;
    context.print(format_args!(
        "in the format    {:8.1} tokens/s ({:.1} % of free texts; {:.1} % forced)",
        f.tokens_per_second,
        f.tokens_per_second / f.free_tokens_per_second * 100.0,
        f.forced_share * 100.0
    ))?;
    context.print(format_args!(
        "chosen alone     {:8.1} tokens/s ({:.1} % of free texts; parser {:.3} ms a token)",
        f.chosen_tokens_per_second,
        f.chosen_tokens_per_second / f.free_tokens_per_second * 100.0,
        f.parser_s * 1e3
    ))
}
