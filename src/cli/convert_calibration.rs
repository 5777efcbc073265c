//! The calibration of `haikuq convert`.

use super::Context;
use super::progress::Progress;
use crate::architecture::Decoder;
use crate::calibrate::{self, Calibration, CalibrationSource, sensitivity};
use crate::timings::{Stopwatch, Timings};
use std::path::PathBuf;

/// The calibration that is asked for, measured if need be.
pub fn calibrate(
    source: &CalibrationSource,
    decoder: &Decoder,
    threads: &rayon::ThreadPool,
    timings: &Timings,
    spill: Option<PathBuf>,
    context: &Context,
) -> anyhow::Result<Calibration> {
    if *source == CalibrationSource::BuiltIn {
        context.note("calibrating on the built-in text; --calibration FILE takes one like what the model will see");
    }
    let folder = decoder.checkpoint().path();
    let mut progress = Progress::new(context, calibrate::sensitivity::steps(&decoder.spec), "steps of calibration");
    let tokenizer = || super::model::open_tokenizer(folder).map_err(|e| e.into_boxed_dyn_error());
    let options = calibrate::Options { spill, ..calibrate::Options::default() };
    let mut watch = Stopwatch::start();
    let mut advance = |done| {
        timings.add(sensitivity::step(&decoder.spec, done), "", watch.lap(sensitivity::flop(&decoder.spec, &options, done)));
        progress.set(done);
    };
    let calibration = threads.install(|| source.load(decoder, tokenizer, &options, &mut advance))?;
    Ok(calibration)
}
