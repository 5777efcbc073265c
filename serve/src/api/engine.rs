//! [`Engine`]: a package's decoder on a thread of its own, which writes for all requests at once.

use super::error::ApiError;
use haikuq_grammar::{Format, GrammarError, Vocabulary};
use haikuq_runtime::decoder::{Decoder, DecoderError};
use haikuq_runtime::generate::{
    Batch, Completion, Constraint, ConversationPool, GenerateError, GenerateOptions, Job, TokenEvent,
};
use haikuq_runtime::text::{AnswerFormat, GenerationDefaults, Tokenizer};
use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc::UnboundedSender;

/// Loads the decoder anew, after the device was lost.
pub type LoadDecoder = Box<dyn FnMut() -> Result<Decoder, EngineError> + Send>;

/// A decoder could not be loaded.
pub type EngineError = Box<dyn std::error::Error + Send + Sync>;

/// Requests that wait at most, beside those that are written: more are told to come again.
const MAX_WAITING: usize = 256;

/// A package that answers requests.
pub struct Engine {
    name: String,
    created: u64,
    tokenizer: Tokenizer,
    defaults: GenerationDefaults,
    format: AnswerFormat,
    /// Ids of the tokens that the format marks things with.
    markers: Vec<u32>,
    stop_tokens: Vec<u32>,
    max_context: usize,
    /// Rows of the decoder's vocabulary.
    vocab_size: usize,
    /// Made with the first text that is held to a format.
    vocabulary: Arc<OnceLock<Result<Vocabulary, GrammarError>>>,
    queue: Arc<Queue>,
}

/// What a text's writer hears.
#[derive(Debug)]
pub(super) enum Event {
    /// The next piece of the text; may be empty.
    Text(String),
    /// It is finished.
    Done(Box<Completion>),
    /// It will not be.
    Failed(ApiError),
}

/// A text to write.
pub(super) struct Work {
    /// Which of its request's texts it is.
    pub(super) index: usize,
    pub(super) prompt: Vec<u32>,
    pub(super) options: GenerateOptions,
    /// What the text may be.
    pub(super) constraint: Option<Box<dyn Constraint>>,
    /// Whether tokens that mark thoughts and calls are part of the text.
    pub(super) with_markers: bool,
    /// Set by the reader when it needs no more.
    pub(super) is_over: Arc<AtomicBool>,
    pub(super) events: UnboundedSender<(usize, Event)>,
}

/// Who reads a text.
#[derive(Clone)]
struct Reader {
    index: usize,
    is_over: Arc<AtomicBool>,
    events: UnboundedSender<(usize, Event)>,
}

impl Reader {
    fn tell(&self, event: Event) {
        // Nobody may be left to hear it.
        let _ = self.events.send((self.index, event));
    }

    /// The next piece of text; a client that is gone needs no more.
    fn text(&self, text: &str) -> ControlFlow<()> {
        let is_heard = self.events.send((self.index, Event::Text(text.into()))).is_ok();
        if is_heard && !self.is_over.load(Ordering::Relaxed) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

impl Work {
    fn reader(&self) -> Reader {
        Reader { index: self.index, is_over: self.is_over.clone(), events: self.events.clone() }
    }
}

#[derive(Default)]
struct Queue {
    work: Mutex<VecDeque<Work>>,
    news: Condvar,
    closed: Mutex<Option<String>>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Work>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next text, if there is one; `wait` waits for it.
    fn next(&self, wait: bool) -> Option<Work> {
        let mut work = self.lock();
        while wait && work.is_empty() {
            work = self.news.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
        work.pop_front()
    }
}

impl Engine {
    /// Starts the thread. `load` is called there, again whenever the device is lost.
    ///
    /// # Errors
    /// Those of `load` at its first call.
    pub fn start(
        name: String,
        tokenizer: Tokenizer,
        defaults: GenerationDefaults,
        mut load: LoadDecoder,
    ) -> Result<Self, EngineError> {
        let decoder = load()?;
        let stop_tokens = defaults.stop_tokens(decoder.spec(), Some(&tokenizer));
        let format = AnswerFormat::of(tokenizer.chat_template().unwrap_or_default());
        let markers = format.markers().into_iter().filter_map(|marker| tokenizer.token_id(marker)).collect();
        let (queue, max_context) = (Arc::new(Queue::default()), decoder.max_context());
        let (vocab_size, vocabulary) = (decoder.spec().vocab_size, Arc::default());
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
        let engine =
            Self { name, created, tokenizer, defaults, format, markers, stop_tokens, max_context, vocab_size, vocabulary, queue };
        let writer =
            Writer { tokenizer: engine.tokenizer.clone(), markers: engine.markers.clone(), queue: engine.queue.clone(), load };
        std::thread::Builder::new().name(format!("engine of {}", engine.name)).spawn(move || writer.run(decoder))?;
        Ok(engine)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Seconds since 1970 when it was loaded.
    pub(super) fn created(&self) -> u64 {
        self.created
    }

    pub(super) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    pub(super) fn defaults(&self) -> &GenerationDefaults {
        &self.defaults
    }

    pub(super) fn format(&self) -> &AnswerFormat {
        &self.format
    }

    pub(super) fn stop_tokens(&self) -> &[u32] {
        &self.stop_tokens
    }

    pub(super) fn max_context(&self) -> usize {
        self.max_context
    }

    /// Compiles a format for texts of this package: each gets a constraint of its own from what is returned. To be called where it
    /// may take a while.
    pub(super) fn compiler(&self) -> impl Fn(&Format) -> Result<Box<dyn Constraint>, GrammarError> + Send + 'static {
        let (tokenizer, vocabulary) = (self.tokenizer.clone(), self.vocabulary.clone());
        let (size, ends) = (self.vocab_size, self.stop_tokens.clone());
        move |format| {
            let vocabulary = vocabulary.get_or_init(|| Vocabulary::of_tokenizer(&tokenizer, size, &ends));
            Ok(Box::new(vocabulary.as_ref().map_err(Clone::clone)?.matcher(format)?))
        }
    }

    /// Hands texts to the writer.
    pub(super) fn write(&self, work: Vec<Work>) -> Result<(), ApiError> {
        if let Some(why) = &*self.queue.closed.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(ApiError::gone(why.clone()));
        }
        let mut queue = self.queue.lock();
        if queue.len() + work.len() > MAX_WAITING {
            return Err(ApiError::gone(format!("{} texts are waiting already: try again later", queue.len())));
        }
        queue.extend(work);
        drop(queue);
        self.queue.news.notify_one();
        Ok(())
    }
}

/// What the thread has.
struct Writer {
    tokenizer: Tokenizer,
    markers: Vec<u32>,
    queue: Arc<Queue>,
    load: LoadDecoder,
}

impl Writer {
    /// Writes until the program ends, or no device is left.
    fn run(mut self, mut decoder: Decoder) {
        let tokenizer = self.tokenizer.clone();
        loop {
            let failure = self.write(&mut decoder, &tokenizer);
            decoder = match (self.load)() {
                Ok(decoder) => decoder,
                Err(error) => {
                    let why = format!("the device failed ({failure}) and the package could not be loaded again: {error}");
                    *self.queue.closed.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.clone());
                    for work in self.queue.lock().drain(..) {
                        work.reader().tell(Event::Failed(ApiError::gone(why.clone())));
                    }
                    return;
                }
            };
        }
    }

    /// Writes until the device fails, and says how.
    fn write(&self, decoder: &mut Decoder, tokenizer: &Tokenizer) -> String {
        let mut pool = ConversationPool::new(haikuq_runtime::decoder::MAX_BATCH);
        let mut batch = Batch::new(tokenizer);
        let mut waiting: HashMap<usize, Reader> = HashMap::new();
        loop {
            while batch.has_room() {
                let Some(work) = self.queue.next(batch.is_empty()) else { break };
                let reader = work.reader();
                match self.join(&mut batch, work, decoder, &mut pool) {
                    Ok(index) => {
                        waiting.insert(index, reader);
                    }
                    Err(error) => {
                        let answer = refusal(&error);
                        let is_mine = answer.status.is_client_error();
                        reader.tell(Event::Failed(answer));
                        if !is_mine {
                            return fail(&waiting, &error);
                        }
                    }
                }
            }
            let room = batch.has_room();
            let mut goes_on = || !room || self.queue.lock().is_empty();
            let mut on_token = |event: TokenEvent<'_>| match waiting.get(&event.index) {
                Some(reader) => reader.text(event.text),
                None => ControlFlow::Continue(()),
            };
            match pollster::block_on(batch.step(decoder, &mut goes_on, &mut on_token)) {
                Ok(finished) => {
                    for text in finished {
                        if let Some(reader) = waiting.remove(&text.index) {
                            reader.tell(Event::Done(Box::new(text.completion)));
                        }
                        pool.put(text.conversation, decoder);
                    }
                }
                Err(error) => return fail(&waiting, &error),
            }
        }
    }

    fn join<'t>(
        &self,
        batch: &mut Batch<'t>,
        work: Work,
        decoder: &mut Decoder,
        pool: &mut ConversationPool,
    ) -> Result<usize, GenerateError> {
        let reader = work.reader();
        let Work { prompt, options, constraint, with_markers, .. } = work;
        let conversation = pool.take(&prompt, decoder)?;
        let spelled = if with_markers { self.markers.clone() } else { Vec::new() };
        let job = Job { conversation, prompt, options, spelled, constraint };
        pollster::block_on(batch.join(decoder, job, &mut |event: TokenEvent<'_>| reader.text(event.text)))
    }
}

/// What one client is told; others go on unless the server is at fault.
fn refusal(error: &GenerateError) -> ApiError {
    match error {
        GenerateError::Decoder(DecoderError::ContextOverflow { .. }) => ApiError::too_long(error.to_string()),
        GenerateError::Decoder(DecoderError::NoTokens) => ApiError::refused("the prompt is empty".into()),
        GenerateError::Sampling(_) => ApiError::refused(error.to_string()),
        _ => ApiError::failed(error.to_string()),
    }
}

fn fail(waiting: &HashMap<usize, Reader>, error: &GenerateError) -> String {
    for reader in waiting.values() {
        reader.tell(Event::Failed(ApiError::failed(error.to_string())));
    }
    error.to_string()
}
