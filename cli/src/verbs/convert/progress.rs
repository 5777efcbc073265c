//! Progress of a conversion: a bar on a terminal, a line now and then elsewhere, JSON lines with `--json`.
//!
//! The remaining time follows the work, not the weights: a weight of a wide matrix takes several times as long as others.

use super::notes::words;
use super::report::{Cost, summary};
use crate::output::Context;
use crate::output::progress::Progress as StepProgress;
use crate::output::units::duration;
use haikuq::convert::{Event, MatrixCost, Planned, Progress};
use haikuq_format::scheme::Scheme;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Part of the work from which on it says how long the rest will take.
const ENOUGH: f64 = 0.02;

/// Steps of the bar.
const STEPS: u64 = 10_000;

/// Tells what a conversion reports.
pub struct ConvertProgress<'a> {
    context: &'a Context,
    json: bool,
    calibration: Mutex<Option<StepProgress<'a>>>,
    rounding: OnceLock<Rounding<'a>>,
}

impl<'a> ConvertProgress<'a> {
    /// Of a conversion that is about to begin; with `json`, as JSON lines.
    pub fn new(context: &'a Context, json: bool) -> Self {
        Self { context, json, calibration: Mutex::default(), rounding: OnceLock::new() }
    }

    /// Takes a report; called from several threads.
    pub fn take(&self, event: Event<'_>) {
        match event {
            Event::Warning(text) => self.context.warn(&[text.to_string()]),
            Event::Note(note) => self.context.note(words(&note)),
            Event::Calibrating { done, steps } => {
                let Ok(mut progress) = self.calibration.lock() else { return };
                progress.get_or_insert_with(|| StepProgress::new(self.context, steps, "steps of calibration")).set(done);
            }
            Event::Planned(planned) => self.planned(planned),
            Event::Progress(progress) => {
                if let Some(rounding) = self.rounding.get() {
                    rounding.advance(progress);
                }
            }
            _ => {}
        }
    }

    fn planned(&self, planned: &Planned) {
        self.context.note(format_args!("{}\n{}", summary(planned), planned.texts.text()));
        self.rounding.get_or_init(|| Rounding::new(self.context, planned, self.json));
    }

    /// Clears what is drawn; returns what each matrix took, in the order in which they were quantized.
    pub fn finish(self) -> Vec<Cost> {
        self.rounding.into_inner().map(Rounding::finish).unwrap_or_default()
    }
}

/// How far rounding is.
struct Rounding<'a> {
    context: &'a Context,
    json: bool,
    bar: ProgressBar,
    shards: usize,
    /// Work of each matrix that is quantized with calibration; empty without.
    works: BTreeMap<String, f64>,
    state: Mutex<State>,
}

struct State {
    begin: Instant,
    last_line: Instant,
    /// Work in all, done, and done before this run.
    all: f64,
    done: f64,
    before: f64,
    matrices: Vec<Cost>,
}

impl<'a> Rounding<'a> {
    /// Progress of what is planned; with `json`, as JSON lines.
    fn new(context: &'a Context, Planned { plan, shards, .. }: &Planned, json: bool) -> Self {
        let drawn = context.draws_progress() && !json;
        let target = if drawn { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(STEPS), target);
        let style = "{wide_bar} {percent:>3} %  {msg}";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        let works = plan.works();
        let all = if works.is_empty() { plan.weights_in(shards.clone()) as f64 } else { works.values().sum() };
        let now = Instant::now();
        let state = State { begin: now, last_line: now, all, done: 0.0, before: 0.0, matrices: Vec::new() };
        Self { context, json, bar, shards: shards.len(), works, state: Mutex::new(state) }
    }

    /// Takes a report; called from several threads.
    fn advance(&self, progress: Progress<'_>) {
        let Ok(mut state) = self.state.lock() else { return };
        match progress {
            Progress::Weights(n) if self.works.is_empty() => state.done += n as f64,
            Progress::Weights(_) => {}
            Progress::Matrix { name, cost } => {
                let work = self.works.get(name).copied().unwrap_or(0.0);
                state.done += work;
                match cost {
                    Some((scheme, cost)) => self.matrix(&mut state, name, scheme, cost),
                    None => state.before += work,
                }
            }
            Progress::Shard(n) => self.say(json!({"event": "shard", "number": n, "shards": self.shards}), None),
            Progress::Repaired(what) => self.say(json!({"event": "note", "text": what}), Some(what)),
            Progress::Resumed { shards, weights } => {
                let text = format!("going on after {shards} finished shards of {}", self.shards);
                self.say(json!({"event": "resumed", "shards": shards}), Some(&text));
                if self.works.is_empty() {
                    state.done += weights as f64;
                    state.before += weights as f64;
                }
            }
        }
        self.show(&mut state);
    }

    fn matrix(&self, state: &mut State, name: &str, scheme: Scheme, cost: MatrixCost) {
        let MatrixCost { seconds, bits, relative_loss } = cost;
        let text = format!("{name}: {scheme}, {bits:.3} bits, loss {:.3} %, {seconds:.2} s", relative_loss * 100.0);
        let event = json!({"event": "matrix", "name": name, "scheme": scheme.to_string(), "bits": bits,
                           "relative_loss": relative_loss, "seconds": seconds});
        self.say(event, Some(&text));
        state.matrices.push((name.to_string(), scheme, cost));
    }

    /// An event, or its text if it has one.
    fn say(&self, event: Value, text: Option<&str>) {
        match (self.json, text) {
            (true, _) => self.context.note(event),
            (false, Some(text)) => self.bar.suspend(|| self.context.note(text)),
            (false, None) => {}
        }
    }

    fn show(&self, state: &mut State) {
        let part = (state.done / state.all.max(1.0)).min(1.0);
        let now = (state.done - state.before) / state.all.max(1.0);
        let left = (now >= ENOUGH).then(|| state.begin.elapsed().as_secs_f64() * (1.0 - part) / now);
        let words = left.map_or(String::new(), |seconds| format!("about {} left", duration(seconds)));
        self.bar.set_position((part * STEPS as f64) as u64);
        self.bar.set_message(words.clone());
        if (self.json || !self.context.draws_progress()) && state.last_line.elapsed() >= LINE_EVERY {
            state.last_line = Instant::now();
            let event =
                json!({"event": "progress", "part": part, "seconds": state.begin.elapsed().as_secs_f64(), "seconds_left": left});
            let comma = if words.is_empty() { "" } else { ", " };
            self.say(event, Some(&format!("{:.0} %{comma}{words}", part * 100.0)));
        }
    }

    /// Clears the bar; returns what each matrix took, in the order in which they were quantized.
    fn finish(self) -> Vec<Cost> {
        self.bar.finish_and_clear();
        self.state.into_inner().map(|s| s.matrices).unwrap_or_default()
    }
}
