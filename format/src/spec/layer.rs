//! [`LayerSpec`]: one layer, which says all of its sizes itself.

use super::{Norm, NormKind, is_default, is_one, is_true, one, yes};
use serde::{Deserialize, Serialize};

/// One layer: a mixer, which moves information between positions, and a feed-forward network, which works on each
/// position by itself. Layers of one decoder may differ in everything but the width of the residual stream.
///
/// Some layers have two mixers side by side: both read the same input, and their outputs are added. Some have no feed-forward
/// network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LayerSpec {
    /// The block that mixes positions.
    pub mixer: Mixer,
    /// A second mixer of another kind beside it: the block's output is the sum of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<Mixer>,
    /// Rank of LAUREL, a learned residual layer beside the mixers, of a sequential layer with norms before its blocks. With `n` the
    /// normalized input and `x` the residual stream after the mixers it does
    /// `x ← (x + n + norm(laurel_right (laurel_left n))) / √2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub laurel: Option<usize>,
    /// The feed-forward network. A layer without one ends after its mixer, and is sequential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlp: Option<Mlp>,
    /// How the two blocks are added to the residual stream.
    #[serde(default, skip_serializing_if = "is_default")]
    pub residual: Residual,
    /// Where norms stand around the blocks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub norm_placement: NormPlacement,
    /// Whether the residual stream is multiplied with a number of the layer's own, `output_scale`, where it leaves the layer.
    #[serde(default, skip_serializing_if = "is_default")]
    pub output_scale: bool,
}

impl LayerSpec {
    /// A sequential layer with a norm before each block.
    pub fn new(mixer: impl Into<Mixer>, mlp: impl Into<Option<Mlp>>) -> Self {
        let (residual, norm_placement) = (Residual::default(), NormPlacement::default());
        Self { mixer: mixer.into(), beside: None, laurel: None, mlp: mlp.into(), residual, norm_placement, output_scale: false }
    }

    /// Feed-forward networks that are stored: 1 without experts, 0 without such a network.
    pub fn num_experts(&self) -> usize {
        self.mlp.as_ref().map_or(0, Mlp::num_experts)
    }

    /// The layer's mixers: one, or two.
    pub fn mixers(&self) -> impl Iterator<Item = &Mixer> + Clone {
        std::iter::once(&self.mixer).chain(&self.beside)
    }

    /// The layer's attention, if it has that.
    pub fn attention(&self) -> Option<&Attention> {
        self.mixers().find_map(|mixer| if let Mixer::Attention(attention) = mixer { Some(attention) } else { None })
    }

    /// The layer's attention, to change it.
    pub fn attention_mut(&mut self) -> Option<&mut Attention> {
        let mut mixers = std::iter::once(&mut self.mixer).chain(&mut self.beside);
        mixers.find_map(|mixer| if let Mixer::Attention(attention) = mixer { Some(attention) } else { None })
    }

    /// The layer's short convolution, if it has one.
    pub fn short_conv(&self) -> Option<&ShortConv> {
        self.mixers().find_map(|mixer| if let Mixer::ShortConv(conv) = mixer { Some(conv) } else { None })
    }

    /// The layer's gated delta net, if it has one.
    pub fn delta_net(&self) -> Option<&DeltaNet> {
        self.mixers().find_map(|mixer| if let Mixer::DeltaNet(net) = mixer { Some(net) } else { None })
    }

    /// The layer's Mamba 2 mixer, if it has one.
    pub fn mamba2(&self) -> Option<&Mamba2> {
        self.mixers().find_map(|mixer| if let Mixer::Mamba2(mamba) = mixer { Some(mamba) } else { None })
    }
}

/// What mixes positions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mixer {
    /// Softmax attention over keys and values that are kept.
    Attention(Attention),
    /// A gated convolution over the last few positions.
    ShortConv(ShortConv),
    /// Linear attention with a state that forgets and is corrected.
    DeltaNet(DeltaNet),
    /// A state space whose state forgets, by steps that the input chooses.
    Mamba2(Mamba2),
}

impl Mixer {
    /// The mixer's first and last matrices, as the last parts of their canonical names. The first reads the residual stream,
    /// the last writes to it.
    pub fn matrices(&self) -> [&'static str; 2] {
        match self {
            Self::Attention(_) => ["qkv", "attention_output"],
            Self::ShortConv(_) => ["conv_in", "conv_out"],
            Self::DeltaNet(_) => ["delta_in", "delta_out"],
            Self::Mamba2(_) => ["mamba_in", "mamba_out"],
        }
    }

    /// Rows of the first matrix.
    pub fn input_rows(&self) -> usize {
        match self {
            Self::Attention(attention) => attention.qkv_size(),
            Self::ShortConv(conv) => conv.input_rows(),
            Self::DeltaNet(net) => net.input_rows(),
            Self::Mamba2(mamba) => mamba.input_rows(),
        }
    }

    /// Columns of the last matrix.
    pub fn output_columns(&self) -> usize {
        match self {
            Self::Attention(attention) => attention.attention_size(),
            Self::ShortConv(conv) => conv.channels,
            Self::DeltaNet(net) => net.value_size(),
            Self::Mamba2(mamba) => mamba.inner_size(),
        }
    }

    /// Whether the first and the last matrix have biases.
    pub fn biases(&self) -> [bool; 2] {
        match self {
            Self::Attention(attention) => [attention.qkv_bias, attention.output_bias],
            Self::ShortConv(conv) => [conv.bias; 2],
            Self::DeltaNet(_) => [false; 2],
            Self::Mamba2(mamba) => [mamba.input_bias, mamba.output_bias],
        }
    }
}

impl From<Attention> for Mixer {
    fn from(attention: Attention) -> Self {
        Self::Attention(attention)
    }
}

impl From<DeltaNet> for Mixer {
    fn from(net: DeltaNet) -> Self {
        Self::DeltaNet(net)
    }
}

impl From<Mamba2> for Mixer {
    fn from(mamba: Mamba2) -> Self {
        Self::Mamba2(mamba)
    }
}

impl From<ShortConv> for Mixer {
    fn from(conv: ShortConv) -> Self {
        Self::ShortConv(conv)
    }
}

/// Causal softmax attention: queries, keys and values are one projection `qkv`, the heads' outputs go through another,
/// `attention_output`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Attention {
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads; divides `num_heads` (grouped-query attention).
    pub num_kv_heads: usize,
    /// Width of one head. `num_heads × head_dim` need not equal the decoder's `hidden_size`.
    pub head_dim: usize,
    /// Attention logits are `scale × q·k`; usually `1/√head_dim`.
    pub scale: f32,
    /// Attention logits become `softcap × tanh(logit / softcap)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub softcap: Option<f32>,
    /// Attention sees this many last positions, its own included; all of them where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// Index into [`DecoderSpec::ropes`](super::DecoderSpec::ropes); no rotation where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope: Option<usize>,
    /// Normalization of queries and keys, before rope unless `qk_norm_after_rope`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qk_norm: Option<QkNorm>,
    /// Whether queries and keys are rotated first, and then normalized.
    #[serde(default, skip_serializing_if = "is_default")]
    pub qk_norm_after_rope: bool,
    /// Queries grow with their position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_scaling: Option<QueryScaling>,
    /// Gates on the heads' outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<AttentionGate>,
    /// Index of an earlier layer whose keys and values the queries see, the newest position's included. `qkv` then has no rows
    /// of keys and values, and there are no norms for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_from: Option<usize>,
    /// Whether values are what the rows of keys make, before norm and rope. `qkv` then has no rows of values.
    #[serde(default, skip_serializing_if = "is_default")]
    pub values_are_keys: bool,
    /// Whether each head of values is normalized without gains, `v / √(mean(v²) + ε)` with the epsilon of the decoder's norm,
    /// whatever the kind of that.
    #[serde(default, skip_serializing_if = "is_default")]
    pub value_norm: bool,
    /// Whether each head has a number in `sinks` that joins the scores of its softmax as if it were one more position's, after
    /// scale and soft cap. That position has no value, so the others' weights sum to less than 1.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sinks: bool,
    /// Whether `qkv` has a bias.
    #[serde(default, skip_serializing_if = "is_default")]
    pub qkv_bias: bool,
    /// Whether `attention_output` has a bias.
    #[serde(default, skip_serializing_if = "is_default")]
    pub output_bias: bool,
}

impl Attention {
    /// Attention with the usual scale, `1/√head_dim`, and nothing else: all positions, no rope, no norms, no biases.
    pub fn new(num_heads: usize, num_kv_heads: usize, head_dim: usize) -> Self {
        Self {
            num_heads,
            num_kv_heads,
            head_dim,
            scale: (head_dim as f64).powf(-0.5) as f32,
            softcap: None,
            window: None,
            rope: None,
            qk_norm: None,
            qk_norm_after_rope: false,
            query_scaling: None,
            gate: None,
            kv_from: None,
            values_are_keys: false,
            value_norm: false,
            sinks: false,
            qkv_bias: false,
            output_bias: false,
        }
    }

    /// Rows of the fused `qkv` matrix: all query heads, then all key heads, then all value heads, then gates. Some layers have
    /// no rows of values, or none of keys either.
    pub fn qkv_size(&self) -> usize {
        self.attention_size() + self.own_kv() * self.kv_size() + self.gate_size()
    }

    /// Which of keys and values have rows in `qkv`: 2 for both, 1 for keys alone, 0 for none.
    pub fn own_kv(&self) -> usize {
        match (self.kv_from, self.values_are_keys) {
            (Some(_), _) => 0,
            (None, true) => 1,
            (None, false) => 2,
        }
    }

    /// Rows of `qkv` that are gates.
    pub fn gate_size(&self) -> usize {
        match self.gate {
            None => 0,
            Some(AttentionGate::PerHead) => self.num_heads,
            Some(AttentionGate::Elementwise) => self.attention_size(),
        }
    }

    /// Width of the concatenated query heads, the input of `attention_output`.
    pub fn attention_size(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Width of the concatenated key heads, and of the value heads.
    pub fn kv_size(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }
}

/// Queries that grow with the logarithm of how often the original context fits before them, which keeps attention sharp in
/// long texts: at position `p` they are multiplied with `1 + beta × ln(1 + ⌊p / original_context⌋)`, after norm and rope.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryScaling {
    /// How fast they grow.
    pub beta: f32,
    /// Positions that the model was trained on before its context was stretched; queries there stay as they are.
    pub original_context: usize,
}

impl QueryScaling {
    /// What queries at `position` are multiplied with.
    pub fn factor(&self, position: usize) -> f32 {
        1.0 + self.beta * ((1 + position / self.original_context) as f32).ln()
    }
}

/// A gated short convolution (LFM2): `conv_in` makes `b`, `c` and `x` of each position, stacked in this order; with `u = b × x`
/// the mixer is `conv_out(c × conv(u))`. `conv` is causal and works on each channel by itself:
/// `conv(u)[t] = bias + Σ kernel[j] × u[t − kernel_size + 1 + j]`, where `u` is zero before the first position. A sequence
/// keeps the last `kernel_size − 1` columns of `u`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ShortConv {
    /// Channels of the convolution.
    pub channels: usize,
    /// Positions that a channel sees, the current one included.
    pub kernel_size: usize,
    /// Whether the convolution and both projections have biases.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bias: bool,
}

impl ShortConv {
    /// A convolution without biases.
    pub const fn new(channels: usize, kernel_size: usize) -> Self {
        Self { channels, kernel_size, bias: false }
    }

    /// Rows of `conv_in`.
    pub const fn input_rows(&self) -> usize {
        3 * self.channels
    }
}

/// A gated delta net (S. Yang et al., "Gated Delta Networks", 2024). `delta_in` makes, stacked in this order, all heads' queries,
/// keys and values, then output gates `z`, then a row of `b` and one of `a` for each value head. Queries, keys and values go
/// through a causal convolution of each channel (`delta.kernel`, as in [`ShortConv`]) and SiLU; queries and keys are divided by
/// their lengths (`√(Σx² + 10⁻⁶)`), queries also by `√key_dim`. A value head keeps a state `S` \[key_dim, value_dim\], zero at
/// first. With `decay = exp(−exp(delta.log_decay) × softplus(a + delta.step_bias))` and `β = σ(b)` each position does
///
/// `S ← decay × S; S ← S + k ⊗ β(v − Sᵀk); o = Sᵀq`
///
/// and the mixer is `delta_out(rms(o) × delta_norm.gain × silu(z))`, with the norm over each head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DeltaNet {
    /// Heads of queries and of keys.
    pub num_key_heads: usize,
    /// Heads of values, a multiple of `num_key_heads`: as many one after the other share queries and keys.
    pub num_value_heads: usize,
    /// Width of a head of queries or keys.
    pub key_dim: usize,
    /// Width of a head of values.
    pub value_dim: usize,
    /// Positions that the convolution sees, the current one included.
    pub kernel_size: usize,
}

impl DeltaNet {
    /// A net of these sizes.
    pub const fn new(num_key_heads: usize, num_value_heads: usize, key_dim: usize, value_dim: usize, kernel_size: usize) -> Self {
        Self { num_key_heads, num_value_heads, key_dim, value_dim, kernel_size }
    }

    /// Numbers of all queries of a position, and of all keys.
    pub const fn key_size(&self) -> usize {
        self.num_key_heads * self.key_dim
    }

    /// Numbers of all values of a position.
    pub const fn value_size(&self) -> usize {
        self.num_value_heads * self.value_dim
    }

    /// Channels of the convolution.
    pub const fn channels(&self) -> usize {
        2 * self.key_size() + self.value_size()
    }

    /// Rows of `delta_in`.
    pub const fn input_rows(&self) -> usize {
        self.channels() + self.value_size() + 2 * self.num_value_heads
    }

    /// Numbers of a sequence's states, all heads together.
    pub const fn state_size(&self) -> usize {
        self.num_value_heads * self.key_dim * self.value_dim
    }
}

/// A Mamba 2 mixer (T. Dao and A. Gu, "Transformers are SSMs", 2024). `mamba_in` makes, stacked in this order, gates `z` and inputs
/// `x` of all heads (`num_heads × head_dim` each), `B` and `C` of all groups (`num_groups × state_size` each), and a step `dt` for
/// each head. `x`, `B` and `C` go through a causal convolution of each channel (`mamba.kernel`, and `mamba.bias` with `conv_bias`, as in
/// [`ShortConv`]) and SiLU. A head keeps a state `S` \[head_dim, state_size\], zero at first. With
/// `dt ← clamp(softplus(dt + mamba.step_bias), min_step, max_step)`, and `B` and `C` of group `⌊head × num_groups / num_heads⌋`,
/// each position does
///
/// `S ← exp(−exp(mamba.log_decay) × dt) × S + dt × x ⊗ B; y = S C + mamba.skip × x`
///
/// and the mixer is `mamba_out(gated(y, z))`: `y × silu(z)` without a norm. With one, root mean squares are taken over all heads of a
/// group together, with the epsilon of the decoder's norm and a gain for each number (`mamba_norm.gain`):
/// `rms(y × silu(z)) × gain`, or `rms(y) × gain × silu(z)` (see [`GatedNorm`]).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Mamba2 {
    /// Heads, each with a decay, a skip and a bias of its step.
    pub num_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Groups of heads that share `B` and `C`; divides `num_heads`.
    pub num_groups: usize,
    /// Numbers that a state has for each of a head's.
    pub state_size: usize,
    /// Positions that the convolution sees, the current one included.
    pub kernel_size: usize,
    /// Normalization of the heads' outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<GatedNorm>,
    /// The shortest step.
    #[serde(default, skip_serializing_if = "is_default")]
    pub min_step: f32,
    /// The longest step, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_step: Option<f32>,
    /// Whether the convolution has a bias.
    #[serde(default, skip_serializing_if = "is_default")]
    pub conv_bias: bool,
    /// Whether `mamba_in` has a bias.
    #[serde(default, skip_serializing_if = "is_default")]
    pub input_bias: bool,
    /// Whether `mamba_out` has a bias.
    #[serde(default, skip_serializing_if = "is_default")]
    pub output_bias: bool,
}

impl Mamba2 {
    /// A mixer of these sizes without norm and biases, whose steps are not bounded.
    pub const fn new(num_heads: usize, head_dim: usize, num_groups: usize, state_size: usize, kernel_size: usize) -> Self {
        let (norm, min_step, max_step) = (None, 0.0, None);
        let (conv_bias, input_bias, output_bias) = (false, false, false);
        Self {
            num_heads,
            head_dim,
            num_groups,
            state_size,
            kernel_size,
            norm,
            min_step,
            max_step,
            conv_bias,
            input_bias,
            output_bias,
        }
    }

    /// Numbers of all heads of a position: the input of `mamba_out`.
    pub const fn inner_size(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Numbers of `B` of all groups, and of `C`.
    pub const fn groups_size(&self) -> usize {
        self.num_groups * self.state_size
    }

    /// Channels of the convolution.
    pub const fn channels(&self) -> usize {
        self.inner_size() + 2 * self.groups_size()
    }

    /// Rows of `mamba_in`.
    pub const fn input_rows(&self) -> usize {
        self.inner_size() + self.channels() + self.num_heads
    }

    /// Numbers of a sequence's states, all heads together.
    pub const fn states_size(&self) -> usize {
        self.inner_size() * self.state_size
    }
}

/// How the outputs `y` of a [`Mamba2`] mixer's heads are normalized and gated by `z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GatedNorm {
    /// `rms(y × silu(z)) × gain`.
    AfterGate,
    /// `rms(y) × gain × silu(z)`.
    BeforeGate,
}

/// A feed-forward network: `down(activation(gate) × up)` (SwiGLU and kin), or `down(activation(up))` without a gate. With
/// [`Experts`] it is several of these, of which each token uses a few.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Mlp {
    /// Width of the inner activation, of one expert where there are experts.
    pub intermediate_size: usize,
    /// The activation.
    pub activation: Activation,
    /// Whether there is a gate.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub gated: bool,
    /// Whether `gate_up` (or `up`) and `down` have biases.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bias: bool,
    /// A mixture of experts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<Experts>,
    /// Gates are cut off before their activation, of a gated network without experts: `gate ← max(gate − mean − gate_cutoff × deviation, 0)`
    /// with mean and standard deviation (`√(mean((gate − mean)²))`) over a token's gates. In standard deviations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_cutoff: Option<f32>,
}

impl Mlp {
    /// A gated network without biases.
    pub const fn new(intermediate_size: usize, activation: Activation) -> Self {
        Self { intermediate_size, activation, gated: true, bias: false, experts: None, gate_cutoff: None }
    }

    /// The first matrix's part of a canonical name: `gate_up`, whose rows are those of gate and up in turn, or `up`. Those of
    /// experts stand under `experts`.
    pub fn up_name(&self) -> &'static str {
        match (self.gated, self.experts) {
            (true, None) => "gate_up",
            (false, None) => "up",
            (true, Some(_)) => "experts.gate_up",
            (false, Some(_)) => "experts.up",
        }
    }

    /// The last matrix's part of a canonical name.
    pub fn down_name(&self) -> &'static str {
        if self.experts.is_some() { "experts.down" } else { "down" }
    }

    /// Rows of the first matrix, of one expert where there are experts.
    pub fn up_size(&self) -> usize {
        if self.gated { 2 * self.intermediate_size } else { self.intermediate_size }
    }

    /// Networks that are stored: 1 without experts.
    pub fn num_experts(&self) -> usize {
        self.experts.map_or(1, |e| e.num_experts)
    }

    /// Networks that a token uses: 1 without experts.
    pub fn num_active(&self) -> usize {
        self.experts.map_or(1, |e| e.num_active)
    }
}

/// A mixture of experts. A router makes a logit `l` for each expert of each token: `l = router · x`, with `router.bias` where
/// there is one, from the same `x` that the experts read. A token uses the `num_active` experts with the largest logits, of equal
/// ones those that come first. A score is `exp(l)` for [`Scores::Softmax`] and `1 / (1 + exp(−l))` for [`Scores::Sigmoid`]. With
/// `selection_bias` those with the largest `score + router.selection_bias` are used. The network's output is the sum of
/// the chosen experts' outputs, each times
///
/// `weight = scale × score / n`
///
/// where `n` is the sum of the chosen experts' scores plus `epsilon` if `normalized`; else the sum of all experts' scores for softmax,
/// and 1 for sigmoid.
///
/// The last `shared` experts are no part of that: every token uses them, with the weight 1, or `1 / (1 + exp(−l))` with the logit `l` of
/// one more row of the router if `shared_gate`. They stand for one wider network, of which each has a part of the width.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Experts {
    /// Experts that there are.
    pub num_experts: usize,
    /// Experts that a token uses.
    pub num_active: usize,
    /// How many of both every token uses.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shared: usize,
    /// Whether the router has a row for the weight of those.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shared_gate: bool,
    /// What becomes of the router's logits.
    pub scores: Scores,
    /// Whether the weights of the chosen are divided by their sum.
    #[serde(default, skip_serializing_if = "is_default")]
    pub normalized: bool,
    /// What is added to that sum; 0 with softmax.
    #[serde(default, skip_serializing_if = "is_default")]
    pub epsilon: f32,
    /// Whether the router has a bias.
    #[serde(default, skip_serializing_if = "is_default")]
    pub router_bias: bool,
    /// Whether there is a bias for choosing alone, of scores that are not softmax.
    #[serde(default, skip_serializing_if = "is_default")]
    pub selection_bias: bool,
    /// All weights are multiplied with this.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub scale: f32,
}

impl Experts {
    /// Experts without biases and with a scale of 1, whose weights are not normalized.
    pub const fn new(num_experts: usize, num_active: usize, scores: Scores) -> Self {
        Self {
            num_experts,
            num_active,
            shared: 0,
            shared_gate: false,
            scores,
            normalized: false,
            epsilon: 0.0,
            router_bias: false,
            selection_bias: false,
            scale: 1.0,
        }
    }

    /// Experts that tokens choose among.
    pub const fn num_routed(&self) -> usize {
        self.num_experts - self.shared
    }

    /// Experts that a token chooses.
    pub const fn num_chosen(&self) -> usize {
        self.num_active - self.shared
    }

    /// Rows of the router.
    pub const fn router_rows(&self) -> usize {
        self.num_routed() + self.shared_gate as usize
    }
}

/// What becomes of a router's logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scores {
    /// The softmax over the experts.
    Softmax,
    /// The logistic function of each by itself.
    Sigmoid,
}

/// Feed-forward activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x × sigmoid(x)`.
    Silu,
    /// GELU by the error function.
    Gelu,
    /// GELU by the tanh approximation.
    GeluTanh,
    /// `max(x, 0)²`.
    Relu2,
    /// gpt-oss's gate, which needs a gated network: with `g = min(gate, 7)` and `u = max(−7, min(up, 7))` the inner activation is
    /// `g × sigmoid(1.702 × g) × (u + 1)`.
    ClampedSwiglu,
}

impl Activation {
    /// The largest gate and the largest magnitude of up, of [`Activation::ClampedSwiglu`].
    pub const LIMIT: f32 = 7.0;
    /// The factor in its sigmoid.
    pub const ALPHA: f32 = 1.702;
}

/// Gates on the outputs of attention's heads, which the layer's input makes: the outputs are multiplied with their sigmoids
/// before they go into `attention_output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionGate {
    /// One a head.
    PerHead,
    /// One a number.
    Elementwise,
}

/// Normalization of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QkNorm {
    /// Over each head, as the decoder's norm does; gains of length `head_dim` that all heads share.
    PerHead,
    /// Over all heads together, as the decoder's norm does; gains of length `heads × head_dim`.
    Whole,
    /// Over each head, with gains of its own (and biases, where the kind has them): length `heads × head_dim`. The kind
    /// need not be that of the decoder's norm; the epsilon is.
    EachHead(NormKind),
}

impl QkNorm {
    /// The norm of queries and keys in a decoder whose other norms are `norm`.
    pub fn norm(self, norm: Norm) -> Norm {
        match self {
            Self::PerHead | Self::Whole => norm,
            Self::EachHead(kind) => Norm { kind, ..norm },
        }
    }

    /// Length of the gains of `heads` heads.
    pub fn gains(self, heads: usize, head_dim: usize) -> usize {
        match self {
            Self::PerHead => head_dim,
            Self::Whole | Self::EachHead(_) => heads * head_dim,
        }
    }
}

/// How a layer's mixer and feed-forward outputs meet the residual stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Residual {
    /// `x += mixer(norm(x)); x += mlp(norm(x))`.
    #[default]
    Sequential,
    /// `x += mixer(norm₁(x)) + mlp(norm₂(x))`.
    Parallel,
    /// `x += mixer(n) + mlp(n)` with one `n = norm(x)`.
    ParallelShared,
}

/// Where a block's norms stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormPlacement {
    /// Before each block.
    #[default]
    Pre,
    /// After each block, on its output.
    Post,
    /// Before and after each block.
    Both,
}

impl NormPlacement {
    /// Whether a norm stands before each block.
    pub fn is_before(self) -> bool {
        self != Self::Post
    }

    /// Whether a norm stands after each block.
    pub fn is_after(self) -> bool {
        self != Self::Pre
    }
}
