//! The calibration of `haikuq convert`: measured on a text, or taken up from an interrupted conversion.

use super::Context;
use super::progress::Progress;
use crate::accelerator::Accelerator;
use crate::architecture::Decoder;
use crate::calibrate::file::CalibrationFile;
use crate::calibrate::{Calibration, CalibrationError, CalibrationSource, Options, sensitivity};
use crate::convert;
use crate::files::hex;
use crate::golden::reference::GpuProducts;
use crate::timings::{Stopwatch, Timings};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What calibration needs beside the decoder.
pub struct Calibrating<'a> {
    /// The text, or a calibration made before.
    pub source: &'a CalibrationSource,
    /// Folder for what is kept of every layer.
    pub spill: Option<PathBuf>,
    /// The package to be, whose work folder keeps the calibration until it is complete.
    pub out: Option<&'a Path>,
    /// Take up what was kept.
    pub resume: bool,
    /// Threads.
    pub threads: &'a rayon::ThreadPool,
    /// A GPU for products.
    pub accelerator: Option<&'a Arc<Accelerator>>,
    /// Gets what steps took.
    pub timings: &'a Timings,
}

impl Calibrating<'_> {
    /// The calibration of `decoder`.
    ///
    /// # Errors
    /// If text or decoder cannot be read, or numbers overflow.
    pub fn load(self, decoder: &Decoder, context: &Context) -> anyhow::Result<Calibration> {
        if *self.source == CalibrationSource::BuiltIn {
            context.note("calibrating on the built-in text; --calibration FILE takes one like what the model will see");
        }
        let options = Options { spill: self.spill.clone(), ..Options::default() };
        let kept = match self.source {
            CalibrationSource::File(_) => None,
            _ => self.out.map(|out| convert::kept_calibration(out, &self.key(decoder, &options))),
        };
        if let Some(path) = kept.as_deref().filter(|path| self.resume && path.is_file()) {
            match taken_up(path, decoder) {
                Ok(calibration) => {
                    context.note("the calibration of the interrupted run is taken up");
                    return Ok(calibration);
                }
                Err(error) => context.note(format_args!("calibrating again: {error}")),
            }
        }
        let calibration = self.measure(decoder, &options, context)?;
        let Some(path) = kept else { return Ok(calibration) };
        // The key stands for the checkpoint.
        let file = CalibrationFile { calibration, checkpoint: Vec::new() };
        convert::keep_calibration(&path, &file.to_bytes()?)?;
        Ok(file.calibration)
    }

    fn measure(&self, decoder: &Decoder, options: &Options, context: &Context) -> anyhow::Result<Calibration> {
        let folder = decoder.checkpoint().path();
        let mut progress = Progress::new(context, sensitivity::steps(&decoder.spec), "steps of calibration");
        let tokenizer = || super::model::open_tokenizer(folder).map_err(|e| e.into_boxed_dyn_error());
        let mut watch = Stopwatch::start();
        let mut advance = |done| {
            let spent = watch.lap(sensitivity::flop(&decoder.spec, options, done));
            self.timings.add(sensitivity::step(&decoder.spec, done), "", spent);
            progress.set(done);
        };
        let products = self.accelerator.map(|gpu| self.threads.install(|| GpuProducts::new(gpu.clone()))).transpose()?;
        let load = || self.source.load(decoder, tokenizer, options, products.as_ref(), &mut advance);
        let calibration = self.threads.install(load)?;
        if let Some(error) = products.as_ref().and_then(|p| p.failure()) {
            context.note(format_args!("the processor computed what the GPU could not: {error}"));
        }
        Ok(calibration)
    }

    /// What the calibration depends on, hashed: files by their sizes and times. Whether they are the same in truth is found out
    /// at the end of every conversion.
    fn key(&self, decoder: &Decoder, options: &Options) -> String {
        let Options { windows, window_tokens, sensitivity_tokens, seed, spill: _ } = options;
        let mut hash = Sha256::new();
        hash.update(format!("{} {windows} {window_tokens} {sensitivity_tokens} {seed}", convert::tool()));
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
