//! Gates on the outputs of attention's heads, with gradients.

use super::numbers::{numbers, with_numbers};
use crate::exponentials::sigmoid;
use crate::zeros::zeros;
use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// `x σ(gate)`: each gate of `gates` `[n, m]` serves `columns / m` numbers of `x` `[n, columns]` that lie side by side.
pub(super) fn gated_heads(x: &Tensor, gates: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&gates.contiguous()?, Gates)
}

struct Gates;

impl CustomOp2 for Gates {
    fn name(&self) -> &'static str {
        "gates of heads"
    }

    fn cpu_fwd(&self, x: &CpuStorage, of_x: &Layout, gates: &CpuStorage, of_gates: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((rows, columns), (_, m)) = (of_x.shape().dims2()?, of_gates.shape().dims2()?);
        let (x, mut gates) = (numbers(x, of_x)?, numbers(gates, of_gates)?.to_vec());
        sigmoid(&mut gates);
        let mut out = zeros(rows * columns);
        out.par_chunks_mut(columns / m).zip(x.par_chunks(columns / m)).zip(&gates).for_each(|((out, x), by)| {
            out.iter_mut().zip(x).for_each(|(y, x)| *y = x * by);
        });
        Ok((CpuStorage::F32(out), (rows, columns).into()))
    }

    fn bwd(&self, x: &Tensor, gates: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (columns, m) = (x.dim(1)?, gates.dim(1)?);
        let (mut of_x, mut of_gates) = (zeros(x.elem_count()), zeros(gates.elem_count()));
        with_numbers(x, |x| {
            with_numbers(gates, |gates| {
                with_numbers(&gradient.contiguous()?, |gradient| {
                    let mut gates = gates.to_vec();
                    sigmoid(&mut gates);
                    let shares = of_x.par_chunks_mut(columns / m).zip(&mut of_gates).zip(&gates).enumerate();
                    shares.for_each(|(i, ((of_x, of_gate), &by))| {
                        let first = i * (columns / m);
                        let (x, gradient) = (&x[first..][..of_x.len()], &gradient[first..][..of_x.len()]);
                        of_x.iter_mut().zip(gradient).for_each(|(of_x, g)| *of_x = g * by);
                        *of_gate = by * (1.0 - by) * x.iter().zip(gradient).map(|(x, g)| x * g).sum::<f32>();
                    });
                    Result::Ok(())
                })
            })
        })????;
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), &Device::Cpu).map(Some);
        Ok((tensor(of_x, x)?, tensor(of_gates, gates)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;
    use haikuq_runtime::sampling::uniform;

    fn random(seed: u64, n: usize) -> Vec<f32> {
        (0..n as u64).map(|i| 4.0 * uniform(seed, i) - 2.0).collect()
    }

    #[test]
    fn gradients_are_those_of_small_changes() {
        const ROWS: usize = 3;
        for (columns, m) in [(6, 2), (5, 5)] {
            let weights = random(3, ROWS * columns);
            let tensor = |values: &[f32], columns: usize| Tensor::from_slice(values, (ROWS, columns), &Device::Cpu).unwrap();
            let loss = |x: &[f32], gates: &[f32]| -> f64 {
                let y =
                    gated_heads(&tensor(x, columns), &tensor(gates, m)).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                y.iter().zip(&weights).map(|(y, w)| f64::from(*y) * f64::from(*w)).sum()
            };
            let (x, gates) = (random(1, ROWS * columns), random(2, ROWS * m));
            let vars = (Var::from_tensor(&tensor(&x, columns)).unwrap(), Var::from_tensor(&tensor(&gates, m)).unwrap());
            let total = (gated_heads(&vars.0, &vars.1).unwrap() * tensor(&weights, columns)).unwrap().sum_all().unwrap();
            let found = total.backward().unwrap();
            let numbers = |var: &Var| found.get(var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let moved = |values: &[f32], i: usize, by: f32| {
                let mut moved = values.to_vec();
                moved[i] += by;
                moved
            };
            for (i, found) in numbers(&vars.0).iter().enumerate() {
                let expected = (loss(&moved(&x, i, 1e-2), &gates) - loss(&moved(&x, i, -1e-2), &gates)) / 2e-2;
                assert!((f64::from(*found) - expected).abs() < 1e-3, "x {i}: {found} against {expected}");
            }
            for (i, found) in numbers(&vars.1).iter().enumerate() {
                let expected = (loss(&x, &moved(&gates, i, 1e-2)) - loss(&x, &moved(&gates, i, -1e-2))) / 2e-2;
                assert!((f64::from(*found) - expected).abs() < 1e-3, "gate {i}: {found} against {expected}");
            }
        }
    }
}
