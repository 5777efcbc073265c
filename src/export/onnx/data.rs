//! Numbers beside the model: parts of a size that every program loads.

use super::super::ExportError;
use super::FORMAT;
use crate::checkpoint::onnx_messages::StringStringEntryProto;
use crate::staging::Folder;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// What the place of a tensor in its part is a multiple of.
const ALIGNMENT: u64 = 64;

/// The files beside a model. A tensor lies in one of them.
pub(super) struct Data<'a> {
    folder: &'a mut Folder,
    model: String,
    most: u64,
    open: Option<Part>,
    parts: usize,
}

/// A part that is being written.
struct Part {
    name: String,
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
}

impl<'a> Data<'a> {
    /// Beside the model of that path, parts of at most so many bytes.
    pub(super) fn new(folder: &'a mut Folder, model: &str, most: u64) -> Self {
        Self { folder, model: model.into(), most, open: None, parts: 0 }
    }

    /// Writes a tensor. Where it lies, as the model says it.
    pub(super) fn add(&mut self, tensor: &str, bytes: &[u8]) -> Result<Vec<StringStringEntryProto>, ExportError> {
        let length = bytes.len() as u64;
        if length > self.most {
            let why = format!("it has {length} bytes, and files of more than {} are not loaded everywhere", self.most);
            return Err(ExportError::Refused { what: tensor.into(), format: FORMAT, why });
        }
        let begins = |part: &Part| part.bytes.next_multiple_of(ALIGNMENT);
        if let Some(full) = self.open.take_if(|part| begins(part) + length > self.most) {
            self.close(full)?;
        }
        let part = match &mut self.open {
            Some(part) => part,
            none => none.insert(Part::begin(self.folder, part_name(&self.model, self.parts))?),
        };
        let offset = begins(part);
        let padding = (offset - part.bytes) as usize;
        let written = part.file.write_all(&[0; ALIGNMENT as usize][..padding]).and_then(|()| part.file.write_all(bytes));
        written.map_err(ExportError::io(&part.path))?;
        part.bytes = offset + length;
        let location = part.name.rsplit('/').next().unwrap_or_default();
        let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value };
        Ok(vec![entry("location", location.into()), entry("offset", offset.to_string()), entry("length", length.to_string())])
    }

    /// Ends the last part. How many there are.
    pub(super) fn finish(mut self) -> Result<usize, ExportError> {
        if let Some(last) = self.open.take() {
            self.close(last)?;
        }
        Ok(self.parts)
    }

    fn close(&mut self, part: Part) -> Result<(), ExportError> {
        let Part { name, path, file, .. } = part;
        let file = file.into_inner().map_err(|e| ExportError::io(&path)(e.into_error()))?;
        self.parts += 1;
        Ok(self.folder.close(&name, &file, &path)?)
    }
}

impl Part {
    fn begin(folder: &Folder, name: String) -> Result<Self, ExportError> {
        let (file, path) = folder.create(&name)?;
        Ok(Self { name, path, file: BufWriter::with_capacity(1 << 20, file), bytes: 0 })
    }
}

/// A part's path, as transformers.js looks for it.
fn part_name(model: &str, index: usize) -> String {
    if index == 0 { format!("{model}_data") } else { format!("{model}_data_{index}") }
}
