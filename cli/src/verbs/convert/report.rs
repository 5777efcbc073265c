//! What `haikuq convert` prints of plans and results.

use crate::output::table::{Table, shape};
use crate::output::units::{counted, duration, human_bytes, human_count};
use haikuq::convert::{self, ConvertedPart, Estimate, MatrixCost, Planned};
use haikuq_format::Manifest;
use haikuq_format::scheme::Scheme;
use serde_json::{Value, json};
use std::path::Path;

/// What quantizing a matrix took.
pub type Cost = (String, Scheme, MatrixCost);

/// A line that says what a plan makes.
pub fn summary(planned: &Planned) -> String {
    let Planned { plan, estimate, .. } = planned;
    let expected = plan.expected_loss().map_or(String::new(), |kl| format!("; expected KL divergence {kl:.3}"));
    let calibrated = match plan.calibration_tokens {
        0 => String::new(),
        n => format!(", calibrated on {} tokens", human_count(n as u64)),
    };
    let time = estimate.as_ref().map_or(String::new(), |e| format!("about {} and ", duration(e.seconds())));
    let active = match plan.has_experts() {
        true => format!(" (a token reads {})", human_bytes(plan.active_bytes())),
        false => String::new(),
    };
    format!(
        "{}: {} weights to {} in {}{active}, {:.3} bits a weight{calibrated}{expected}; {time}up to {} of memory with {}",
        plan.recipe,
        human_count(plan.weights()),
        human_bytes(plan.total_bytes()),
        counted(plan.shards.len(), "shard"),
        plan.bits_per_weight(),
        human_bytes(plan.peak_memory()),
        counted(plan.jobs, "thread")
    )
}

/// A plan as a table.
pub fn plan_text(planned: &Planned) -> String {
    let plan = &planned.plan;
    let mut table = Table::new(&["tensor", ">shape", "scheme", ">bits", ">bytes", ">chunks", ">expected loss"]);
    for (i, t) in plan.tensors.iter().enumerate() {
        let loss = plan.losses.as_ref().map_or(0.0, |l| l[i]);
        let bits = format!("{:.3}", t.scheme.bits_per_weight());
        table.row([
            t.name.clone(),
            shape(&t.shape),
            t.scheme.to_string(),
            bits,
            t.bytes().to_string(),
            t.chunks.len().to_string(),
            if loss > 0.0 { format!("{loss:.5}") } else { String::new() },
        ]);
    }
    format!("{table}\n\n{}\n{}", summary(planned), planned.texts.text())
}

/// A plan as JSON.
pub fn plan_json(planned: &Planned) -> Value {
    let (plan, estimate) = (&planned.plan, planned.estimate.as_ref());
    let tensor = |t: &haikuq_format::manifest::TensorEntry| {
        json!({"name": t.name, "class": t.class, "shape": t.shape, "scheme": t.scheme.to_string(),
               "bits": t.scheme.bits_per_weight(), "bytes": t.bytes(), "chunks": t.chunks.len()})
    };
    json!({
        "schema": "haikuq.plan/1",
        "recipe": plan.recipe,
        "tensors": plan.tensors.iter().map(tensor).collect::<Vec<_>>(),
        "shards": plan.shards.iter().map(|s| json!({"name": s.name, "bytes": s.layout.file_bytes})).collect::<Vec<_>>(),
        "weights": plan.weights(),
        "bytes": plan.total_bytes(),
        "active_bytes": plan.active_bytes(),
        "bits_per_weight": plan.bits_per_weight(),
        "expected_kl": plan.expected_loss(),
        "jobs": plan.jobs,
        "peak_memory_bytes": plan.peak_memory(),
        "seconds": estimate.map(Estimate::seconds),
        "steps": estimate.map(|e| e.steps.iter().map(|(step, seconds)| json!({"step": step, "seconds": seconds})).collect::<Vec<_>>()),
        "end_tokens": planned.texts.json(),
    })
}

/// What a part of a conversion made.
pub fn part_text(out: &Path, converted: &ConvertedPart) -> String {
    format!(
        "{}: part {}: {} of {}, {}; `haikuq merge` makes the package of all {} parts",
        out.display(),
        converted.part,
        converted.shards.len(),
        counted(converted.of_shards, "shard"),
        human_bytes(converted.bytes),
        converted.part.of()
    )
}

/// The same as JSON.
pub fn part_json(out: &Path, converted: &ConvertedPart) -> Value {
    json!({
        "schema": "haikuq.convert-part/1",
        "folder": out,
        "part": converted.part.number(),
        "of": converted.part.of(),
        "first_shard": converted.shards.start,
        "shards": converted.shards.len(),
        "of_shards": converted.of_shards,
        "bytes": converted.bytes,
    })
}

/// What a conversion made.
pub fn result_text(out: &Path, manifest: &Manifest, costs: &[Cost]) -> String {
    let mut text = format!(
        "{}: {} in {}, {:.3} bits a weight",
        out.display(),
        human_bytes(manifest.weight_bytes()),
        counted(manifest.shards.len(), "shard"),
        manifest.bits_per_weight()
    );
    let errors = |t: &&haikuq_format::manifest::TensorEntry| t.class.is_quantized() && t.relative_error > Some(0.0);
    let worst = manifest
        .tensors
        .iter()
        .filter(errors)
        .max_by(|a, b| a.relative_error.partial_cmp(&b.relative_error).unwrap_or(std::cmp::Ordering::Equal));
    if let Some((t, error)) = worst.and_then(|t| Some((t, t.relative_error?))) {
        text += &format!("; largest error of a matrix {:.2} % ({}, {})", error * 100.0, t.name, t.scheme);
    }
    if costs.is_empty() { text } else { format!("{}\n{text}", costs_text(costs)) }
}

/// What each kind of matrix took and lost, layers together.
fn costs_text(costs: &[Cost]) -> Table {
    let mut kinds: Vec<(&str, Vec<&Cost>)> = Vec::new();
    for cost in costs {
        let kind = cost.0.rsplit('.').next().unwrap_or(&cost.0);
        match kinds.iter_mut().find(|k| k.0 == kind) {
            Some((_, list)) => list.push(cost),
            None => kinds.push((kind, vec![cost])),
        }
    }
    let mut table = Table::new(&["matrix", ">number", ">seconds", ">mean loss", ">largest loss", "schemes"]);
    for (kind, list) in kinds {
        let losses = || list.iter().map(|c| c.2.relative_loss);
        let mut schemes: Vec<String> = list.iter().map(|c| c.1.to_string()).collect();
        schemes.sort();
        let counted = schemes.chunk_by(|a, b| a == b).map(|s| format!("{} × {}", s.len(), s[0]));
        table.row([
            kind.to_string(),
            list.len().to_string(),
            format!("{:.1}", list.iter().map(|c| c.2.seconds).sum::<f64>()),
            format!("{:.2} %", losses().sum::<f64>() / list.len() as f64 * 100.0),
            format!("{:.2} %", losses().fold(0.0, f64::max) * 100.0),
            counted.collect::<Vec<_>>().join(", "),
        ]);
    }
    table
}

/// The same as JSON.
pub fn result_json(out: &Path, manifest: &Manifest, costs: &[Cost]) -> Value {
    let cost = |c: &Cost| json!({"name": c.0, "scheme": c.1.to_string(), "bits": c.2.bits, "seconds": c.2.seconds, "relative_loss": c.2.relative_loss});
    let tensor = |t: &haikuq_format::manifest::TensorEntry| json!({"name": t.name, "scheme": t.scheme.to_string(), "bytes": t.bytes(), "relative_error": t.relative_error});
    json!({
        "schema": "haikuq.convert/1",
        "package": out,
        "recipe": manifest.provenance.recipe,
        "bytes": manifest.weight_bytes(),
        "bits_per_weight": manifest.bits_per_weight(),
        "shards": manifest.shards,
        "tensors": manifest.tensors.iter().map(tensor).collect::<Vec<_>>(),
        "costs": costs.iter().map(cost).collect::<Vec<_>>(),
        "warnings": convert::heavy_losses(manifest),
    })
}
