//! Causal grouped-query attention over a growing cache.

use super::numbers::{numbers, with_numbers};
use crate::exponentials::{softmax, softmax_beside};
use crate::zeros::zeros;
use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;
use std::ops::Range;

/// What scores go through before they weigh values.
#[derive(Clone, Copy)]
pub(super) struct Scores {
    /// Scores are multiplied with this.
    pub(super) scale: f32,
    /// Then soft-capped.
    pub(super) softcap: Option<f32>,
    /// Positions seen, the query's own included.
    pub(super) window: Option<usize>,
    /// Position of the first query.
    pub(super) first: usize,
}

/// Queries whose scores exist at the same time, a head and thread. Keys that none of them sees cost nothing.
const QUERIES: usize = 64;

/// `softmax(scale × q·k) v`, causal: `q` `[heads, queries, head_dim]`, `keys` and `values` `[kv_heads, positions,
/// head_dim]`; the result is `[queries, heads × head_dim]`. `sinks` has a number for each head that joins its softmax, or is
/// empty.
pub(super) fn attend(q: &Tensor, keys: &Tensor, values: &Tensor, scores: Scores, sinks: &[f32]) -> Result<Tensor> {
    q.contiguous()?.apply_op3(&keys.contiguous()?, &values.contiguous()?, Attention { scores, sinks: sinks.to_vec() })
}

struct Attention {
    scores: Scores,
    sinks: Vec<f32>,
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "causal attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        of_q: &Layout,
        keys: &CpuStorage,
        of_keys: &Layout,
        values: &CpuStorage,
        of_values: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = Sizes::new(of_q.shape(), of_keys.shape())?;
        let (q, keys, values) = (numbers(q, of_q)?, numbers(keys, of_keys)?, numbers(values, of_values)?);
        let Sizes { heads, queries, width, .. } = sizes;
        let mut out = zeros(queries * heads * width);
        out.par_chunks_mut(QUERIES * heads * width).enumerate().for_each(|(block, out)| {
            let mut buffer = Vec::new();
            for head in 0..heads {
                let block = sizes.block(&self.scores, block);
                self.probabilities(&sizes, head, &block, (q, keys), &mut buffer, None);
                let out = MatMut::from_row_major_slice_mut(out, block.rows, heads * width);
                let out = out.subcols_mut(head * width, width);
                matmul(out, Accum::Replace, block.matrix(&buffer), sizes.keys(values, head, &block), 1.0, Par::Seq);
            }
        });
        Ok((CpuStorage::F32(out), (queries, heads * width).into()))
    }

    fn bwd(&self, q: &Tensor, keys: &Tensor, values: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Gradients> {
        let sizes = Sizes::new(q.shape(), keys.shape())?;
        let mut out = [q, keys, values].map(|t| zeros(t.elem_count()));
        let gradient = gradient.contiguous()?;
        with_numbers(q, |q| {
            with_numbers(keys, |keys| {
                with_numbers(values, |values| with_numbers(&gradient, |g| self.backward(&sizes, (q, keys, values), g, &mut out)))
            })
        })????;
        let [of_q, of_keys, of_values] = out;
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), &Device::Cpu).map(Some);
        Ok((tensor(of_q, q)?, tensor(of_keys, keys)?, tensor(of_values, values)?))
    }
}

/// With respect to queries, keys and values.
type Gradients = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

/// Sizes of queries, keys and values.
struct Sizes {
    heads: usize,
    queries: usize,
    positions: usize,
    width: usize,
    /// Query heads that share keys and values.
    group: usize,
}

/// Some queries of a head, and the positions that they see.
struct Block {
    first: usize,
    rows: usize,
    seen: Range<usize>,
}

impl Block {
    /// Scores of the block, or what is made of them.
    fn matrix<'a>(&self, values: &'a [f32]) -> MatRef<'a, f32> {
        MatRef::from_row_major_slice(values, self.rows, self.seen.len())
    }
}

impl Sizes {
    fn new(q: &Shape, keys: &Shape) -> Result<Self> {
        let ((heads, queries, width), (kv_heads, positions, _)) = (q.dims3()?, keys.dims3()?);
        Ok(Self { heads, queries, positions, width, group: heads / kv_heads })
    }

    fn block(&self, scores: &Scores, index: usize) -> Block {
        let first = index * QUERIES;
        let rows = QUERIES.min(self.queries - first);
        let (from, to) = (scores.seen(first).start, scores.seen(first + rows - 1).end);
        Block { first, rows, seen: from..to }
    }

    /// The block's rows of a head in `q`.
    fn queries<'a>(&self, q: &'a [f32], head: usize, block: &Block) -> MatRef<'a, f32> {
        let first = (head * self.queries + block.first) * self.width;
        MatRef::from_row_major_slice(&q[first..first + block.rows * self.width], block.rows, self.width)
    }

    /// What the block sees of the head's keys, or of its values.
    fn keys<'a>(&self, keys: &'a [f32], head: usize, block: &Block) -> MatRef<'a, f32> {
        let first = (head / self.group * self.positions + block.seen.start) * self.width;
        MatRef::from_row_major_slice(&keys[first..first + block.seen.len() * self.width], block.seen.len(), self.width)
    }
}

impl Scores {
    /// The positions that query `query` sees.
    fn seen(&self, query: usize) -> Range<usize> {
        let end = self.first + query + 1;
        self.window.map_or(0, |w| end.saturating_sub(w))..end
    }
}

impl Attention {
    /// How much each position counts for each query of the block; also how fast its score grows with the product of query
    /// and key, if that is asked for.
    fn probabilities(
        &self,
        sizes: &Sizes,
        head: usize,
        block: &Block,
        (q, keys): (&[f32], &[f32]),
        out: &mut Vec<f32>,
        mut slopes: Option<&mut Vec<f32>>,
    ) {
        let seen = block.seen.len();
        out.resize(block.rows * seen, 0.0);
        let products = MatMut::from_row_major_slice_mut(out, block.rows, seen);
        let keys = sizes.keys(keys, head, block).transpose();
        matmul(products, Accum::Replace, sizes.queries(q, head, block), keys, self.scores.scale, Par::Seq);
        if let Some(slopes) = &mut slopes {
            slopes.clear();
            slopes.resize(block.rows * seen, self.scores.scale);
        }
        for (row, scores) in out.chunks_exact_mut(seen).enumerate() {
            if let Some(cap) = self.scores.softcap {
                scores.iter_mut().for_each(|s| *s = cap * (*s / cap).tanh());
                if let Some(slopes) = &mut slopes {
                    let slopes = slopes[row * seen..].iter_mut();
                    slopes.zip(&*scores).for_each(|(slope, s)| *slope *= 1.0 - (s / cap).powi(2));
                }
            }
            let Range { start, end } = self.scores.seen(block.first + row);
            let (start, end) = (start - block.seen.start, end - block.seen.start);
            match self.sinks.get(head) {
                Some(sink) => softmax_beside(&mut scores[start..end], *sink),
                None => softmax(&mut scores[start..end]),
            }
            scores[..start].fill(0.0);
            scores[end..].fill(0.0);
        }
    }

    /// Gradients with respect to queries, keys and values, of the one `gradient` with respect to the result; `out` is zero.
    fn backward(&self, sizes: &Sizes, inputs: (&[f32], &[f32], &[f32]), gradient: &[f32], out: &mut [Vec<f32>; 3]) {
        let &Sizes { heads, queries, positions, width, group } = sizes;
        let (q, keys, values) = inputs;
        let [of_q, of_keys, of_values] = out;
        let of_q = of_q.par_chunks_mut(group * queries * width);
        let of_keys = of_keys.par_chunks_mut(positions * width).zip(of_values.par_chunks_mut(positions * width));
        of_q.zip(of_keys).enumerate().for_each(|(kv_head, (of_q, (of_keys, of_values)))| {
            let (mut probabilities, mut slopes, mut of_scores) = (Vec::new(), Vec::new(), Vec::new());
            for (head, index) in (0..group).flat_map(|head| (0..queries.div_ceil(QUERIES)).map(move |index| (head, index))) {
                let block = sizes.block(&self.scores, index);
                let (seen, all) = (block.seen.len(), kv_head * group + head);
                self.probabilities(sizes, all, &block, (q, keys), &mut probabilities, Some(&mut slopes));
                let given = MatRef::from_row_major_slice(gradient, queries, heads * width);
                let given = given.submatrix(block.first, all * width, block.rows, width);
                let of_block = block.seen.start * width..block.seen.end * width;
                let (of_keys, of_values) = (&mut of_keys[of_block.clone()], &mut of_values[of_block]);
                let of_values = MatMut::from_row_major_slice_mut(of_values, seen, width);
                matmul(of_values, Accum::Add, block.matrix(&probabilities).transpose(), given, 1.0, Par::Seq);
                of_scores.resize(block.rows * seen, 0.0);
                let of_probabilities = MatMut::from_row_major_slice_mut(&mut of_scores, block.rows, seen);
                matmul(of_probabilities, Accum::Replace, given, sizes.keys(values, all, &block).transpose(), 1.0, Par::Seq);
                let rows = of_scores.chunks_exact_mut(seen).zip(probabilities.chunks_exact(seen)).zip(slopes.chunks_exact(seen));
                for ((g, p), slope) in rows {
                    let mean = g.iter().zip(p).map(|(g, p)| g * p).sum::<f32>();
                    g.iter_mut().zip(p).zip(slope).for_each(|((g, p), slope)| *g = p * (*g - mean) * slope);
                }
                let of_scores = block.matrix(&of_scores);
                let first = (head * queries + block.first) * width;
                let of_q = MatMut::from_row_major_slice_mut(&mut of_q[first..][..block.rows * width], block.rows, width);
                matmul(of_q, Accum::Replace, of_scores, sizes.keys(keys, all, &block), 1.0, Par::Seq);
                let of_keys = MatMut::from_row_major_slice_mut(of_keys, seen, width);
                matmul(of_keys, Accum::Add, of_scores.transpose(), sizes.queries(q, all, &block), 1.0, Par::Seq);
            }
        });
    }
}
