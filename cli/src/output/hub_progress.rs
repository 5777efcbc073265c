//! Progress of a download: a bar on a terminal, a line now and then elsewhere.

use crate::output::Context;
use crate::output::units::{counted, human_bytes};
use haikuq_hub::Event;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::cell::Cell;
use std::time::{Duration, Instant};

/// Time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Digits of a commit that are shown.
const SHORT_COMMIT: usize = 8;

/// Shows how far a download is.
pub struct HubProgress<'a> {
    context: &'a Context,
    repo: &'a str,
    bar: ProgressBar,
    last_line: Cell<Instant>,
}

impl<'a> HubProgress<'a> {
    /// Progress of `repo`, which shows nothing before there is something to download.
    pub fn new(context: &'a Context, repo: &'a str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let style =
            "{wide_bar} {percent:>3} %  {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left  {msg}";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { context, repo, bar, last_line: Cell::new(Instant::now()) }
    }

    /// Takes a report.
    pub fn take(&self, event: Event) {
        match event {
            Event::Plan { commit, files, missing: 0, .. } => {
                let files = counted(files, "file");
                self.context.note(format_args!("{} at {}: {files}, in the cache", self.repo, short(commit)));
            }
            Event::Plan { commit, files, missing, bytes } => {
                let cached = if missing < files { format!(", {} in the cache", files - missing) } else { String::new() };
                self.context.note(format_args!(
                    "{} at {}: {} to download, {}{cached}",
                    self.repo,
                    short(commit),
                    counted(missing, "file"),
                    human_bytes(bytes)
                ));
                self.bar.set_length(bytes);
                if self.context.draws_progress() {
                    self.bar.set_draw_target(ProgressDrawTarget::stderr());
                }
            }
            Event::File(file) => self.bar.set_message(file.to_string()),
            Event::Bytes(bytes) => self.bytes(bytes),
            Event::Waiting { file } => {
                self.talk(format_args!("another process downloads {file} of {}; waiting for it", self.repo));
            }
            Event::Retry { what, why, wait } => {
                self.talk(format_args!("{what}: {why}; trying again in {:.1} s", wait.as_secs_f64()));
            }
            Event::Unreachable { error, commit } => {
                self.talk(format_args!("{error}\nusing {} at {} from the cache", self.repo, short(commit)));
            }
        }
    }

    fn bytes(&self, bytes: u64) {
        self.bar.set_position(bytes);
        if !self.context.draws_progress() && self.last_line.get().elapsed() >= LINE_EVERY {
            self.last_line.set(Instant::now());
            let all = self.bar.length().unwrap_or(0);
            let (done, left) = (human_bytes(bytes), self.bar.eta().as_secs());
            self.context.note(format_args!("{done} of {}, {left} s left", human_bytes(all)));
        }
    }

    fn talk(&self, text: std::fmt::Arguments) {
        self.bar.suspend(|| self.context.note(text));
    }

    /// Clears the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn short(commit: &str) -> &str {
    commit.get(..SHORT_COMMIT).unwrap_or(commit)
}
