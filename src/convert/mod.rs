//! Conversion: a [`Plan`] made before any weight is read, then a stream of chunks through quantization to disk.
//!
//! ```text
//! mapped checkpoint ─► rows as f32 ─► quantize, pack ─► (one chunk waits) ─► hash, write ─► DIR.partial/package
//!                      └──── rayon, blocks of rows ───┘                      └─ one thread ─┘            │ rename
//! source files ─► SHA-256 (one thread) ─► provenance                                                     ▼ DIR
//! ```
//!
//! A calibrated recipe quantizes all matrices first (`calibrated.rs`), in the order in which a decoder uses them, and
//! keeps them in the work folder, where the stream finds them in place of rows to quantize.
//!
//! Chunks are quantized in the order in which they lie on disk, at most three are in memory, and what each becomes
//! depends on its weights and scheme alone: neither the number of threads nor an interruption changes a byte.

mod calibrated;
mod error;
mod files;
mod memory;
mod pipeline;
mod plan;
mod schemes;
mod staged;
mod work;

pub use error::ConvertError;
pub use plan::{Plan, PlannedShard};
pub use schemes::choose_schemes;

use crate::architecture::Decoder;
use crate::calibrate::Calibration;
use crate::quantize::{Equalized, Recipe};
use haikuq_format::Manifest;
use haikuq_format::manifest::{HubSource, MANIFEST_FILE};
use haikuq_format::scheme::Scheme;
use std::path::{Path, PathBuf};
use work::WorkFolder;

/// What to convert to, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The package's folder.
    pub out: PathBuf,
    /// Threads that quantize; the package does not depend on it.
    pub jobs: usize,
    /// Go on from an interrupted conversion.
    pub resume: bool,
    /// Replace a package under the same name, once the new one is complete.
    pub force: bool,
    /// Where on the hub the checkpoint comes from, for provenance.
    pub hub: Option<HubSource>,
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
    /// So many weights of shards that were finished by an earlier run.
    Resumed {
        /// Shards found complete.
        shards: usize,
        /// Weights in them.
        weights: u64,
    },
    /// So many more weights are quantized.
    Weights(u64),
    /// A matrix is quantized with calibration.
    Matrix(&'a str, Scheme, MatrixCost),
    /// A shard is on disk.
    Shard(usize),
}

/// A matrix that loses more of its norm than this is hardly there any more.
const HEAVY_LOSS: f64 = 0.3;

/// A warning for each matrix of a package that lost more than 30 % of its norm.
pub fn heavy_losses(manifest: &Manifest) -> Vec<String> {
    let heavy = manifest.tensors.iter().filter_map(|t| Some((t, t.relative_error.filter(|loss| *loss > HEAVY_LOSS)?)));
    let warning = |(t, loss): (&haikuq_format::manifest::TensorEntry, f64)| {
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

/// Converts `decoder` as planned, with `calibration` if the recipe asks for it, and returns the manifest of the package,
/// which then lies at `options.out`.
///
/// # Errors
/// See [`ConvertError`]. Whatever happens, nothing incomplete lies under the final name; finished shards stay in
/// `OUT.partial` for [`Options::resume`].
pub fn convert(
    decoder: &Decoder,
    recipe: &Recipe,
    plan: &Plan,
    calibration: Option<&Calibration>,
    options: &Options,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Manifest, ConvertError> {
    let calibration = calibration.filter(|_| recipe.calibrate);
    if recipe.calibrate && calibration.is_none() {
        return Err(ConvertError::NoCalibration { recipe: recipe.name.clone() });
    }
    files::check_target(&options.out, options.force)?;
    let sources = files::stat_all(&decoder.checkpoint().source_files())?;
    let mut work = WorkFolder::open(options, plan.digest(recipe, calibration, &sources), &sources, plan)?;
    if work.finished() > 0 {
        let weights = plan.shards[..work.finished()].iter().map(|s| plan.shard_weights(s)).sum();
        progress(Progress::Resumed { shards: work.finished(), weights });
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.jobs)
        .build()
        .map_err(|e| ConvertError::Threads { jobs: options.jobs, why: e.to_string() })?;
    let weights = pool.install(|| match calibration {
        Some(_) => Equalized::new(decoder),
        None => Equalized::far(decoder),
    })?;
    let staged = calibration.map(|_| staged::Staged::open(work.matrices())).transpose()?;
    if let (Some(calibration), Some(staged)) = (calibration, &staged)
        && work.finished() < plan.shards.len()
    {
        pool.install(|| calibrated::stage(&weights, plan, calibration, staged, progress))?;
    }
    let hashed = pipeline::run(&pool, &weights, plan, staged.as_ref(), &mut work, progress)?;
    let manifest = Manifest {
        tensors: plan.tensors_with_errors(work.errors()),
        shards: plan.shards.iter().zip(work.hashes()).map(|(shard, sha256)| shard.entry(sha256)).collect(),
        files: files::write_companions(decoder.checkpoint().companions(), work.package())?,
        provenance: haikuq_format::manifest::Provenance {
            tool: tool(),
            recipe: recipe.name.clone(),
            recipe_text: recipe.text.clone(),
            source: hashed,
            calibration: calibration.map(|c| c.text.clone()).unwrap_or_default(),
            hub: options.hub.clone(),
        },
        ..plan.manifest(&decoder.spec)
    };
    // A package that our own reader would refuse must not get its name.
    manifest.check().map_err(ConvertError::Manifest)?;
    files::write_synced(&work.package().join(MANIFEST_FILE), &manifest.to_json())?;
    work.finish(&options.out)?;
    Ok(manifest)
}

/// Tool and version, as provenance writes them.
pub fn tool() -> String {
    format!("haikuq {}", env!("CARGO_PKG_VERSION"))
}

/// The folder that a conversion to `out` works in.
pub fn partial_folder(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    out.with_file_name(name)
}
