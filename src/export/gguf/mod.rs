//! A GGUF file as llama.cpp's converter writes it: its names, the order of its rows, its keys.
//!
//! The file is read again before it gets its name. If it does not say exactly the package's decoder, or another tokenizer, it is
//! refused by what differs: llama.cpp has no keys for some of what classes of transformers can be told.

mod container;
mod keys;
mod tokenizer;
mod types;

pub use types::GgufType;

use super::class::{Class, differs};
use super::tensors::{self, Named};
use super::{ExportError, Rounding};
use crate::architecture::Decoder;
use crate::checkpoint::{Checkpoint, RowOrder, gguf_name};
use crate::staging::Folder;
use container::{Entry, Writer};
use haikuq_format::DecoderSpec;
use haikuq_format::manifest::Manifest;
use keys::Keys;
use std::io::{BufWriter, Write};

/// What errors call it.
const FORMAT: &str = "gguf";

/// A tensor of the file.
struct Stored {
    entry: Entry,
    own: Named,
    rotary_pairs: bool,
    added: f32,
}

/// Writes the file `name`, with the numbers that `read` has for canonical tensors: matrices in the type that is `wanted`, or in those
/// that hold the package's numbers as they are. What rounding cost.
pub(super) fn write(
    folder: &mut Folder,
    name: &str,
    class: &Class,
    manifest: &Manifest,
    wanted: Option<GgufType>,
    files: &[(String, Vec<u8>)],
    read: impl Fn(&str) -> Result<Vec<f32>, ExportError>,
) -> Result<Rounding, ExportError> {
    let spec = &class.layout.spec;
    let family = keys::family(class)?;
    let mut stored = Vec::new();
    if let Some(factors) = keys::rope_factors(class) {
        let name = String::from("rope_freqs.weight");
        let own = Named { canonical: name.clone(), name, shape: vec![factors.len()] };
        let entry = Entry { name: own.name.clone(), shape: own.shape.clone(), kind: GgufType::F32 };
        stored.push((Stored { entry, own, rotary_pairs: false, added: 0.0 }, Some(factors)));
    }
    for own in tensors::list(&class.layout)? {
        let Some(found) = gguf_name(family, &own.name) else {
            let why = format!("llama.cpp's {family} has no such tensor");
            return Err(ExportError::Refused { what: own.name, format: FORMAT, why });
        };
        let is_head = found.name == "output.weight" || (spec.tied_head && found.name == "token_embd.weight");
        let kind = match (wanted, manifest.tensor(&own.canonical)) {
            (None, Some(tensor)) => GgufType::holding(&own, tensor.scheme)?,
            (wanted, _) => wanted.unwrap_or(GgufType::F32).of(&own.shape, is_head),
        };
        let entry = Entry { name: found.name, shape: own.shape.clone(), kind };
        stored.push((Stored { entry, own, rotary_pairs: found.rotary_pairs, added: found.added }, None));
    }
    let mut keys = Keys::of(class, family, wanted.unwrap_or_else(|| most(stored.iter().map(|(s, _)| &s.entry))))?;
    tokenizer::add(&mut keys, files, spec)?;
    let (file, path) = folder.create(name)?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let io = |e| ExportError::io(&path)(e);
    let mut writer = Writer::begin(&mut file, &keys.values, stored.iter().map(|(s, _)| &s.entry)).map_err(io)?;
    let mut rounding = Rounding::default();
    let mut rest = stored.into_iter();
    let mut next = rest.next();
    if let Some((first, Some(factors))) = &next {
        let bytes = types::encode(&first.entry, factors, false, &mut rounding)?;
        writer.tensor(&bytes).map_err(io)?;
        next = rest.next();
    }
    let head_dim = spec.attentions().next().map_or(1, |a| a.head_dim);
    tensors::each(&class.layout, read, |named, mut numbers| {
        // They come in the order of the list.
        let Some((stored, _)) = next.take().filter(|(stored, _)| stored.own == *named) else { return Ok(()) };
        if stored.rotary_pairs {
            numbers = in_pairs(&numbers, named.shape[0], head_dim);
        }
        if stored.added != 0.0 {
            numbers.iter_mut().for_each(|x| *x += stored.added);
        }
        let bytes = types::encode(&stored.entry, &numbers, wanted.is_none(), &mut rounding)?;
        next = rest.next();
        writer.tensor(&bytes).map_err(io)
    })?;
    file.flush().map_err(ExportError::io(&path))?;
    let file = file.into_inner().map_err(|e| ExportError::io(&path)(e.into_error()))?;
    folder.close(name, &file, &path)?;
    check(&path, spec, files)?;
    Ok(rounding)
}

/// The type of most numbers.
fn most<'a>(entries: impl Iterator<Item = &'a Entry>) -> GgufType {
    let mut counts: Vec<(GgufType, usize)> = Vec::new();
    for entry in entries {
        let numbers = entry.shape.iter().product::<usize>();
        match counts.iter_mut().find(|(kind, _)| *kind == entry.kind) {
            Some((_, count)) => *count += numbers,
            None => counts.push((entry.kind, numbers)),
        }
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map_or(GgufType::F32, |(kind, _)| kind)
}

/// Rows of heads as llama.cpp rotates them: neighbours, and not halves.
fn in_pairs(numbers: &[f32], rows: usize, head_dim: usize) -> Vec<f32> {
    let (width, order) = (numbers.len() / rows.max(1), RowOrder::RotaryPairs { head_dim });
    let mut out = vec![0.0; numbers.len()];
    for (row, from) in numbers.chunks_exact(width.max(1)).enumerate() {
        out[order.stored(row) * width..][..width].copy_from_slice(from);
    }
    out
}

/// Reads the file again: decoder and merges must be the package's.
fn check(path: &std::path::Path, spec: &DecoderSpec, files: &[(String, Vec<u8>)]) -> Result<(), ExportError> {
    let decoder = Decoder::from_checkpoint(Checkpoint::open(path)?)?;
    let mut found = decoder.spec.clone();
    (found.bos_token_id, found.eos_token_ids) = (spec.bos_token_id, spec.eos_token_ids.clone());
    if let Some((what, found, expected)) = differs(&found, spec) {
        let why = format!("the file would say {found}, and the package says {expected}; llama.cpp has no key for it");
        return Err(ExportError::Refused { what, format: FORMAT, why });
    }
    tokenizer::check(&decoder, files)
}
