//! [`Projection`]: what `matvec` and `matmul` are told alike: matrix, activations, and what becomes of the sums.

use super::weights::{GpuChunk, GpuMatrix};
use crate::device::{Binding, Flag, Gpu, GpuError};
pub use crate::program::Output;
use bytemuck::{Pod, Zeroable};
use haikuq_format::layout::padded;
use haikuq_format::spec::Activation;

/// `y[t] = output(W x[t] + bias)` for tokens `t`, with activations of `f32`.
#[derive(Clone, Debug)]
pub struct Projection<'a> {
    /// W.
    pub matrix: &'a GpuMatrix,
    /// x: `tokens` rows of at least `padded(columns)` values, zero beyond the columns.
    pub input: Binding<'a>,
    /// Values from one row of x to the next; a multiple of 4.
    pub input_stride: usize,
    /// y. It may not be the buffer of x.
    pub output: Binding<'a>,
    /// Values from one row of y to the next.
    pub output_stride: usize,
    /// Rows of x and y.
    pub tokens: usize,
    /// One f32 a row of W.
    pub bias: Option<Binding<'a>>,
    /// What becomes of the sums.
    pub mode: Output,
    /// Multiplies activations ([`Output::Activate`]) at last.
    pub times: Option<Times<'a>>,
}

/// Numbers that the rows of a product are multiplied with.
#[derive(Clone, Debug)]
pub struct Times<'a> {
    /// f32 \[tokens\]\[stride\].
    pub values: Binding<'a>,
    /// Values from one token's to the next one's.
    pub stride: usize,
    /// Where a token's first one is.
    pub first: usize,
}

/// `shared/projection.wgsl` has the same fields.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Params {
    pub(super) rows: u32,
    pub(super) first_row: u32,
    pub(super) units: u32,
    pub(super) groups: u32,
    pub(super) group_units_log2: u32,
    pub(super) input_stride: u32,
    pub(super) output_stride: u32,
    pub(super) tokens: u32,
    pub(super) multiplier: f32,
    pub(super) softcap: f32,
    pub(super) epsilon: f32,
    pub(super) columns: f32,
    pub(super) times_stride: u32,
    pub(super) times_first: u32,
    /// Up to whole vectors.
    pub(super) padding: [u32; 2],
}

impl Output {
    fn flag(self) -> Option<Flag> {
        match self {
            Self::Store => None,
            Self::Residual { .. } => Some(Flag::Residual),
            Self::Glu(_) => Some(Flag::Glu),
            Self::Activate(_) => Some(Flag::Activate),
            Self::Logits { .. } => Some(Flag::Logits),
        }
    }

    /// The number by which `shared/activation.wgsl` knows the activation.
    pub(super) fn activation(self) -> f64 {
        match self {
            Self::Glu(a) | Self::Activate(a) => match a {
                Activation::Silu => 0.0,
                Activation::Gelu => 1.0,
                Activation::GeluTanh => 2.0,
                Activation::ClampedSwiglu => 3.0,
                Activation::Relu2 => 4.0,
            },
            _ => 0.0,
        }
    }

    /// The CPU twin of `shared/output.wgsl`: turns one token's `sums` (biases included) into its row of `y`.
    pub fn cpu(self, sums: &[f32], y: &mut [f32]) {
        match self {
            Self::Store => y.copy_from_slice(sums),
            Self::Residual { multiplier } => y.iter_mut().zip(sums).for_each(|(y, v)| *y += multiplier * v),
            Self::Activate(a) => y.iter_mut().zip(sums).for_each(|(y, v)| *y = activation(a, *v)),
            Self::Glu(a) => y.iter_mut().zip(sums.chunks_exact(2)).for_each(|(y, v)| *y = gated(a, v[0], v[1])),
            Self::Logits { multiplier, softcap } => y.iter_mut().zip(sums).for_each(|(y, v)| {
                let logit = multiplier * v;
                *y = softcap.map_or(logit, |cap| cap * (logit / cap).tanh());
            }),
        }
    }
}

/// The inner activation of a gated network.
fn gated(kind: Activation, gate: f32, up: f32) -> f32 {
    let limit = Activation::LIMIT;
    match kind {
        Activation::ClampedSwiglu => activation(kind, gate.min(limit)) * (up.clamp(-limit, limit) + 1.0),
        _ => activation(kind, gate) * up,
    }
}

/// The activation function on one value; of [`Activation::ClampedSwiglu`] what the gate becomes.
pub fn activation(kind: Activation, x: f32) -> f32 {
    let x = f64::from(x);
    let y = match kind {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::ClampedSwiglu => x / (1.0 + (-f64::from(Activation::ALPHA) * x).exp()),
        Activation::Gelu => 0.5 * x * erfc(-x / std::f64::consts::SQRT_2),
        Activation::GeluTanh => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()),
        Activation::Relu2 => x.max(0.0).powi(2),
    };
    y as f32
}

/// The complementary error function to 1.2e-7 of its value (Press et al., Numerical Recipes).
fn erfc(x: f64) -> f64 {
    let z = x.abs();
    let t = 1.0 / (1.0 + 0.5 * z);
    let coefficients = [
        0.17087277,
        -0.82215223,
        1.48851587,
        -1.13520398,
        0.27886807,
        -0.18628806,
        0.09678418,
        0.37409196,
        1.00002368,
        -1.26551223,
    ];
    let tail = t * (-z * z + coefficients.iter().fold(0.0, |p, c| p * t + c)).exp();
    if x < 0.0 { 2.0 - tail } else { tail }
}

impl<'a> Projection<'a> {
    fn fail(&self, why: String) -> Result<(), GpuError> {
        Err(GpuError::Validation(format!("a projection with {} tokens: {why}", self.tokens)))
    }

    /// Refuses a matrix, activations or a bias that the shader would trust.
    pub(super) fn check_input(&self) -> Result<(), GpuError> {
        self.matrix.check()?;
        let columns = self.matrix.columns;
        if self.tokens == 0 {
            return self.fail("there must be one".into());
        }
        if !self.input_stride.is_multiple_of(4) || self.input_stride < padded(columns) {
            let why = format!("an input stride of {} does not hold {columns} columns in whole vectors", self.input_stride);
            return self.fail(why);
        }
        self.holds("input", &self.input, (self.tokens - 1) * self.input_stride + padded(columns))?;
        self.bias.as_ref().map_or(Ok(()), |bias| self.holds("bias", bias, self.matrix.rows))
    }

    fn holds(&self, what: &str, binding: &Binding<'_>, values: usize) -> Result<(), GpuError> {
        let bytes = binding.size.unwrap_or_else(|| binding.buffer.size().saturating_sub(binding.offset));
        if bytes < 4 * values as u64 {
            return self.fail(format!("the {what} has {bytes} bytes, not {values} values"));
        }
        Ok(())
    }

    /// Refuses sizes that the shader would trust.
    pub(super) fn check(&self) -> Result<(), GpuError> {
        self.check_input()?;
        let fail = |why: String| self.fail(why);
        let rows = self.matrix.rows;
        let width = self.mode.width(rows);
        if self.output_stride < width {
            return fail(format!("an output stride of {} does not hold {width} values", self.output_stride));
        }
        let odd = |chunk: &GpuChunk| !chunk.first_row.is_multiple_of(2) || !chunk.rows.is_multiple_of(2);
        if matches!(self.mode, Output::Glu(_)) && self.matrix.chunks.iter().any(odd) {
            return fail("pairs of gate and up rows must not be cut".into());
        }
        if let Some(Times { values, stride, first }) = &self.times {
            if !matches!(self.mode, Output::Activate(_)) {
                return fail("only activations are multiplied with other numbers".into());
            }
            self.holds("factors", values, (self.tokens - 1) * stride + first + width)?;
        }
        self.holds("output", &self.output, (self.tokens - 1) * self.output_stride + width)
    }

    /// Flags of the scheme, of where a learned codebook is looked up, and of the output.
    pub(super) fn flags(&self, gpu: &Gpu) -> Vec<Flag> {
        let mut flags = self.flags_without_lookup();
        flags.extend(self.matrix.lookup_flags(gpu));
        flags
    }

    /// Flags of the scheme and of the output.
    pub(super) fn flags_without_lookup(&self) -> Vec<Flag> {
        let mut flags = self.matrix.flags();
        flags.extend(self.bias.is_some().then_some(Flag::Bias));
        flags.extend(self.mode.flag());
        flags.extend(self.times.is_some().then_some(Flag::Times));
        flags
    }

    /// Flags of the scheme, for kernels that read codes and scales as words, and of the output.
    pub(super) fn flags_of_packed(&self) -> Vec<Flag> {
        let mut flags: Vec<_> = self.matrix.flags().into_iter().filter(|f| *f != Flag::F16).collect();
        flags.extend(self.bias.is_some().then_some(Flag::Bias));
        flags.extend(self.mode.flag());
        flags.extend(self.times.is_some().then_some(Flag::Times));
        flags
    }

    /// The uniform buffer of a chunk; `epsilon` is that of a fused norm.
    pub(super) fn params(&self, gpu: &Gpu, chunk: &GpuChunk, epsilon: f32) -> wgpu::Buffer {
        let (groups, group_units_log2) = self.matrix.groups();
        let (multiplier, softcap) = match self.mode {
            Output::Residual { multiplier } => (multiplier, 0.0),
            Output::Logits { multiplier, softcap } => (multiplier, softcap.unwrap_or(0.0)),
            _ => (1.0, 0.0),
        };
        let params = Params {
            rows: chunk.rows as u32,
            first_row: chunk.first_row as u32,
            units: self.matrix.units(),
            groups,
            group_units_log2,
            input_stride: (self.input_stride / 4) as u32,
            output_stride: self.output_stride as u32,
            tokens: self.tokens as u32,
            multiplier,
            softcap,
            epsilon,
            columns: self.matrix.columns as f32,
            times_stride: self.times.as_ref().map_or(0, |t| t.stride as u32),
            times_first: self.times.as_ref().map_or(0, |t| t.first as u32),
            padding: [0; 2],
        };
        gpu.uniform("projection", &params)
    }

    /// Bindings of a chunk, by number, but for a norm's gain (7).
    pub(super) fn bindings<'b>(&'b self, params: &'b wgpu::Buffer, chunk: &'b GpuChunk) -> Vec<(u32, Binding<'b>)> {
        let mut bindings = chunk.bindings();
        bindings.extend([(0, params.into()), (1, self.input.clone()), (2, self.output.clone())]);
        bindings.extend(self.bias.iter().map(|bias| (8, bias.clone())));
        bindings.extend(self.times.iter().map(|times| (15, times.values.clone())));
        bindings
    }
}
