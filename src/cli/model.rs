//! What a path on the command line names: a checkpoint, which the reference runs, or a package, which a GPU runs.

use crate::architecture::Decoder;
use crate::checkpoint::{Checkpoint, read_companions};
use crate::files::hash_file;
use crate::golden::reference::Reference;
use crate::golden::stored::StoredWeights;
use crate::model::LanguageModel;
pub use crate::runner::is_package;
use crate::runner::{Runner, RunnerOptions};
use anyhow::Context as _;
use haikuq_format::manifest::{FileEntry, MANIFEST_FILE, Manifest};
use haikuq_runtime::text::{Tokenizer, TokenizerFiles};
use std::path::Path;

/// A model that can be asked, and what it runs on.
pub struct Opened {
    /// The model.
    pub model: Box<dyn LanguageModel>,
    /// Name of the GPU, or that it is the reference.
    pub adapter: String,
}

/// What runs the reference.
const REFERENCE: &str = "reference (CPU, f32)";

/// Opens a checkpoint with the reference, and a package on the GPU, or with the reference if that is asked for.
pub fn open(path: &Path, on_reference: bool, options: &RunnerOptions) -> anyhow::Result<Opened> {
    let reference = |model: Reference| Opened { model: Box::new(model), adapter: REFERENCE.into() };
    if !is_package(path) {
        return Ok(reference(open_checkpoint(path)?));
    }
    if on_reference {
        let weights = StoredWeights::open(path)?;
        return Ok(reference(Reference::load(&weights.manifest.spec, |name| weights.read(name))?));
    }
    let runner = Runner::load(path, options, &mut |_| {})?;
    let adapter = runner.decoder.gpu().description.name.clone();
    Ok(Opened { model: Box::new(runner), adapter })
}

/// Opens a checkpoint and reads all its weights.
fn open_checkpoint(path: &Path) -> anyhow::Result<Reference> {
    let decoder = Decoder::from_checkpoint(Checkpoint::open(path)?)?;
    Reference::load(&decoder.spec, |name| decoder.read(name))
        .with_context(|| format!("cannot run the reference on {}", path.display()))
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
        let path = path.join(MANIFEST_FILE);
        let manifest = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let provenance = Manifest::from_json(&manifest).with_context(|| path.display().to_string())?.provenance;
        return Ok(Origin { checkpoint: provenance.source, recipe: Some(provenance.recipe) });
    }
    let checkpoint = Checkpoint::open(path)?;
    Ok(Origin { checkpoint: checkpoint.source_files().iter().map(|p| hash_file(p)).collect::<Result<_, _>>()?, recipe: None })
}

/// The tokenizer of a checkpoint or package.
pub fn open_tokenizer(path: &Path) -> anyhow::Result<Tokenizer> {
    let companions = if is_package(path) { read_companions(path)? } else { Checkpoint::open(path)?.into_companions() };
    let find = |name: &str| companions.iter().find(|c| c.name == name).map(|c| c.bytes.as_slice());
    let tokenizer = find("tokenizer.json").with_context(|| format!("{} has no tokenizer.json", path.display()))?;
    let template = find("chat_template.jinja").map(std::str::from_utf8).transpose();
    let template = template.with_context(|| format!("{}: chat_template.jinja", path.display()))?;
    let files = TokenizerFiles { tokenizer, config: find("tokenizer_config.json"), chat_template: template };
    Tokenizer::from_files(files).with_context(|| format!("cannot load the tokenizer of {}", path.display()))
}
