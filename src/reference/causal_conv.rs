//! The causal convolution of each channel, with SiLU, that delta nets and Mamba 2 mixers begin with.

use super::vectors::silu_slope;
use crate::exponentials::sigmoid;

/// A convolution of some columns of a layer's rows.
pub(super) struct CausalConv {
    /// Numbers of a row, and where those of the channels begin.
    pub(super) width: usize,
    pub(super) first: usize,
    pub(super) channels: usize,
    /// Positions that a channel sees.
    pub(super) taps: usize,
    /// `[channels, taps]`.
    pub(super) kernel: Vec<f32>,
    pub(super) bias: Option<Vec<f32>>,
}

impl CausalConv {
    /// Numbers that a sequence keeps: `[taps − 1, channels]`.
    pub(super) fn kept_size(&self) -> usize {
        (self.taps - 1) * self.channels
    }

    /// The channels of position `t`.
    pub(super) fn row<'a>(&self, rows: &'a [f32], t: usize) -> &'a [f32] {
        &rows[t * self.width + self.first..][..self.channels]
    }

    /// What position `t` sees through `tap`, those before the first position included.
    fn column<'a>(&self, rows: &'a [f32], kept: &'a [f32], t: usize, tap: usize) -> &'a [f32] {
        match (t + tap).checked_sub(self.taps - 1) {
            Some(position) => self.row(rows, position),
            None => &kept[(t + tap) * self.channels..][..self.channels],
        }
    }

    /// Position `t` before SiLU, and after it.
    pub(super) fn forward(&self, rows: &[f32], kept: &[f32], t: usize, convolved: &mut [f32], activated: &mut [f32]) {
        match &self.bias {
            Some(bias) => convolved.copy_from_slice(bias),
            None => convolved.fill(0.0),
        }
        for tap in 0..self.taps {
            let column = self.column(rows, kept, t, tap);
            convolved.iter_mut().zip(column).enumerate().for_each(|(c, (sum, u))| *sum += self.kernel[c * self.taps + tap] * u);
        }
        activated.copy_from_slice(convolved);
        sigmoid(activated);
        activated.iter_mut().zip(&*convolved).for_each(|(y, x)| *y *= x);
    }

    /// What a sequence keeps after `n` positions.
    pub(super) fn keep(&self, rows: &[f32], kept: &[f32], n: usize) -> Vec<f32> {
        (n..n + self.taps - 1).flat_map(|t| self.column(rows, kept, t, 0).to_vec()).collect()
    }

    /// From a position's gradient after SiLU to the one before it.
    pub(super) fn before_silu(gradient: &mut [f32], convolved: &[f32]) {
        gradient.iter_mut().zip(convolved).for_each(|(g, x)| *g *= silu_slope(*x));
    }

    /// Adds to `out` the gradient of position `t`'s channels, of `gradient` `[n, channels]` before SiLU.
    pub(super) fn backward(&self, gradient: &[f32], t: usize, out: &mut [f32]) {
        let n = gradient.len() / self.channels;
        // Position `s` reads position `t` through its tap `taps − 1 − (s − t)`.
        for s in t..n.min(t + self.taps) {
            let of_reader = &gradient[s * self.channels..][..self.channels];
            let tap = self.taps - 1 - (s - t);
            out.iter_mut().zip(of_reader).enumerate().for_each(|(c, (out, g))| *out += self.kernel[c * self.taps + tap] * g);
        }
    }
}
