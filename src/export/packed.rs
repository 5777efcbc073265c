//! compressed-tensors' `pack-quantized`: the package's own codes and scales, as vLLM and transformers load them.
//!
//! `weight_packed` has a row's codes one after the other, of 3, 4, 5 or 8 bits each, in words of 32 bits from the lowest bit on.
//! A weight is `(code − 2^(bits − 1)) × scale` (compressed-tensors, `compressors/pack_quantized`).

use super::class::Class;
use super::hf::{self, HfDtype};
use super::onnx::not_held;
use super::safetensors::{Entry, Writer};
use super::tensors::{self, Named};
use super::{ExportError, Rounding};
use crate::reference::stored::StoredWeights;
use crate::staging::Folder;
use haikuq_format::layout::{groups, padded};
use haikuq_format::scheme::{Grouped, Offset, Scheme};
use haikuq_format::spec::TensorClass;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What errors call it.
const FORMAT: &str = "compressed-tensors";

/// Writes the folder's files, `files` of the package among them. What rounding of scales and of other tensors cost.
pub(super) fn write(
    folder: &mut Folder,
    class: &Class,
    weights: &StoredWeights,
    dtype: HfDtype,
    shard_bytes: u64,
    files: &[(String, Vec<u8>)],
) -> Result<Rounding, ExportError> {
    refuse(class, weights)?;
    let all = tensors::list(&class.layout)?;
    let packed = |named: &Named| scheme_of(class, weights, named);
    let mut config = class.config.clone();
    config.insert("quantization_config".into(), quantization_config(&all, packed));
    hf::companions(folder, config, dtype, files)?;
    let entries = all.iter().flat_map(|named| match packed(named) {
        Some(scheme) => entries(named, scheme, dtype),
        None => vec![dtype.entry(named)],
    });
    let mut writer = Writer::new(folder, entries.collect(), shard_bytes);
    let (mut rounding, mut bytes) = (Rounding::default(), Vec::new());
    tensors::each_of(
        &class.layout,
        |name| tables(class, weights, name),
        |named, tables| {
            bytes.clear();
            let numbers = &tables[0];
            let (Some(scheme), Some(scales)) = (packed(named), tables.get(1)) else {
                let scaled = |scales: &Vec<f32>| numbers.iter().zip(scales).map(|(code, scale)| code * scale).collect();
                let numbers: Vec<f32> = tables.get(1).map_or_else(|| numbers.clone(), scaled);
                dtype.store_all(&named.name, &numbers, &mut bytes, &mut rounding)?;
                return writer.write(&bytes);
            };
            let columns = named.shape[1];
            for row in numbers.chunks(columns) {
                pack(row, bits(scheme), &mut bytes);
            }
            writer.write(&bytes)?;
            bytes.clear();
            let of_groups: Vec<f32> = scales.chunks(scheme.group).map(|group| group[0]).collect();
            dtype.store_all(&named.name, &of_groups, &mut bytes, &mut rounding)?;
            writer.write(&bytes)?;
            writer.write(&named.shape.iter().flat_map(|size| (*size as i64).to_le_bytes()).collect::<Vec<u8>>())
        },
    )?;
    writer.finish()?;
    Ok(rounding)
}

/// Grids and classes that the format has no words for.
fn refuse(class: &Class, weights: &StoredWeights) -> Result<(), ExportError> {
    let refused = |what: &str, why: String| Err(ExportError::Refused { what: what.into(), format: FORMAT, why });
    if class.layout.spec.mlps().any(|mlp| mlp.experts.is_some()) {
        return refused(class.layout.architecture, "its experts are not written yet".into());
    }
    let matrices = || weights.manifest.tensors.iter().filter(|tensor| tensor.class.is_quantized());
    for tensor in matrices().filter(|tensor| tensor.class != TensorClass::Embedding) {
        let uneven = match tensor.scheme {
            Scheme::Grouped(scheme) if scheme.offset != Offset::None => Some("offsets"),
            scheme => not_held(scheme),
        };
        if let Some(why) = uneven {
            let why = format!(
                "its grid has {why}, and {FORMAT} has even ones: convert by the recipe q4-uniform, or export --format hf"
            );
            return refused(&tensor.name, why);
        }
    }
    if !matrices().any(|tensor| matches!(tensor.scheme, Scheme::Grouped(_))) {
        return refused("the package", "no matrix of it is quantized: export --format hf".into());
    }
    Ok(())
}

/// The grid of a linear layer's matrix, if it is written; other tensors are stored as numbers.
fn scheme_of(class: &Class, weights: &StoredWeights, named: &Named) -> Option<Grouped> {
    let linear = named.shape.len() == 2 && named.name.ends_with(".weight");
    grid(class, weights, &named.canonical).filter(|_| linear)
}

/// The grid of a canonical matrix whose rows a checkpoint has as they are, in whole groups.
fn grid(class: &Class, weights: &StoredWeights, canonical: &str) -> Option<Grouped> {
    let tensor = weights.manifest.tensor(canonical)?;
    let Scheme::Grouped(scheme) = tensor.scheme else { return None };
    let rows = class.layout.sources.get(canonical).is_some_and(tensors::are_rows);
    let groups = tensor.columns().is_multiple_of(scheme.group);
    (tensor.class != TensorClass::Embedding && rows && groups).then_some(scheme)
}

fn bits(scheme: Grouped) -> u32 {
    scheme.bits.get()
}

/// A linear layer's name.
fn module(named: &Named) -> &str {
    named.name.strip_suffix(".weight").unwrap_or(&named.name)
}

/// One group of modules a grid. Where all linear layers have one grid, the group is all of them.
fn quantization_config(all: &[Named], packed: impl Fn(&Named) -> Option<Grouped>) -> Value {
    let mut modules: BTreeMap<(u32, usize), Vec<&str>> = BTreeMap::new();
    let mut ignored = Vec::new();
    for named in all {
        match packed(named) {
            Some(scheme) => modules.entry((bits(scheme), scheme.group)).or_default().push(module(named)),
            None if named.shape.len() == 2 => ignored.push(module(named)),
            None => {}
        }
    }
    if !all.iter().any(|named| named.name == "lm_head.weight") {
        // Which is the embedding then.
        ignored.push("lm_head");
    }
    let single = modules.len() == 1;
    let group = |((bits, size), names): ((u32, usize), Vec<&str>)| {
        let targets = if single { vec!["Linear"] } else { names };
        json!({
            "targets": targets,
            "weights": {"num_bits": bits, "type": "int", "symmetric": true, "strategy": "group", "group_size": size, "dynamic": false},
            "input_activations": null,
            "output_activations": null,
        })
    };
    let groups: serde_json::Map<String, Value> =
        modules.into_iter().enumerate().map(|(i, of)| (format!("group_{i}"), group(of))).collect();
    json!({
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": ignored,
        "kv_cache_scheme": null,
    })
}

/// The tensors of a packed matrix, in the order in which they are written.
fn entries(named: &Named, scheme: Grouped, dtype: HfDtype) -> Vec<Entry> {
    let (rows, columns, module) = (named.shape[0], named.shape[1], module(named));
    let words = (columns * bits(scheme) as usize).div_ceil(32);
    let scales = columns / scheme.group;
    let entry = |name: &str, dtype, shape: Vec<usize>, bytes: usize| Entry {
        name: format!("{module}.{name}"),
        dtype,
        shape,
        bytes: bytes as u64,
    };
    vec![
        entry("weight_packed", "I32", vec![rows, words], rows * words * 4),
        entry("weight_scale", dtype.label(), vec![rows, scales], rows * scales * dtype.bytes() as usize),
        entry("weight_shape", "I64", vec![2], 16),
    ]
}

/// A canonical tensor's codes, with their zero taken off, and the scale of each; or its numbers alone.
fn tables(class: &Class, weights: &StoredWeights, name: &str) -> Result<Vec<Vec<f32>>, ExportError> {
    let packed = grid(class, weights, name).zip(weights.manifest.tensor(name));
    let stored = if packed.is_some() { weights.quantized(name)? } else { None };
    let (Some((scheme, tensor)), Some(stored)) = (packed, stored) else {
        return Ok(vec![weights.read(name)?]);
    };
    let (rows, columns) = (tensor.rows(), tensor.columns());
    let of_row = groups(columns, scheme.group);
    let zero = (1 << (bits(scheme) - 1)) as f32;
    let (mut codes, mut scales) = (Vec::with_capacity(rows * columns), Vec::with_capacity(rows * columns));
    for row in 0..rows {
        codes.extend(stored.codes[row * padded(columns)..][..columns].iter().map(|code| f32::from(*code) - zero));
        scales.extend((0..columns).map(|column| stored.scales.get(row * of_row + column / scheme.group)));
    }
    Ok(vec![codes, scales])
}

/// A row's codes, whose zero was taken off, one after the other in words of 32 bits.
fn pack(row: &[f32], bits: u32, out: &mut Vec<u8>) {
    let (mut word, mut filled) = (0_u64, 0);
    for code in row {
        let stored = (code + (1 << (bits - 1)) as f32) as u64;
        word |= stored << filled;
        filled += bits;
        if filled >= 32 {
            out.extend((word as u32).to_le_bytes());
            (word, filled) = (word >> 32, filled - 32);
        }
    }
    if filled > 0 {
        out.extend((word as u32).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::pack;

    #[test]
    fn codes_follow_each_other_across_words() {
        let packed = |bits: u32, codes: &[u32]| {
            let row: Vec<f32> = codes.iter().map(|code| *code as f32 - (1 << (bits - 1)) as f32).collect();
            let mut out = Vec::new();
            pack(&row, bits, &mut out);
            out.as_chunks().0.iter().map(|w| u32::from_le_bytes(*w)).collect::<Vec<_>>()
        };
        assert_eq!(packed(4, &[1, 2, 3, 4, 5, 6, 7, 15]), [0xf765_4321]);
        assert_eq!(packed(8, &[1, 255, 0, 128, 7]), [0x8000_ff01, 7]);
        // The eleventh code of three bits has two bits in the first word and one in the second.
        assert_eq!(packed(3, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 1]), [0b11 << 30, 0b11]);
        assert_eq!(packed(5, &[31; 32]), [u32::MAX; 5]);
    }
}
