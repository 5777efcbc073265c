//! Equalization: columns of a matrix are made alike by factors that what comes before it takes back.
//!
//! A group has one scale for columns that may be far apart in size, by nature or because a checkpoint was rescaled.
//! Where a norm's gain or another matrix's rows make the column's input, column `c` can be divided by any `s_c` if
//! they are multiplied by it: the decoder computes the same. With `s_c` the root mean square of the column's weights all
//! columns become equally large, whatever sizes the checkpoint gave to them. (J. Lin et al., "AWQ: Activation-aware
//! Weight Quantization", 2023, make columns the larger the more they carry. That helps where columns are rounded by
//! themselves; GPTQ corrects a column's errors in others, and loses by it.)

use super::Recipe;
use crate::architecture::{ArchitectureError, Decoder};
use crate::calibrate::Sensitivity;
use haikuq_format::spec::{Activation, Attention, Mixer, Mlp, Residual, ShortConv};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;

/// Factors are at most this far from their geometric mean, either way.
const LARGEST_FACTOR: f32 = 1e6;

/// Without calibration, columns that are this many times larger or smaller than the middle one are made like it.
/// Checkpoints as they were trained have hardly any; rescaled ones do.
const FAR: f64 = 16.0;

/// Matrices whose weights are smaller than this, as a root mean square, would have scales that f16 holds badly or not at
/// all; larger ones can be beyond it.
const SIZES: Range<f64> = 1.0 / 2048.0..64.0;

/// The size that such a matrix gets, as trained ones have it.
const USUAL_SIZE: f64 = 1.0 / 32.0;

/// Factors by which rows and columns of a tensor are multiplied.
#[derive(Clone, Debug, Default, PartialEq)]
struct Factors {
    /// One a row of a matrix.
    rows: Option<Vec<f32>>,
    /// One a column of a matrix, or a number of a vector; of experts' matrices one a column of each.
    columns: Option<Vec<f32>>,
}

/// Rows that are read at a time.
const BLOCK_ROWS: usize = 256;

/// Which columns are equalized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// All, to the bit.
    All,
    /// Those far from the others and matrices far from usual sizes, by powers of two: most checkpoints stay as they are.
    Far,
}

/// A decoder's tensors with equalized columns.
pub struct Equalized<'a> {
    decoder: &'a Decoder,
    factors: BTreeMap<String, Factors>,
    extent: Extent,
}

impl<'a> Equalized<'a> {
    /// Equalizes every matrix whose input something else can make larger: those after a norm, that of a Mamba mixer's heads
    /// included, the projection after the heads (through the values), and the one after a gated product (through its `up` half).
    ///
    /// # Errors
    /// If weights cannot be read.
    pub fn new(decoder: &'a Decoder) -> Result<Self, ArchitectureError> {
        Self::to(decoder, Extent::All)
    }

    /// Equalizes what is far from everything else alone, so that a group's scale serves all of it and f16 can hold the
    /// scale: for recipes that know nothing but the weights.
    ///
    /// # Errors
    /// As [`Equalized::new`].
    pub fn far(decoder: &'a Decoder) -> Result<Self, ArchitectureError> {
        Self::to(decoder, Extent::Far)
    }

    /// As the recipe needs them: [`Equalized::new`] with calibration, [`Equalized::far`] without.
    ///
    /// # Errors
    /// As these.
    pub fn for_recipe(decoder: &'a Decoder, recipe: &Recipe) -> Result<Self, ArchitectureError> {
        if recipe.calibrate { Self::new(decoder) } else { Self::far(decoder) }
    }

    fn to(decoder: &'a Decoder, extent: Extent) -> Result<Self, ArchitectureError> {
        let mut equalized = Self { decoder, factors: BTreeMap::new(), extent };
        for layer in 0..decoder.spec.num_layers() {
            equalized.layer(layer)?;
        }
        // What changes nothing costs nothing.
        equalized.factors.retain(|_, factors| {
            let of = |factors: &Option<Vec<f32>>| factors.iter().flatten().any(|f| *f != 1.0);
            of(&factors.rows) || of(&factors.columns)
        });
        Ok(equalized)
    }

    /// The decoder whose tensors these are.
    pub fn decoder(&self) -> &'a Decoder {
        self.decoder
    }

    /// Reads rows as [`Decoder::read_rows`] does.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<(), ArchitectureError> {
        self.decoder.read_rows(name, rows.clone(), out)?;
        self.apply(name, rows, out);
        Ok(())
    }

    /// Reads a whole tensor as [`Decoder::read`] does.
    ///
    /// # Errors
    /// As there.
    pub fn read(&self, name: &str) -> Result<Vec<f32>, ArchitectureError> {
        let mut out = self.decoder.read(name)?;
        let rows = self.decoder.rows(name);
        let stride = out.len() / rows.max(1);
        out.par_chunks_mut((BLOCK_ROWS * stride).max(1)).enumerate().for_each(|(i, out)| {
            let first = i * BLOCK_ROWS;
            self.apply(name, first..rows.min(first + BLOCK_ROWS), out);
        });
        Ok(out)
    }

    /// The sensitivity of a matrix with its factors: inputs and gradients change against the weights.
    pub fn sensitivity(&self, name: &str, measured: &Sensitivity) -> Sensitivity {
        let mut equalized = measured.clone();
        let Some(factors) = self.factors.get(name) else { return equalized };
        equalized.output.iter_mut().zip(factors.rows.iter().flatten()).for_each(|(v, f)| *v /= f * f);
        if let Some(by) = factors.columns.as_ref().filter(|by| !by.is_empty()) {
            let (width, experts) = (equalized.input.len(), by.len() / equalized.input.len().max(1));
            for (c, v) in equalized.input.iter_mut().enumerate() {
                let of_column = by.iter().skip(c).step_by(width);
                *v *= of_column.map(|f| 1.0 / (f * f)).sum::<f32>() / experts.max(1) as f32;
            }
        }
        equalized
    }

    fn apply(&self, name: &str, rows: Range<usize>, out: &mut [f32]) {
        let Some(factors) = self.factors.get(name) else { return };
        if let Some(columns) = &factors.columns {
            // Of an expert after the other, where there are such: each has as many rows.
            let width = out.len() / rows.len().max(1);
            let experts = columns.len() / width.max(1);
            let of_expert = self.decoder.rows(name) / experts.max(1);
            for (row, out) in rows.clone().zip(out.chunks_exact_mut(width.max(1))) {
                let columns = &columns[(row / of_expert.max(1)).min(experts.saturating_sub(1)) * width..];
                out.iter_mut().zip(columns).for_each(|(w, f)| *w *= f);
            }
        }
        if let Some(of_rows) = &factors.rows {
            let columns = out.len() / rows.len().min(of_rows.len()).max(1);
            for (row, f) in out.chunks_exact_mut(columns).zip(&of_rows[rows.start..]) {
                row.iter_mut().for_each(|w| *w *= f);
            }
        }
    }

    fn layer(&mut self, layer: usize) -> Result<(), ArchitectureError> {
        let spec = &self.decoder.spec.layers[layer];
        let name = |part: &str| format!("layers.{layer}.{part}");
        let up = spec.mlp.as_ref().map(|mlp| name(mlp.up_name()));
        let router = spec.mlp.as_ref().and_then(|mlp| mlp.experts).map(|_| name("router"));
        // Rows first: their factors count in the columns of their matrix.
        for mixer in spec.mixers() {
            match mixer {
                // Values that a norm, keys or other layers have to do with stay as they are.
                Mixer::Attention(a) if a.own_kv() < 2 || a.value_norm || self.decoder.spec.shares_kv(layer) => {}
                Mixer::Attention(attention) => self.after_values(layer, attention)?,
                Mixer::ShortConv(conv) => self.after_convolution(layer, conv)?,
                // Between the two matrices numbers are squashed and normalized, so that nothing can be moved from one to the other.
                Mixer::DeltaNet(_) => {}
                // The same; but each number that goes into the last matrix has a gain of its own.
                Mixer::Mamba2(mamba) if mamba.norm.is_some() => {
                    let gain = format!("{}.gain", name("mamba_norm"));
                    self.after_gains(&[gain], &[name("mamba_out")], None, mamba.inner_size())?;
                }
                Mixer::Mamba2(_) => {}
            }
        }
        // The clamped one is no product of up.
        let is_product = |mlp: &&Mlp| mlp.gated && mlp.activation != Activation::ClampedSwiglu;
        if let (Some(mlp), Some(up)) = (spec.mlp.as_ref().filter(is_product), &up) {
            self.after_up(layer, mlp, up)?;
        }
        if !spec.norm_placement.is_before() {
            return Ok(());
        }
        let mut inputs: Vec<String> = spec.mixers().map(|mixer| name(mixer.matrices()[0])).collect();
        match spec.residual {
            Residual::ParallelShared => {
                inputs.extend(up);
                self.after_norm(&name("mixer_norm"), &inputs, router)
            }
            Residual::Sequential | Residual::Parallel => {
                // A learned residual layer adds what the norm makes as it is.
                if spec.laurel.is_none() {
                    self.after_norm(&name("mixer_norm"), &inputs, None)?;
                }
                up.map_or(Ok(()), |up| self.after_norm(&name("mlp_norm"), &[up], router))
            }
        }
    }

    /// Columns of the matrices that a norm feeds, and its gain. A router's columns follow, which nothing rounds.
    fn after_norm(&mut self, norm: &str, matrices: &[String], router: Option<String>) -> Result<(), ArchitectureError> {
        let mut vectors = vec![format!("{norm}.gain")];
        if self.decoder.spec.norm.kind.has_bias() {
            vectors.push(format!("{norm}.bias"));
        }
        self.after_gains(&vectors, matrices, router, self.decoder.spec.hidden_size)
    }

    /// Columns of the matrices whose `width` inputs are multiplied with gains before, and these `vectors` (gains, and biases). A
    /// router's columns follow.
    fn after_gains(
        &mut self,
        vectors: &[String],
        matrices: &[String],
        router: Option<String>,
        width: usize,
    ) -> Result<(), ArchitectureError> {
        let mut squares = vec![0.0f64; width];
        let mut rows = 0;
        for matrix in matrices {
            rows += self.add_column_squares(matrix, &mut squares)?;
        }
        let mut factors = self.column_factors(&squares);
        if self.extent == Extent::Far {
            // The gain is stored in f32 and takes any size.
            let size = size(&squares, rows);
            if size > 0.0 && !SIZES.contains(&size) {
                let factor = power_of_two(size / USUAL_SIZE);
                factors.iter_mut().for_each(|f| *f *= factor);
            }
        }
        for matrix in matrices.iter().chain(&router) {
            self.factors.entry(matrix.clone()).or_default().columns = Some(factors.iter().map(|s| 1.0 / s).collect());
        }
        for vector in vectors {
            self.factors.entry(vector.clone()).or_default().columns = Some(factors.clone());
        }
        Ok(())
    }

    /// Columns of the projection after the heads, and rows of the values, which several heads share.
    fn after_values(&mut self, layer: usize, attention: &Attention) -> Result<(), ArchitectureError> {
        let (qkv, output) = (format!("layers.{layer}.qkv"), format!("layers.{layer}.attention_output"));
        let mut squares = vec![0.0f64; attention.attention_size()];
        let rows_of_output = self.add_column_squares(&output, &mut squares)?;
        let width = attention.kv_size();
        let value_of = |column: usize| value_row(attention, column);
        let mut shared = vec![0.0f64; width];
        for (c, square) in squares.iter().enumerate() {
            shared[value_of(c)] += square;
        }
        let mut factors = self.column_factors(&shared);
        let before = attention.attention_size() + width;
        self.share((&squares, rows_of_output), &qkv, before..before + width, 1, &mut factors)?;
        let columns = (0..squares.len()).map(|c| 1.0 / factors[value_of(c)]).collect();
        self.factors.entry(output).or_default().columns = Some(columns);
        let ones = |n| std::iter::repeat_n(1.0, n);
        let rows: Vec<f32> = ones(before).chain(factors).chain(ones(attention.gate_size())).collect();
        if attention.qkv_bias {
            self.factors.entry(format!("{qkv}.bias")).or_default().columns = Some(rows.clone());
        }
        self.factors.entry(qkv).or_default().rows = Some(rows);
        Ok(())
    }

    /// Columns of the projection after a convolution, and the rows of the projection before it that the convolution's result
    /// is multiplied with, which are the second third.
    fn after_convolution(&mut self, layer: usize, conv: &ShortConv) -> Result<(), ArchitectureError> {
        let (input, output) = (format!("layers.{layer}.conv_in"), format!("layers.{layer}.conv_out"));
        let n = conv.channels;
        let mut squares = vec![0.0f64; n];
        let rows_of_output = self.add_column_squares(&output, &mut squares)?;
        let mut factors = self.column_factors(&squares);
        self.share((&squares, rows_of_output), &input, n..2 * n, 1, &mut factors)?;
        self.factors.entry(output).or_default().columns = Some(factors.iter().map(|s| 1.0 / s).collect());
        let ones = || std::iter::repeat_n(1.0, n);
        let rows: Vec<f32> = ones().chain(factors).chain(ones()).collect();
        if conv.bias {
            self.factors.entry(format!("{input}.bias")).or_default().columns = Some(rows.clone());
        }
        self.factors.entry(input).or_default().rows = Some(rows);
        Ok(())
    }

    /// Columns of `down`, and rows of the `up` half of `gate_up`, every second from the second on; of each expert by itself.
    fn after_up(&mut self, layer: usize, mlp: &Mlp, up: &str) -> Result<(), ArchitectureError> {
        let (down, size) = (format!("layers.{layer}.{}", mlp.down_name()), mlp.up_size());
        let rows_of_down = self.decoder.rows(&down) / mlp.num_experts();
        let (mut columns, mut rows) = (Vec::<f32>::new(), Vec::<f32>::new());
        for expert in 0..mlp.num_experts() {
            let mut squares = vec![0.0f64; mlp.intermediate_size];
            self.add_squares_of_rows(&down, expert * rows_of_down..(expert + 1) * rows_of_down, &mut squares)?;
            let mut factors = self.column_factors(&squares);
            self.share((&squares, rows_of_down), up, expert * size + 1..(expert + 1) * size, 2, &mut factors)?;
            columns.extend(factors.iter().map(|s| 1.0 / s));
            rows.extend(factors.iter().flat_map(|&s| [1.0, s]));
        }
        // It is long until they are read again, and other matrices need the memory.
        self.decoder.release(&down);
        self.factors.entry(down).or_default().columns = Some(columns);
        if mlp.bias {
            self.factors.entry(format!("{up}.bias")).or_default().columns = Some(rows.clone());
        }
        self.factors.entry(up.into()).or_default().rows = Some(rows);
        Ok(())
    }

    /// Where a matrix of `rows` rows, whose columns have these sums of `squares`, is of an unusual size, gives half of that to the rows of
    /// `before` that make its input: each `step`-th of `inputs`.
    fn share(
        &self,
        (squares, rows): (&[f64], usize),
        before: &str,
        inputs: Range<usize>,
        step: usize,
        factors: &mut [f32],
    ) -> Result<(), ArchitectureError> {
        let size = size(squares, rows);
        if self.extent == Extent::All || size == 0.0 || SIZES.contains(&size) {
            return Ok(());
        }
        let columns = self.decoder.spec.hidden_size;
        let mut weights = vec![0.0; inputs.len() * columns];
        self.read_rows(before, inputs, &mut weights)?;
        let inputs = weights.chunks_exact(columns).step_by(step);
        let of_rows: Vec<f64> = inputs.map(|row| row.iter().map(|&w| f64::from(w).powi(2)).sum()).collect();
        self.decoder.release(before);
        let other = self::size(&of_rows, columns);
        if other > 0.0 {
            let factor = power_of_two((size / other).sqrt());
            factors.iter_mut().for_each(|f| *f *= factor);
        }
        Ok(())
    }

    /// Adds the squares of a matrix's weights to the sums of their columns; the number of its rows.
    fn add_column_squares(&self, matrix: &str, squares: &mut [f64]) -> Result<usize, ArchitectureError> {
        let rows = self.decoder.rows(matrix);
        self.add_squares_of_rows(matrix, 0..rows, squares)?;
        // It is long until they are read again, and other matrices need the memory.
        self.decoder.release(matrix);
        Ok(rows)
    }

    fn add_squares_of_rows(&self, matrix: &str, rows: Range<usize>, squares: &mut [f64]) -> Result<(), ArchitectureError> {
        let (end, columns) = (rows.end, squares.len());
        let of_block = |first: usize| {
            let block = first..end.min(first + BLOCK_ROWS);
            let mut weights = vec![0.0; block.len() * columns];
            self.read_rows(matrix, block, &mut weights)?;
            let mut squares = vec![0.0f64; columns];
            for row in weights.chunks_exact(columns) {
                squares.iter_mut().zip(row).for_each(|(sum, &w)| *sum += f64::from(w) * f64::from(w));
            }
            Ok(squares)
        };
        // Blocks are the same for any number of threads, and so is the order of the sum.
        let blocks: Vec<Result<Vec<f64>, ArchitectureError>> = rows.into_par_iter().step_by(BLOCK_ROWS).map(of_block).collect();
        for block in blocks {
            squares.iter_mut().zip(block?).for_each(|(sum, part)| *sum += part);
        }
        Ok(())
    }

    /// By what each column is divided, from its sum of squared weights.
    fn column_factors(&self, squares: &[f64]) -> Vec<f32> {
        match self.extent {
            Extent::All => even_factors(squares),
            Extent::Far => far_factors(squares),
        }
    }
}

/// The row of the values that column `column` of the projection after the heads weighs.
fn value_row(attention: &Attention, column: usize) -> usize {
    let Attention { num_heads, num_kv_heads, head_dim, .. } = *attention;
    column / head_dim / (num_heads / num_kv_heads) * head_dim + column % head_dim
}

/// The size of each column over their geometric mean, from its sum of squared weights. One where that is zero.
fn even_factors(squares: &[f64]) -> Vec<f32> {
    let logarithms: Vec<Option<f64>> = squares.iter().map(|&w| (w > 0.0).then(|| 0.5 * w.ln())).collect();
    let known = logarithms.iter().flatten();
    let mean = known.clone().sum::<f64>() / known.count().max(1) as f64;
    let factor = |l: &Option<f64>| l.map_or(1.0, |l| ((l - mean).exp() as f32).clamp(1.0 / LARGEST_FACTOR, LARGEST_FACTOR));
    logarithms.iter().map(factor).collect()
}

/// The size of each column that is far from the middle one over that one, as a power of two; one for the others.
fn far_factors(squares: &[f64]) -> Vec<f32> {
    let middle = size(squares, 1);
    let factor = |square: &f64| match square.sqrt() / middle.max(f64::MIN_POSITIVE) {
        ratio if ratio == 0.0 || (1.0 / FAR..=FAR).contains(&ratio) => 1.0,
        ratio => power_of_two(ratio).clamp(1.0 / LARGEST_FACTOR, LARGEST_FACTOR),
    };
    squares.iter().map(factor).collect()
}

/// The size of a middling weight where each of these sums of squares has `terms`; zeros aside. A single weight, however
/// large, hardly changes it, so it is still refused where it is too large.
fn size(squares: &[f64], terms: usize) -> f64 {
    let mut known: Vec<f64> = squares.iter().copied().filter(|w| *w > 0.0).collect();
    known.sort_by(f64::total_cmp);
    known.get(known.len() / 2).map_or(0.0, |w| (w / terms.max(1) as f64).sqrt())
}

/// The nearest power of two, by which nothing is rounded.
fn power_of_two(x: f64) -> f32 {
    x.log2().round().clamp(-100.0, 100.0).exp2() as f32
}
