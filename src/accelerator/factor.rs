//! The factor that GPTQ corrects by, and solutions with it, as `quantize/hessian.rs` has them in f64.
//!
//! f32 is enough here. The error of a Cholesky factorization is small against √(hᵢᵢ hⱼⱼ) for each number, so only the
//! condition of the matrix with its diagonal scaled to ones counts. Hessians have a fifth taken off all that is not on
//! the diagonal, which leaves no eigenvalue of that matrix below a fifth.
//!
//! The factorization goes through blocks of 64 columns, four of which change the columns after them in one product. The
//! inverse of a triangle is put together from those of its halves.

use super::product::{Operand, Part, Product};
use super::{Accelerator, AcceleratorError, Matrix, shader};
use haikuq_runtime::device::Binding;

shader!(FACTOR_BLOCK = "factor_block");
shader!(GATHER = "gather");
shader!(PLACE = "place");

/// Columns of a block, and columns after which the rest of the matrix is changed.
const BLOCK: usize = 64;
const PANEL: usize = 256;

impl Accelerator {
    /// Whether [`Accelerator::inverse_factor`] serves so many columns: if they lie in one buffer.
    pub fn can_factor(&self, columns: usize) -> bool {
        self.panel_rows(columns).is_ok_and(|rows| rows >= columns) && columns <= 65_535
    }

    /// The lower triangular `L` with `L Lᵀ = H⁻¹`, where row `i` of H is row `order[i]` of `hessian`; nothing if that has no
    /// Cholesky factor.
    ///
    /// With `J` the reversal of order and `J H J = M Mᵀ`, it is `J M⁻ᵀ J`.
    ///
    /// # Errors
    /// [`AcceleratorError::Memory`] if there is no room for four and a half matrices of that size, [`AcceleratorError::Gpu`] if the
    /// device failed.
    ///
    /// # Panics
    /// If sizes do not fit together, or [`Accelerator::can_factor`] said no.
    pub fn inverse_factor(&self, hessian: &Matrix, order: &[usize]) -> Result<Option<Matrix>, AcceleratorError> {
        let n = order.len();
        assert!(self.can_factor(n) && (hessian.rows(), hessian.columns()) == (n, n));
        let reversed: Vec<u32> = order.iter().rev().map(|&c| c as u32).collect();
        let reversed_order = self.counted("order", &reversed)?;
        let left = self.unwritten(n, n)?;
        self.gather(hessian, reversed_order.buffer(), &left, &[("ROWS", 1.0)])?;
        let (factor, inverses, failed) = (self.zeros(n, n)?, self.zeros(n.next_multiple_of(BLOCK), BLOCK)?, self.zeros(1, 1)?);
        self.eliminate(&left, &factor, &inverses, &failed)?;
        drop(left);
        let inverse = self.zeros(n, n)?;
        self.place_blocks(&inverses, &inverse)?;
        let half = n.div_ceil(2 * BLOCK) * BLOCK;
        let halves = Halves { factor, products: [self.unwritten(half, half)?, self.unwritten(half, half)?], inverse };
        halves.invert(self, 0, n)?;
        let Halves { inverse, .. } = halves;
        if self.download(&failed)?[0].to_bits() != 0 {
            return Ok(None);
        }
        let out = self.unwritten(n, n)?;
        self.gather(&inverse, reversed_order.buffer(), &out, &[("FLIP", 1.0)])?;
        Ok(Some(out))
    }

    /// `y H⁻¹` of each row `y`, with the factor of the inverse in the order `order`.
    ///
    /// # Errors
    /// As [`Accelerator::times_transposed`].
    ///
    /// # Panics
    /// If sizes do not fit together, or the rows do not lie in one buffer.
    pub fn solve_rows(&self, y: &Matrix, factor: &Matrix, order: &[usize]) -> Result<Matrix, AcceleratorError> {
        let mut back = vec![0u32; order.len()];
        order.iter().enumerate().for_each(|(i, &c)| back[c] = i as u32);
        let order: Vec<u32> = order.iter().map(|&c| c as u32).collect();
        let (order, back) = (self.counted("order", &order)?, self.counted("order", &back)?);
        let mut out = self.unwritten(y.rows(), y.columns())?;
        self.gather(y, order.buffer(), &out, &[])?;
        out = self.times(&out, factor)?;
        let solved = self.times_transposed(&out, factor)?;
        self.gather(&solved, back.buffer(), &out, &[])?;
        Ok(out)
    }

    /// Fills the lower triangle of `factor` and the inverses of its blocks.
    fn eliminate(&self, left: &Matrix, factor: &Matrix, inverses: &Matrix, failed: &Matrix) -> Result<(), AcceleratorError> {
        let n = left.rows();
        let part = |matrix, rows, columns| Part { matrix, rows, columns };
        for first in (0..n).step_by(BLOCK) {
            let last = n.min(first + BLOCK);
            let panel = n.min(first / PANEL * PANEL + PANEL);
            let at = first * left.pitch() + first;
            let params = [last - first, at, left.pitch(), first * BLOCK].map(|n| n as u32);
            let bindings = [
                (1, Binding::from(left.panel_of(0).1)),
                (2, factor.panel_of(0).1.into()),
                (3, inverses.panel_of(0).1.into()),
                (4, failed.panel_of(0).1.into()),
            ];
            self.run(&FACTOR_BLOCK, &[], &params, &bindings, [1, 1, 1])?;
            if last == n {
                break;
            }
            let below = Product {
                a: Operand::Rows(part(left, last..n, first..last)),
                b: Operand::Rows(part(inverses, first..last, 0..BLOCK)),
                alpha: 1.0,
                add: false,
            };
            below.run(self, &part(factor, last..n, first..last))?;
            // The rest of the panel now; what comes after it when it is done.
            let (columns, by) = if last < panel { (last..panel, first..last) } else { (last..n, first / PANEL * PANEL..last) };
            let rest = Product {
                a: Operand::Rows(part(factor, last..n, by.clone())),
                b: Operand::Rows(part(factor, columns.clone(), by)),
                alpha: -1.0,
                add: true,
            };
            rest.run(self, &part(left, last..n, columns))?;
        }
        Ok(())
    }

    /// Puts the inverses of blocks on the diagonal of `inverse`.
    fn place_blocks(&self, inverses: &Matrix, inverse: &Matrix) -> Result<(), AcceleratorError> {
        let n = inverse.rows();
        let (whole, rest) = (n / BLOCK, n % BLOCK);
        for (first, count, blocks) in [(0, BLOCK, whole), (whole * BLOCK, rest, 1)] {
            if count * blocks == 0 {
                continue;
            }
            let at = first * inverse.pitch() + first;
            let params = [count, count, first * BLOCK, BLOCK, at, inverse.pitch(), BLOCK * BLOCK, BLOCK * (inverse.pitch() + 1)];
            self.place(inverses, inverse, params, [1, count, blocks])?;
        }
        Ok(())
    }

    fn place(&self, from: &Matrix, to: &Matrix, params: [usize; 8], grid: [usize; 3]) -> Result<(), AcceleratorError> {
        let bindings = [(1, Binding::from(from.panel_of(0).1)), (2, to.panel_of(0).1.into())];
        self.run(&PLACE, &[], &params.map(|n| n as u32), &bindings, grid.map(|n| n as u32))
    }

    fn gather(
        &self,
        from: &Matrix,
        order: &wgpu::Buffer,
        to: &Matrix,
        constants: &[(&'static str, f64)],
    ) -> Result<(), AcceleratorError> {
        assert!(from.panels().count() == 1, "one buffer");
        let params = [from.rows(), from.columns(), from.pitch(), to.pitch()].map(|n| n as u32);
        let bindings = [(1, Binding::from(from.panel_of(0).1)), (2, order.into()), (3, to.panel_of(0).1.into())];
        let grid = [from.columns().div_ceil(256), from.rows().min(65_535), 1].map(|n| n as u32);
        self.run(&GATHER, constants, &params, &bindings, grid)
    }
}

/// The inverse of a triangle, on whose diagonal there are the inverses of blocks at first.
struct Halves {
    factor: Matrix,
    inverse: Matrix,
    /// Room for products of halves.
    products: [Matrix; 2],
}

impl Halves {
    /// Inverts rows and columns `begin..end`: the inverse of `[A 0; B C]` is `[A⁻¹ 0; −C⁻¹ B A⁻¹ C⁻¹]`.
    fn invert(&self, accelerator: &Accelerator, begin: usize, end: usize) -> Result<(), AcceleratorError> {
        let blocks = (end - begin).div_ceil(BLOCK);
        if blocks <= 1 {
            return Ok(());
        }
        let middle = begin + blocks.div_ceil(2) * BLOCK;
        self.invert(accelerator, begin, middle)?;
        self.invert(accelerator, middle, end)?;
        let (upper, lower) = (middle - begin, end - middle);
        let part = |matrix, rows, columns| Part { matrix, rows, columns };
        let [first, second] = self.products.each_ref().map(|p| part(p, 0..lower, 0..upper));
        let product = Product {
            a: Operand::Rows(part(&self.factor, middle..end, begin..middle)),
            b: Operand::Terms(part(&self.inverse, begin..middle, begin..middle)),
            alpha: 1.0,
            add: false,
        };
        product.run(accelerator, &first)?;
        let product = Product {
            a: Operand::Rows(part(&self.inverse, middle..end, middle..end)),
            b: Operand::Terms(first),
            alpha: -1.0,
            add: false,
        };
        product.run(accelerator, &second)?;
        let pitch = self.inverse.pitch();
        let params = [lower, upper, 0, self.products[1].pitch(), middle * pitch + begin, pitch, 0, 0];
        accelerator.place(&self.products[1], &self.inverse, params, [upper.div_ceil(64), lower, 1])
    }
}
