//! [`Factor`]: a matrix of weights that is multiplied with inputs, on the processor, exactly or in integers, or on the GPU.

use super::numbers::{numbers, with_numbers};
use crate::accelerator::{Accelerator, AcceleratorError, Matrix};
use crate::matmul::integers::PackedWeights;
use crate::matmul::{times, times_transposed};
use crate::zeros::zeros;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};

/// A GPU that computes products for as long as it can; after that the processor does.
///
/// Threads that ask take turns. They wait for theirs, and for the product, without doing anything else: a thread of rayon's
/// that waits as rayon does might begin a task that asks too, and wait for itself. So transfers have threads of their own.
pub struct GpuProducts {
    accelerator: Arc<Accelerator>,
    turn: Mutex<()>,
    transfers: ThreadPool,
    failure: OnceLock<AcceleratorError>,
}

impl GpuProducts {
    /// Products on `accelerator`.
    ///
    /// # Errors
    /// If the system gives no threads.
    pub fn new(accelerator: Arc<Accelerator>) -> std::result::Result<Arc<Self>, ThreadPoolBuildError> {
        let transfers = ThreadPoolBuilder::new().num_threads(rayon::current_num_threads()).build()?;
        Ok(Arc::new(Self { accelerator, turn: Mutex::default(), transfers, failure: OnceLock::new() }))
    }

    /// Why the processor computes some products or all, if it does.
    pub fn failure(&self) -> Option<&AcceleratorError> {
        self.failure.get()
    }

    /// Whether there is no use in asking again; where one matrix had no room, others may.
    fn is_lost(&self) -> bool {
        !matches!(self.failure(), None | Some(AcceleratorError::Memory { .. }))
    }

    fn attempt<T: Send>(&self, f: impl FnOnce(&Accelerator) -> std::result::Result<T, AcceleratorError> + Send) -> Option<T> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_lost() {
            return None;
        }
        let result = self.transfers.in_place_scope(|scope| {
            let (done, result) = mpsc::sync_channel(1);
            // Nobody waits for what a panic keeps from being sent; the scope hands the panic on.
            scope.spawn(move |_| drop(done.send(f(&self.accelerator))));
            let result = result.recv().ok();
            drop(turn);
            result
        });
        result?.map_err(|error| self.failure.set(error)).ok()
    }
}

/// A matrix of weights in the GPU's memory.
struct OnGpu {
    products: Arc<GpuProducts>,
    matrix: Matrix,
}

/// A matrix of weights `[rows, columns]` that inputs are multiplied with.
#[derive(Clone)]
pub(super) struct Factor {
    weight: Tensor,
    in_integers: Option<Arc<PackedWeights>>,
    on_gpu: Option<Arc<OnGpu>>,
}

impl From<Tensor> for Factor {
    fn from(weight: Tensor) -> Self {
        Self { weight, in_integers: None, on_gpu: None }
    }
}

impl Factor {
    /// The weights.
    pub(super) fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Others of their shape in the weights' place; products are computed as with these.
    pub(super) fn with_weight(&self, weight: Tensor) -> Result<Self> {
        let mut factor = Self::from(weight);
        if self.in_integers.is_some() {
            factor.use_integers(false)?;
        }
        Ok(factor)
    }

    /// Has products computed in integers where the processor computes them ([`crate::matmul::integers`]), and `gradients` of them.
    pub(super) fn use_integers(&mut self, gradients: bool) -> Result<()> {
        let columns = self.weight.dims2()?.1;
        let packed = with_numbers(&self.weight, |weight| PackedWeights::new(weight, columns, gradients))?;
        self.in_integers = Some(Arc::new(packed));
        Ok(())
    }

    /// Puts the weights on the GPU too, if they fit.
    pub(super) fn put_on(&mut self, products: &Arc<GpuProducts>) -> Result<()> {
        let columns = self.weight.dims2()?.1;
        let upload = |weight: &[f32]| products.attempt(|accelerator| accelerator.upload(weight, columns));
        let matrix = with_numbers(&self.weight, upload)?;
        self.on_gpu = matrix.map(|matrix| Arc::new(OnGpu { products: products.clone(), matrix }));
        Ok(())
    }

    /// `x` `[n, columns]` times the weights transposed: `[n, rows]`.
    ///
    /// Gradients go through to `x` and not to the weights, for which candle's own product would do a third of the work of a
    /// backward pass for nothing.
    pub(super) fn product(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1(Product { factor: self.clone() })
    }

    /// The gradient with respect to `x` of a product, of that with respect to its result.
    pub(super) fn gradient(&self, gradient: &Tensor) -> Result<Tensor> {
        let ((n, rows), (_, columns)) = (gradient.dims2()?, self.weight.dims2()?);
        let gradient = gradient.contiguous()?;
        let on_gpu = |g: &[f32]| self.on_gpu(g, rows, Accelerator::times);
        let of_x = match with_numbers(&gradient, on_gpu)? {
            Some(of_x) => of_x,
            None => with_numbers(&gradient, |g| {
                with_numbers(&self.weight, |weight| match &self.in_integers {
                    Some(packed) => packed.times(g, weight, rows),
                    None => times(g, weight, rows),
                })
            })??,
        };
        Tensor::from_vec(of_x, (n, columns), &Device::Cpu)
    }

    /// A product of `x`, whose rows have `columns` numbers, with the weights on the GPU.
    fn on_gpu(
        &self,
        x: &[f32],
        columns: usize,
        product: impl FnOnce(&Accelerator, &Matrix, &Matrix) -> std::result::Result<Matrix, AcceleratorError> + Send,
    ) -> Option<Vec<f32>> {
        let OnGpu { products, matrix } = self.on_gpu.as_deref()?;
        products.attempt(|accelerator| {
            let x = accelerator.upload(x, columns)?;
            let out = product(accelerator, &x, matrix)?;
            let mut numbers = zeros(out.rows() * out.columns());
            accelerator.read(&out, 0, &mut numbers)?;
            Ok(numbers)
        })
    }
}

struct Product {
    factor: Factor,
}

impl CustomOp1 for Product {
    fn name(&self) -> &'static str {
        "product with weights"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((n, columns), (rows, needed)) = (layout.shape().dims2()?, self.factor.weight.dims2()?);
        if columns != needed {
            candle_core::bail!("an input of {columns} columns for a matrix of {needed}");
        }
        let x = numbers(x, layout)?;
        let y = match self.factor.on_gpu(x, columns, Accelerator::times_transposed) {
            Some(y) => y,
            None => with_numbers(&self.factor.weight, |weight| match &self.factor.in_integers {
                Some(packed) => packed.times_transposed(x, weight, columns),
                None => times_transposed(x, weight, columns),
            })?,
        };
        Ok((CpuStorage::F32(y), (n, rows).into()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        self.factor.gradient(gradient).map(Some)
    }
}
