//! A package from a place of your own, here from memory: `… --example byte_source -- PACKAGE PROMPT`.
//!
//! A [`ByteSource`] answers one question: some bytes of a file of that name. An archive, a database or a server does it alike.

use haikuq_runtime::decoder::{Decoder, DecoderOptions};
use haikuq_runtime::device::{Gpu, GpuOptions};
use haikuq_runtime::generate::{Conversation, GenerateOptions, Request, generate};
use haikuq_runtime::package::{ByteSource, Package, SourceError, SourceFuture, check_file_name};
use haikuq_runtime::text::Special;
use std::collections::HashMap;
use std::error::Error;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

/// All files of a package, by name.
struct InMemory(HashMap<String, Vec<u8>>);

impl ByteSource for InMemory {
    fn read<'a>(&'a self, file: &'a str, range: Range<u64>) -> SourceFuture<'a, Result<Vec<u8>, SourceError>> {
        Box::pin(async move {
            check_file_name(file)?;
            let missing = || SourceError::Missing { file: file.into(), place: "memory".into() };
            let bytes = self.0.get(file).ok_or_else(missing)?;
            let [start, end] = [range.start, range.end].map(|at| at.min(bytes.len() as u64) as usize);
            Ok(bytes[start..end].to_vec())
        })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, prompt] = arguments.as_slice() else { return Err("usage: byte_source PACKAGE PROMPT".into()) };
    let mut files = HashMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        files.insert(path.file_name().unwrap_or_default().to_string_lossy().into_owned(), std::fs::read(&path)?);
    }
    pollster::block_on(async {
        let package = Package::open(InMemory(files)).await?;
        let gpu = Arc::new(Gpu::open(&GpuOptions::default()).await?);
        let mut decoder = Decoder::load(gpu, &package, &DecoderOptions::default(), &mut |_| ()).await?;
        let tokenizer = package.tokenizer().await?;
        let prompt = tokenizer.encode(prompt, Special::Plain)?;
        let mut options = GenerateOptions::default();
        options.max_tokens = Some(32);
        options.stop_tokens = package.manifest().spec.eos_token_ids.clone();
        let mut conversation = Conversation::start(&mut decoder)?;
        let request = Request::new(&mut conversation, &prompt, &options);
        let written = generate(&mut decoder, &tokenizer, &mut [request], &mut |_| ControlFlow::Continue(())).await?;
        println!("{}", written[0].text);
        Ok(())
    })
}
