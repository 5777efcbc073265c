//! The bandwidth kernel reads every word exactly once.

use haikuq_runtime::device::{Gpu, GpuOptions};
use haikuq_runtime::kernels::stream_read::StreamRead;

#[test]
fn every_word_is_read_once() {
    let gpu = Gpu::open_blocking(&GpuOptions::default()).unwrap();
    for words in [4, 1000, 3_000_000u32] {
        let data: Vec<u32> = (0..words).map(|i| i.wrapping_mul(2_654_435_761)).collect();
        let (data_buffer, sums) = (gpu.upload("data", &data), gpu.storage("sums", StreamRead::SUMS as u64 * 4));
        gpu.run(&[&StreamRead { data: &data_buffer, sums: &sums }.bind(&gpu).unwrap()]);
        let sums: Vec<u32> = pollster::block_on(gpu.read(&sums, 0, StreamRead::SUMS)).unwrap();
        assert_eq!(StreamRead::cpu(&sums), StreamRead::cpu(&data), "{words} words");
    }
}
