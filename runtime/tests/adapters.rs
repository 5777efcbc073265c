//! A GPU can be found, opened and read from.

use haikuq_runtime::device::{Gpu, GpuOptions};

#[test]
fn memory_comes_back_as_it_was_uploaded() {
    let gpu = Gpu::open_blocking(&GpuOptions::default()).expect("an adapter; run scripts/setup.sh to install software Vulkan");
    let data: Vec<u32> = (0..1000).collect();
    let buffer = gpu.upload("data", &data);
    assert_eq!(pollster::block_on(gpu.read::<u32>(&buffer, 400, 500)).unwrap(), &data[100..600]);
    gpu.check().unwrap();
}

#[test]
fn an_unknown_adapter_is_refused_with_the_list_of_those_that_exist() {
    let error = match Gpu::open_blocking(&GpuOptions::new(Some("no such gpu".into()))) {
        Err(e) => e.to_string(),
        Ok(_) => panic!("opened an adapter that does not exist"),
    };
    assert!(error.contains("no such gpu") && error.contains("0: "), "{error}");
}
