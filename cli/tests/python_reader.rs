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
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
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

fn run_python(package: &Path) -> std::process::Output {
    let python = python();
    let mut command = Command::new(&python);
    let output = command.arg(root().join("tests/python/read_package.py")).arg(package).output();
    output.unwrap_or_else(|e| panic!("{}: {e}; run scripts/setup-python.sh", python.display()))
}

/// Hashes of the weights as little-endian f32, by tensor.
fn read_by_python(package: &Path) -> BTreeMap<String, String> {
    let output = run_python(package);
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

/// How the Python reader refuses a package.
fn refused_by_python(package: &Path) -> String {
    let output = run_python(package);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{}: {said}", package.display());
    assert!(!said.contains("Traceback"), "{said}");
    said
}

#[test]
fn python_refuses_the_manifests_that_rust_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let refusals = [
        ("manifest-case-only.json", "is listed twice"),
        ("manifest-device-name.json", "'nul.json' is no plain file name"),
        ("manifest-duplicate-key.json", "['shards'] stand twice"),
        ("manifest-null-number.json", "epsilon None is no number"),
        ("manifest-other-version.json", "version 9.0 is not known"),
        ("manifest-path.json", "'../tokenizer.json' is no plain file name"),
        ("manifest-sizes-overflow.json", "bytes together"),
        ("manifest-trailing-dot.json", "'tokenizer.json.' is no plain file name"),
    ];
    let corpus = root().join("tests/hostile");
    let manifests = |name: &String| name.starts_with("manifest-");
    let names = std::fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(manifests).count(), refusals.len());
    for (name, says) in refusals {
        std::fs::copy(corpus.join(name), folder.path().join("haikuq.json")).unwrap();
        let said = refused_by_python(folder.path());
        assert!(said.contains(says), "{name}: {said}");
    }
}

#[test]
fn python_and_rust_agree_on_which_names_are_plain() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = std::fs::read(root().join("tests/hostile/manifest-path.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&corpus).unwrap();
    let long = "a".repeat(200);
    let plain = ["a", "tokenizer.json", "-a_b.c", "console.json", "a.con", "com10", "lpt", "auxiliary", "0", long.as_str()];
    let longer = "a".repeat(201);
    let other = [
        "",
        ".",
        "..",
        ".a",
        "a.",
        "a/b",
        "a\\b",
        "a b",
        "a:b",
        "\u{e9}",
        "a\n",
        "con",
        "CON",
        "Nul.json",
        "prn.a.b",
        "aux.",
        "com0",
        "LPT9.txt",
        "cOm1.x",
        "Haikuq.json",
        "haikuq.json",
        longer.as_str(),
    ];
    for (name, is_plain) in plain.iter().map(|name| (name, true)).chain(other.iter().map(|name| (name, false))) {
        let mut manifest = manifest.clone();
        manifest["files"][0]["name"] = (*name).into();
        let json = serde_json::to_vec(&manifest).unwrap();
        assert_eq!(haikuq_format::Manifest::from_json(&json).is_ok(), is_plain, "{name:?}");
        std::fs::write(folder.path().join("haikuq.json"), json).unwrap();
        // Of a good manifest only the files are missing.
        let missing = refused_by_python(folder.path()).contains("is not a regular file");
        assert_eq!(missing, is_plain, "{name:?}");
    }
}

#[test]
#[cfg(unix)]
fn python_follows_no_link_out_of_a_package() {
    let folder = tempfile::tempdir().unwrap();
    let package = folder.path().join("package");
    convert(&root().join("golden/haiku-7m"), "q4-fast", &package);
    std::fs::rename(package.join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    std::os::unix::fs::symlink("../tokenizer.json", package.join("tokenizer.json")).unwrap();
    assert!(refused_by_python(&package).contains("tokenizer.json leads out of the folder"));
}
