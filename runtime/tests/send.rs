//! Futures of the runtime may go from thread to thread, so that servers can spawn them. Compiling this file proves it.

use haikuq_runtime::decoder::{Choice, Decoder, DecoderOptions, Next, SequenceId};
use haikuq_runtime::device::{Gpu, GpuOptions};
use haikuq_runtime::generate::{Conversation, GenerateOptions, Request, generate};
use haikuq_runtime::package::{FolderSource, Package};
use haikuq_runtime::sampling::SamplingOptions;
use haikuq_runtime::text::Tokenizer;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

fn assert_send<T: Send>(value: T) -> T {
    value
}

async fn load(folder: &Path) -> Option<Decoder> {
    let package = assert_send(Package::open(FolderSource::new(folder))).await.ok()?;
    assert_send(package.tokenizer()).await.ok()?;
    assert_send(package.check_layout()).await.ok()?;
    let options = GpuOptions::default();
    let gpu = assert_send(Gpu::open(&options)).await.ok()?;
    let (options, mut progress) = (DecoderOptions::default(), |_| ());
    assert_send(Decoder::load(Arc::new(gpu), &package, &options, &mut progress)).await.ok()
}

async fn step(decoder: &mut Decoder, sequence: SequenceId) -> Option<u32> {
    let sampling = SamplingOptions::greedy();
    let choice = Choice { sampling: &sampling, step: 0 };
    let token = assert_send(decoder.sample_first(sequence, choice)).await.ok()?;
    let mut row = |_: usize, _: &[f32]| ();
    assert_send(decoder.score(&[1, 2], &mut row)).await.ok()?;
    Some(assert_send(decoder.decode(&[Next { sequence, token, choice }])).await.ok()?[0])
}

async fn write(decoder: &mut Decoder, tokenizer: &Tokenizer, options: &GenerateOptions) -> Option<String> {
    let mut conversation = Conversation::start(decoder).ok()?;
    let request = Request::new(&mut conversation, &[1], options);
    let (mut requests, mut on_token) = ([request], |_: haikuq_runtime::generate::TokenEvent<'_>| ControlFlow::Continue(()));
    let texts = assert_send(generate(decoder, tokenizer, &mut requests, &mut on_token)).await.ok()?;
    Some(texts[0].text.clone())
}

#[test]
fn a_package_is_loaded_on_another_thread() {
    let missing = std::thread::spawn(|| pollster::block_on(assert_send(load(Path::new("no such folder"))))).join().unwrap();
    assert!(missing.is_none());
    // Never called: that they are `Send` is what counts.
    let _ = (step, write);
}
