//! How fast a GPU multiplies matrices.

use super::{Accelerator, AcceleratorError};
use std::time::Instant;

/// Rows, columns and terms of the product that is timed.
const SIZE: usize = 2048;

/// Products that are timed, after one that is not.
const PRODUCTS: u32 = 3;

impl Accelerator {
    /// Operations a second of f32 products, measured now.
    ///
    /// # Errors
    /// As [`Accelerator::zeros`].
    pub fn speed(&self) -> Result<f64, AcceleratorError> {
        let (a, b) = (self.zeros(SIZE, SIZE)?, self.zeros(SIZE, SIZE)?);
        drop(self.times_transposed(&a, &b)?);
        self.finish()?;
        let begin = Instant::now();
        for _ in 0..PRODUCTS {
            drop(self.times_transposed(&a, &b)?);
        }
        self.finish()?;
        Ok(f64::from(PRODUCTS) * 2.0 * (SIZE as f64).powi(3) / begin.elapsed().as_secs_f64())
    }
}
