//! The f32 reference says what Hugging Face transformers says.

use haikuq::architecture::Decoder;
use haikuq::checkpoint::Checkpoint;
use haikuq::golden::file::Golden;
use haikuq::golden::record::record;
use haikuq::reference::{Reference, ReferenceError};
use std::path::{Path, PathBuf};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn reference(checkpoint: &Path) -> Reference {
    let decoder = Decoder::from_checkpoint(Checkpoint::open(checkpoint).unwrap()).unwrap();
    Reference::load(&decoder.spec, |name| decoder.read(name)).unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn haiku_7m_agrees_with_transformers_at_every_position() {
    let dir = repository("golden/haiku-7m");
    let golden = Golden::read(&dir.join("reference.safetensors")).unwrap();
    let mut model = reference(&dir);
    let expected = &golden.outputs;
    let windows: Vec<_> = (0..expected.windows).map(|w| expected.window(w).to_vec()).collect();
    let outputs = record(&mut model, &windows, expected.top, &mut |_| {}).unwrap();

    let relative = outputs.perplexity() / 9.678219 - 1.0;
    assert!(relative.abs() < 1e-4, "perplexity {} is off by {relative:e}", outputs.perplexity());
    assert!(largest_difference(&outputs.top_logits, &expected.top_logits) < 1e-3);
    assert!(largest_difference(&outputs.logsumexp, &expected.logsumexp) < 1e-3);
    assert!(largest_difference(&outputs.nll, &expected.nll) < 1e-3);
    let same = outputs.top_ids.iter().zip(&expected.top_ids).filter(|(a, b)| a == b).count();
    assert!(same as f64 > 0.999 * outputs.top_ids.len() as f64, "{same} of {} ids in the same place", outputs.top_ids.len());
}

#[test]
fn haiku_7m_continues_every_prompt_as_transformers_does() {
    let dir = repository("golden/haiku-7m");
    let golden = Golden::read(&dir.join("reference.safetensors")).unwrap();
    assert_eq!(golden.generations.len(), 12);
    let model = reference(&dir);
    for g in &golden.generations {
        assert_eq!(model.generate_greedy(&g.prompt_ids, 48).unwrap(), g.greedy_ids, "{}", g.prompt);
    }
}

#[test]
fn positions_computed_one_by_one_are_those_computed_together() {
    let model = reference(&repository("tests/fixtures/architectures/llama3_rope"));
    let ids: Vec<u32> = (0..50).map(|i| i * 37 % 320).collect();
    let rows = |runs: &[&[u32]]| {
        let (mut cache, mut rows) = (model.new_cache(), Vec::new());
        runs.iter().for_each(|run| model.forward(run, &mut cache, |_, row| rows.extend_from_slice(row)).unwrap());
        assert_eq!(cache.len(), 50);
        rows
    };
    let singly: Vec<&[u32]> = ids.chunks(1).collect();
    let together = rows(&[&ids]);
    // The logits reach 25; a few units in their last place.
    assert!(largest_difference(&together, &rows(&singly)) < 1e-4);
    assert!(largest_difference(&together, &rows(&[&ids[..7], &ids[7..20], &ids[20..]])) < 1e-4);
}

#[test]
fn what_cannot_be_computed_is_refused() {
    let model = reference(&repository("tests/fixtures/architectures/llama"));
    let error = |ids: &[u32]| model.last_logits(ids, &mut model.new_cache()).unwrap_err();
    assert!(matches!(error(&[1, 320]), ReferenceError::Token { id: 320, position: 1, vocab_size: 320 }));
    assert!(matches!(error(&[1; 513]), ReferenceError::Context { length: 513, max_context: 512 }));
    assert!(matches!(error(&[]), ReferenceError::EmptyPrompt));
    assert_eq!(model.generate_greedy(&[5; 510], 40).unwrap().len(), 3, "the context ends after 512 positions");

    let spec = model.spec().clone();
    let short = Reference::load(&spec, |_| Ok::<_, std::io::Error>(vec![0.0; 3])).err().unwrap().to_string();
    assert_eq!(short, "tensor embedding has 3 numbers where the spec's shape [320, 64] needs 20480");
}
