//! `altup` and `stream_ends`: several residual streams of a token.

use super::norm;
use crate::device::{Binding, Dispatch, Flag, Gpu, GpuError, Kernel};
use haikuq_format::layout::padded;
use haikuq_format::spec::{AltUp, Norm, NormKind};

super::shader!(ALTUP = "altup");
super::shader!(STREAM_ENDS = "stream_ends");

/// The rows of several residual streams.
#[derive(Clone, Debug)]
pub struct StreamRows<'a> {
    /// Tokens.
    pub tokens: u32,
    /// Numbers of a stream.
    pub columns: usize,
    /// How many streams, and which is the active one.
    pub spec: AltUp,
    /// f32 \[tokens\]\[padded(streams × columns)\], one stream after the other.
    pub streams: Binding<'a>,
    /// f32 \[tokens\]\[padded(columns)\]: what blocks compute.
    pub hidden: Binding<'a>,
}

impl StreamRows<'_> {
    fn constants(&self) -> Vec<(&'static str, f64)> {
        vec![
            ("WORKGROUP", if self.columns > 256 { 256.0 } else { 64.0 }),
            ("HIDDEN", self.columns as f64),
            ("PITCH", padded(self.columns) as f64),
            ("STREAMS_PITCH", padded(self.spec.num_streams * self.columns) as f64),
            ("STREAMS", self.spec.num_streams as f64),
        ]
    }
}

/// Guesses all streams before a layer's blocks, of which `hidden` becomes the active one, or corrects them with what the blocks have
/// made of it. `hidden` is then what numbers for the layer are multiplied into.
#[derive(Clone, Debug)]
pub struct UpdateStreams<'a> {
    /// The streams.
    pub rows: StreamRows<'a>,
    /// Whether they are corrected.
    pub correct: bool,
    /// Added to the mean square.
    pub epsilon: f32,
    /// f32 \[columns\], \[streams\]\[columns\].
    pub gain: Binding<'a>,
    /// f32 \[streams\]\[columns\].
    pub router: Binding<'a>,
    /// f32 \[streams\]\[streams\]\[streams\], or \[streams\]\[streams\] to correct.
    pub coefficients: Binding<'a>,
    /// f32 \[columns\]: factors of `hidden`.
    pub scale: Option<Binding<'a>>,
}

impl UpdateStreams<'_> {
    /// Binds the kernel.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if it does not fit the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Dispatch, GpuError> {
        let rows = &self.rows;
        let mut constants = rows.constants();
        let correct = f64::from(u8::from(self.correct));
        constants.extend([("ACTIVE", rows.spec.active as f64), ("EPSILON", self.epsilon.into()), ("CORRECT", correct)]);
        let parts = [&self.gain, &self.router, &self.coefficients, &rows.streams, &rows.hidden];
        let mut bindings: Vec<_> = (0..).zip(parts.map(Clone::clone)).collect();
        bindings.extend(self.scale.clone().map(|scale| (5, scale)));
        let flags: &[Flag] = if self.scale.is_some() { &[Flag::Scaled] } else { &[] };
        let grid = [rows.tokens, 1, 1];
        Kernel { shader: &ALTUP, flags, constants: &constants, bindings: &bindings, grid }.bind(gpu)
    }
}

/// What [`EndStream`] does with a row `x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It becomes a stream, from 1 on, scaled to `hidden`, which becomes the first with stream 1.
    First(usize),
    /// Scaled to the first stream, it is added to the mean of all in `hidden`, which begins with stream 1.
    Last(usize),
    /// It is added to all streams but the first.
    Add,
}

/// A stream at either end of a decoder, or numbers that are added to all but one.
#[derive(Clone, Debug)]
pub struct EndStream<'a> {
    /// The streams.
    pub rows: StreamRows<'a>,
    /// What is done.
    pub end: End,
    /// Multiplies what is added.
    pub multiplier: f32,
    /// f32 \[tokens\]\[padded(columns)\].
    pub x: Binding<'a>,
}

impl EndStream<'_> {
    /// Binds the kernel.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if it does not fit the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Dispatch, GpuError> {
        let (stream, last) = match self.end {
            End::First(stream) => (stream, 0.0),
            End::Last(stream) => (stream, 1.0),
            End::Add => (0, 0.0),
        };
        let mut constants = self.rows.constants();
        constants.extend([("STREAM", stream as f64), ("END", last)]);
        constants.extend([("MULTIPLIER", self.multiplier.into()), ("SMALLEST", AltUp::SMALLEST.into())]);
        let bindings = [(0, self.x.clone()), (1, self.rows.hidden.clone()), (2, self.rows.streams.clone())];
        let grid = [self.rows.tokens, 1, 1];
        Kernel { shader: &STREAM_ENDS, flags: &[], constants: &constants, bindings: &bindings, grid }.bind(gpu)
    }
}

/// The CPU twin of [`UpdateStreams`], for one token without padding: `x` are the streams, one after the other.
pub fn cpu(
    spec: AltUp,
    epsilon: f32,
    [gain, router, coefficients]: [&[f32]; 3],
    correct: bool,
    scale: Option<&[f32]>,
    x: &mut [f32],
    hidden: &mut [f32],
) {
    let (n, width) = (spec.num_streams, hidden.len());
    let active = spec.active * width..(spec.active + 1) * width;
    let before = x.to_vec();
    let y = if correct { hidden.to_vec() } else { before[active.clone()].to_vec() };
    let normed = norm::cpu(Norm { kind: NormKind::Rms, epsilon }, &y, gain, &[]);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let routed: Vec<f32> = router.chunks(width).map(|row| (dot(row, &normed) / width as f64).tanh() as f32).collect();
    let c: Vec<f32> = coefficients.chunks(n).map(|row| dot(row, &routed) as f32).collect();
    for (i, stream) in x.chunks_mut(width).enumerate() {
        for (k, x) in stream.iter_mut().enumerate() {
            *x += match correct {
                true => (1.0 + c[i]) * (y[k] - before[active.start + k]),
                false => (0..n).map(|j| c[i * n + j] * before[j * width + k]).sum(),
            };
        }
    }
    hidden.copy_from_slice(&x[active]);
    hidden.iter_mut().zip(scale.unwrap_or_default()).for_each(|(y, scale)| *y *= scale);
}

/// The CPU twin of [`EndStream`], for one token without padding.
pub fn cpu_end(end: End, multiplier: f32, row: &[f32], x: &mut [f32], hidden: &mut [f32]) {
    let (width, streams) = (row.len(), (x.len() / row.len()) as f32);
    let square = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / width as f64;
    let sized = |like: &[f32]| -> Vec<f32> {
        let by = (square(like) / square(row).max(AltUp::SMALLEST.into())).sqrt() as f32;
        row.iter().map(|x| by * x).collect()
    };
    match end {
        End::First(stream) => {
            if stream == 1 {
                x[..width].copy_from_slice(hidden);
            }
            x[stream * width..][..width].copy_from_slice(&sized(hidden));
        }
        End::Last(stream) => {
            let (first, added) = (&x[..width], sized(&x[..width]));
            for ((y, x), added) in hidden.iter_mut().zip(first).zip(added) {
                *y = (if stream == 1 { *x / streams } else { *y }) + added / streams;
            }
        }
        End::Add => x[width..].iter_mut().zip(row.iter().cycle()).for_each(|(x, y)| *x += multiplier * y),
    }
}
