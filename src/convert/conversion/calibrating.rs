//! The calibration of a conversion: measured on a text, or taken up from an interrupted run.

use super::{Event, Note};
use crate::accelerator::Accelerator;
use crate::architecture::Decoder;
use crate::calibrate::file::CalibrationFile;
use crate::calibrate::{Calibration, CalibrationError, CalibrationSource, Options, sensitivity};
use crate::convert::{ConvertError, keep_calibration, kept_calibration, tool};
use crate::model::BoxError;
use crate::reference::GpuProducts;
use crate::timings::{Stopwatch, Timings};
use crate::tokenizer;
use haikuq_files::hex;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What calibration needs beside the decoder.
pub(super) struct Calibrating<'a> {
    /// The text, or a calibration made before.
    pub(super) source: &'a CalibrationSource,
    /// Folder for what is kept of every layer.
    pub(super) spill: Option<PathBuf>,
    /// The package to be, whose work folder keeps the calibration until it is complete.
    pub(super) out: Option<&'a Path>,
    /// Take up what was kept.
    pub(super) resume: bool,
    /// Threads.
    pub(super) threads: &'a rayon::ThreadPool,
    /// A GPU for products.
    pub(super) accelerator: Option<&'a Arc<Accelerator>>,
    /// Gets what steps took.
    pub(super) timings: &'a Timings,
    /// Gets reports.
    pub(super) observe: &'a (dyn Fn(Event) + Sync),
}

impl Calibrating<'_> {
    /// The calibration of `decoder`.
    ///
    /// # Errors
    /// If text or decoder cannot be read, or numbers overflow.
    pub(super) fn load(self, decoder: &Decoder) -> Result<Calibration, ConvertError> {
        let note = |note| (self.observe)(Event::Note(note));
        if *self.source == CalibrationSource::BuiltIn {
            note(Note::BuiltInText);
        }
        let options = Options { spill: self.spill.clone(), ..Options::default() };
        let kept = match self.source {
            CalibrationSource::File(_) => None,
            _ => self.out.map(|out| kept_calibration(out, &self.key(decoder, &options))),
        };
        if let Some(path) = kept.as_deref().filter(|path| self.resume && path.is_file()) {
            match taken_up(path, decoder) {
                Ok(calibration) => {
                    note(Note::CalibrationTakenUp);
                    return Ok(calibration);
                }
                Err(error) => note(Note::CalibratingAgain(&error)),
            }
        }
        let calibration = self.measure(decoder, &options)?;
        let Some(path) = kept else { return Ok(calibration) };
        // The key stands for the checkpoint.
        let file = CalibrationFile { calibration, checkpoint: Vec::new() };
        let bytes = file.to_bytes().map_err(|e| CalibrationError::File { path: path.clone(), why: e.to_string() })?;
        keep_calibration(&path, &bytes)?;
        Ok(file.calibration)
    }

    fn measure(&self, decoder: &Decoder, options: &Options) -> Result<Calibration, ConvertError> {
        let steps = sensitivity::steps(&decoder.spec);
        let mut watch = Stopwatch::start();
        let mut advance = |done| {
            let spent = watch.lap(sensitivity::flop(&decoder.spec, options, done));
            self.timings.add(sensitivity::step(&decoder.spec, done), "", spent);
            (self.observe)(Event::Calibrating { done, steps });
        };
        let products = self.accelerator.map(|gpu| self.threads.install(|| GpuProducts::new(gpu.clone()))).transpose();
        let products =
            products.map_err(|e| ConvertError::Threads { jobs: self.threads.current_num_threads(), why: e.to_string() })?;
        let tokenizer = || tokenizer::of_checkpoint(decoder.checkpoint()).map_err(BoxError::from);
        let load = || self.source.load(decoder, tokenizer, options, products.as_ref(), &mut advance);
        let calibration = self.threads.install(load)?;
        if let Some(error) = products.as_ref().and_then(|p| p.failure()) {
            (self.observe)(Event::Note(Note::GpuFailed(error)));
        }
        Ok(calibration)
    }

    /// What the calibration depends on, hashed: files by their sizes and times. Whether they are the same in truth is found out
    /// at the end of every conversion.
    fn key(&self, decoder: &Decoder, options: &Options) -> String {
        let Options { windows, window_tokens, sensitivity_tokens, seed, spill: _ } = options;
        let mut hash = Sha256::new();
        hash.update(format!("{} {windows} {window_tokens} {sensitivity_tokens} {seed}", tool()));
        let texts = if let CalibrationSource::Text(paths) = self.source { paths.as_slice() } else { &[] };
        for path in decoder.checkpoint().source_files().iter().chain(texts) {
            let facts = std::fs::metadata(path).ok().map(|m| (m.len(), m.modified().ok()));
            hash.update(format!("\n{} {facts:?}", path.display()));
        }
        hex(&hash.finalize())[..16].to_string()
    }
}

/// What an interrupted run measured of the same checkpoint.
fn taken_up(path: &Path, decoder: &Decoder) -> Result<Calibration, CalibrationError> {
    let file = CalibrationFile::read(path)?;
    file.check_spec(&decoder.spec, path)?;
    Ok(file.calibration)
}
