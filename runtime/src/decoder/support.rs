//! What of a [`DecoderSpec`] this runtime does. Everything else is refused before a byte of weights is read.

use super::DecoderError;
use crate::kernels::attention::MAX_HEAD_DIM;
use crate::kernels::{delta_net, mamba2};
use haikuq_format::DecoderSpec;

/// Checks that `spec` asks for nothing that the kernels do not do.
///
/// # Errors
/// [`DecoderError::Unsupported`] with the first such feature.
pub fn require_supported(spec: &DecoderSpec) -> Result<(), DecoderError> {
    let dims = spec.layers.iter().filter_map(|l| l.delta_net()).flat_map(|net| [net.key_dim, net.value_dim]);
    if let Some(dim) = dims.into_iter().find(|d| !d.is_multiple_of(4) || *d > delta_net::MAX_DIM) {
        let what = format!("heads of {dim} dimensions in a gated delta net (a multiple of 4 up to {} is)", delta_net::MAX_DIM);
        return Err(DecoderError::Unsupported { field: "key_dim", what });
    }
    for mamba in spec.layers.iter().filter_map(|l| l.mamba2()) {
        if !mamba.head_dim.is_multiple_of(4) {
            let what = format!("heads of {} dimensions in a Mamba mixer (multiples of 4 are)", mamba.head_dim);
            return Err(DecoderError::Unsupported { field: "head_dim", what });
        }
        if !mamba.state_size.is_multiple_of(4) || mamba.state_size > mamba2::MAX_STATE {
            let (size, most) = (mamba.state_size, mamba2::MAX_STATE);
            let what = format!("states of {size} numbers in a Mamba mixer (a multiple of 4 up to {most} is)");
            return Err(DecoderError::Unsupported { field: "state_size", what });
        }
    }
    if spec.layers.iter().any(|l| l.beside.is_some() && l.attention().is_none()) {
        let what = "two mixers of which none is attention".into();
        return Err(DecoderError::Unsupported { field: "beside", what });
    }
    let of_experts = spec.mlps().filter(|m| m.experts.is_some()).flat_map(|m| [m.up_size(), spec.hidden_size]);
    if let Some(rows) = of_experts.into_iter().find(|rows| !rows.is_multiple_of(4)) {
        let what = format!("experts' matrices of {rows} rows (a multiple of 4 is)");
        return Err(DecoderError::Unsupported { field: "intermediate_size", what });
    }
    let most = MAX_HEAD_DIM as usize;
    match spec.attentions().map(|a| a.head_dim).find(|d| !d.is_multiple_of(4) || *d > most) {
        Some(head_dim) => {
            let what = format!("heads of {head_dim} dimensions (a multiple of 4 up to {most} is)");
            Err(DecoderError::Unsupported { field: "head_dim", what })
        }
        None => Ok(()),
    }
}
