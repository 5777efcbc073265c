//! One job at a time, handed to the page and taken back from it in order.

use super::{BrowserError, Hello};
use axum::body::Bytes;
use serde::Serialize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, watch};

/// A request for work that finds none is answered after this long at the latest.
const POLL: Duration = Duration::from_secs(25);

/// What the page is to load.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Assignment {
    /// Relative to the server's root.
    pub package: String,
    /// `auto`, `f16` or `f32`.
    pub kv_cache: &'static str,
    /// `auto`, `exact` or `fast`.
    pub numerics: &'static str,
}

/// What the page is to do.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Job {
    /// Logits after each token of a sequence of its own.
    Score { ids: Vec<u32> },
    /// The likeliest continuation.
    Greedy { prompt: Vec<u32>, max_new: usize },
}

/// What the page gets when it asks for work.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Next {
    Job {
        id: u64,
        #[serde(flatten)]
        job: Job,
    },
    Done(Done),
}

/// That there is no more work.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename = "done")]
pub(super) struct Done {
    passed: bool,
    summary: String,
}

/// What the page did.
#[derive(Debug)]
pub(super) enum Event {
    Hello(Hello),
    /// Whole rows of little-endian f32, in order, none twice.
    Rows(Bytes),
    /// All rows of the job were there.
    Finished,
    Generated(Vec<u32>),
    Failed(BrowserError),
}

/// Why a request is refused.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    /// It came too late or too early: nothing is lost, and the page asks for its next work.
    Conflict(String),
    /// It makes no sense, which ends the validation.
    Bad(String),
}

/// What the validation and the server's requests share.
#[derive(Debug)]
pub(super) struct Work {
    assignment: Assignment,
    vocab: usize,
    started: Instant,
    state: Mutex<State>,
    events: mpsc::Sender<Event>,
    changed: watch::Sender<()>,
    told: Notify,
}

#[derive(Debug, Default)]
struct State {
    last_request: Option<Instant>,
    greeted: bool,
    last_id: u64,
    /// Of `last_id`, until it is done.
    job: Option<Job>,
    /// Rows of the job that arrived.
    rows: usize,
    done: Option<Done>,
}

impl Work {
    pub fn new(assignment: Assignment, vocab: usize, events: mpsc::Sender<Event>) -> Self {
        Self {
            assignment,
            vocab,
            started: Instant::now(),
            state: Mutex::default(),
            events,
            changed: watch::Sender::new(()),
            told: Notify::new(),
        }
    }

    pub fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    pub fn vocab(&self) -> usize {
        self.vocab
    }

    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Time since the last request; none if there was no request yet.
    pub fn silence(&self) -> Option<Duration> {
        self.state().last_request.map(|at| at.elapsed())
    }

    /// Says that there was a request.
    pub fn touch(&self) {
        self.state().last_request = Some(Instant::now());
    }

    /// Gives the page its next job.
    pub fn assign(&self, job: Job) {
        let mut state = self.state();
        state.last_id += 1;
        state.rows = 0;
        state.job = Some(job);
        // The page's time begins now, however long it had waited for work.
        state.last_request = state.last_request.map(|_| Instant::now());
        drop(state);
        self.changed.send_replace(());
    }

    /// Says how it ended; there is no more work.
    pub fn end(&self, passed: bool, summary: &str) {
        let mut state = self.state();
        state.job = None;
        state.done = Some(Done { passed, summary: summary.into() });
        drop(state);
        self.changed.send_replace(());
    }

    /// Done when the page has asked and was told how it ended.
    pub async fn told(&self) {
        self.told.notified().await;
    }

    pub async fn hello(&self, hello: Hello) -> Result<(), Refusal> {
        let permit = self.permit().await?;
        let mut state = self.state();
        if hello.package != self.assignment.package {
            let why = format!("it loaded {:?}, not {:?}", hello.package, self.assignment.package);
            return Err(bad(permit, why));
        }
        if state.greeted {
            return Err(Refusal::Conflict("another page does this validation already; a new one needs a new command".into()));
        }
        state.greeted = true;
        permit.send(Event::Hello(hello));
        Ok(())
    }

    /// The job at hand, also if it was handed out before: a page asks when it has none, so an answer got lost. Waits for
    /// one; none after [`POLL`].
    pub async fn next(&self) -> Result<Option<Next>, Refusal> {
        let mut changes = self.changed.subscribe();
        let deadline = tokio::time::Instant::now() + POLL;
        loop {
            if let Some(next) = self.waiting()? {
                return Ok(Some(next));
            }
            if tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
                return Ok(None);
            }
        }
    }

    fn waiting(&self) -> Result<Option<Next>, Refusal> {
        let state = self.state();
        if let Some(done) = &state.done {
            self.told.notify_one();
            return Ok(Some(Next::Done(done.clone())));
        }
        if !state.greeted {
            return Err(Refusal::Conflict("work comes after /work/hello".into()));
        }
        Ok(state.job.clone().map(|job| Next::Job { id: state.last_id, job }))
    }

    /// Takes rows from position `first` on. What arrived before is left out: a job that is handed out again starts over.
    pub async fn rows(&self, id: u64, first: usize, bytes: Bytes) -> Result<(), Refusal> {
        let permit = self.permit().await?;
        let mut state = self.state();
        let total = match state.job_with(id)? {
            Job::Score { ids } => ids.len(),
            Job::Greedy { .. } => return Err(bad(permit, format!("rows of logits for job {id}, which scores nothing"))),
        };
        let row_bytes = self.vocab * 4;
        let rows = bytes.len() / row_bytes;
        if rows == 0 || !bytes.len().is_multiple_of(row_bytes) {
            let why = format!("{} bytes of logits, which are not whole rows of {row_bytes} ({} f32)", bytes.len(), self.vocab);
            return Err(bad(permit, why));
        }
        if first > state.rows || rows > total.saturating_sub(first) {
            let have = state.rows;
            let why = format!("{rows} rows from position {first} on, where {have} of {total} had arrived");
            return Err(bad(permit, why));
        }
        let known = (state.rows - first).min(rows);
        if known < rows {
            state.rows = first + rows;
            permit.send(Event::Rows(bytes.slice(known * row_bytes..)));
        }
        Ok(())
    }

    pub async fn finish(&self, id: u64) -> Result<(), Refusal> {
        let permit = self.permit().await?;
        let mut state = self.state();
        let total = match state.job_with(id)? {
            Job::Score { ids } => ids.len(),
            Job::Greedy { .. } => return Err(bad(permit, format!("job {id} ends with its ids, not with /work/finish"))),
        };
        if state.rows != total {
            return Err(bad(permit, format!("job {id} has {} rows of logits where {total} were expected", state.rows)));
        }
        state.job = None;
        permit.send(Event::Finished);
        Ok(())
    }

    pub async fn generated(&self, id: u64, ids: Vec<u32>) -> Result<(), Refusal> {
        let permit = self.permit().await?;
        let mut state = self.state();
        let max_new = match state.job_with(id)? {
            Job::Greedy { max_new, .. } => *max_new,
            Job::Score { .. } => return Err(bad(permit, format!("token ids for job {id}, which generates nothing"))),
        };
        if ids.len() > max_new {
            return Err(bad(permit, format!("{} new tokens where {max_new} at most were asked for", ids.len())));
        }
        if let Some(outside) = ids.iter().find(|&&id| id as usize >= self.vocab) {
            return Err(bad(permit, format!("token {outside} is outside the vocabulary of {}", self.vocab)));
        }
        state.job = None;
        permit.send(Event::Generated(ids));
        Ok(())
    }

    /// The page cannot go on.
    pub async fn fail(&self, error: BrowserError) -> Result<(), Refusal> {
        self.permit().await?.send(Event::Failed(error));
        Ok(())
    }

    /// Room for one more event: the page waits while the validation is busy.
    async fn permit(&self) -> Result<mpsc::Permit<'_, Event>, Refusal> {
        self.events.reserve().await.map_err(|_| Refusal::Conflict("the validation has ended".into()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The job at hand, which must be `id`.
    fn job_with(&self, id: u64) -> Result<&Job, Refusal> {
        match &self.job {
            Some(job) if id == self.last_id => Ok(job),
            _ => Err(Refusal::Conflict(format!("job {id} is not at hand"))),
        }
    }
}

fn bad(permit: mpsc::Permit<'_, Event>, why: String) -> Refusal {
    permit.send(Event::Failed(BrowserError::Protocol(why.clone())));
    Refusal::Bad(why)
}

#[cfg(test)]
mod tests;
