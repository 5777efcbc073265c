//! Conversion: a [`Plan`] made before any weight is read, then a stream of chunks through quantization to disk.
//!
//! [`Conversion`] does all of it; its parts can be called by themselves.
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
//! A part of a conversion makes some of the shards (`part.rs`), and parts of several machines become one package (`merge.rs`).
//!
//! Chunks are quantized in the order in which they lie on disk, and at most three are in memory. Their bytes depend on
//! weights and scheme alone: neither the number of threads nor an interruption changes one.

mod calibrated;
mod conversion;
pub(crate) mod cost;
mod disk;
mod error;
mod estimate;
mod files;
mod journal;
pub mod memory;
mod merge;
mod package;
mod part;
mod pipeline;
mod place;
mod plan;
mod schemes;
mod staged;
mod work;

pub use conversion::{Conversion, Converted, Device, DeviceChoice, Event, Note, Planned, Target};
pub use error::ConvertError;
pub use estimate::{Estimate, Speeds};
pub use merge::merge;
pub use package::{MatrixCost, Options, Progress, check_target, convert, heavy_losses};
pub use part::{ConvertedPart, PART_FILE, Part, check_part_target};
pub use plan::{Plan, PlannedShard};
pub use schemes::choose_schemes;

use std::path::{Path, PathBuf};

/// Tool and version, as provenance writes them.
pub fn tool() -> String {
    format!("haikuq {}", env!("CARGO_PKG_VERSION"))
}

/// Where a conversion to `out` keeps its calibration, which `key` is a short hash of all causes of.
pub fn kept_calibration(out: &Path, key: &str) -> PathBuf {
    partial_folder(out).join(format!("{}{key}.safetensors", work::CALIBRATION))
}

/// Keeps a calibration at a path of [`kept_calibration`].
///
/// # Errors
/// If it cannot be written.
pub fn keep_calibration(path: &Path, bytes: &[u8]) -> Result<(), ConvertError> {
    if let Some(folder) = path.parent() {
        disk::create_folder(folder)?;
    }
    let unfinished = path.with_extension("unfinished");
    disk::write_synced(&unfinished, bytes)?;
    disk::rename(&unfinished, path)
}

/// The folder that a conversion to `out` works in.
pub fn partial_folder(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    out.with_file_name(name)
}
