//! [`Kept`]: activations from when they are computed until they are needed, in memory or on disk.

use crate::reference::with_numbers;
use crate::zeros::zeros;
use candle_core::{Device, Tensor};
use haikuq_files::little_endian;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What stops keeping.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeptError {
    /// The folder for what is not kept in memory cannot be used.
    #[error("cannot keep activations in {}: {source}", path.display())]
    Spill {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Tensor arithmetic failed: a bug, or no memory.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// A stack of activations, some tensors `[rows, columns]` a time, in memory or in a file.
pub enum Kept {
    /// In memory.
    Memory(Vec<Vec<Tensor>>),
    /// On disk.
    File(Spilled),
}

/// Activations as little-endian numbers, one after the other. The file has no name (or, on systems where that cannot be, is
/// removed when it is closed), so that nothing of it stays whatever ends the program.
pub struct Spilled {
    folder: PathBuf,
    file: File,
    /// Shapes of each time's tensors.
    layers: Vec<Vec<(usize, usize)>>,
}

impl Kept {
    /// In memory, or in a file within `folder`.
    ///
    /// # Errors
    /// If no file can be made there.
    pub fn new(folder: Option<&Path>) -> Result<Self, KeptError> {
        let Some(folder) = folder else { return Ok(Self::Memory(Vec::new())) };
        let file = tempfile::tempfile_in(folder).map_err(|source| KeptError::Spill { path: folder.into(), source })?;
        Ok(Self::File(Spilled { folder: folder.into(), file, layers: Vec::new() }))
    }

    /// One tensor.
    ///
    /// # Errors
    /// As [`Kept::new`] and [`Kept::push`].
    pub fn of(folder: Option<&Path>, tensor: Tensor) -> Result<Self, KeptError> {
        let mut kept = Self::new(folder)?;
        kept.push(vec![tensor])?;
        Ok(kept)
    }

    /// The rows of all tensors, in the order in which they were put there.
    ///
    /// # Errors
    /// As [`Kept::pop`].
    pub fn take(mut self) -> Result<Tensor, KeptError> {
        let mut parts = Vec::new();
        loop {
            match self.pop()? {
                some if some.is_empty() => break,
                some => parts.extend(some.into_iter().rev()),
            }
        }
        parts.reverse();
        Ok(if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 0)? })
    }

    /// Puts tensors on top.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn push(&mut self, inputs: Vec<Tensor>) -> Result<(), KeptError> {
        match self {
            Self::Memory(layers) => layers.push(inputs),
            Self::File(spilled) => spilled.push(&inputs)?,
        }
        Ok(())
    }

    /// Takes those on top; none are left where there were none.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn pop(&mut self) -> Result<Vec<Tensor>, KeptError> {
        match self {
            Self::Memory(layers) => Ok(layers.pop().unwrap_or_default()),
            Self::File(spilled) => spilled.pop(),
        }
    }
}

impl Spilled {
    fn push(&mut self, inputs: &[Tensor]) -> Result<(), KeptError> {
        for input in inputs {
            let write = |x: &[f32]| self.file.write_all(&little_endian(bytemuck::cast_slice(x)));
            with_numbers(input, write)?.map_err(|source| self.failed(source))?;
        }
        self.layers.push(inputs.iter().map(Tensor::dims2).collect::<Result<_, _>>()?);
        Ok(())
    }

    fn pop(&mut self) -> Result<Vec<Tensor>, KeptError> {
        let shapes = self.layers.pop().unwrap_or_default();
        let bytes: usize = shapes.iter().map(|(rows, columns)| rows * columns * 4).sum();
        let back = |file: &mut File| file.seek(SeekFrom::Current(-(bytes as i64)));
        let start = back(&mut self.file).map_err(|source| self.failed(source))?;
        let mut inputs = Vec::with_capacity(shapes.len());
        for (rows, columns) in shapes {
            let mut numbers: Vec<f32> = zeros(rows * columns);
            let bytes = bytemuck::cast_slice_mut::<f32, u8>(&mut numbers);
            self.file.read_exact(bytes).map_err(|source| self.failed(source))?;
            if cfg!(target_endian = "big") {
                bytes.as_chunks_mut::<4>().0.iter_mut().for_each(|b| b.reverse());
            }
            inputs.push(Tensor::from_vec(numbers, (rows, columns), &Device::Cpu)?);
        }
        // These numbers are not needed again, nor is their place on disk.
        let cut = |file: &mut File| file.set_len(start).and_then(|()| file.seek(SeekFrom::Start(start)));
        cut(&mut self.file).map_err(|source| self.failed(source))?;
        Ok(inputs)
    }

    fn failed(&self, source: std::io::Error) -> KeptError {
        KeptError::Spill { path: self.folder.clone(), source }
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
        let numbers = |layer: Vec<Tensor>| -> Vec<Vec<Vec<u32>>> {
            let bits =
                |t: &Tensor| t.to_vec2::<f32>().unwrap().iter().map(|row| row.iter().map(|x| x.to_bits()).collect()).collect();
            layer.iter().map(bits).collect()
        };
        let mut kept = Kept::new(Some(folder.path())).unwrap();
        for by in [0.1, f32::NAN, 0.3] {
            kept.push(layer(by)).unwrap();
        }
        assert_eq!(numbers(kept.pop().unwrap()), numbers(layer(0.3)));
        assert_eq!(numbers(kept.pop().unwrap()), numbers(layer(f32::NAN)));
        kept.push(layer(0.7)).unwrap();
        assert_eq!(numbers(kept.pop().unwrap()), numbers(layer(0.7)));
        assert_eq!(numbers(kept.pop().unwrap()), numbers(layer(0.1)));
        assert!(kept.pop().unwrap().is_empty());
        for folder in [None, Some(folder.path())] {
            let mut kept = Kept::new(folder).unwrap();
            (0..3).for_each(|i| kept.push(layer(i as f32)[..2].to_vec()).unwrap());
            let rows = numbers(vec![kept.take().unwrap()]).remove(0);
            let expected: Vec<Vec<u32>> = (0..3).flat_map(|i| numbers(layer(i as f32)[..2].to_vec()).concat()).collect();
            assert_eq!(rows, expected);
        }
    }
}
