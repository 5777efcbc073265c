//! What kernel tests share: devices, random numbers, comparisons.
#![allow(dead_code, reason = "each test program uses a part")]

pub mod steps;

use haikuq_runtime::device::{Dispatch, Gpu, GpuError, GpuOptions};
use haikuq_runtime::kernels::attention::{AttentionShape, PAGE, Token};
use haikuq_runtime::sampling::uniform;

/// The test adapter.
pub fn gpu() -> Gpu {
    open(&GpuOptions::default())
}

/// The test adapter, with all that it offers and without subgroups.
pub fn permutations() -> [(&'static str, Gpu); 2] {
    let mut without_subgroups = GpuOptions::default();
    without_subgroups.without_subgroups = true;
    [("all features", gpu()), ("without subgroups", open(&without_subgroups))]
}

fn open(options: &GpuOptions) -> Gpu {
    Gpu::open_blocking(options).expect("an adapter; run scripts/setup.sh to install software Vulkan")
}

/// Runs `dispatches` in order and reads `count` values of `buffer`.
pub fn run<T: bytemuck::Pod>(gpu: &Gpu, dispatches: &[&Dispatch], buffer: &wgpu::Buffer, count: usize) -> Vec<T> {
    gpu.run(dispatches);
    read(gpu, buffer, count).unwrap()
}

/// Reads `count` values from the start of `buffer`.
pub fn read<T: bytemuck::Pod>(gpu: &Gpu, buffer: &wgpu::Buffer, count: usize) -> Result<Vec<T>, GpuError> {
    pollster::block_on(gpu.read(buffer, 0, count))
}

/// Numbers that depend on a seed alone.
pub struct Random {
    seed: u64,
    step: u64,
}

impl Random {
    pub fn new(seed: u64) -> Self {
        Self { seed, step: 0 }
    }

    /// Uniform in [-1, 1).
    pub fn value(&mut self) -> f32 {
        self.step += 1;
        2.0 * uniform(self.seed, self.step) - 1.0
    }

    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    /// `rows` rows of `columns` random values, each followed by zeros up to `pitch`.
    pub fn rows(&mut self, rows: usize, columns: usize, pitch: usize) -> Vec<f32> {
        (0..rows * pitch).map(|i| if i % pitch < columns { self.value() } else { 0.0 }).collect()
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.step += 1;
        (uniform(self.seed, self.step) * n as f32) as usize
    }

    /// The numbers below `n` in random order.
    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

/// A page table whose rows are scattered over the pool, and the number of pages in the pool.
pub fn scattered_pages(random: &mut Random, shape: &AttentionShape, sequences: usize) -> (Vec<u32>, usize) {
    let used = sequences * shape.max_pages as usize;
    let mut pages = random.permutation(used + 3);
    pages.truncate(used);
    (pages, used + 3)
}

/// A token at `position` of `sequence`.
pub fn token(position: usize, sequence: usize) -> Token {
    Token { id: 0, position: position as u32, sequence: sequence as u32, long: 0 }
}

/// Pages for `tokens` tokens.
pub fn pages_for(tokens: usize) -> u32 {
    tokens.div_ceil(PAGE) as u32
}

/// Fails where a value differs by more than `tolerance`, absolute plus relative, or is not a number.
#[track_caller]
pub fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        let within = (a - b).abs() <= tolerance * (1.0 + b.abs());
        assert!(within, "{what}: value {i} is {a}, expected {b} (tolerance {tolerance})");
    }
}
