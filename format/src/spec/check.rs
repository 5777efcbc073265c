//! Whether the numbers of a [`DecoderSpec`] fit together.

use super::{Activation, AltUp, Attention, DecoderSpec, DeltaNet, LayerSpec, Mamba2, Mixer, Mlp, Residual, RopeTable, Scores};

/// Largest size of anything.
const MAX_SIZE: usize = 1 << 24;

/// Most layers; the deepest models have some hundred.
const MAX_LAYERS: usize = 1 << 12;

/// Most positions that a short convolution sees; models have 3 to 7.
const MAX_KERNEL: usize = 16;

/// Most experts of a layer; models have up to some hundred.
const MAX_EXPERTS: usize = 1 << 10;

/// A contradiction within a [`DecoderSpec`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SpecError(pub String);

fn fail(why: String) -> Result<(), SpecError> {
    Err(SpecError(why))
}

fn check_sizes<const N: usize>(sizes: [(&str, usize); N]) -> Result<(), SpecError> {
    match sizes.into_iter().find(|(_, n)| !(1..=MAX_SIZE).contains(n)) {
        Some((name, n)) => fail(format!("{name} is {n}, outside 1 to {MAX_SIZE}")),
        None => Ok(()),
    }
}

fn check_kernel(size: usize) -> Result<(), SpecError> {
    check_sizes([("kernel_size", size)])?;
    if size > MAX_KERNEL { fail(format!("a convolution over {size} positions, over the limit of {MAX_KERNEL}")) } else { Ok(()) }
}

fn check_delta_net(net: &DeltaNet) -> Result<(), SpecError> {
    check_sizes([
        ("num_key_heads", net.num_key_heads),
        ("num_value_heads", net.num_value_heads),
        ("key_dim", net.key_dim),
        ("value_dim", net.value_dim),
    ])?;
    check_kernel(net.kernel_size)?;
    if !net.num_value_heads.is_multiple_of(net.num_key_heads) {
        return fail(format!("{} value heads are not a multiple of {} key heads", net.num_value_heads, net.num_key_heads));
    }
    check_states([net.num_value_heads, net.key_dim, net.value_dim])
}

fn check_mamba2(mamba: &Mamba2) -> Result<(), SpecError> {
    check_sizes([
        ("num_heads", mamba.num_heads),
        ("head_dim", mamba.head_dim),
        ("num_groups", mamba.num_groups),
        ("state_size", mamba.state_size),
    ])?;
    check_kernel(mamba.kernel_size)?;
    if !mamba.num_heads.is_multiple_of(mamba.num_groups) {
        return fail(format!("{} heads are not a multiple of {} groups", mamba.num_heads, mamba.num_groups));
    }
    let (min, max) = (mamba.min_step, mamba.max_step.unwrap_or(f32::MAX));
    if !(min >= 0.0 && max.is_finite() && min <= max) {
        return fail(format!("steps from {min} to {max}"));
    }
    check_states([mamba.num_heads, mamba.head_dim, mamba.state_size])
}

fn check_states(sizes: [usize; 3]) -> Result<(), SpecError> {
    match sizes.iter().try_fold(1usize, |product, n| product.checked_mul(*n)) {
        Some(product) if product <= 1 << 28 => Ok(()),
        _ => fail(format!("states of {sizes:?} numbers")),
    }
}

impl DecoderSpec {
    /// Checks that the numbers fit together.
    ///
    /// # Errors
    /// The first contradiction, in words, with its numbers.
    pub fn check(&self) -> Result<(), SpecError> {
        check_sizes([("vocab_size", self.vocab_size), ("hidden_size", self.hidden_size), ("max_context", self.max_context)])?;
        if !(1..=MAX_LAYERS).contains(&self.layers.len()) {
            return fail(format!("number of layers is {}, outside 1 to {MAX_LAYERS}", self.layers.len()));
        }
        if self.ropes.len() > MAX_LAYERS {
            return fail(format!("{} rope tables, over the limit of {MAX_LAYERS}", self.ropes.len()));
        }
        if self.eos_token_ids.len() > self.vocab_size {
            return fail(format!("{} end tokens of {} tokens", self.eos_token_ids.len(), self.vocab_size));
        }
        for (name, factor) in [
            ("embedding multiplier", self.embedding_multiplier),
            ("residual multiplier", self.residual_multiplier),
            ("logit multiplier", self.logit_multiplier),
        ] {
            if !factor.is_finite() {
                return fail(format!("{name} {factor} is not finite"));
            }
        }
        if let Some(cap) = self.logit_softcap.filter(|cap| !(cap.is_finite() && *cap > 0.0)) {
            return fail(format!("logit soft cap {cap} is not a positive number"));
        }
        if !(self.norm.epsilon.is_finite() && self.norm.epsilon >= 0.0) {
            return fail(format!("norm epsilon {} is not a small positive number", self.norm.epsilon));
        }
        for (i, rope) in self.ropes.iter().enumerate() {
            self.check_rope(i, rope)?;
        }
        for (i, layer) in self.layers.iter().enumerate() {
            self.check_layer(i, layer).map_err(|SpecError(why)| SpecError(format!("layer {i}: {why}")))?;
        }
        self.check_altup()?;
        self.check_per_layer()
    }

    fn check_altup(&self) -> Result<(), SpecError> {
        let Some(AltUp { num_streams, active, .. }) = self.altup else { return Ok(()) };
        if !(2..=AltUp::MAX_STREAMS).contains(&num_streams) {
            return fail(format!("{num_streams} residual streams, outside 2 to {}", AltUp::MAX_STREAMS));
        }
        if active >= num_streams {
            return fail(format!("stream {active} of {num_streams} is active"));
        }
        if let Some(i) = self.layers.iter().position(|l| l.output_scale) {
            return fail(format!("layer {i}: an output_scale of several residual streams"));
        }
        check_sizes([("width of all residual streams", self.stream_size())])
    }

    fn check_per_layer(&self) -> Result<(), SpecError> {
        let Some(per_layer) = self.per_layer_embedding else { return Ok(()) };
        // Of the table, whose rows have the numbers of all layers.
        check_sizes([
            ("per_layer_embedding", per_layer.size),
            ("width of per_layer_embedding", per_layer.size.saturating_mul(self.num_layers())),
        ])?;
        match [per_layer.table_multiplier, per_layer.projection_multiplier, per_layer.multiplier].iter().find(|m| !m.is_finite())
        {
            Some(m) => fail(format!("a multiplier of per_layer_embedding is {m}, which is not finite")),
            None => Ok(()),
        }
    }

    fn check_rope(&self, i: usize, rope: &RopeTable) -> Result<(), SpecError> {
        if rope.inv_freq.is_empty() {
            return fail(format!("rope table {i} rotates 0 dimensions"));
        }
        let long: &[f32] = rope.long.as_ref().map_or(&[], |l| &l.inv_freq);
        if rope.inv_freq.iter().chain(long).any(|f| !f.is_finite()) || !rope.factor.is_finite() {
            return fail(format!("rope table {i} holds a number that is not finite"));
        }
        if let Some(l) = rope.long.as_ref().filter(|l| Some(l.beyond) != self.long_beyond()) {
            return fail(format!(
                "rope table {i} makes sequences long beyond {} positions, another beyond {:?}",
                l.beyond,
                self.long_beyond()
            ));
        }
        if rope.long.is_some() && long.len() != rope.inv_freq.len() {
            let (a, b) = (rope.inv_freq.len(), long.len());
            return fail(format!("rope table {i} has {a} inverse frequencies, and {b} for long sequences"));
        }
        Ok(())
    }

    fn check_layer(&self, index: usize, layer: &LayerSpec) -> Result<(), SpecError> {
        for mixer in layer.mixers() {
            match mixer {
                Mixer::Attention(attention) => {
                    self.check_attention(attention)?;
                    self.check_sharing(index, attention)?;
                }
                Mixer::ShortConv(conv) => {
                    check_sizes([("channels", conv.channels)])?;
                    check_kernel(conv.kernel_size)?;
                }
                Mixer::DeltaNet(net) => check_delta_net(net)?,
                Mixer::Mamba2(mamba) => check_mamba2(mamba)?,
            }
        }
        if layer.beside.as_ref().is_some_and(|beside| beside.matrices() == layer.mixer.matrices()) {
            return fail("two mixers of one kind".into());
        }
        if let Some(rank) = layer.laurel {
            check_sizes([("laurel", rank)])?;
            if layer.residual != Residual::Sequential || !layer.norm_placement.is_before() {
                return fail("laurel in a layer that is not sequential with norms before its blocks".into());
            }
        }
        match &layer.mlp {
            Some(mlp) => self.check_mlp(mlp),
            None if layer.residual != Residual::Sequential => {
                fail("no feed-forward network that a mixer could be parallel to".into())
            }
            None => Ok(()),
        }
    }

    fn check_mlp(&self, mlp: &Mlp) -> Result<(), SpecError> {
        check_sizes([("intermediate_size", mlp.intermediate_size)])?;
        if mlp.activation == Activation::ClampedSwiglu && !mlp.gated {
            return fail("a clamped SwiGLU without a gate".into());
        }
        if let Some(cutoff) = mlp.gate_cutoff {
            if !mlp.gated || mlp.experts.is_some() || mlp.activation == Activation::ClampedSwiglu {
                return fail("a gate_cutoff without a gate, of experts or of a clamped SwiGLU".into());
            }
            if !cutoff.is_finite() {
                return fail(format!("gate_cutoff {cutoff} is not finite"));
            }
        }
        let Some(experts) = &mlp.experts else { return Ok(()) };
        check_sizes([("num_experts", experts.num_experts), ("num_active", experts.num_active)])?;
        if experts.num_experts > MAX_EXPERTS || experts.num_active > experts.num_experts {
            let (active, all) = (experts.num_active, experts.num_experts);
            return fail(format!("{active} active of {all} experts (at most {MAX_EXPERTS})"));
        }
        if experts.shared >= experts.num_active || (experts.shared_gate && experts.shared == 0) {
            let (active, shared) = (experts.num_active, experts.shared);
            return fail(format!("{shared} shared of {active} active experts, gated: {}", experts.shared_gate));
        }
        let rows = experts.num_experts.saturating_mul(mlp.up_size().max(self.hidden_size));
        check_sizes([("rows of all experts", rows)])?;
        if !(experts.scale.is_finite() && experts.epsilon.is_finite() && experts.epsilon >= 0.0) {
            return fail(format!("weights of experts with scale {} and epsilon {}", experts.scale, experts.epsilon));
        }
        if experts.selection_bias && experts.scores == Scores::Softmax {
            return fail("a selection bias of softmax scores".into());
        }
        if experts.epsilon != 0.0 && (experts.scores == Scores::Softmax || !experts.normalized) {
            return fail("an epsilon of experts that is not used".into());
        }
        Ok(())
    }

    /// Where keys and values come from.
    fn check_sharing(&self, index: usize, a: &Attention) -> Result<(), SpecError> {
        let Some(from) = a.kv_from else { return Ok(()) };
        if a.values_are_keys || a.value_norm {
            return fail(format!("has no values of its own, those of layer {from}, and says how they are made"));
        }
        if from >= index {
            return fail(format!("sees keys and values of layer {from}, which is no earlier one"));
        }
        let Some(other) = self.layers[from].attention().filter(|other| other.kv_from.is_none()) else {
            return fail(format!("sees keys and values of layer {from}, which has none of its own"));
        };
        if (a.num_kv_heads, a.head_dim) != (other.num_kv_heads, other.head_dim) {
            let (n, d, m, e) = (a.num_kv_heads, a.head_dim, other.num_kv_heads, other.head_dim);
            return fail(format!("has {n} key/value heads of {d}, and layer {from}, whose it sees, {m} of {e}"));
        }
        if a.window != other.window {
            let (w, v) = (a.window, other.window);
            return fail(format!("has a window of {w:?} positions, and layer {from}, whose keys and values it sees, {v:?}"));
        }
        Ok(())
    }

    fn check_attention(&self, a: &Attention) -> Result<(), SpecError> {
        check_sizes([("num_heads", a.num_heads), ("num_kv_heads", a.num_kv_heads), ("head_dim", a.head_dim)])?;
        if !a.num_heads.is_multiple_of(a.num_kv_heads) {
            return fail(format!("{} query heads are not a multiple of {} key/value heads", a.num_heads, a.num_kv_heads));
        }
        if !a.scale.is_finite() {
            return fail(format!("attention scale {} is not finite", a.scale));
        }
        if let Some(cap) = a.softcap.filter(|cap| !(cap.is_finite() && *cap > 0.0)) {
            return fail(format!("attention soft cap {cap} is not a positive number"));
        }
        if a.window == Some(0) {
            return fail("an attention window of 0".into());
        }
        if a.qk_norm_after_rope && a.qk_norm.is_none() {
            return fail("queries and keys are normalized after rope, and there is no norm for them".into());
        }
        if let Some(scaling) = a.query_scaling {
            check_sizes([("original_context of query_scaling", scaling.original_context)])?;
            if !scaling.beta.is_finite() {
                return fail(format!("beta of query_scaling is {}, which is not finite", scaling.beta));
            }
        }
        let Some(rope) = a.rope else { return Ok(()) };
        let Some(table) = self.ropes.get(rope) else {
            return fail(format!("names rope table {rope} of {}", self.ropes.len()));
        };
        let rotated = 2 * table.inv_freq.len();
        if rotated > a.head_dim {
            return fail(format!("rope table {rope} rotates {rotated} of {} head dimensions", a.head_dim));
        }
        Ok(())
    }
}
