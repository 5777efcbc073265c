use super::*;
use crate::accelerator::Accelerator;
use crate::architecture::Decoder;
use crate::calibrate;
use crate::checkpoint::Checkpoint;
use crate::convert::choose_schemes;
use crate::matmul::gram;
use crate::matmul::integers::Inputs;
use crate::quantize::Recipe;
use crate::reference::stored::StoredWeights;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

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

/// A decoder with schemes for all of its matrices, and a calibration on so many windows.
struct Prepared {
    decoder: Decoder,
    calibration: Calibration,
    recipe: Recipe,
}

impl Prepared {
    fn new(folder: &str, windows: Vec<Vec<u32>>, recipe: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let decoder = Decoder::from_checkpoint(Checkpoint::open(&folder).unwrap()).unwrap();
        let tokens = windows[0].len();
        let sizes = calibrate::Options {
            windows: windows.len(),
            window_tokens: tokens,
            sensitivity_tokens: tokens,
            ..Default::default()
        };
        let text = calibrate::CalibrationText { sources: Vec::new(), windows };
        let calibration = calibrate::measure(&decoder, text, &sizes, &mut |_| {}).unwrap();
        Self { decoder, calibration, recipe: Recipe::load(recipe).unwrap() }
    }

    /// Relative error of each tensor of the package `out`, and the notes on the way. `on_matrix` is called after each matrix.
    fn convert(
        &self,
        out: &Path,
        accelerator: Option<Arc<Accelerator>>,
        on_matrix: impl Fn(usize) + Sync,
    ) -> (Vec<(String, f64)>, Vec<String>) {
        let weights = Equalized::for_recipe(&self.decoder, &self.recipe).unwrap();
        let (schemes, losses) = choose_schemes(&weights, &self.recipe, Some(&self.calibration)).unwrap();
        let mut plan = Plan::new(&self.decoder.spec, &self.recipe.name, schemes, 32 << 20, 2).unwrap();
        plan.expect(&self.decoder.spec, losses, Some(&self.calibration), Default::default());
        let options = Options { jobs: 2, accelerator, ..Options::new(out) };
        let (told, matrices) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
        let progress = |progress: Progress<'_>| match progress {
            Progress::Matrix { .. } => on_matrix(matrices.fetch_add(1, Ordering::Relaxed)),
            Progress::Repaired(text) => told.lock().unwrap().push(text.to_string()),
            _ => {}
        };
        let calibration = Some(&self.calibration);
        let timings = Timings::default();
        let manifest =
            crate::convert::convert(&weights, &self.recipe, &plan, calibration, &options, &timings, &progress).unwrap();
        let errors = manifest.tensors.iter().filter_map(|t| Some((t.name.clone(), t.relative_error?)));
        (errors.collect(), told.into_inner().unwrap())
    }
}

fn gpu(memory: Option<u64>) -> Arc<Accelerator> {
    let gpu = Accelerator::open(Some("0"), memory);
    Arc::new(gpu.expect("an adapter; run scripts/setup.sh to install software Vulkan"))
}

#[track_caller]
fn assert_alike(a: &[(String, f64)], b: &[(String, f64)], tolerance: f64) {
    assert!(a.len() == b.len() && a.iter().any(|(_, error)| *error > 0.0));
    for ((name, a), (_, b)) in a.iter().zip(b) {
        assert!((a - b).abs() <= tolerance * b, "{name}: {a} and {b}");
    }
}

/// Biases, layer norms, parallel residuals, heads that rotate in part: all that a layer in parts does otherwise.
#[test]
fn layers_of_every_kind_are_rounded_some_windows_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = dir.path().join("all.toml");
    std::fs::write(&recipe, "target_bits = 9.0\nschemes = [\"q4/32:e4m4 learned\"]\n").unwrap();
    let windows = |count: usize| (0..count as u32).map(|w| (0..32).map(|t| (w * 97 + t * 13) % 96).collect()).collect();
    for family in ["gpt_neox", "qwen2"] {
        let prepared = Prepared::new(&format!("tests/fixtures/architectures/{family}"), windows(4), recipe.to_str().unwrap());
        let spec = &prepared.decoder.spec;
        let in_parts = |gpu: &Accelerator| {
            let rooms = (0..spec.num_layers()).map(|layer| Room::for_layer(gpu, spec, layer, 4, 32));
            rooms.into_iter().all(|room| matches!(room, Room::Windows(_)))
        };
        let little = (4..64).map(|n| gpu(Some(n << 17))).find(|gpu| in_parts(gpu));
        let little = little.expect("an amount of memory that holds some windows");
        let (all, told) = prepared.convert(&dir.path().join(format!("{family}-all")), Some(gpu(None)), |_| ());
        assert!(told.is_empty(), "{told:?}");
        let (parts, told) = prepared.convert(&dir.path().join(format!("{family}-parts")), Some(little), |_| ());
        assert!(told.iter().any(|text| text.contains("windows at a time")), "{told:?}");
        assert!(!told.iter().any(|text| text.contains("the processor does")), "{told:?}");
        assert_alike(&parts, &all, 0.02);
    }
}

/// Keys and values of other layers and numbers for each layer go beside both streams.
#[test]
fn layers_that_see_more_than_the_streams_are_rounded_by_the_processor() {
    let dir = tempfile::tempdir().unwrap();
    let windows = (0..4).map(|w| (0..32).map(|t| (w * 97 + t * 13) % 96).collect()).collect();
    let prepared = Prepared::new("tests/fixtures/architectures/gemma4", windows, "q4");
    let (errors, told) = prepared.convert(&dir.path().join("alone"), None, |_| ());
    assert!(told.is_empty(), "{told:?}");
    let of = |name: &str| errors.iter().find(|(n, _)| n == name).unwrap().1;
    for name in ["per_layer_embedding", "per_layer_projection", "layers.5.per_layer_gate", "layers.4.qkv", "layers.1.qkv"] {
        assert!((1e-3..0.3).contains(&of(name)), "{name}: {}", of(name));
    }
    let (beside, told) = prepared.convert(&dir.path().join("gpu"), Some(gpu(None)), |_| ());
    assert!(told.iter().any(|text| text.contains("no kernels for such a layer")), "{told:?}");
    assert_alike(&beside, &errors, 0.05);
}

#[test]
fn several_residual_streams_are_rounded_by_the_processor() {
    let dir = tempfile::tempdir().unwrap();
    let windows = (0..4).map(|w| (0..32).map(|t| (w * 97 + t * 13) % 96).collect()).collect();
    let mut prepared = Prepared::new("tests/fixtures/architectures/gemma3n", windows, "q4");
    // Rows of a learned residual layer are so short that their tables count.
    prepared.recipe = prepared.recipe.with_target(5.0).unwrap();
    let (errors, told) = prepared.convert(&dir.path().join("alone"), None, |_| ());
    assert!(told.is_empty(), "{told:?}");
    let of = |name: &str| errors.iter().find(|(n, _)| n == name).unwrap().1;
    for name in ["altup_in.1", "altup_in.3", "altup_out.2", "layers.5.laurel_left", "layers.0.laurel_right", "layers.1.gate_up"] {
        assert!((1e-3..0.3).contains(&of(name)), "{name}: {}", of(name));
    }
    let (beside, told) = prepared.convert(&dir.path().join("gpu"), Some(gpu(None)), |_| ());
    assert!(told.iter().any(|text| text.contains("no kernels for such a layer")), "{told:?}");
    assert_alike(&beside, &errors, 0.05);
}

#[test]
fn the_processor_goes_on_when_the_device_is_lost() {
    let folder = "golden/haiku-7m";
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join("reference.safetensors");
    let ids = crate::golden::file::read_input_ids(&text).unwrap();
    let prepared = Prepared::new(folder, ids[..2].iter().map(|ids| ids[..64].to_vec()).collect(), "q4");
    let dir = tempfile::tempdir().unwrap();
    let accelerator = gpu(None);
    // In the middle of the first layer.
    let lose = |matrix| {
        if matrix == 1 {
            accelerator.lose();
        }
    };
    let (lost, told) = prepared.convert(&dir.path().join("lost"), Some(accelerator.clone()), lose);
    assert!(told.iter().any(|text| text.contains("cannot go on, so the processor does")), "{told:?}");
    let (alone, told) = prepared.convert(&dir.path().join("alone"), None, |_| ());
    assert!(told.is_empty(), "{told:?}");
    assert!(lost.len() > 4 * prepared.decoder.spec.num_layers());
    assert_alike(&lost, &alone, 0.05);
}

/// The error that is told of a matrix is that of what is stored: blocks of experts lie where readers look for them.
#[test]
fn experts_are_rounded_one_by_one_into_one_matrix() {
    let dir = tempfile::tempdir().unwrap();
    let windows = || (0..4u32).map(|w| (0..40).map(|t| (w * 97 + t * 13) % 320).collect()).collect::<Vec<Vec<u32>>>();
    let q8 = "calibrate = true\nembedding = \"q8/32\"\nattention = \"q8/32\"\nmlp = \"q8/32\"\nhead = \"q8/32\"\n";
    let recipes = [("rounded", "target_bits = 9.0\nschemes = [\"q4/32:e4m4 learned\"]\n", 0.25), ("searched", q8, 0.05)];
    for family in ["olmoe", "gpt_oss"] {
        for (name, text, limit) in recipes {
            let recipe = dir.path().join(format!("{name}.toml"));
            std::fs::write(&recipe, text).unwrap();
            let prepared = Prepared::new(&format!("tests/fixtures/architectures/{family}"), windows(), recipe.to_str().unwrap());
            let out = dir.path().join(format!("{family}-{name}"));
            let (errors, told) = prepared.convert(&out, None, |_| ());
            assert!(told.is_empty(), "{told:?}");
            let weights = Equalized::for_recipe(&prepared.decoder, &prepared.recipe).unwrap();
            let stored = StoredWeights::open(&out).unwrap();
            for (tensor, error) in errors {
                let (original, found) = (weights.read(&tensor).unwrap(), stored.read(&tensor).unwrap());
                let square = |x: f32| f64::from(x) * f64::from(x);
                let lost: f64 = original.iter().zip(&found).map(|(a, b)| square(a - b)).sum();
                let all: f64 = original.iter().map(|a| square(*a)).sum();
                let measured = (lost / all.max(f64::MIN_POSITIVE)).sqrt();
                assert!((measured - error).abs() < 1e-3, "{family}, {name}, {tensor}: {measured}, told as {error}");
                assert!(error < limit, "{family}, {name}, {tensor}: {error}");
                assert!(!tensor.contains("router") || error == 0.0, "{tensor} is stored as it is");
            }
        }
    }
    let recipe = dir.path().join("rounded.toml");
    let prepared = Prepared::new("tests/fixtures/architectures/olmoe", windows(), recipe.to_str().unwrap());
    let (_, told) = prepared.convert(&dir.path().join("gpu"), Some(gpu(None)), |_| ());
    assert!(told.iter().any(|text| text.contains("no kernels for such a layer")), "{told:?}");
}
