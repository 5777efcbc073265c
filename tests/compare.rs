//! Comparing models with the golden outputs of `golden/haiku-7m`: equal ones do not differ, worse ones do by as much.

use haikuq::architecture::Decoder;
use haikuq::checkpoint::Checkpoint;
use haikuq::golden::file::Golden;
use haikuq::reference::Reference;
use haikuq::validate::{Outcome, compare};
use std::path::Path;

fn haiku() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/haiku-7m")
}

/// The first two windows and prompts of the golden outputs that transformers made.
fn golden() -> Golden {
    let mut golden = Golden::read(&haiku().join("reference.safetensors")).unwrap();
    golden.outputs.truncate(2);
    golden.generations.truncate(2);
    golden
}

/// The reference with each weight of every matrix rounded to one of `2^bits` values of its group of 32.
fn rounded(bits: Option<u32>) -> Reference {
    let decoder = Decoder::from_checkpoint(Checkpoint::open(haiku()).unwrap()).unwrap();
    Reference::load(&decoder.spec, |name| {
        let mut values = decoder.read(name)?;
        if let Some(bits) = bits.filter(|_| !name.ends_with("gain")) {
            for group in values.chunks_mut(32) {
                let step = group.iter().fold(0f32, |a, b| a.max(b.abs())) / ((1 << (bits - 1)) as f32 - 0.5);
                group.iter_mut().for_each(|x| *x = (*x / step).round() * step);
            }
        }
        Ok::<_, haikuq::architecture::ArchitectureError>(values)
    })
    .unwrap()
}

fn outcome(bits: Option<u32>) -> Outcome {
    compare(&mut rounded(bits), &golden(), 0, &mut |_| {}).unwrap()
}

#[test]
fn the_reference_does_not_differ_from_transformers() {
    let outcome = outcome(None);
    let summary = &outcome.measured.summary;
    assert!(summary.mean_kl < 1e-9, "{summary:?}");
    assert!(summary.max_kl < 1e-7, "{summary:?}");
    assert!(summary.top1_percent > 99.9 && summary.perplexity_increase_percent.abs() < 1e-3, "{summary:?}");
    let golden = golden();
    for (ours, theirs) in outcome.continuations.iter().zip(&golden.generations) {
        assert_eq!(*ours, theirs.greedy_ids);
    }
}

#[test]
fn fewer_bits_are_farther_away() {
    let [eight, four, three] = [8, 4, 3].map(|bits| outcome(Some(bits)).measured.summary);
    assert!(eight.mean_kl > 1e-6 && eight.mean_kl < 1e-3, "{eight:?}");
    assert!(four.mean_kl > 10.0 * eight.mean_kl && three.mean_kl > 2.0 * four.mean_kl, "{four:?} {three:?}");
    assert!(four.top1_percent < eight.top1_percent && three.top1_percent < four.top1_percent);
    assert!(three.perplexity_increase_percent > four.perplexity_increase_percent);
    assert!(four.mean_kl_standard_error.is_some_and(|e| e > 0.0 && e < four.mean_kl));
}
