//! Progress of a conversion: a bar on a terminal, a line now and then elsewhere.

use super::Context;
use crate::convert::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows how far a conversion is.
pub struct ConvertProgress<'a> {
    context: &'a Context,
    bar: ProgressBar,
    shards: usize,
    last_line: Mutex<Instant>,
}

impl<'a> ConvertProgress<'a> {
    /// Progress towards `weights` weights in `shards` shards.
    pub fn new(context: &'a Context, weights: u64, shards: usize) -> Self {
        let target = if context.draws_progress() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(weights), target);
        let style = "{wide_bar} {percent:>3} %  {human_pos} weights, {per_sec}, {eta} left  {msg}";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { context, bar, shards, last_line: Mutex::new(Instant::now()) }
    }

    /// Takes a report; called from several threads.
    pub fn advance(&self, progress: Progress) {
        match progress {
            Progress::Weights(n) => self.bar.inc(n),
            Progress::Shard(n) => self.bar.set_message(format!("shard {n} of {}", self.shards)),
            Progress::Resumed { shards, weights } => {
                self.context.note(format_args!("going on after {shards} finished shards of {}", self.shards));
                self.bar.set_position(weights);
                self.bar.reset_eta();
            }
        }
        if !self.context.draws_progress()
            && let Ok(mut last) = self.last_line.try_lock()
            && last.elapsed() >= LINE_EVERY
        {
            *last = Instant::now();
            let (done, all) = (self.bar.position(), self.bar.length().unwrap_or(1).max(1));
            let left = self.bar.eta().as_secs();
            self.context.note(format_args!(
                "{} % of {all} weights, {:.1} M a second, {left} s left",
                done * 100 / all,
                self.bar.per_sec() / 1e6
            ));
        }
    }

    /// Clears the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
