//! A Mamba 2 mixer in three kernels: `mamba_conv` makes inputs, `B`, `C`, steps and decays, `mamba_scan` goes through the tokens with
//! the heads' states, [`gated_norm`](super::gated_norm) normalizes and gates what comes out.

use super::attention::{IDLE, Token};
use super::candidate::{Candidate, Kind, Numerics};
use crate::device::{Binding, Dispatch, Flag, Gpu, GpuError, Kernel};
use crate::program::Phase;
use haikuq_format::layout::padded;
use haikuq_format::spec::{GatedNorm, Mamba2};

super::shader!(MAMBA_CONV = "mamba_conv");
super::shader!(MAMBA_SCAN = "mamba_scan");

/// Positions whose inputs, `B` and `C` before the convolution a sequence keeps.
pub const RING: usize = 16;

/// Largest `state_size` that the kernels do.
pub const MAX_STATE: usize = 256;

/// Numbers of a token between `mamba_conv` and `mamba_scan`: inputs, `B`, `C`, steps, decays.
pub const fn mixed_size(mamba: &Mamba2) -> usize {
    mamba.channels() + 2 * mamba.num_heads
}

/// `mamba_conv` for the tokens of a step.
#[derive(Clone, Debug)]
pub struct MambaConv<'a> {
    /// Tokens of the step.
    pub num_tokens: u32,
    /// Sizes.
    pub mamba: Mamba2,
    /// Whether tokens follow each other in one sequence; otherwise each has a sequence of its own.
    pub chunk: bool,
    /// f32 \[tokens\]\[padded(input_rows)\]: what `mamba_in` makes.
    pub x: Binding<'a>,
    /// [`Token`]s of the step.
    pub tokens: Binding<'a>,
    /// f32 \[sequences\]\[RING\]\[channels\].
    pub columns: Binding<'a>,
    /// f32 \[channels\]\[kernel_size\].
    pub kernel: Binding<'a>,
    /// f32 \[channels\], where the convolution has a bias.
    pub bias: Option<Binding<'a>>,
    /// f32 \[num_heads\].
    pub log_decay: Binding<'a>,
    /// f32 \[num_heads\].
    pub step_bias: Binding<'a>,
    /// f32 \[tokens\]\[padded([`mixed_size`])\].
    pub y: Binding<'a>,
}

impl MambaConv<'_> {
    /// Binds the kernel: what goes on, and what is kept.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if it does not fit the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Vec<Dispatch>, GpuError> {
        let mamba = &self.mamba;
        let constants = [
            ("CHANNELS", mamba.channels() as f64),
            ("HEADS", mamba.num_heads as f64),
            ("FIRST", mamba.inner_size() as f64),
            ("MIN_STEP", mamba.min_step.into()),
            ("MAX_STEP", mamba.max_step.unwrap_or(f32::MAX).into()),
            ("SIZE", mamba.kernel_size as f64),
            ("RING", RING as f64),
            ("X_PITCH", padded(mamba.input_rows()) as f64),
            ("Y_PITCH", padded(mixed_size(mamba)) as f64),
            ("CHUNK", f64::from(u8::from(self.chunk))),
            ("TOKENS", self.num_tokens.into()),
        ];
        let mut bindings = vec![
            (0, self.x.clone()),
            (1, self.tokens.clone()),
            (2, self.columns.clone()),
            (3, self.kernel.clone()),
            (5, self.log_decay.clone()),
            (6, self.step_bias.clone()),
            (7, self.y.clone()),
        ];
        let mut flags = vec![Flag::Convolve];
        if let Some(bias) = &self.bias {
            flags.push(Flag::Bias);
            bindings.push((4, bias.clone()));
        }
        let grid = [(mamba.channels() + mamba.num_heads).div_ceil(64) as u32, self.num_tokens, 1];
        let bind = |flags: &[Flag], bindings: &[(u32, Binding<'_>)]| {
            Kernel { shader: &MAMBA_CONV, flags, constants: &constants, bindings, grid }.bind(gpu)
        };
        if self.chunk {
            return Ok(vec![bind(&flags, &bindings)?, bind(&[Flag::Store], &bindings[..3])?]);
        }
        flags.push(Flag::Store);
        Ok(vec![bind(&flags, &bindings)?])
    }
}

/// Marks the operation that takes states through tokens.
pub struct Scan;

/// What decides how it is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScanShape {
    /// Tokens of the step.
    pub tokens: u32,
    /// Whether these are one token each of several sequences, or consecutive ones of one.
    pub phase: Phase,
    /// Sizes.
    pub mamba: Mamba2,
}

/// What it is bound to.
#[derive(Clone, Debug)]
pub struct ScanJob<'a> {
    /// What is done.
    pub scan: MambaScan<'a>,
    /// As many bytes as the candidate asked for.
    pub scratch: Binding<'a>,
}

impl Kind for Scan {
    const NAME: &'static str = "mamba_scan";
    type Shape = ScanShape;
    type Job<'a> = ScanJob<'a>;
}

/// One token after the other.
pub static IN_TURN: Candidate<Scan> = Candidate {
    name: "mamba_scan",
    numerics: Numerics::Exact,
    can: |_, _| true,
    fits: |_, _| true,
    scratch: Candidate::<Scan>::NO_SCRATCH,
    bind: |gpu, job| Ok(vec![job.scan.bind(gpu)?]),
};

/// The scan of the tokens of a step; its own kernel is `mamba_scan`.
#[derive(Clone, Debug)]
pub struct MambaScan<'a> {
    /// Tokens of the step.
    pub num_tokens: u32,
    /// Sizes.
    pub mamba: Mamba2,
    /// As in [`MambaConv`].
    pub chunk: bool,
    /// f32 \[tokens\]\[padded([`mixed_size`])\].
    pub x: Binding<'a>,
    /// [`Token`]s of the step.
    pub tokens: Binding<'a>,
    /// f32 \[num_heads\].
    pub skip: Binding<'a>,
    /// f32 \[sequences\]\[num_heads\]\[head_dim\]\[state_size\].
    pub states: Binding<'a>,
    /// f32 \[tokens\]\[padded(inner_size)\].
    pub y: Binding<'a>,
}

impl MambaScan<'_> {
    /// Binds the kernel.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if it does not fit the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Dispatch, GpuError> {
        let mamba = &self.mamba;
        let (in_turn, apart) = if self.chunk { (self.num_tokens, 1) } else { (1, self.num_tokens) };
        let constants = [
            ("HEADS", mamba.num_heads as f64),
            ("HEAD_DIM", mamba.head_dim as f64),
            ("GROUPS", mamba.num_groups as f64),
            ("STATE_SIZE", mamba.state_size as f64),
            ("X_PITCH", padded(mixed_size(mamba)) as f64 / 4.0),
            ("Y_PITCH", padded(mamba.inner_size()) as f64),
            ("TOKENS", in_turn.into()),
        ];
        let bindings = [
            (0, self.x.clone()),
            (1, self.tokens.clone()),
            (2, self.skip.clone()),
            (3, self.states.clone()),
            (4, self.y.clone()),
        ];
        // Four invocations have a row of a head's state.
        let grid = [mamba.head_dim.div_ceil(8) as u32, mamba.num_heads as u32, apart];
        Kernel { shader: &MAMBA_SCAN, flags: &[Flag::Subgroups], constants: &constants, bindings: &bindings, grid }.bind(gpu)
    }
}

/// What the CPU twin of all three needs of a layer.
#[derive(Clone, Copy, Debug)]
pub struct CpuMamba2<'a> {
    /// Sizes.
    pub mamba: Mamba2,
    /// \[channels\]\[kernel_size\].
    pub kernel: &'a [f32],
    /// \[channels\], or nothing.
    pub bias: &'a [f32],
    /// \[num_heads\].
    pub log_decay: &'a [f32],
    /// \[num_heads\].
    pub step_bias: &'a [f32],
    /// \[num_heads\].
    pub skip: &'a [f32],
    /// \[inner_size\], where there is a norm.
    pub gain: &'a [f32],
    /// Added to the mean square.
    pub epsilon: f32,
}

/// The CPU twin, in f64: `y` \[tokens\]\[padded(inner_size)\] of `x` \[tokens\]\[padded(input_rows)\]. `columns`
/// \[sequences\]\[RING\]\[channels\] and `states` \[sequences\]\[num_heads\]\[head_dim\]\[state_size\] become those after the step.
pub fn cpu(layer: CpuMamba2<'_>, chunk: bool, tokens: &[Token], x: &[f32], columns: &mut [f32], states: &mut [f32]) -> Vec<f32> {
    let mamba = layer.mamba;
    let Mamba2 { num_heads, head_dim, state_size, kernel_size, .. } = mamba;
    let (inner, channels) = (mamba.inner_size(), mamba.channels());
    let (pitch, y_pitch) = (padded(mamba.input_rows()), padded(inner));
    let slot = |token: &Token, position: usize, c: usize| (token.sequence as usize * RING + position % RING) * channels + c;
    let silu = |x: f64| x / (1.0 + (-x).exp());
    let mut y = vec![0.0; tokens.len() * y_pitch];
    let live: Vec<(usize, &Token)> = tokens.iter().enumerate().filter(|(_, token)| token.sequence != IDLE).collect();
    for &(t, token) in &live {
        let (row, position) = (&x[t * pitch..][..mamba.input_rows()], token.position as usize);
        let activated = |c: usize| {
            let u = |back: usize| match back {
                0 => row[inner + c],
                _ if chunk && back <= t => x[(t - back) * pitch + inner + c],
                _ if back <= position => columns[slot(token, position - back, c)],
                _ => 0.0,
            };
            let taps = (0..kernel_size).map(|j| f64::from(layer.kernel[c * kernel_size + j]) * f64::from(u(kernel_size - 1 - j)));
            silu(layer.bias.get(c).map_or(0.0, |b| f64::from(*b)) + taps.sum::<f64>())
        };
        let mixed: Vec<f64> = (0..channels).map(activated).collect();
        let mut heads = vec![0.0f64; inner];
        for head in 0..num_heads {
            let group = head / (num_heads / mamba.num_groups) * state_size;
            let (b, c) = (&mixed[inner + group..][..state_size], &mixed[inner + mamba.groups_size() + group..][..state_size]);
            let step = (1.0 + (f64::from(row[inner + channels + head]) + f64::from(layer.step_bias[head])).exp()).ln();
            let step = step.max(mamba.min_step.into()).min(mamba.max_step.map_or(f64::INFINITY, f64::from));
            let decay = (-f64::from(layer.log_decay[head]).exp() * step).exp();
            let size = head_dim * state_size;
            let state = &mut states[(token.sequence as usize * num_heads + head) * size..][..size];
            if position == 0 {
                state.fill(0.0);
            }
            for (i, row) in state.chunks_exact_mut(state_size).enumerate() {
                let input = mixed[head * head_dim + i];
                let mut out = f64::from(layer.skip[head]) * input;
                for ((s, b), c) in row.iter_mut().zip(b).zip(c) {
                    let next = decay * f64::from(*s) + step * input * b;
                    out += next * c;
                    *s = next as f32;
                }
                heads[head * head_dim + i] = out;
            }
        }
        let gates: Vec<f64> = row[..inner].iter().map(|z| silu(f64::from(*z))).collect();
        let width = inner / mamba.num_groups;
        for group in 0..mamba.num_groups {
            let own = group * width..(group + 1) * width;
            let gated = mamba.norm == Some(GatedNorm::AfterGate);
            let square: f64 = own.clone().map(|i| (heads[i] * if gated { gates[i] } else { 1.0 }).powi(2)).sum();
            let scale = 1.0 / (square / width as f64 + f64::from(layer.epsilon)).sqrt();
            for i in own {
                let normed = if mamba.norm.is_some() { scale * f64::from(layer.gain[i]) } else { 1.0 };
                y[t * y_pitch + i] = (heads[i] * gates[i] * normed) as f32;
            }
        }
    }
    for (t, token) in live {
        (0..channels).for_each(|c| columns[slot(token, token.position as usize, c)] = x[t * pitch + inner + c]);
    }
    y
}
