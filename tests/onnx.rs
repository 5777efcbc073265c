//! ONNX exports give the models that they were made from: every folder under `tests/fixtures/onnx`, whoever exported it,
//! computes what transformers computes, and becomes the same shards as the safetensors checkpoint. Whatever is open,
//! damaged or hostile is refused with words of its own.
//!
//! `HAIKUQ_ONNX_EXPORTS` may name another folder of exports (`tests/fixtures/onnx/make.py` makes them) to be tested too.

mod common;
mod support;

use common::expected::{assert_reference_agrees, folders};
use std::path::{Path, PathBuf};
use support::{contents, convert, succeed};

fn exports() -> Vec<PathBuf> {
    let mut all = folders("tests/fixtures/onnx");
    if let Some(more) = std::env::var_os("HAIKUQ_ONNX_EXPORTS") {
        all.extend(folders(more.to_str().unwrap()));
    }
    all
}

/// The safetensors checkpoint that an export was made from, which its name says.
fn original(export: &Path) -> Option<PathBuf> {
    let name = export.file_name()?.to_str()?.split_once('-')?.0;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/architectures").join(name);
    folder.is_dir().then_some(folder)
}

/// Whether an export may be compared number for number.
fn is_full_precision(export: &Path) -> bool {
    !export.to_str().unwrap().contains("-f16")
}

#[test]
fn every_export_computes_what_transformers_computes() {
    for export in exports().iter().filter(|e| is_full_precision(e)) {
        assert_reference_agrees(export, export);
    }
}

/// Names and bytes of a package's weights.
fn shards(checkpoint: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    succeed(convert(checkpoint, &folder.path().join("package"), &["--recipe", "q4", "--quiet"]));
    let all = contents(&folder.path().join("package"));
    all.into_iter().filter(|(name, _)| name.extension().is_some_and(|e| e != "json" && e != "jinja")).collect()
}

#[test]
fn every_export_becomes_the_shards_of_its_safetensors_original() {
    let mut compared = 0;
    for export in exports().iter().filter(|e| is_full_precision(e)) {
        let Some(original) = original(export) else { continue };
        let (a, b) = (shards(export), shards(&original));
        assert!(!a.is_empty());
        assert!(a == b, "{} and {} differ", export.display(), original.display());
        compared += 1;
    }
    assert!(compared >= 3);
}
