//! Headers of safetensors files that are no checkpoints: golden outputs and calibrations.

/// Largest header of a safetensors file that is no checkpoint, and most tensors in it.
const MAX_HEADER_BYTES: u64 = 16 << 20;
const MAX_TENSORS: usize = 1 << 14;

/// Refuses files of safetensors whose headers take many times their size in memory: the library takes any.
///
/// # Errors
/// In words.
pub(crate) fn check_header(bytes: &[u8]) -> Result<(), String> {
    let length = bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    if length > MAX_HEADER_BYTES {
        return Err(format!("its header says that it has {length} bytes, over the limit of {MAX_HEADER_BYTES}"));
    }
    let header = bytes.get(8..8 + length as usize).unwrap_or_default();
    // Each tensor has one.
    let tensors = header.split(|b| *b == b'"').filter(|part| *part == b"data_offsets").count();
    match tensors > MAX_TENSORS {
        true => Err(format!("its header has {tensors} tensors, over the limit of {MAX_TENSORS}")),
        false => Ok(()),
    }
}
