//! From the names that a file has to those that the family has: wrappers taken off, buffers left out, the head looked
//! for in the numbers, biases that are not there filled with zeros.
//!
//! Readers of ONNX find names by the graph; this is for files that say them. Nothing here drops a weight: whatever has no
//! place keeps its name, and is refused by [`crate::architecture::Decoder`].

use super::error::Nearest;
use super::file::MappedFile;
use super::tensor::{Bytes, Dtype, Placement, TensorInfo, TensorView};
use super::{CheckpointError, Wanted, quantized};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Tensors by name.
type Tensors = BTreeMap<String, TensorInfo>;

/// Parts of names that training frameworks put around modules, and no family has.
const WRAPPERS: [&str; 6] =
    ["_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "_module"];

/// Last parts of the names of buffers: tables and masks that follow from the config.
const BUFFERS: [&str; 15] = [
    "inv_freq",
    "original_inv_freq",
    "cos_cached",
    "sin_cached",
    "cos_cache",
    "sin_cache",
    "cos_sin_cache",
    "freqs_cis",
    "position_ids",
    "masked_bias",
    "causal_mask",
    "attn_mask",
    "attention_mask",
    "rope_cache",
    "num_batches_tracked",
];

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Whether embedding and head are one matrix.
    pub(super) tied: bool,
    /// What a user should know of it, a sentence each.
    pub(super) notes: Vec<String>,
}

/// Where the tensors lie, for messages.
pub(super) struct Place<'a> {
    pub(super) path: &'a Path,
    pub(super) files: &'a [MappedFile],
    /// Whether a config of the model's own says that the head is the embedding, or is not.
    pub(super) says_head: bool,
}

/// Whether a tensor is no weight: it has no elements, or is a table or mask by the last part of its name, or a mask by
/// its four dimensions (GPT-2's and GPT-NeoX's `attn.bias`).
pub(super) fn is_buffer(name: &str, shape: &[usize]) -> bool {
    let (module, last) = name.rsplit_once('.').unwrap_or(("", name));
    let module = module.rsplit('.').next().unwrap_or(module);
    let rope_table = ["cos", "sin", "freqs"].contains(&last) && (module.starts_with("rotary") || module.starts_with("rope"));
    shape.contains(&0) || BUFFERS.contains(&last) || rope_table || (last == "bias" && shape.len() == 4)
}

/// Gives `tensors` the names that are wanted, and says what the head is.
///
/// # Errors
/// If weights are missing, are of a quantized format or an adapter's, or two could be the same one.
pub(super) fn settle(tensors: &mut Tensors, wanted: &Wanted, place: &Place<'_>) -> Result<Settled, CheckpointError> {
    if let Some(format) = quantized::format(tensors.iter().map(|(n, t)| (n.as_str(), t.label.as_str()))) {
        return Err(CheckpointError::Quantized { path: place.path.into(), format: format.name, tensor: format.tensor });
    }
    if let Some(tensor) = tensors.keys().find(|n| n.contains(".lora_") || n.contains(".base_layer.")) {
        return Err(CheckpointError::AdapterInside { path: place.path.into(), tensor: tensor.clone() });
    }
    let names: BTreeSet<&str> = wanted.tensors.iter().map(|t| t.name.as_str()).collect();
    tensors.retain(|name, t| names.contains(name.as_str()) || !is_buffer(name, &t.shape));
    let mut settled = Settled { tied: wanted.tied, notes: Vec::new() };
    settled.notes.extend(unwrap(tensors, wanted, place)?);
    head(tensors, wanted, place, &mut settled)?;
    let mut zeros = Vec::new();
    for tensor in &wanted.tensors {
        if tensors.contains_key(&tensor.name) {
            continue;
        }
        // As transformers does: the bias of a linear layer or norm is zero where a checkpoint does not have it.
        let weight = tensor.name.strip_suffix(".bias").map(|module| format!("{module}.weight"));
        let Some(weight) = weight.and_then(|weight| tensors.get(&weight)) else {
            return Err(missing(&tensor.name, tensors, wanted, place));
        };
        // Where the two do not fit, the weight is refused for its shape: a config alone sizes no memory.
        if fits(&tensor.shape, &weight.shape) {
            zeros.push(tensor);
        }
    }
    for tensor in &zeros {
        tensors.insert(tensor.name.clone(), zero(&tensor.shape));
    }
    if let Some(first) = zeros.first() {
        let (count, name) = (zeros.len(), &first.name);
        let which = if count == 1 { format!("the bias {name} is") } else { format!("{count} biases, such as {name}, are") };
        settled.notes.push(format!("{which} not in the checkpoint, and taken as zero, as transformers does"));
    }
    Ok(settled)
}

/// Whether a weight of that shape may have a bias of this one: with a number for each of its outputs.
fn fits(bias: &[usize], weight: &[usize]) -> bool {
    matches!(bias, [n] if weight.contains(n) && !weight.contains(&0))
}

fn zero(shape: &[usize]) -> TensorInfo {
    TensorInfo {
        label: "F32".into(),
        dtype: Some(Dtype::F32),
        shape: shape.to_vec(),
        bytes: Bytes::Owned { file: 0, bytes: Arc::new(vec![0; 4 * shape.iter().product::<usize>()]) },
        placement: Placement::plain(shape),
    }
}

/// Decides by what is there: of embedding and head one, both alike, or both apart.
fn head(tensors: &mut Tensors, wanted: &Wanted, place: &Place<'_>, settled: &mut Settled) -> Result<(), CheckpointError> {
    let Wanted { embedding, head, .. } = wanted;
    match (tensors.contains_key(embedding), tensors.contains_key(head), wanted.tied) {
        (true, true, true) => {
            let difference = difference(tensors, embedding, head, place.files)?;
            settled.tied = difference.is_none();
            match difference {
                None => {
                    tensors.remove(head);
                }
                Some(row) if place.says_head => settled.notes.push(format!(
                    "the config says that head and embedding are one (tie_word_embeddings), but {head} differs from \
                     {embedding}, first in row {row}: it is kept as a head of its own, as transformers 5 does"
                )),
                Some(_) => {}
            }
        }
        (false, true, true) => {
            if let Some(info) = tensors.remove(head) {
                tensors.insert(embedding.clone(), info);
            }
        }
        (true, false, false) => {
            return Err(CheckpointError::NoHead { path: place.path.into(), head: head.clone(), embedding: embedding.clone() });
        }
        _ => {}
    }
    Ok(())
}

/// The first row in which two tensors differ.
fn difference(tensors: &Tensors, a: &str, b: &str, files: &[MappedFile]) -> Result<Option<usize>, CheckpointError> {
    let view = |name: &str| tensors.get(name).and_then(|info| TensorView::new(info, files, ""));
    match (view(a), view(b)) {
        (Some(x), Some(y)) => x.first_difference(&y),
        // A number format that weights do not have is refused where it is read.
        _ => Ok(Some(0)),
    }
}

/// Takes wrappers off, if that is how the wanted names are found. Returns what was done.
fn unwrap(tensors: &mut Tensors, wanted: &Wanted, place: &Place<'_>) -> Result<Option<String>, CheckpointError> {
    let names: BTreeSet<&str> = wanted.tensors.iter().map(|t| t.name.as_str()).collect();
    let found = |tensors: &mut dyn Iterator<Item = &str>| tensors.filter(|n| names.contains(n) || *n == wanted.head).count();
    let before = found(&mut tensors.keys().map(String::as_str));
    // With all of them there, whatever else there is has no place, wrapped or not.
    if wanted.tensors.iter().all(|t| tensors.contains_key(&t.name)) {
        return Ok(None);
    }
    let plain: Vec<(String, &String)> = tensors.keys().map(|name| (without_wrappers(name), name)).collect();
    let stem = stem(&plain, wanted, place)?;
    let mut renamed: BTreeMap<String, &String> = BTreeMap::new();
    for (plain, name) in &plain {
        let new = stem.as_deref().map_or_else(|| plain.clone(), |stem| rename(plain, stem, wanted));
        if let Some(other) = renamed.insert(new.clone(), name) {
            let (first, second) = (other.clone(), (*name).clone());
            return Err(CheckpointError::SameName { path: place.path.into(), tensor: new, first, second });
        }
    }
    if found(&mut renamed.keys().map(String::as_str)) <= before {
        return Ok(None);
    }
    let mut wrappers: BTreeSet<String> = BTreeSet::new();
    for part in tensors.keys().flat_map(|name| name.split('.')).filter(|part| WRAPPERS.contains(part)) {
        wrappers.insert(format!("{part}."));
    }
    let outer = stem.as_deref().map(|stem| outer(stem, wanted));
    wrappers.extend(outer.filter(|outer| !outer.is_empty()).map(ToString::to_string));
    let bare = stem.as_deref().is_some_and(|stem| !stem.ends_with(wanted.base.as_str()));
    let note = if wrappers.is_empty() && bare {
        format!("the names of its tensors lack {:?}, as those of a base model do; they are read with it", wanted.base)
    } else {
        let list = wrappers.iter().map(|w| format!("{w:?}")).collect::<Vec<_>>().join(" and ");
        format!("the names of its tensors have {list} around those of the model; they are read without it")
    };
    let pairs: Vec<(String, String)> = renamed.into_iter().map(|(new, old)| (new, old.clone())).collect();
    let mut old = std::mem::take(tensors);
    tensors.extend(pairs.into_iter().filter_map(|(new, name)| Some((new, old.remove(&name)?))));
    Ok(Some(note))
}

fn without_wrappers(name: &str) -> String {
    name.split('.').filter(|part| !WRAPPERS.contains(part)).collect::<Vec<_>>().join(".")
}

/// What stands before the names of the bare model, such as `language_model.model.`: that behind which most of them are
/// found.
fn stem(plain: &[(String, &String)], wanted: &Wanted, place: &Place<'_>) -> Result<Option<String>, CheckpointError> {
    let bare: BTreeSet<&str> = wanted.tensors.iter().filter_map(|t| t.name.strip_prefix(wanted.base.as_str())).collect();
    let mut counts = BTreeMap::<&str, usize>::new();
    for (name, _) in plain {
        if let Some(stem) = stems(name).find(|stem| bare.contains(&name[stem.len()..])) {
            *counts.entry(stem).or_default() += 1;
        }
    }
    let mut counts: Vec<(usize, &str)> = counts.into_iter().map(|(stem, n)| (n, stem)).collect();
    counts.sort_by_key(|(n, stem)| (std::cmp::Reverse(*n), *stem));
    match counts[..] {
        [(most, first), (second, other), ..] if 2 * second > most => {
            Err(CheckpointError::SeveralInside { path: place.path.into(), first: first.to_string(), second: other.to_string() })
        }
        [(_, stem), ..] => Ok(Some(stem.to_string())),
        [] => Ok(None),
    }
}

/// Modules within modules before a model's own: wrappers are one or two. A name may have as many dots as a file has room for.
const MOST_STEMS: usize = 16;

/// All beginnings of a name that end with a dot, the empty one first; none in a list of modules, whose items would be
/// taken for the whole.
fn stems(name: &str) -> impl Iterator<Item = &str> {
    let ends = std::iter::once(0).chain(name.match_indices('.').map(|(at, _)| at + 1)).take(MOST_STEMS);
    let listed = |stem: &str| stem.split('.').any(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    ends.map(|end| &name[..end]).take_while(move |stem| !listed(stem))
}

/// What of a stem stands before the base's own name, whole modules alone: all of it in `model.language_model.`.
fn outer<'a>(stem: &'a str, wanted: &Wanted) -> &'a str {
    stem.strip_suffix(wanted.base.as_str()).filter(|outer| outer.is_empty() || outer.ends_with('.')).unwrap_or(stem)
}

/// A name without what stands before it; the head may stand where the model does, or the whole.
fn rename(plain: &str, stem: &str, wanted: &Wanted) -> String {
    let outer = outer(stem, wanted);
    let module = wanted.head.strip_suffix(".weight").unwrap_or(&wanted.head);
    let own = |name: &str| name.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'));
    for before in [outer, stem, ""] {
        if let Some(name) = plain.strip_prefix(before).filter(|name| own(name)) {
            return name.to_string();
        }
    }
    match plain.strip_prefix(stem) {
        Some(rest) => format!("{}{rest}", wanted.base),
        None => plain.to_string(),
    }
}

/// The error for a tensor that is not there.
fn missing(name: &str, tensors: &Tensors, wanted: &Wanted, place: &Place<'_>) -> CheckpointError {
    let any = wanted.tensors.iter().any(|t| tensors.contains_key(&t.name));
    let names: BTreeSet<&str> = wanted.tensors.iter().map(|t| t.name.as_str()).collect();
    let unknown: Vec<&str> = tensors.keys().map(String::as_str).filter(|n| !names.contains(n)).collect();
    let nearest = Nearest::new(name, &unknown, any);
    CheckpointError::Missing { path: place.path.into(), tensor: name.into(), nearest }
}
