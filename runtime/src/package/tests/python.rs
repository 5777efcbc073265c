//! An independent reader in Python, written from `docs/package-format.md` alone, reads every scheme as this crate does.

use super::super::test_package::{build, tiny_spec};
use super::*;
use haikuq_format::E4M4;
use haikuq_format::layout::{
    PlaneBuffers, PlaneKind, QuantizedRows, Scales, dequantize, groups, pack_f16, pack_f32, pack_quantized, padded,
};
use haikuq_format::scheme::{Bits, Codebook, Grouped, Offset, ScaleType, Scheme};
use haikuq_format::spec::{
    Activation, AltUp, Attention, AttentionGate, DeltaNet, Experts, GatedNorm, LayerSpec, Mamba2, Mixer, Mlp, NormKind,
    NormPlacement, PerLayerEmbedding, QkNorm, QueryScaling, Residual, Scores, ShortConv, TensorSpec,
};
use half::f16;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn python() -> PathBuf {
    let python = std::env::var_os("HAIKUQ_PYTHON").map_or_else(|| root().join(".tools/python/bin/python"), PathBuf::from);
    assert!(
        Command::new(&python).args(["-c", "import numpy, safetensors"]).status().is_ok_and(|s| s.success()),
        "{} is no Python with numpy and safetensors: run scripts/setup-python.sh or set HAIKUQ_PYTHON",
        python.display()
    );
    python
}

/// Every scheme that there is.
fn schemes() -> Vec<Scheme> {
    let mut all = vec![Scheme::F32, Scheme::F16];
    for bits in [Bits::B3, Bits::B4, Bits::B5, Bits::B8] {
        for group in [32, 64, 128] {
            for offset in [Offset::None, Offset::U4, Offset::F16] {
                for codebook in [Codebook::Uniform, Codebook::Learned] {
                    for scale in [ScaleType::F16, ScaleType::E4M4] {
                        let mut grouped = Grouped::new(bits, group);
                        (grouped.scale, grouped.offset, grouped.codebook) = (scale, offset, codebook);
                        all.push(Scheme::Grouped(grouped));
                    }
                }
            }
        }
    }
    all.retain(|s| s.check().is_ok());
    all
}

/// The matrices take turns.
fn scheme_of(tensor: &TensorSpec) -> Scheme {
    if !tensor.class.is_quantized() {
        return Scheme::F32;
    }
    let matrices = spec().tensors().into_iter().filter(|t| t.class.is_quantized());
    let index = matrices.take_while(|t| t.name != tensor.name).count();
    let schemes = schemes();
    schemes[index % schemes.len()]
}

/// Random planes of `rows`: finite numbers with all of their bits in use.
fn random_planes(tensor: &TensorSpec, scheme: Scheme, rows: Range<usize>) -> PlaneBuffers {
    let mut state = tensor.name.bytes().fold(1u64, |s, b| s.wrapping_mul(31).wrapping_add(u64::from(b)));
    let mut next = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u32
    };
    let (rows, columns) = (rows.len(), *tensor.shape.last().unwrap());
    let mut number = || (f64::from(next()) / f64::from(1u32 << 31) - 0.5) as f32;
    let g = match scheme {
        Scheme::F32 => return pack_f32(rows, columns, &(0..rows * columns).map(|_| number()).collect::<Vec<_>>()),
        Scheme::F16 => return pack_f16(rows, columns, &(0..rows * columns).map(|_| number()).collect::<Vec<_>>()),
        Scheme::Grouped(g) => g,
    };
    let n = rows * groups(columns, g.group);
    let scales = match g.scale {
        ScaleType::F16 => Scales::F16((0..n).map(|_| f16::from_f32(number())).collect()),
        ScaleType::E4M4 => Scales::E4M4((0..n).map(|i| E4M4::from_bits((i * 37) as u8)).collect()),
    };
    let mut block = QuantizedRows { scales, ..Default::default() };
    if g.offset == Offset::F16 {
        block.offsets = (0..n).map(|_| f16::from_f32(number())).collect();
    }
    if g.codebook == Codebook::Learned {
        // One table a tensor, whatever the chunk.
        block.codebook = (0..g.bits.levels()).map(|c| (c as f32 - 5.3).powi(3) / 7.0).collect();
    }
    block.codes = (0..rows * padded(columns)).map(|_| (next() % g.bits.levels()) as u8).collect();
    if g.offset == Offset::U4 {
        block.zero_points = (0..n).map(|_| (next() % 16) as u8).collect();
    }
    pack_quantized(g, rows, columns, &block)
}

/// The mixers of the layers: all kinds and gates of attention, and between them short convolutions, delta nets and Mamba mixers.
fn mixer(i: usize) -> Mixer {
    match i % 6 {
        2 => {
            let mut conv = ShortConv::new(20 + i, 1 + i % 5);
            conv.bias = i.is_multiple_of(4);
            conv.into()
        }
        4 if i % 12 == 10 => mamba(i).into(),
        4 => DeltaNet::new(1 + i % 4, 2 * (1 + i % 4), 4 + 4 * (i % 5), 12 - i % 5, 1 + i % 7).into(),
        _ => attention(i).into(),
    }
}

fn mamba(i: usize) -> Mamba2 {
    let mut mamba = Mamba2::new(2 + 2 * (i % 3), 5, 2, 6 + i % 5, 1 + i % 7);
    mamba.norm = [None, Some(GatedNorm::AfterGate), Some(GatedNorm::BeforeGate)][i % 3];
    (mamba.conv_bias, mamba.input_bias, mamba.output_bias) = (i.is_multiple_of(2), i % 3 == 1, i.is_multiple_of(5));
    (mamba.min_step, mamba.max_step) = (0.125, i.is_multiple_of(2).then_some(2.5));
    mamba
}

fn attention(i: usize) -> Attention {
    let norms = [None, Some(QkNorm::PerHead), Some(QkNorm::Whole), Some(QkNorm::EachHead(NormKind::LayerNoBias))];
    let gates = [None, Some(AttentionGate::PerHead), Some(AttentionGate::Elementwise)];
    let mut attention = Attention::new(2 + 2 * (i % 2), 1 + i % 2, 8 + 2 * (i % 3));
    attention.window = i.is_multiple_of(2).then_some(5);
    attention.rope = (!i.is_multiple_of(5)).then_some(0);
    attention.qk_norm = norms[i % 4];
    attention.qk_norm_after_rope = i % 8 == 5;
    attention.query_scaling = i.is_multiple_of(6).then_some(QueryScaling { beta: 0.5, original_context: 7 });
    attention.gate = gates[i / 2 % 3];
    // Layers 1 and 7 have heads alike.
    attention.kv_from = (i == 7).then_some(1);
    (attention.values_are_keys, attention.value_norm) = (i == 9 || i == 15, i == 3 || i == 15);
    attention.sinks = i % 7 < 3;
    (attention.qkv_bias, attention.output_bias) = (i.is_multiple_of(3), i.is_multiple_of(7));
    attention
}

/// A decoder with every kind of tensor, at sizes that are no multiples of anything, and enough layers for every scheme.
fn spec() -> haikuq_format::DecoderSpec {
    let mut spec = tiny_spec();
    (spec.vocab_size, spec.hidden_size) = (67, 230);
    spec.norm.kind = NormKind::Layer;
    (spec.tied_head, spec.head_bias, spec.learned_positions) = (false, true, true);
    let placements = [NormPlacement::Pre, NormPlacement::Post, NormPlacement::Both];
    let residuals = [Residual::Sequential, Residual::Parallel, Residual::ParallelShared];
    let layer = |i: usize| {
        let mut mlp = Mlp::new(77 - i, if i % 5 == 2 { Activation::Relu2 } else { Activation::Silu });
        (mlp.gated, mlp.bias) = (i % 4 != 1, i % 2 == 1);
        if i % 8 > 5 {
            let mut experts = Experts::new(5 - i % 3, 1 + i % 2, if i < 12 { Scores::Softmax } else { Scores::Sigmoid });
            (experts.normalized, experts.router_bias, experts.selection_bias) = (i > 12, i % 8 == 7, i == 14);
            (experts.epsilon, experts.scale) = (if i > 12 { 1e-6 } else { 0.0 }, 1.0 + i as f32);
            (experts.shared, experts.shared_gate) = (i % 2, i == 15);
            mlp.experts = Some(experts);
            mlp.activation = Activation::ClampedSwiglu;
        }
        let mut layer = LayerSpec::new(mixer(i), mlp);
        (layer.residual, layer.norm_placement) = (residuals[i / 3 % 3], placements[i % 3]);
        // Sequential layers with norms before their blocks.
        layer.laurel = (i == 2 || i == 9).then_some(3 + i);
        if let Some(mlp) = layer.mlp.as_mut().filter(|m| m.gated && m.experts.is_none()) {
            mlp.gate_cutoff = (i % 5 == 4).then_some(0.5);
        }
        // Two mixers, and no feed-forward network.
        if i % 8 == 3 {
            layer.beside = Some(mamba(i).into());
        }
        if i % 9 == 1 {
            layer.mlp = None;
        }
        layer
    };
    spec.layers = (0..24).map(layer).collect();
    spec.per_layer_embedding = Some(PerLayerEmbedding::new(5, Activation::GeluTanh));
    let mut altup = AltUp::new(3);
    (altup.active, altup.output_scale) = (1, true);
    spec.altup = Some(altup);
    spec
}

/// A package of that decoder in memory.
pub(super) fn of_every_scheme() -> (MemorySource, Manifest) {
    let pack = |tensor: &TensorSpec, rows| random_planes(tensor, scheme_of(tensor), rows);
    build(spec(), 7, &[("tokenizer.json", TOKENIZER)], scheme_of, pack)
}

fn write_package(folder: &Path) -> Manifest {
    let (source, manifest) = of_every_scheme();
    let names = manifest.shards.iter().chain(&manifest.files).map(|f| f.name.as_str()).chain([MANIFEST_FILE]);
    for name in names {
        let bytes = block_on(source.read(name, 0..u64::MAX)).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    manifest
}

/// SHA-256 of a tensor's weights as little-endian f32, as this crate reads them.
fn weights_hash(package: &Package, tensor: &TensorEntry) -> String {
    sha256_hex(&weights(package, tensor).iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>())
}

/// A tensor's weights, chunk by chunk.
pub(super) fn weights(package: &Package, tensor: &TensorEntry) -> Vec<f32> {
    let mut all = Vec::new();
    for chunk in &tensor.chunks {
        let planes: Vec<(PlaneKind, Vec<u32>)> = (chunk.planes.iter())
            .map(|p| {
                let shard = block_on(package.read_shard(p.shard)).unwrap();
                let plane = &shard[p.offset as usize..(p.offset + p.bytes) as usize];
                (p.kind, plane.chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect())
            })
            .collect();
        let planes: Vec<(PlaneKind, &[u32])> = planes.iter().map(|(kind, words)| (*kind, words.as_slice())).collect();
        all.extend(dequantize(tensor.scheme, chunk.rows, tensor.columns(), &planes));
    }
    all
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("haikuq-python-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn run_reader(folder: &Path) -> std::process::Output {
    Command::new(python()).arg(root().join("tests/python/read_package.py")).arg(folder).output().unwrap()
}

#[test]
fn python_reads_every_scheme_bit_for_bit() {
    let folder = folder("reads");
    let manifest = write_package(&folder);
    let used = |scheme: &Scheme| manifest.tensors.iter().any(|t| t.scheme == *scheme);
    let unused: Vec<Scheme> = schemes().into_iter().filter(|s| !used(s)).collect();
    assert!(unused.is_empty(), "every scheme stands somewhere in this package: {unused:?}");
    let output = run_reader(&folder);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let hashes: BTreeMap<String, String> = serde_json::from_slice(&output.stdout).unwrap();
    let package = block_on(Package::open(FolderSource::new(&folder))).unwrap();
    let expected: BTreeMap<String, String> =
        manifest.tensors.iter().map(|t| (t.name.clone(), weights_hash(&package, t))).collect();
    assert_eq!(hashes, expected);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn python_refuses_a_flipped_bit() {
    let folder = folder("refuses");
    let shard = folder.join(&write_package(&folder).shards[0].name);
    let mut bytes = std::fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&shard, bytes).unwrap();
    let output = run_reader(&folder);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("sha256"));
    std::fs::remove_dir_all(folder).unwrap();
}
