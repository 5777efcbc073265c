//! [`split`]: the columns of a projection as heads.

use super::numbers::{numbers, with_numbers};
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};

/// Columns from `first` on of `x` `[positions, columns]`, as `[heads, positions, width]`.
pub(super) fn split(x: &Tensor, first: usize, heads: usize, width: usize) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Split { first, heads, width })
}

struct Split {
    first: usize,
    heads: usize,
    width: usize,
}

impl CustomOp1 for Split {
    fn name(&self) -> &'static str {
        "split into heads"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((positions, columns), x) = (layout.shape().dims2()?, numbers(x, layout)?);
        let mut out = Vec::with_capacity(self.heads * positions * self.width);
        for head in 0..self.heads {
            let first = self.first + head * self.width;
            x.chunks_exact(columns).for_each(|row| out.extend_from_slice(&row[first..first + self.width]));
        }
        Ok((CpuStorage::F32(out), (self.heads, positions, self.width).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (positions, columns) = x.dims2()?;
        let mut out = vec![0.0; positions * columns];
        with_numbers(&gradient.contiguous()?, |gradient| {
            for (head, of_head) in gradient.chunks_exact(positions * self.width).enumerate() {
                let first = self.first + head * self.width;
                for (row, of_row) in out.chunks_exact_mut(columns).zip(of_head.chunks_exact(self.width)) {
                    row[first..first + self.width].copy_from_slice(of_row);
                }
            }
        })?;
        Ok(Some(Tensor::from_vec(out, (positions, columns), &Device::Cpu)?))
    }
}
