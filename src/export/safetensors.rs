//! [`Writer`]: safetensors files with an index, tensor after tensor.

use super::ExportError;
use crate::staging::Folder;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// A tensor as a file has it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    /// As safetensors files name it.
    pub(super) dtype: &'static str,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: u64,
}

/// Files of so many bytes each at most, which get their tensors one after the other.
pub(super) struct Writer<'a> {
    folder: &'a mut Folder,
    files: Vec<Vec<Entry>>,
    /// Of the next tensor: its file, and its place there.
    next: (usize, usize),
    open: Option<Open>,
}

/// A file whose header is written.
struct Open {
    name: String,
    path: PathBuf,
    file: BufWriter<File>,
}

impl<'a> Writer<'a> {
    /// Files of `entries`, in that order: as many in a file as fit, at least one.
    pub(super) fn new(folder: &'a mut Folder, entries: Vec<Entry>, most: u64) -> Self {
        let (mut files, mut filled) = (vec![Vec::new()], 0);
        for entry in entries {
            if filled > 0 && filled + entry.bytes > most {
                files.push(Vec::new());
                filled = 0;
            }
            filled += entry.bytes;
            if let Some(last) = files.last_mut() {
                last.push(entry);
            }
        }
        Self { folder, files, next: (0, 0), open: None }
    }

    /// Writes the next tensor.
    ///
    /// # Errors
    /// If it cannot be written.
    ///
    /// # Panics
    /// If there is none, or it was planned with other bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        let (file, entry) = self.next;
        assert_eq!(self.files[file][entry].bytes, bytes.len() as u64, "{} was planned otherwise", self.files[file][entry].name);
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin(file)?,
        };
        open.file.write_all(bytes).map_err(ExportError::io(&open.path))?;
        if entry + 1 < self.files[file].len() {
            (self.next, self.open) = ((file, entry + 1), Some(open));
        } else {
            self.next = (file + 1, 0);
            let Open { name, path, file } = open;
            let file = file.into_inner().map_err(|e| ExportError::io(&path)(e.into_error()))?;
            self.folder.close(&name, &file, &path)?;
        }
        Ok(())
    }

    /// Writes the index, where there are several files.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn finish(self) -> Result<(), ExportError> {
        if self.files.len() > 1 {
            let places = self.files.iter().enumerate().flat_map(|(i, file)| file.iter().map(move |t| (t.name.clone(), i)));
            let map: BTreeMap<String, String> = places.map(|(tensor, i)| (tensor, self.name(i))).collect();
            let total: u64 = self.files.iter().flatten().map(|t| t.bytes).sum();
            let index = json!({"metadata": {"total_size": total}, "weight_map": map});
            self.folder.write("model.safetensors.index.json", &super::hf::pretty(&index))?;
        }
        Ok(())
    }

    fn name(&self, index: usize) -> String {
        match self.files.len() {
            1 => "model.safetensors".to_string(),
            count => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        }
    }

    fn begin(&self, index: usize) -> Result<Open, ExportError> {
        let name = self.name(index);
        let (file, path) = self.folder.create(&name)?;
        let mut header = Map::from_iter([("__metadata__".to_string(), json!({"format": "pt"}))]);
        let mut offset = 0;
        for tensor in &self.files[index] {
            let end = offset + tensor.bytes;
            let entry = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end]});
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
        Ok(Open { name, path, file })
    }
}
