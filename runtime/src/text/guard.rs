//! [`guarded`]: calls into the tokenizers library, which panics on some vocabularies.

/// Calls the library, and catches its panics where they can be caught: not in WebAssembly.
pub(super) fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, &'static str> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).map_err(|_| "the tokenizers library panicked")
}
