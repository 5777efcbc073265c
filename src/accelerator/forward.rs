//! What a layer does beside products: norms, rotations, activations and sums, as `golden/reference` does them.

use super::{Accelerator, AcceleratorError, Matrix, shader};
use bytemuck::{Pod, Zeroable};
use haikuq_format::spec::{Activation, Norm};
use haikuq_runtime::device::{Binding, grid_1d};

shader!(COMBINE = "combine");
shader!(GATE = "gate");
shader!(NORM = "norm");
shader!(ROPE = "rope");

/// Heads that lie side by side in the rows of a matrix.
#[derive(Clone, Copy, Debug)]
pub struct HeadColumns {
    /// Column of the first one.
    pub first: usize,
    /// How many.
    pub heads: usize,
    /// Numbers of each.
    pub width: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct NormParams {
    count: u32,
    heads: u32,
    width: u32,
    pitch: u32,
    first: u32,
    epsilon: f32,
    gain_pitch: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct CombineParams {
    rows: u32,
    width: u32,
    a: f32,
    b: f32,
}

impl Accelerator {
    /// The same numbers again.
    ///
    /// # Errors
    /// As [`Accelerator::zeros`].
    pub fn copy(&self, matrix: &Matrix) -> Result<Matrix, AcceleratorError> {
        let copy = self.unwritten(matrix.rows(), matrix.columns())?;
        self.flush();
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        for ((_, from), (_, to)) in matrix.panels().zip(copy.panels()) {
            encoder.copy_buffer_to_buffer(from, 0, to, 0, from.size());
        }
        self.gpu.queue.submit([encoder.finish()]);
        Ok(copy)
    }

    /// `x = a x + b y` of matrices of one size.
    ///
    /// # Errors
    /// [`AcceleratorError::Gpu`] if the device failed.
    ///
    /// # Panics
    /// If sizes differ.
    pub fn combine(&self, x: &mut Matrix, a: f32, y: &Matrix, b: f32) -> Result<(), AcceleratorError> {
        assert_eq!((x.rows(), x.columns()), (y.rows(), y.columns()));
        let width = (x.pitch() / 4) as u32;
        for ((rows, to), (_, from)) in x.panels().zip(y.panels()) {
            let params = CombineParams { rows: rows.len() as u32, width, a, b };
            let bindings = [(1, Binding::from(from)), (2, to.into())];
            self.run(&COMBINE, &[], &params, &bindings, grid_1d((rows.len() as u32 * width).div_ceil(256)))?;
        }
        Ok(())
    }

    /// Adds `bias` to every row of `x`.
    ///
    /// # Errors
    /// [`AcceleratorError::Gpu`] if the device failed.
    ///
    /// # Panics
    /// If there are not as many biases as columns.
    pub fn add_bias(&self, x: &mut Matrix, bias: &[f32]) -> Result<(), AcceleratorError> {
        let row = self.upload(bias, x.columns())?;
        let width = (x.pitch() / 4) as u32;
        for (rows, panel) in x.panels() {
            let params = CombineParams { rows: rows.len() as u32, width, a: 1.0, b: 1.0 };
            let bindings = [(1, Binding::from(row.panel_of(0).1)), (2, panel.into())];
            self.run(&COMBINE, &[("ROW", 1.0)], &params, &bindings, grid_1d((rows.len() as u32 * width).div_ceil(256)))?;
        }
        Ok(())
    }

    /// Normalizes each of `heads` in the rows of `x` by itself. There are gains (and biases) for one head, which all share,
    /// or for all of them.
    ///
    /// # Errors
    /// [`AcceleratorError::Gpu`] if the device failed.
    ///
    /// # Panics
    /// If there are others, or the heads lie beyond the last column.
    pub fn norm(
        &self,
        x: &mut Matrix,
        heads: HeadColumns,
        norm: Norm,
        gain: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<(), AcceleratorError> {
        let HeadColumns { first, heads, width } = heads;
        assert!(gain.len() == width || gain.len() == heads * width, "{} gains for {heads} × {width} numbers", gain.len());
        assert!(first + heads * width <= x.columns() && bias.is_none_or(|b| b.len() == gain.len()));
        let zeros = vec![0.0; gain.len()];
        let (gains, bias) = (self.counted("gain", gain)?, self.counted("bias", bias.unwrap_or(&zeros))?);
        for (rows, panel) in x.panels() {
            let params = NormParams {
                count: (rows.len() * heads) as u32,
                heads: heads as u32,
                width: width as u32,
                pitch: x.pitch() as u32,
                first: first as u32,
                epsilon: norm.epsilon,
                gain_pitch: if gain.len() == width { 0 } else { width as u32 },
                padding: 0,
            };
            let bindings = [(1, Binding::from(gains.buffer())), (2, bias.buffer().into()), (3, panel.into())];
            let constants = [("CENTRED", f64::from(u8::from(norm.kind.is_centred())))];
            self.run(&NORM, &constants, &params, &bindings, grid_1d((rows.len() * heads) as u32))?;
        }
        Ok(())
    }

    /// Rotates `heads` of the rows of `x`, which are windows of `length` positions each. `angles` are cosine and sine of each
    /// position and pair of dimensions, one after the other.
    ///
    /// # Errors
    /// [`AcceleratorError::Gpu`] if the device failed.
    ///
    /// # Panics
    /// If there are no angles for each position, or more pairs than dimensions.
    pub fn rotate(&self, x: &mut Matrix, heads: HeadColumns, length: usize, angles: &[[f32; 2]]) -> Result<(), AcceleratorError> {
        let pairs = angles.len() / length;
        assert!(angles.len() == pairs * length && 2 * pairs <= heads.width);
        let angles = self.counted("angles", angles)?;
        for (rows, panel) in x.panels() {
            assert!(rows.start.is_multiple_of(length), "windows lie in one buffer");
            let params = [rows.len(), heads.heads, pairs, heads.width, x.pitch(), heads.first, length, 0].map(|n| n as u32);
            let bindings = [(1, Binding::from(angles.buffer())), (2, panel.into())];
            self.run(&ROPE, &[], &params, &bindings, grid_1d(rows.len() as u32))?;
        }
        Ok(())
    }

    /// Activations of `x`; if it is `gated`, whose columns are those of gate and up in turn, `activation(gate) · up`.
    ///
    /// # Errors
    /// As [`Accelerator::zeros`].
    pub fn activate(&self, x: &Matrix, activation: Activation, gated: bool) -> Result<Matrix, AcceleratorError> {
        let columns = if gated { x.columns() / 2 } else { x.columns() };
        let out = self.unwritten(x.rows(), columns)?;
        let number = match activation {
            Activation::Silu => 0.0,
            Activation::Gelu => 1.0,
            Activation::GeluTanh => 2.0,
            Activation::ClampedSwiglu => 3.0,
            Activation::Relu2 => 4.0,
        };
        let constants = [("ACTIVATION", number), ("GATED", f64::from(u8::from(gated)))];
        Self::for_common_rows(x, &out, |_, rows, [from, to]| {
            let params = [rows, columns, x.pitch(), out.pitch()].map(|n| n as u32);
            let grid = [columns.div_ceil(256), rows.min(65_535), 1].map(|n| n as u32);
            self.run(&GATE, &constants, &params, &[(1, from), (2, to)], grid)
        })?;
        Ok(out)
    }
}
