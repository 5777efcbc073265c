//! Where `haikuq convert` computes: on a GPU, or on the processor.

use crate::output::Context;
use crate::output::units::parse_bytes;
use clap::{Args, ValueEnum};
use haikuq::convert;

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Device {
    /// A GPU if there is one that is faster than the processor
    Auto,
    /// The processor
    Cpu,
    /// A GPU, also a software one that --adapter names
    Gpu,
}

/// Options of the GPU.
#[derive(Args, Debug)]
pub struct DeviceArgs {
    /// Where calibrated recipes compute
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: Device,
    /// GPU memory that may be used (default: four fifths of a card's own, a quarter of what it shares with the processor)
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    gpu_memory: Option<u64>,
}

impl DeviceArgs {
    /// The choice, with the adapter that is asked for.
    pub fn choice(&self, context: &Context) -> convert::DeviceChoice {
        let device = match self.device {
            Device::Auto => convert::Device::Auto,
            Device::Cpu => convert::Device::Cpu,
            Device::Gpu => convert::Device::Gpu,
        };
        convert::DeviceChoice { device, adapter: context.adapter.clone(), gpu_memory: self.gpu_memory }
    }
}
