//! [`Names`]: what a family calls its tensors, from which the sources of every canonical tensor follow.

use super::source::{Order, Part, Source, Sources};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{Attention, DeltaNet, LayerSpec, Mamba2, Mixer, Mlp, QkNorm, ShortConv, TensorSpec};

/// A family's own names, without `.weight` and `.bias`, of layers without their number's prefix.
///
/// Names of parts that a spec does not have are never used.
#[derive(Clone, Copy)]
pub(super) struct Names {
    /// Starts every name but the head's, with its dot. A checkpoint of the bare model goes without it.
    pub(super) base: &'static str,
    pub(super) embedding: &'static str,
    /// Learned positions.
    pub(super) positions: &'static str,
    /// List of layers.
    pub(super) layers: &'static str,
    pub(super) mixer_norm: &'static str,
    pub(super) qkv: Qkv,
    pub(super) q_norm: &'static str,
    pub(super) k_norm: &'static str,
    /// Gates on the heads' outputs, where they are a tensor of their own.
    pub(super) attention_gate: &'static str,
    /// Scores of heads that join their softmax. A parameter that is not called `weight`.
    pub(super) sinks: &'static str,
    pub(super) attention_output: &'static str,
    /// First matrix, kernel and last matrix of a short convolution.
    pub(super) short_conv: [&'static str; 3],
    /// Of a gated delta net.
    pub(super) delta_net: DeltaNames,
    /// Of numbers that tokens bring along for each layer.
    pub(super) per_layer: PerLayerNames,
    /// Of a learned residual layer: first matrix, last matrix, norm.
    pub(super) laurel: [&'static str; 3],
    /// Of several residual streams.
    pub(super) altup: AltUpNames,
    /// The factor of a layer's outputs, which is not called `weight`.
    pub(super) output_scale: &'static str,
    /// Of a Mamba 2 mixer.
    pub(super) mamba2: MambaNames,
    pub(super) mixer_post_norm: &'static str,
    pub(super) mlp_norm: &'static str,
    pub(super) up: Up,
    pub(super) down: &'static str,
    /// Of a mixture of experts.
    pub(super) experts: ExpertNames,
    pub(super) mlp_post_norm: &'static str,
    pub(super) final_norm: &'static str,
    pub(super) head: &'static str,
    /// Whether the layers' matrices are stored as \[inputs, outputs\].
    pub(super) transposed: bool,
    /// What the family adds to the gains of its norms before it uses them.
    pub(super) gain_offset: f32,
    /// Whether the family rotates neighbours, and not the halves of a head: its queries and keys are brought into the order
    /// of halves.
    pub(super) rotary_pairs: bool,
}

/// Values and gates among the kinds of rows that `qkv` is stacked of.
const VALUES: usize = 2;
const GATES: usize = 3;

/// The name of a parameter that is not called `weight`.
fn bare(name: &str) -> String {
    name.strip_suffix(".weight").unwrap_or(name).to_string()
}

/// How queries, keys and values are stored.
#[derive(Clone, Copy)]
pub(super) enum Qkv {
    /// Three tensors.
    Separate([&'static str; 3]),
    /// One, with all queries, all keys, all values.
    Fused(&'static str),
    /// One, with queries, keys and values of the first head, then of the second, and so on.
    ByHead(&'static str),
    /// Three tensors, of which the first has the queries of a head, then its gates, head by head.
    GatedByHead([&'static str; 3]),
}

/// What a gated delta net is stored as.
#[derive(Clone, Copy)]
pub(super) struct DeltaNames {
    /// Queries, keys and values; gates; `b`; `a`.
    pub(super) input: [&'static str; 4],
    pub(super) kernel: &'static str,
    /// Parameters that are not called `weight`.
    pub(super) log_decay: &'static str,
    pub(super) step_bias: &'static str,
    /// Its gains are used as they are.
    pub(super) norm: &'static str,
    pub(super) output: &'static str,
    /// Whether the first of the input's names has queries, keys, values and gates of the first head of keys, then of the second, and so on,
    /// and the second one `b` and `a` likewise.
    pub(super) by_key_head: bool,
}

/// What the numbers of a token for each layer are stored as.
#[derive(Clone, Copy)]
pub(super) struct PerLayerNames {
    pub(super) table: &'static str,
    pub(super) projection: &'static str,
    pub(super) norm: &'static str,
    /// Of each layer.
    pub(super) gate: &'static str,
    pub(super) output: &'static str,
    pub(super) post_norm: &'static str,
}

/// What several residual streams are stored as.
#[derive(Clone, Copy)]
pub(super) struct AltUpNames {
    /// Lists of the matrices before the first layer, and after the last.
    pub(super) ends: [&'static str; 2],
    /// Of each layer.
    pub(super) norm: &'static str,
    pub(super) router: &'static str,
    pub(super) prediction: &'static str,
    pub(super) correction: &'static str,
    /// A parameter that is not called `weight`.
    pub(super) scale: &'static str,
}

/// What a mixture of experts is stored as.
#[derive(Clone, Copy)]
pub(super) struct ExpertNames {
    pub(super) router: &'static str,
    /// A buffer that is not called `weight`.
    pub(super) selection_bias: &'static str,
    /// List of experts.
    pub(super) list: &'static str,
    /// An expert's first matrices; [`Up::Alone`] is one that has the rows of gate and up in turn already.
    pub(super) up: Up,
    pub(super) down: &'static str,
    /// Biases of all experts together, of the first matrices and of the last, which are not called `bias`.
    pub(super) biases: [&'static str; 2],
    /// The network of experts that every token uses, and the router's row for its weight.
    pub(super) shared_up: Up,
    pub(super) shared_down: &'static str,
    pub(super) shared_gate: &'static str,
}

/// What a Mamba 2 mixer is stored as.
#[derive(Clone, Copy)]
pub(super) struct MambaNames {
    /// Gates, inputs, `B`, `C` and steps.
    pub(super) input: &'static str,
    pub(super) kernel: &'static str,
    /// Parameters that are not called `weight`.
    pub(super) log_decay: &'static str,
    pub(super) step_bias: &'static str,
    pub(super) skip: &'static str,
    /// Its gains are used as they are.
    pub(super) norm: &'static str,
    pub(super) output: &'static str,
}

/// Numbers that a checkpoint gives to each layer's mixer and to its feed-forward network, where these are layers of their own there.
pub(super) type Blocks = Vec<[usize; 2]>;

/// How the feed-forward network's first matrices are stored.
#[derive(Clone, Copy)]
pub(super) enum Up {
    /// Gate and up, two tensors.
    Separate([&'static str; 2]),
    /// One, with all of gate, then all of up.
    Fused(&'static str),
    /// No gate.
    Alone(&'static str),
}

impl Names {
    /// The names of Llama, which most families share.
    pub(super) const LLAMA: Self = Self {
        base: "model.",
        embedding: "embed_tokens",
        positions: "",
        layers: "layers",
        mixer_norm: "input_layernorm",
        qkv: Qkv::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
        q_norm: "self_attn.q_norm",
        k_norm: "self_attn.k_norm",
        attention_gate: "self_attn.gate_proj",
        sinks: "self_attn.sinks",
        attention_output: "self_attn.o_proj",
        short_conv: ["conv.in_proj", "conv.conv", "conv.out_proj"],
        delta_net: DeltaNames {
            input: ["linear_attn.in_proj_qkv", "linear_attn.in_proj_z", "linear_attn.in_proj_b", "linear_attn.in_proj_a"],
            kernel: "linear_attn.conv1d",
            log_decay: "linear_attn.A_log",
            step_bias: "linear_attn.dt_bias",
            norm: "linear_attn.norm",
            output: "linear_attn.out_proj",
            by_key_head: false,
        },
        per_layer: PerLayerNames {
            table: "embed_tokens_per_layer",
            projection: "per_layer_model_projection",
            norm: "per_layer_projection_norm",
            gate: "per_layer_input_gate",
            output: "per_layer_projection",
            post_norm: "post_per_layer_input_norm",
        },
        laurel: ["laurel.linear_left", "laurel.linear_right", "laurel.post_laurel_norm"],
        altup: AltUpNames {
            ends: ["altup_projections", "altup_unembed_projections"],
            norm: "altup.router_norm",
            router: "altup.modality_router",
            prediction: "altup.prediction_coefs",
            correction: "altup.correction_coefs",
            scale: "altup.correct_output_scale",
        },
        output_scale: "layer_scalar",
        mamba2: MambaNames {
            input: "mamba.in_proj",
            kernel: "mamba.conv1d",
            log_decay: "mamba.A_log",
            step_bias: "mamba.dt_bias",
            skip: "mamba.D",
            norm: "mamba.norm",
            output: "mamba.out_proj",
        },
        mixer_post_norm: "",
        mlp_norm: "post_attention_layernorm",
        up: Up::Separate(["mlp.gate_proj", "mlp.up_proj"]),
        down: "mlp.down_proj",
        experts: ExpertNames {
            router: "mlp.gate",
            selection_bias: "",
            list: "mlp.experts",
            up: Up::Separate(["gate_proj", "up_proj"]),
            down: "down_proj",
            biases: ["mlp.experts.gate_up_proj_bias", "mlp.experts.down_proj_bias"],
            shared_up: Up::Separate(["mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"]),
            shared_down: "mlp.shared_expert.down_proj",
            shared_gate: "mlp.shared_expert_gate",
        },
        mlp_post_norm: "",
        final_norm: "norm",
        head: "lm_head",
        transposed: false,
        gain_offset: 0.0,
        rotary_pairs: false,
    };

    /// The sources of every canonical tensor of `spec`.
    pub(super) fn sources(&self, spec: &DecoderSpec, blocks: Option<&Blocks>) -> Sources {
        let layer_of = |t: &TensorSpec| {
            let (index, _) = t.name.strip_prefix("layers.")?.split_once('.')?;
            let index = index.parse::<usize>().ok()?;
            Some((spec.layers.get(index)?, blocks.map_or([index; 2], |blocks| blocks[index])))
        };
        let streams = spec.altup.map_or(1, |a| a.num_streams);
        spec.tensors().into_iter().map(|t| (t.name.clone(), self.source(layer_of(&t), &t, streams))).collect()
    }

    /// `layer` is the one that the tensor belongs to, if it belongs to one, with the numbers of its blocks; `streams` are those of residuals.
    fn source(&self, layer: Option<(&LayerSpec, [usize; 2])>, tensor: &TensorSpec, streams: usize) -> Source {
        let rows = tensor.shape[0];
        let (name, kind) = match tensor.name.rsplit_once('.') {
            Some((name, "bias")) => (name, "bias"),
            Some((name, "gain" | "kernel" | "log_decay" | "step_bias" | "skip")) => (name, "weight"),
            _ => (tensor.name.as_str(), "weight"),
        };
        let within = name.strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
        let (Some((_, part)), Some((layer, [of_mixer, of_mlp]))) = (within, layer) else {
            let of_end = |i: usize| {
                let number = name.strip_prefix(["altup_in.", "altup_out."][i])?.parse::<usize>().ok()?;
                Some(format!("{}{}.{}", self.base, self.altup.ends[i], number.saturating_sub(1)))
            };
            let name = match name {
                _ if name.starts_with("altup_") => of_end(0).or_else(|| of_end(1)).unwrap_or_default(),
                "embedding" => format!("{}{}", self.base, self.embedding),
                "positions" => format!("{}{}", self.base, self.positions),
                "final_norm" => format!("{}{}", self.base, self.final_norm),
                "per_layer_embedding" => format!("{}{}", self.base, self.per_layer.table),
                "per_layer_projection" => format!("{}{}", self.base, self.per_layer.projection),
                "per_layer_norm" => format!("{}{}", self.base, self.per_layer.norm),
                _ => self.head.to_string(),
            };
            return self.with_offset(tensor, Source::stacked(vec![Part::whole(format!("{name}.{kind}"), rows)]));
        };
        let is_of_mlp = matches!(part, "mlp_norm" | "mlp_post_norm" | "gate_up" | "up" | "down");
        let index = if is_of_mlp { of_mlp } else { of_mixer };
        let full = |name: &str| format!("{}{}.{index}.{name}.{kind}", self.base, self.layers);
        let whole = |name: &str| Source::stacked(vec![Part::whole(full(name), rows)]);
        let of_experts = part.starts_with("router.") || part.starts_with("experts.");
        let mut source = match (part, &layer.mlp) {
            ("mixer_norm", _) => whole(self.mixer_norm),
            ("mixer_post_norm", _) => whole(self.mixer_post_norm),
            ("mlp_norm", _) => whole(self.mlp_norm),
            ("mlp_post_norm", _) => whole(self.mlp_post_norm),
            ("down", _) => whole(self.down),
            ("per_layer_gate", _) => whole(self.per_layer.gate),
            ("per_layer_output", _) => whole(self.per_layer.output),
            ("per_layer_post_norm", _) => whole(self.per_layer.post_norm),
            ("laurel_left", _) => whole(self.laurel[0]),
            ("laurel_right", _) => whole(self.laurel[1]),
            ("laurel_norm", _) => whole(self.laurel[2]),
            ("altup_norm", _) => whole(self.altup.norm),
            ("altup.scale", _) => Source::stacked(vec![Part::whole(bare(&full(self.altup.scale)), rows)]),
            ("altup.router", _) => flat(full(self.altup.router), rows, rows / streams),
            ("altup.prediction", _) => flat(full(self.altup.prediction), rows, streams),
            ("altup.correction", _) => flat(full(self.altup.correction), rows, streams),
            ("output_scale", _) => Source::stacked(vec![Part::whole(bare(&full(self.output_scale)), rows)]),
            ("gate_up" | "up", Some(mlp)) => up(self.up, mlp, full),
            ("router", Some(Mlp { experts: Some(experts), .. })) => {
                let mut parts = vec![Part::whole(full(self.experts.router), experts.num_routed())];
                parts.extend(experts.shared_gate.then(|| Part::whole(full(self.experts.shared_gate), 1)));
                Source::stacked(parts)
            }
            (_, Some(mlp)) if of_experts => self.of_experts(mlp, tensor, full),
            _ => match mixer_of(layer, part) {
                Mixer::Attention(attention) => self.attention(attention, part, rows, full),
                Mixer::ShortConv(conv) => self.short_conv(conv, part, &tensor.name, rows, full),
                Mixer::DeltaNet(net) => self.delta_net(net, &tensor.name, rows, full),
                Mixer::Mamba2(mamba) => self.mamba2(mamba, part, &tensor.name, rows, full),
            },
        };
        if self.transposed && tensor.shape.len() == 2 {
            source.parts.iter_mut().for_each(|p| p.transposed = true);
        }
        self.with_offset(tensor, source)
    }

    fn with_offset(&self, tensor: &TensorSpec, mut source: Source) -> Source {
        let is_own = [".delta_norm.gain", ".mamba_norm.gain"].iter().any(|end| tensor.name.ends_with(end));
        if tensor.name.ends_with(".gain") && !is_own {
            source.add = self.gain_offset;
        }
        source
    }

    fn attention(&self, attention: &Attention, part: &str, rows: usize, full: impl Fn(&str) -> String) -> Source {
        match part {
            "q_norm" => self.head_norm(attention, self.q_norm, rows, full),
            "k_norm" => self.head_norm(attention, self.k_norm, rows, full),
            "qkv" => self.qkv(attention, full),
            "sinks" => Source::stacked(vec![Part::whole(bare(&full(self.sinks)), rows)]),
            _ => Source::stacked(vec![Part::whole(full(self.attention_output), rows)]),
        }
    }

    fn short_conv(&self, conv: &ShortConv, part: &str, canonical: &str, rows: usize, full: impl Fn(&str) -> String) -> Source {
        let [input, kernel, output] = self.short_conv;
        let name = full(match part {
            "conv_in" => input,
            "conv" => kernel,
            _ => output,
        });
        let mut whole = Part::whole(name, rows);
        if canonical.ends_with(".kernel") {
            // As PyTorch's convolutions of one group a channel have it.
            whole.shape = Some(vec![conv.channels, 1, conv.kernel_size]);
        }
        Source::stacked(vec![whole])
    }

    fn delta_net(&self, net: &DeltaNet, canonical: &str, rows: usize, full: impl Fn(&str) -> String) -> Source {
        let names = &self.delta_net;
        let whole = match canonical.rsplit('.').next().unwrap_or_default() {
            "delta_in" if names.by_key_head => return self.by_key_head(net, full),
            "delta_in" => {
                let sizes = [net.channels(), net.value_size(), net.num_value_heads, net.num_value_heads];
                let parts = names.input.iter().zip(sizes).map(|(name, n)| Part::whole(full(name), n));
                return Source::stacked(parts.collect());
            }
            "kernel" => {
                let mut whole = Part::whole(full(names.kernel), rows);
                whole.shape = Some(vec![net.channels(), 1, net.kernel_size]);
                whole
            }
            "log_decay" => Part::whole(bare(&full(names.log_decay)), rows),
            "step_bias" => Part::whole(bare(&full(names.step_bias)), rows),
            "gain" => Part::whole(full(names.norm), rows),
            _ => Part::whole(full(names.output), rows),
        };
        Source::stacked(vec![whole])
    }

    /// What a delta net's input makes, from slices of each head of keys.
    fn by_key_head(&self, net: &DeltaNet, full: impl Fn(&str) -> String) -> Source {
        let (heads, values) = (net.num_key_heads, net.num_value_heads / net.num_key_heads);
        let [of_input, of_steps, ..] = self.delta_net.input.map(full);
        let (key, value) = (net.key_dim, values * net.value_dim);
        let input = [0, key, 2 * key, 2 * key + value].into_iter().zip([key, key, value, value]);
        let input = input.map(|(first, n)| (&of_input, first, n, 2 * key + 2 * value));
        let steps = [0, values].map(|first| (&of_steps, first, values, 2 * values));
        let parts = input.chain(steps).flat_map(|(name, first, n, of)| {
            (0..heads).map(move |head| Part::slice(name.clone(), heads * of, head * of + first, n))
        });
        Source::stacked(parts.collect())
    }

    fn mamba2(&self, mamba: &Mamba2, part: &str, canonical: &str, rows: usize, full: impl Fn(&str) -> String) -> Source {
        let names = &self.mamba2;
        let kernel = canonical.ends_with(".kernel");
        let name = match part {
            "mamba_in" => {
                // A part for each of what it makes, since families multiply them apart.
                let groups = mamba.groups_size();
                let sizes = [mamba.inner_size(), mamba.inner_size(), groups, groups, mamba.num_heads];
                let mut first = 0;
                let slices = sizes.map(|n| {
                    first += n;
                    Part::slice(full(names.input), rows, first - n, n)
                });
                return Source::stacked(slices.to_vec());
            }
            "mamba_out" => full(names.output),
            "mamba_norm" => full(names.norm),
            _ if canonical.ends_with(".log_decay") => bare(&full(names.log_decay)),
            _ if canonical.ends_with(".step_bias") => bare(&full(names.step_bias)),
            _ if canonical.ends_with(".skip") => bare(&full(names.skip)),
            _ => full(names.kernel),
        };
        let mut whole = Part::whole(name, rows);
        whole.shape = kernel.then(|| vec![mamba.channels(), 1, mamba.kernel_size]);
        Source::stacked(vec![whole])
    }

    fn head_norm(&self, attention: &Attention, name: &str, rows: usize, full: impl Fn(&str) -> String) -> Source {
        let d = attention.head_dim;
        let whole = |name: &str, rows| self.in_halves(Part::whole(full(name), rows), d);
        // A norm of its own for each head.
        if let Some(QkNorm::EachHead(_)) = attention.qk_norm {
            let norm = |h: usize| whole(&format!("{name}.norms.{h}"), d);
            return Source::stacked((0..rows / d).map(norm).collect());
        }
        Source::stacked(vec![whole(name, rows)])
    }

    /// A part of what belongs to queries or keys, in the order of halves.
    fn in_halves(&self, part: Part, head_dim: usize) -> Part {
        if self.rotary_pairs { part.in_rotary_pairs(head_dim) } else { part }
    }

    fn qkv(&self, attention: &Attention, full: impl Fn(&str) -> String) -> Source {
        let Attention { num_heads, num_kv_heads, head_dim: d, .. } = *attention;
        let (heads, all) = ([num_heads, num_kv_heads, num_kv_heads], attention.qkv_size());
        // Queries are kind 0, keys 1, values 2, gates 3.
        let of_kind = |kind: usize| match self.qkv {
            Qkv::Separate(_) if kind == GATES => vec![Part::whole(full(self.attention_gate), attention.gate_size())],
            Qkv::Separate(names) => vec![Part::whole(full(names[kind]), heads[kind] * d)],
            Qkv::GatedByHead(names) if kind == 0 || kind == GATES => {
                let first = if kind == 0 { 0 } else { d };
                (0..num_heads).map(|h| Part::slice(full(names[0]), 2 * num_heads * d, 2 * h * d + first, d)).collect()
            }
            Qkv::GatedByHead(names) => vec![Part::whole(full(names[kind]), heads[kind] * d)],
            Qkv::Fused(name) => {
                let before = heads[..kind].iter().sum::<usize>();
                vec![Part::slice(full(name), all, before * d, heads[kind] * d)]
            }
            Qkv::ByHead(name) => (0..num_heads).map(|h| Part::slice(full(name), all, (3 * h + kind) * d, d)).collect(),
        };
        let own = 1 + attention.own_kv();
        let kinds = (0..own).chain(attention.gate.is_some().then_some(GATES));
        let stored = |kind| of_kind(kind).into_iter().map(move |p| if kind < VALUES { self.in_halves(p, d) } else { p });
        Source::stacked(kinds.flat_map(stored).collect())
    }

    /// The bias of a router's choice, or what all experts have of one kind.
    fn of_experts(&self, mlp: &Mlp, tensor: &TensorSpec, full: impl Fn(&str) -> String) -> Source {
        let (names, n) = (&self.experts, mlp.num_experts());
        if tensor.name.ends_with(".selection_bias") {
            return Source::stacked(vec![Part::whole(bare(&full(names.selection_bias)), tensor.shape[0])]);
        }
        let is_down = tensor.name.contains(".experts.down");
        if tensor.name.ends_with(".bias") {
            let rows = tensor.shape[0];
            let name = full(names.biases[usize::from(is_down)]);
            let mut whole = Part::whole(name.strip_suffix(".bias").unwrap_or(&name), rows);
            whole.shape = Some(vec![n, rows / n]);
            return Source::stacked(vec![whole]);
        }
        let rows = tensor.shape[0] / n;
        let shared = mlp.experts.map_or(0, |experts| experts.shared);
        let each = |e: usize| {
            if let Some(i) = (e + shared).checked_sub(n) {
                // A part of the width of one network.
                let (first, all) = (i * mlp.intermediate_size, shared * mlp.intermediate_size);
                if !is_down {
                    return of_up(names.shared_up, first, all, mlp, &full);
                }
                let part = Part { columns: Some([first, all]), ..Part::whole(full(names.shared_down), rows) };
                return Source::stacked(vec![part]);
            }
            let full = |name: &str| full(&format!("{}.{e}.{name}", names.list));
            if is_down { Source::stacked(vec![Part::whole(full(names.down), rows)]) } else { up(names.up, mlp, full) }
        };
        let all: Vec<Source> = (0..n).map(each).collect();
        let order = all.first().map_or(Order::Stacked, |source| source.order);
        Source { parts: all.into_iter().flat_map(|source| source.parts).collect(), order, add: 0.0 }
    }
}

/// All numbers of a matrix of so many `columns`, as a vector.
fn flat(name: String, numbers: usize, columns: usize) -> Source {
    let mut whole = Part::whole(name, numbers);
    whole.shape = Some(vec![numbers / columns, columns]);
    Source::stacked(vec![whole])
}

/// The first matrices of a feed-forward network, or of an expert.
fn up(names: Up, mlp: &Mlp, full: impl Fn(&str) -> String) -> Source {
    of_up(names, 0, mlp.intermediate_size, mlp, full)
}

/// The rows from `first` on of such matrices that have `all`, as many as a network or an expert is wide.
fn of_up(names: Up, first: usize, all: usize, mlp: &Mlp, full: impl Fn(&str) -> String) -> Source {
    let n = mlp.intermediate_size;
    match names {
        Up::Separate(names) => Source::interleaved(names.map(|name| Part::slice(full(name), all, first, n)).to_vec()),
        Up::Fused(name) => {
            Source::interleaved([first, all + first].map(|first| Part::slice(full(name), 2 * all, first, n)).to_vec())
        }
        Up::Alone(name) => {
            let by = mlp.up_size() / n;
            Source::stacked(vec![Part::slice(full(name), by * all, by * first, by * n)])
        }
    }
}

/// The mixer of a layer that a tensor belongs to, by the part of its name after the layer's.
fn mixer_of<'a>(layer: &'a LayerSpec, part: &str) -> &'a Mixer {
    let is_mamba = part.starts_with("mamba");
    let own = layer.mixers().find(|mixer| matches!(mixer, Mixer::Mamba2(_)) == is_mamba);
    own.unwrap_or(&layer.mixer)
}
