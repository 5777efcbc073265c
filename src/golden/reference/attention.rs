//! Causal grouped-query attention over a growing cache.

use candle_core::{CpuStorage, D, InplaceOp1, Layout, Result, Tensor};
use rayon::prelude::*;

/// One layer's keys and values, each `[kv_heads, positions, head_dim]`.
#[derive(Default)]
pub(super) struct LayerCache {
    keys: Option<Tensor>,
    values: Option<Tensor>,
}

impl LayerCache {
    /// Appends `[kv_heads, new, head_dim]` and returns all keys and values.
    pub(super) fn append(&mut self, keys: Tensor, values: Tensor) -> Result<(Tensor, Tensor)> {
        let grow = |old: &mut Option<Tensor>, new: Tensor| -> Result<Tensor> {
            let all = match old.take() {
                Some(old) => Tensor::cat(&[old, new], 1)?,
                None => new.contiguous()?,
            };
            *old = Some(all.clone());
            Ok(all)
        };
        Ok((grow(&mut self.keys, keys)?, grow(&mut self.values, values)?))
    }
}

/// What scores go through before they weigh values.
pub(super) struct Scores {
    /// Scores are multiplied with this.
    pub(super) scale: f32,
    /// Then soft-capped.
    pub(super) softcap: Option<f32>,
    /// Positions seen, the query's own included.
    pub(super) window: Option<usize>,
    /// Position of the first query.
    pub(super) first: usize,
    /// Number of queries a head.
    pub(super) queries: usize,
}

/// `softmax(scale × q·k) v`, causal: `q` `[heads, queries, head_dim]`, `keys` and `values` `[kv_heads, positions,
/// head_dim]`; the result is `[queries, heads × head_dim]`.
pub(super) fn attend(q: &Tensor, keys: &Tensor, values: &Tensor, scores: &Scores, differentiable: bool) -> Result<Tensor> {
    let (heads, queries, width) = q.dims3()?;
    let kv_heads = keys.dim(0)?;
    // The query heads of a group are neighbours, so a group is one taller matrix against its shared keys.
    let q = q.contiguous()?.reshape((kv_heads, heads / kv_heads * queries, width))?;
    let mut weights = q.matmul(&keys.t()?)?;
    if differentiable {
        weights = scores.steps(&weights)?;
    } else {
        weights.inplace_op1(scores)?;
    }
    weights.matmul(values)?.reshape((heads, queries, width))?.transpose(0, 1)?.contiguous()?.reshape((queries, heads * width))
}

/// Scale, soft cap, mask and softmax over the rows of `[…, queries, positions]`.
impl InplaceOp1 for Scores {
    fn name(&self) -> &'static str {
        "masked softmax"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (Some((start, end)), CpuStorage::F32(all)) = (layout.contiguous_offsets(), storage) else {
            candle_core::bail!("masked softmax needs contiguous f32 scores");
        };
        let positions = layout.dims().last().copied().unwrap_or(1);
        all[start..end].par_chunks_mut(positions).enumerate().for_each(|(row, scores)| {
            let seen = self.first + row % self.queries + 1;
            let hidden = self.window.map_or(0, |w| seen.saturating_sub(w));
            self.softmax(&mut scores[hidden..seen]);
            scores[..hidden].fill(0.0);
            scores[seen..].fill(0.0);
        });
        Ok(())
    }
}

impl Scores {
    /// The same in candle's own operations, which have gradients.
    fn steps(&self, scores: &Tensor) -> Result<Tensor> {
        let positions = scores.dim(D::Minus1)?;
        let mut scores = (scores * f64::from(self.scale))?;
        if let Some(cap) = self.softcap {
            scores = ((scores / f64::from(cap))?.tanh()? * f64::from(cap))?;
        }
        let mask = (0..self.queries).flat_map(|query| {
            let seen = self.first + query + 1;
            let hidden = self.window.map_or(0, |w| seen.saturating_sub(w));
            (0..positions).map(move |p| if (hidden..seen).contains(&p) { 0.0 } else { f32::NEG_INFINITY })
        });
        let mask = Tensor::from_vec(mask.collect(), (self.queries, positions), scores.device())?;
        let shape = scores.shape().clone();
        let scores = scores.reshape(((), self.queries, positions))?.broadcast_add(&mask)?;
        let exp = scores.broadcast_sub(&scores.detach().max_keepdim(D::Minus1)?)?.exp()?;
        exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?.reshape(shape)
    }

    fn softmax(&self, scores: &mut [f32]) {
        let mut max = f32::NEG_INFINITY;
        for s in scores.iter_mut() {
            *s *= self.scale;
            if let Some(cap) = self.softcap {
                *s = cap * (*s / cap).tanh();
            }
            max = max.max(*s);
        }
        let mut sum = 0.0;
        for s in scores.iter_mut() {
            *s = (*s - max).exp();
            sum += *s;
        }
        for s in scores {
            *s /= sum;
        }
    }
}
