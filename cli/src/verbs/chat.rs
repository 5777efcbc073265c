//! `haikuq chat`: a conversation on the terminal.

use crate::arguments::format::{FormatArgs, Formatting};
use crate::arguments::generation::{LoadArgs, SamplingArgs, TemplateArgs};
use crate::output::Context;
use crate::verbs::run::{print_piece, summary};
use anyhow::Context as _;
use clap::Args;
use haikuq::runner::Runner;
use haikuq_runtime::decoder::DecoderError;
use haikuq_runtime::generate::{
    Constraint, Conversation, FinishReason, GenerateError, GenerateOptions, Request, TokenEvent, generate,
};
use haikuq_runtime::text::{ChatOptions, Message, Tokenizer};
use rustyline::error::ReadlineError;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Talk with a model; Ctrl-C stops an answer, Ctrl-D ends the chat
///
/// Keys and values stay cached from turn to turn, so that each turn pays only for what is new. Lines that begin with a
/// slash are commands: /reset forgets the conversation, /stats shows what the last answer cost, /quit ends.
#[derive(Args, Debug)]
pub struct ChatArgs {
    /// Folder of the package
    package: PathBuf,
    /// Begin with this system message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    template: TemplateArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten)]
    load: LoadArgs,
}

struct Chat {
    runner: Runner,
    tokenizer: Tokenizer,
    options: GenerateOptions,
    format: Option<Formatting>,
    conversation: Conversation,
    messages: Vec<Message>,
    template: ChatOptions,
    /// Length of `messages` after a reset: 1 with a system message.
    opening: usize,
    interrupted: Arc<AtomicBool>,
    last_cost: Option<String>,
}

/// Runs the verb.
pub fn run(args: ChatArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let options = args.load.options(context.adapter.clone(), 1);
    let mut runner = Runner::load(&args.package, &options, &mut |_| {})?;
    context.warn(&runner.notes);
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed)).context("cannot watch for Ctrl-C")?;
    let messages: Vec<Message> = args.system.iter().map(|s| Message::system(s.as_str())).collect();
    let tokenizer = runner.tokenizer()?;
    let options = args.sampling.resolve(&runner, &tokenizer)?;
    let mut chat = Chat {
        format: args.format.resolve(&runner, &tokenizer, &options.stop_tokens)?,
        options,
        tokenizer,
        conversation: Conversation::start(&mut runner.decoder)?,
        opening: messages.len(),
        messages,
        template: args.template.resolve()?,
        interrupted,
        last_cost: None,
        runner,
    };
    context.note(format_args!(
        "{} on {}; /help lists commands",
        args.package.display(),
        chat.runner.decoder.gpu().description.name
    ));
    let mut editor = rustyline::DefaultEditor::new().context("cannot read from the terminal")?;
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(ExitCode::SUCCESS),
            Err(e) => return Err(e).context("cannot read from the terminal"),
        };
        match line.trim() {
            "" => {}
            "/quit" | "/exit" => return Ok(ExitCode::SUCCESS),
            "/reset" => chat.messages.truncate(chat.opening),
            "/stats" => context.note(chat.last_cost.as_deref().unwrap_or("nothing was answered yet")),
            "/help" => context.note("/reset forgets the conversation, /stats shows what the last answer cost, /quit ends"),
            command if command.starts_with('/') => context.note(format_args!("no command {command}; /help lists them")),
            text => {
                // A history is a convenience: without memory for it the chat goes on.
                let _ = editor.add_history_entry(text);
                chat.turn(text, context)?;
            }
        }
    }
}

impl Chat {
    fn turn(&mut self, text: &str, context: &Context) -> anyhow::Result<()> {
        self.messages.push(Message::new("user", text));
        let prompt = self.tokenizer.encode_chat_with(&self.messages, &self.template)?;
        self.interrupted.store(false, Ordering::Relaxed);
        let mut matcher = self.format.as_ref().map(Formatting::matcher).transpose()?;
        let mut requests = [Request::new(&mut self.conversation, &prompt, &self.options)];
        requests[0].constraint = matcher.as_mut().map(|matcher| matcher as &mut dyn Constraint);
        let mut broken = None;
        let interrupted = self.interrupted.clone();
        let mut on_token = |event: TokenEvent<'_>| {
            if let Err(e) = print_piece(event.text) {
                broken = Some(e);
                return ControlFlow::Break(());
            }
            if interrupted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let work = generate(&mut self.runner.decoder, &self.tokenizer, &mut requests, &mut on_token);
        let completion = match pollster::block_on(work) {
            Ok(mut all) => all.remove(0),
            Err(GenerateError::Decoder(DecoderError::ContextOverflow { needed, limit })) => {
                self.messages.pop();
                context.note(format_args!("the conversation is full ({needed} of {limit} tokens); /reset begins a new one"));
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        };
        if let Some(error) = broken {
            return Err(error.into());
        }
        context.print("")?;
        match completion.finish {
            FinishReason::Cancelled => context.note("[stopped]"),
            FinishReason::Context => context.note("[the context is full; /reset begins a new conversation]"),
            FinishReason::Stop | FinishReason::Length => {}
        }
        self.last_cost = Some(summary(&completion.usage));
        self.messages.push(Message::assistant(completion.text));
        Ok(())
    }
}
