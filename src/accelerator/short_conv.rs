//! Gated short convolutions over windows, the twin of `reference/short_conv.rs`.

use super::{Accelerator, AcceleratorError, Matrix, shader};
use haikuq_format::spec::ShortConv;

shader!(SHORT_CONV = "short_conv");

impl Accelerator {
    /// Whether [`Accelerator::convolve`] can: windows of `length` positions lie whole in buffers.
    pub fn can_convolve(&self, conv: &ShortConv, windows: usize, length: usize) -> bool {
        let whole = |columns| self.panel_rows(columns).is_ok_and(|rows| rows >= windows * length || rows.is_multiple_of(length));
        whole(conv.input_rows()) && whole(conv.channels)
    }

    /// `c × conv(b × x)` of rows `b`, `c`, `x` `[windows × length, 3 × channels]`: `[windows × length, channels]`. `taps` are
    /// each channel's `kernel_size` taps and its bias, one after the other.
    ///
    /// # Errors
    /// As [`Accelerator::zeros`].
    ///
    /// # Panics
    /// If sizes do not fit together, or [`Accelerator::can_convolve`] said no.
    pub fn convolve(&self, bcx: &Matrix, conv: &ShortConv, taps: &[f32], length: usize) -> Result<Matrix, AcceleratorError> {
        let ShortConv { channels, kernel_size, .. } = *conv;
        assert!(bcx.columns() == conv.input_rows() && taps.len() == channels * (kernel_size + 1));
        assert!(self.can_convolve(conv, bcx.rows() / length, length));
        let out = self.unwritten(bcx.rows(), channels)?;
        let taps = self.counted("taps", taps)?;
        Self::for_common_rows(bcx, &out, |begin, rows, [from, to]| {
            assert!(begin.is_multiple_of(length), "windows lie in one buffer");
            let params = [rows, channels, kernel_size, length, bcx.pitch(), out.pitch(), 0, 0].map(|n| n as u32);
            let grid = [channels.div_ceil(256), rows.min(65_535), 1].map(|n| n as u32);
            self.run(&SHORT_CONV, &[], &params, &[(1, from), (2, taps.buffer().into()), (3, to)], grid)
        })?;
        Ok(out)
    }
}
