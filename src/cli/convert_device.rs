//! Where `haikuq convert` computes: on a GPU, or on the processor.

use super::Context;
use super::units::{human_bytes, parse_bytes};
use crate::accelerator::{Accelerator, AcceleratorError};
use clap::{Args, ValueEnum};
use std::sync::Arc;

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
    /// Whether the faster one is to be taken.
    pub fn is_auto(&self) -> bool {
        self.device == Device::Auto
    }

    /// The GPU that is asked for, if there is one.
    ///
    /// # Errors
    /// If a GPU is asked for and none opens.
    pub fn open(&self, context: &Context) -> anyhow::Result<Option<Arc<Accelerator>>> {
        if self.device == Device::Cpu {
            return Ok(None);
        }
        let named = context.adapter.as_deref();
        let opened = match (Accelerator::open(named, self.gpu_memory), self.device) {
            (Ok(gpu), Device::Auto) if gpu.is_software() => return Ok(None),
            // A machine without a GPU is no news, unless one was named.
            (Err(AcceleratorError::Software { .. }), Device::Auto) => return Ok(None),
            (Err(error), Device::Auto) => {
                if named.is_some() {
                    context.note(format_args!("the processor computes: {error}"));
                }
                return Ok(None);
            }
            (opened, _) => opened?,
        };
        let memory = human_bytes(opened.memory().1);
        context.note(format_args!("{} computes, with up to {memory} of its memory", opened.description().name));
        Ok(Some(Arc::new(opened)))
    }
}
