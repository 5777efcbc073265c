//! How fast a GPU multiplies matrices.

use super::{Accelerator, AcceleratorError};
use std::time::Instant;

/// Rows, columns and terms of the products that are timed: each of twice the size of the one before, until one takes long
/// enough to tell.
const SIZES: [usize; 5] = [256, 512, 1024, 2048, 4096];

/// Seconds that tell.
const ENOUGH: f64 = 0.01;

impl Accelerator {
    /// Operations a second of f32 products, measured now.
    ///
    /// # Errors
    /// As [`Accelerator::zeros`].
    pub fn speed(&self) -> Result<f64, AcceleratorError> {
        let mut speed = 0.0;
        for size in SIZES {
            let (a, b) = (self.zeros(size, size)?, self.zeros(size, size)?);
            self.finish()?;
            let begin = Instant::now();
            drop(self.times_transposed(&a, &b)?);
            self.finish()?;
            let seconds = begin.elapsed().as_secs_f64();
            speed = 2.0 * (size as f64).powi(3) / seconds;
            if seconds >= ENOUGH {
                break;
            }
        }
        Ok(speed)
    }
}
