//! The numbers of tensors as slices, for operations of our own on them.

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor};

/// What `f` makes of the numbers of a contiguous f32 tensor.
///
/// # Errors
/// If it is another kind of tensor.
pub fn with_numbers<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(f(numbers(storage, layout)?)),
        _ => candle_core::bail!("numbers that are not on the CPU"),
    }
}

/// The numbers that an operation gets.
///
/// # Errors
/// If they are not contiguous f32.
pub fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (layout.contiguous_offsets(), storage) {
        (Some((start, end)), CpuStorage::F32(all)) => Ok(&all[start..end]),
        _ => candle_core::bail!("contiguous f32 numbers are needed, not {layout:?}"),
    }
}
