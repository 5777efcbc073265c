//! `haikuq diff`: what differs between two packages, and what an update from one to the other downloads.

mod weights;

use crate::output::Context;
use crate::output::table::Table;
use crate::output::units::{counted, human_bytes};
use anyhow::Context as _;
use clap::Args;
use haikuq_format::Manifest;
use haikuq_format::manifest::FileEntry;
use haikuq_runtime::package::{FolderSource, Package};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Show what differs between two packages: decoder, schemes, weights, files to download
#[derive(Args, Debug)]
pub struct DiffArgs {
    /// Package that one has
    a: PathBuf,
    /// Package that one wants
    b: PathBuf,
    /// Print the differences as JSON
    #[arg(long)]
    json: bool,
}

/// What differs between two packages.
#[derive(Serialize)]
struct Difference {
    /// Name and version of this form.
    schema: &'static str,
    /// Members of the spec that differ.
    spec: Vec<SpecChange>,
    /// Tensors that differ in scheme, shape or stored weights.
    tensors: Vec<TensorChange>,
    /// Tensors whose weights are the same.
    equal_tensors: usize,
    /// Files of B that A does not have, by content.
    download: Vec<FileEntry>,
    /// Their size, and the size of all of B's files.
    download_bytes: u64,
    total_bytes: u64,
}

#[derive(Serialize)]
struct SpecChange {
    /// JSON pointer within the spec.
    member: String,
    a: Value,
    b: Value,
}

#[derive(Serialize)]
struct TensorChange {
    name: String,
    /// Scheme in A and B; none where the tensor is missing.
    a: Option<String>,
    b: Option<String>,
    /// `√(Σ(b − a)² / Σ a²)` over the weights as they are read back; none where shapes differ.
    relative_difference: Option<f64>,
}

/// Compares manifests, then weights tensor by tensor.
pub fn run(args: DiffArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let open = |path: &Path| {
        pollster::block_on(Package::open(FolderSource::new(path))).with_context(|| format!("cannot open {}", path.display()))
    };
    let difference = compare(&open(&args.a)?, &open(&args.b)?)?;
    match args.json {
        true => context.print_json(&difference)?,
        false => context.print(text(&difference))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn compare(a: &Package, b: &Package) -> anyhow::Result<Difference> {
    let (in_a, in_b) = (a.manifest(), b.manifest());
    let mut spec = Vec::new();
    compare_json("", &serde_json::to_value(&in_a.spec)?, &serde_json::to_value(&in_b.spec)?, &mut spec);
    let (mut tensors, mut equal_tensors) = (Vec::new(), 0);
    let (mut weights_a, mut weights_b) = (weights::Reader::new(a), weights::Reader::new(b));
    for t in &in_b.tensors {
        let old = in_a.tensor(&t.name);
        let relative_difference = match old {
            Some(old) if old.shape == t.shape => Some(weights::relative_difference(&mut weights_a, old, &mut weights_b, t)?),
            _ => None,
        };
        if relative_difference == Some(0.0) && old.is_some_and(|o| o.scheme == t.scheme) {
            equal_tensors += 1;
            continue;
        }
        let (a, b) = (old.map(|o| o.scheme.to_string()), Some(t.scheme.to_string()));
        tensors.push(TensorChange { name: t.name.clone(), a, b, relative_difference });
    }
    for t in in_a.tensors.iter().filter(|t| in_b.tensor(&t.name).is_none()) {
        let a = Some(t.scheme.to_string());
        tensors.push(TensorChange { name: t.name.clone(), a, b: None, relative_difference: None });
    }
    let had: BTreeSet<&str> = files(in_a).map(|f| f.sha256.as_str()).collect();
    let download: Vec<FileEntry> = files(in_b).filter(|f| !had.contains(f.sha256.as_str())).cloned().collect();
    let size = |files: &mut dyn Iterator<Item = &FileEntry>| files.map(|f| f.bytes).sum();
    let (download_bytes, total_bytes) = (size(&mut download.iter()), size(&mut files(in_b)));
    Ok(Difference { schema: "haikuq.diff/1", spec, tensors, equal_tensors, download, download_bytes, total_bytes })
}

fn files(manifest: &Manifest) -> impl Iterator<Item = &FileEntry> {
    manifest.shards.iter().chain(&manifest.files)
}

/// Collects the leaves that differ.
fn compare_json(at: &str, a: &Value, b: &Value, changes: &mut Vec<SpecChange>) {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            for key in x.keys().chain(y.keys().filter(|k| !x.contains_key(*k))) {
                let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or(Value::Null);
                compare_json(&format!("{at}/{key}"), &of(x), &of(y), changes);
            }
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            for (i, (x, y)) in x.iter().zip(y).enumerate() {
                compare_json(&format!("{at}/{i}"), x, y, changes);
            }
        }
        _ if a != b => changes.push(SpecChange { member: at.into(), a: a.clone(), b: b.clone() }),
        _ => {}
    }
}

fn text(d: &Difference) -> String {
    let mut text = String::new();
    for change in &d.spec {
        text += &format!("spec {}: {} → {}\n", change.member, change.a, change.b);
    }
    if !d.tensors.is_empty() {
        let mut table = Table::new(&["tensor", "A", "B", ">difference"]);
        for t in &d.tensors {
            let scheme = |s: &Option<String>| s.clone().unwrap_or_else(|| "missing".into());
            let difference = t.relative_difference.map_or_else(|| "shapes differ".into(), |e| format!("{:.3} %", e * 100.0));
            table.row([t.name.clone(), scheme(&t.a), scheme(&t.b), difference]);
        }
        text += &format!("{table}\n");
    }
    text += &format!("{} tensors differ, {} are the same\n", d.tensors.len(), d.equal_tensors);
    for file in &d.download {
        text += &format!("download {} ({})\n", file.name, human_bytes(file.bytes));
    }
    let all = human_bytes(d.total_bytes);
    text + &format!("from A to B: {}, {} of {all} to download", counted(d.download.len(), "file"), human_bytes(d.download_bytes))
}
