//! The independent Python reader, written from `docs/package-format.md` alone, reads converted packages bit for bit as
//! the Rust code does.

use haikuq_format::layout::{PlaneKind, dequantize};
use haikuq_format::manifest::TensorEntry;
use haikuq_runtime::package::{FolderSource, Package, sha256_hex};
use pollster::block_on;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn python() -> PathBuf {
    std::env::var_os("HAIKUQ_PYTHON").map_or_else(|| root().join(".tools/python/bin/python"), PathBuf::from)
}

fn convert(checkpoint: &Path, recipe: &str, out: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_haikuq"));
    command.arg("convert").arg(checkpoint).arg("--out").arg(out).args(["--recipe", recipe, "--shard-size", "1MiB"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Hashes of the weights as little-endian f32, by tensor.
fn read_by_python(package: &Path) -> BTreeMap<String, String> {
    let python = python();
    let mut command = Command::new(&python);
    let output = command.arg(root().join("tests/python/read_package.py")).arg(package).output();
    let output = output.unwrap_or_else(|e| panic!("{}: {e}; run scripts/setup-python.sh", python.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn read_by_rust(package: &Path) -> BTreeMap<String, String> {
    let package = block_on(Package::open(FolderSource::new(package))).unwrap();
    let shards: Vec<Vec<u8>> = (0..package.manifest().shards.len()).map(|i| block_on(package.read_shard(i)).unwrap()).collect();
    package.manifest().tensors.iter().map(|t| (t.name.clone(), weights_hash(t, &shards))).collect()
}

fn weights_hash(tensor: &TensorEntry, shards: &[Vec<u8>]) -> String {
    let mut bytes = Vec::new();
    for chunk in &tensor.chunks {
        let planes: Vec<(PlaneKind, Vec<u32>)> = (chunk.planes.iter())
            .map(|p| {
                let plane = &shards[p.shard][p.offset as usize..(p.offset + p.bytes) as usize];
                (p.kind, plane.chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect())
            })
            .collect();
        let planes: Vec<(PlaneKind, &[u32])> = planes.iter().map(|(kind, words)| (*kind, words.as_slice())).collect();
        let weights = dequantize(tensor.scheme, chunk.rows, tensor.columns(), &planes);
        bytes.extend(weights.iter().flat_map(|w| w.to_le_bytes()));
    }
    sha256_hex(&bytes)
}

#[test]
fn python_reads_what_convert_writes() {
    let folder = tempfile::tempdir().unwrap();
    for recipe in ["q4-fast", "q3-fast", "q8", "f16", "f32"] {
        let package = folder.path().join(recipe);
        convert(&root().join("golden/haiku-7m"), recipe, &package);
        let (python, rust) = (read_by_python(&package), read_by_rust(&package));
        assert!(rust.len() > 40, "{recipe}: {} tensors", rust.len());
        assert_eq!(python, rust, "{recipe}");
    }
}
