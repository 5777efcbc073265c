//! `haikuq export` as lists and layouts of files: what stands in them, and that digests are the manifest's. Schemas and other
//! programs check them in `scripts/export_origin.py`.

mod support;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use support::{TinyCheckpoint, assert_says, contents, convert, fail, haikuq, read_json, succeed, write_json};
use tempfile::TempDir;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A package of a checkpoint on the hub.
fn package() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    TinyCheckpoint::new().write(&dir.path().join("checkpoint"));
    let package = dir.path().join("tiny.q4");
    succeed(convert(&dir.path().join("checkpoint"), &package, &[]));
    let mut manifest = read_json(&package.join("haikuq.json"));
    manifest["provenance"]["hub"] = json!({"repo": "org/tiny", "commit": "c".repeat(40)});
    write_json(&package.join("haikuq.json"), &manifest);
    (dir, package)
}

fn export(package: &Path, format: &str, out: &Path, args: &[&str]) -> std::process::Command {
    let mut command = haikuq();
    command.arg("export").arg(package).args(["--format", format, "--out"]).arg(out).args(args);
    command
}

/// Names of the package's files with their hashes.
fn hashes(package: &Path) -> BTreeMap<String, String> {
    contents(package).into_iter().map(|(path, bytes)| (path.display().to_string(), sha256(&bytes))).collect()
}

#[test]
fn a_bill_of_materials_lists_every_file_and_the_checkpoint() {
    let (dir, package) = package();
    let out = dir.path().join("made/tiny.cdx.json");
    succeed(export(&package, "sbom", &out, &["--license", "apache-2.0"]));
    let bom = read_json(&out);
    assert_eq!((&bom["bomFormat"], &bom["specVersion"], &bom["version"]), (&json!("CycloneDX"), &json!("1.6"), &json!(1)));
    let model = &bom["metadata"]["component"];
    assert_eq!((&model["type"], &model["name"]), (&json!("machine-learning-model"), &json!("tiny.q4")));
    assert_eq!(model["licenses"], json!([{"license": {"id": "Apache-2.0"}}]));
    assert_eq!(model["modelCard"]["modelParameters"]["task"], "text-generation");
    let ancestor = &model["pedigree"]["ancestors"][0];
    assert_eq!(ancestor["purl"], format!("pkg:huggingface/org/tiny@{}", "c".repeat(40)));
    let source = read_json(&package.join("haikuq.json"))["provenance"]["source"].as_array().unwrap().len();
    assert_eq!(ancestor["components"].as_array().unwrap().len(), source);
    let listed = |c: &Value| {
        assert_eq!(c["hashes"][0]["alg"], "SHA-256");
        (c["name"].as_str().unwrap().to_string(), c["hashes"][0]["content"].as_str().unwrap().to_string())
    };
    assert_eq!(bom["components"].as_array().unwrap().iter().map(listed).collect::<BTreeMap<_, _>>(), hashes(&package));

    let first = std::fs::read(&out).unwrap();
    succeed(export(&package, "sbom", &out, &["--license", "apache-2.0"]));
    assert_eq!(std::fs::read(&out).unwrap(), first, "the same bytes again");
    succeed(export(&package, "sbom", &out, &["--license", "llama3.2"]));
    assert_eq!(read_json(&out)["metadata"]["component"]["licenses"], json!([{"license": {"name": "llama3.2"}}]));
}

#[test]
fn a_statement_is_over_every_path_with_its_digest() {
    let (dir, package) = package();
    let out = dir.path().join("statement.json");
    succeed(export(&package, "statement", &out, &[]));
    let statement = read_json(&out);
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "https://model_signing/signature/v1.0");
    let expected: Vec<Value> = hashes(&package)
        .into_iter()
        .map(|(name, digest)| json!({"name": name, "algorithm": "sha256", "digest": digest}))
        .collect();
    assert_eq!(statement["predicate"]["resources"], json!(expected), "in the order of names");
    let all: Vec<u8> = contents(&package).into_iter().flat_map(|(_, bytes)| Sha256::digest(&bytes).to_vec()).collect();
    assert_eq!(statement["subject"], json!([{"name": "tiny.q4", "digest": {"sha256": sha256(&all)}}]));
}

#[test]
fn a_layout_has_a_layer_for_each_file_under_the_manifests_digests() {
    let (dir, package) = package();
    let out = dir.path().join("oci");
    succeed(export(&package, "oci", &out, &["--license", "mit"]));
    assert_eq!(read_json(&out.join("oci-layout")), json!({"imageLayoutVersion": "1.0.0"}));
    let blobs = contents(&out.join("blobs/sha256"));
    let blobs: BTreeMap<String, Vec<u8>> = blobs.into_iter().map(|(name, bytes)| (name.display().to_string(), bytes)).collect();
    assert!(blobs.iter().all(|(name, bytes)| sha256(bytes) == *name), "a blob's name is its digest");
    let blob = |descriptor: &Value| {
        let bytes = &blobs[descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap()];
        assert_eq!(descriptor["size"], bytes.len());
        bytes
    };
    let index = read_json(&out.join("index.json"));
    let manifest: Value = serde_json::from_slice(blob(&index["manifests"][0])).unwrap();
    assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(manifest["artifactType"], "application/vnd.cncf.model.manifest.v1+json");
    let layers = manifest["layers"].as_array().unwrap();
    let of = |layer: &Value| {
        blob(layer);
        let digest = layer["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap().to_string();
        (layer["annotations"]["org.cncf.model.filepath"].as_str().unwrap().to_string(), digest)
    };
    assert_eq!(layers.iter().map(of).collect::<BTreeMap<_, _>>(), hashes(&package));
    let raw = |layer: &&Value| layer["mediaType"] == "application/vnd.cncf.model.weight.v1.raw";
    let shards = read_json(&package.join("haikuq.json"))["shards"].clone();
    let weights: Vec<&Value> = layers.iter().filter(raw).collect();
    assert_eq!(weights.len(), shards.as_array().unwrap().len(), "one a shard");
    assert_eq!(weights[0]["digest"], format!("sha256:{}", shards[0]["sha256"].as_str().unwrap()));
    let config: Value = serde_json::from_slice(blob(&manifest["config"])).unwrap();
    let digests: Vec<&Value> = layers.iter().map(|l| &l["digest"]).collect();
    assert_eq!((&config["modelfs"]["diffIds"], &config["descriptor"]["licenses"]), (&json!(digests), &json!(["MIT"])));
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let shard = package.join(shards[0]["name"].as_str().unwrap());
        let linked = out.join("blobs/sha256").join(shards[0]["sha256"].as_str().unwrap());
        assert_eq!(std::fs::metadata(shard).unwrap().ino(), std::fs::metadata(linked).unwrap().ino(), "no second copy on disk");
    }
}

#[test]
fn a_package_that_is_not_as_it_says_is_listed_nowhere() {
    let (dir, package) = package();
    let out = dir.path().join("out");
    assert_says(&fail(export(&package, "sbom", &out, &["--dtype", "f16"])), &["--dtype, --type and --checkpoint are for"]);
    assert_says(&fail(export(&package, "hf", &out, &["--license", "mit"])), &["are for --format sbom and oci"]);
    let name = "weights-00001-of-00001.safetensors";
    let mut bytes = std::fs::read(package.join(name)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(package.join(name), bytes).unwrap();
    for format in ["sbom", "statement", "oci"] {
        assert_says(&fail(export(&package, format, &out, &[])), &[name, "and the manifest says"]);
        assert!(!out.exists());
    }
}
