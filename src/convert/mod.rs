//! Conversion: a [`Plan`] made before any weight is read, then a stream of chunks through quantization to disk.
//!
//! ```text
//! mapped checkpoint ─► rows as f32 ─► quantize, pack ─► (one chunk waits) ─► hash, write ─► DIR.partial/package
//!                      └──── rayon, blocks of rows ───┘                      └─ one thread ─┘            │ rename
//! source files ─► SHA-256 (one thread) ─► provenance                                                     ▼ DIR
//! ```
//!
//! Chunks are quantized in the order in which they lie on disk, at most three are in memory, and what each becomes
//! depends on its weights and scheme alone: neither the number of threads nor an interruption changes a byte.

mod error;
mod files;
mod pipeline;
mod plan;
mod work;

pub use error::ConvertError;
pub use plan::{Plan, PlannedShard};

use crate::architecture::Decoder;
use crate::quantize::Recipe;
use haikuq_format::Manifest;
use haikuq_format::manifest::{HubSource, MANIFEST_FILE};
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

/// Where a conversion stands; reported from several threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many weights of shards that were finished by an earlier run.
    Resumed {
        /// Shards found complete.
        shards: usize,
        /// Weights in them.
        weights: u64,
    },
    /// So many more weights are quantized.
    Weights(u64),
    /// A shard is on disk.
    Shard(usize),
}

/// Converts `decoder` as planned and returns the manifest of the package, which then lies at `options.out`.
///
/// # Errors
/// See [`ConvertError`]. Whatever happens, nothing incomplete lies under the final name; finished shards stay in
/// `OUT.partial` for [`Options::resume`].
pub fn convert(
    decoder: &Decoder,
    recipe: &Recipe,
    plan: &Plan,
    options: &Options,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Manifest, ConvertError> {
    files::check_target(&options.out, options.force)?;
    let sources = files::stat_all(&decoder.checkpoint().source_files())?;
    let mut work = WorkFolder::open(options, plan.digest(recipe, &sources), &sources, plan)?;
    if work.finished() > 0 {
        let weights = plan.shards[..work.finished()].iter().map(|s| plan.shard_weights(s)).sum();
        progress(Progress::Resumed { shards: work.finished(), weights });
    }
    let hashed = pipeline::run(decoder, plan, options.jobs, &mut work, progress)?;
    let manifest = Manifest {
        tensors: plan.tensors_with_errors(work.errors()),
        shards: plan.shards.iter().zip(work.hashes()).map(|(shard, sha256)| shard.entry(sha256)).collect(),
        files: files::write_companions(decoder.checkpoint().companions(), work.package())?,
        provenance: haikuq_format::manifest::Provenance {
            tool: tool(),
            recipe: recipe.name.clone(),
            recipe_text: recipe.text.clone(),
            source: hashed,
            calibration: None,
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
