//! Calibration files.

#![cfg_attr(fuzzing, no_main)]

use haikuq::calibrate::file::CalibrationFile;
use haikuq::calibrate::{Calibration, Sensitivity};
use haikuq_format::manifest::FileEntry;
use haikuq_format::spec::TensorClass;
use haikuq_fuzz::fixtures::tiny_spec;
use haikuq_fuzz::fuzz_target;
use haikuq_fuzz::mutate::Mutator;
use haikuq_fuzz::target::{Outcome, Target};
use std::path::Path;

fn seeds() -> Vec<Vec<u8>> {
    let entry = |name: &str| FileEntry { name: name.into(), bytes: 7, sha256: "0".repeat(64) };
    let spec = tiny_spec();
    let matrices = spec.tensors().into_iter().filter(|t| t.class.is_quantized());
    let sensitivities = matrices.map(|t| {
        let lookup = if t.class == TensorClass::Embedding { vec![0.5; t.shape[1]] } else { Vec::new() };
        (t.name, Sensitivity { input: vec![1.0; t.shape[1]], output: vec![2.0; t.shape[0]], coupling: 0.5, lookup })
    });
    let mut file = CalibrationFile {
        calibration: Calibration {
            text: vec![entry("text.txt")],
            windows: vec![vec![1, 2, 3], vec![4, 5, 6]],
            sensitivities: sensitivities.collect(),
            sensitivity_tokens: 6,
        },
        checkpoint: vec![entry("model.safetensors")],
    };
    let whole = file.to_bytes().expect("a calibration file");
    file.calibration.windows[0][0] = 70_000;
    file.calibration.sensitivities.clear();
    vec![whole, file.to_bytes().expect("a calibration file")]
}

fn run(input: &[u8]) -> Outcome {
    let path = Path::new("c.safetensors");
    let file = CalibrationFile::from_bytes(input, path).map_err(|e| e.to_string())?;
    let _ = file.calibration.sizes();
    for sensitivity in file.calibration.sensitivities.values() {
        let _ = sensitivity.kl(1e-3);
    }
    let again = file.to_bytes().map_err(|e| format!("it is not written again: {e}"))?;
    // Parts that belong to none are not written.
    assert!(CalibrationFile::from_bytes(&again, path).is_ok(), "a calibration file reads back");
    file.check_checkpoint(&file.checkpoint, path).map_err(|e| format!("of its own checkpoint, {e}"))?;
    let _ = file.check_checkpoint(&[], path);
    file.check_spec(&tiny_spec(), path).map_err(|e| format!("read, {e}"))?;
    Ok("a calibration file".into())
}

fuzz_target!(Target {
    name: "calibration",
    seeds,
    dictionary: &[
        "input_ids",
        "embedding.input",
        "embedding.output",
        "embedding.coupling",
        "embedding.lookup",
        "layers.0.qkv.input",
        ".coupling",
        "input",
        "haikuq.calibration/1",
        "haikuq.calibration/2",
        "format",
        "text",
        "checkpoint",
        "sensitivity_tokens",
        "__metadata__",
        "dtype",
        "shape",
        "data_offsets",
        "U16",
        "U32",
        "F32",
        "F16",
        "F4",
        "[]",
    ],
    mutate: |input: &mut Vec<u8>, mutator: &mut Mutator<'_>| mutator.safetensors(input),
    most_bytes: 8 << 10,
    run,
});
