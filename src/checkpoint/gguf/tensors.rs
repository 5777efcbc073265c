//! Names, shapes and placements: every tensor of a GGUF file as the family's own checkpoint has it.

use super::super::CheckpointError;
use super::super::experts::{self, part};
use super::super::tensor::{Bytes, Placement, RowOrder, TensorInfo};
use super::config::{Heads, Net};
use super::container::{Container, Tensor};
use super::family::{Family, Fused, Joined, SHORT_CONV};
use super::mixed::{BY_KEY_HEAD, CONV, DECAY, LISTS, SHARED_GATE};
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

/// Joins what the family has as one, and takes apart what has all experts. Tensors that do not fit together keep their names.
pub(super) fn join(tensors: &mut BTreeMap<String, TensorInfo>, family: &Family, heads: &Heads) {
    for list in LISTS {
        if let Some(parts) = tensors.get(list).and_then(|info| one_by_one(list, info)) {
            tensors.remove(list);
            tensors.extend(parts);
        }
    }
    let [of_values, of_gates, whole] = BY_KEY_HEAD;
    let layers: Vec<String> = tensors.keys().filter_map(|name| name.strip_suffix(of_values).map(str::to_string)).collect();
    for (layer, net) in layers.iter().zip(heads.by_key_head.iter().cycle()) {
        let names = [of_values, of_gates].map(|end| format!("{layer}{end}"));
        let pair = tensors.get(&names[0]).zip(tensors.get(&names[1]));
        if let Some(info) = pair.and_then(|(values, gates)| by_key_head(net, values, gates)) {
            names.iter().for_each(|name| drop(tensors.remove(name)));
            tensors.insert(format!("{layer}{whole}"), info);
        }
    }
    for joined in family.joined {
        let [first, second] = joined.parts;
        let stems: Vec<(String, &str)> = tensors
            .keys()
            .filter_map(|name| {
                let (stem, suffix) = name.rsplit_once('.')?;
                Some((stem.strip_suffix(first)?.to_string(), if suffix == "bias" { "bias" } else { "weight" }))
            })
            .collect();
        for (layer, suffix) in stems {
            let names = [first, second].map(|part| format!("{layer}{part}.{suffix}"));
            let pair = tensors.get(&names[0]).zip(tensors.get(&names[1]));
            if let Some(whole) = pair.and_then(|(a, b)| both(joined, &layer, suffix, a, b)) {
                names.iter().for_each(|name| drop(tensors.remove(name)));
                tensors.extend(whole);
            }
        }
    }
    experts::split(tensors);
}

/// The matrices of a list that comes as one tensor.
fn one_by_one(list: &str, info: &TensorInfo) -> Option<Vec<(String, TensorInfo)>> {
    let (stem, [all, rows, columns]) = (list.strip_suffix(".weight")?, <[usize; 3]>::try_from(&info.shape[..]).ok()?);
    let matrix = |i: usize| Some((format!("{stem}.{i}.weight"), part(info, i * rows * columns, &[rows, columns])?));
    // As many as have numbers, whatever a file says.
    (0..if rows * columns == 0 { 0 } else { all }).map(matrix).collect()
}

/// What a delta net makes its inputs with, head of keys by head of keys: queries, keys, values, gates.
fn by_key_head(net: &Net, values: &TensorInfo, gates: &TensorInfo) -> Option<TensorInfo> {
    let ([rows, columns], [of_gates, same]) =
        (<[usize; 2]>::try_from(&values.shape[..]).ok()?, <[usize; 2]>::try_from(&gates.shape[..]).ok()?);
    let (keys, all) = (net.keys_size() / 2, net.values_size());
    if rows.checked_sub(net.keys_size()) != Some(all) || of_gates != all || columns != same || columns == 0 {
        return None;
    }
    let (dim, each) = (keys / net.key_heads, all / net.key_heads);
    let slice = |info: &TensorInfo, first: usize, n: usize| part(info, first * columns, &[n, columns]);
    let head = |h: usize| {
        let [queries, own_keys] = [0, keys].map(|first| slice(values, first + h * dim, dim));
        [queries, own_keys, slice(values, 2 * keys + h * each, each), slice(gates, h * each, each)]
    };
    let parts = (0..net.key_heads).flat_map(head).collect::<Option<Vec<_>>>()?;
    let shape = vec![rows + all, columns];
    let placement = Placement::plain(&shape);
    Some(TensorInfo { label: values.label.clone(), dtype: values.dtype, shape, bytes: Bytes::Stacked { parts }, placement })
}

/// Two tensors as one, or as one for each expert.
fn both(joined: &Joined, layer: &str, suffix: &str, a: &TensorInfo, b: &TensorInfo) -> Option<Vec<(String, TensorInfo)>> {
    let stack = |a: TensorInfo, b: TensorInfo, shape: Vec<usize>, rows: usize| {
        let order = match joined.in_turn {
            true => RowOrder::PartsFirst { parts: 2, heads: rows, head_dim: 1 },
            false => RowOrder::Same,
        };
        let placement = Placement { order, ..Placement::plain(&shape) };
        TensorInfo { label: a.label.clone(), dtype: a.dtype, shape, bytes: Bytes::Stacked { parts: vec![a, b] }, placement }
    };
    let (name, alike) = (format!("{layer}{}", joined.into), a.shape == b.shape && !a.shape.contains(&0));
    match (&a.shape[..], suffix) {
        ([rows, columns], "weight") if alike => {
            Some(vec![(format!("{name}.weight"), stack(a.clone(), b.clone(), vec![2 * rows, *columns], *rows))])
        }
        ([all, rows, columns], "weight") if alike => {
            let (list, of) = name.rsplit_once('.')?;
            let expert = |e: usize| {
                let [a, b] = [a, b].map(|info| part(info, e * rows * columns, &[*rows, *columns]));
                Some((format!("{list}.{e}.{of}.weight"), stack(a?, b?, vec![2 * rows, *columns], *rows)))
            };
            (0..*all).map(expert).collect()
        }
        // A number for each row of each expert; they are read one by one.
        ([all, rows], "bias") if alike => {
            let [a, b] = [a, b].map(|info| part(info, 0, &[all * rows]));
            Some(vec![(format!("{name}_bias"), stack(a?, b?, vec![*all, 2 * rows], all * rows))])
        }
        _ => None,
    }
}

/// The tensors that a stored one is. One that the family does not know keeps its name.
fn rename(
    container: &Container<'_>,
    tensor: &Tensor<'_>,
    file: usize,
    family: &Family,
    heads: &Heads,
) -> Result<Vec<(String, TensorInfo)>, CheckpointError> {
    let info = |shape: Vec<usize>, placement: Placement| TensorInfo {
        label: tensor.kind.name.into(),
        dtype: Some(tensor.kind.dtype),
        bytes: Bytes::Mapped { file, range: tensor.range.clone() },
        shape,
        placement,
    };
    let plain = Placement::plain(&tensor.shape);
    let Some((layer, stored)) = tensor.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
        let (name, suffix) = tensor.name.rsplit_once('.').unwrap_or((tensor.name, ""));
        let found = family.outside.iter().find(|(gguf, _)| *gguf == name);
        let own = found.map_or_else(|| tensor.name.to_string(), |(_, own)| format!("{own}.{suffix}"));
        let added = added(family, name, suffix);
        return Ok(vec![(own, info(tensor.shape.clone(), Placement { added, ..plain }))]);
    };
    if heads.guessing.zip(layer.parse::<usize>().ok()).is_some_and(|(first, layer)| layer >= first) {
        // The family's checkpoints have beside the others.
        return Ok(vec![(format!("mtp.{}", tensor.name), info(tensor.shape.clone(), plain))]);
    }
    if let Some((_, own)) = family.whole.iter().find(|(gguf, _)| *gguf == stored) {
        // Vectors, some of them as matrices of one column.
        let shape = if tensor.shape.len() == 2 && tensor.shape[1] == 1 { vec![tensor.shape[0]] } else { tensor.shape.clone() };
        let placement = Placement { exponential: stored == DECAY, order: heads.values_in(stored), ..Placement::plain(&shape) };
        return Ok(vec![(format!("{}.{layer}.{own}", family.layers), info(shape, placement))]);
    }
    let (part, suffix) = stored.rsplit_once('.').unwrap_or((stored, ""));
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
    if matches!(part, SHORT_CONV | CONV) && shape.len() == 2 {
        shape.insert(1, 1);
        plain = Placement::plain(&shape);
    }
    if part == SHARED_GATE && shape.len() == 1 {
        shape.insert(0, 1);
        plain = Placement::plain(&shape);
    }
    if part == "ssm_norm" && shape.len() == 2 {
        // A row for each group.
        shape = vec![shape[0] * shape[1]];
        plain = Placement::plain(&shape);
    }
    if let (Some(net), "attn_qkv" | CONV) = (&heads.net, part) {
        // Queries and keys are as they were.
        let Some(values) = shape[0].checked_sub(net.keys_size()).filter(|n| *n == net.values_size()) else {
            let (file, tensor) = (container.file.into(), tensor.name.into());
            let why = format!(
                "it has {} rows, queries and keys of the config {}, values {}",
                shape[0],
                net.keys_size(),
                net.values_size()
            );
            return Err(CheckpointError::Entry { file, tensor, why });
        };
        let slice = |first: usize, rows: usize, order: RowOrder| {
            let mut shape = shape.clone();
            shape[0] = rows;
            info(shape, Placement { first, order, ..plain.clone() })
        };
        let parts = vec![slice(0, net.keys_size(), RowOrder::Same), slice(net.keys_size(), values, net.order(net.value_dim))];
        let whole = TensorInfo { bytes: Bytes::Stacked { parts }, ..info(shape, plain.clone()) };
        return Ok(vec![(full(own), whole)]);
    }
    let column_order = if part == "ssm_out" { heads.values_in(part) } else { RowOrder::Same };
    plain.column_order = column_order;
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
        "attn_gate" | "ssm_alpha" | "ssm_beta" => heads.values_in(part),
        _ => RowOrder::Same,
    }
}

/// What the converter added to every number.
fn added(family: &Family, part: &str, suffix: &str) -> f32 {
    if family.gains_plus_one && part.ends_with("norm") && part != "ssm_norm" && suffix == "weight" { 1.0 } else { 0.0 }
}
