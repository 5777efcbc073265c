//! A folder as `save_pretrained` writes it: safetensors with an index, `config.json`, tokenizer and templates.

use super::class::Class;
use super::safetensors::{Entry, Writer};
use super::tensors::{self, Named};
use super::{ExportError, Rounding};
use crate::reference::stored::StoredWeights;
use crate::staging::Folder;
use haikuq_runtime::package::additional_chat_template_name;
use half::{bf16, f16};
use serde_json::{Map, Value, json};

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
    pub(super) fn label(self) -> &'static str {
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

    pub(super) fn bytes(self) -> u64 {
        if self == Self::F32 { 4 } else { 2 }
    }

    /// A tensor of such numbers.
    pub(super) fn entry(self, named: &Named) -> Entry {
        let bytes = named.numbers() as u64 * self.bytes();
        Entry { name: named.name.clone(), dtype: self.label(), shape: named.shape.clone(), bytes }
    }

    /// Stores a tensor's numbers.
    ///
    /// # Errors
    /// If one is beyond its range.
    pub(super) fn store_all(
        self,
        tensor: &str,
        numbers: &[f32],
        out: &mut Vec<u8>,
        rounding: &mut Rounding,
    ) -> Result<(), ExportError> {
        for &x in numbers {
            let stored = self.store(x, out);
            if !stored.is_finite() {
                let (tensor, dtype, largest) = (tensor.to_owned(), self.torch(), f16::MAX.to_f32());
                return Err(ExportError::Range { tensor, number: x, dtype, largest });
            }
            rounding.add(x, stored);
        }
        Ok(())
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
    let entries = tensors::list(&class.layout)?.iter().map(|named| dtype.entry(named)).collect();
    companions(folder, class.config.clone(), dtype, files)?;
    let mut writer = Writer::new(folder, entries, shard_bytes);
    let (mut rounding, mut bytes) = (Rounding::default(), Vec::new());
    tensors::each(
        &class.layout,
        |name| Ok(weights.read(name)?),
        |named, numbers| {
            bytes.clear();
            dtype.store_all(&named.name, &numbers, &mut bytes, &mut rounding)?;
            writer.write(&bytes)
        },
    )?;
    writer.finish()?;
    Ok(rounding)
}

/// Writes the config and the package's own files.
pub(super) fn companions(
    folder: &mut Folder,
    mut config: Map<String, Value>,
    dtype: HfDtype,
    files: &[(String, Vec<u8>)],
) -> Result<(), ExportError> {
    config.insert("dtype".into(), json!(dtype.torch()));
    folder.write("config.json", &pretty(&Value::Object(config)))?;
    for (name, bytes) in files {
        // transformers has further templates in a folder.
        let template = additional_chat_template_name(name).map(|name| format!("additional_chat_templates/{name}.jinja"));
        folder.write(template.as_ref().unwrap_or(name), bytes)?;
    }
    Ok(())
}

/// Indented JSON with a final newline.
pub(super) fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}
