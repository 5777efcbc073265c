//! [`product`]: a matrix of weights times its input.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor};

/// `x` `[n, columns]` times `weight` `[rows, columns]` transposed: `[n, rows]`.
///
/// Gradients go through to `x` and not to `weight`, for which candle's own product would do a third of the work of a
/// backward pass for nothing.
pub(super) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.apply_op1(Product { weight: weight.clone() })
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
        let transposed = self.weight.t()?;
        let (weight, weight_layout) = transposed.storage_and_layout();
        let Storage::Cpu(weight) = &*weight else { candle_core::bail!("weights are not on the CPU") };
        if columns != needed {
            candle_core::bail!("an input of {columns} columns for a matrix of {needed}");
        }
        Ok((x.matmul(weight, (1, n, rows, columns), layout, weight_layout)?, (n, rows).into()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        gradient.matmul(&self.weight).map(Some)
    }
}
