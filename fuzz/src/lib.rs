//! Fuzzing of everything in haikuq that reads what strangers write: see `fuzz/README.md`.
//!
//! A file in `fuzz_targets/` is a program with the driver of this crate, and under `cargo fuzz` a target of libFuzzer.

#[cfg(not(fuzzing))]
pub mod driver;
pub mod fixtures;
#[cfg(not(fuzzing))]
pub mod memory;
pub mod mutate;
pub mod random;
pub mod target;

/// Under libFuzzer a sanitizer has an allocator of its own.
#[cfg(not(fuzzing))]
#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// Makes a [`target::Target`] a program: that of the driver, or under `cargo fuzz` of libFuzzer.
#[macro_export]
macro_rules! fuzz_target {
    ($target:expr) => {
        static TARGET: $crate::target::Target = $target;

        #[cfg(not(fuzzing))]
        fn main() -> std::process::ExitCode {
            $crate::driver::main(&TARGET)
        }

        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|input: &[u8]| {
            let _ = (TARGET.run)(input);
        });
    };
}
