//! Every checkpoint under `tests/fixtures/architectures` says what Hugging Face transformers says: in the f32 reference, and as
//! an f32 package on the GPU. A folder put there is tested without a line of code, and so
//! is every folder in `HAIKUQ_FIXTURES`, if that is set (`make.py` beside the fixtures makes more of them).

mod common;

use common::Adapter;
use haikuq::architecture::Decoder;
use haikuq::checkpoint::Checkpoint;
use haikuq::golden::reference::Reference;
use haikuq::model::LanguageModel;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

/// What transformers gave for a fixture.
struct Expected {
    /// `[2][40]` token ids.
    windows: Vec<Vec<u32>>,
    /// Logits at each of their positions, one after the other.
    logits: Vec<f32>,
    /// A prompt of twelve ids and its greedy continuation.
    greedy: Vec<u32>,
}

const PROMPT: usize = 12;

fn fixtures() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/architectures");
    let folder = std::env::var_os("HAIKUQ_FIXTURES").map_or(own, PathBuf::from);
    let mut found: Vec<PathBuf> =
        folder.read_dir().unwrap().map(|e| e.unwrap().path()).filter(|p| p.join("reference.safetensors").exists()).collect();
    found.sort();
    assert!(!found.is_empty(), "no fixtures in {}", folder.display());
    found
}

fn expected(fixture: &Path) -> Expected {
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
struct Difference {
    /// Largest error of a logit over the standard deviation of all logits.
    error: f32,
    /// Mean KL divergence in nats, over the whole vocabulary.
    kl: f64,
    /// Whether the continuation is the same token for token.
    same_greedy: bool,
}

fn difference(model: &mut dyn LanguageModel, expected: &Expected) -> Difference {
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

#[test]
fn the_reference_agrees_with_transformers() {
    let mut wrong = Vec::new();
    for fixture in fixtures() {
        let expected = expected(&fixture);
        let decoder = Decoder::from_checkpoint(Checkpoint::open(&fixture).unwrap()).unwrap();
        let mut model = Reference::load(&decoder.spec, |name| decoder.read(name)).unwrap();
        let Difference { error, kl, same_greedy } = difference(&mut model, &expected);
        let name = fixture.file_name().unwrap().to_string_lossy().into_owned();
        println!("{name:20} error {error:.1e} standard deviations, KL {kl:.1e}");
        if error > 1e-3 || !same_greedy {
            wrong.push(format!("{name}: error {error:e} standard deviations, greedy equal: {same_greedy}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn an_f32_package_on_the_gpu_agrees_with_transformers() {
    let mut wrong = Vec::new();
    for fixture in fixtures() {
        let expected = expected(&fixture);
        let folder = tempfile::tempdir().unwrap();
        let package = folder.path().join("package");
        let arguments = ["convert", fixture.to_str().unwrap(), "--recipe", "f32", "--out", package.to_str().unwrap(), "--quiet"];
        let output = Adapter::default().haikuq(&arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut model = common::load(&package, haikuq_runtime::gpu::GpuOptions::default());
        let Difference { error, kl, same_greedy } = difference(&mut model, &expected);
        let name = fixture.file_name().unwrap().to_string_lossy().into_owned();
        println!("{name:20} error {error:.1e} standard deviations, KL {kl:.1e}");
        if error > 5e-3 || kl > 1e-5 || !same_greedy {
            wrong.push(format!("{name}: error {error:e} standard deviations, KL {kl:e}, greedy equal: {same_greedy}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
