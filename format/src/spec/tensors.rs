//! The canonical tensors of a [`DecoderSpec`].

use super::{
    AltUp, Attention, DecoderSpec, DeltaNet, LayerSpec, Mamba2, Mixer, Mlp, NormKind, PerLayerEmbedding, QkNorm, Residual,
    ShortConv,
};
use serde::{Deserialize, Serialize};

/// One canonical tensor of a decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorSpec {
    /// Canonical name, such as `layers.3.gate_up`.
    pub name: String,
    /// What the tensor is for; recipes choose schemes by it.
    pub class: TensorClass,
    /// `[rows, columns]` of a matrix (columns run along its input), `[n]` of a vector.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// A tensor by its canonical name.
    pub fn new(name: impl Into<String>, class: TensorClass, shape: Vec<usize>) -> Self {
        Self { name: name.into(), class, shape }
    }
}

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TensorClass {
    /// Tables of tokens (and positions), that for each layer too; also the head where it is tied.
    Embedding,
    /// The matrices of mixers: `qkv` and `attention_output`, `conv_in` and `conv_out`, `delta_in` and `delta_out`, `mamba_in` and
    /// `mamba_out`; `laurel_left` and `laurel_right` beside them.
    Attention,
    /// `gate_up` or `up`, and `down`; the matrices that numbers for each layer go through, and those at both ends of streams.
    Mlp,
    /// An untied output head.
    Head,
    /// The matrices of routers, which decide among experts: always f32.
    Router,
    /// Norm gains, biases, the kernels of convolutions, decays, skips, the small matrices that streams are guessed with: always f32.
    Vector,
}

impl TensorClass {
    /// Whether a recipe says how its tensors are stored. Others are always f32.
    pub fn is_quantized(self) -> bool {
        !matches!(self, Self::Router | Self::Vector)
    }
}

impl DecoderSpec {
    /// The canonical tensors of this decoder with their shapes (`[rows, columns]` for matrices, `[n]` for vectors), in
    /// the order in which a package stores them. This is the full contract between checkpoint readers and runtimes.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let (h, norm) = (self.hidden_size, self.norm.kind);
        let per_layer = self.per_layer_embedding.map(|p| p.size);
        let altup = self.altup;
        let mut list = List { hidden_size: h, norm, per_layer, altup, tensors: Vec::new() };
        list.matrix("embedding", TensorClass::Embedding, [self.vocab_size, h], false);
        if self.learned_positions {
            list.matrix("positions", TensorClass::Embedding, [self.max_context, h], false);
        }
        if let Some(size) = per_layer {
            let all = self.num_layers() * size;
            list.matrix(PerLayerEmbedding::TABLE, TensorClass::Embedding, [self.vocab_size, all], false);
            list.matrix("per_layer_projection", TensorClass::Mlp, [all, h], false);
            list.vector("per_layer_norm.gain", size);
        }
        for [name, _] in altup.iter().flat_map(|a| a.ends()) {
            list.matrix(&name, TensorClass::Mlp, [h, h], false);
        }
        for (i, layer) in self.layers.iter().enumerate() {
            list.layer(&format!("layers.{i}"), layer);
        }
        for [_, name] in altup.iter().flat_map(|a| a.ends()) {
            list.matrix(&name, TensorClass::Mlp, [h, h], false);
        }
        list.norm("final_norm", norm, h);
        if !self.tied_head {
            list.matrix("head", TensorClass::Head, [self.vocab_size, h], false);
        }
        if self.head_bias {
            list.vector("head.bias", self.vocab_size);
        }
        list.tensors
    }
}

impl DecoderSpec {
    /// How many of how many experts a token uses of the canonical tensor `name`: 1 of 1 of tensors that are not experts'.
    pub fn active_share(&self, name: &str) -> (u64, u64) {
        let of_experts = || {
            let (layer, part) = name.strip_prefix("layers.")?.split_once('.')?;
            let experts = self.layers.get(layer.parse::<usize>().ok()?)?.mlp?.experts?;
            part.starts_with("experts.").then_some((experts.num_active as u64, experts.num_experts as u64))
        };
        of_experts().unwrap_or((1, 1))
    }
}

struct List {
    hidden_size: usize,
    /// Kind of all norms that name none.
    norm: NormKind,
    /// Numbers of a token for each layer.
    per_layer: Option<usize>,
    altup: Option<AltUp>,
    tensors: Vec<TensorSpec>,
}

impl List {
    fn vector(&mut self, name: &str, n: usize) {
        self.tensors.push(TensorSpec::new(name, TensorClass::Vector, vec![n]));
    }

    fn matrix(&mut self, name: &str, class: TensorClass, [rows, columns]: [usize; 2], bias: bool) {
        self.tensors.push(TensorSpec::new(name, class, vec![rows, columns]));
        if bias {
            self.vector(&format!("{name}.bias"), rows);
        }
    }

    fn norm(&mut self, name: &str, kind: NormKind, n: usize) {
        self.vector(&format!("{name}.gain"), n);
        if kind.has_bias() {
            self.vector(&format!("{name}.bias"), n);
        }
    }

    fn block_norm(&mut self, present: bool, name: &str) {
        if present {
            self.norm(name, self.norm, self.hidden_size);
        }
    }

    fn layer(&mut self, name: &str, layer: &LayerSpec) {
        let (before, after) = (layer.norm_placement.is_before(), layer.norm_placement.is_after());
        if let Some(altup) = self.altup {
            let n = altup.num_streams;
            self.vector(&format!("{name}.altup_norm.gain"), self.hidden_size);
            for (part, size) in [("router", n * self.hidden_size), ("prediction", n * n * n), ("correction", n * n)] {
                self.vector(&format!("{name}.altup.{part}"), size);
            }
            if altup.output_scale {
                self.vector(&format!("{name}.altup.scale"), self.hidden_size);
            }
        }
        self.block_norm(before, &format!("{name}.mixer_norm"));
        for mixer in layer.mixers() {
            match mixer {
                Mixer::Attention(attention) => self.attention(name, attention),
                Mixer::ShortConv(conv) => self.short_conv(name, conv),
                Mixer::DeltaNet(net) => self.delta_net(name, net),
                Mixer::Mamba2(mamba) => self.mamba2(name, mamba),
            }
        }
        self.block_norm(after, &format!("{name}.mixer_post_norm"));
        if let Some(rank) = layer.laurel {
            self.matrix(&format!("{name}.laurel_left"), TensorClass::Attention, [rank, self.hidden_size], false);
            self.matrix(&format!("{name}.laurel_right"), TensorClass::Attention, [self.hidden_size, rank], false);
            self.block_norm(true, &format!("{name}.laurel_norm"));
        }
        if let Some(mlp) = &layer.mlp {
            self.block_norm(before && layer.residual != Residual::ParallelShared, &format!("{name}.mlp_norm"));
            self.mlp(name, mlp);
            self.block_norm(after, &format!("{name}.mlp_post_norm"));
        }
        if let Some(size) = self.per_layer {
            self.matrix(&format!("{name}.per_layer_gate"), TensorClass::Mlp, [size, self.hidden_size], false);
            self.matrix(&format!("{name}.per_layer_output"), TensorClass::Mlp, [self.hidden_size, size], false);
            self.block_norm(true, &format!("{name}.per_layer_post_norm"));
        }
        if layer.output_scale {
            self.vector(&format!("{name}.output_scale"), 1);
        }
    }

    fn attention(&mut self, name: &str, a: &Attention) {
        self.matrix(&format!("{name}.qkv"), TensorClass::Attention, [a.qkv_size(), self.hidden_size], a.qkv_bias);
        if let Some(qk_norm) = a.qk_norm {
            let kind = match qk_norm {
                QkNorm::EachHead(kind) => kind,
                QkNorm::PerHead | QkNorm::Whole => self.norm,
            };
            let parts = [("q_norm", a.num_heads), ("k_norm", a.num_kv_heads)];
            for (part, heads) in parts.into_iter().take(if a.kv_from.is_some() { 1 } else { 2 }) {
                self.norm(&format!("{name}.{part}"), kind, qk_norm.gains(heads, a.head_dim));
            }
        }
        if a.sinks {
            self.vector(&format!("{name}.sinks"), a.num_heads);
        }
        let shape = [self.hidden_size, a.attention_size()];
        self.matrix(&format!("{name}.attention_output"), TensorClass::Attention, shape, a.output_bias);
    }

    /// The kernel is a vector, `kernel_size` numbers for the first channel, then for the second, and so on.
    fn short_conv(&mut self, name: &str, conv: &ShortConv) {
        let (h, n) = (self.hidden_size, conv.channels);
        self.matrix(&format!("{name}.conv_in"), TensorClass::Attention, [conv.input_rows(), h], conv.bias);
        self.vector(&format!("{name}.conv.kernel"), n * conv.kernel_size);
        if conv.bias {
            self.vector(&format!("{name}.conv.bias"), n);
        }
        self.matrix(&format!("{name}.conv_out"), TensorClass::Attention, [h, n], conv.bias);
    }

    fn delta_net(&mut self, name: &str, net: &DeltaNet) {
        let h = self.hidden_size;
        self.matrix(&format!("{name}.delta_in"), TensorClass::Attention, [net.input_rows(), h], false);
        self.vector(&format!("{name}.delta.kernel"), net.channels() * net.kernel_size);
        self.vector(&format!("{name}.delta.log_decay"), net.num_value_heads);
        self.vector(&format!("{name}.delta.step_bias"), net.num_value_heads);
        self.vector(&format!("{name}.delta_norm.gain"), net.value_dim);
        self.matrix(&format!("{name}.delta_out"), TensorClass::Attention, [h, net.value_size()], false);
    }

    fn mamba2(&mut self, name: &str, mamba: &Mamba2) {
        let (h, heads) = (self.hidden_size, mamba.num_heads);
        self.matrix(&format!("{name}.mamba_in"), TensorClass::Attention, [mamba.input_rows(), h], mamba.input_bias);
        self.vector(&format!("{name}.mamba.kernel"), mamba.channels() * mamba.kernel_size);
        if mamba.conv_bias {
            self.vector(&format!("{name}.mamba.bias"), mamba.channels());
        }
        for part in ["log_decay", "step_bias", "skip"] {
            self.vector(&format!("{name}.mamba.{part}"), heads);
        }
        if mamba.norm.is_some() {
            self.vector(&format!("{name}.mamba_norm.gain"), mamba.inner_size());
        }
        self.matrix(&format!("{name}.mamba_out"), TensorClass::Attention, [h, mamba.inner_size()], mamba.output_bias);
    }

    /// All experts' matrices are one, one expert's rows after the other's.
    fn mlp(&mut self, name: &str, mlp: &Mlp) {
        if let Some(experts) = mlp.experts {
            let router = format!("{name}.router");
            self.matrix(&router, TensorClass::Router, [experts.router_rows(), self.hidden_size], experts.router_bias);
            if experts.selection_bias {
                self.vector(&format!("{router}.selection_bias"), experts.num_routed());
            }
        }
        let (up, down, n) = (format!("{name}.{}", mlp.up_name()), format!("{name}.{}", mlp.down_name()), mlp.num_experts());
        self.matrix(&up, TensorClass::Mlp, [n * mlp.up_size(), self.hidden_size], mlp.bias);
        self.matrix(&down, TensorClass::Mlp, [n * self.hidden_size, mlp.intermediate_size], mlp.bias);
    }
}
