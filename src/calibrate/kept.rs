//! [`Kept`]: what goes into each layer, from the pass forward until the pass backward needs it.

use super::CalibrationError;
use crate::golden::reference::with_numbers;
use candle_core::{Device, Tensor};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A stack of layers' inputs, one tensor a window, in memory or in a file.
pub(super) enum Kept {
    Memory(Vec<Vec<Tensor>>),
    File(Spilled),
}

/// Inputs as little-endian numbers, one after the other. The file has no name (or, on systems where that cannot be, is
/// removed when it is closed), so that nothing of it stays whatever ends the program.
pub(super) struct Spilled {
    folder: PathBuf,
    file: File,
    /// Shapes of each layer's tensors.
    layers: Vec<Vec<(usize, usize)>>,
}

impl Kept {
    /// In memory, or in a file within `folder`.
    ///
    /// # Errors
    /// If no file can be made there.
    pub(super) fn new(folder: Option<&Path>) -> Result<Self, CalibrationError> {
        let Some(folder) = folder else { return Ok(Self::Memory(Vec::new())) };
        let file = tempfile::tempfile_in(folder).map_err(|source| CalibrationError::Spill { path: folder.into(), source })?;
        Ok(Self::File(Spilled { folder: folder.into(), file, layers: Vec::new() }))
    }

    /// Puts a layer's inputs on top.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(super) fn push(&mut self, inputs: Vec<Tensor>) -> Result<(), CalibrationError> {
        match self {
            Self::Memory(layers) => layers.push(inputs),
            Self::File(spilled) => spilled.push(&inputs)?,
        }
        Ok(())
    }

    /// Takes the top layer's inputs; none are left where there were none.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(super) fn pop(&mut self) -> Result<Vec<Tensor>, CalibrationError> {
        match self {
            Self::Memory(layers) => Ok(layers.pop().unwrap_or_default()),
            Self::File(spilled) => spilled.pop(),
        }
    }
}

impl Spilled {
    fn push(&mut self, inputs: &[Tensor]) -> Result<(), CalibrationError> {
        for input in inputs {
            let bytes: Vec<u8> = with_numbers(input, |x| x.iter().flat_map(|x| x.to_le_bytes()).collect())?;
            self.file.write_all(&bytes).map_err(|source| self.failed(source))?;
        }
        self.layers.push(inputs.iter().map(Tensor::dims2).collect::<Result<_, _>>()?);
        Ok(())
    }

    fn pop(&mut self) -> Result<Vec<Tensor>, CalibrationError> {
        let shapes = self.layers.pop().unwrap_or_default();
        let bytes: usize = shapes.iter().map(|(rows, columns)| rows * columns * 4).sum();
        let back = |file: &mut File| file.seek(SeekFrom::Current(-(bytes as i64)));
        let start = back(&mut self.file).map_err(|source| self.failed(source))?;
        let mut inputs = Vec::with_capacity(shapes.len());
        for (rows, columns) in shapes {
            let mut bytes = vec![0; rows * columns * 4];
            self.file.read_exact(&mut bytes).map_err(|source| self.failed(source))?;
            let numbers: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            inputs.push(Tensor::from_vec(numbers, (rows, columns), &Device::Cpu)?);
        }
        // What was read is not needed again, nor is its place on disk.
        let cut = |file: &mut File| file.set_len(start).and_then(|()| file.seek(SeekFrom::Start(start)));
        cut(&mut self.file).map_err(|source| self.failed(source))?;
        Ok(inputs)
    }

    fn failed(&self, source: std::io::Error) -> CalibrationError {
        CalibrationError::Spill { path: self.folder.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_last_comes_back_first_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let layer = |by: f32| -> Vec<Tensor> {
            let window = |w: usize| (0..6).map(|i| (w * 6 + i) as f32 * by).collect::<Vec<_>>();
            (0..3).map(|w| Tensor::from_vec(window(w), (2, 3), &Device::Cpu).unwrap()).collect()
        };
        let numbers = |layer: Vec<Tensor>| -> Vec<Vec<Vec<f32>>> { layer.iter().map(|t| t.to_vec2().unwrap()).collect() };
        let mut kept = Kept::new(Some(folder.path())).unwrap();
        for by in [0.1, f32::NAN, 0.3] {
            kept.push(layer(by)).unwrap();
        }
        assert_eq!(numbers(kept.pop().unwrap()), numbers(layer(0.3)));
        assert!(numbers(kept.pop().unwrap())[0][0][0].is_nan());
        kept.push(layer(0.7)).unwrap();
        assert_eq!(numbers(kept.pop().unwrap()), numbers(layer(0.7)));
        assert_eq!(numbers(kept.pop().unwrap()), numbers(layer(0.1)));
        assert!(kept.pop().unwrap().is_empty());
    }
}
