//! What a layer keeps of the positions that it has seen.

use super::delta_net::DeltaState;
use super::mamba2::Mamba2State;
use candle_core::{Result, Tensor};

/// Keys and values, each `[kv_heads, positions, head_dim]`.
pub type KeysValues = (Tensor, Tensor);

/// One layer's keys and values, each `[kv_heads, positions, head_dim]`, or what another mixer keeps.
#[derive(Default)]
pub(super) struct LayerCache {
    keys: Option<Tensor>,
    values: Option<Tensor>,
    /// The last columns of what a short convolution sees, `[kernel_size − 1, channels]`.
    pub(super) products: Option<Tensor>,
    /// What a gated delta net keeps.
    pub(super) delta: Option<DeltaState>,
    /// What a Mamba 2 mixer keeps.
    pub(super) mamba: Option<Mamba2State>,
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

    /// All keys and values so far.
    pub(super) fn kept(&self) -> Option<KeysValues> {
        self.keys.clone().zip(self.values.clone())
    }

    /// A cache with the keys and values of another layer.
    pub(super) fn of(kept: Option<KeysValues>) -> Self {
        let (keys, values) = kept.unzip();
        Self { keys, values, ..Self::default() }
    }
}
