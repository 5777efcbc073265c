//! Writes a text with a package: `cargo run --release --example generate -- PACKAGE PROMPT`.

use haikuq::runner::{Runner, RunnerOptions};
use haikuq_runtime::generate::{Conversation, GenerateOptions, Request, generate};
use haikuq_runtime::text::Special;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [package, prompt] = arguments.as_slice() else { anyhow::bail!("usage: generate PACKAGE PROMPT") };
    let mut runner = Runner::load(Path::new(package), &RunnerOptions::default(), &mut |_| ())?;
    let tokenizer = runner.tokenizer()?;
    let prompt = tokenizer.encode(prompt, Special::Plain)?;
    let mut options = GenerateOptions::default();
    options.max_tokens = Some(64);
    options.stop_tokens = runner.decoder.spec().eos_token_ids.clone();
    let mut conversation = Conversation::start(&mut runner.decoder)?;
    let request = Request::new(&mut conversation, &prompt, &options);
    let mut show = |event: haikuq_runtime::generate::TokenEvent<'_>| {
        print!("{}", event.text);
        match std::io::stdout().flush() {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    };
    pollster::block_on(generate(&mut runner.decoder, &tokenizer, &mut [request], &mut show))?;
    println!();
    Ok(())
}
