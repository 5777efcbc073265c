//! Families that have a name in `general.architecture`: what transformers calls them, and what llama.cpp's converter
//! did to their tensors.

/// A family.
#[derive(Debug)]
pub(super) struct Family {
    /// Value of `general.architecture`, which also starts the family's keys.
    pub(super) name: &'static str,
    /// As transformers calls it in `architectures` and `model_type`.
    pub(super) architecture: &'static str,
    pub(super) model_type: &'static str,
    /// Names of tensors outside of layers and in them, without `.weight` and `.bias`.
    pub(super) outside: &'static [Renamed],
    pub(super) layers: &'static str,
    pub(super) inside: &'static [Renamed],
    /// Whole names of tensors in layers that do not end with `.weight` or `.bias` here or there.
    pub(super) whole: &'static [Renamed],
    /// Matrices of a layer that the family has as one.
    pub(super) joined: &'static [Joined],
    /// Whether rows of queries and keys alternate between the halves of a head.
    pub(super) rotary_pairs: bool,
    /// Whether 1 was added to the gains of norms.
    pub(super) gains_plus_one: bool,
    /// Whether the layers' matrices were transposed.
    pub(super) transposed: bool,
    /// How the tensor of queries, keys and values together is dealt with.
    pub(super) fused: Fused,
}

/// A name in a GGUF file, and the one that transformers has.
pub(super) type Renamed = (&'static str, &'static str);

/// What a tensor of queries, keys and values together is to the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fused {
    /// Three tensors.
    Split,
    /// The family has it just so.
    Kept,
    /// The family has it head by head.
    ByHead,
}

/// Two tensors of a layer, by the names that the tables above give them without ending, that the family has as one.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) parts: [&'static str; 2],
    pub(super) into: &'static str,
    /// Whether their rows take turns; otherwise those of the first come first.
    pub(super) in_turn: bool,
}

/// The kernel of a short convolution: \[channels, taps\], where transformers has \[channels, 1, taps\].
pub(super) const SHORT_CONV: &str = "shortconv.conv";

const OUTSIDE: &[Renamed] = &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// What nearly all families call the parts of a layer.
const INSIDE: &[Renamed] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Norms before and after each block.
const NORMS_AROUND: &[Renamed] = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

pub(super) const LLAMA: Family = Family {
    name: "llama",
    architecture: "LlamaForCausalLM",
    model_type: "llama",
    outside: OUTSIDE,
    layers: "model.layers",
    inside: INSIDE,
    whole: &[],
    joined: &[],
    rotary_pairs: true,
    gains_plus_one: false,
    transposed: false,
    fused: Fused::Split,
};

/// Where queries and keys are stored as they are.
pub(super) const UNTURNED: Family = Family { rotary_pairs: false, ..LLAMA };

/// Outside of the layers of LFM 2, with experts or without.
pub(super) const LFM_2_OUTSIDE: &[Renamed] = &[
    ("token_embd", "model.embed_tokens"),
    // The norm before the head, whatever its first name says.
    ("token_embd_norm", "model.embedding_norm"),
    ("output_norm", "model.embedding_norm"),
    ("output", "lm_head"),
];

const GEMMA_2: Family = Family {
    name: "gemma2",
    architecture: "Gemma2ForCausalLM",
    model_type: "gemma2",
    inside: NORMS_AROUND,
    gains_plus_one: true,
    ..UNTURNED
};

/// Every family of layers that have attention and one feed-forward network.
static FAMILIES: [Family; 21] = [
    // Mistral too, and everything else of Llama's build.
    LLAMA,
    Family { name: "qwen2", architecture: "Qwen2ForCausalLM", model_type: "qwen2", ..UNTURNED },
    Family { name: "qwen3", architecture: "Qwen3ForCausalLM", model_type: "qwen3", ..UNTURNED },
    Family { name: "gemma", architecture: "GemmaForCausalLM", model_type: "gemma", gains_plus_one: true, ..UNTURNED },
    GEMMA_2,
    Family { name: "gemma3", architecture: "Gemma3ForCausalLM", model_type: "gemma3_text", ..GEMMA_2 },
    Family {
        name: "phi2",
        architecture: "PhiForCausalLM",
        model_type: "phi",
        outside: &[("token_embd", "model.embed_tokens"), ("output_norm", "model.final_layernorm"), ("output", "lm_head")],
        inside: &[
            ("attn_norm", "input_layernorm"),
            ("attn_q", "self_attn.q_proj"),
            ("attn_k", "self_attn.k_proj"),
            ("attn_v", "self_attn.v_proj"),
            ("attn_output", "self_attn.dense"),
            ("ffn_up", "mlp.fc1"),
            ("ffn_down", "mlp.fc2"),
        ],
        ..UNTURNED
    },
    Family {
        name: "phi3",
        architecture: "Phi3ForCausalLM",
        model_type: "phi3",
        inside: &[
            ("attn_norm", "input_layernorm"),
            ("attn_qkv", "self_attn.qkv_proj"),
            ("attn_output", "self_attn.o_proj"),
            ("ffn_norm", "post_attention_layernorm"),
            ("ffn_up", "mlp.gate_up_proj"),
            ("ffn_down", "mlp.down_proj"),
        ],
        fused: Fused::Kept,
        ..UNTURNED
    },
    Family { name: "smollm3", architecture: "SmolLM3ForCausalLM", model_type: "smollm3", ..LLAMA },
    // OLMo 3 too.
    Family { name: "olmo2", architecture: "Olmo2ForCausalLM", model_type: "olmo2", inside: NORMS_AROUND, ..UNTURNED },
    Family { name: "granite", architecture: "GraniteForCausalLM", model_type: "granite", ..LLAMA },
    Family { name: "mistral3", architecture: "Ministral3ForCausalLM", model_type: "ministral3", ..LLAMA },
    // These rotate neighbours in transformers too.
    Family { name: "command-r", architecture: "CohereForCausalLM", model_type: "cohere", ..UNTURNED },
    Family { name: "cohere2", architecture: "Cohere2ForCausalLM", model_type: "cohere2", ..UNTURNED },
    Family { name: "ernie4_5", architecture: "Ernie4_5ForCausalLM", model_type: "ernie4_5", ..UNTURNED },
    Family { name: "exaone4", architecture: "Exaone4ForCausalLM", model_type: "exaone4", inside: NORMS_AROUND, ..UNTURNED },
    Family {
        name: "lfm2",
        architecture: "Lfm2ForCausalLM",
        model_type: "lfm2",
        outside: LFM_2_OUTSIDE,
        inside: &[
            ("attn_norm", "operator_norm"),
            ("attn_q", "self_attn.q_proj"),
            ("attn_k", "self_attn.k_proj"),
            ("attn_v", "self_attn.v_proj"),
            ("attn_q_norm", "self_attn.q_layernorm"),
            ("attn_k_norm", "self_attn.k_layernorm"),
            ("attn_output", "self_attn.out_proj"),
            (SHORT_CONV, "conv.conv"),
            ("shortconv.in_proj", "conv.in_proj"),
            ("shortconv.out_proj", "conv.out_proj"),
            ("ffn_norm", "ffn_norm"),
            ("ffn_gate", "feed_forward.w1"),
            ("ffn_up", "feed_forward.w3"),
            ("ffn_down", "feed_forward.w2"),
        ],
        ..UNTURNED
    },
    Family {
        name: "hunyuan-dense",
        architecture: "HunYuanDenseV1ForCausalLM",
        model_type: "hunyuan_v1_dense",
        inside: &[
            ("attn_norm", "input_layernorm"),
            ("attn_q", "self_attn.q_proj"),
            ("attn_k", "self_attn.k_proj"),
            ("attn_v", "self_attn.v_proj"),
            ("attn_q_norm", "self_attn.query_layernorm"),
            ("attn_k_norm", "self_attn.key_layernorm"),
            ("attn_output", "self_attn.o_proj"),
            ("ffn_norm", "post_attention_layernorm"),
            ("ffn_gate", "mlp.gate_proj"),
            ("ffn_up", "mlp.up_proj"),
            ("ffn_down", "mlp.down_proj"),
        ],
        ..UNTURNED
    },
    Family { name: "stablelm", architecture: "StableLmForCausalLM", model_type: "stablelm", ..UNTURNED },
    Family {
        name: "gptneox",
        architecture: "GPTNeoXForCausalLM",
        model_type: "gpt_neox",
        outside: &[("token_embd", "gpt_neox.embed_in"), ("output_norm", "gpt_neox.final_layer_norm"), ("output", "embed_out")],
        layers: "gpt_neox.layers",
        inside: &[
            ("attn_norm", "input_layernorm"),
            ("attn_qkv", "attention.query_key_value"),
            ("attn_output", "attention.dense"),
            ("ffn_norm", "post_attention_layernorm"),
            ("ffn_up", "mlp.dense_h_to_4h"),
            ("ffn_down", "mlp.dense_4h_to_h"),
        ],
        fused: Fused::ByHead,
        ..UNTURNED
    },
    Family {
        name: "gpt2",
        architecture: "GPT2LMHeadModel",
        model_type: "gpt2",
        outside: &[
            ("token_embd", "transformer.wte"),
            ("position_embd", "transformer.wpe"),
            ("output_norm", "transformer.ln_f"),
            ("output", "lm_head"),
        ],
        layers: "transformer.h",
        inside: &[
            ("attn_norm", "ln_1"),
            ("attn_qkv", "attn.c_attn"),
            ("attn_output", "attn.c_proj"),
            ("ffn_norm", "ln_2"),
            ("ffn_up", "mlp.c_fc"),
            ("ffn_down", "mlp.c_proj"),
        ],
        transposed: true,
        fused: Fused::Kept,
        ..UNTURNED
    },
];

/// Every family that is read.
fn all() -> impl Iterator<Item = &'static Family> {
    FAMILIES.iter().chain(&super::mixed::FAMILIES)
}

/// The family of that name.
pub(super) fn find(name: &str) -> Option<&'static Family> {
    all().find(|f| f.name == name)
}

/// What a tensor of a family's checkpoint is in a GGUF file.
pub(crate) struct GgufName {
    pub(crate) name: String,
    /// Whether rows of queries or keys are brought into the order of neighbours.
    pub(crate) rotary_pairs: bool,
    /// What is added to every number.
    pub(crate) added: f32,
}

/// What the tensor `own` of a family's checkpoint is called in a file whose `general.architecture` is `architecture`, if it
/// has a name there.
pub(crate) fn gguf_name(architecture: &str, own: &str) -> Option<GgufName> {
    let family = find(architecture)?;
    let (stem, suffix) = own.rsplit_once('.')?;
    let within = stem.strip_prefix(family.layers).and_then(|rest| rest.strip_prefix('.')?.split_once('.'));
    let (table, stem, prefix) = match within {
        Some((layer, stem)) => (family.inside, stem, format!("blk.{layer}.")),
        None => (family.outside, stem, String::new()),
    };
    let (name, _) = table.iter().find(|(_, known)| *known == stem)?;
    let rotary_pairs = family.rotary_pairs && matches!(*name, "attn_q" | "attn_k");
    let added = if family.gains_plus_one && name.ends_with("norm") && suffix == "weight" { 1.0 } else { 0.0 };
    Some(GgufName { name: format!("{prefix}{name}.{suffix}"), rotary_pairs, added })
}

/// Names of all families.
pub(super) fn supported() -> String {
    all().map(|f| f.name).collect::<Vec<_>>().join(", ")
}
