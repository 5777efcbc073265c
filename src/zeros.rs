//! [`zeros`]: large buffers that the system gives in large pages.

use bytemuck::Zeroable;

/// Bytes from which on it matters.
#[cfg(target_os = "linux")]
const LARGE: usize = 8 << 20;

/// `length` zeros.
///
/// Activations of a calibration text are buffers of up to a gigabyte that live for one product. The system clears each of
/// their pages when it is first written to; in pages of 4 KiB that took a tenth of a conversion's processor time.
pub fn zeros<T: Zeroable>(length: usize) -> Vec<T> {
    let out = bytemuck::zeroed_vec(length);
    #[cfg(target_os = "linux")]
    if size_of_val(&out[..]) >= LARGE {
        large_pages(&out);
    }
    out
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
}
