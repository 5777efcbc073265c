//! Tiles of sums of outer products: how their work is cut, whatever kernel does it.

use faer::MatMut;
use rayon::prelude::*;

/// Rows and columns of a tile, by the size of the whole: small ones have tiles for many threads still.
pub(super) fn side(p: usize) -> usize {
    match p {
        4096.. => 256,
        1024.. => 128,
        _ => 64,
    }
}

/// Calls `fill` with each tile `(i, j)` of the row-major `out`, whose rows have `q` numbers.
pub(super) fn fill_tiles(out: &mut [f32], q: usize, side: usize, fill: impl Fn(usize, usize, MatMut<'_, f32>) + Sync) {
    out.par_chunks_mut(side * q).enumerate().for_each(|(i, out)| {
        let rows = out.len() / q;
        let tiles = MatMut::from_row_major_slice_mut(out, rows, q).par_col_chunks_mut(side);
        tiles.enumerate().for_each(|(j, out)| fill(i, j, out));
    });
}

/// Calls `fill` with each whole tile `(i, j)` of the row-major `[p, p]` that has some of the lower triangle.
pub(super) fn fill_lower_tiles(out: &mut [f32], p: usize, side: usize, fill: impl Fn(usize, usize, MatMut<'_, f32>) + Sync) {
    out.par_chunks_mut(side * p).enumerate().for_each(|(i, out)| {
        let (first, rows) = (i * side, out.len() / p);
        let tiles = MatMut::from_row_major_slice_mut(out, rows, p).subcols_mut(0, first + rows);
        tiles.par_col_chunks_mut(side).enumerate().for_each(|(j, out)| fill(i, j, out));
    });
}

/// Makes means of sums over `n` rows.
pub(super) fn scale(out: &mut [f32], n: usize) {
    let by = 1.0 / n.max(1) as f32;
    out.par_chunks_mut(1 << 16).for_each(|part| part.iter_mut().for_each(|v| *v *= by));
}

/// Copies the lower triangle over the upper one.
pub(super) fn mirror(out: &mut [f32], p: usize, side: usize) {
    // Tile by tile: a column of a wide matrix is in no cache. The upper tiles of a strip of rows are the lower ones below it.
    for first in (0..p).step_by(side) {
        let (above, below) = out.split_at_mut((p.min(first + side)) * p);
        let strip = &mut above[first * p..];
        for r in 0..strip.len() / p {
            for c in first + r + 1..p.min(first + side) {
                strip[r * p + c] = strip[(c - first) * p + first + r];
            }
        }
        if below.is_empty() {
            break;
        }
        let below = &*below;
        strip.par_chunks_mut(p).enumerate().for_each(|(r, row)| {
            let from = below[first + r..].iter().step_by(p);
            row[p.min(first + side)..].iter_mut().zip(from).for_each(|(to, x)| *to = *x);
        });
    }
}
