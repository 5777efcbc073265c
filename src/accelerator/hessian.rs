//! What becomes of a Hessian before it is used: see [`crate::quantize::Hessian`].

use super::memory::Counted;
use super::{Accelerator, AcceleratorError, Matrix, shader};
use bytemuck::{Pod, Zeroable};
use haikuq_runtime::device::Binding;

shader!(HESSIAN = "hessian");

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    columns: u32,
    pitch: u32,
    first: u32,
    rows: u32,
    keep: f32,
    padding: [u32; 3],
}

impl Accelerator {
    /// The diagonal of a square matrix.
    ///
    /// # Errors
    /// [`AcceleratorError::Gpu`] if the device failed.
    pub fn diagonal(&self, square: &Matrix) -> Result<Vec<f32>, AcceleratorError> {
        let diagonal = self.counted("diagonal", &vec![0.0f32; square.columns()])?;
        self.hessian(square, &diagonal, 1.0, false)?;
        self.flush();
        Ok(pollster::block_on(self.gpu.read(diagonal.buffer(), 0, square.columns()))?)
    }

    /// Takes the part `shrinkage` off all that is not on the diagonal of `square`, and adds `added` to the diagonal.
    ///
    /// # Errors
    /// [`AcceleratorError::Gpu`] if the device failed.
    ///
    /// # Panics
    /// If there are not as many numbers to be added as columns.
    pub fn shrink(&self, square: &mut Matrix, shrinkage: f32, added: &[f32]) -> Result<(), AcceleratorError> {
        assert_eq!(added.len(), square.columns());
        let added = self.counted("diagonal", added)?;
        self.hessian(square, &added, 1.0 - shrinkage, true)
    }

    fn hessian(&self, square: &Matrix, diagonal: &Counted, keep: f32, shrink: bool) -> Result<(), AcceleratorError> {
        assert_eq!(square.rows(), square.columns());
        for (rows, panel) in square.panels() {
            let params = Params {
                columns: square.columns() as u32,
                pitch: square.pitch() as u32,
                first: rows.start as u32,
                rows: rows.len() as u32,
                keep,
                padding: [0; 3],
            };
            let bindings = [(1, Binding::from(panel)), (2, diagonal.buffer().into())];
            let grid = [square.columns().div_ceil(256), rows.len().min(65_535), 1].map(|n| n as u32);
            self.run(&HESSIAN, &[("SHRINK", f64::from(u8::from(shrink)))], &params, &bindings, grid)?;
        }
        Ok(())
    }
}
