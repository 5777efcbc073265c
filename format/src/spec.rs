//! [`DecoderSpec`]: everything that a runtime needs to know of a decoder-only transformer.
//!
//! The spec speaks the field's own words and names no model family. Quirks that arithmetic can remove are removed
//! when a checkpoint is converted (Gemma's `1 + w` norm gains are stored as the sum, fused projections have one
//! canonical form, rope permutations are undone, rope scaling becomes a table of inverse frequencies), so what is
//! left here is what the arithmetic of a forward pass really depends on.

use serde::{Deserialize, Serialize};

/// A decoder-only transformer's shape and arithmetic.
///
/// With `x` the residual stream and `norm` the spec's [`Norm`], a sequential layer computes
/// `x += attention(norm(x)); x += mlp(norm(x))`, and the model ends with `head(norm(x))`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecoderSpec {
    /// Number of token ids, and rows of `embedding` and `head`.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward network's inner activation.
    pub intermediate_size: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads; divides `num_heads` (grouped-query attention).
    pub num_kv_heads: usize,
    /// Width of one head. `num_heads × head_dim` need not equal `hidden_size`.
    pub head_dim: usize,
    /// Largest number of positions that the model was made for.
    pub max_context: usize,
    /// Normalization before or after each block (see `norm_placement`) and before the head.
    pub norm: Norm,
    /// The feed-forward network's activation.
    pub activation: Activation,
    /// Whether the feed-forward network multiplies `activation(gate)` with `up` (SwiGLU and kin) or is
    /// `activation(up)` alone.
    #[serde(default = "yes")]
    pub gated_mlp: bool,
    /// Attention logits are `attention_scale × q·k`; usually `1/√head_dim`.
    pub attention_scale: f32,
    /// One entry a layer, in order.
    pub layers: Vec<LayerSpec>,
    /// Rotary tables that the layers refer to by index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ropes: Vec<RopeTable>,
    /// Whether `head` is the transposed `embedding` and not a tensor of its own.
    #[serde(default)]
    pub tied_head: bool,
    /// Normalization of queries and keys before rope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qk_norm: Option<QkNorm>,
    /// Which projections have a bias.
    #[serde(default, skip_serializing_if = "Biases::is_none")]
    pub biases: Biases,
    /// How a layer's two blocks are added to the residual stream.
    #[serde(default, skip_serializing_if = "is_default")]
    pub residual: Residual,
    /// Where norms stand around the blocks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub norm_placement: NormPlacement,
    /// Whether a learned table `positions` \[max_context, hidden_size\] is added to the embedding.
    #[serde(default, skip_serializing_if = "is_default")]
    pub learned_positions: bool,
    /// Attention logits become `cap × tanh(logit / cap)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_softcap: Option<f32>,
    /// Output logits become `cap × tanh(logit / cap)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_softcap: Option<f32>,
    /// The embedding is multiplied with this.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub embedding_multiplier: f32,
    /// Each block's output is multiplied with this before it is added.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub residual_multiplier: f32,
    /// Output logits are multiplied with this (before a soft cap).
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub logit_multiplier: f32,
    /// Token ids that end a generation unless the caller says otherwise.
    #[serde(default)]
    pub eos_token_ids: Vec<u32>,
    /// Token id that starts a sequence, where the model wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos_token_id: Option<u32>,
}

/// What may differ from layer to layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerSpec {
    /// Attention sees this many last positions, itself included; all of them where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// Index into [`DecoderSpec::ropes`]; no rotation where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope: Option<usize>,
}

/// A rotary embedding: at position `p`, dimensions `i` and `i + n` of a head (`n = inv_freq.len()`, split halves)
/// rotate by `p × inv_freq[i]`; dimensions from `2n` on stay as they are.
///
/// Every scaling variant (llama3, yarn, longrope, linear) is only another table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RopeTable {
    /// Inverse frequencies in radians a position.
    pub inv_freq: Vec<f32>,
    /// Sine and cosine are multiplied with this (yarn's and longrope's attention factor).
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub factor: f32,
    /// Other frequencies for long sequences (longrope).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long: Option<LongRope>,
}

/// The inverse frequencies that a rope table has for long sequences, for all of their positions: a sequence that grows
/// into a long one is computed anew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LongRope {
    /// Most positions of a sequence that is not long.
    pub beyond: usize,
    /// As many as the table has otherwise.
    pub inv_freq: Vec<f32>,
}

/// A normalization over the last dimension, with a gain tensor and, for [`NormKind::Layer`], a bias tensor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Norm {
    /// Root mean square, or mean and variance with or without bias.
    pub kind: NormKind,
    /// Added to the mean square or variance.
    pub epsilon: f32,
}

/// The normalizations in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// `x / √(mean(x²) + ε) × gain`.
    Rms,
    /// `(x − mean(x)) / √(var(x) + ε) × gain + bias`.
    Layer,
    /// `(x − mean(x)) / √(var(x) + ε) × gain`.
    LayerNoBias,
}

impl NormKind {
    /// Whether the mean is taken off first.
    pub fn is_centred(self) -> bool {
        self != Self::Rms
    }

    /// Whether a norm has a bias tensor beside its gain.
    pub fn has_bias(self) -> bool {
        self == Self::Layer
    }
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
}

/// Normalization of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QkNorm {
    /// Over each head, as [`DecoderSpec::norm`] does; gains of length `head_dim` that all heads share.
    PerHead,
    /// Over all heads together, as [`DecoderSpec::norm`] does; gains of length `heads × head_dim`.
    Whole,
    /// Over each head, with gains of its own (and biases, where the kind has them): length `heads × head_dim`. The kind
    /// need not be that of [`DecoderSpec::norm`]; the epsilon is.
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

/// Which projections have a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Biases {
    /// `qkv`.
    pub qkv: bool,
    /// `attention_output`.
    pub attention_output: bool,
    /// `gate_up` (or `up`) and `down`.
    pub mlp: bool,
    /// `head`.
    pub head: bool,
}

impl Biases {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// How a layer's attention and feed-forward outputs meet the residual stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Residual {
    /// `x += attention(norm(x)); x += mlp(norm(x))`.
    #[default]
    Sequential,
    /// `x += attention(norm₁(x)) + mlp(norm₂(x))`.
    Parallel,
    /// `x += attention(n) + mlp(n)` with one `n = norm(x)`.
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

impl DecoderSpec {
    /// Number of layers.
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// Rows of the fused `qkv` matrix: all query heads, then all key heads, then all value heads.
    pub fn qkv_size(&self) -> usize {
        (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
    }

    /// Width of the concatenated heads, the input of `attention_output`.
    pub fn attention_size(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Most positions of a sequence that is not a long one, if long ones are rotated otherwise.
    pub fn long_beyond(&self) -> Option<usize> {
        self.ropes.iter().find_map(|r| r.long.as_ref()).map(|l| l.beyond)
    }

    /// The canonical tensors of this decoder with their shapes (`[rows, columns]` for matrices, `[n]` for vectors), in
    /// the order in which a package stores them. This is the full contract between checkpoint readers and runtimes.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let (h, mut list) = (self.hidden_size, Vec::new());
        let mut add = |name: String, class, shape: Vec<usize>| list.push(TensorSpec { name, class, shape });
        let norm_of = |kind: NormKind, add: &mut dyn FnMut(String, TensorClass, Vec<usize>), name: &str, n: usize| {
            add(format!("{name}.gain"), TensorClass::Vector, vec![n]);
            if kind.has_bias() {
                add(format!("{name}.bias"), TensorClass::Vector, vec![n]);
            }
        };
        let norm =
            |add: &mut dyn FnMut(String, TensorClass, Vec<usize>), name: &str, n: usize| norm_of(self.norm.kind, add, name, n);
        add("embedding".into(), TensorClass::Embedding, vec![self.vocab_size, h]);
        if self.learned_positions {
            add("positions".into(), TensorClass::Embedding, vec![self.max_context, h]);
        }
        let pre = self.norm_placement != NormPlacement::Post;
        let post = self.norm_placement != NormPlacement::Pre;
        for i in 0..self.layers.len() {
            let p = format!("layers.{i}");
            if pre {
                norm(&mut add, &format!("{p}.attention_norm"), h);
            }
            add(format!("{p}.qkv"), TensorClass::Attention, vec![self.qkv_size(), h]);
            if self.biases.qkv {
                add(format!("{p}.qkv.bias"), TensorClass::Vector, vec![self.qkv_size()]);
            }
            if let Some(qk_norm) = self.qk_norm {
                let kind = qk_norm.norm(self.norm).kind;
                for (name, heads) in [("q_norm", self.num_heads), ("k_norm", self.num_kv_heads)] {
                    norm_of(kind, &mut add, &format!("{p}.{name}"), qk_norm.gains(heads, self.head_dim));
                }
            }
            add(format!("{p}.attention_output"), TensorClass::Attention, vec![h, self.attention_size()]);
            if self.biases.attention_output {
                add(format!("{p}.attention_output.bias"), TensorClass::Vector, vec![h]);
            }
            if post {
                norm(&mut add, &format!("{p}.attention_post_norm"), h);
            }
            if pre && self.residual != Residual::ParallelShared {
                norm(&mut add, &format!("{p}.mlp_norm"), h);
            }
            let (up, rows) =
                if self.gated_mlp { ("gate_up", 2 * self.intermediate_size) } else { ("up", self.intermediate_size) };
            add(format!("{p}.{up}"), TensorClass::Mlp, vec![rows, h]);
            if self.biases.mlp {
                add(format!("{p}.{up}.bias"), TensorClass::Vector, vec![rows]);
            }
            add(format!("{p}.down"), TensorClass::Mlp, vec![h, self.intermediate_size]);
            if self.biases.mlp {
                add(format!("{p}.down.bias"), TensorClass::Vector, vec![h]);
            }
            if post {
                norm(&mut add, &format!("{p}.mlp_post_norm"), h);
            }
        }
        norm(&mut add, "final_norm", h);
        if !self.tied_head {
            add("head".into(), TensorClass::Head, vec![self.vocab_size, h]);
        }
        if self.biases.head {
            add("head.bias".into(), TensorClass::Vector, vec![self.vocab_size]);
        }
        list
    }

    /// Checks that the numbers fit together.
    ///
    /// # Errors
    /// The first contradiction, in words, with its numbers.
    pub fn check(&self) -> Result<(), SpecError> {
        let fail = |why: String| Err(SpecError(why));
        for (name, n) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_heads", self.num_heads),
            ("num_kv_heads", self.num_kv_heads),
            ("head_dim", self.head_dim),
            ("max_context", self.max_context),
            ("number of layers", self.layers.len()),
        ] {
            if n == 0 || n > 1 << 24 {
                return fail(format!("{name} is {n}, outside 1 to {}", 1 << 24));
            }
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            return fail(format!("{} query heads are not a multiple of {} key/value heads", self.num_heads, self.num_kv_heads));
        }
        if !(self.norm.epsilon.is_finite() && self.norm.epsilon >= 0.0) {
            return fail(format!("norm epsilon {} is not a small positive number", self.norm.epsilon));
        }
        for (i, rope) in self.ropes.iter().enumerate() {
            if rope.inv_freq.is_empty() || 2 * rope.inv_freq.len() > self.head_dim {
                return fail(format!("rope table {i} rotates {} of {} head dimensions", 2 * rope.inv_freq.len(), self.head_dim));
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
        }
        for (i, layer) in self.layers.iter().enumerate() {
            if layer.rope.is_some_and(|r| r >= self.ropes.len()) {
                return fail(format!("layer {i} names rope table {:?} of {}", layer.rope, self.ropes.len()));
            }
            if layer.window == Some(0) {
                return fail(format!("layer {i} has an attention window of 0"));
            }
        }
        Ok(())
    }
}

/// A contradiction within a [`DecoderSpec`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SpecError(pub String);

/// One canonical tensor of a decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Canonical name, such as `layers.3.gate_up`.
    pub name: String,
    /// What the tensor is for; recipes choose schemes by it.
    pub class: TensorClass,
    /// `[rows, columns]` of a matrix (columns run along its input), `[n]` of a vector.
    pub shape: Vec<usize>,
}

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TensorClass {
    /// Token (and position) embeddings; also the head where it is tied.
    Embedding,
    /// `qkv` and `attention_output`.
    Attention,
    /// `gate_up` or `up`, and `down`.
    Mlp,
    /// An untied output head.
    Head,
    /// Norm gains and biases: always f32.
    Vector,
}

const fn yes() -> bool {
    true
}
const fn one() -> f32 {
    1.0
}
fn is_one(x: &f32) -> bool {
    *x == 1.0
}
fn is_default<T: Default + PartialEq>(x: &T) -> bool {
    *x == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: &str = r#"{"vocab_size": 5, "hidden_size": 6, "intermediate_size": 7, "num_heads": 4, "num_kv_heads": 2, "head_dim": 3,
        "max_context": 8, "norm": {"kind": "layer", "epsilon": 1e-5}, "activation": "silu", "attention_scale": 1.0, "layers": [{}]}"#;

    fn tiny(qk_norm: &str) -> DecoderSpec {
        let mut spec: serde_json::Value = serde_json::from_str(TINY).unwrap();
        spec["qk_norm"] = serde_json::from_str(qk_norm).unwrap();
        serde_json::from_value(spec).unwrap()
    }

    fn qk_tensors(spec: &DecoderSpec) -> Vec<(String, usize)> {
        let norms = spec.tensors().into_iter().filter(|t| t.name.contains("q_norm") || t.name.contains("k_norm"));
        norms.map(|t| (t.name.trim_start_matches("layers.0.").into(), t.shape[0])).collect()
    }

    #[test]
    fn norms_of_queries_and_keys_have_the_tensors_that_their_kind_needs() {
        let tensors = |qk_norm| qk_tensors(&tiny(qk_norm));
        let shared = [("q_norm.gain", 3), ("q_norm.bias", 3), ("k_norm.gain", 3), ("k_norm.bias", 3)];
        let own = [("q_norm.gain", 12), ("q_norm.bias", 12), ("k_norm.gain", 6), ("k_norm.bias", 6)];
        let named = |list: &[(&str, usize)]| list.iter().map(|(name, n)| (name.to_string(), *n)).collect::<Vec<_>>();
        assert_eq!(tensors("null"), []);
        assert_eq!(tensors(r#""per_head""#), named(&shared));
        assert_eq!(tensors(r#""whole""#), named(&own));
        assert_eq!(tensors(r#"{"each_head": "layer"}"#), named(&own));
        assert_eq!(tensors(r#"{"each_head": "layer_no_bias"}"#), named(&[own[0], own[2]]));
        assert_eq!(tensors(r#"{"each_head": "rms"}"#), named(&[own[0], own[2]]));
    }

    #[test]
    fn specs_are_written_as_they_are_read() {
        for (kind, name) in [(NormKind::Rms, "rms"), (NormKind::Layer, "layer"), (NormKind::LayerNoBias, "layer_no_bias")] {
            let spec = tiny(&format!(r#"{{"each_head": "{name}"}}"#));
            assert_eq!(spec.qk_norm, Some(QkNorm::EachHead(kind)));
            let json = serde_json::to_value(&spec).unwrap();
            assert_eq!(json["qk_norm"], serde_json::json!({"each_head": name}));
            assert_eq!(serde_json::from_value::<DecoderSpec>(json).unwrap(), spec);
        }
        assert!(serde_json::from_str::<QkNorm>(r#""each_head""#).is_err());
        assert!(serde_json::from_str::<NormKind>(r#""group""#).is_err());
    }
}
