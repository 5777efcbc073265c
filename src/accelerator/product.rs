//! Products of matrices, with sums in f32.

use super::matrix::PANEL_ROWS;
use super::memory::Counted;
use super::pending::OPERATIONS;
use super::{Accelerator, AcceleratorError, Matrix, shader};
use bytemuck::{Pod, Zeroable};
use haikuq_runtime::device::{Binding, grid_1d};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

shader!(PRODUCT = "product");
shader!(PRODUCT_SUM = "product_sum");

/// Rows and columns of a workgroup's tile, as in `product.wgsl`.
const TILE: usize = 128;

/// Workgroups that a product is cut into where its sums are long enough: several times what a large GPU runs at once, so
/// that the last ones do not leave most of it idle.
const WORKGROUPS: usize = 1024;

/// Terms that a slice of a sum has at least.
const SLICE: usize = 256;

/// Bytes of the slices' results, at most.
const SCRATCH_BYTES: usize = 128 << 20;

/// Where slices leave their results.
#[derive(Default)]
pub(super) struct Scratch(Mutex<Option<Counted>>);

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    columns: u32,
    terms: u32,
    slice: u32,
    a_pitch: u32,
    b_pitch: u32,
    c_pitch: u32,
    c_slice: u32,
    a_at: u32,
    b_at: u32,
    c_at: u32,
    add: u32,
    alpha: f32,
    heads: u32,
    shared_by: u32,
    a_head: u32,
    a_window: u32,
    b_head: u32,
    b_window: u32,
    c_head: u32,
    c_window: u32,
    padding: [u32; 3],
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct SumParams {
    rows: u32,
    width: u32,
    c_pitch: u32,
    c_at: u32,
    slices: u32,
    add: u32,
    alpha: f32,
    padding: u32,
}

/// A part of a matrix. Columns begin at a multiple of 32, and end at one or at the matrix's end.
#[derive(Clone)]
pub(super) struct Part<'a> {
    pub(super) matrix: &'a Matrix,
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
}

impl<'a> From<&'a Matrix> for Part<'a> {
    fn from(matrix: &'a Matrix) -> Self {
        Self { matrix, rows: 0..matrix.rows(), columns: 0..matrix.columns() }
    }
}

impl Part<'_> {
    /// vec4s from row to row.
    fn pitch(&self) -> u32 {
        (self.matrix.pitch() / 4) as u32
    }

    /// The buffer that holds row `row` of the part and column `column` of it, and where in it, in vec4s.
    fn at(&self, row: usize, column: usize) -> (&wgpu::Buffer, u32) {
        let row = self.rows.start + row;
        let (first, buffer) = self.matrix.panel_of(row);
        (buffer, (((row - first) * self.matrix.pitch() + self.columns.start + column) / 4) as u32)
    }

    /// Where a new panel begins, in rows of the part.
    fn cuts(&self) -> impl Iterator<Item = usize> {
        let (start, end) = (self.rows.start, self.rows.end);
        self.matrix.panels().map(|(rows, _)| rows.start).filter(move |r| *r > start && *r < end).map(move |r| r - start)
    }
}

/// An operand: a part of a matrix whose rows are the product's (or its columns), or the terms of its sums.
#[derive(Clone)]
pub(super) enum Operand<'a> {
    /// One row of memory for each row or column of the product.
    Rows(Part<'a>),
    /// One row of memory for each term.
    Terms(Part<'a>),
}

impl Operand<'_> {
    fn part(&self) -> &Part<'_> {
        match self {
            Self::Rows(part) | Self::Terms(part) => part,
        }
    }

    fn by_term(&self) -> bool {
        matches!(self, Self::Terms(_))
    }

    /// Rows or columns of the product, and terms.
    fn sizes(&self) -> (usize, usize) {
        let (rows, columns) = (self.part().rows.len(), self.part().columns.len());
        if self.by_term() { (columns, rows) } else { (rows, columns) }
    }

    fn at(&self, index: usize, term: usize) -> (&wgpu::Buffer, u32) {
        if self.by_term() { self.part().at(term, index) } else { self.part().at(index, term) }
    }

    fn is(&self, other: &Self) -> bool {
        let (a, b) = (self.part(), other.part());
        std::ptr::eq(a.matrix, b.matrix) && a.rows == b.rows && a.columns == b.columns && self.by_term() == other.by_term()
    }
}

/// `C = alpha A B`, or `C + alpha A B`.
pub(super) struct Product<'a> {
    pub(super) a: Operand<'a>,
    pub(super) b: Operand<'a>,
    pub(super) alpha: f32,
    pub(super) add: bool,
}

/// One dispatch's share: rows, columns and terms.
struct Share {
    rows: Range<usize>,
    columns: Range<usize>,
    terms: Range<usize>,
}

impl Product<'_> {
    /// Computes the product into `out`, which shares no buffer with the operands.
    pub(super) fn run(&self, accelerator: &Accelerator, out: &Part<'_>) -> Result<(), AcceleratorError> {
        let ((rows, terms), (columns, same)) = (self.a.sizes(), self.b.sizes());
        assert!(terms == same && (rows, columns) == (out.rows.len(), out.columns.len()), "sizes of a product fit together");
        // Symmetric, in one buffer: half of it is enough.
        let triangle = self.a.is(&self.b) && out.cuts().next().is_none();
        let mut row_cuts: BTreeSet<usize> = out.cuts().collect();
        let mut column_cuts = BTreeSet::new();
        let mut term_cuts = BTreeSet::new();
        if self.a.by_term() {
            term_cuts.extend(self.a.part().cuts());
        } else {
            row_cuts.extend(self.a.part().cuts());
        }
        if self.b.by_term() {
            term_cuts.extend(self.b.part().cuts());
        } else {
            column_cuts.extend(self.b.part().cuts());
        }
        let triangle = triangle && row_cuts.is_empty() && column_cuts.is_empty();
        for (i, terms) in ranges(terms, &term_cuts).enumerate() {
            let mut add = self.add || i > 0;
            for whole in ranges(rows, &row_cuts) {
                for columns in ranges(columns, &column_cuts) {
                    if triangle {
                        // Rows of a triangle differ in length; terms do not.
                        let at_once = (OPERATIONS / (rows * rows)).max(1).next_multiple_of(TILE);
                        for terms in pieces(terms.clone(), at_once) {
                            let share = Share { rows: whole.clone(), columns: columns.clone(), terms };
                            self.dispatch(accelerator, out, &share, add, true)?;
                            add = true;
                        }
                        continue;
                    }
                    let at_once = (OPERATIONS / (2 * columns.len() * terms.len()).max(1)).max(1).next_multiple_of(TILE);
                    for rows in pieces(whole.clone(), at_once) {
                        let share = Share { rows, columns: columns.clone(), terms: terms.clone() };
                        self.dispatch(accelerator, out, &share, add, false)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn dispatch(
        &self,
        accelerator: &Accelerator,
        out: &Part<'_>,
        share: &Share,
        add: bool,
        triangle: bool,
    ) -> Result<(), AcceleratorError> {
        let (rows, columns, terms) = (share.rows.len(), share.columns.len(), share.terms.len());
        let (tile_rows, tile_columns) = (rows.div_ceil(TILE), columns.div_ceil(TILE));
        let tiles = if triangle { tile_rows * (tile_rows + 1) / 2 } else { tile_rows * tile_columns };
        let width = columns.div_ceil(4);
        let room = SCRATCH_BYTES / (rows * width * 16);
        let wanted = WORKGROUPS.div_ceil(tiles).min(terms / SLICE).min(room);
        let slice = terms.div_ceil(wanted.max(1)).next_multiple_of(PANEL_ROWS);
        let slices = terms.div_ceil(slice);
        let (a, a_at) = self.a.at(share.rows.start, share.terms.start);
        let (b, b_at) = self.b.at(share.columns.start, share.terms.start);
        let (c, c_at) = out.at(share.rows.start, share.columns.start);
        let mut params = Params {
            rows: rows as u32,
            columns: columns as u32,
            terms: terms as u32,
            slice: slice as u32,
            a_pitch: self.a.part().pitch(),
            b_pitch: self.b.part().pitch(),
            c_pitch: out.pitch(),
            a_at,
            b_at,
            c_at,
            add: add.into(),
            alpha: self.alpha,
            ..Params::zeroed()
        };
        let flag = |name, on: bool| (name, f64::from(u8::from(on)));
        let constants = [flag("A_BY_TERM", self.a.by_term()), flag("B_BY_TERM", self.b.by_term()), flag("TRIANGLE", triangle)];
        let grid = if triangle { [tiles, 1, slices] } else { [tile_columns, tile_rows, slices] }.map(|n| n as u32);
        let product = |params: &Params, c: &wgpu::Buffer| {
            let bindings = [(1, Binding::from(a)), (2, b.into()), (3, c.into())];
            accelerator.run(&PRODUCT, &constants, params, &bindings, grid)
        };
        let operations = tiles * TILE * TILE * 2 * terms;
        if slices <= 1 {
            product(&params, c)?;
            accelerator.count(operations);
            return Ok(());
        }
        let mut scratch = accelerator.scratch.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = (slices * rows * width * 16) as u64;
        let parts = match &mut *scratch {
            Some(parts) if parts.buffer().size() >= bytes => parts.buffer(),
            other => {
                *other = None;
                other.insert(accelerator.buffer("partial products", bytes)?.0).buffer()
            }
        };
        params = Params { c_pitch: width as u32, c_slice: (rows * width) as u32, c_at: 0, add: 0, alpha: 1.0, ..params };
        product(&params, parts)?;
        let sum = SumParams {
            rows: rows as u32,
            width: width as u32,
            c_pitch: out.pitch(),
            c_at,
            slices: slices as u32,
            add: add.into(),
            alpha: self.alpha,
            padding: 0,
        };
        let bindings = [(1, Binding::from(parts)), (2, c.into())];
        let grid = grid_1d((rows * width).div_ceil(256) as u32);
        accelerator.run(&PRODUCT_SUM, &[], &sum, &bindings, grid)?;
        accelerator.count(operations);
        Ok(())
    }
}

/// Products of the heads of some windows, all at once.
pub(super) struct HeadProducts<'a> {
    /// The operands, each with the place of the first head of the first window and how far apart heads and windows are, in
    /// numbers.
    pub(super) a: Heads<'a>,
    pub(super) b: Heads<'a>,
    /// Whether B has a row of memory for each term.
    pub(super) b_by_term: bool,
    pub(super) c: Heads<'a>,
    /// Heads of A that share one of B.
    pub(super) shared_by: usize,
    pub(super) heads: usize,
    pub(super) windows: usize,
    /// Of each product.
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) terms: usize,
    /// Whether terms beyond a row are zero; if not, columns beyond a row are not needed.
    pub(super) causal_terms: bool,
}

/// Where heads lie.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a> {
    pub(super) buffer: &'a wgpu::Buffer,
    pub(super) pitch: usize,
    pub(super) first: usize,
    pub(super) head: usize,
    pub(super) window: usize,
}

impl HeadProducts<'_> {
    pub(super) fn run(&self, accelerator: &Accelerator) -> Result<(), AcceleratorError> {
        let four = |n: usize| (n / 4) as u32;
        let params = Params {
            rows: self.rows as u32,
            columns: self.columns as u32,
            terms: self.terms as u32,
            slice: self.terms as u32,
            a_pitch: four(self.a.pitch),
            b_pitch: four(self.b.pitch),
            c_pitch: four(self.c.pitch),
            a_at: four(self.a.first),
            b_at: four(self.b.first),
            c_at: four(self.c.first),
            alpha: 1.0,
            heads: self.heads as u32,
            shared_by: self.shared_by as u32,
            a_head: four(self.a.head),
            a_window: four(self.a.window),
            b_head: four(self.b.head),
            b_window: four(self.b.window),
            c_head: four(self.c.head),
            c_window: four(self.c.window),
            ..Params::zeroed()
        };
        let bindings = [(1, Binding::from(self.a.buffer)), (2, self.b.buffer.into()), (3, self.c.buffer.into())];
        let flag = |name, on: bool| (name, f64::from(u8::from(on)));
        let constants = [
            flag("HEADS", true),
            flag("B_BY_TERM", self.b_by_term),
            flag("CAUSAL_TERMS", self.causal_terms),
            flag("CAUSAL_COLUMNS", !self.causal_terms),
        ];
        let grid = [self.columns.div_ceil(TILE), self.rows.div_ceil(TILE), self.heads * self.windows].map(|n| n as u32);
        accelerator.run(&PRODUCT, &constants, &params, &bindings, grid)?;
        accelerator.count(2 * self.heads * self.windows * self.rows * self.columns * self.terms);
        Ok(())
    }
}

/// The ranges that `0..end` is cut into.
fn ranges(end: usize, cuts: &BTreeSet<usize>) -> impl Iterator<Item = Range<usize>> {
    let begins = std::iter::once(0).chain(cuts.iter().copied());
    begins.zip(cuts.iter().copied().chain([end])).map(|(a, b)| a..b).filter(|r| !r.is_empty())
}

/// Pieces of `range` of `at_once` numbers each.
fn pieces(range: Range<usize>, at_once: usize) -> impl Iterator<Item = Range<usize>> {
    range.clone().step_by(at_once).map(move |first| first..range.end.min(first + at_once))
}

impl Accelerator {
    /// `x` `[n, columns]` times `weight` `[rows, columns]` transposed: `[n, rows]`, as [`crate::matmul::times_transposed`].
    ///
    /// # Errors
    /// [`AcceleratorError::Memory`] if the result takes more than is left, [`AcceleratorError::Gpu`] if the device failed.
    ///
    /// # Panics
    /// If sizes do not fit together.
    pub fn times_transposed(&self, x: &Matrix, weight: &Matrix) -> Result<Matrix, AcceleratorError> {
        self.new_product(Operand::Rows(x.into()), Operand::Rows(weight.into()), 1.0)
    }

    /// `x` `[n, inner]` times `y` `[inner, columns]`: `[n, columns]`, as [`crate::matmul::times`].
    ///
    /// # Errors
    /// As [`Accelerator::times_transposed`].
    ///
    /// # Panics
    /// If sizes do not fit together.
    pub fn times(&self, x: &Matrix, y: &Matrix) -> Result<Matrix, AcceleratorError> {
        self.new_product(Operand::Rows(x.into()), Operand::Terms(y.into()), 1.0)
    }

    /// The mean of `x xᵀ` over the rows `x` of `[n, p]`: `[p, p]`, exactly symmetric, as [`crate::matmul::gram`].
    ///
    /// # Errors
    /// As [`Accelerator::times_transposed`].
    pub fn gram(&self, x: &Matrix) -> Result<Matrix, AcceleratorError> {
        self.cross(x, x)
    }

    /// The mean of `a bᵀ` over the rows of `a` `[n, p]` and `b` `[n, q]`: `[p, q]`, as [`crate::matmul::cross`].
    ///
    /// # Errors
    /// As [`Accelerator::times_transposed`].
    ///
    /// # Panics
    /// If `a` and `b` have different numbers of rows.
    pub fn cross(&self, a: &Matrix, b: &Matrix) -> Result<Matrix, AcceleratorError> {
        self.new_product(Operand::Terms(a.into()), Operand::Terms(b.into()), 1.0 / a.rows().max(1) as f32)
    }

    /// Adds `scale · Σ a bᵀ` over the rows of `a` `[n, p]` and `b` `[n, q]` to `sum` `[p, q]`: means over more rows than
    /// fit at once.
    ///
    /// # Errors
    /// As [`Accelerator::times_transposed`].
    ///
    /// # Panics
    /// If sizes do not fit together.
    pub fn add_cross(&self, a: &Matrix, b: &Matrix, scale: f32, sum: &mut Matrix) -> Result<(), AcceleratorError> {
        let product = Product { a: Operand::Terms(a.into()), b: Operand::Terms(b.into()), alpha: scale, add: true };
        product.run(self, &Part::from(&*sum))
    }

    fn new_product(&self, a: Operand<'_>, b: Operand<'_>, alpha: f32) -> Result<Matrix, AcceleratorError> {
        let out = self.unwritten(a.sizes().0, b.sizes().0)?;
        if a.sizes().1 == 0 {
            return self.zeros(a.sizes().0, b.sizes().0);
        }
        Product { a, b, alpha, add: false }.run(self, &Part::from(&out))?;
        self.gpu.check()?;
        Ok(out)
    }
}
