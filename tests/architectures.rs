//! Every checkpoint under `tests/fixtures/architectures` says what Hugging Face transformers says: in the f32 reference, and as
//! an f32 package on the GPU. A folder put there is tested without a line of code.

mod common;

use common::Adapter;
use common::expected::{self, PROMPT, assert_reference_agrees, error, expected};
use haikuq::model::LanguageModel;
use std::path::PathBuf;

fn fixtures() -> Vec<PathBuf> {
    expected::folders("tests/fixtures/architectures")
}

#[test]
fn the_reference_agrees_with_transformers() {
    for fixture in fixtures() {
        assert_reference_agrees(&fixture, &fixture);
    }
}

#[test]
fn an_f32_package_on_the_gpu_agrees_with_transformers() {
    for fixture in fixtures() {
        let expected = expected(&fixture);
        let folder = tempfile::tempdir().unwrap();
        let package = folder.path().join("package");
        let arguments = ["convert", fixture.to_str().unwrap(), "--recipe", "f32", "--out", package.to_str().unwrap(), "--quiet"];
        let output = Adapter::default().haikuq(&arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut model = common::load(&package, haikuq_runtime::gpu::GpuOptions::default());
        let error = error(&mut model, &expected);
        assert!(error <= 5e-3, "{}: largest error {error:e} standard deviations", fixture.display());
        let (prompt, continuation) = expected.greedy.split_at(PROMPT);
        assert_eq!(model.generate_greedy(prompt, continuation.len()).unwrap(), continuation, "{}", fixture.display());
    }
}
