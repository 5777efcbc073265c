//! Progress of a conversion: a bar on a terminal, a line now and then elsewhere.

use super::Context;
use crate::convert::{MatrixCost, Progress};
use haikuq_format::scheme::Scheme;
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
    matrices: Mutex<Vec<(String, Scheme, MatrixCost)>>,
}

impl<'a> ConvertProgress<'a> {
    /// Progress towards `weights` weights in `shards` shards.
    pub fn new(context: &'a Context, weights: u64, shards: usize) -> Self {
        let target = if context.draws_progress() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(weights), target);
        let style = "{wide_bar} {percent:>3} %  {human_pos} weights, {per_sec}, {eta} left  {msg}";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { context, bar, shards, last_line: Mutex::new(Instant::now()), matrices: Mutex::default() }
    }

    /// Takes a report; called from several threads.
    pub fn advance(&self, progress: Progress<'_>) {
        match progress {
            Progress::Weights(n) => self.bar.inc(n),
            Progress::Matrix(name, scheme, cost) => {
                self.bar.set_message(name.to_string());
                let MatrixCost { seconds, bits, relative_loss } = cost;
                self.bar.suspend(|| {
                    let loss = relative_loss * 100.0;
                    self.context.note(format_args!("{name}: {scheme}, {bits:.3} bits, loss {loss:.3} %, {seconds:.2} s"));
                });
                if let Ok(mut matrices) = self.matrices.lock() {
                    matrices.push((name.to_string(), scheme, cost));
                }
            }
            Progress::Shard(n) => self.bar.set_message(format!("shard {n} of {}", self.shards)),
            Progress::Repaired(what) => self.bar.suspend(|| self.context.note(what)),
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

    /// Clears the bar; returns what each matrix took, in the order in which they were quantized.
    pub fn finish(self) -> Vec<(String, Scheme, MatrixCost)> {
        self.bar.finish_and_clear();
        self.matrices.into_inner().unwrap_or_default()
    }
}
