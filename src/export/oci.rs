//! An OCI image layout of CNCF ModelPack: one layer for each file, neither packed nor compressed, so that a layer's digest is the one
//! in the package's manifest.

use super::ExportError;
use super::origin::{Origin, spdx};
use crate::staging::Folder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Where a layout has its blobs.
const BLOBS: &str = "blobs/sha256";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const ARTIFACT: &str = "application/vnd.cncf.model.manifest.v1+json";
const CONFIG: &str = "application/vnd.cncf.model.config.v1+json";
const WEIGHTS: &str = "application/vnd.cncf.model.weight.v1.raw";
const WEIGHT_CONFIG: &str = "application/vnd.cncf.model.weight.config.v1.raw";

/// Writes `oci-layout`, `index.json` and the blobs.
pub(super) fn write(origin: &Origin, folder: &mut Folder) -> Result<(), ExportError> {
    let weights = origin.manifest.shards.iter().map(|file| (WEIGHTS, file));
    let others = origin.manifest.files.iter().chain([&origin.itself]).map(|file| (WEIGHT_CONFIG, file));
    let blobs = folder.root().join(BLOBS);
    std::fs::create_dir_all(&blobs).map_err(ExportError::io(&blobs))?;
    let (mut layers, mut digests) = (Vec::new(), Vec::new());
    for (media_type, file) in weights.chain(others) {
        let digest = format!("sha256:{}", file.sha256);
        layers.push(json!({
            "mediaType": media_type,
            "digest": digest,
            "size": file.bytes,
            "annotations": {"org.cncf.model.filepath": file.name},
        }));
        digests.push(digest);
        // Files of the same content are one blob.
        if digests.iter().filter(|d| **d == digests[digests.len() - 1]).count() == 1 {
            let path = origin.folder.join(&file.name);
            // A second name of a link would not be the file.
            let path = path.canonicalize().map_err(ExportError::io(&path))?;
            folder.take(&blob(&file.sha256), &path)?;
        }
    }
    let config = blob_of(folder, CONFIG, &config(origin, &digests))?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": ARTIFACT,
        "config": config,
        "layers": layers,
    });
    let mut manifest = blob_of(folder, MANIFEST, &manifest)?;
    manifest["artifactType"] = json!(ARTIFACT);
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest]});
    folder.write("index.json", index.to_string().as_bytes())?;
    Ok(folder.write("oci-layout", json!({"imageLayoutVersion": "1.0.0"}).to_string().as_bytes())?)
}

fn blob(sha256: &str) -> String {
    format!("{BLOBS}/{sha256}")
}

/// Writes a blob, and describes it.
fn blob_of(folder: &mut Folder, media_type: &str, value: &Value) -> Result<Value, ExportError> {
    let text = value.to_string();
    let sha256 = haikuq_files::hex(&Sha256::digest(&text));
    folder.write(&blob(&sha256), text.as_bytes())?;
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{sha256}"), "size": text.len()}))
}

/// What the model is. Sizes and digests stand in the manifest.
fn config(origin: &Origin, digests: &[String]) -> Value {
    let m = &origin.manifest;
    let mut descriptor = json!({"name": origin.name(), "version": origin.itself.sha256});
    if let Some((repo, commit)) = origin.base() {
        descriptor["sourceURL"] = json!(format!("https://huggingface.co/{repo}"));
        if let Some(commit) = commit {
            descriptor["revision"] = json!(commit);
        }
    }
    if let Some(licence) = &origin.about.licence {
        descriptor["licenses"] = json!([spdx(licence).unwrap_or(licence)]);
    }
    json!({
        "descriptor": descriptor,
        "config": {
            "architecture": "transformer",
            "format": "haikuq",
            "paramSize": param_size(origin.parameters()),
            "precision": format!("{:.2} bits", m.bits_per_weight()),
            "quantization": m.provenance.recipe,
            "capabilities": {"inputTypes": ["text"], "outputTypes": ["text"]},
        },
        "modelfs": {"type": "layers", "diffIds": digests},
    })
}

/// As the specification writes it: `7b`, `135m`.
fn param_size(weights: u64) -> String {
    let scaled = |unit: f64| {
        let number = weights as f64 / unit;
        if number >= 9.95 { format!("{number:.0}") } else { ((number * 10.0).round() / 10.0).to_string() }
    };
    match weights {
        1_000_000_000.. => format!("{}b", scaled(1e9)),
        1_000_000.. => format!("{}m", scaled(1e6)),
        _ => format!("{}k", scaled(1e3)),
    }
}

#[cfg(test)]
mod tests {
    use super::param_size;

    #[test]
    fn sizes_are_short() {
        let sizes = [7_300_000, 134_515_008, 1_235_814_400, 999].map(param_size);
        assert_eq!(sizes, ["7.3m", "135m", "1.2b", "1k"]);
    }
}
