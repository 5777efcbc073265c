//! What Hugging Face transformers computes from a fixture, and how a model is compared with it.

use haikuq::architecture::Decoder;
use haikuq::checkpoint::Checkpoint;
use haikuq::golden::reference::Reference;
use haikuq::model::LanguageModel;
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

/// Folders below `folder` of the repository that have a reference, sorted; at least one.
pub fn folders(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
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

/// Largest error of a logit over the standard deviation of all logits.
pub fn error(model: &mut dyn LanguageModel, expected: &Expected) -> f32 {
    let mut found: Vec<f32> = Vec::new();
    for window in &expected.windows {
        model.score_window(window, &mut |_, row| found.extend_from_slice(row)).unwrap();
    }
    let logits = &expected.logits;
    assert_eq!(found.len(), logits.len());
    let mean = logits.iter().sum::<f32>() / logits.len() as f32;
    let deviation = (logits.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / logits.len() as f32).sqrt();
    found.iter().zip(logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / deviation
}

/// Panics unless the f32 reference forward of a checkpoint says what transformers says in `fixture`.
pub fn assert_reference_agrees(checkpoint: &Path, fixture: &Path) {
    let expected = expected(fixture);
    let decoder = Decoder::from_checkpoint(Checkpoint::open(checkpoint).unwrap()).unwrap();
    let mut model = Reference::load(&decoder.spec, |name| decoder.read(name)).unwrap();
    let error = error(&mut model, &expected);
    assert!(error <= 1e-3, "{}: largest error {error:e} standard deviations", checkpoint.display());
    let (prompt, continuation) = expected.greedy.split_at(PROMPT);
    assert_eq!(model.generate_greedy(prompt, continuation.len()).unwrap(), continuation, "{}", checkpoint.display());
}
