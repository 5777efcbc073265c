//! [`product`]: a matrix of weights times its input.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor};

/// `x` `[n, columns]` times `weight` `[rows, columns]` transposed: `[n, rows]`.
///
/// Gradients go through to `x` and not to `weight`, for which candle's own product would do a third of the work of a
/// backward pass for nothing.
pub(super) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Product { weight: weight.clone() })
}

struct Product {
    weight: Tensor,
}

impl CustomOp1 for Product {
    fn name(&self) -> &'static str {
        "product with weights"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((n, columns), (rows, needed)) = (layout.shape().dims2()?, self.weight.dims2()?);
        let (weight, weight_layout) = self.weight.storage_and_layout();
        let Storage::Cpu(CpuStorage::F32(weight)) = &*weight else { candle_core::bail!("weights are not f32 on the CPU") };
        let (Some((start, end)), Some((first, last)), CpuStorage::F32(x)) =
            (layout.contiguous_offsets(), weight_layout.contiguous_offsets(), x)
        else {
            candle_core::bail!("a product needs contiguous f32 numbers");
        };
        if columns != needed {
            candle_core::bail!("an input of {columns} columns for a matrix of {needed}");
        }
        let y = crate::matmul::times_transposed(&x[start..end], &weight[first..last], columns);
        Ok((CpuStorage::F32(y), (n, rows).into()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        gradient.matmul(&self.weight).map(Some)
    }
}
