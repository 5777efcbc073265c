//! [`Model`]: a model's files as its metadata's readers see them.

use super::super::CheckpointError;
use super::super::file::MappedFile;
use super::container::{Container, Tensor};
use super::family::Family;

/// A model's files, the first of which has the metadata.
pub(super) struct Model<'a> {
    pub(super) containers: &'a [Container<'a>],
    pub(super) files: &'a [MappedFile],
    pub(super) family: &'static Family,
}

impl<'a> Model<'a> {
    pub(super) fn metadata(&self) -> &'a Container<'a> {
        &self.containers[0]
    }

    /// A key of the family's own.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.family.name)
    }

    pub(super) fn tensor(&self, name: &str) -> Option<(usize, &'a Tensor<'a>)> {
        self.containers.iter().enumerate().find_map(|(i, c)| Some((i, c.tensor(name)?)))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.tensor(name).is_some()
    }

    pub(super) fn bytes(&self, (file, tensor): (usize, &Tensor<'_>)) -> &'a [u8] {
        &self.files[file].bytes()[tensor.range.clone()]
    }

    /// The numbers of a small F32 vector, if it is there.
    pub(super) fn vector(&self, name: &str) -> Result<Option<Vec<f32>>, CheckpointError> {
        let Some((file, tensor)) = self.tensor(name) else { return Ok(None) };
        if tensor.kind.name != "F32" || tensor.shape.len() != 1 || tensor.shape[0] > 1 << 12 {
            let (file, name) = (self.containers[file].file.into(), name.into());
            let why = format!("it is {:?} in {}, expected a short vector in F32", tensor.shape, tensor.kind.name);
            return Err(CheckpointError::Entry { file, tensor: name, why });
        }
        let numbers = self.bytes((file, tensor)).as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
        Ok(Some(numbers.collect()))
    }
}
