//! The report of a validation: as data ([`Report`], documented in `docs/schemas/validate.md`), as Markdown and as a
//! self-contained page with plots.

mod plots;
mod render;
mod write;

pub use render::{RenderError, to_html, to_markdown};
pub use write::{WriteError, write_report};

use super::metrics::{Diverging, Summary};
use super::thresholds::Check;
use super::{Outcome, Speed};
use crate::golden::file::Golden;
use haikuq_format::Manifest;
use haikuq_format::manifest::TensorEntry;
use haikuq_format::spec::TensorClass;
use haikuq_runtime::kernels::candidate::Numerics;
use serde::{Deserialize, Serialize};

/// Value of [`Report::schema`].
pub const SCHEMA: &str = "haikuq.validate/1";

/// Tokens of context shown before a worst position.
const CONTEXT_TOKENS: usize = 40;

/// A validation, in full. The JSON form is stable within one [`SCHEMA`] number: fields may be added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// Tool and version that measured.
    pub tool: String,
    /// Whether every threshold was kept; true where there are none.
    pub passed: bool,
    /// What was demanded.
    pub thresholds: Vec<Check>,
    /// The numbers.
    pub summary: Summary,
    /// What was measured.
    pub package: PackageInfo,
    /// What it was measured against.
    pub golden: GoldenInfo,
    /// What it ran on.
    pub adapter: String,
    /// How numbers were computed; not known of a browser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numerics: Option<Numerics>,
    /// How fast that was.
    pub speed: SpeedInfo,
    /// Mean divergence at each position of a window, in nats.
    pub kl_by_position: Vec<f64>,
    /// Mean divergence of each window, in nats.
    pub kl_by_window: Vec<f64>,
    /// How many positions diverge how much.
    pub kl_histogram: Vec<Bin>,
    /// The positions that diverge most, worst first.
    pub worst: Vec<WorstPosition>,
    /// Greedy continuations side by side.
    pub continuations: Vec<Continuation>,
}

/// A package in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PackageInfo {
    /// Name of the recipe that made it.
    pub recipe: String,
    /// Tool that made it.
    pub tool: String,
    /// Bytes of all weight files.
    pub weight_bytes: u64,
    /// Bits a weight over all matrices, scales included.
    pub bits_per_weight: f64,
    /// Its matrices, in package order.
    pub tensors: Vec<TensorInfo>,
}

/// A matrix of a package in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorInfo {
    /// Canonical name.
    pub name: String,
    /// What it is for.
    pub class: TensorClass,
    /// Its scheme as plans write it, such as `q4/32`.
    pub scheme: String,
    /// Bits a weight, scales included.
    pub bits: f64,
    /// Relative error of its weights, where the package says.
    pub relative_error: Option<f64>,
}

/// Golden outputs in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GoldenInfo {
    /// Tool that recorded them, where the file says.
    pub tool: Option<String>,
    /// Number of windows.
    pub windows: usize,
    /// Tokens in a window.
    pub context: usize,
    /// Logits kept at each position.
    pub top: usize,
    /// Whether package and golden outputs come from the same weights; absent where one of them does not say.
    pub same_checkpoint: Option<bool>,
}

/// [`Speed`] with its rates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpeedInfo {
    /// What was timed.
    #[serde(flatten)]
    pub speed: Speed,
    /// Tokens scored in a second.
    pub score_tokens_per_second: f64,
    /// Tokens generated in a second.
    pub generate_tokens_per_second: f64,
}

/// A bar of the histogram: positions with `from <= KL < to`, in nats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Lower end; 0 for the first bin.
    pub from: f64,
    /// Upper end; absent for the last bin.
    pub to: Option<f64>,
    /// Positions.
    pub count: usize,
}

/// A position where the package differs most, as text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorstPosition {
    /// Index of the window.
    pub window: usize,
    /// Index within the window; the candidates are for the token after it.
    pub position: usize,
    /// Divergence in nats.
    pub kl: f64,
    /// Text up to and with this position.
    pub before: String,
    /// The token that really follows, where the window has one.
    pub next: Option<String>,
    /// The golden outputs' likeliest tokens.
    pub golden: Vec<Candidate>,
    /// The package's likeliest tokens.
    pub model: Vec<Candidate>,
}

/// A token that may come next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// Its probability.
    pub probability: f64,
}

/// A prompt with both greedy continuations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Continuation {
    /// The prompt's text.
    pub prompt: String,
    /// Golden token ids.
    pub golden_ids: Vec<u32>,
    /// The package's token ids.
    pub model_ids: Vec<u32>,
    /// Index of the first new token that differs; absent where all are the same.
    pub first_difference: Option<usize>,
    /// Text that both share.
    pub common: String,
    /// How the golden text goes on.
    pub golden_rest: String,
    /// How the package's text goes on.
    pub model_rest: String,
}

/// Everything that a report is made from.
pub struct Ingredients<'a> {
    /// The package's manifest.
    pub manifest: &'a Manifest,
    /// What it was compared with.
    pub golden: &'a Golden,
    /// What came out.
    pub outcome: &'a Outcome,
    /// What was demanded.
    pub checks: Vec<Check>,
    /// Name of the GPU, or of what else the package ran on.
    pub adapter: String,
    /// How numbers were computed, where that is known.
    pub numerics: Option<Numerics>,
    /// Token ids to text, control tokens included.
    pub decode: &'a dyn Fn(&[u32]) -> String,
}

impl Report {
    /// Puts a report together.
    pub fn new(from: Ingredients) -> Self {
        let Ingredients { manifest, golden, outcome, checks, adapter, numerics, decode } = from;
        let (outputs, measured) = (&golden.outputs, &outcome.measured);
        let (windows, context) = (outputs.windows, outputs.context);
        let mean = |x: &mut dyn Iterator<Item = f64>, n: usize| x.sum::<f64>() / n as f64;
        let kl = &measured.kl;
        Self {
            schema: SCHEMA.into(),
            tool: concat!("haikuq ", env!("CARGO_PKG_VERSION")).into(),
            passed: checks.iter().all(|c| c.passed),
            thresholds: checks,
            summary: measured.summary.clone(),
            package: package_info(manifest),
            golden: GoldenInfo {
                tool: golden.tool.clone(),
                windows,
                context,
                top: outputs.top,
                same_checkpoint: same_checkpoint(manifest, golden),
            },
            adapter,
            numerics,
            speed: SpeedInfo {
                speed: outcome.speed,
                score_tokens_per_second: outcome.speed.score_rate(),
                generate_tokens_per_second: outcome.speed.generate_rate(),
            },
            kl_by_position: (0..context).map(|p| mean(&mut kl.iter().skip(p).step_by(context).copied(), windows)).collect(),
            kl_by_window: kl.chunks_exact(context).map(|w| mean(&mut w.iter().copied(), context)).collect(),
            kl_histogram: histogram(kl),
            worst: measured.worst.iter().map(|w| worst_position(w, golden, decode)).collect(),
            continuations: continuations(golden, &outcome.continuations, decode),
        }
    }
}

impl Report {
    /// Whether it tells of the package with that manifest: its recipe, schemes and errors.
    pub fn is_of(&self, manifest: &Manifest) -> bool {
        let (mine, its) = (&self.package, package_info(manifest));
        let near = |a: Option<f64>, b: Option<f64>| match (a, b) {
            // JSON may lose the last bit.
            (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * b.abs(),
            (a, b) => a == b,
        };
        let same = |(a, b): (&TensorInfo, &TensorInfo)| {
            a.name == b.name && a.scheme == b.scheme && near(a.relative_error, b.relative_error)
        };
        mine.recipe == its.recipe
            && mine.weight_bytes == its.weight_bytes
            && mine.tensors.len() == its.tensors.len()
            && mine.tensors.iter().zip(&its.tensors).all(same)
    }
}

fn package_info(manifest: &Manifest) -> PackageInfo {
    let tensor = |t: &TensorEntry| TensorInfo {
        name: t.name.clone(),
        class: t.class,
        scheme: t.scheme.to_string(),
        bits: t.bytes() as f64 * 8.0 / t.shape.iter().product::<usize>().max(1) as f64,
        relative_error: t.relative_error,
    };
    PackageInfo {
        recipe: manifest.provenance.recipe.clone(),
        tool: manifest.provenance.tool.clone(),
        weight_bytes: manifest.weight_bytes(),
        bits_per_weight: manifest.bits_per_weight(),
        tensors: manifest.tensors.iter().filter(|t| t.class.is_quantized()).map(tensor).collect(),
    }
}

/// Whether the weight files that both name have the same hashes.
fn same_checkpoint(manifest: &Manifest, golden: &Golden) -> Option<bool> {
    let source = &manifest.provenance.source;
    let pairs: Vec<bool> =
        golden.checkpoint.iter().filter_map(|g| source.iter().find(|s| s.name == g.name).map(|s| s.sha256 == g.sha256)).collect();
    (!pairs.is_empty()).then(|| pairs.iter().all(|same| *same))
}

/// Two bins for each power of ten from 1e-8 to 10, and one either side.
fn histogram(kl: &[f64]) -> Vec<Bin> {
    let edges: Vec<f64> = (-16..=2).map(|half| 10f64.powf(f64::from(half) / 2.0)).collect();
    let mut bins: Vec<Bin> = std::iter::once(0.0)
        .chain(edges.iter().copied())
        .zip(edges.iter().copied().map(Some).chain([None]))
        .map(|(from, to)| Bin { from, to, count: 0 })
        .collect();
    for x in kl {
        bins[edges.partition_point(|edge| edge <= x)].count += 1;
    }
    bins
}

fn worst_position(worst: &Diverging, golden: &Golden, decode: &dyn Fn(&[u32]) -> String) -> WorstPosition {
    let ids = golden.outputs.window(worst.window);
    let candidates =
        |list: &[(u32, f64)]| list.iter().map(|&(id, probability)| Candidate { id, text: decode(&[id]), probability }).collect();
    WorstPosition {
        window: worst.window,
        position: worst.position,
        kl: worst.kl,
        before: decode(&ids[(worst.position + 1).saturating_sub(CONTEXT_TOKENS)..=worst.position]),
        next: ids.get(worst.position + 1).map(|&id| decode(&[id])),
        golden: candidates(&worst.golden),
        model: candidates(&worst.model),
    }
}

fn continuations(golden: &Golden, model: &[Vec<u32>], decode: &dyn Fn(&[u32]) -> String) -> Vec<Continuation> {
    let one = |(g, model_ids): (&crate::golden::file::Generation, &Vec<u32>)| {
        let same = g.greedy_ids.iter().zip(model_ids).take_while(|(a, b)| a == b).count();
        let first_difference = (same < g.greedy_ids.len().max(model_ids.len())).then_some(same);
        Continuation {
            prompt: g.prompt.clone(),
            golden_ids: g.greedy_ids.clone(),
            model_ids: model_ids.clone(),
            first_difference,
            common: decode(&g.greedy_ids[..same]),
            golden_rest: decode(&g.greedy_ids[same..]),
            model_rest: decode(&model_ids[same..]),
        }
    };
    golden.generations.iter().zip(model).map(one).collect()
}

#[cfg(test)]
mod tests;
