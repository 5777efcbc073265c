//! [`Event`]: a conversion's reports.

use super::Planned;
use crate::accelerator::AcceleratorError;
use crate::calibrate::CalibrationError;
use crate::convert::Progress;
use std::path::Path;

/// A report of a conversion under way.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Something about the checkpoint that its user should know, in a sentence.
    Warning(&'a str),
    /// Something about the conversion that its user should know.
    Note(Note<'a>),
    /// Calibration has done so many of its steps.
    Calibrating {
        /// Steps done.
        done: usize,
        /// All steps.
        steps: usize,
    },
    /// The plan is made, and rounding begins.
    Planned(&'a Planned),
    /// Where rounding stands.
    Progress(Progress<'a>),
}

/// A decision, or a failure that the conversion goes on after.
#[derive(Debug)]
#[non_exhaustive]
pub enum Note<'a> {
    /// A GPU computes.
    OnGpu {
        /// Its name.
        name: &'a str,
        /// Bytes of its memory that may be used.
        memory: u64,
    },
    /// The processor computes, since the GPU that was named does not open.
    NoGpu(&'a AcceleratorError),
    /// The processor computes, since the GPU has no room for a layer.
    NoRoom {
        /// Its name.
        name: &'a str,
        /// Bytes of its memory that may be used.
        memory: u64,
    },
    /// The processor computes, since it is faster than the GPU.
    ProcessorIsFaster {
        /// Seconds that the GPU would take.
        gpu: f64,
        /// Seconds that the processor takes.
        processor: f64,
    },
    /// The time that all of it takes, in seconds.
    Expected {
        /// Seconds.
        seconds: f64,
    },
    /// Nobody named a text.
    BuiltInText,
    /// An interrupted run's calibration is used.
    CalibrationTakenUp,
    /// An interrupted run's calibration cannot be used.
    CalibratingAgain(&'a CalibrationError),
    /// The GPU failed while it calibrated, and the processor did the rest.
    GpuFailed(&'a AcceleratorError),
    /// Memory is short, so that activations wait on disk.
    Spilling {
        /// The part of the work that would take too much.
        part: &'static str,
        /// Bytes of memory that are free.
        free: u64,
        /// Bytes that it would take at most.
        all: u64,
        /// Bytes that it takes at most now.
        less: u64,
        /// The folder.
        folder: &'a Path,
    },
}
