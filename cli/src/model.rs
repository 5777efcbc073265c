//! What a path on the command line names: a checkpoint, which the reference runs, or a package, which a GPU runs.

use anyhow::{Context as _, ensure};
use haikuq::architecture::Decoder;
use haikuq::checkpoint::{Checkpoint, Companion, read_companions};
use haikuq::model::LanguageModel;
use haikuq::reference::Reference;
use haikuq::reference::stored::StoredWeights;
pub use haikuq::runner::is_package;
use haikuq::runner::{Runner, RunnerOptions};
use haikuq::tokenizer::{from_companions, missing_tokenizer};
use haikuq::validate::report::Report;
use haikuq_files::{hash_file, read_at_most};
use haikuq_format::manifest::{FileEntry, MANIFEST_FILE, Manifest};
use haikuq_runtime::kernels::candidate::Numerics;
use haikuq_runtime::package::MAX_MANIFEST_BYTES;
use haikuq_runtime::text::Tokenizer;
use std::path::Path;

/// A model that can be asked, and what it runs on.
pub struct Opened {
    /// The model.
    pub model: Box<dyn LanguageModel>,
    /// Name of the GPU, or that it is the reference.
    pub adapter: String,
    /// How it computes.
    pub numerics: Numerics,
    /// What a user should know of the load.
    pub notes: Vec<String>,
}

/// Longest report that is read.
const MAX_REPORT: u64 = 64 << 20;

/// What runs the reference.
const REFERENCE: &str = "reference (CPU, f32)";

/// Opens a checkpoint (of a multimodal model with `text_only` the language model) with the reference, and a package on the GPU,
/// or with the reference if that is asked for.
pub fn open(path: &Path, text_only: bool, on_reference: bool, options: &RunnerOptions) -> anyhow::Result<Opened> {
    let reference = |model: Reference, notes: Vec<String>| {
        let (adapter, numerics) = (REFERENCE.into(), Numerics::Exact);
        Opened { model: Box::new(model), adapter, numerics, notes }
    };
    if !is_package(path) {
        let (model, notes) = open_checkpoint(path, text_only)?;
        return Ok(reference(model, notes));
    }
    if on_reference {
        let weights = StoredWeights::open(path)?;
        return Ok(reference(Reference::load(&weights.manifest.spec, |name| weights.read(name))?, Vec::new()));
    }
    let mut runner = Runner::load(path, options, &mut |_| {})?;
    let notes = std::mem::take(&mut runner.notes);
    let adapter = runner.decoder.gpu().description.name.clone();
    let numerics = runner.decoder.numerics();
    Ok(Opened { model: Box::new(runner), adapter, numerics, notes })
}

/// Opens a checkpoint and reads all its weights; with what a user should know of it.
fn open_checkpoint(path: &Path, text_only: bool) -> anyhow::Result<(Reference, Vec<String>)> {
    let checkpoint = Checkpoint::open(path)?;
    let decoder = Decoder::from_checkpoint(if text_only { checkpoint.text_only() } else { checkpoint })?;
    let reference = Reference::load(&decoder.spec, |name| decoder.read(name))
        .with_context(|| format!("cannot run the reference on {}", path.display()))?;
    Ok((reference, decoder.notes().to_vec()))
}

/// Where a model's weights come from.
pub struct Origin {
    /// The files of the checkpoint, with their hashes.
    pub checkpoint: Vec<FileEntry>,
    /// What a package was made by; none for the checkpoint itself.
    pub recipe: Option<String>,
}

/// The checkpoint that a package was made from, as its manifest says, or that `path` is.
pub fn origin(path: &Path) -> anyhow::Result<Origin> {
    if is_package(path) {
        let provenance = read_manifest(path)?.provenance;
        return Ok(Origin { checkpoint: provenance.source, recipe: Some(provenance.recipe) });
    }
    let checkpoint = Checkpoint::open(path)?;
    Ok(Origin { checkpoint: checkpoint.source_files().iter().map(|p| hash_file(p)).collect::<Result<_, _>>()?, recipe: None })
}

/// A package's manifest.
///
/// # Errors
/// If there is none, or it cannot be trusted.
pub fn read_manifest(package: &Path) -> anyhow::Result<Manifest> {
    let path = package.join(MANIFEST_FILE);
    let manifest = read_at_most(&path, MAX_MANIFEST_BYTES).with_context(|| path.display().to_string())?;
    Manifest::from_json(&manifest).with_context(|| path.display().to_string())
}

/// A validation's report, which must be of this package.
///
/// # Errors
/// If it cannot be read, or is of another one.
pub fn read_report(path: &Path, manifest: &Manifest) -> anyhow::Result<Report> {
    let path = if path.is_dir() { path.join("report.json") } else { path.into() };
    let text = read_at_most(&path, MAX_REPORT).with_context(|| path.display().to_string())?;
    let report: Report =
        serde_json::from_slice(&text).with_context(|| format!("{}: no report of a validation", path.display()))?;
    ensure!(
        report.is_of(manifest),
        "{}: it is of another package: recipe {}, {} bytes of weights; validate this one",
        path.display(),
        report.package.recipe,
        report.package.weight_bytes
    );
    Ok(report)
}

/// The tokenizer of a checkpoint or package.
pub fn open_tokenizer(path: &Path) -> anyhow::Result<Tokenizer> {
    let failed = || format!("cannot load the tokenizer of {}", path.display());
    let tokenizer = from_companions(&companions(path)?).with_context(failed)?;
    tokenizer.with_context(|| missing_tokenizer(path))
}

/// The files of a tokenizer: those that lie in a folder, or those that a checkpoint in one file has within it.
fn companions(path: &Path) -> anyhow::Result<Vec<Companion>> {
    let in_folder = if path.is_dir() { read_companions(path)? } else { Vec::new() };
    if is_package(path) || in_folder.iter().any(|c| c.name == "tokenizer.json") {
        return Ok(in_folder);
    }
    match Checkpoint::open(path) {
        Ok(checkpoint) => Ok(checkpoint.into_companions()),
        // The caller then reports that the tokenizer is missing.
        Err(_) if path.is_dir() => Ok(in_folder),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_and_packages_have_chat_templates_in_files_of_their_own() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tokenizers/harmony");
        let names = |folder: &Path| open_tokenizer(folder).unwrap().chat_template_names().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(names(&fixture), ["default", "rag"]);
        let package = tempfile::tempdir().unwrap();
        for (from, to) in [
            ("tokenizer.json", "tokenizer.json"),
            ("chat_template.jinja", "chat_template.jinja"),
            ("additional_chat_templates/rag.jinja", "chat_template.rag.jinja"),
        ] {
            std::fs::copy(fixture.join(from), package.path().join(to)).unwrap();
        }
        std::fs::write(package.path().join(MANIFEST_FILE), b"{}").unwrap();
        assert_eq!(names(package.path()), ["default", "rag"]);
    }

    #[test]
    fn without_a_tokenizer_json_the_way_out_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let error = || format!("{:#}", open_tokenizer(dir.path()).unwrap_err());
        assert!(error().ends_with("has no tokenizer.json"), "{}", error());
        std::fs::write(dir.path().join("tokenizer.model"), "IQ== 0\n").unwrap();
        assert!(error().contains("make one of its tokenizer.model") && error().contains("save_pretrained"), "{}", error());
    }
}
