//! Writes a package as it is planned.

use super::files::SourceFile;
use super::journal::FinishedShard;
use super::work::{Root, WorkFolder};
use super::{ConvertError, Plan, calibrated, disk, files, partial_folder, pipeline, place, staged, tool};
use crate::accelerator::Accelerator;
use crate::architecture::Decoder;
use crate::calibrate::Calibration;
use crate::quantize::{Equalized, Recipe};
use crate::timings::{Step, Timings};
use haikuq_format::Manifest;
use haikuq_format::manifest::{FileEntry, HubSource, MANIFEST_FILE, Provenance, TensorEntry};
use haikuq_format::scheme::Scheme;
use haikuq_runtime::package::{FolderSource, Package};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What to convert to, and how.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The package's folder.
    pub out: PathBuf,
    /// Threads that quantize; the package does not depend on it.
    pub jobs: usize,
    /// Go on from an interrupted conversion.
    pub resume: bool,
    /// Replace a package under the same name, once the new one is complete.
    pub force: bool,
    /// Time between two savings of a calibrated conversion's state beside its finished matrices, at least.
    pub save_interval: Duration,
    /// A GPU for the calibrated part; without one, or after it failed, the processor does all.
    pub accelerator: Option<Arc<Accelerator>>,
    /// Folder where activations wait that are not needed yet, in place of memory; nothing stays there.
    pub spill: Option<PathBuf>,
    /// Where on the hub the checkpoint comes from, for provenance.
    pub hub: Option<HubSource>,
}

impl Options {
    /// A new package in the folder `out`, made on the processor by as many threads as there are cores.
    pub fn new(out: impl Into<PathBuf>) -> Self {
        Self {
            out: out.into(),
            jobs: std::thread::available_parallelism().map_or(1, usize::from),
            resume: false,
            force: false,
            save_interval: Duration::from_secs(60),
            accelerator: None,
            spill: None,
            hub: None,
        }
    }
}

/// What quantizing a matrix with calibration took and lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MatrixCost {
    /// Time it took.
    pub seconds: f64,
    /// Bits a weight that it is stored in, with all that belongs to it.
    pub bits: f64,
    /// Part of the energy of its outputs that is lost.
    pub relative_loss: f64,
}

/// Where a conversion stands; reported from several threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress<'a> {
    /// What an interrupted run left was put right; a sentence that says how.
    Repaired(&'a str),
    /// So many weights of shards that were finished by an earlier run.
    Resumed {
        /// Shards found complete.
        shards: usize,
        /// Weights in them.
        weights: u64,
    },
    /// So many more weights are quantized without calibration.
    Weights(u64),
    /// A matrix is quantized with calibration.
    Matrix {
        /// Its canonical name.
        name: &'a str,
        /// How it is stored and what that took; nothing if an earlier run did it.
        cost: Option<(Scheme, MatrixCost)>,
    },
    /// A shard is on disk.
    Shard(usize),
}

/// A matrix that loses more of its norm than this is hardly there any more.
const HEAVY_LOSS: f64 = 0.3;

/// A warning for each matrix of a package that lost more than 30 % of its norm.
pub fn heavy_losses(manifest: &Manifest) -> Vec<String> {
    let heavy = manifest.tensors.iter().filter_map(|t| Some((t, t.relative_error.filter(|loss| *loss > HEAVY_LOSS)?)));
    let warning = |(t, loss): (&TensorEntry, f64)| {
        format!(
            "{} loses {:.0} % of its norm in {}: its weights are too small or too far apart for it; give it f16 or f32 in a \
             recipe of your own, or compare the package with the original by `haikuq validate`",
            t.name,
            100.0 * loss,
            t.scheme
        )
    };
    heavy.map(warning).collect()
}

/// Converts the decoder of `weights` as planned, with `calibration` if the recipe asks for it, and returns the manifest of
/// the package, which then lies at `options.out`. `timings` gets what each step took.
///
/// # Errors
/// See [`ConvertError`]. Whatever happens, nothing incomplete lies under the final name; finished shards stay in
/// `OUT.partial` for [`Options::resume`].
pub fn convert(
    weights: &Equalized<'_>,
    recipe: &Recipe,
    plan: &Plan,
    calibration: Option<&Calibration>,
    options: &Options,
    timings: &Timings,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Manifest, ConvertError> {
    let decoder = weights.decoder();
    let calibration = calibration.filter(|_| recipe.calibrate);
    if recipe.calibrate && calibration.is_none() {
        return Err(ConvertError::NoCalibration { recipe: recipe.name.clone() });
    }
    let sources: Vec<SourceFile> = decoder.checkpoint().sources().into_iter().map(SourceFile::new).collect();
    let contents = Contents { decoder, recipe, plan, calibration, options, sources: &sources };
    // A manifest that readers would refuse is known before any work is done for it.
    let draft = contents.draft()?;
    let root = Root::find(&options.out)?;
    place::repair(&root, options, progress)?;
    if options.resume
        && let Some(manifest) = contents.is_there(&draft)?
    {
        root.clear()?;
        progress(Progress::Repaired(&format!("{} is complete already", options.out.display())));
        return Ok(manifest);
    }
    check_out(&options.out, options.force, &draft)?;
    let digest = plan.digest(recipe, calibration, &sources);
    let mut work = WorkFolder::open(root, options, digest, &sources, &plan.shards, progress)?;
    if work.finished() > 0 {
        let weights = plan.shards[..work.finished()].iter().map(|s| plan.shard_weights(s)).sum();
        progress(Progress::Resumed { shards: work.finished(), weights });
    }
    let pool = threads(options.jobs)?;
    let staged = calibration.map(|_| staged::Staged::open(work.matrices())).transpose()?;
    if let (Some(calibration), Some(staged)) = (calibration, &staged)
        && work.finished() < plan.shards.len()
    {
        pool.install(|| calibrated::stage(weights, plan, calibration, staged, options, timings, progress))?;
    }
    let shards = || pipeline::run(&pool, weights, plan, &plan.shards, staged.as_ref(), &mut work, progress);
    let hashed = timings.measure(Step::Shards, "", 0.0, shards)?;
    let tensors = with_errors(&plan.tensors, work.shards());
    let companions = decoder.checkpoint().companions();
    files::write_companions(companions, &work.package())?;
    // Every weight is read by now.
    work.check_sources(&hashed)?;
    let hashes = work.shards().iter().map(|shard| shard.sha256.as_str());
    let manifest = contents.manifest(tensors, hashes, files::companion_entries(companions), hashed);
    disk::write_synced(&work.package().join(MANIFEST_FILE), &manifest.to_json())?;
    // What our own reader refuses does not get its name.
    read_back(&work.package()).map_err(ConvertError::Unreadable)?;
    place::put(work, &options.out)?;
    Ok(manifest)
}

/// So many threads.
///
/// # Errors
/// If the system does not give them.
pub(super) fn threads(jobs: usize) -> Result<rayon::ThreadPool, ConvertError> {
    let threads = rayon::ThreadPoolBuilder::new().num_threads(jobs).build();
    threads.map_err(|e| ConvertError::Threads { jobs, why: e.to_string() })
}

/// Refuses a target that a package cannot be put at, as far as that is known before it is planned: [`convert`] looks again.
///
/// # Errors
/// If something is there that is not to be replaced.
pub fn check_target(out: &Path, force: bool, resume: bool) -> Result<(), ConvertError> {
    // What an interrupted run left may be in the way, and is put right later.
    if resume || std::fs::symlink_metadata(partial_folder(out)).is_ok() {
        return Ok(());
    }
    place::check(out, force, &Default::default())
}

fn check_out(out: &Path, force: bool, draft: &Manifest) -> Result<(), ConvertError> {
    let names = draft.shards.iter().chain(&draft.files).map(|f| f.name.clone());
    place::check(out, force, &names.chain([MANIFEST_FILE.to_string()]).collect())
}

/// Reads a package as a runtime does: the manifest, the other files whole, and of the shards, whose hashes were taken as they
/// were written, lengths and headers.
pub(super) fn read_back(folder: &Path) -> Result<Manifest, haikuq_runtime::package::PackageError> {
    pollster::block_on(async {
        let package = Package::open(FolderSource::new(folder)).await?;
        package.check_layout().await?;
        Ok(package.manifest().clone())
    })
}

/// Stands for a hash that is not known yet.
fn unknown_hash() -> String {
    "0".repeat(64)
}

/// The tensor table with relative errors from those of all chunks of all `shards`. Chunks lie on disk in the table's order.
pub(super) fn with_errors(tensors: &[TensorEntry], shards: &[FinishedShard]) -> Vec<TensorEntry> {
    let mut chunks = shards.iter().flat_map(FinishedShard::errors);
    let mut tensors = tensors.to_vec();
    for tensor in &mut tensors {
        let (error, norm) = chunks.by_ref().take(tensor.chunks.len()).fold((0.0, 0.0), |sum, (e, n)| (sum.0 + e, sum.1 + n));
        tensor.relative_error = Some(if norm > 0.0 { (error / norm).sqrt() } else { 0.0 });
    }
    tensors
}

/// All that a package is made of.
pub(super) struct Contents<'a> {
    pub(super) decoder: &'a Decoder,
    pub(super) recipe: &'a Recipe,
    pub(super) plan: &'a Plan,
    pub(super) calibration: Option<&'a Calibration>,
    pub(super) options: &'a Options,
    pub(super) sources: &'a [SourceFile],
}

impl Contents<'_> {
    fn manifest<'a>(
        &self,
        tensors: Vec<TensorEntry>,
        hashes: impl Iterator<Item = &'a str>,
        files: Vec<FileEntry>,
        source: Vec<FileEntry>,
    ) -> Manifest {
        let mut provenance = Provenance::default();
        provenance.tool = tool();
        provenance.recipe = self.recipe.name.clone();
        provenance.recipe_text = self.recipe.text.clone();
        provenance.source = source;
        provenance.calibration = self.calibration.map(|c| c.text.clone()).unwrap_or_default();
        provenance.hub = self.options.hub.clone();
        let mut manifest = Manifest::new(self.decoder.spec.clone());
        manifest.tensors = tensors;
        manifest.shards = self.plan.shards.iter().zip(hashes).map(|(shard, sha256)| shard.entry(sha256)).collect();
        manifest.files = files;
        manifest.provenance = provenance;
        manifest
    }

    /// The manifest but for errors and the hashes that are not known yet, as a reader sees it.
    pub(super) fn draft(&self) -> Result<Manifest, ConvertError> {
        let source = |s: &SourceFile| FileEntry { name: s.name.clone(), bytes: s.fingerprint.bytes, sha256: unknown_hash() };
        let draft = self.without_results(self.sources.iter().map(source).collect());
        Manifest::from_json(&draft.to_json()).map_err(ConvertError::Manifest)
    }

    /// The manifest but for errors and the hashes of shards.
    pub(super) fn without_results(&self, source: Vec<FileEntry>) -> Manifest {
        let unknown = unknown_hash();
        let files = files::companion_entries(self.decoder.checkpoint().companions());
        self.manifest(self.plan.tensors.clone(), self.plan.shards.iter().map(|_| unknown.as_str()), files, source)
    }

    /// The package at the target, if it is what this conversion makes: a run that was stopped after it had put it there has
    /// nothing left to do.
    fn is_there(&self, draft: &Manifest) -> Result<Option<Manifest>, ConvertError> {
        let folder = std::fs::symlink_metadata(&self.options.out).is_ok_and(|m| m.is_dir());
        let Some(found) = folder.then(|| read_back(&self.options.out).ok()).flatten() else { return Ok(None) };
        let unknown = &draft.provenance.source;
        let mut same = found.clone();
        same.tensors.iter_mut().for_each(|t| t.relative_error = None);
        same.shards.iter_mut().for_each(|s| s.sha256 = unknown_hash());
        let source = std::mem::replace(&mut same.provenance.source, unknown.clone());
        if same != *draft || source.len() != unknown.len() || source.iter().zip(unknown).any(|(a, b)| a.bytes != b.bytes) {
            return Ok(None);
        }
        Ok((files::hash_sources(self.sources, None)? == source).then_some(found))
    }
}
