//! Progress on stderr: a bar on a terminal, a line now and then elsewhere.

use crate::output::Context;
use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// Between lines where no bar can be drawn.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Counts steps of known number.
pub struct Progress<'a> {
    context: &'a Context,
    bar: Option<ProgressBar>,
    what: &'static str,
    total: usize,
    last_line: Instant,
}

impl<'a> Progress<'a> {
    /// Starts at 0 of `total` steps; `what` they are, in the plural.
    pub fn new(context: &'a Context, total: usize, what: &'static str) -> Self {
        let bar = context.draws_progress().then(|| {
            let template = format!("{{bar:30}} {{pos}}/{{len}} {what}, {{eta}} left");
            let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total as u64).with_style(style)
        });
        Self { context, bar, what, total, last_line: Instant::now() }
    }

    /// Says that `done` steps are done.
    pub fn set(&mut self, done: usize) {
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            if done == self.total {
                bar.finish_and_clear();
            }
        } else if self.last_line.elapsed() >= LINE_INTERVAL {
            self.last_line = Instant::now();
            self.context.note(format_args!("{done} of {} {}", self.total, self.what));
        }
    }
}
