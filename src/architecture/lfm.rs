//! LFM: gated short convolutions in most layers, attention with norms on queries and keys in the others. 3 has windows, gates on
//! the heads' outputs and norms around each block.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::names::{ExpertNames, Names, Qkv, Up};
use super::rope::{self, RopeDefaults};
use super::{ArchitectureError, Mapping};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{AttentionGate, NormPlacement, QkNorm, Scores, ShortConv};

/// Of `Lfm2Config`.
const LFM_2: Defaults = Defaults {
    vocab_size: 65_536,
    hidden_size: 2560,
    intermediate_size: 12_288,
    num_kv_heads: Some(8),
    max_context: 128_000,
    tied_head: true,
    ..LLAMA
};

const NAMES: Names = Names {
    mixer_norm: "operator_norm",
    qkv: Qkv::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    q_norm: "self_attn.q_layernorm",
    k_norm: "self_attn.k_layernorm",
    attention_output: "self_attn.out_proj",
    mlp_norm: "ffn_norm",
    up: Up::Separate(["feed_forward.w1", "feed_forward.w3"]),
    down: "feed_forward.w2",
    final_norm: "embedding_norm",
    ..Names::LLAMA
};

/// Of `Lfm2MoeConfig`.
const LFM_2_EXPERTS: Defaults = Defaults { hidden_size: 2048, intermediate_size: 7168, ..LFM_2 };

const NAMES_EXPERTS: Names = Names {
    experts: ExpertNames {
        router: "feed_forward.gate",
        selection_bias: "feed_forward.expert_bias",
        list: "feed_forward.experts",
        up: Up::Separate(["w1", "w3"]),
        down: "w2",
        ..Names::LLAMA.experts
    },
    ..NAMES
};

/// Of `Lfm3Config`.
const LFM_3: Defaults = Defaults {
    vocab_size: 128_000,
    hidden_size: 2048,
    intermediate_size: 7680,
    num_layers: 24,
    num_heads: 16,
    num_kv_heads: Some(4),
    head_dim: Some(128),
    bos: Some(124_894),
    eos: Some(124_900),
    ..LFM_2
};

const NAMES_3: Names = Names {
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    attention_output: "self_attn.o_proj",
    mixer_post_norm: "post_operator_norm",
    mlp_post_norm: "post_ffn_norm",
    ..NAMES
};

pub(super) fn load_2(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &LFM_2)?;
    spec.norm = base::rms_norm(config, "norm_eps", 1e-5)?;
    // The class takes these for what it calls otherwise.
    if config.has("tie_embedding") {
        spec.tied_head = config.flag("tie_embedding", true)?;
    }
    let intermediate_size = feed_forward_size(config, spec.max_intermediate_size())?;
    spec.mlps_mut().for_each(|m| m.intermediate_size = intermediate_size);
    base::rotate_all(&mut spec, config, RopeDefaults { theta: 1_000_000.0, ..RopeDefaults::USUAL })?;
    spec.attentions_mut().for_each(|a| a.qk_norm = Some(QkNorm::PerHead));
    let layers = spec.num_layers();
    let attends: Vec<bool> = match config.numbers("full_attn_idxs")? {
        Some(indices) => (0..layers).map(|i| indices.contains(&(i as f64))).collect(),
        None => vec![true; layers],
    };
    let kinds = base::layer_kinds(config, layers, &["full_attention", "conv"], |i| usize::from(!attends[i]))?;
    convolve(&mut spec, config, 3, |i| kinds[i] == 1)?;
    Ok(Mapping::new(spec, NAMES))
}

/// LFM 2 with experts in all layers but the first few.
pub(super) fn load_experts(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &LFM_2_EXPERTS)?;
    spec.norm = base::rms_norm(config, "norm_eps", 1e-5)?;
    if config.has("tie_embedding") {
        spec.tied_head = config.flag("tie_embedding", true)?;
    }
    base::rotate_all(&mut spec, config, RopeDefaults { theta: 1_000_000.0, ..RopeDefaults::USUAL })?;
    spec.attentions_mut().for_each(|a| a.qk_norm = Some(QkNorm::PerHead));
    let layers = spec.num_layers();
    let kinds = base::layer_kinds(config, layers, &["full_attention", "conv"], |_| 0)?;
    convolve(&mut spec, config, 3, |i| kinds[i] == 1)?;
    let mut experts = base::experts(config, 32, 4)?;
    (experts.scores, experts.selection_bias) = (Scores::Sigmoid, config.flag("use_expert_bias", true)?);
    experts.normalized = config.flag("norm_topk_prob", true)?;
    experts.epsilon = if experts.normalized { 1e-6 } else { 0.0 };
    experts.scale = config.number("routed_scaling_factor", 1.0)? as f32;
    let width = config.size("moe_intermediate_size", 1792)?;
    let dense = config.size_or_none("num_dense_layers", 2)?;
    for mlp in spec.mlps_mut().skip(dense) {
        (mlp.intermediate_size, mlp.experts) = (width, Some(experts));
    }
    Ok(Mapping::new(spec, NAMES_EXPERTS))
}

pub(super) fn load_3(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &LFM_3)?;
    let epsilon = if config.has("norm_eps") { "norm_eps" } else { "rms_norm_eps" };
    spec.norm = base::rms_norm(config, epsilon, 1e-5)?;
    spec.attentions_mut().for_each(|a| a.qk_norm = Some(QkNorm::PerHead));
    let bias = config.flag("attention_bias", false)?;
    base::set_biases(&mut spec, bias, false);
    if config.flag("use_attention_gate", true)? {
        if bias {
            return Err(config.unsupported("attention_bias", "true", "false where there are gates, which have no bias"));
        }
        spec.attentions_mut().for_each(|a| a.gate = Some(AttentionGate::PerHead));
    }
    if config.flag("use_sandwich_norm", true)? {
        spec.layers.iter_mut().for_each(|l| l.norm_placement = NormPlacement::Both);
    }
    let usual = |i: usize| match i % 4 {
        2 => 0,
        0 if i > 0 => 1,
        _ => 2,
    };
    let kinds = base::layer_kinds(config, spec.num_layers(), &["full_attention", "sliding_attention", "conv"], usual)?;
    base::set_required_windows(&mut spec, config, 256, &kinds.iter().map(|kind| *kind == 1).collect::<Vec<_>>())?;
    let nested = config.table("rope_parameters")?;
    let of = |kind: &str| nested.as_ref().map_or(Ok(None), |t| t.table(kind));
    let plain = |theta, partial| RopeDefaults { theta, partial, ..RopeDefaults::USUAL };
    let full = match of("full_attention")? {
        Some(table) => rope::table_of(config, Some(&table), base::head_dim(&spec), plain(1_000_000.0, 1.0))?,
        None => rope::proportional(1_000_000.0, 0.5, base::head_dim(&spec), 1.0),
    };
    let sliding = rope::table_of(config, of("sliding_attention")?.as_ref(), base::head_dim(&spec), plain(10_000.0, 1.0))?;
    base::rotate_by_window(&mut spec, full, sliding);
    convolve(&mut spec, config, 7, |i| kinds[i] == 2)?;
    Ok(Mapping::new(spec, NAMES_3))
}

/// Puts short convolutions into layers that are `chosen`.
fn convolve(
    spec: &mut DecoderSpec,
    config: &Config<'_>,
    kernel_size: usize,
    chosen: impl Fn(usize) -> bool,
) -> Result<(), ArchitectureError> {
    let mut conv = ShortConv::new(spec.hidden_size, config.size("conv_L_cache", kernel_size)?);
    conv.bias = config.flag("conv_bias", false)?;
    for (_, layer) in spec.layers.iter_mut().enumerate().filter(|(i, _)| chosen(*i)) {
        layer.mixer = conv.into();
    }
    Ok(())
}

/// The width inside feed-forward networks, which the class makes of the config's in f64: two thirds of it, times a factor,
/// rounded up.
fn feed_forward_size(config: &Config<'_>, size: usize) -> Result<usize, ArchitectureError> {
    let size = config.size("block_ff_dim", size)?;
    let (adjusts, multiple) = (config.flag("block_auto_adjust_ff_dim", true)?, config.size("block_multiple_of", 256)?);
    let factor =
        if config.has("block_ffn_dim_multiplier") { config.optional_positive("block_ffn_dim_multiplier")? } else { Some(1.0) };
    if !adjusts {
        return Ok(size);
    }
    let size = 2 * size / 3;
    Ok(factor.map_or(size, |factor| ((factor * size as f64) as usize).next_multiple_of(multiple)))
}
