//! GGUF files, as llama.cpp's converter writes them: one file (or pieces of one model) with metadata, tokenizer and
//! weights.
//!
//! The reader makes of it what the family's own folder would have been: [`config`] the keys of `config.json`,
//! [`tensors`] the names and shapes of the weights with the converter's changes undone, [`tokenizer`] the files of the
//! tokenizer. Weights stay in the mapped file; candle dequantizes their blocks as they are read.

mod config;
mod container;
mod family;
mod mixed;
mod mixed_keys;
mod model;
mod rope;
mod tensors;
mod tokenizer;
mod types;

pub(crate) use family::gguf_name;
pub(super) use tokenizer::QWEN_2_SPLIT;
pub(crate) use tokenizer::split_name;

use super::file::MappedFile;
use super::recognize::{entries, name_of};
use super::{Checkpoint, CheckpointError, Weights, regular};
use container::Container;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Most pieces of one model.
const MAX_PIECES: usize = 1 << 10;

const MAGIC: &[u8] = b"GGUF";

/// Whether a path names a GGUF file, by its first bytes (downloads of some programs have hashes for names) or by its name.
pub(super) fn is_file(path: &Path) -> bool {
    let named = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) && path.is_file();
    named || regular::head(path).starts_with(MAGIC)
}

/// The one GGUF model of a folder, of pieces the first; `None` where there is none. Files that belong to a model and are
/// none (projectors of images, importance matrices, adapters, vocabularies) are left out if a model is there.
///
/// # Errors
/// If there are several models.
pub(super) fn find_in(folder: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    let mut found: Vec<PathBuf> = entries(folder).into_iter().filter(|p| is_file(p)).collect();
    // Later pieces belong to the first.
    found.retain(|path| Piece::of(path).is_none_or(|piece| piece.number == 1));
    if found.len() > 1 {
        let models: Vec<PathBuf> = found.iter().filter(|path| helper(path).is_none()).cloned().collect();
        if !models.is_empty() {
            found = models;
        }
    }
    match found.len() {
        0 | 1 => Ok(found.pop()),
        _ => {
            let names = found.iter().map(|p| name_of(p)).collect::<Vec<_>>();
            Err(CheckpointError::SeveralModels { path: folder.into(), files: names.join(", ") })
        }
    }
}

/// What a file is, if it belongs to a model and is none: by what it says of itself, or by its name.
fn helper(path: &Path) -> Option<(&'static str, &'static str)> {
    const PROJECTOR: (&str, &str) = ("a projector of images or sounds", "name the language model beside it");
    const MATRIX: (&str, &str) = ("an importance matrix", "name the model that it belongs to");
    const ADAPTER: (&str, &str) = ("a LoRA adapter", "merge it into its model first (llama-export-lora), and name the result");
    const VOCABULARY: (&str, &str) = ("a vocabulary without weights", "name a model");
    let by_name = || {
        let name = name_of(path).to_ascii_lowercase();
        [("mmproj", PROJECTOR), ("imatrix", MATRIX)].into_iter().find(|(part, _)| name.contains(part)).map(|(_, what)| what)
    };
    let file = MappedFile::open(path).ok()?;
    let Ok(container) = Container::parse(file.name(), file.bytes()) else { return by_name() };
    let text = |key: &str| container.text(key).ok().flatten();
    match (text("general.type"), text("general.architecture")) {
        (Some("mmproj"), _) | (_, Some("clip")) => Some(PROJECTOR),
        (Some("imatrix"), _) => Some(MATRIX),
        (Some("adapter"), _) => Some(ADAPTER),
        (Some("vocab"), _) => Some(VOCABULARY),
        (Some("model"), _) => None,
        _ => by_name(),
    }
}

/// Opens a file, and with a first piece the others. All headers, lengths and offsets are checked; no weight is read.
pub(super) fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let paths = pieces(path)?;
    // The one that was named may be a link to anywhere; the others follow from its name alone.
    let folder = path.parent().unwrap_or(Path::new(""));
    paths.iter().skip(1).try_for_each(|piece| regular::within(folder, piece))?;
    let files = paths.iter().map(|p| MappedFile::open(p)).collect::<Result<Vec<_>, _>>()?;
    let containers = files.iter().map(|f| Container::parse(f.name(), f.bytes())).collect::<Result<Vec<_>, _>>();
    files.iter().try_for_each(MappedFile::check)?;
    let containers = containers?;
    let main = &containers[0];
    check_pieces(path, &containers)?;
    if let Some((what, way_out)) = helper(path) {
        return Err(CheckpointError::Known { path: path.into(), what: what.into(), way_out: way_out.into() });
    }
    let family = architecture(main)?;
    let (config, heads) = config::read(&containers, &files, family)?;
    let mut tensors = BTreeMap::new();
    for (i, container) in containers.iter().enumerate() {
        tensors::add(&mut tensors, container, i, family, &heads)?;
    }
    tensors::join(&mut tensors, family, &heads);
    let mut warnings: Vec<String> = containers.iter().filter_map(|container| lossy(container, family)).collect();
    let text = tokenizer::read(main, family)?;
    warnings.extend(text.warning);
    files.iter().try_for_each(MappedFile::check)?;
    let sources = files.iter().map(MappedFile::source).collect();
    drop(containers);
    Ok(Checkpoint {
        path: path.into(),
        config,
        config_path: path.into(),
        config_source: None,
        generation_config: Some(text.generation_config),
        weights: Weights { files, tensors, sources },
        unnamed: None,
        companions: text.companions,
        warnings,
    })
}

fn architecture(container: &Container<'_>) -> Result<&'static family::Family, CheckpointError> {
    const KEY: &str = "general.architecture";
    let name = container.text(KEY)?.ok_or_else(|| container.wrong(KEY, "is missing"))?;
    family::find(name).ok_or_else(|| {
        let known = family::supported();
        container.wrong(KEY, &format!("{name:?} is not supported (supported: {known})"))
    })
}

/// A sentence on weights that were quantized before. gpt-oss was trained in MXFP4.
fn lossy(container: &Container<'_>, family: &family::Family) -> Option<String> {
    let own = |kind: types::Kind| family.name == "gpt-oss" && kind.dtype == super::Dtype::Mxfp4Blocks;
    let mut counts = BTreeMap::<&str, usize>::new();
    for tensor in container.tensors.iter().filter(|t| t.kind.is_lossy() && !own(t.kind)) {
        *counts.entry(tensor.kind.name).or_default() += 1;
    }
    if counts.is_empty() {
        return None;
    }
    let tensors = |n: usize| if n == 1 { "1 tensor".to_string() } else { format!("{n} tensors") };
    let list = counts.iter().map(|(name, n)| format!("{} in {name}", tensors(*n))).collect::<Vec<_>>().join(", ");
    Some(format!("{} holds {list}: their quality is already lost; convert the original if you can", container.file))
}

/// A piece of a model, by its file's name: `NAME-00002-of-00003.gguf`.
struct Piece {
    prefix: String,
    number: usize,
    count: usize,
}

impl Piece {
    fn of(path: &Path) -> Option<Self> {
        let stem = path.file_stem()?.to_str()?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| if text.len() == 5 { text.parse().ok() } else { None };
        Some(Self { prefix: prefix.into(), number: digits(number)?, count: digits(count)? })
    }
}

/// The files of a model, in order.
fn pieces(path: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let Some(Piece { prefix, number, count }) = Piece::of(path).filter(|p| (2..=MAX_PIECES).contains(&p.count)) else {
        return Ok(vec![path.into()]);
    };
    let name = |i: usize| path.with_file_name(format!("{prefix}-{i:05}-of-{count:05}.gguf"));
    if number != 1 {
        return Err(CheckpointError::Piece { path: path.into(), why: format!("name the first one, {}", name(1).display()) });
    }
    let all: Vec<PathBuf> = (1..=count).map(name).collect();
    match all.iter().find(|p| !p.is_file()) {
        Some(missing) => Err(CheckpointError::Piece { path: path.into(), why: format!("{} is missing", missing.display()) }),
        None => Ok(all),
    }
}

/// What the files say of themselves must be what their names say.
fn check_pieces(path: &Path, containers: &[Container<'_>]) -> Result<(), CheckpointError> {
    for (i, container) in containers.iter().enumerate() {
        let (number, count) = (container.size("split.no")?.unwrap_or(0), container.size("split.count")?.unwrap_or(0).max(1));
        if (number, count) != (i, containers.len()) {
            let why = format!("{} says that it is piece {} of {count}", container.file, number + 1);
            return Err(CheckpointError::Piece { path: path.into(), why });
        }
    }
    Ok(())
}
