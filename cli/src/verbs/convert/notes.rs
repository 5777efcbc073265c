//! The notes of a conversion, in words.

use crate::output::units::{duration, human_bytes};
use haikuq::convert::Note;

/// A note as a sentence.
pub fn words(note: &Note<'_>) -> String {
    match note {
        Note::OnGpu { name, memory } => format!("{name} computes, with up to {} of its memory", human_bytes(*memory)),
        Note::NoGpu(error) => format!("the processor computes: {error}"),
        Note::NoRoom { name, memory } => {
            format!("the processor computes: {name} has no room for a layer in {} of its memory", human_bytes(*memory))
        }
        Note::ProcessorIsFaster { gpu, processor } => format!(
            "the processor computes, in about {}; --device gpu uses the GPU, which would take about {}",
            duration(*processor),
            duration(*gpu)
        ),
        Note::Expected { seconds } => format!("this will take about {} in all", duration(*seconds)),
        Note::BuiltInText => "calibrating on the built-in text; --calibration FILE takes one like what the model will see".into(),
        Note::CalibrationTakenUp => "the calibration of the interrupted run is taken up".into(),
        Note::CalibratingAgain(error) => format!("calibrating again: {error}"),
        Note::GpuFailed(error) => format!("the processor computed what the GPU could not: {error}"),
        Note::Spilling { part, free, all, less, folder } => {
            let enough = if less <= free { "" } else { ", which may still be too much: fewer windows (--calibration) take less" };
            let [all, less, free] = [all, less, free].map(|bytes| human_bytes(*bytes));
            format!(
                "{free} of memory are free and {part} would take up to {all}: activations wait on disk, in {}; that leaves up \
                 to {less}{enough}",
                folder.display()
            )
        }
        note => format!("{note:?}"),
    }
}
