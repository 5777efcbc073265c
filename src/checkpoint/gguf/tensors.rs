//! Names, shapes and placements: every tensor of a GGUF file as the family's own checkpoint has it.

use super::super::CheckpointError;
use super::super::tensor::{Bytes, Placement, RowOrder, TensorInfo};
use super::config::Heads;
use super::container::{Container, Tensor};
use super::family::{Family, Fused, SHORT_CONV};
use std::collections::BTreeMap;

/// Tensors that the config says in its own words.
const IN_CONFIG: [&str; 3] = ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];

/// Adds the tensors of a container, which is file number `file`, to `tensors`.
pub(super) fn add(
    tensors: &mut BTreeMap<String, TensorInfo>,
    container: &Container<'_>,
    file: usize,
    family: &Family,
    heads: &Heads,
) -> Result<(), CheckpointError> {
    for tensor in container.tensors.iter().filter(|t| !IN_CONFIG.contains(&t.name)) {
        for (name, info) in rename(container, tensor, file, family, heads)? {
            if let Some(other) = tensors.insert(name, info) {
                let (tensor, second) = (tensor.name.to_string(), container.file.to_string());
                let first = if other.bytes.file() == file { second.clone() } else { "another file of the model".into() };
                return Err(CheckpointError::Duplicate { tensor, first, second });
            }
        }
    }
    Ok(())
}

/// The tensors that a stored one is. One that the family does not know keeps its name.
fn rename(
    container: &Container<'_>,
    tensor: &Tensor<'_>,
    file: usize,
    family: &Family,
    heads: &Heads,
) -> Result<Vec<(String, TensorInfo)>, CheckpointError> {
    let (name, suffix) = tensor.name.rsplit_once('.').unwrap_or((tensor.name, ""));
    let info = |shape: Vec<usize>, placement: Placement| TensorInfo {
        label: tensor.kind.name.into(),
        dtype: Some(tensor.kind.dtype),
        bytes: Bytes::Mapped { file, range: tensor.range.clone() },
        shape,
        placement,
    };
    let plain = Placement::plain(&tensor.shape);
    let Some((layer, part)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
        let found = family.outside.iter().find(|(gguf, _)| *gguf == name);
        let own = found.map_or_else(|| tensor.name.to_string(), |(_, own)| format!("{own}.{suffix}"));
        let added = added(family, name, suffix);
        return Ok(vec![(own, info(tensor.shape.clone(), Placement { added, ..plain }))]);
    };
    let full = |own: &str| format!("{}.{layer}.{own}.{suffix}", family.layers);
    let d = heads.head_dim;
    if part == "attn_qkv" && family.fused == Fused::Split {
        let rows = [heads.queries, heads.keys, heads.keys].map(|n| n.saturating_mul(d));
        if rows.iter().try_fold(0usize, |sum, n| sum.checked_add(*n)) != Some(tensor.shape[0]) {
            let (file, name) = (container.file.into(), tensor.name.into());
            let why = format!("it has {} rows, queries, keys and values of the config {rows:?}", tensor.shape[0]);
            return Err(CheckpointError::Entry { file, tensor: name, why });
        }
        let mut first = 0;
        let split = ["attn_q", "attn_k", "attn_v"].into_iter().zip(rows).filter_map(|(part, rows)| {
            let own = family.inside.iter().find(|(gguf, _)| *gguf == part)?.1;
            let placement = Placement { first, order: order(family, part, heads), ..plain.clone() };
            first += rows;
            Some((full(own), info([&[rows], &tensor.shape[1..]].concat(), placement)))
        });
        return Ok(split.collect());
    }
    if family.name == "stablelm" && matches!(part, "attn_q_norm" | "attn_k_norm") && tensor.shape.len() == 2 {
        // A norm of its own for each head, stacked.
        let (count, width) = (tensor.shape[0], tensor.shape[1]);
        let own = if part == "attn_q_norm" { "self_attn.q_layernorm" } else { "self_attn.k_layernorm" };
        let norm = |h: usize| {
            let placement = Placement { first: h * width, ..Placement::plain(&[width]) };
            (full(&format!("{own}.norms.{h}")), info(vec![width], placement))
        };
        return Ok((0..count).map(norm).collect());
    }
    let Some((_, own)) = family.inside.iter().find(|(gguf, _)| *gguf == part) else {
        return Ok(vec![(tensor.name.to_string(), info(tensor.shape.clone(), plain))]);
    };
    let (mut shape, transposed) = (tensor.shape.clone(), family.transposed && tensor.shape.len() == 2);
    if transposed {
        shape.reverse();
    }
    let mut plain = plain;
    if part == SHORT_CONV && shape.len() == 2 {
        shape.insert(1, 1);
        plain = Placement::plain(&shape);
    }
    let (order, added) = (order(family, part, heads), added(family, part, suffix));
    Ok(vec![(full(own), info(shape, Placement { transposed, order, added, ..plain }))])
}

/// How the converter ordered rows.
fn order(family: &Family, part: &str, heads: &Heads) -> RowOrder {
    match part {
        "attn_q" | "attn_k" if family.rotary_pairs => RowOrder::RotaryPairs { head_dim: heads.head_dim },
        "attn_qkv" if family.fused == Fused::ByHead => {
            RowOrder::PartsFirst { parts: 3, heads: heads.queries, head_dim: heads.head_dim }
        }
        _ => RowOrder::Same,
    }
}

/// What the converter added to every number.
fn added(family: &Family, part: &str, suffix: &str) -> f32 {
    if family.gains_plus_one && part.ends_with("norm") && suffix == "weight" { 1.0 } else { 0.0 }
}
