//! LFM 2 and 2.5: gated short convolutions in most layers, attention with norms on queries and keys in the others.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::names::{Names, Qkv, Up};
use super::rope::RopeDefaults;
use super::{ArchitectureError, Mapping};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{QkNorm, ShortConv};

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
    let attends = match (config.texts("layer_types")?, config.numbers("full_attn_idxs")?) {
        (Some(types), _) => kinds(config, &types, layers)?,
        (None, Some(indices)) => (0..layers).map(|i| indices.contains(&(i as f64))).collect(),
        (None, None) => vec![true; layers],
    };
    convolve(&mut spec, config, 3, |i| !attends[i])?;
    Ok(Mapping::new(spec, NAMES))
}

/// Which layers attend.
fn kinds(config: &Config<'_>, types: &[&str], layers: usize) -> Result<Vec<bool>, ArchitectureError> {
    if types.len() != layers {
        let found = format!("{} entries", types.len());
        return Err(config.unsupported("layer_types", &found, &format!("{layers}, as num_hidden_layers says")));
    }
    let kind = |t: &&str| match *t {
        "full_attention" => Ok(true),
        "conv" => Ok(false),
        other => Err(config.unsupported("layer_types", other, "full_attention, conv")),
    };
    types.iter().map(kind).collect()
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
    let factor = if config.has("block_ffn_dim_multiplier") {
        config.optional_positive("block_ffn_dim_multiplier")?
    } else {
        Some(1.0)
    };
    if !adjusts {
        return Ok(size);
    }
    let size = 2 * size / 3;
    Ok(factor.map_or(size, |factor| ((factor * size as f64) as usize).next_multiple_of(multiple)))
}
