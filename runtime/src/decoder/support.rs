//! What of a [`DecoderSpec`] this runtime does. Everything else is refused before a byte of weights is read.

use super::DecoderError;
use haikuq_format::spec::{DecoderSpec, NormKind, NormPlacement, QkNorm, Residual};

/// Checks that `spec` asks for nothing that the kernels do not do.
///
/// # Errors
/// [`DecoderError::Unsupported`] with the first such feature.
pub fn require_supported(spec: &DecoderSpec) -> Result<(), DecoderError> {
    let no = |field, what: &str| Err(DecoderError::Unsupported { field, what: what.into() });
    if spec.norm.kind == NormKind::Layer {
        return no("norm.kind", "layer normalization");
    }
    if spec.norm_placement != NormPlacement::Pre {
        return no("norm_placement", "norms after a block");
    }
    if spec.residual != Residual::Sequential {
        return no("residual", "parallel residual connections");
    }
    if spec.learned_positions {
        return no("learned_positions", "learned position embeddings");
    }
    if spec.qk_norm == Some(QkNorm::Whole) {
        return no("qk_norm", "query and key norms over all heads together");
    }
    if !spec.head_dim.is_multiple_of(4) || spec.head_dim > 256 {
        return no("head_dim", &format!("heads of {} dimensions (a multiple of 4 up to 256 is)", spec.head_dim));
    }
    Ok(())
}
