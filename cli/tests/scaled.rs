//! How a checkpoint is scaled costs nothing, by recipes too that know nothing but the weights; a matrix that loses much is
//! named.

mod support;

use safetensors::{Dtype, SafeTensors, View};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use support::{TinyCheckpoint, convert, read_json, succeed};
use tempfile::TempDir;

fn haiku(file: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("golden/haiku-7m").join(file)
}

struct Matrix {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl View for &Matrix {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        self.values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>().into()
    }
    fn data_len(&self) -> usize {
        self.values.len() * 4
    }
}

/// The tensors of the embedded checkpoint, in f32.
struct Weights(BTreeMap<String, Matrix>);

impl Weights {
    fn read() -> Self {
        let bytes = std::fs::read(haiku("model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let matrix = |(name, view): (&str, safetensors::tensor::TensorView)| {
            assert_eq!(view.dtype(), Dtype::BF16, "{name}");
            let values = view.data().chunks_exact(2).map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16));
            (name.to_string(), Matrix { shape: view.shape().to_vec(), values: values.collect() })
        };
        Self(file.iter().map(matrix).collect())
    }

    /// Multiplies each weight of `layers.N.PART.weight` by what `factor` says of its row and column.
    fn scale(&mut self, layer: usize, part: &str, factor: impl Fn(usize, usize) -> f32) {
        let matrix = self.0.get_mut(&format!("model.layers.{layer}.{part}.weight")).unwrap_or_else(|| panic!("{part}"));
        let width = matrix.shape.get(1).copied().unwrap_or(1);
        matrix.values.iter_mut().enumerate().for_each(|(i, w)| *w *= factor(i / width, i % width));
    }

    fn write(&self, folder: &Path) {
        std::fs::create_dir(folder).unwrap();
        for file in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(haiku(file), folder.join(file)).unwrap();
        }
        safetensors::serialize_to_file(self.0.iter().map(|(n, m)| (n.as_str(), m)), None, &folder.join("model.safetensors"))
            .unwrap();
    }
}

/// The relative error of each matrix of a package of `checkpoint`.
fn losses(checkpoint: &Path, recipe: &str) -> BTreeMap<String, f64> {
    let out = checkpoint.with_extension(recipe);
    succeed(convert(checkpoint, &out, &["--recipe", recipe]));
    let manifest = read_json(&out.join("haikuq.json"));
    let tensors = manifest["tensors"].as_array().unwrap().iter();
    tensors.filter_map(|t| Some((t["name"].as_str()?.to_owned(), t["relative_error"].as_f64()?))).collect()
}

#[test]
fn channels_and_matrices_far_from_the_others_lose_no_more_than_they_would() {
    let dir = TempDir::new().unwrap();
    let plain = Weights::read();
    plain.write(&dir.path().join("plain"));
    let config = read_json(&haiku("config.json"));
    let number = |key: &str| config[key].as_u64().unwrap() as usize;
    let (layers, heads, kv_heads) = (number("num_hidden_layers"), number("num_attention_heads"), number("num_key_value_heads"));
    let head_dim = config["head_dim"].as_u64().map_or(number("hidden_size") / heads, |d| d as usize);
    let value = |c: usize| c / head_dim / (heads / kv_heads) * head_dim + c % head_dim;

    // Powers of two change no mantissa.
    let mut channels = Weights::read();
    for layer in 0..layers {
        let unit = |i: usize| if i % 97 == 3 && i < 97 * 6 { 1024.0 } else { 1.0 };
        let channel = |i: usize| if [1, 5, 9].contains(&i) { 1024.0 } else { 1.0 };
        channels.scale(layer, "mlp.up_proj", |r, _| unit(r));
        channels.scale(layer, "mlp.down_proj", |_, c| 1.0 / unit(c));
        channels.scale(layer, "self_attn.v_proj", |r, _| channel(r));
        channels.scale(layer, "self_attn.o_proj", |_, c| 1.0 / channel(value(c)));
    }
    channels.write(&dir.path().join("channels"));

    let mut matrices = Weights::read();
    for layer in 0..layers {
        let by = 2f32.powi(22);
        if layer % 2 == 0 {
            matrices.scale(layer, "mlp.up_proj", |_, _| by);
            matrices.scale(layer, "mlp.down_proj", |_, _| 1.0 / by);
            matrices.scale(layer, "self_attn.v_proj", |_, _| 1.0 / by);
            matrices.scale(layer, "self_attn.o_proj", |_, _| by);
            continue;
        }
        for part in ["q_proj", "k_proj", "v_proj"] {
            matrices.scale(layer, &format!("self_attn.{part}"), |_, _| 1.0 / by);
        }
        matrices.scale(layer, "input_layernorm", |_, _| by);
    }
    matrices.write(&dir.path().join("matrices"));

    for recipe in ["q4-fast", "q8"] {
        let expected = losses(&dir.path().join("plain"), recipe);
        assert!(expected.len() > layers * 4);
        for scaled in ["channels", "matrices"] {
            for (name, loss) in losses(&dir.path().join(scaled), recipe) {
                let before = expected[&name];
                assert!(loss <= before * 1.05, "{recipe}, {scaled}, {name}: {loss}, and {before} as it was");
            }
        }
    }
}

#[test]
fn a_matrix_that_loses_a_third_of_its_norm_is_named() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("tiny");
    let mut tiny = TinyCheckpoint::sized(64, 1, 96);
    // Nothing can take back how small an embedding is.
    let embedding = tiny.tensors.iter_mut().find(|t| t.name == "model.embed_tokens.weight").unwrap();
    assert_eq!(embedding.dtype, "BF16");
    for weight in embedding.bytes.chunks_exact_mut(2) {
        let value = f32::from_bits(u32::from(u16::from_le_bytes([weight[0], weight[1]])) << 16) * 2f32.powi(-30);
        weight.copy_from_slice(&value.to_bits().to_le_bytes()[2..]);
    }
    tiny.write(&folder);
    let said = |recipe: &str| {
        let output = succeed(convert(&folder, &dir.path().join(recipe), &["--recipe", recipe]));
        String::from_utf8(output.stderr).unwrap()
    };
    let small = said("q4-fast");
    assert!(small.contains("warning: embedding loses") && small.contains("q4"), "{small}");
    assert!(!small.contains("down loses"), "{small}");
    assert!(!said("f32").contains(" loses "));
}
