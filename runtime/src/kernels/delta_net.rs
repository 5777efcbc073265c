//! A gated delta net in three operations: `delta_conv` makes queries, keys, values, decays and betas, the *scan* goes through the
//! tokens with the heads' states, [`gated_norm`](super::gated_norm) normalizes and gates what comes out. The scan has candidates: `delta_scan`, one token
//! after the other, and [`delta_chunks`](super::delta_chunks).

use super::attention::{IDLE, Token};
use super::candidate::{Candidate, Kind, Numerics};
use crate::device::{Binding, Dispatch, Flag, Gpu, GpuError, Kernel};
use crate::program::Phase;
use haikuq_format::layout::padded;
use haikuq_format::spec::DeltaNet;

super::shader!(DELTA_CONV = "delta_conv");
super::shader!(DELTA_SCAN = "delta_scan");

/// Positions whose queries, keys and values before the convolution a sequence keeps.
pub const RING: usize = 16;

/// Widest heads that the kernels do.
pub const MAX_DIM: usize = 256;

/// Numbers of a token between `delta_conv` and the scan: queries, keys, values, logarithms of decays, betas.
pub const fn mixed_size(net: &DeltaNet) -> usize {
    net.channels() + 2 * net.num_value_heads
}

/// `delta_conv` for the tokens of a step.
#[derive(Clone, Debug)]
pub struct DeltaConv<'a> {
    /// Tokens of the step.
    pub num_tokens: u32,
    /// Sizes.
    pub net: DeltaNet,
    /// Whether tokens follow each other in one sequence; otherwise each has a sequence of its own.
    pub chunk: bool,
    /// f32 \[tokens\]\[padded(input_rows)\]: what `delta_in` makes.
    pub x: Binding<'a>,
    /// [`Token`]s of the step.
    pub tokens: Binding<'a>,
    /// f32 \[sequences\]\[RING\]\[channels\].
    pub columns: Binding<'a>,
    /// f32 \[channels\]\[kernel_size\].
    pub kernel: Binding<'a>,
    /// f32 \[num_value_heads\].
    pub log_decay: Binding<'a>,
    /// f32 \[num_value_heads\].
    pub step_bias: Binding<'a>,
    /// f32 \[tokens\]\[padded([`mixed_size`])\].
    pub y: Binding<'a>,
}

impl DeltaConv<'_> {
    /// Binds the kernel: what goes on, and what is kept.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if it does not fit the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Vec<Dispatch>, GpuError> {
        let net = &self.net;
        let constants = [
            ("KEY_HEADS", net.num_key_heads as f64),
            ("VALUE_HEADS", net.num_value_heads as f64),
            ("KEY_DIM", net.key_dim as f64),
            ("VALUE_DIM", net.value_dim as f64),
            ("SIZE", net.kernel_size as f64),
            ("RING", RING as f64),
            ("X_PITCH", padded(net.input_rows()) as f64),
            ("Y_PITCH", padded(mixed_size(net)) as f64),
            ("CHUNK", f64::from(u8::from(self.chunk))),
            ("TOKENS", self.num_tokens.into()),
        ];
        let bindings = [
            (0, self.x.clone()),
            (1, self.tokens.clone()),
            (2, self.columns.clone()),
            (3, self.kernel.clone()),
            (4, self.log_decay.clone()),
            (5, self.step_bias.clone()),
            (6, self.y.clone()),
        ];
        let grid = [(2 * net.num_key_heads + net.num_value_heads) as u32, self.num_tokens, 1];
        let bind = |flags: &[Flag], bindings: &[(u32, Binding<'_>)]| {
            Kernel { shader: &DELTA_CONV, flags, constants: &constants, bindings, grid }.bind(gpu)
        };
        if self.chunk {
            return Ok(vec![bind(&[Flag::Convolve], &bindings)?, bind(&[Flag::Store], &bindings[..3])?]);
        }
        Ok(vec![bind(&[Flag::Convolve, Flag::Store], &bindings)?])
    }
}

/// Marks the operation that takes states through tokens.
pub struct Scan;

/// What decides how it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanShape {
    /// Tokens of the step.
    pub tokens: u32,
    /// Whether these are one token each of several sequences, or consecutive ones of one.
    pub phase: Phase,
    /// Sizes.
    pub net: DeltaNet,
}

/// What it is bound to.
#[derive(Clone, Debug)]
pub struct ScanJob<'a> {
    /// What is done.
    pub scan: DeltaScan<'a>,
    /// As many bytes as the candidate asked for.
    pub scratch: Binding<'a>,
}

impl Kind for Scan {
    const NAME: &'static str = "delta_scan";
    type Shape = ScanShape;
    type Job<'a> = ScanJob<'a>;
}

/// One token after the other.
pub static IN_TURN: Candidate<Scan> = Candidate {
    name: "delta_scan",
    numerics: Numerics::Exact,
    can: |_, _| true,
    fits: |_, _| true,
    scratch: Candidate::<Scan>::NO_SCRATCH,
    bind: |gpu, job| Ok(vec![job.scan.bind(gpu)?]),
};

/// The scan of the tokens of a step; its own kernel is `delta_scan`.
#[derive(Clone, Debug)]
pub struct DeltaScan<'a> {
    /// Tokens of the step.
    pub num_tokens: u32,
    /// Sizes.
    pub net: DeltaNet,
    /// As in [`DeltaConv`].
    pub chunk: bool,
    /// f32 \[tokens\]\[padded([`mixed_size`])\].
    pub x: Binding<'a>,
    /// [`Token`]s of the step.
    pub tokens: Binding<'a>,
    /// f32 \[sequences\]\[num_value_heads\]\[key_dim\]\[value_dim\].
    pub states: Binding<'a>,
    /// f32 \[tokens\]\[padded(value_size)\].
    pub y: Binding<'a>,
}

impl DeltaScan<'_> {
    /// Binds the kernel.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if it does not fit the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Dispatch, GpuError> {
        let net = &self.net;
        let (in_turn, apart) = if self.chunk { (self.num_tokens, 1) } else { (1, self.num_tokens) };
        let constants = [
            ("KEY_HEADS", net.num_key_heads as f64),
            ("VALUE_HEADS", net.num_value_heads as f64),
            ("KEY_DIM", net.key_dim as f64),
            ("VALUE_DIM", net.value_dim as f64),
            ("X_PITCH", padded(mixed_size(net)) as f64 / 4.0),
            ("Y_PITCH", padded(net.value_size()) as f64),
            ("TOKENS", in_turn.into()),
        ];
        let bindings = [(0, self.x.clone()), (1, self.tokens.clone()), (2, self.states.clone()), (3, self.y.clone())];
        // Four invocations have a column.
        let grid = [net.value_dim.div_ceil(8) as u32, net.num_value_heads as u32, apart];
        Kernel { shader: &DELTA_SCAN, flags: &[Flag::Subgroups], constants: &constants, bindings: &bindings, grid }.bind(gpu)
    }
}

/// What the CPU twin of all three needs of a layer.
#[derive(Clone, Copy, Debug)]
pub struct CpuDeltaNet<'a> {
    /// Sizes.
    pub net: DeltaNet,
    /// \[channels\]\[kernel_size\].
    pub kernel: &'a [f32],
    /// \[num_value_heads\].
    pub log_decay: &'a [f32],
    /// \[num_value_heads\].
    pub step_bias: &'a [f32],
    /// \[value_dim\].
    pub gain: &'a [f32],
    /// Added to the mean square.
    pub epsilon: f32,
}

/// The CPU twin, in f64: `y` \[tokens\]\[padded(value_size)\] of `x` \[tokens\]\[padded(input_rows)\]. `columns`
/// \[sequences\]\[RING\]\[channels\] and `states` \[sequences\]\[num_value_heads\]\[key_dim\]\[value_dim\] become those after the step.
pub fn cpu(
    layer: CpuDeltaNet<'_>,
    chunk: bool,
    tokens: &[Token],
    x: &[f32],
    columns: &mut [f32],
    states: &mut [f32],
) -> Vec<f32> {
    let net = layer.net;
    let (channels, pitch, y_pitch) = (net.channels(), padded(net.input_rows()), padded(net.value_size()));
    let (keys, group) = (net.key_size(), net.num_value_heads / net.num_key_heads);
    let slot = |token: &Token, position: usize, c: usize| (token.sequence as usize * RING + position % RING) * channels + c;
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let mut y = vec![0.0; tokens.len() * y_pitch];
    let live: Vec<(usize, &Token)> = tokens.iter().enumerate().filter(|(_, token)| token.sequence != IDLE).collect();
    for &(t, token) in &live {
        let (row, position) = (&x[t * pitch..][..net.input_rows()], token.position as usize);
        let activated = |c: usize| {
            let u = |back: usize| match back {
                0 => row[c],
                _ if chunk && back <= t => x[(t - back) * pitch + c],
                _ if back <= position => columns[slot(token, position - back, c)],
                _ => 0.0,
            };
            let taps = 0..net.kernel_size;
            let sum: f64 =
                taps.map(|j| f64::from(layer.kernel[c * net.kernel_size + j]) * f64::from(u(net.kernel_size - 1 - j))).sum();
            sum * sigmoid(sum)
        };
        let mixed: Vec<f64> = (0..channels).map(activated).collect();
        let unit = |first: usize| {
            let head = &mixed[first..][..net.key_dim];
            let length = (head.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
            head.iter().map(|x| x / length).collect::<Vec<f64>>()
        };
        for head in 0..net.num_value_heads {
            let key_head = head / group * net.key_dim;
            let (q, k) = (unit(key_head), unit(keys + key_head));
            let v = &mixed[2 * keys + head * net.value_dim..][..net.value_dim];
            let [z, b, a] = [channels, channels + net.value_size(), channels + net.value_size() + net.num_value_heads];
            let step = (1.0 + (f64::from(row[a + head]) + f64::from(layer.step_bias[head])).exp()).ln();
            let decay = (-f64::from(layer.log_decay[head]).exp() * step).exp();
            let beta = sigmoid(f64::from(row[b + head]));
            let first = (token.sequence as usize * net.num_value_heads + head) * net.key_dim * net.value_dim;
            let state = &mut states[first..][..net.key_dim * net.value_dim];
            if position == 0 {
                state.fill(0.0);
            }
            let out: Vec<f64> = (0..net.value_dim)
                .map(|j| {
                    let column: Vec<f64> = (0..net.key_dim).map(|i| decay * f64::from(state[i * net.value_dim + j])).collect();
                    let correction = beta * (v[j] - column.iter().zip(&k).map(|(s, k)| s * k).sum::<f64>());
                    let column: Vec<f64> = column.iter().zip(&k).map(|(s, k)| s + k * correction).collect();
                    column.iter().enumerate().for_each(|(i, s)| state[i * net.value_dim + j] = *s as f32);
                    column.iter().zip(&q).map(|(s, q)| s * q).sum::<f64>() / (net.key_dim as f64).sqrt()
                })
                .collect();
            let square = out.iter().map(|o| o * o).sum::<f64>() / net.value_dim as f64;
            let scale = 1.0 / (square + f64::from(layer.epsilon)).sqrt();
            for (j, o) in out.iter().enumerate() {
                let z = f64::from(row[z + head * net.value_dim + j]);
                let gated = o * scale * f64::from(layer.gain[j]) * z * sigmoid(z);
                y[t * y_pitch + head * net.value_dim + j] = gated as f32;
            }
        }
    }
    for (t, token) in live {
        (0..channels).for_each(|c| columns[slot(token, token.position as usize, c)] = x[t * pitch + c]);
    }
    y
}
