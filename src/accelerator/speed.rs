//! How fast a GPU multiplies matrices.

use super::{Accelerator, AcceleratorError};
use std::time::{Duration, Instant};

/// Rows, columns and terms of the products that are timed: each of twice the size of the one before, until one takes long
/// enough to tell.
const SIZES: [usize; 5] = [256, 512, 1024, 2048, 4096];

/// Seconds that tell.
const ENOUGH: f64 = 0.01;

/// For how long the largest is measured: a GPU that was idle is slow at first.
const WARMING: Duration = Duration::from_millis(300);

impl Accelerator {
    /// Operations a second of f32 products, measured now.
    ///
    /// # Errors
    /// As [`Accelerator::zeros`].
    pub fn speed(&self) -> Result<f64, AcceleratorError> {
        let seconds = |size: usize| -> Result<f64, AcceleratorError> {
            let (a, b) = (self.zeros(size, size)?, self.zeros(size, size)?);
            self.finish()?;
            let begin = Instant::now();
            drop(self.times_transposed(&a, &b)?);
            self.finish()?;
            Ok(begin.elapsed().as_secs_f64())
        };
        let mut speed: f64 = 0.0;
        for size in SIZES {
            // The driver compiles what this size takes.
            seconds(size)?;
            let mut least = seconds(size)?;
            let is_last = least >= ENOUGH || size == SIZES[SIZES.len() - 1];
            let begin = Instant::now();
            while is_last && begin.elapsed() < WARMING {
                least = least.min(seconds(size)?);
            }
            speed = 2.0 * (size as f64).powi(3) / least;
            if is_last {
                break;
            }
        }
        Ok(speed)
    }
}
