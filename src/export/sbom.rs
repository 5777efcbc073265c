//! A CycloneDX 1.6 ML-BOM: the package with its model card, its files with their hashes, and the checkpoint that it descends from.

use super::origin::{Origin, spdx};
use crate::validate::report::Report;
use haikuq_format::manifest::FileEntry;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The list.
pub(super) fn sbom(origin: &Origin) -> Value {
    let (tool, version) = origin.tool();
    let provenance = &origin.manifest.provenance;
    let mut model = json!({
        "type": "machine-learning-model",
        "bom-ref": "package",
        "name": origin.name(),
        "version": origin.itself.sha256,
        "description": format!("{:.3} bits a weight, recipe {}", origin.manifest.bits_per_weight(), provenance.recipe),
        // The manifest has the hashes of all other files.
        "hashes": hashes(&origin.itself),
        "modelCard": model_card(origin),
        "pedigree": {"ancestors": [ancestor(origin)]},
        "properties": properties(origin),
    });
    if let Some(licence) = &origin.about.licence {
        let key = spdx(licence).map_or_else(|| json!({"name": licence}), |id| json!({"id": id}));
        model["licenses"] = json!([{"license": key}]);
    }
    let mut tool = json!({"type": "application", "name": tool});
    if !version.is_empty() {
        tool["version"] = json!(version);
    }
    let files: Vec<Value> = origin.files().map(|file| file_component("file", file)).collect();
    let names: Vec<&Value> = files.iter().map(|file| &file["bom-ref"]).collect();
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": format!("urn:uuid:{}", uuid(&origin.itself.sha256)),
        "version": 1,
        "metadata": {"tools": {"components": [tool]}, "component": model},
        "components": files,
        "dependencies": [{"ref": "package", "dependsOn": names}],
    })
}

fn hashes(file: &FileEntry) -> Value {
    json!([{"alg": "SHA-256", "content": file.sha256}])
}

fn file_component(kind: &str, file: &FileEntry) -> Value {
    json!({
        "type": "file",
        "bom-ref": format!("{kind}:{}", file.name),
        "name": file.name,
        "hashes": hashes(file),
        "properties": [{"name": "haikuq:bytes", "value": file.bytes.to_string()}],
    })
}

/// The checkpoint, with its files.
fn ancestor(origin: &Origin) -> Value {
    let files: Vec<Value> = origin.manifest.provenance.source.iter().map(|file| file_component("source", file)).collect();
    let mut ancestor =
        json!({"type": "machine-learning-model", "bom-ref": "checkpoint", "name": "checkpoint", "components": files});
    if let Some((repo, commit)) = origin.base() {
        ancestor["name"] = json!(repo);
        let at = commit.map_or(String::new(), |commit| format!("@{commit}"));
        ancestor["purl"] = json!(format!("pkg:huggingface/{repo}{at}"));
        ancestor["externalReferences"] = json!([{"type": "distribution", "url": format!("https://huggingface.co/{repo}")}]);
        if let Some(commit) = commit {
            ancestor["version"] = json!(commit);
        }
    }
    ancestor
}

fn model_card(origin: &Origin) -> Value {
    let mut parameters = json!({
        "task": "text-generation",
        "architectureFamily": "decoder",
        "inputs": [{"format": "text"}],
        "outputs": [{"format": "text"}],
    });
    let calibration = &origin.manifest.provenance.calibration;
    if !calibration.is_empty() {
        let data = |file: &FileEntry| {
            let (name, hash) = (&file.name, &file.sha256);
            json!({"type": "dataset", "name": name, "description": format!("calibration text, SHA-256 {hash}")})
        };
        parameters["datasets"] = calibration.iter().map(data).collect();
    }
    let mut card = json!({"modelParameters": parameters});
    if let Some(report) = &origin.about.report {
        card["quantitativeAnalysis"] = json!({"performanceMetrics": metrics(report)});
    }
    card
}

fn metrics(report: &Report) -> Vec<Value> {
    let (s, g) = (&report.summary, &report.golden);
    let slice = format!("{} windows of {} tokens, on {}", g.windows, g.context, report.adapter);
    let metric = |kind: &str, value: f64, error: Option<f64>| {
        let mut metric = json!({"type": kind, "value": value.to_string(), "slice": slice});
        if let Some(error) = error {
            let [low, high] = [value - error, value + error].map(|x| x.to_string());
            metric["confidenceInterval"] = json!({"lowerBound": low, "upperBound": high});
        }
        metric
    };
    vec![
        metric("mean KL divergence from the checkpoint, nats", s.mean_kl, s.mean_kl_standard_error),
        metric("perplexity", s.perplexity, None),
        metric("perplexity of the checkpoint", s.golden_perplexity, None),
        metric("same likeliest token, percent", s.top1_percent, Some(s.top1_standard_error)),
    ]
}

fn properties(origin: &Origin) -> Value {
    let m = &origin.manifest;
    let mut schemes = BTreeMap::new();
    for tensor in &m.tensors {
        *schemes.entry(tensor.scheme.to_string()).or_insert(0u64) += tensor.shape.iter().map(|&n| n as u64).product::<u64>();
    }
    let fixed = [
        ("haikuq:format", format!("{}.{}", m.version.major, m.version.minor)),
        ("haikuq:recipe", m.provenance.recipe.clone()),
        ("haikuq:bits_per_weight", m.bits_per_weight().to_string()),
        ("haikuq:weights", origin.parameters().to_string()),
    ];
    let fixed = fixed.into_iter().map(|(name, value)| (name.to_string(), value));
    let schemes = schemes.into_iter().map(|(scheme, weights)| (format!("haikuq:scheme:{scheme}"), weights.to_string()));
    fixed.chain(schemes).map(|(name, value)| json!({"name": name, "value": value})).collect()
}

/// A UUID of version 8 (RFC 9562) of a hash: the same package, the same number.
fn uuid(sha256: &str) -> String {
    let variant = char::from_digit(8 | sha256.chars().nth(16).and_then(|c| c.to_digit(16)).unwrap_or(0) & 3, 16).unwrap_or('8');
    format!("{}-{}-8{}-{variant}{}-{}", &sha256[..8], &sha256[8..12], &sha256[13..16], &sha256[17..20], &sha256[20..32])
}

#[cfg(test)]
mod tests {
    use super::uuid;

    #[test]
    fn a_uuid_has_its_version_and_variant() {
        assert_eq!(uuid(&"f".repeat(64)), "ffffffff-ffff-8fff-bfff-ffffffffffff");
        assert_eq!(uuid(&"0123456789abcdef".repeat(4)), "01234567-89ab-8def-8123-456789abcdef");
    }
}
