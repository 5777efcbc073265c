//! A report's three files.

use super::{RenderError, Report, to_html, to_markdown};
use haikuq_files::write_atomically;
use std::path::{Path, PathBuf};

/// A report could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A file could not be rendered.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// The report is no JSON.
    #[error("report.json: {0}")]
    Json(#[from] serde_json::Error),
    /// A file or folder could not be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Writes `report.json`, `report.md` and `report.html` to `folder`, which is made if needed. All three are rendered
/// before the first is written, and each appears complete or not at all.
///
/// # Errors
/// See [`WriteError`].
pub fn write_report(report: &Report, folder: &Path) -> Result<(), WriteError> {
    let mut json = serde_json::to_vec_pretty(report)?;
    json.push(b'\n');
    let files = [("report.json", json), ("report.md", to_markdown(report)?.into()), ("report.html", to_html(report)?.into())];
    std::fs::create_dir_all(folder).map_err(|source| WriteError::Io { path: folder.into(), source })?;
    for (name, bytes) in files {
        let path = folder.join(name);
        write_atomically(&path, &bytes).map_err(|source| WriteError::Io { path, source })?;
    }
    Ok(())
}
