//! Rows and columns taken apart and put together.

use super::numbers::{numbers, with_numbers};
use crate::zeros::zeros;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Rows that a thread takes at a time.
const ROWS: usize = 16;

/// Every second column of `x` `[n, columns]`, from `first` on: `[n, columns / 2]`.
pub(super) fn every_second(x: &Tensor, first: usize) -> Result<Tensor> {
    x.contiguous()?.apply_op1(EverySecond { first })
}

struct EverySecond {
    first: usize,
}

impl CustomOp1 for EverySecond {
    fn name(&self) -> &'static str {
        "every second column"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((n, columns), x) = (layout.shape().dims2()?, numbers(x, layout)?);
        let mut out = zeros(n * (columns / 2));
        let parts = out.par_chunks_mut(ROWS * (columns / 2)).zip(x.par_chunks(ROWS * columns));
        parts.for_each(|(out, x)| {
            let (pairs, _) = x.as_chunks::<2>();
            out.iter_mut().zip(pairs).for_each(|(y, pair)| *y = pair[self.first]);
        });
        Ok((CpuStorage::F32(out), (n, columns / 2).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let mut out = zeros(x.elem_count());
        with_numbers(&gradient.contiguous()?, |gradient| {
            let (pairs, _) = out.as_chunks_mut::<2>();
            pairs.iter_mut().zip(gradient).for_each(|(pair, g)| pair[self.first] = *g);
        })?;
        Ok(Some(Tensor::from_vec(out, x.shape(), &Device::Cpu)?))
    }
}

/// The rows of all `parts`, each `[_, columns]`, one after the other. Gradients do not go through several.
pub(super) fn stacked(mut parts: Vec<Tensor>) -> Result<Tensor> {
    if parts.len() == 1 {
        return Ok(parts.remove(0));
    }
    let sizes = parts.iter().map(Tensor::dims2).collect::<Result<Vec<_>>>()?;
    let (rows, columns) = (sizes.iter().map(|s| s.0).sum::<usize>(), sizes.first().map_or(0, |s| s.1));
    let mut out = zeros(rows * columns);
    let mut rest = &mut out[..];
    for part in parts {
        let (to, later) = rest.split_at_mut(part.elem_count());
        with_numbers(&part.contiguous()?, |part| {
            to.par_chunks_mut(1 << 16).zip(part.par_chunks(1 << 16)).for_each(|(to, from)| to.copy_from_slice(from));
        })?;
        rest = later;
    }
    Tensor::from_vec(out, (rows, columns), &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_take_turns_and_parts_keep_their_order() {
        let x = Tensor::new(&[[0.0f32, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]], &Device::Cpu).unwrap();
        let (even, odd) = (every_second(&x, 0).unwrap(), every_second(&x, 1).unwrap());
        assert_eq!(even.to_vec2::<f32>().unwrap(), [[0.0, 2.0], [4.0, 6.0]]);
        let both = stacked(vec![odd, even]).unwrap();
        assert_eq!(both.to_vec2::<f32>().unwrap(), [[1.0, 3.0], [5.0, 7.0], [0.0, 2.0], [4.0, 6.0]]);
    }
}
