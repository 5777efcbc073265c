//! Experts' matrices that a file has as one tensor, taken apart: [`super::Checkpoint`] shows them one expert after the other, by the
//! names that the family's checkpoints on the hub have, or would have.
//!
//! transformers 5 keeps them as `experts.gate_up_proj` `[experts, 2 × inner, hidden]` and `experts.down_proj`; Granite's files call
//! them `input_linear` and `output_linear`. gpt-oss has them transposed, with the rows of gate and up in turn, or in MXFP4 as
//! `gate_up_proj_blocks` `[experts, 2 × inner, hidden / 32, 16]` with `gate_up_proj_scales`.

use super::tensor::{Bytes, Dtype, Placement, TensorInfo};
use std::collections::BTreeMap;

/// Tensors by name.
type Tensors = BTreeMap<String, TensorInfo>;

/// Takes all such tensors apart.
pub(super) fn split(tensors: &mut Tensors) {
    for (end, new) in [(".router.layer.weight", ".router.weight")] {
        let names: Vec<String> =
            tensors.keys().filter(|n| n.contains(".block_sparse_moe.") && n.ends_with(end)).cloned().collect();
        for name in names {
            if let (Some(info), Some(stem)) = (tensors.remove(&name), name.strip_suffix(end)) {
                tensors.insert(format!("{stem}{new}"), info);
            }
        }
    }
    let packed: Vec<String> = tensors.keys().filter(|n| n.contains(".experts.") && n.ends_with("_blocks")).cloned().collect();
    for name in packed {
        let Some(stem) = name.strip_suffix("_blocks") else { continue };
        let scales = format!("{stem}_scales");
        if let Some(parts) = tensors.get(&name).zip(tensors.get(&scales)).and_then(|(n, s)| mxfp4_parts(stem, n, s)) {
            tensors.remove(&name);
            tensors.remove(&scales);
            tensors.extend(parts);
        }
    }
    let stacked: Vec<String> =
        tensors.iter().filter(|(_, t)| t.shape.len() == 3 && !t.shape.contains(&0)).map(|(n, _)| n.clone()).collect();
    for name in stacked {
        let parts = tensors.get(&name).and_then(|info| parts(&name, info, tensors));
        if let Some(parts) = parts {
            tensors.remove(&name);
            tensors.extend(parts);
        }
    }
}

/// What a tensor is taken apart to, if it is one of experts.
fn parts(name: &str, info: &TensorInfo, tensors: &Tensors) -> Option<Vec<(String, TensorInfo)>> {
    let bare = name.strip_suffix(".weight").unwrap_or(name);
    let (list, up) = match bare.rsplit_once('.')? {
        (list, "gate_up_proj") if list.ends_with(".experts") => (list.to_string(), true),
        (list, "down_proj") if list.ends_with(".experts") => (list.to_string(), false),
        (block, "input_linear") if block.ends_with(".block_sparse_moe") => (format!("{block}.experts"), true),
        (block, "output_linear") if block.ends_with(".block_sparse_moe") => (format!("{block}.experts"), false),
        (list, "gate_proj" | "up_proj" | "w1" | "w2" | "w3") if list.ends_with(".experts") => return each(list, bare, info),
        _ => return None,
    };
    let [gate, up_name, down] = match list.ends_with(".feed_forward.experts") {
        true => ["w1", "w3", "w2"],
        false => ["gate_proj", "up_proj", "down_proj"],
    };
    let [experts, rows, columns] = info.shape[..] else { return None };
    let mut parts = Vec::with_capacity(2 * experts);
    let mut add = |expert: usize, of: &str, info: Option<TensorInfo>| -> Option<()> {
        parts.push((format!("{list}.{expert}.{of}.weight"), info?));
        Some(())
    };
    // As gpt-oss has them on the hub, and no other.
    let transposed = bare == name && tensors.contains_key(&format!("{bare}_bias"));
    for expert in 0..experts {
        if transposed {
            let of = if up { "gate_up_proj" } else { down };
            let mut matrix = part(info, expert * rows * columns, &[rows, columns])?;
            matrix.shape.reverse();
            matrix.placement = Placement { transposed: true, ..matrix.placement };
            add(expert, of, Some(matrix))?;
        } else if up {
            let half = rows / 2;
            add(expert, gate, part(info, expert * rows * columns, &[half, columns]))?;
            add(expert, up_name, part(info, (expert * rows + half) * columns, &[rows - half, columns]))?;
        } else {
            add(expert, down, part(info, expert * rows * columns, &[rows, columns]))?;
        }
    }
    Some(parts)
}

/// The matrices of one kind, as GGUF files have them.
fn each(list: &str, bare: &str, info: &TensorInfo) -> Option<Vec<(String, TensorInfo)>> {
    let of = bare.rsplit('.').next()?;
    let [experts, rows, columns] = info.shape[..] else { return None };
    let matrix = |e: usize| Some((format!("{list}.{e}.{of}.weight"), part(info, e * rows * columns, &[rows, columns])?));
    (0..experts).map(matrix).collect()
}

/// The experts' matrices of numbers and scales in MXFP4, if these fit each other.
fn mxfp4_parts(stem: &str, numbers: &TensorInfo, scales: &TensorInfo) -> Option<Vec<(String, TensorInfo)>> {
    let (list, of) = stem.rsplit_once('.')?;
    let [experts, rows, blocks, 16] = numbers.shape[..] else { return None };
    let fit = scales.shape == [experts, rows, blocks] && numbers.label == "U8" && scales.label == "U8";
    let (Bytes::Mapped { file, range }, Bytes::Mapped { file: of_scales, range: scales }) = (&numbers.bytes, &scales.bytes)
    else {
        return None;
    };
    let shape = [rows, 32 * blocks];
    let part = |expert: usize| {
        let of = |range: &std::ops::Range<usize>, bytes: usize| range.start + expert * bytes..range.start + (expert + 1) * bytes;
        let bytes =
            Bytes::Mxfp4 { numbers: (*file, of(range, rows * blocks * 16)), scales: (*of_scales, of(scales, rows * blocks)) };
        let (label, dtype, placement) = ("MXFP4".into(), Some(Dtype::Mxfp4), Placement::plain(&shape));
        TensorInfo { label, dtype, shape: shape.to_vec(), bytes, placement }
    };
    fit.then(|| (0..experts).map(|expert| (format!("{list}.{expert}.{of}.weight"), part(expert))).collect())
}

/// The tensor of `shape` that begins with number `first` of one that a file has as it is.
pub(super) fn part(info: &TensorInfo, first: usize, shape: &[usize]) -> Option<TensorInfo> {
    let Bytes::Mapped { file, range } = &info.bytes else { return None };
    let dtype = info.dtype?;
    let (begin, bytes) = (range.start + dtype.bytes(first)?, dtype.bytes(shape.iter().product())?);
    let bytes = Bytes::Mapped { file: *file, range: begin..begin + bytes };
    (info.placement == Placement::plain(&info.shape)).then(|| TensorInfo {
        label: info.label.clone(),
        dtype: Some(dtype),
        shape: shape.to_vec(),
        bytes,
        placement: Placement::plain(shape),
    })
}
