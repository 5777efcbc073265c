//! Where a conversion computes: on a GPU, or on the processor.

use super::{Event, Note};
use crate::accelerator::{Accelerator, AcceleratorError};
use crate::calibrate;
use crate::convert::{ConvertError, Speeds, calibrated};
use haikuq_format::DecoderSpec;
use std::sync::Arc;

/// Where to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// A GPU if there is one that is faster than the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A GPU, also a software one that is named.
    Gpu,
}

/// Where calibrated recipes compute, and on which GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceChoice {
    /// Where.
    pub device: Device,
    /// The GPU, by a part of its name or its number; the fastest if absent.
    pub adapter: Option<String>,
    /// Bytes of GPU memory that may be used; if absent, four fifths of a card's own, a quarter of what it shares with the
    /// processor.
    pub gpu_memory: Option<u64>,
}

impl DeviceChoice {
    /// The GPU to use, if one is, and how fast the machine is with it. `time` estimates a conversion at given speeds.
    ///
    /// # Errors
    /// If a GPU is asked for and none opens.
    pub(super) fn choose(
        &self,
        threads: &rayon::ThreadPool,
        spec: &DecoderSpec,
        time: impl Fn(Speeds) -> f64,
        observe: &(dyn Fn(Event) + Sync),
    ) -> Result<(Option<Arc<Accelerator>>, Speeds), ConvertError> {
        let accelerator = self.open(observe)?;
        let with_gpu = threads.install(|| Speeds::measure(accelerator.as_deref()));
        let alone = Speeds { gpu: None, ..with_gpu };
        let Some(accelerator) = accelerator else { return Ok((None, alone)) };
        if self.device == Device::Auto {
            let tokens = calibrate::Options::default().window_tokens.min(spec.max_context);
            if !calibrated::has_room(&accelerator, spec, tokens) {
                let (name, memory) = (&accelerator.description().name, accelerator.memory().1);
                observe(Event::Note(Note::NoRoom { name, memory }));
                return Ok((None, alone));
            }
            let (gpu, processor) = (time(with_gpu), time(alone));
            if processor < gpu {
                observe(Event::Note(Note::ProcessorIsFaster { gpu, processor }));
                return Ok((None, alone));
            }
        }
        let (name, memory) = (&accelerator.description().name, accelerator.memory().1);
        observe(Event::Note(Note::OnGpu { name, memory }));
        Ok((Some(accelerator), with_gpu))
    }

    fn open(&self, observe: &(dyn Fn(Event) + Sync)) -> Result<Option<Arc<Accelerator>>, AcceleratorError> {
        if self.device == Device::Cpu {
            return Ok(None);
        }
        let named = self.adapter.as_deref();
        match (Accelerator::open(named, self.gpu_memory), self.device) {
            (Ok(gpu), Device::Auto) if gpu.is_software() => Ok(None),
            // A machine without a GPU is no news, unless one was named.
            (Err(AcceleratorError::Software { .. }), Device::Auto) => Ok(None),
            (Err(error), Device::Auto) => {
                if named.is_some() {
                    observe(Event::Note(Note::NoGpu(&error)));
                }
                Ok(None)
            }
            (opened, _) => opened.map(|gpu| Some(Arc::new(gpu))),
        }
    }
}
