//! What of a [`DecoderSpec`] this runtime does. Everything else is refused before a byte of weights is read.

use super::DecoderError;
use haikuq_format::DecoderSpec;

/// Checks that `spec` asks for nothing that the kernels do not do.
///
/// # Errors
/// [`DecoderError::Unsupported`] with the first such feature.
pub fn require_supported(spec: &DecoderSpec) -> Result<(), DecoderError> {
    if !spec.head_dim.is_multiple_of(4) || spec.head_dim > 256 {
        let what = format!("heads of {} dimensions (a multiple of 4 up to 256 is)", spec.head_dim);
        return Err(DecoderError::Unsupported { field: "head_dim", what });
    }
    Ok(())
}
