//! The scheme of every tensor of a decoder: as a recipe says, or as it finds best.

use super::ConvertError;
use crate::calibrate::Calibration;
use crate::quantize::{Allocation, Choice, Equalized, Recipe, allocate};
use haikuq_format::scheme::Scheme;

/// The schemes of the tensors of `weights`' decoder by `recipe`, in the order of the spec, with what each is expected to lose where
/// that was estimated.
///
/// # Errors
/// If the recipe does not fit the decoder, its target cannot be met, or weights cannot be read.
pub fn choose_schemes(
    weights: &Equalized<'_>,
    recipe: &Recipe,
    calibration: Option<&Calibration>,
) -> Result<(Vec<Scheme>, Option<Vec<f64>>), ConvertError> {
    let decoder = weights.decoder();
    let tensors = decoder.spec.tensors();
    let fixed = recipe.fixed_schemes(&tensors)?;
    let (bits, candidates) = match (&recipe.choice, fixed.iter().copied().collect::<Option<Vec<_>>>()) {
        (_, Some(schemes)) => return Ok((schemes, None)),
        (Choice::Target { bits, schemes }, None) => (*bits, schemes),
        (Choice::Classes { .. }, None) => unreachable!("every class has a scheme"),
    };
    let calibration = calibration.ok_or_else(|| ConvertError::NoCalibration { recipe: recipe.name.clone() })?;
    let read = |tensor: &haikuq_format::spec::TensorSpec| -> Result<_, ConvertError> {
        let missing = || ConvertError::NotPlanned { tensor: tensor.name.clone() };
        let sensitivity = calibration.sensitivities.get(&tensor.name).ok_or_else(missing)?;
        let matrix = weights.read(&tensor.name)?;
        decoder.release(&tensor.name);
        Ok((matrix, weights.sensitivity(&tensor.name, sensitivity)))
    };
    let Allocation { schemes, losses } = allocate(&recipe.name, &tensors, &fixed, candidates, bits, read)?;
    Ok((schemes, Some(losses)))
}
