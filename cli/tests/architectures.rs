//! Every checkpoint under `tests/fixtures/architectures` says what Hugging Face transformers says: in the f32 reference, and as
//! an f32 package on the GPU. A folder put there is tested without a line of code, and so
//! is every folder in `HAIKUQ_FIXTURES`, if that is set (`make.py` beside the fixtures makes more of them).

mod common;

use common::Adapter;
use common::expected::{Difference, difference, expected, folders, reference_difference};
use std::ffi::OsString;
use std::path::PathBuf;

fn fixtures() -> Vec<PathBuf> {
    folders(std::env::var_os("HAIKUQ_FIXTURES").unwrap_or(OsString::from("tests/fixtures/architectures")))
}

#[test]
fn the_reference_agrees_with_transformers() {
    let mut wrong = Vec::new();
    for fixture in fixtures() {
        let Difference { error, kl, same_greedy } = reference_difference(&fixture, &fixture);
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
        let folder = tempfile::tempdir().unwrap();
        let package = folder.path().join("package");
        let arguments = ["convert", fixture.to_str().unwrap(), "--recipe", "f32", "--out", package.to_str().unwrap(), "--quiet"];
        let output = Adapter::default().haikuq(&arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut model = common::load(&package, haikuq_runtime::device::GpuOptions::default());
        let Difference { error, kl, same_greedy } = difference(&mut model, &expected(&fixture));
        let name = fixture.file_name().unwrap().to_string_lossy().into_owned();
        println!("{name:20} error {error:.1e} standard deviations, KL {kl:.1e}");
        if error > 5e-3 || kl > 1e-5 || !same_greedy {
            wrong.push(format!("{name}: error {error:e} standard deviations, KL {kl:e}, greedy equal: {same_greedy}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
