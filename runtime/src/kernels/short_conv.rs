//! `short_conv`: a gated convolution over the last few positions of a sequence, which keeps them in a ring.

use super::attention::{IDLE, Token};
use crate::device::{Binding, Dispatch, Flag, Gpu, GpuError, Kernel};
use haikuq_format::layout::padded;
use haikuq_format::spec::ShortConv;

super::shader!(SHORT_CONV = "short_conv");

/// Positions whose columns a sequence keeps: the convolution's own, and those that were computed too far and are taken back.
pub const RING: usize = 32;

/// `y = c × conv(b × x)` for the tokens of a step, and the columns of `b × x` that their sequences keep.
#[derive(Clone, Debug)]
pub struct ConvolveTokens<'a> {
    /// Tokens of the step.
    pub num_tokens: u32,
    /// Channels and taps.
    pub conv: ShortConv,
    /// Whether tokens follow each other in one sequence; otherwise each has a sequence of its own.
    pub chunk: bool,
    /// f32 \[tokens\]\[padded(3 × channels)\]: `b`, `c`, `x`.
    pub x: Binding<'a>,
    /// [`Token`]s of the step.
    pub tokens: Binding<'a>,
    /// f32 \[sequences\]\[RING\]\[channels\].
    pub state: Binding<'a>,
    /// f32 \[channels\]\[kernel_size\].
    pub kernel: Binding<'a>,
    /// f32 \[channels\], where there are biases.
    pub bias: Option<Binding<'a>>,
    /// f32 \[tokens\]\[padded(channels)\]; padding becomes zero.
    pub y: Binding<'a>,
}

impl ConvolveTokens<'_> {
    /// Binds the kernel: the convolution, and what is kept.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if it does not fit the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Vec<Dispatch>, GpuError> {
        let ShortConv { channels, kernel_size, .. } = self.conv;
        let pitch = padded(channels);
        let constants = [
            ("CHANNELS", channels as f64),
            ("SIZE", kernel_size as f64),
            ("RING", RING as f64),
            ("X_PITCH", padded(3 * channels) as f64),
            ("Y_PITCH", pitch as f64),
            ("CHUNK", f64::from(u8::from(self.chunk))),
            ("TOKENS", self.num_tokens.into()),
        ];
        let mut bindings = vec![
            (0, self.x.clone()),
            (1, self.tokens.clone()),
            (2, self.state.clone()),
            (3, self.kernel.clone()),
            (5, self.y.clone()),
        ];
        let mut flags = vec![Flag::Convolve];
        if let Some(bias) = &self.bias {
            flags.push(Flag::Bias);
            bindings.push((4, bias.clone()));
        }
        let grid = [pitch.div_ceil(64) as u32, self.num_tokens, 1];
        let bind = |flags: &[Flag], bindings: &[(u32, Binding<'_>)]| {
            Kernel { shader: &SHORT_CONV, flags, constants: &constants, bindings, grid }.bind(gpu)
        };
        if self.chunk {
            return Ok(vec![bind(&flags, &bindings)?, bind(&[Flag::Store], &bindings[..3])?]);
        }
        flags.push(Flag::Store);
        Ok(vec![bind(&flags, &bindings)?])
    }
}

/// The CPU twin: `y` \[tokens\]\[padded(channels)\], and the columns kept afterwards in `state` \[sequences\]\[RING\]\[channels\].
/// `x` are rows of `padded(3 × channels)`.
pub fn cpu(
    conv: ShortConv,
    chunk: bool,
    tokens: &[Token],
    x: &[f32],
    kernel: &[f32],
    bias: &[f32],
    state: &mut [f32],
) -> Vec<f32> {
    let ShortConv { channels, kernel_size, .. } = conv;
    let (pitch, x_pitch) = (padded(channels), padded(3 * channels));
    let product = |t: usize, c: usize| x[t * x_pitch + c] * x[t * x_pitch + 2 * channels + c];
    let slot = |token: &Token, position: usize, c: usize| (token.sequence as usize * RING + position % RING) * channels + c;
    let mut y = vec![0.0; tokens.len() * pitch];
    let live = || tokens.iter().enumerate().filter(|(_, token)| token.sequence != IDLE);
    for ((t, token), c) in live().flat_map(|token| (0..channels).map(move |c| (token, c))) {
        let position = token.position as usize;
        let u = |back: usize| match back {
            0 => product(t, c),
            _ if chunk && back <= t => product(t - back, c),
            _ if back <= position => state[slot(token, position - back, c)],
            _ => 0.0,
        };
        let taps = (0..kernel_size).map(|j| f64::from(kernel[c * kernel_size + j]) * f64::from(u(kernel_size - 1 - j)));
        let sum = bias.get(c).map_or(0.0, |b| f64::from(*b)) + taps.sum::<f64>();
        y[t * pitch + c] = (f64::from(x[t * x_pitch + channels + c]) * sum) as f32;
    }
    for (t, token) in live() {
        (0..channels).for_each(|c| state[slot(token, token.position as usize, c)] = product(t, c));
    }
    y
}
