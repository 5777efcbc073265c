//! Where `haikuq convert` computes: on a GPU, or on the processor.

use crate::output::Context;
use crate::output::units::parse_bytes;
use clap::{Args, ValueEnum};
use haikuq::convert;

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Device {
    // A GPU if there is one that is faster than the processor.
    Auto,
    // The processor.
    Cpu,
    // A GPU, also a software one that --adapter names.
    Gpu,
}

/// Options of the GPU.
#[derive(Args, Debug)]
pub struct DeviceArgs {
    /// Computes calibrated recipes: cpu, gpu, or auto, which is the faster one
    #[arg(long, value_name = "DEVICE", default_value = "auto", hide_possible_values = true)]
    device: Device,
    /// GPU memory to use at most [default: 4/5 of a card's own, 1/4 of shared memory]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    gpu_memory: Option<u64>,
}

impl DeviceArgs {
    /// The choice, with the adapter that is asked for.
    pub fn choice(&self, context: &Context) -> convert::DeviceChoice {
        let mut choice = convert::DeviceChoice::default();
        choice.device = match self.device {
            Device::Auto => convert::Device::Auto,
            Device::Cpu => convert::Device::Cpu,
            Device::Gpu => convert::Device::Gpu,
        };
        choice.adapter = context.adapter.clone();
        choice.gpu_memory = self.gpu_memory;
        choice
    }
}
