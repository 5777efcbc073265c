//! `quantize`: the activations of a decode step in blocks of eight bits, for [`matvec_int8`](super::matvec_int8).

use super::matvec::Norm;
use crate::device::{Binding, Dispatch, Flag, Gpu, GpuError, Kernel};
use bytemuck::{Pod, Zeroable};
use haikuq_format::layout::UNIT;

super::shader!(QUANTIZE = "quantize");

/// Invocations of a workgroup, and halves of units that it takes without a norm.
const WORKGROUP: u32 = 256;

/// Quantizes `tokens` rows of activations.
#[derive(Clone, Debug)]
pub(super) struct Quantize<'a> {
    /// f32 \[tokens\]\[stride\].
    pub(super) input: Binding<'a>,
    /// Values from one token's activations to the next one's.
    pub(super) stride: usize,
    /// Rows.
    pub(super) tokens: usize,
    /// Columns, without padding.
    pub(super) columns: usize,
    /// Units of a row with room to spare: the rest becomes zero.
    pub(super) room: u32,
    /// RMS norm of the activations, on the way.
    pub(super) norm: Option<Norm<'a>>,
    /// Whether codes lie as weights do that are looked up in pairs.
    pub(super) paired: bool,
    /// u32 \[tokens\]\[2\]\[room\]\[4\].
    pub(super) codes: Binding<'a>,
    /// f32 \[tokens\]\[room\]\[2\]: scale and sum of codes.
    pub(super) affine: Binding<'a>,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Params {
    pub(super) stride: u32,
    pub(super) units: u32,
    pub(super) epsilon: f32,
    pub(super) columns: f32,
}

impl Quantize<'_> {
    pub(super) fn bind(&self, gpu: &Gpu) -> Result<Dispatch, GpuError> {
        let params = Params {
            stride: (self.stride / 4) as u32,
            units: self.columns.div_ceil(UNIT) as u32,
            epsilon: self.norm.as_ref().map_or(0.0, |n| n.epsilon),
            columns: self.columns as f32,
        };
        let params = gpu.uniform("quantize", &params);
        let halves = (2 * self.room).next_multiple_of(WORKGROUP);
        let share = if self.norm.is_some() { halves } else { WORKGROUP };
        let mut flags = vec![Flag::Subgroups];
        flags.extend(self.paired.then_some(Flag::Paired));
        let mut bindings =
            vec![(0, (&params).into()), (1, self.input.clone()), (2, self.codes.clone()), (3, self.affine.clone())];
        if let Some(norm) = &self.norm {
            flags.push(Flag::Norm);
            bindings.push((4, norm.gain.clone()));
        }
        let constants = [("WORKGROUP", f64::from(WORKGROUP)), ("SHARE", f64::from(share)), ("UNITS", f64::from(self.room))];
        let grid = [halves / share, self.tokens as u32, 1];
        Kernel { shader: &QUANTIZE, flags: &flags, constants: &constants, bindings: &bindings, grid }.bind(gpu)
    }
}

/// The CPU twin: activations as their codes stand for, in blocks of 32. A value halfway between two codes may go to either.
pub fn cpu(x: &[f32]) -> Vec<f32> {
    let block = |x: &[f32]| -> Vec<f32> {
        let largest = x.iter().fold(0f32, |m, x| m.max(x.abs()));
        let (inverse, step) = (if largest == 0.0 { 0.0 } else { 127.0 / largest }, largest / 127.0);
        x.iter().map(|x| (x * inverse).round_ties_even() * step).collect()
    };
    x.chunks(UNIT).flat_map(block).collect()
}
