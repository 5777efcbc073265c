//! Activations of all tokens: in the GPU's memory, or in the processor's, of which the GPU gets some windows at a time.

use crate::accelerator::{Accelerator, AcceleratorError, Matrix};
use std::ops::Range;

/// Activations `[tokens, columns]`.
pub(super) enum Held {
    /// All of them.
    OnGpu(Matrix),
    /// Row-major.
    OnHost(Vec<f32>),
}

impl Held {
    /// In the GPU's memory.
    pub(super) fn on_gpu(self, gpu: &Accelerator, columns: usize) -> Result<Matrix, AcceleratorError> {
        match self {
            Self::OnGpu(matrix) => Ok(matrix),
            Self::OnHost(numbers) => gpu.upload(&numbers, columns),
        }
    }

    /// In the processor's.
    pub(super) fn on_host(self, gpu: &Accelerator) -> Result<Vec<f32>, AcceleratorError> {
        match self {
            Self::OnGpu(matrix) => gpu.download(&matrix),
            Self::OnHost(numbers) => Ok(numbers),
        }
    }

    /// A copy of the numbers.
    pub(super) fn numbers(&self, gpu: &Accelerator) -> Result<Vec<f32>, AcceleratorError> {
        match self {
            Self::OnGpu(matrix) => gpu.download(matrix),
            Self::OnHost(numbers) => Ok(numbers.clone()),
        }
    }
}

/// Activations that are read.
#[derive(Clone, Copy)]
pub(super) enum Tokens<'a> {
    OnGpu(&'a Matrix),
    OnHost { numbers: &'a [f32], columns: usize, at_once: usize },
}

impl Tokens<'_> {
    /// How many.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::OnGpu(matrix) => matrix.rows(),
            Self::OnHost { numbers, columns, .. } => numbers.len() / columns,
        }
    }

    /// Numbers of each.
    pub(super) fn columns(&self) -> usize {
        match self {
            Self::OnGpu(matrix) => matrix.columns(),
            Self::OnHost { columns, .. } => *columns,
        }
    }

    /// Calls `f` with all, part by part.
    fn each(
        &self,
        gpu: &Accelerator,
        mut f: impl FnMut(Range<usize>, &Matrix) -> Result<(), AcceleratorError>,
    ) -> Result<(), AcceleratorError> {
        match *self {
            Self::OnGpu(matrix) => f(0..matrix.rows(), matrix),
            Self::OnHost { numbers, columns, at_once } => {
                for (i, part) in numbers.chunks(at_once * columns).enumerate() {
                    let first = i * at_once;
                    f(first..first + part.len() / columns, &gpu.upload(part, columns)?)?;
                }
                Ok(())
            }
        }
    }

    /// The mean of `x xᵀ`.
    pub(super) fn gram(&self, gpu: &Accelerator) -> Result<Matrix, AcceleratorError> {
        if let Self::OnGpu(matrix) = self {
            return gpu.gram(matrix);
        }
        let (scale, mut sum) = (1.0 / self.count() as f32, gpu.zeros(self.columns(), self.columns())?);
        self.each(gpu, |_, x| gpu.add_cross(x, x, scale, &mut sum))?;
        Ok(sum)
    }

    /// The mean of `y xᵀ`, where `y` are as many others, of `columns` numbers each, that lie in the same place. If they are to
    /// be `mixed`, `a y + b x` takes the place of `y`.
    ///
    /// # Panics
    /// If they lie elsewhere.
    pub(super) fn cross(
        &self,
        gpu: &Accelerator,
        y: Held,
        columns: usize,
        mixed: Option<(f32, f32)>,
    ) -> Result<Matrix, AcceleratorError> {
        let mix = |y: &mut Matrix, x: &Matrix| mixed.map_or(Ok(()), |(a, b)| gpu.combine(y, a, x, b));
        match (self, y) {
            (Self::OnGpu(x), Held::OnGpu(mut y)) => {
                mix(&mut y, x)?;
                gpu.cross(&y, x)
            }
            (Self::OnHost { .. }, Held::OnHost(y)) => {
                let (scale, mut sum) = (1.0 / self.count() as f32, gpu.zeros(columns, self.columns())?);
                self.each(gpu, |range, x| {
                    let mut y = gpu.upload(&y[range.start * columns..range.end * columns], columns)?;
                    mix(&mut y, x)?;
                    gpu.add_cross(&y, x, scale, &mut sum)
                })?;
                Ok(sum)
            }
            _ => panic!("some activations on the GPU, some not"),
        }
    }

    /// The numbers of some.
    pub(super) fn read(&self, gpu: &Accelerator, range: Range<usize>, out: &mut Vec<f32>) -> Result<(), AcceleratorError> {
        let columns = self.columns();
        match self {
            Self::OnGpu(matrix) => {
                let from = out.len();
                out.resize(from + range.len() * columns, 0.0);
                gpu.read(matrix, range.start, &mut out[from..])
            }
            Self::OnHost { numbers, .. } => {
                out.extend_from_slice(&numbers[range.start * columns..range.end * columns]);
                Ok(())
            }
        }
    }
}
