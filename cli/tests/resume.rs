//! What a runtime embedded in a page needs beyond a terminal's: texts that go on after their device was lost, and cached
//! conversations for callers that only have prompts.

mod common;

use common::convert;
use haikuq::runner::Runner;
use haikuq_runtime::device::GpuOptions;
use haikuq_runtime::generate::{Completion, Conversation, ConversationPool, FinishReason, GenerateOptions, Request, generate};
use std::ops::ControlFlow;

fn options(repetition_penalty: f32) -> GenerateOptions {
    let mut options = GenerateOptions::default();
    options.max_tokens = Some(24);
    options.stop_strings = vec!["zzz".into()];
    let sampling = &mut options.sampling;
    (sampling.temperature, sampling.top_p, sampling.seed) = (0.8, 0.95, 3);
    sampling.repetition_penalty = repetition_penalty;
    options
}

fn write(runner: &mut Runner, prompt: &[u32], written: &[u32], options: &GenerateOptions) -> (Completion, String) {
    let tokenizer = runner.tokenizer().unwrap();
    let mut conversation = Conversation::start(&mut runner.decoder).unwrap();
    let mut streamed = String::new();
    let mut request = Request::new(&mut conversation, prompt, options);
    request.written = written;
    let mut requests = [request];
    let mut on_token = |event: haikuq_runtime::generate::TokenEvent<'_>| {
        streamed += event.text;
        ControlFlow::Continue(())
    };
    let work = generate(&mut runner.decoder, &tokenizer, &mut requests, &mut on_token);
    let completion = pollster::block_on(work).unwrap().remove(0);
    conversation.end(&mut runner.decoder);
    (completion, streamed)
}

#[test]
fn a_text_goes_on_after_what_was_written_as_if_nothing_had_happened() {
    let package = convert("q8");
    let mut runner = common::load(&package, GpuOptions::default());
    let prompt = runner.tokenizer().unwrap().encode_bare("Once upon a time", haikuq_runtime::text::Special::Plain).unwrap();
    for penalty in [1.0, 1.3] {
        let options = options(penalty);
        let (whole, streamed) = write(&mut runner, &prompt, &[], &options);
        assert_eq!((whole.ids.len(), &streamed), (24, &whole.text));
        for cut in [1, 7, 23] {
            // Another decoder: nothing of the first one is left.
            let mut fresh = common::load(&package, GpuOptions::default());
            let (rest, new) = write(&mut fresh, &prompt, &whole.ids[..cut], &options);
            assert_eq!(rest.ids, whole.ids, "cut after {cut}, penalty {penalty}");
            assert_eq!(rest.text, whole.text);
            assert!(whole.text.ends_with(&new) && new.len() < whole.text.len(), "only what is new is streamed: {new:?}");
        }
    }
}

#[test]
fn a_long_prompt_is_given_up_between_its_chunks() {
    let mut runner = common::load(&convert("q4-fast"), GpuOptions::default());
    let tokenizer = runner.tokenizer().unwrap();
    let mut conversation = Conversation::start(&mut runner.decoder).unwrap();
    let (prompt, options) = (vec![300; 1400], options(1.0));
    let mut requests = [Request::new(&mut conversation, &prompt, &options)];
    let mut on_token = |_: haikuq_runtime::generate::TokenEvent<'_>| ControlFlow::Break(());
    let work = generate(&mut runner.decoder, &tokenizer, &mut requests, &mut on_token);
    let completion = pollster::block_on(work).unwrap().remove(0);
    assert_eq!(completion.finish, FinishReason::Cancelled);
    assert_eq!((completion.ids.len(), conversation.cached().len()), (0, 512), "one chunk, not three");
}

#[test]
fn a_pool_finds_the_conversation_that_a_prompt_goes_on_from() {
    let package = convert("q4-fast");
    let mut runner = common::load(&package, GpuOptions::default());
    let tokenizer = runner.tokenizer().unwrap();
    let mut options = options(1.0);
    options.max_tokens = Some(2);
    let mut pool = ConversationPool::new(2);
    let mut reused = |prompt: &[u32]| {
        let mut conversation = pool.take(prompt, &mut runner.decoder).unwrap();
        let mut requests = [Request::new(&mut conversation, prompt, &options)];
        let mut on_token = |_: haikuq_runtime::generate::TokenEvent<'_>| ControlFlow::Continue(());
        let work = generate(&mut runner.decoder, &tokenizer, &mut requests, &mut on_token);
        let usage = pollster::block_on(work).unwrap()[0].usage;
        pool.put(conversation, &mut runner.decoder);
        usage.reused_tokens
    };
    let (first, second): (Vec<u32>, Vec<u32>) = ((100..140).collect(), (200..240).collect());
    let longer = |prompt: &[u32]| [prompt, &[300, 301]].concat();
    assert_eq!(reused(&first), 0);
    assert_eq!(reused(&second), 0);
    assert_eq!(reused(&longer(&first)), 40, "the other conversation is still there");
    assert_eq!(reused(&longer(&second)), 40);
    // Two tokens in common are no reason to give up forty.
    assert_eq!(reused(&[100, 101, 7, 8, 9]), 0);
    assert_eq!(reused(&longer(&second)), 41, "kept: the last one used before the newest");
    assert_eq!(reused(&longer(&first)), 0, "a pool of two has forgotten the oldest of three");
    assert_eq!(reused(&first), 39, "the same prompt again, for another answer");
    // Far more conversations than the decoder has sequences.
    for i in 0..20 {
        reused(&[400 + i, 1, 2, 3]);
    }
}
