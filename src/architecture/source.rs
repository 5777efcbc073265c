//! How canonical tensors are made of a checkpoint's tensors.

use crate::checkpoint::RowOrder;
use std::collections::BTreeMap;

/// Canonical name to what it is made of.
pub(super) type Sources = BTreeMap<String, Source>;

/// What a canonical tensor is made of. Vectors count as matrices of one column.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Rows of the checkpoint's tensors.
    pub parts: Vec<Part>,
    /// How their rows follow each other.
    pub order: Order,
    /// Added to every number, such as the 1 of gains that are stored without it.
    pub add: f32,
}

/// How the rows of parts follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// All rows of the first part, then all rows of the second, and so on.
    Stacked,
    /// First row of each of the first two parts, then second row of each, and so on; then those of the next two parts. All have
    /// as many rows.
    Interleaved,
}

/// Consecutive rows of one of the checkpoint's tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Name in the checkpoint.
    pub tensor: String,
    /// Rows that the whole tensor must have.
    pub of: usize,
    /// The first row.
    pub first: usize,
    /// How many.
    pub rows: usize,
    /// The first of the whole tensor's columns that are wanted, and how many it has; all of them where absent.
    pub columns: Option<[usize; 2]>,
    /// Whether the checkpoint has the transposed matrix, so that these are its columns.
    pub transposed: bool,
    /// Where the whole tensor's rows are stored.
    pub rows_are: RowOrder,
    /// The whole tensor's shape, where a vector of all its numbers in order is wanted.
    pub shape: Option<Vec<usize>>,
    /// What every number is multiplied with.
    pub scale: f32,
}

impl Part {
    /// All `rows` of a tensor.
    pub(super) fn whole(tensor: impl Into<String>, rows: usize) -> Self {
        Self::slice(tensor, rows, 0, rows)
    }

    /// `rows` from `first` on, of a tensor of `of`.
    pub(super) fn slice(tensor: impl Into<String>, of: usize, first: usize, rows: usize) -> Self {
        Self {
            tensor: tensor.into(),
            of,
            first,
            rows,
            columns: None,
            transposed: false,
            rows_are: RowOrder::Same,
            shape: None,
            scale: 1.0,
        }
    }

    /// The shape that the whole tensor must have, of a canonical one of `shape`.
    pub fn shape_in(&self, shape: &[usize]) -> Vec<usize> {
        let mut shape = shape.to_vec();
        shape[0] = self.of;
        if let (Some([_, all]), Some(columns)) = (self.columns, shape.get_mut(1)) {
            *columns = all;
        }
        if self.transposed {
            shape.reverse();
        }
        self.shape.clone().unwrap_or(shape)
    }

    /// The same of a tensor of `rows` rows, its first row in the place of those that it lacks.
    pub(super) fn cut(self, rows: usize) -> Vec<Self> {
        let missing = self.rows.saturating_sub(rows);
        let first = Self { of: rows, rows: 1, ..self.clone() };
        std::iter::once(Self { of: rows, rows: self.rows - missing, ..self }).chain(vec![first; missing]).collect()
    }

    /// The same where the halves of heads of `head_dim` rows alternate.
    pub(super) fn in_rotary_pairs(self, head_dim: usize) -> Self {
        Self { rows_are: RowOrder::RotaryPairs { head_dim }, ..self }
    }
}

impl Source {
    /// Parts one after another.
    pub(super) fn stacked(parts: Vec<Part>) -> Self {
        Self { parts, order: Order::Stacked, add: 0.0 }
    }

    /// Two parts row by row.
    pub(super) fn interleaved(parts: Vec<Part>) -> Self {
        Self { parts, order: Order::Interleaved, add: 0.0 }
    }

    /// Names of the checkpoint's tensors, each once.
    pub fn tensors(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for part in &self.parts {
            if !names.contains(&part.tensor.as_str()) {
                names.push(&part.tensor);
            }
        }
        names
    }
}
