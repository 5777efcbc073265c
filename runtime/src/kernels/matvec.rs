//! Matrix times the activations of one to eight tokens: decode.

use super::projection::{Output, Projection};
use crate::device::{Binding, Dispatch, Flag, Gpu, GpuError, Kernel, grid_1d};

super::shader!(MATVEC = "matvec");

/// Most tokens of a [`Matvec`].
pub const MAX_TOKENS: usize = 8;

/// `y[t] = output(W norm(x[t]) + bias)` for 1 to [`MAX_TOKENS`] tokens.
///
/// A token's output is the same, bit for bit, whatever the number of tokens.
#[derive(Clone, Debug)]
pub struct Matvec<'a> {
    /// Matrix, activations and output.
    pub projection: Projection<'a>,
    /// RMS norm of the input, on the way.
    pub norm: Option<Norm<'a>>,
}

/// RMS norm over the columns: `x / sqrt(mean(x²) + epsilon) × gain`.
#[derive(Clone, Debug)]
pub struct Norm<'a> {
    /// `padded(columns)` f32 values.
    pub gain: Binding<'a>,
    /// What is added to the mean.
    pub epsilon: f32,
}

impl Matvec<'_> {
    /// One dispatch a chunk of the matrix, in any order.
    ///
    /// # Errors
    /// [`GpuError::Validation`] if sizes do not fit together, [`GpuError::Limit`] if a chunk is too large for the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Vec<Dispatch>, GpuError> {
        let projection = &self.projection;
        projection.check()?;
        let (accumulators, columns) = match projection.tokens {
            1 => (1, &[][..]),
            2 => (2, &[Flag::Columns2][..]),
            3..=4 => (4, &[Flag::Columns2, Flag::Columns4][..]),
            5..=MAX_TOKENS => (8, &[Flag::Columns2, Flag::Columns4, Flag::Columns8][..]),
            n => return Err(GpuError::Validation(format!("a matvec of {n} tokens (at most {MAX_TOKENS})"))),
        };
        let mut flags = projection.flags(gpu);
        flags.push(Flag::Subgroups);
        flags.extend(columns);
        flags.extend(self.norm.is_some().then_some(Flag::Norm));
        let workgroup = workgroup(gpu, projection.matrix.rows, projection.matrix.columns);
        let mut constants = vec![("WORKGROUP", f64::from(workgroup)), ("ACTIVATION", projection.mode.activation())];
        if gpu.profile.subgroups {
            let subgroups = workgroup.div_ceil(gpu.profile.subgroup_min_size);
            constants.extend([("MAX_SUBGROUPS", subgroups.into()), ("SLOTS", (accumulators * subgroups).into())]);
        }
        let epsilon = self.norm.as_ref().map_or(0.0, |n| n.epsilon);
        let bind = |chunk| {
            let params = projection.params(gpu, chunk, epsilon);
            let mut bindings = projection.bindings(&params, chunk);
            bindings.extend(self.norm.iter().map(|n| (7, n.gain.clone())));
            let grid = grid_1d((chunk.rows as u32).div_ceil(4));
            Kernel { shader: &MATVEC, flags: &flags, constants: &constants, bindings: &bindings, grid }.bind(gpu)
        };
        projection.matrix.chunks.iter().map(bind).collect()
    }
}

/// Invocations that share four rows. Few are best, since their sums must be added up at the end; but all workgroups
/// together should fill a large GPU, and no invocation be without an octet of weights.
fn workgroup(gpu: &Gpu, rows: usize, columns: usize) -> u32 {
    let to_fill = (FILLING * 4).div_ceil(rows.max(1));
    let octets = columns.div_ceil(8);
    let least = gpu.profile.subgroup_min_size.max(32);
    (to_fill.min(octets) as u32).next_power_of_two().clamp(least.min(256), 256)
}

/// Invocations that fill a GPU: half of what the largest ones hold at a time.
const FILLING: usize = 1 << 17;

/// Arguments of the CPU twin of `matvec` and `matmul`, all on the CPU.
pub struct Cpu<'a> {
    /// `rows × columns` weights.
    pub weights: &'a [f32],
    /// Columns.
    pub columns: usize,
    /// `tokens × columns` activations, without padding.
    pub input: &'a [f32],
    /// Gain (`columns` values) and epsilon of the norm.
    pub norm: Option<(&'a [f32], f32)>,
    /// One value a row.
    pub bias: Option<&'a [f32]>,
    /// What becomes of the sums.
    pub mode: Output,
}

/// The CPU twin: `y` holds `tokens × mode.width(rows)` values.
pub fn cpu(arguments: &Cpu<'_>, y: &mut [f32]) {
    let Cpu { weights, columns, input, norm, bias, mode } = arguments;
    let rows = weights.len() / columns;
    for (x, y) in input.chunks_exact(*columns).zip(y.chunks_exact_mut(mode.width(rows))) {
        let mut x: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
        if let Some((gain, epsilon)) = norm {
            let mean = x.iter().map(|v| v * v).sum::<f64>() / *columns as f64;
            let factor = 1.0 / (mean + f64::from(*epsilon)).sqrt();
            x.iter_mut().zip(*gain).for_each(|(x, g)| *x *= factor * f64::from(*g));
        }
        let dot = |row: &[f32]| row.iter().zip(&x).map(|(w, x)| f64::from(*w) * x).sum::<f64>();
        let bias = |row| bias.map_or(0.0, |b| f64::from(b[row]));
        let sums: Vec<f32> = weights.chunks_exact(*columns).enumerate().map(|(row, w)| (dot(w) + bias(row)) as f32).collect();
        mode.cpu(&sums, y);
    }
}
