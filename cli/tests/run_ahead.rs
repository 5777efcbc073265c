//! Steps that are submitted before the ids of those before them are known change no token, and leave nothing behind.

mod common;

use common::{convert, golden};
use haikuq::runner::{Runner, RunnerOptions};
use haikuq_runtime::decoder::CachePrecision;
use haikuq_runtime::generate::{Completion, Conversation, FinishReason, GenerateOptions, Request, generate};
use haikuq_runtime::text::{Special, Tokenizer};
use std::ops::ControlFlow;

const PROMPTS: [&str; 3] = ["Tell me a story about a cold birthday.", "A haiku:", "Once upon a time there was a"];

fn load(steps_ahead: usize) -> Runner {
    let mut options = RunnerOptions::new(None, CachePrecision::F32);
    (options.decoder.exact, options.decoder.run_ahead) = (true, Some(steps_ahead));
    Runner::load(&convert("q4-fast"), &options, &mut |_| {}).unwrap()
}

fn options(max_tokens: usize) -> GenerateOptions {
    let mut options = GenerateOptions::default();
    options.max_tokens = Some(max_tokens);
    let sampling = &mut options.sampling;
    (sampling.temperature, sampling.top_k, sampling.repetition_penalty, sampling.seed) = (0.8, 40, 1.2, 7);
    options
}

/// Writes a text for each of `prompts` and then another turn for each, in the same conversations. Checks that a
/// conversation holds what its sequence does. `cancel_at` ends the first text after so many tokens.
fn write(runner: &mut Runner, prompts: &[&str], options: &[GenerateOptions], cancel_at: usize) -> Vec<Completion> {
    let tokenizer: Tokenizer = runner.tokenizer().unwrap();
    let decoder = &mut runner.decoder;
    let mut conversations: Vec<_> = prompts.iter().map(|_| Conversation::start(decoder).unwrap()).collect();
    let mut texts: Vec<Vec<u32>> = prompts.iter().map(|p| tokenizer.encode(p, Special::Plain).unwrap()).collect();
    let mut all = Vec::new();
    for _ in 0..2 {
        let mut requests: Vec<_> = (conversations.iter_mut().zip(&texts).zip(options))
            .map(|((conversation, prompt), options)| Request::new(conversation, prompt, options))
            .collect();
        let mut written = 0;
        let completions = pollster::block_on(generate(decoder, &tokenizer, &mut requests, &mut |event| {
            written += usize::from(event.index == 0 && event.id.is_some());
            if written >= cancel_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }))
        .unwrap();
        for (text, completion) in texts.iter_mut().zip(&completions) {
            text.extend(&completion.ids);
        }
        for (conversation, text) in conversations.iter().zip(&texts) {
            assert!(text.starts_with(conversation.cached()), "a conversation holds tokens that its text does not have");
        }
        all.extend(completions);
    }
    for conversation in conversations {
        conversation.end(decoder);
    }
    all
}

fn assert_same(ahead: &[Completion], one_by_one: &[Completion]) {
    for (a, b) in ahead.iter().zip(one_by_one) {
        assert_eq!((&a.ids, &a.text, a.finish), (&b.ids, &b.text, b.finish));
        assert_eq!(a.usage.completion_tokens, b.usage.completion_tokens);
        assert_eq!(a.usage.reused_tokens, b.usage.reused_tokens, "the next turn uses the cache");
    }
    assert_eq!(ahead.len(), one_by_one.len());
}

#[test]
fn texts_are_the_same_token_for_token_however_far_the_gpu_runs_ahead() {
    assert!(golden("config.json").exists());
    let mut reference = load(0);
    let lengths = [options(14), options(5), options(9)];
    let alone = write(&mut reference, &PROMPTS[..1], &lengths, usize::MAX);
    let batch = write(&mut reference, &PROMPTS, &lengths, usize::MAX);
    for steps in [1, 4] {
        let mut runner = load(steps);
        assert_same(&write(&mut runner, &PROMPTS[..1], &lengths, usize::MAX), &alone);
        assert_same(&write(&mut runner, &PROMPTS, &lengths, usize::MAX), &batch);
    }
}

#[test]
fn an_end_that_is_noticed_late_is_still_the_end() {
    let mut reference = load(0);
    let written = write(&mut reference, &PROMPTS[..1], &[options(14)], usize::MAX);
    let mut runner = load(3);
    // A stop token, a stop string and a caller who has had enough, all in the middle of a text.
    let (mut stop_token, mut stop_string) = (options(14), options(14));
    stop_token.stop_tokens.push(written[0].ids[5]);
    stop_string.stop_strings.push(written[0].text.split_whitespace().nth(3).unwrap().to_string());
    for (options, cancel_at, finish) in [
        (stop_token, usize::MAX, FinishReason::Stop),
        (stop_string, usize::MAX, FinishReason::Stop),
        (options(14), 4, FinishReason::Cancelled),
    ] {
        let late = write(&mut runner, &PROMPTS[..1], std::slice::from_ref(&options), cancel_at);
        assert_same(&late, &write(&mut reference, &PROMPTS[..1], &[options], cancel_at));
        assert_eq!(late[0].finish, finish);
    }
}
