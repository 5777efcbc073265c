//! A folder as `save_pretrained` writes it: safetensors with an index, `config.json`, tokenizer and templates.

use super::class::Class;
use super::tensors::{self, Named};
use super::{ExportError, Rounding};
use crate::reference::stored::StoredWeights;
use crate::staging::Folder;
use haikuq_runtime::package::additional_chat_template_name;
use half::{bf16, f16};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// Largest shard, as transformers' `save_pretrained` has it by default.
pub(super) const SHARD_BYTES: u64 = 5_000_000_000;

/// Classes that read the matrices of all experts as one tensor.
const EXPERTS_TOGETHER: [&str; 4] = ["granitemoe", "granitemoeshared", "granitemoehybrid", "gpt_oss"];

/// How numbers are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HfDtype {
    /// 16 bits, 11 of them of the number itself: rounds by at most 2⁻¹¹ of a number, up to 65,504.
    #[default]
    F16,
    /// 16 bits, 8 of them of the number itself: rounds by at most 2⁻⁸ of a number, of any size.
    Bf16,
    /// As the package's numbers are calculated: nothing is rounded.
    F32,
}

impl HfDtype {
    /// As safetensors files name it.
    fn label(self) -> &'static str {
        match self {
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::F32 => "F32",
        }
    }

    /// As configs name it.
    fn torch(self) -> &'static str {
        match self {
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::F32 => "float32",
        }
    }

    fn bytes(self) -> u64 {
        if self == Self::F32 { 4 } else { 2 }
    }

    /// A number as it is stored, and what that stands for.
    fn store(self, x: f32, out: &mut Vec<u8>) -> f32 {
        match self {
            Self::F16 => {
                let x = f16::from_f32(x);
                out.extend(x.to_le_bytes());
                x.to_f32()
            }
            Self::Bf16 => {
                let x = bf16::from_f32(x);
                out.extend(x.to_le_bytes());
                x.to_f32()
            }
            Self::F32 => {
                out.extend(x.to_le_bytes());
                x
            }
        }
    }
}

/// Writes the folder's files, `files` of the package among them. What rounding cost.
pub(super) fn write(
    folder: &mut Folder,
    class: &Class,
    weights: &StoredWeights,
    dtype: HfDtype,
    shard_bytes: u64,
    files: &[(String, Vec<u8>)],
) -> Result<Rounding, ExportError> {
    class.refuse_experts("hf", &EXPERTS_TOGETHER)?;
    let all = tensors::list(&class.layout)?;
    let mut config = class.config.clone();
    config.insert("dtype".into(), json!(dtype.torch()));
    folder.write("config.json", &pretty(&Value::Object(config)))?;
    for (name, bytes) in files {
        // transformers has further templates in a folder.
        let template = additional_chat_template_name(name).map(|name| format!("additional_chat_templates/{name}.jinja"));
        folder.write(template.as_ref().unwrap_or(name), bytes)?;
    }
    let shards = shards(&all, dtype, shard_bytes);
    let name = |index: usize| match shards.len() {
        1 => "model.safetensors".to_string(),
        count => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
    };
    let (mut rounding, mut open, mut number): (_, Option<Shard>, _) = (Rounding::default(), None, 0);
    let mut bytes = Vec::new();
    tensors::each(
        &class.layout,
        |name| Ok(weights.read(name)?),
        |named, numbers| {
            if shards.get(number).is_some_and(|shard| shard.first().is_some_and(|t| **t == *named)) {
                if let Some(done) = open.take() {
                    done.close(folder)?;
                }
                open = Some(Shard::begin(folder, name(number), &shards[number], dtype)?);
                number += 1;
            }
            bytes.clear();
            for x in numbers {
                let stored = dtype.store(x, &mut bytes);
                if !stored.is_finite() {
                    let (tensor, dtype, largest) = (named.name.clone(), dtype.torch(), f16::MAX.to_f32());
                    return Err(ExportError::Range { tensor, number: x, dtype, largest });
                }
                rounding.add(x, stored);
            }
            open.as_mut().map_or(Ok(()), |shard| shard.file.write_all(&bytes).map_err(ExportError::io(&shard.path)))
        },
    )?;
    if let Some(done) = open.take() {
        done.close(folder)?;
    }
    if shards.len() > 1 {
        let places = shards.iter().enumerate().flat_map(|(i, shard)| shard.iter().map(move |t| (t.name.clone(), i)));
        let map: BTreeMap<String, String> = places.map(|(tensor, i)| (tensor, name(i))).collect();
        let total: u64 = all.iter().map(|t| t.numbers() as u64 * dtype.bytes()).sum();
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        folder.write("model.safetensors.index.json", &pretty(&index))?;
    }
    Ok(rounding)
}

/// Indented JSON with a final newline.
fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// Consecutive tensors that one file has, as many as fit, at least one.
fn shards(all: &[Named], dtype: HfDtype, most: u64) -> Vec<Vec<&Named>> {
    let (mut shards, mut filled) = (vec![Vec::new()], 0);
    for tensor in all {
        let bytes = tensor.numbers() as u64 * dtype.bytes();
        if filled > 0 && filled + bytes > most {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        if let Some(last) = shards.last_mut() {
            last.push(tensor);
        }
    }
    shards
}

/// A file whose header is written.
struct Shard {
    name: String,
    path: PathBuf,
    file: BufWriter<File>,
}

impl Shard {
    fn begin(folder: &Folder, name: String, tensors: &[&Named], dtype: HfDtype) -> Result<Self, ExportError> {
        let (file, path) = folder.create(&name)?;
        let mut header = Map::from_iter([("__metadata__".to_string(), json!({"format": "pt"}))]);
        let mut offset = 0;
        for tensor in tensors {
            let end = offset + tensor.numbers() as u64 * dtype.bytes();
            let entry = json!({"dtype": dtype.label(), "shape": tensor.shape, "data_offsets": [offset, end]});
            header.insert(tensor.name.clone(), entry);
            offset = end;
        }
        let mut header = Value::Object(header).to_string();
        // Data begins at a multiple of 8.
        while !header.len().is_multiple_of(8) {
            header.push(' ');
        }
        let mut file = BufWriter::with_capacity(1 << 20, file);
        let length = (header.len() as u64).to_le_bytes();
        file.write_all(&length).and_then(|()| file.write_all(header.as_bytes())).map_err(ExportError::io(&path))?;
        Ok(Self { name, path, file })
    }

    fn close(self, folder: &mut Folder) -> Result<(), ExportError> {
        let Self { name, path, file } = self;
        let file = file.into_inner().map_err(|e| ExportError::io(&path)(e.into_error()))?;
        Ok(folder.close(&name, &file, &path)?)
    }
}
