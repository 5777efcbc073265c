//! [`Conversion`]: from a checkpoint's path to a package, with all that is chosen on the way.

mod calibrating;
mod device;
mod event;

pub use device::{Device, DeviceChoice};
pub use event::{Event, Note};

use super::memory::{self, Calibrated};
use super::package::{self, Options};
use super::{ConvertError, ConvertedPart, Estimate, Part, Plan, Speeds, check_part_target, check_target, choose_schemes};
use crate::accelerator::Accelerator;
use crate::architecture::Decoder;
use crate::calibrate::{self, Calibration, CalibrationSource};
use crate::checkpoint::Checkpoint;
use crate::quantize::{Choice, Equalized, Recipe};
use crate::timings::{Step, Timings};
use crate::tokenizer::Findings;
use crate::zeros::give_back;
use calibrating::Calibrating;
use haikuq_format::manifest::HubSource;
use haikuq_format::{DEFAULT_SHARD_BYTES, Manifest};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Expected times are told before calibration if they are longer, in seconds.
const TOLD_SECONDS: f64 = 20.0;

/// A package's size, in place of the recipe's.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Target {
    /// Bits a weight, everything counted.
    Bits(f64),
    /// Bytes of all shards.
    Bytes(u64),
}

/// A conversion: what to convert, to what, and how. [`Conversion::plan`] tells what it would make, [`Conversion::run`] makes it.
///
/// ```no_run
/// use haikuq::convert::{Conversion, Event};
/// use haikuq::quantize::Recipe;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let conversion = Conversion::new("SmolLM2-135M-Instruct", Recipe::load("q4")?);
/// let planned = conversion.plan(&|_| ())?;
/// println!("{} bytes, {:.2} bits a weight", planned.plan.total_bytes(), planned.plan.bits_per_weight());
/// let converted = conversion.run("smollm2.q4".as_ref(), &|event| {
///     if let Event::Warning(text) = event {
///         eprintln!("{text}");
///     }
/// })?;
/// println!("{} shards", converted.manifest.shards.len());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Conversion {
    checkpoint: PathBuf,
    recipe: Recipe,
    target: Option<Target>,
    calibration: Option<CalibrationSource>,
    shard_bytes: u64,
    jobs: usize,
    device: DeviceChoice,
    spill: Option<PathBuf>,
    save_interval: Duration,
    resume: bool,
    force: bool,
    hub: Option<HubSource>,
    text_only: bool,
}

/// A conversion before any weight is rounded.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The package, down to the last offset.
    pub plan: Plan,
    /// The shards that are made: all of the plan's, but for a [`Part`].
    pub shards: Range<usize>,
    /// How long it takes on this machine; none for recipes without calibration, which take as long as reading.
    pub estimate: Option<Estimate>,
    /// The tokenizer, and the tokens that end a text.
    pub texts: Findings,
}

/// A package that was made.
#[derive(Debug)]
pub struct Converted {
    /// Its manifest.
    pub manifest: Manifest,
    /// What each step took.
    pub timings: Timings,
    /// Threads that worked.
    pub jobs: usize,
}

impl Conversion {
    /// Converts the checkpoint at a path (a folder, a `.gguf` or `.onnx` file) by a recipe, with all else by default: the built-in
    /// calibration text, a thread for each processor, and a GPU if one is faster.
    pub fn new(checkpoint: impl Into<PathBuf>, recipe: Recipe) -> Self {
        Self {
            checkpoint: checkpoint.into(),
            recipe,
            target: None,
            calibration: None,
            shard_bytes: DEFAULT_SHARD_BYTES,
            jobs: std::thread::available_parallelism().map_or(1, usize::from),
            device: DeviceChoice::default(),
            spill: None,
            save_interval: Duration::from_secs(60),
            resume: false,
            force: false,
            hub: None,
            text_only: false,
        }
    }

    /// Aims for a size.
    #[must_use]
    pub fn target(self, target: Target) -> Self {
        Self { target: Some(target), ..self }
    }

    /// Calibrates on a text, or takes a calibration made before.
    #[must_use]
    pub fn calibration(self, source: CalibrationSource) -> Self {
        Self { calibration: Some(source), ..self }
    }

    /// Largest size of a shard, in bytes.
    #[must_use]
    pub fn shard_bytes(self, bytes: u64) -> Self {
        Self { shard_bytes: bytes, ..self }
    }

    /// Number of threads; the package does not depend on it.
    #[must_use]
    pub fn jobs(self, jobs: usize) -> Self {
        Self { jobs, ..self }
    }

    /// Where calibrated recipes compute.
    #[must_use]
    pub fn device(self, device: DeviceChoice) -> Self {
        Self { device, ..self }
    }

    /// Keeps activations that are not needed yet in files in a folder. Without, memory that is short decides.
    #[must_use]
    pub fn spill(self, folder: impl Into<PathBuf>) -> Self {
        Self { spill: Some(folder.into()), ..self }
    }

    /// Time between two savings of the state that [`Conversion::resume`] goes on from, at least.
    #[must_use]
    pub fn save_interval(self, interval: Duration) -> Self {
        Self { save_interval: interval, ..self }
    }

    /// Goes on from an interrupted conversion to the same folder.
    #[must_use]
    pub fn resume(self, resume: bool) -> Self {
        Self { resume, ..self }
    }

    /// Replaces a package under the same name, once the new one is complete.
    #[must_use]
    pub fn force(self, force: bool) -> Self {
        Self { force, ..self }
    }

    /// Where on the hub the checkpoint comes from, for the package's provenance.
    #[must_use]
    pub fn hub(self, source: Option<HubSource>) -> Self {
        Self { hub: source, ..self }
    }

    /// Converts the language model of a multimodal model; see [`Checkpoint::text_only`].
    #[must_use]
    pub fn text_only(self, text_only: bool) -> Self {
        Self { text_only, ..self }
    }

    /// What [`Conversion::run`] would make, and how long that takes. Calibrated recipes are calibrated for it. `observe` may be
    /// called from any thread.
    ///
    /// # Errors
    /// See [`ConvertError`].
    pub fn plan(&self, observe: &(dyn Fn(Event) + Sync)) -> Result<Planned, ConvertError> {
        self.prepare(None, &Timings::default(), observe, |ready| Ok(ready.planned))
    }

    /// Makes the package `out`. `observe` may be called from any thread.
    ///
    /// # Errors
    /// See [`ConvertError`]. Whatever happens, nothing incomplete lies at `out`; `OUT.partial` keeps what was finished for
    /// [`Conversion::resume`].
    pub fn run(&self, out: &Path, observe: &(dyn Fn(Event) + Sync)) -> Result<Converted, ConvertError> {
        check_target(out, self.force, self.resume)?;
        let timings = Timings::default();
        let manifest = self.prepare(Some(out), &timings, observe, |ready| {
            observe(Event::Planned(&ready.planned));
            let options = self.options(out, &ready);
            let (plan, calibration) = (&ready.planned.plan, ready.calibration.as_ref());
            let progress = |progress: package::Progress<'_>| observe(Event::Progress(progress));
            package::convert(ready.weights, ready.recipe, plan, calibration, &options, &timings, &progress)
        })?;
        Ok(Converted { manifest, timings, jobs: self.jobs })
    }

    /// Makes one part of the package, on one of several machines, in the folder `out`; [`super::merge`] makes the package of all
    /// parts. The recipe must be one without calibration. `observe` may be called from any thread.
    ///
    /// # Errors
    /// See [`ConvertError`]. Whatever happens, nothing incomplete lies at `out`; `OUT.partial` keeps what was finished for
    /// [`Conversion::resume`].
    pub fn run_part(&self, part: Part, out: &Path, observe: &(dyn Fn(Event) + Sync)) -> Result<ConvertedPart, ConvertError> {
        if self.recipe.calibrate {
            return Err(ConvertError::PartOfCalibrated { recipe: self.recipe.name.clone() });
        }
        check_part_target(out, self.resume)?;
        self.prepare(Some(out), &Timings::default(), observe, |mut ready| {
            ready.planned.shards = part.shards(ready.planned.plan.shards.len())?;
            observe(Event::Planned(&ready.planned));
            let progress = |progress: package::Progress<'_>| observe(Event::Progress(progress));
            super::part::convert(ready.weights, ready.recipe, &ready.planned.plan, part, &self.options(out, &ready), &progress)
        })
    }

    fn options(&self, out: &Path, ready: &Ready<'_>) -> Options {
        Options {
            out: out.into(),
            jobs: self.jobs,
            resume: self.resume,
            force: self.force,
            save_interval: self.save_interval,
            accelerator: ready.accelerator.clone(),
            spill: ready.spill.clone(),
            hub: self.hub.clone(),
        }
    }

    /// Opens, calibrates and plans; then does what is left to do.
    fn prepare<T>(
        &self,
        out: Option<&Path>,
        timings: &Timings,
        observe: &(dyn Fn(Event) + Sync),
        then: impl FnOnce(Ready) -> Result<T, ConvertError>,
    ) -> Result<T, ConvertError> {
        let threads = package::threads(self.jobs)?;
        let checkpoint = Checkpoint::open(&self.checkpoint)?;
        let decoder = Decoder::from_checkpoint(if self.text_only { checkpoint.text_only() } else { checkpoint })?;
        decoder.notes().iter().for_each(|note| observe(Event::Warning(note)));
        let texts = Findings::of(decoder.checkpoint(), &decoder.spec)?;
        texts.warnings.iter().for_each(|warning| observe(Event::Warning(warning)));
        let spec = &decoder.spec;
        let recipe = match self.target {
            Some(Target::Bits(bits)) => self.recipe.clone().with_target(bits)?,
            Some(Target::Bytes(bytes)) => self.recipe.clone().with_target(Plan::bits_for_size(spec, self.shard_bytes, bytes)?)?,
            None => self.recipe.clone(),
        };
        if !recipe.calibrate && self.calibration.is_some() {
            return Err(ConvertError::CalibrationUnused { recipe: recipe.name });
        }
        let source = self.calibration.clone().unwrap_or(CalibrationSource::BuiltIn);
        let is_measured = matches!(source, CalibrationSource::File(_));
        let mut sizes = calibrate::Options::default();
        if is_measured {
            sizes.sensitivity_tokens = 0;
        }
        let candidates = if let Choice::Target { schemes, .. } = &recipe.choice { schemes.len() } else { 0 };
        let estimate = |speeds: Speeds, text: &calibrate::Options| Estimate::new(spec, text, candidates, speeds);
        let (accelerator, speeds) = match recipe.calibrate {
            true => {
                let time = |speeds: Speeds| estimate(speeds, &sizes).seconds();
                let (accelerator, speeds) = self.device.choose(&threads, spec, time, observe)?;
                (accelerator, Some(speeds))
            }
            false => (None, None),
        };
        let expected = |text: &calibrate::Options| speeds.map(|s| estimate(s, text));
        if let Some(estimate) = expected(&sizes).filter(|e| !is_measured && e.seconds() > TOLD_SECONDS) {
            observe(Event::Note(Note::Expected { seconds: estimate.seconds() }));
        }
        let on_gpu = accelerator.is_some();
        let spill = |part, memory: &dyn Fn(Calibrated) -> u64| self.spill_folder(part, out, memory, observe);
        let calibration = match recipe.calibrate {
            true => {
                let spilled = |c: Calibrated| memory::measuring(spec, &sizes, self.jobs, c);
                let calibrating = Calibrating {
                    source: &source,
                    spill: if is_measured { None } else { spill("calibration", &spilled) },
                    out,
                    resume: self.resume,
                    threads: &threads,
                    accelerator: accelerator.as_ref(),
                    timings,
                    observe,
                };
                Some(calibrating.load(&decoder)?)
            }
            false => None,
        };
        give_back();
        let equalize = || threads.install(|| Equalized::for_recipe(&decoder, &recipe));
        let weights = timings.measure(Step::Equalization, "", 0.0, equalize)?;
        let choose = || threads.install(|| choose_schemes(&weights, &recipe, calibration.as_ref()));
        let (schemes, losses) = timings.measure(Step::Schemes, "", 0.0, choose)?;
        let mut plan = Plan::new(spec, &recipe.name, schemes, self.shard_bytes, self.jobs)?;
        let spill = match &calibration {
            // A GPU has them in its own memory.
            Some(c) if !on_gpu => spill("rounding", &|calibrated| memory::rounding(spec, &c.sizes(), self.jobs, calibrated)),
            _ => self.spill.clone(),
        };
        plan.expect(spec, losses, calibration.as_ref(), Calibrated { spilled: spill.is_some(), on_gpu });
        let estimate = calibration.as_ref().and_then(|c| {
            let sensitivity_tokens = if is_measured { 0 } else { c.sensitivity_tokens };
            expected(&calibrate::Options { sensitivity_tokens, ..c.sizes() })
        });
        then(Ready {
            weights: &weights,
            recipe: &recipe,
            planned: Planned { shards: 0..plan.shards.len(), plan, estimate, texts },
            calibration,
            accelerator,
            spill,
        })
    }

    /// A folder for activations that wait, for a part of the work that takes `memory` with it and without: the one that was
    /// named, or where memory is short, the folder that the package is going to lie in.
    fn spill_folder(
        &self,
        part: &'static str,
        out: Option<&Path>,
        memory: &dyn Fn(Calibrated) -> u64,
        observe: &(dyn Fn(Event) + Sync),
    ) -> Option<PathBuf> {
        if self.spill.is_some() {
            return self.spill.clone();
        }
        let (out, free) = (out?, memory::available()?);
        let [all, less] = [false, true].map(|spilled| memory(Calibrated { spilled, on_gpu: false }));
        if all <= free {
            return None;
        }
        // The package's own folders may not be there yet.
        let folder = out.ancestors().skip(1).find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
        observe(Event::Note(Note::Spilling { part, free, all, less, folder }));
        Some(folder.into())
    }
}

/// All that converting needs.
struct Ready<'a> {
    weights: &'a Equalized<'a>,
    /// With the target that was asked for.
    recipe: &'a Recipe,
    planned: Planned,
    calibration: Option<Calibration>,
    accelerator: Option<Arc<Accelerator>>,
    spill: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_wait_on_disk_where_memory_is_short() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("not/there/yet");
        let recipe = || Recipe::load("q4").unwrap();
        let folder = |conversion: &Conversion, out: Option<&Path>, all: u64, less: u64| {
            let memory = |calibrated: Calibrated| if calibrated.spilled { less } else { all };
            conversion.spill_folder("rounding", out, &memory, &|_| ())
        };
        let conversion = Conversion::new("checkpoint", recipe());
        assert_eq!(folder(&conversion, Some(&out), 0, 0), None);
        assert_eq!(folder(&conversion, Some(&out), u64::MAX, 1), Some(dir.path().into()));
        assert_eq!(folder(&conversion, None, u64::MAX, 1), None, "nothing is written for a plan");
        let named = Conversion::new("checkpoint", recipe()).spill("elsewhere");
        assert_eq!(folder(&named, Some(&out), 0, 0), Some("elsewhere".into()));
    }
}
