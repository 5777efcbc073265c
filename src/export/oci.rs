//! An OCI image layout of CNCF ModelPack: one layer for each file, neither packed nor compressed, so that a layer's digest is the one
//! in the package's manifest.

use super::ExportError;
use super::folder::Folder;
use super::origin::{Origin, spdx};
use haikuq_format::manifest::FileEntry;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const ARTIFACT: &str = "application/vnd.cncf.model.manifest.v1+json";
const CONFIG: &str = "application/vnd.cncf.model.config.v1+json";
const WEIGHTS: &str = "application/vnd.cncf.model.weight.v1.raw";
const WEIGHT_CONFIG: &str = "application/vnd.cncf.model.weight.config.v1.raw";

/// Writes `oci-layout`, `index.json` and the blobs.
pub(super) fn write(origin: &Origin, folder: &mut Folder) -> Result<(), ExportError> {
    let weights = origin.manifest.shards.iter().map(|file| (WEIGHTS, file));
    let others = origin.manifest.files.iter().chain([&origin.itself]).map(|file| (WEIGHT_CONFIG, file));
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
            folder.link(&blob(&file.sha256), &origin.folder.join(&file.name), file)?;
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
    folder.write("oci-layout", json!({"imageLayoutVersion": "1.0.0"}).to_string().as_bytes())
}

fn blob(sha256: &str) -> String {
    format!("blobs/sha256/{sha256}")
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
        let number = (weights as f64 / unit * 10.0).round() / 10.0;
        if number >= 10.0 { format!("{number:.0}") } else { number.to_string() }
    };
    match weights {
        1_000_000_000.. => format!("{}b", scaled(1e9)),
        1_000_000.. => format!("{}m", scaled(1e6)),
        _ => format!("{}k", scaled(1e3)),
    }
}

impl Folder {
    /// A file that lies elsewhere: linked, or copied where that cannot be.
    fn link(&mut self, name: &str, from: &std::path::Path, file: &FileEntry) -> Result<(), ExportError> {
        let (mut target, path) = self.create(name)?;
        let linked = path.with_extension("link");
        // A link to a link would not be the file.
        let plain = std::fs::symlink_metadata(from).is_ok_and(|m| m.is_file());
        if plain && std::fs::hard_link(from, &linked).is_ok() {
            drop(target);
            std::fs::rename(&linked, &path).map_err(ExportError::io(&path))?;
            self.listed(name, file.bytes);
            return Ok(());
        }
        let mut source = haikuq_files::open_regular(from).map_err(ExportError::io(from))?;
        std::io::copy(&mut source, &mut target).map_err(ExportError::io(&path))?;
        self.close(name, &target, &path)
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
