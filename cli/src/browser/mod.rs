//! A package as a browser runs it: [`BrowserModel`] is a [`LanguageModel`] whose work is done by a page.
//!
//! The page `/validate/` of the site loads the package with the shipped runtime, asks this program for work, and sends
//! back what the model said; judging that is the same code as for a native GPU. The requests between the two are
//! specified in `docs/schemas/browser.md`: `routes` speaks them, `work` keeps their order.

mod routes;
mod user_agent;
mod work;

use haikuq::model::{BoxError, LanguageModel};
use haikuq_runtime::decoder::CachePrecision;
use haikuq_runtime::kernels::candidate::Numerics;
use haikuq_serve::{PageLoad, ServeError, ServeOptions, ServedPackage, Server, Site};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use work::{Event, Job, Work};

/// The page, relative to the server's root.
const PAGE: &str = "validate/";

/// Bodies of rows that wait to be compared; a page that is faster waits for its answer.
const QUEUED: usize = 2;

/// A person may have to walk to another window first.
const FIRST_REQUEST: Duration = Duration::from_secs(600);

/// How often it is looked whether the page is still there.
const TICK: Duration = Duration::from_millis(250);

/// How long a page that works is waited for when it is to be told the result.
const FAREWELL: Duration = Duration::from_secs(5);

/// How to validate in a browser.
#[derive(Debug)]
pub struct BrowserOptions {
    /// Folder of the package.
    pub package: PathBuf,
    /// Where the page comes from.
    pub site: Site,
    /// As in [`ServeOptions`].
    pub port: Option<u16>,
    /// Precision of the key/value cache.
    pub cache: CachePrecision,
    /// `auto`, `exact` or `fast`.
    pub numerics: &'static str,
    /// A page that sends no request for this long is gone.
    pub page_timeout: Duration,
}

/// What goes wrong between this program and the page.
#[derive(Debug, thiserror::Error)]
pub enum BrowserError {
    /// The server did not start.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The site was built without the page.
    #[error("the site at {} has no {PAGE}index.html: build it with `make web`", site.display())]
    NoPage {
        /// Where the site is.
        site: PathBuf,
    },
    /// The system refused threads, random numbers or connections.
    #[error("the server failed: {0}")]
    Server(io::Error),
    /// Nobody opened the page.
    #[error("no browser opened the page within {} s", FIRST_REQUEST.as_secs())]
    NeverOpened,
    /// The page stopped talking.
    #[error(
        "the page went away {doing}: no request for {seconds} s (a page that is closed, reloaded, put to sleep or \
         slower than --page-timeout)"
    )]
    Gone {
        /// What it was to do, such as `while it scored a window`.
        doing: &'static str,
        /// How long it was silent.
        seconds: u64,
    },
    /// The page reported an error of its own.
    #[error("the page says: {message} ({code})")]
    Page {
        /// One of the npm package's error codes, or the page's own.
        code: String,
        /// Its message.
        message: String,
    },
    /// The page sent something that makes no sense.
    #[error("the page broke the protocol: {0}")]
    Protocol(String),
}

/// What the page said when its model was loaded.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hello {
    adapter: String,
    user_agent: String,
    package: String,
    numerics: Option<Numerics>,
}

/// Where a browser runs the package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// `ADAPTER (browser: NAME VERSION)`.
    pub adapter: String,
    /// How it computes, where the page says so.
    pub numerics: Option<Numerics>,
}

/// A package that runs in a browser.
pub struct BrowserModel {
    work: Arc<Work>,
    events: mpsc::Receiver<Event>,
    url: String,
    page_timeout: Duration,
    /// Whether there is somebody to tell the result.
    alive: bool,
    runtime: Arc<Runtime>,
    stop: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<()>>,
}

impl BrowserModel {
    /// Starts a server with the page, the package, and the work for the page.
    ///
    /// # Errors
    /// If the package or the site cannot be served.
    pub fn start(options: BrowserOptions) -> Result<Self, BrowserError> {
        if !options.site.has(&format!("{PAGE}index.html")) {
            return Err(BrowserError::NoPage { site: options.site.place() });
        }
        let package = ServedPackage::open(&options.package)?;
        let token = random_token().map_err(BrowserError::Server)?;
        let (sender, events) = mpsc::channel(QUEUED);
        let (kv_cache, numerics) = (options.cache.name(), options.numerics);
        let assignment = work::Assignment { package: package.url(), kv_cache, numerics };
        let work = Arc::new(Work::new(assignment, package.manifest().spec.vocab_size, sender.clone()));
        let mut served = ServeOptions::new(options.site);
        served.port = options.port;
        served.packages.push(package);
        served.load = PageLoad::new(numerics);
        let server = Server::bind(served)?;
        let url = format!("{}{PAGE}?token={token}", server.url());
        let server = server.extend(|router| routes::add(router, work.clone(), token));

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(BrowserError::Server)?;
        let runtime = Arc::new(runtime);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("server".into()).spawn({
            let runtime = runtime.clone();
            move || {
                // A sender that is gone says the same as one that sent.
                let answered = runtime.block_on(server.answer(async { stopped.await.unwrap_or(()) }));
                if let Err(error) = answered {
                    // Without a receiver there is nobody whom it concerns.
                    let _ = sender.blocking_send(Event::Failed(BrowserError::Server(error)));
                }
            }
        });
        Ok(Self {
            work,
            events,
            url,
            page_timeout: options.page_timeout,
            alive: false,
            runtime,
            stop: Some(stop),
            server: Some(thread.map_err(BrowserError::Server)?),
        })
    }

    /// The page to open. Its address holds a secret: anyone who has it can do the work.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Waits until the page has loaded the package, and returns what it runs on.
    ///
    /// # Errors
    /// If nobody opens the page, or it cannot load the package.
    pub fn connect(&mut self) -> Result<Connected, BrowserError> {
        match self.next_event("while it loaded the package")? {
            Event::Hello(hello) => {
                let browser = user_agent::browser(&hello.user_agent);
                let adapter = format!("{} (browser: {browser})", user_agent::printable(&hello.adapter));
                Ok(Connected { adapter, numerics: hello.numerics })
            }
            _ => Err(unexpected()),
        }
    }

    /// Tells the page how it ended, if it is still there; the server ends when the model is dropped.
    pub fn finish(&mut self, passed: bool, summary: &str) {
        self.work.end(passed, summary);
        if self.alive {
            let told = async { tokio::time::timeout(FAREWELL, self.work.told()).await };
            // The result stands whether or not a page shows it.
            let _ = self.runtime.block_on(told);
        }
    }

    /// The next thing that the page does. `doing` says in an error's text what it was to do.
    fn next_event(&mut self, doing: &'static str) -> Result<Event, BrowserError> {
        self.alive = false;
        let event = loop {
            let events = &mut self.events;
            match self.runtime.block_on(async { tokio::time::timeout(TICK, events.recv()).await }) {
                Ok(Some(event)) => break event,
                Ok(None) => return Err(BrowserError::Server(io::ErrorKind::BrokenPipe.into())),
                Err(_nothing_yet) => self.check_presence(doing)?,
            }
        };
        if let Event::Failed(error) = event {
            return Err(error);
        }
        self.alive = true;
        Ok(event)
    }

    fn check_presence(&self, doing: &'static str) -> Result<(), BrowserError> {
        match self.work.silence() {
            None if self.work.age() > FIRST_REQUEST => Err(BrowserError::NeverOpened),
            Some(silence) if silence > self.page_timeout => {
                Err(BrowserError::Gone { doing, seconds: self.page_timeout.as_secs() })
            }
            _ => Ok(()),
        }
    }
}

impl Drop for BrowserModel {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(server) = self.server.take() {
            // A panic there was reported where it happened.
            let _ = server.join();
        }
    }
}

impl LanguageModel for BrowserModel {
    fn score_window(&mut self, ids: &[u32], on_row: &mut dyn FnMut(usize, &[f32])) -> Result<(), BoxError> {
        self.work.assign(Job::Score { ids: ids.into() });
        let vocab = self.work.vocab();
        let (mut position, mut row) = (0, Vec::with_capacity(vocab));
        loop {
            match self.next_event("while it scored a window")? {
                Event::Rows(bytes) => {
                    for logits in bytes.chunks_exact(vocab * 4) {
                        row.clear();
                        row.extend(logits.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)));
                        on_row(position, &row);
                        position += 1;
                    }
                }
                Event::Finished => return Ok(()),
                _ => return Err(unexpected().into()),
            }
        }
    }

    fn generate_greedy(&mut self, prompt: &[u32], max_new: usize) -> Result<Vec<u32>, BoxError> {
        self.work.assign(Job::Greedy { prompt: prompt.into(), max_new });
        match self.next_event("while it continued a prompt")? {
            Event::Generated(ids) => Ok(ids),
            _ => Err(unexpected().into()),
        }
    }
}

/// [`Work`] lets nothing through that does not belong to the job at hand.
fn unexpected() -> BrowserError {
    BrowserError::Protocol("an answer to another job".into())
}

/// 128 bits in hexadecimal: other pages cannot guess it.
fn random_token() -> io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(haikuq_files::hex(&bytes))
}
