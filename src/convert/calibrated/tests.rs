use super::*;
use crate::accelerator::Accelerator;
use crate::architecture::Decoder;
use crate::calibrate;
use crate::checkpoint::Checkpoint;
use crate::convert::choose_schemes;
use crate::matmul::gram;
use crate::matmul::integers::Inputs;
use crate::quantize::Recipe;
use haikuq_format::Manifest;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Keeps the Hessians of what goes into matrices.
#[derive(Default)]
struct Moments {
    in_integers: bool,
    found: Vec<Vec<f32>>,
}

impl Observe for Moments {
    fn replace(&mut self, _: ProjectionKind, _: &Tensor, input: &Tensor) -> candle_core::Result<Option<Vec<f32>>> {
        let columns = input.dim(1)?;
        let hessian = |x: &[f32]| if self.in_integers { Inputs::new(x, columns).gram() } else { gram(x, columns) };
        self.found.push(with_numbers(input, hessian)?);
        Ok(None)
    }
}

/// The rounding of all layers before counts, too.
#[test]
fn moments_in_integers_are_those_in_f32() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/haiku-7m");
    let decoder = Decoder::from_checkpoint(Checkpoint::open(&folder).unwrap()).unwrap();
    let windows = crate::golden::file::read_input_ids(&folder.join("reference.safetensors")).unwrap();
    let (spec, length) = (&decoder.spec, windows[0].len());
    let read = |name: &str| decoder.read(name);
    let embedded = Embedding::load(spec, read).unwrap().embed(&windows).unwrap();
    let (mut exact, mut rounded) = (embedded.clone(), embedded);
    for layer in 0..spec.num_layers() {
        let load = || LayerWindows::load(spec, layer, length, read).unwrap();
        let (mut of_exact, mut of_rounded) = (Moments::default(), Moments { in_integers: true, found: Vec::new() });
        exact = load().forward(&exact, &mut of_exact).unwrap();
        rounded = load().in_integers(false).unwrap().forward(&rounded, &mut of_rounded).unwrap();
        for (kind, (a, b)) in of_rounded.found.iter().zip(&of_exact.found).enumerate() {
            let square = |x: f32| f64::from(x) * f64::from(x);
            let (difference, all) = a.iter().zip(b).fold((0.0, 0.0), |(d, s), (a, b)| (d + square(a - b), s + square(*b)));
            let error = f64::sqrt(difference / all);
            assert!(error < 1e-3, "layer {layer}, matrix {kind}: {error}");
        }
    }
}

#[test]
fn the_processor_goes_on_when_the_device_is_lost() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/haiku-7m");
    let decoder = Decoder::from_checkpoint(Checkpoint::open(&folder).unwrap()).unwrap();
    let ids = crate::golden::file::read_input_ids(&folder.join("reference.safetensors")).unwrap();
    let windows = ids[..2].iter().map(|ids| ids[..64].to_vec()).collect();
    let sizes = calibrate::Options { windows: 2, window_tokens: 64, sensitivity_tokens: 64, ..Default::default() };
    let text = calibrate::CalibrationText { sources: Vec::new(), windows };
    let calibration = calibrate::measure(&decoder, text, &sizes, &mut |_| {}).unwrap();
    let recipe = Recipe::load("q4").unwrap();
    let weights = Equalized::for_recipe(&decoder, &recipe).unwrap();
    let (schemes, losses) = choose_schemes(&weights, &recipe, Some(&calibration)).unwrap();
    let mut plan = Plan::new(&decoder.spec, &recipe.name, schemes, 32 << 20, 2).unwrap();
    plan.expect(&decoder.spec, losses, Some(&calibration), Default::default());
    let dir = tempfile::tempdir().unwrap();
    let accelerator =
        Arc::new(Accelerator::open(Some("0"), None).expect("an adapter; run scripts/setup.sh to install software Vulkan"));
    let convert = |name: &str, accelerator: Option<Arc<Accelerator>>| {
        let options = Options {
            out: dir.path().join(name),
            jobs: 2,
            resume: false,
            force: false,
            save_interval: Duration::from_secs(60),
            accelerator: accelerator.clone(),
            spill: None,
            hub: None,
        };
        let (told, matrices) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
        let progress = |progress: Progress<'_>| match progress {
            // In the middle of the first layer.
            Progress::Matrix { .. } if matrices.fetch_add(1, Ordering::Relaxed) == 1 => {
                accelerator.iter().for_each(|gpu| gpu.lose());
            }
            Progress::Repaired(text) => told.lock().unwrap().push(text.to_string()),
            _ => {}
        };
        let manifest =
            crate::convert::convert(&weights, &recipe, &plan, Some(&calibration), &options, &Timings::default(), &progress);
        (manifest.unwrap(), told.into_inner().unwrap())
    };
    let (lost, told) = convert("lost", Some(accelerator));
    assert!(told.iter().any(|text| text.contains("cannot go on, so the processor does")), "{told:?}");
    let (alone, told) = convert("alone", None);
    assert!(told.is_empty(), "{told:?}");
    let errors = |manifest: &Manifest| -> Vec<(String, f64)> {
        manifest.tensors.iter().filter_map(|t| Some((t.name.clone(), t.relative_error?))).collect()
    };
    let (lost, alone) = (errors(&lost), errors(&alone));
    assert!(lost.len() == alone.len() && lost.len() > 4 * decoder.spec.num_layers());
    for ((name, lost), (_, alone)) in lost.iter().zip(&alone) {
        assert!((lost - alone).abs() <= 0.05 * alone, "{name}: {lost} and {alone}");
    }
}
