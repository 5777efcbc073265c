//! [`zeros`]: large buffers that the system gives in large pages, and takes back late.

use bytemuck::Zeroable;
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes from which on it matters.
const LARGE: usize = 8 << 20;

/// Numbers that a thread clears at a time.
const PART: usize = 1 << 18;

/// Whether buffers are made of what others left.
static KEPT: AtomicBool = AtomicBool::new(false);

/// `length` zeros.
///
/// Activations of a calibration text are buffers of up to a gigabyte that live for one product. The system clears each of
/// their pages when it is first written to; in pages of 4 KiB that took a tenth of a conversion's processor time.
pub fn zeros<T: Zeroable + Copy + Send>(length: usize) -> Vec<T> {
    if length * size_of::<T>() < LARGE {
        return bytemuck::zeroed_vec(length);
    }
    if KEPT.load(Ordering::Relaxed) {
        return cleared(length);
    }
    let out = bytemuck::zeroed_vec(length);
    #[cfg(target_os = "linux")]
    large_pages(&out);
    out
}

/// Memory that was used before, which all threads clear.
fn cleared<T: Zeroable + Copy + Send>(length: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(length);
    #[cfg(target_os = "linux")]
    large_pages(out.spare_capacity_mut());
    let spare = &mut out.spare_capacity_mut()[..length];
    spare.par_chunks_mut(PART).for_each(|part| part.fill(MaybeUninit::new(T::zeroed())));
    // SAFETY: so many were written just now.
    unsafe { out.set_len(length) };
    out
}

/// From now on the process keeps the memory of large buffers that are freed, for the next ones. A program that makes many of
/// them calls it once, first.
///
/// The C library gives them back to the system at once, which then has to find and to clear pages for the next one: 8 % of a
/// calibrated conversion's time on 2 cores. Only glibc is told so.
pub fn keep_large_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // One heap for all threads, since others are of 64 MiB at most; nothing outside it; and it never shrinks.
        let settings = [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_MAX, 0), (libc::M_TRIM_THRESHOLD, -1)];
        // SAFETY: mallopt may be called at any time, and takes numbers.
        let kept = settings.iter().all(|&(setting, value)| unsafe { libc::mallopt(setting, value) } == 1);
        KEPT.store(kept, Ordering::Relaxed);
    }
}

/// Gives back what is kept and free: between two parts of the work whose buffers have other sizes.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if KEPT.load(Ordering::Relaxed) {
        // SAFETY: malloc_trim may be called at any time.
        unsafe { libc::malloc_trim(0) };
    }
}

/// Asks for large pages where the buffer has whole ones. A system without them goes on with small ones.
#[cfg(target_os = "linux")]
fn large_pages<T>(buffer: &[T]) {
    use rustix::mm::{Advice, madvise};
    const PAGE: usize = 2 << 20;
    let start = buffer.as_ptr() as usize;
    let (first, end) = (start.next_multiple_of(PAGE), (start + size_of_val(buffer)) / PAGE * PAGE);
    if first < end {
        // SAFETY: the range lies within the buffer, and the advice changes no contents.
        let _ = unsafe { madvise(first as *mut _, end - first, Advice::LinuxHugepage) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_zero_whatever_their_number() {
        for length in [0, 1, (3 << 20) + 5] {
            let out: Vec<f32> = zeros(length);
            assert_eq!(out.len(), length);
            assert!(out.iter().all(|x| *x == 0.0));
        }
    }

    #[test]
    fn memory_that_was_used_is_cleared() {
        for length in [1, PART, 2 * PART + 5] {
            drop(vec![1.5f32; length]);
            let out: Vec<f32> = cleared(length);
            assert!(out.len() == length && out.iter().all(|x| x.to_bits() == 0), "{length}");
        }
    }
}
