//! [`product`]: a matrix of weights times its input.

use super::numbers::{numbers, with_numbers};
use crate::matmul::{times, times_transposed};
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};

/// `x` `[n, columns]` times `weight` `[rows, columns]` transposed: `[n, rows]`.
///
/// Gradients go through to `x` and not to `weight`, for which candle's own product would do a third of the work of a
/// backward pass for nothing.
pub(super) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Product { weight: weight.clone() })
}

/// The gradient with respect to `x` of a [`product`], of that with respect to its result.
pub(super) fn product_gradient(gradient: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let ((n, rows), (_, columns)) = (gradient.dims2()?, weight.dims2()?);
    let gradient = gradient.contiguous()?;
    let of_x = with_numbers(&gradient, |g| with_numbers(weight, |w| times(g, w, rows)))??;
    Tensor::from_vec(of_x, (n, columns), &Device::Cpu)
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
        if columns != needed {
            candle_core::bail!("an input of {columns} columns for a matrix of {needed}");
        }
        let x = numbers(x, layout)?;
        let y = with_numbers(&self.weight, |weight| times_transposed(x, weight, columns))?;
        Ok((CpuStorage::F32(y), (n, rows).into()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        product_gradient(gradient, &self.weight).map(Some)
    }
}
