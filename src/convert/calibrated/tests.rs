use super::*;
use crate::architecture::Decoder;
use crate::checkpoint::Checkpoint;
use crate::matmul::gram;
use crate::matmul::integers::Inputs;

/// Keeps the second moments of what goes into matrices.
#[derive(Default)]
struct Moments {
    in_integers: bool,
    found: Vec<Vec<f32>>,
}

impl Observe for Moments {
    fn replace(&mut self, _: Site, _: &Tensor, input: &Tensor) -> candle_core::Result<Option<Vec<f32>>> {
        let columns = input.dim(1)?;
        let moment = |x: &[f32]| if self.in_integers { Inputs::new(x, columns).gram() } else { gram(x, columns) };
        self.found.push(with_numbers(input, moment)?);
        Ok(None)
    }
}

/// The GPU computes in f32: what the processor measures in integers is the same to 1e-3, rounding of all layers before included.
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
        rounded = load().in_integers().forward(&rounded, &mut of_rounded).unwrap();
        for (site, (a, b)) in of_rounded.found.iter().zip(&of_exact.found).enumerate() {
            let square = |x: f32| f64::from(x) * f64::from(x);
            let (difference, all) = a.iter().zip(b).fold((0.0, 0.0), |(d, s), (a, b)| (d + square(a - b), s + square(*b)));
            let error = f64::sqrt(difference / all);
            assert!(error < 1e-3, "layer {layer}, matrix {site}: {error}");
        }
    }
}
