//! Statements about the accelerator, on whatever adapter there is; programs on the processor are named.

use super::{Accelerator, AcceleratorError};
use crate::matmul;

/// The first adapter, which on systems for tests is a program on the processor.
pub(super) fn accelerator() -> Accelerator {
    Accelerator::open(Some("0"), None).expect("an adapter; run scripts/setup.sh to install software Vulkan")
}

/// The same device with buffers of so few bytes that matrices take several.
pub(super) fn in_panels(bytes: u64, accelerator: &mut Accelerator) -> &Accelerator {
    accelerator.panel_bytes = bytes;
    accelerator
}

/// Bytes of a row of so many columns.
pub(super) fn row_bytes(columns: usize) -> u64 {
    4 * columns.next_multiple_of(32) as u64
}

/// Numbers between −1 and 1.
pub(super) fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Every number within `part` of the largest.
pub(super) fn assert_close(name: &str, a: &[f32], b: &[f32], part: f32) {
    assert_eq!(a.len(), b.len(), "{name}");
    let largest = b.iter().fold(0.0f32, |a, b| a.max(b.abs()));
    let (at, worst) = a.iter().zip(b).map(|(a, b)| (a - b).abs()).enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert!(worst <= part * largest, "{name}: {} is not {} (number {at}; the largest is {largest})", a[at], b[at]);
}

#[test]
fn what_was_uploaded_comes_back() {
    let many = 3 * (32 << 20) / 4 / 96 + 5;
    let (mut accelerator, whole) = (accelerator(), accelerator().panel_bytes);
    for (panels, rows, columns) in [(whole, many, 95), (whole, 7, 64), (128 * 128, 400, 30)] {
        let accelerator = in_panels(panels, &mut accelerator);
        let values = numbers(rows * columns, 1);
        let matrix = accelerator.upload(&values, columns).unwrap();
        assert!(accelerator.download(&matrix).unwrap() == values, "{rows} × {columns}");
        let mut some = vec![0.0; 3 * columns];
        accelerator.read(&matrix, rows - 4, &mut some).unwrap();
        assert_eq!(some, values[(rows - 4) * columns..(rows - 1) * columns]);
    }
}

#[test]
fn products_are_those_of_the_processor() {
    // Sizes around those of tiles, and sums that are long enough to be cut.
    let (mut accelerator, whole) = (accelerator(), accelerator().panel_bytes);
    for (n, columns, rows) in [(1, 1, 1), (5, 3, 130), (129, 33, 127), (200, 1040, 256), (64, 16, 300)] {
        for panels in [whole, 128 * row_bytes(columns).max(row_bytes(rows))] {
            let accelerator = in_panels(panels, &mut accelerator);
            let (x, w, y) = (numbers(n * columns, 1), numbers(rows * columns, 2), numbers(columns * rows, 3));
            let name = format!("{n} × {columns} × {rows}");
            let (gpu_x, gpu_w) = (accelerator.upload(&x, columns).unwrap(), accelerator.upload(&w, columns).unwrap());
            let gpu_y = accelerator.upload(&y, rows).unwrap();
            let product = accelerator.times_transposed(&gpu_x, &gpu_w).unwrap();
            let twin = matmul::times_transposed(&x, &w, columns);
            assert_close(&name, &accelerator.download(&product).unwrap(), &twin, 1e-5);
            let product = accelerator.times(&gpu_x, &gpu_y).unwrap();
            assert_close(&name, &accelerator.download(&product).unwrap(), &matmul::times(&x, &y, columns), 1e-5);
        }
    }
}

#[test]
fn moments_are_those_of_the_processor() {
    let (mut accelerator, whole) = (accelerator(), accelerator().panel_bytes);
    for (n, p, q) in [(1, 3, 2), (1000, 40, 150), (1601, 257, 70)] {
        for panels in [whole, 128 * row_bytes(p).max(row_bytes(q))] {
            let accelerator = in_panels(panels, &mut accelerator);
            let (a, b) = (numbers(n * p, 4), numbers(n * q, 5));
            let (gpu_a, gpu_b) = (accelerator.upload(&a, p).unwrap(), accelerator.upload(&b, q).unwrap());
            let name = format!("{n} × {p}, {q}");
            let cross = accelerator.download(&accelerator.cross(&gpu_a, &gpu_b).unwrap()).unwrap();
            assert_close(&name, &cross, &matmul::cross(&a, &b, p, q), 1e-5);
            let gram = accelerator.download(&accelerator.gram(&gpu_a).unwrap()).unwrap();
            assert_close(&name, &gram, &matmul::gram(&a, p), 1e-5);
            assert!((0..p * p).all(|i| gram[i] == gram[i % p * p + i / p]), "{name} is symmetric");
            let mut twice = accelerator.cross(&gpu_a, &gpu_b).unwrap();
            accelerator.add_cross(&gpu_a, &gpu_b, 1.0 / n as f32, &mut twice).unwrap();
            let doubled: Vec<f32> = cross.iter().map(|x| 2.0 * x).collect();
            assert_close(&name, &accelerator.download(&twice).unwrap(), &doubled, 1e-6);
        }
    }
}

#[test]
fn moments_are_shrunk_towards_their_diagonals() {
    let mut accelerator = accelerator();
    let (columns, whole) = (300, accelerator.panel_bytes);
    let (values, added) = (numbers(columns * columns, 8), numbers(columns, 9));
    for panels in [whole, 128 * row_bytes(columns)] {
        let accelerator = in_panels(panels, &mut accelerator);
        let mut square = accelerator.upload(&values, columns).unwrap();
        let diagonal: Vec<f32> = values.iter().step_by(columns + 1).copied().collect();
        assert_eq!(accelerator.diagonal(&square).unwrap(), diagonal);
        accelerator.shrink(&mut square, 0.2, &added).unwrap();
        let number = |(i, x): (usize, &f32)| if i % (columns + 1) == 0 { x + added[i / columns] } else { (1.0 - 0.2) * x };
        let twin: Vec<f32> = values.iter().enumerate().map(number).collect();
        assert_close("shrunk", &accelerator.download(&square).unwrap(), &twin, 1e-6);
    }
}

#[test]
fn results_are_the_same_bits_every_time() {
    let accelerator = accelerator();
    let (x, w) = (numbers(300 * 500, 6), numbers(70 * 500, 7));
    let once = || {
        let (x, w) = (accelerator.upload(&x, 500).unwrap(), accelerator.upload(&w, 500).unwrap());
        let product = accelerator.download(&accelerator.times_transposed(&x, &w).unwrap()).unwrap();
        (product, accelerator.download(&accelerator.gram(&x).unwrap()).unwrap())
    };
    assert!(once() == once());
}

#[test]
fn memory_is_counted_and_bounded() {
    let accelerator = Accelerator::open(Some("0"), Some(1 << 20)).unwrap();
    let first = accelerator.zeros(1000, 128).unwrap();
    assert_eq!(accelerator.memory(), (512_000, 1 << 20));
    let Err(AcceleratorError::Memory { needed, used, limit }) = accelerator.zeros(2000, 128) else {
        panic!("there is no room for another megabyte");
    };
    assert_eq!((needed, used, limit), (1_024_000, 512_000, 1 << 20));
    drop(first);
    assert!(accelerator.zeros(2000, 128).is_ok() && accelerator.memory().0 == 0);
}

#[test]
fn a_program_on_the_processor_is_no_gpu_unless_it_is_named() {
    let named = accelerator();
    match Accelerator::open(None, None) {
        Ok(found) => assert!(!found.description().software),
        Err(AcceleratorError::Software { name }) => assert_eq!(name, named.description().name),
        Err(other) => panic!("{other}"),
    }
}
