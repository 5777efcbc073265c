//! [`Kernel`]: the innermost loop, for each kind of CPU.

use super::pack::{Block, Packed};
use super::{PAIRS, TILE};
use faer::MatMut;

/// Numbers between two rows of a tile: rows a power of two apart would share a few lines of each cache.
const STRIDE: usize = TILE + 16;

/// The fastest way to multiply integers that a CPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// One multiplication at a time.
    #[cfg_attr(not(test), expect(dead_code, reason = "what the others are compared with"))]
    Plain,
    /// Eight sums a vector.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Sixteen sums a vector, multiplied and added in one instruction.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
}

/// A part of a panel of the left side, a panel of the right side, and where the sums of their product go.
struct Panels<'a> {
    /// From the first row's first pair on.
    a: &'a [i32],
    a_scales: &'a [f32],
    b: &'a [i32],
    b_scales: &'a [f32],
    /// From the first sum on; rows are [`STRIDE`] apart.
    out: &'a mut [f32],
}

impl Kernel {
    /// The fastest on this CPU, if any is faster than f32.
    pub(super) fn of_this_cpu() -> Option<Self> {
        Self::all_of_this_cpu().next_back()
    }

    /// All that this CPU can run, the fastest last.
    pub(super) fn all_of_this_cpu() -> impl DoubleEndedIterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let kernels = [
            (Self::Avx2, is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")),
            (Self::Avx512Vnni, is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni")),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let kernels: [(Self, bool); 0] = [];
        kernels.into_iter().filter(|(_, there)| *there).map(|(kernel, _)| kernel)
    }

    #[cfg(test)]
    pub(super) fn plain() -> Self {
        Self::Plain
    }

    /// Rows that are multiplied at a time.
    fn rows(self) -> usize {
        match self {
            Self::Plain => 2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::AVX2_ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => x86::AVX512_ROWS,
        }
    }

    /// Lanes in a panel: columns that are multiplied at a time, and a multiple of as many rows.
    pub(super) fn panel(self) -> usize {
        match self {
            Self::Plain => 4,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::AVX2_COLUMNS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => x86::AVX512_COLUMNS,
        }
    }

    /// Adds a tile of a product to the row-major `out`: a strip of `a` times one of `b`.
    pub(super) fn tile(self, (a, i): (&Packed, usize), (b, j): (&Packed, usize), mut out: MatMut<'_, f32>) {
        assert_eq!((a.panel(), b.panel(), a.terms()), (self.panel(), self.panel(), b.terms()));
        let rows = out.nrows().div_ceil(self.rows());
        let mut sums = vec![0.0; rows * self.rows() * STRIDE];
        for (a, b) in a.strip(i).zip(b.strip(j)) {
            self.block(a, b, rows, &mut sums);
        }
        for (r, sums) in sums.chunks_exact(STRIDE).take(out.nrows()).enumerate() {
            let row = out.as_mut().row_mut(r).try_as_row_major_mut().expect("a row-major matrix");
            row.as_slice_mut().iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
        }
    }

    /// One block's part of a tile, which has `count` times [`Kernel::rows`] rows.
    fn block(self, a: Block<'_>, b: Block<'_>, count: usize, sums: &mut [f32]) {
        let (rows, panel, pairs) = (self.rows(), self.panel(), b.count);
        for (j, (b, b_scales)) in b.pairs.chunks_exact(panel * PAIRS).zip(b.scales.chunks_exact(panel)).enumerate() {
            let b = &b[..panel * pairs];
            for i in 0..count {
                let first = i * rows;
                let a_scales = &a.scales[first..first + rows];
                let a = &a.pairs[first / panel * panel * PAIRS + first % panel..][..panel * (pairs - 1) + rows];
                let out = &mut sums[first * STRIDE + j * panel..][..(rows - 1) * STRIDE + panel];
                self.panels(Panels { a, a_scales, b, b_scales, out });
            }
        }
    }

    fn panels(self, panels: Panels<'_>) {
        match self {
            Self::Plain => plain(panels),
            // SAFETY: such a kernel is one of `all_of_this_cpu`, and `block` cuts slices of the sizes that it needs.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { x86::avx2(panels) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => unsafe { x86::avx512_vnni(panels) },
        }
    }
}

/// The definition.
fn plain(panels: Panels<'_>) {
    let Panels { a, a_scales, b, b_scales, out } = panels;
    let columns = b_scales.len();
    let halves = |pair: i32| [pair << 16 >> 16, pair >> 16];
    for (r, &a_scale) in a_scales.iter().enumerate() {
        for (c, &b_scale) in b_scales.iter().enumerate() {
            let terms = a[r..].iter().step_by(columns).zip(b[c..].iter().step_by(columns));
            let sum = terms.fold(0i32, |sum, (a, b)| {
                let ([a0, a1], [b0, b1]) = (halves(*a), halves(*b));
                sum.wrapping_add(a0.wrapping_mul(b0)).wrapping_add(a1.wrapping_mul(b1))
            });
            let out = &mut out[r * STRIDE + c];
            *out = (sum as f32).mul_add(a_scale * b_scale, *out);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![expect(clippy::needless_range_loop, reason = "loops that are unrolled whole keep their sums in registers")]

    use super::{Panels, STRIDE};
    use std::arch::x86_64::{
        _mm256_add_epi32, _mm256_cvtepi32_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16,
        _mm256_mul_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_si256, _mm256_storeu_ps, _mm512_cvtepi32_ps,
        _mm512_dpwssd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mul_ps, _mm512_set1_epi32,
        _mm512_set1_ps, _mm512_setzero_si512, _mm512_storeu_ps,
    };

    pub(super) const AVX2_ROWS: usize = 4;
    pub(super) const AVX2_COLUMNS: usize = 16;
    pub(super) const AVX512_ROWS: usize = 8;
    pub(super) const AVX512_COLUMNS: usize = 32;

    /// # Safety
    /// The CPU has AVX2 and FMA. Of `n` pairs, `b` has `n` times [`AVX2_COLUMNS`] numbers and `a` [`AVX2_ROWS`] in each of
    /// `n` steps of so many; there are as many scales, and `out` ends with the last row's last column.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(panels: Panels<'_>) {
        const VECTOR: usize = 8;
        let Panels { a, a_scales, b, b_scales, out } = panels;
        let pairs = b.len() / AVX2_COLUMNS;
        debug_assert_eq!((a.len(), b.len()), (AVX2_COLUMNS * (pairs - 1) + AVX2_ROWS, AVX2_COLUMNS * pairs));
        debug_assert_eq!((a_scales.len(), b_scales.len()), (AVX2_ROWS, AVX2_COLUMNS));
        debug_assert_eq!(out.len(), (AVX2_ROWS - 1) * STRIDE + AVX2_COLUMNS);
        let mut sums = [[_mm256_setzero_si256(); 2]; AVX2_ROWS];
        let (a, b) = (a.as_ptr(), b.as_ptr());
        // SAFETY: the caller's slices have these lengths.
        unsafe {
            for pair in 0..pairs {
                let (a, b) = (a.add(pair * AVX2_COLUMNS), b.add(pair * AVX2_COLUMNS));
                let right = [_mm256_loadu_si256(b.cast()), _mm256_loadu_si256(b.add(VECTOR).cast())];
                for i in 0..AVX2_ROWS {
                    let left = _mm256_set1_epi32(*a.add(i));
                    sums[i][0] = _mm256_add_epi32(sums[i][0], _mm256_madd_epi16(left, right[0]));
                    sums[i][1] = _mm256_add_epi32(sums[i][1], _mm256_madd_epi16(left, right[1]));
                }
            }
            let (a_scales, b_scales, out) = (a_scales.as_ptr(), b_scales.as_ptr(), out.as_mut_ptr());
            let right = [_mm256_loadu_ps(b_scales), _mm256_loadu_ps(b_scales.add(VECTOR))];
            for i in 0..AVX2_ROWS {
                let left = _mm256_set1_ps(*a_scales.add(i));
                for c in 0..2 {
                    let to = out.add(i * STRIDE + c * VECTOR);
                    let sum = _mm256_cvtepi32_ps(sums[i][c]);
                    _mm256_storeu_ps(to, _mm256_fmadd_ps(sum, _mm256_mul_ps(left, right[c]), _mm256_loadu_ps(to)));
                }
            }
        }
    }

    /// # Safety
    /// The CPU has AVX-512 with its dot products. Of `n` pairs, `b` has `n` times [`AVX512_COLUMNS`] numbers and `a`
    /// [`AVX512_ROWS`] in each of `n` steps of so many; there are as many scales, and `out` ends with the last row's last column.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn avx512_vnni(panels: Panels<'_>) {
        const VECTOR: usize = 16;
        let Panels { a, a_scales, b, b_scales, out } = panels;
        let pairs = b.len() / AVX512_COLUMNS;
        debug_assert_eq!((a.len(), b.len()), (AVX512_COLUMNS * (pairs - 1) + AVX512_ROWS, AVX512_COLUMNS * pairs));
        debug_assert_eq!((a_scales.len(), b_scales.len()), (AVX512_ROWS, AVX512_COLUMNS));
        debug_assert_eq!(out.len(), (AVX512_ROWS - 1) * STRIDE + AVX512_COLUMNS);
        let mut sums = [[_mm512_setzero_si512(); 2]; AVX512_ROWS];
        let (a, b) = (a.as_ptr(), b.as_ptr());
        // SAFETY: the caller's slices have these lengths.
        unsafe {
            for pair in 0..pairs {
                let (a, b) = (a.add(pair * AVX512_COLUMNS), b.add(pair * AVX512_COLUMNS));
                let right = [_mm512_loadu_si512(b.cast()), _mm512_loadu_si512(b.add(VECTOR).cast())];
                for i in 0..AVX512_ROWS {
                    let left = _mm512_set1_epi32(*a.add(i));
                    sums[i][0] = _mm512_dpwssd_epi32(sums[i][0], left, right[0]);
                    sums[i][1] = _mm512_dpwssd_epi32(sums[i][1], left, right[1]);
                }
            }
            let (a_scales, b_scales, out) = (a_scales.as_ptr(), b_scales.as_ptr(), out.as_mut_ptr());
            let right = [_mm512_loadu_ps(b_scales), _mm512_loadu_ps(b_scales.add(VECTOR))];
            for i in 0..AVX512_ROWS {
                let left = _mm512_set1_ps(*a_scales.add(i));
                for c in 0..2 {
                    let to = out.add(i * STRIDE + c * VECTOR);
                    let sum = _mm512_cvtepi32_ps(sums[i][c]);
                    _mm512_storeu_ps(to, _mm512_fmadd_ps(sum, _mm512_mul_ps(left, right[c]), _mm512_loadu_ps(to)));
                }
            }
        }
    }
}
