//! Families with experts, or with other mixers than attention.

use super::family::{Family, Fused, Joined, LFM_2_OUTSIDE, LLAMA, Renamed, SHORT_CONV, UNTURNED};

/// Names that most of them share. Experts come as one tensor of each kind, which [`super::super::experts`] takes apart.
const EXPERTS: &[Renamed] = &[
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
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_exps", "mlp.experts.gate_proj"),
    ("ffn_up_exps", "mlp.experts.up_proj"),
    ("ffn_gate_up_exps", "mlp.experts.gate_up_proj"),
    ("ffn_down_exps", "mlp.experts.down_proj"),
    (SHARED_GATE, "mlp.shared_expert_gate"),
    ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
    ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
];

/// A router's row for the weight of shared experts: a vector, where transformers has a matrix of one row.
pub(super) const SHARED_GATE: &str = "ffn_gate_inp_shexp";

/// Shared experts of Granite.
const SHARED_MLP: &[Joined] =
    &[Joined { parts: ["shared_mlp.gate_proj", "shared_mlp.up_proj"], into: "shared_mlp.input_linear", in_turn: false }];

/// The kernel of a Mamba mixer or a delta net: \[channels, taps\], where transformers has \[channels, 1, taps\].
pub(super) const CONV: &str = "ssm_conv1d";

/// What each head of such a mixer has one of. Mamba's are matrices of one column, all are negative exponentials of the family's own.
pub(super) const DECAY: &str = "ssm_a";

/// Families whose layers have attention or something else, and say so in a list of their heads of keys and values.
pub(super) const HYBRIDS: [&str; 4] = ["lfm2", "lfm2moe", "granitehybrid", "nemotron_h"];

/// Lists of matrices that come as one tensor each.
pub(super) const LISTS: [&str; 2] = ["model.altup_projections.weight", "model.altup_unembed_projections.weight"];

/// Queries, keys and values of a delta net, and its gates, where the family has both in one matrix, head of keys by head of keys.
pub(super) const BY_KEY_HEAD: [&str; 3] =
    ["linear_attn.in_proj_qkv.weight", "linear_attn.in_proj_z.weight", "linear_attn.in_proj_qkvz.weight"];

/// Outside of the layers of Gemma 3n and 4.
const PER_LAYER_OUTSIDE: &[Renamed] = &[
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
    ("per_layer_token_embd", "model.embed_tokens_per_layer"),
    ("per_layer_model_proj", "model.per_layer_model_projection"),
    ("per_layer_proj_norm", "model.per_layer_projection_norm"),
    ("altup_proj", "model.altup_projections"),
    ("altup_unembd_proj", "model.altup_unembed_projections"),
];

/// In the layers of Gemma 3n and 4.
const PER_LAYER: &[Renamed] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("inp_gate", "per_layer_input_gate"),
    ("proj", "per_layer_projection"),
    ("post_norm", "post_per_layer_input_norm"),
    ("altup_router", "altup.modality_router"),
    ("altup_router_norm", "altup.router_norm"),
    ("altup_predict_coef", "altup.prediction_coefs"),
    ("altup_correct_coef", "altup.correction_coefs"),
    ("laurel_l", "laurel.linear_left"),
    ("laurel_r", "laurel.linear_right"),
    ("laurel_post_norm", "laurel.post_laurel_norm"),
];

pub(super) static FAMILIES: [Family; 14] = [
    Family {
        name: "qwen35",
        architecture: "Qwen3_5ForCausalLM",
        model_type: "qwen3_5_text",
        inside: &[
            ("attn_norm", "input_layernorm"),
            ("attn_q", "self_attn.q_proj"),
            ("attn_k", "self_attn.k_proj"),
            ("attn_v", "self_attn.v_proj"),
            ("attn_q_norm", "self_attn.q_norm"),
            ("attn_k_norm", "self_attn.k_norm"),
            ("attn_output", "self_attn.o_proj"),
            ("post_attention_norm", "post_attention_layernorm"),
            ("ffn_gate", "mlp.gate_proj"),
            ("ffn_up", "mlp.up_proj"),
            ("ffn_down", "mlp.down_proj"),
            ("attn_qkv", "linear_attn.in_proj_qkv"),
            ("attn_gate", "linear_attn.in_proj_z"),
            ("ssm_beta", "linear_attn.in_proj_b"),
            ("ssm_alpha", "linear_attn.in_proj_a"),
            (CONV, "linear_attn.conv1d"),
            ("ssm_norm", "linear_attn.norm"),
            ("ssm_out", "linear_attn.out_proj"),
        ],
        whole: &[(DECAY, "linear_attn.A_log"), ("ssm_dt.bias", "linear_attn.dt_bias")],
        gains_plus_one: true,
        fused: Fused::Kept,
        ..UNTURNED
    },
    Family {
        name: "qwen3next",
        architecture: "Qwen3NextForCausalLM",
        model_type: "qwen3_next",
        inside: &[
            ("attn_norm", "input_layernorm"),
            ("attn_q", "self_attn.q_proj"),
            ("attn_k", "self_attn.k_proj"),
            ("attn_v", "self_attn.v_proj"),
            ("attn_q_norm", "self_attn.q_norm"),
            ("attn_k_norm", "self_attn.k_norm"),
            ("attn_output", "self_attn.o_proj"),
            ("post_attention_norm", "post_attention_layernorm"),
            ("ffn_gate", "mlp.gate_proj"),
            ("ffn_up", "mlp.up_proj"),
            ("ffn_down", "mlp.down_proj"),
            ("ffn_gate_inp", "mlp.gate"),
            ("ffn_gate_exps", "mlp.experts.gate_proj"),
            ("ffn_up_exps", "mlp.experts.up_proj"),
            ("ffn_gate_up_exps", "mlp.experts.gate_up_proj"),
            ("ffn_down_exps", "mlp.experts.down_proj"),
            (SHARED_GATE, "mlp.shared_expert_gate"),
            ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
            ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
            ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
            ("attn_qkv", "linear_attn.in_proj_qkv"),
            ("attn_gate", "linear_attn.in_proj_z"),
            // Older files have these two as the family does.
            ("ssm_in", "linear_attn.in_proj_qkvz"),
            ("ssm_ba", "linear_attn.in_proj_ba"),
            (CONV, "linear_attn.conv1d"),
            ("ssm_norm", "linear_attn.norm"),
            ("ssm_out", "linear_attn.out_proj"),
        ],
        whole: &[(DECAY, "linear_attn.A_log"), ("ssm_dt.bias", "linear_attn.dt_bias")],
        gains_plus_one: true,
        fused: Fused::Kept,
        ..UNTURNED
    },
    Family {
        name: "falcon-h1",
        architecture: "FalconH1ForCausalLM",
        model_type: "falcon_h1",
        outside: &[("token_embd", "model.embed_tokens"), ("output_norm", "model.final_layernorm"), ("output", "lm_head")],
        inside: &[
            ("attn_norm", "input_layernorm"),
            ("attn_q", "self_attn.q_proj"),
            ("attn_k", "self_attn.k_proj"),
            ("attn_v", "self_attn.v_proj"),
            ("attn_output", "self_attn.o_proj"),
            ("ffn_norm", "pre_ff_layernorm"),
            ("ffn_gate", "feed_forward.gate_proj"),
            ("ffn_up", "feed_forward.up_proj"),
            ("ffn_down", "feed_forward.down_proj"),
            ("ssm_in", "mamba.in_proj"),
            (CONV, "mamba.conv1d"),
            ("ssm_norm", "mamba.norm"),
            ("ssm_out", "mamba.out_proj"),
        ],
        // The converter leaves the ending of one norm out.
        whole: &[
            ("ffn_norm", "pre_ff_layernorm.weight"),
            (DECAY, "mamba.A_log"),
            ("ssm_d", "mamba.D"),
            ("ssm_dt.bias", "mamba.dt_bias"),
        ],
        ..UNTURNED
    },
    Family {
        name: "granitehybrid",
        architecture: "GraniteMoeHybridForCausalLM",
        model_type: "granitemoehybrid",
        inside: &[
            ("attn_norm", "input_layernorm"),
            ("attn_q", "self_attn.q_proj"),
            ("attn_k", "self_attn.k_proj"),
            ("attn_v", "self_attn.v_proj"),
            ("attn_output", "self_attn.o_proj"),
            ("ffn_norm", "post_attention_layernorm"),
            ("ffn_gate", "shared_mlp.gate_proj"),
            ("ffn_up", "shared_mlp.up_proj"),
            ("ffn_down", "shared_mlp.output_linear"),
            ("ffn_gate_shexp", "shared_mlp.gate_proj"),
            ("ffn_up_shexp", "shared_mlp.up_proj"),
            ("ffn_down_shexp", "shared_mlp.output_linear"),
            ("ffn_gate_inp", "block_sparse_moe.router"),
            ("ffn_gate_exps", "block_sparse_moe.experts.gate_proj"),
            ("ffn_up_exps", "block_sparse_moe.experts.up_proj"),
            ("ffn_down_exps", "block_sparse_moe.experts.down_proj"),
            ("ssm_in", "mamba.in_proj"),
            (CONV, "mamba.conv1d"),
            ("ssm_norm", "mamba.norm"),
            ("ssm_out", "mamba.out_proj"),
        ],
        whole: &[(DECAY, "mamba.A_log"), ("ssm_d", "mamba.D"), ("ssm_dt.bias", "mamba.dt_bias")],
        joined: SHARED_MLP,
        ..LLAMA
    },
    Family {
        name: "nemotron_h",
        architecture: "NemotronHForCausalLM",
        model_type: "nemotron_h",
        outside: &[("token_embd", "backbone.embeddings"), ("output_norm", "backbone.norm_f"), ("output", "lm_head")],
        layers: "backbone.layers",
        inside: &[
            ("attn_norm", "norm"),
            ("attn_q", "mixer.q_proj"),
            ("attn_k", "mixer.k_proj"),
            ("attn_v", "mixer.v_proj"),
            ("attn_output", "mixer.o_proj"),
            ("ffn_up", "mixer.up_proj"),
            ("ffn_down", "mixer.down_proj"),
            ("ssm_in", "mixer.in_proj"),
            (CONV, "mixer.conv1d"),
            ("ssm_norm", "mixer.norm"),
            ("ssm_out", "mixer.out_proj"),
        ],
        whole: &[(DECAY, "mixer.A_log"), ("ssm_d", "mixer.D"), ("ssm_dt.bias", "mixer.dt_bias")],
        ..UNTURNED
    },
    Family {
        name: "gemma4",
        architecture: "Gemma4ForCausalLM",
        model_type: "gemma4_text",
        outside: PER_LAYER_OUTSIDE,
        inside: PER_LAYER,
        whole: &[("layer_output_scale.weight", "layer_scalar")],
        ..UNTURNED
    },
    Family {
        name: "gemma3n",
        architecture: "Gemma3nForCausalLM",
        model_type: "gemma3n_text",
        outside: PER_LAYER_OUTSIDE,
        inside: PER_LAYER,
        whole: &[("altup_correct_scale.weight", "altup.correct_output_scale")],
        ..UNTURNED
    },
    Family {
        name: "granite_swa",
        architecture: "GraniteSWAForCausalLM",
        model_type: "granite_swa",
        whole: &[("attn_sinks.weight", "self_attn.sinks")],
        ..LLAMA
    },
    Family { name: "qwen2moe", architecture: "Qwen2MoeForCausalLM", model_type: "qwen2_moe", inside: EXPERTS, ..UNTURNED },
    Family { name: "qwen3moe", architecture: "Qwen3MoeForCausalLM", model_type: "qwen3_moe", inside: EXPERTS, ..UNTURNED },
    Family { name: "olmoe", architecture: "OlmoeForCausalLM", model_type: "olmoe", inside: EXPERTS, ..UNTURNED },
    Family {
        name: "granitemoe",
        architecture: "GraniteMoeForCausalLM",
        model_type: "granitemoe",
        inside: &[
            ("attn_norm", "input_layernorm"),
            ("attn_q", "self_attn.q_proj"),
            ("attn_k", "self_attn.k_proj"),
            ("attn_v", "self_attn.v_proj"),
            ("attn_output", "self_attn.o_proj"),
            ("ffn_norm", "post_attention_layernorm"),
            ("ffn_gate_inp", "block_sparse_moe.router"),
            ("ffn_gate_exps", "block_sparse_moe.experts.gate_proj"),
            ("ffn_up_exps", "block_sparse_moe.experts.up_proj"),
            ("ffn_down_exps", "block_sparse_moe.experts.down_proj"),
            ("ffn_gate_shexp", "shared_mlp.gate_proj"),
            ("ffn_up_shexp", "shared_mlp.up_proj"),
            ("ffn_down_shexp", "shared_mlp.output_linear"),
        ],
        joined: SHARED_MLP,
        ..LLAMA
    },
    Family {
        name: "lfm2moe",
        architecture: "Lfm2MoeForCausalLM",
        model_type: "lfm2_moe",
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
            ("ffn_gate_inp", "feed_forward.gate"),
            ("ffn_gate_exps", "feed_forward.experts.w1"),
            ("ffn_up_exps", "feed_forward.experts.w3"),
            ("ffn_down_exps", "feed_forward.experts.w2"),
        ],
        whole: &[("exp_probs_b.bias", "feed_forward.expert_bias")],
        ..UNTURNED
    },
    Family {
        name: "gpt-oss",
        architecture: "GptOssForCausalLM",
        model_type: "gpt_oss",
        inside: &[
            ("attn_norm", "input_layernorm"),
            ("attn_q", "self_attn.q_proj"),
            ("attn_k", "self_attn.k_proj"),
            ("attn_v", "self_attn.v_proj"),
            ("attn_output", "self_attn.o_proj"),
            ("post_attention_norm", "post_attention_layernorm"),
            ("ffn_gate_inp", "mlp.router"),
            ("ffn_gate_exps", "mlp.experts.gate_proj"),
            ("ffn_up_exps", "mlp.experts.up_proj"),
            ("ffn_down_exps", "mlp.experts.down_proj"),
        ],
        whole: &[("attn_sinks.weight", "self_attn.sinks"), ("ffn_down_exps.bias", "mlp.experts.down_proj_bias")],
        joined: &[Joined {
            parts: ["mlp.experts.gate_proj", "mlp.experts.up_proj"],
            into: "mlp.experts.gate_up_proj",
            in_turn: true,
        }],
        ..UNTURNED
    },
];
