//! Progress of an upload: a bar on a terminal, a line for each large file elsewhere.

use crate::output::Context;
use crate::output::units::human_bytes;
use haikuq_hub::UploadEvent;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows how far an upload is.
pub struct UploadProgress<'a> {
    context: &'a Context,
    bar: ProgressBar,
}

impl<'a> UploadProgress<'a> {
    /// Progress that shows nothing before there is something to send.
    pub fn new(context: &'a Context) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let style =
            "{wide_bar} {percent:>3} %  {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left  {msg}";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { context, bar }
    }

    /// Takes a report.
    pub fn take(&self, event: UploadEvent) {
        match event {
            UploadEvent::Begin(bytes) => {
                self.bar.set_length(bytes);
                if bytes > 0 && self.context.draws_progress() {
                    self.bar.set_draw_target(ProgressDrawTarget::stderr());
                }
            }
            UploadEvent::File(file) => {
                self.bar.set_message(file.to_string());
                if !self.context.draws_progress() {
                    self.context.note(format_args!("sending {file}, of {} in all", human_bytes(self.bar.length().unwrap_or(0))));
                }
            }
            UploadEvent::Present(file) => self.talk(format_args!("{file}: the hub has it already")),
            UploadEvent::Bytes(bytes) => self.bar.set_position(bytes),
            UploadEvent::Commit => self.bar.set_message("commit"),
            UploadEvent::Retry { what, why, wait } => {
                self.talk(format_args!("{what}: {why}; trying again in {:.1} s", wait.as_secs_f64()));
            }
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
