//! What Hugging Face transformers computes from a fixture, and how a model is compared with it.

use haikuq::architecture::Decoder;
use haikuq::checkpoint::Checkpoint;
use haikuq::model::LanguageModel;
use haikuq::reference::Reference;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

/// What transformers gave for a fixture.
pub struct Expected {
    /// `[2][40]` token ids.
    pub windows: Vec<Vec<u32>>,
    /// Logits at each of their positions, one after the other.
    pub logits: Vec<f32>,
    /// A prompt of twelve ids and its greedy continuation.
    pub greedy: Vec<u32>,
}

/// Ids of [`Expected::greedy`] that are the prompt.
pub const PROMPT: usize = 12;

/// Folders in `folder` (of the repository, if it is relative) that have a reference, sorted; at least one.
pub fn folders(folder: impl AsRef<Path>) -> Vec<PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(folder);
    let mut found: Vec<PathBuf> =
        folder.read_dir().unwrap().map(|e| e.unwrap().path()).filter(|p| p.join("reference.safetensors").exists()).collect();
    found.sort();
    assert!(!found.is_empty(), "no fixtures in {}", folder.display());
    found
}

/// Reads a fixture's `reference.safetensors`.
pub fn expected(fixture: &Path) -> Expected {
    let bytes = std::fs::read(fixture.join("reference.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let ids = |name: &str| -> Vec<u32> {
        let data = file.tensor(name).unwrap().data();
        data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect()
    };
    let width = file.tensor("input_ids").unwrap().shape()[1];
    Expected {
        windows: ids("input_ids").chunks(width).map(<[u32]>::to_vec).collect(),
        logits: file.tensor("logits").unwrap().data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        greedy: ids("greedy"),
    }
}

/// How far a model is from what transformers gave.
pub struct Difference {
    /// Largest error of a logit over the standard deviation of all logits.
    pub error: f32,
    /// Mean KL divergence in nats, over the whole vocabulary.
    pub kl: f64,
    /// Whether the continuation is the same token for token.
    pub same_greedy: bool,
}

/// Scores a fixture's windows and continues its prompt.
pub fn difference(model: &mut dyn LanguageModel, expected: &Expected) -> Difference {
    let mut found: Vec<f32> = Vec::new();
    for window in &expected.windows {
        model.score_window(window, &mut |_, row| found.extend_from_slice(row)).unwrap();
    }
    let logits = &expected.logits;
    assert_eq!(found.len(), logits.len());
    let mean = logits.iter().sum::<f32>() / logits.len() as f32;
    let deviation = (logits.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / logits.len() as f32).sqrt();
    let error = found.iter().zip(logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / deviation;
    let rows: usize = expected.windows.iter().map(Vec::len).sum();
    let vocabulary = logits.len() / rows;
    let kl = logits.chunks(vocabulary).zip(found.chunks(vocabulary)).map(|(p, q)| divergence(p, q)).sum::<f64>() / rows as f64;
    let (prompt, continuation) = expected.greedy.split_at(PROMPT);
    let same_greedy = model.generate_greedy(prompt, continuation.len()).unwrap() == continuation;
    Difference { error, kl, same_greedy }
}

/// KL divergence of the distribution of logits `q` from that of `p`.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let log_sum = |x: &[f32]| {
        let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        f64::from(largest) + x.iter().map(|x| f64::from(x - largest).exp()).sum::<f64>().ln()
    };
    let (p_sum, q_sum) = (log_sum(p), log_sum(q));
    let term = |(p, q): (&f32, &f32)| (f64::from(*p) - p_sum).exp() * (f64::from(*p) - p_sum - f64::from(*q) + q_sum);
    p.iter().zip(q).map(term).sum()
}

/// How far the f32 reference forward of a checkpoint is from what transformers says in `fixture`.
pub fn reference_difference(checkpoint: &Path, fixture: &Path) -> Difference {
    let decoder = Decoder::from_checkpoint(Checkpoint::open(checkpoint).unwrap()).unwrap();
    let mut model = Reference::load(&decoder.spec, |name| decoder.read(name)).unwrap();
    difference(&mut model, &expected(fixture))
}

/// Panics unless the f32 reference forward of a checkpoint says what transformers says in `fixture`.
pub fn assert_reference_agrees(checkpoint: &Path, fixture: &Path) {
    let Difference { error, same_greedy, .. } = reference_difference(checkpoint, fixture);
    let name = checkpoint.display();
    assert!(error <= 1e-3 && same_greedy, "{name}: error {error:e} standard deviations, greedy equal: {same_greedy}");
}
