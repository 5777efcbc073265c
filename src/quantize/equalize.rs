//! Equalization: columns of a matrix are made alike by factors that what comes before it takes back.
//!
//! A group has one scale for columns that may be far apart in size, by nature or because a checkpoint was rescaled.
//! Where a norm's gain or another matrix's rows make the column's input, column `c` can be divided by any `s_c` if
//! they are multiplied by it: the decoder computes the same. With `s_c` the root mean square of the column's weights all
//! columns become equally large, whatever sizes the checkpoint gave to them. (J. Lin et al., "AWQ: Activation-aware
//! Weight Quantization", 2023, make columns the larger the more they carry. That helps where columns are rounded by
//! themselves; GPTQ makes good a column's errors in others, and loses by it.)

use crate::architecture::{ArchitectureError, Decoder};
use crate::calibrate::Sensitivity;
use haikuq_format::spec::{Attention, Mixer, Mlp, Residual};
use std::collections::BTreeMap;
use std::ops::Range;

/// Factors are at most this far from their geometric mean, either way.
const LARGEST_FACTOR: f32 = 1e6;

/// Factors by which rows and columns of a tensor are multiplied.
#[derive(Clone, Debug, Default, PartialEq)]
struct Factors {
    /// One a row of a matrix.
    rows: Option<Vec<f32>>,
    /// One a column of a matrix, or a number of a vector.
    columns: Option<Vec<f32>>,
}

/// A decoder's tensors with equalized columns.
pub struct Equalized<'a> {
    decoder: &'a Decoder,
    factors: BTreeMap<String, Factors>,
}

impl<'a> Equalized<'a> {
    /// The tensors as they are.
    pub fn plain(decoder: &'a Decoder) -> Self {
        Self { decoder, factors: BTreeMap::new() }
    }

    /// Equalizes every matrix whose input something else can make larger: those after a norm, the projection after
    /// the heads (through the values), and the one after a gated product (through its `up` half).
    ///
    /// # Errors
    /// If weights cannot be read.
    pub fn new(decoder: &'a Decoder) -> Result<Self, ArchitectureError> {
        let mut equalized = Self::plain(decoder);
        for layer in 0..decoder.spec.num_layers() {
            equalized.layer(layer)?;
        }
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
        self.apply(name, 0..usize::MAX, &mut out);
        Ok(out)
    }

    /// The sensitivity of a matrix with its factors: inputs and gradients change against the weights.
    pub fn sensitivity(&self, name: &str, measured: &Sensitivity) -> Sensitivity {
        let mut equalized = measured.clone();
        let Some(factors) = self.factors.get(name) else { return equalized };
        let divide = |values: &mut [f32], by: &Option<Vec<f32>>| {
            values.iter_mut().zip(by.iter().flatten()).for_each(|(v, f)| *v /= f * f);
        };
        divide(&mut equalized.input, &factors.columns);
        divide(&mut equalized.output, &factors.rows);
        equalized
    }

    fn apply(&self, name: &str, rows: Range<usize>, out: &mut [f32]) {
        let Some(factors) = self.factors.get(name) else { return };
        if let Some(columns) = &factors.columns {
            for row in out.chunks_exact_mut(columns.len()) {
                row.iter_mut().zip(columns).for_each(|(w, f)| *w *= f);
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
        let up = name(spec.mlp.up_name());
        // Rows first: what they are multiplied by counts in the columns of their matrix.
        match &spec.mixer {
            Mixer::Attention(attention) => self.after_values(layer, attention)?,
        }
        if spec.mlp.gated {
            self.after_up(layer, &spec.mlp, &up)?;
        }
        if !spec.norm_placement.is_before() {
            return Ok(());
        }
        match spec.residual {
            Residual::ParallelShared => self.after_norm(&name("mixer_norm"), &[name("qkv"), up]),
            Residual::Sequential | Residual::Parallel => {
                self.after_norm(&name("mixer_norm"), &[name("qkv")])?;
                self.after_norm(&name("mlp_norm"), &[up])
            }
        }
    }

    /// Columns of the matrices that a norm feeds, and its gain.
    fn after_norm(&mut self, norm: &str, matrices: &[String]) -> Result<(), ArchitectureError> {
        let mut squares = vec![0.0f64; self.decoder.spec.hidden_size];
        for matrix in matrices {
            self.add_column_squares(matrix, &mut squares)?;
        }
        let factors = column_factors(&squares);
        for matrix in matrices {
            self.factors.entry(matrix.clone()).or_default().columns = Some(factors.iter().map(|s| 1.0 / s).collect());
        }
        self.factors.entry(format!("{norm}.gain")).or_default().columns = Some(factors.clone());
        if self.decoder.spec.norm.kind.has_bias() {
            self.factors.entry(format!("{norm}.bias")).or_default().columns = Some(factors);
        }
        Ok(())
    }

    /// Columns of the projection after the heads, and rows of the values, which several heads share.
    fn after_values(&mut self, layer: usize, attention: &Attention) -> Result<(), ArchitectureError> {
        let (qkv, output) = (format!("layers.{layer}.qkv"), format!("layers.{layer}.attention_output"));
        let mut squares = vec![0.0f64; attention.attention_size()];
        self.add_column_squares(&output, &mut squares)?;
        let width = attention.kv_size();
        let value_of = |column: usize| value_row(attention, column);
        let mut shared = vec![0.0f64; width];
        for (c, square) in squares.iter().enumerate() {
            shared[value_of(c)] += square;
        }
        let factors = column_factors(&shared);
        let columns = (0..squares.len()).map(|c| 1.0 / factors[value_of(c)]).collect();
        self.factors.entry(output).or_default().columns = Some(columns);
        let before = attention.attention_size() + width;
        let rows: Vec<f32> = std::iter::repeat_n(1.0, before).chain(factors).collect();
        if attention.qkv_bias {
            self.factors.entry(format!("{qkv}.bias")).or_default().columns = Some(rows.clone());
        }
        self.factors.entry(qkv).or_default().rows = Some(rows);
        Ok(())
    }

    /// Columns of `down`, and rows of the `up` half of `gate_up`, every second from the second on.
    fn after_up(&mut self, layer: usize, mlp: &Mlp, up: &str) -> Result<(), ArchitectureError> {
        let down = format!("layers.{layer}.down");
        let mut squares = vec![0.0f64; mlp.intermediate_size];
        self.add_column_squares(&down, &mut squares)?;
        let factors = column_factors(&squares);
        self.factors.entry(down).or_default().columns = Some(factors.iter().map(|s| 1.0 / s).collect());
        let rows: Vec<f32> = factors.iter().flat_map(|&s| [1.0, s]).collect();
        if mlp.bias {
            self.factors.entry(format!("{up}.bias")).or_default().columns = Some(rows.clone());
        }
        self.factors.entry(up.into()).or_default().rows = Some(rows);
        Ok(())
    }

    /// Adds the squares of a matrix's weights to the sums of their columns.
    fn add_column_squares(&self, matrix: &str, squares: &mut [f64]) -> Result<(), ArchitectureError> {
        let weights = self.read(matrix)?;
        // It is long until they are read again, and other matrices need the memory.
        self.decoder.release(matrix);
        for row in weights.chunks_exact(squares.len()) {
            squares.iter_mut().zip(row).for_each(|(sum, &w)| *sum += f64::from(w) * f64::from(w));
        }
        Ok(())
    }
}

/// The row of the values that column `column` of the projection after the heads weighs.
fn value_row(attention: &Attention, column: usize) -> usize {
    let Attention { num_heads, num_kv_heads, head_dim, .. } = *attention;
    column / head_dim / (num_heads / num_kv_heads) * head_dim + column % head_dim
}

/// The size of each column over their geometric mean, from its sum of squared weights. One where that is zero.
fn column_factors(squares: &[f64]) -> Vec<f32> {
    let logarithms: Vec<Option<f64>> = squares.iter().map(|&w| (w > 0.0).then(|| 0.5 * w.ln())).collect();
    let known = logarithms.iter().flatten();
    let mean = known.clone().sum::<f64>() / known.count().max(1) as f64;
    let factor = |l: &Option<f64>| l.map_or(1.0, |l| ((l - mean).exp() as f32).clamp(1.0 / LARGEST_FACTOR, LARGEST_FACTOR));
    logarithms.iter().map(factor).collect()
}
