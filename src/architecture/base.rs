//! What the configs of most families have in common, read with the defaults that transformers gives one of them.

use super::ArchitectureError;
use super::config::Config;
use super::rope::RopeDefaults;
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{Activation, Attention, Experts, LayerSpec, Mlp, Norm, NormKind, RopeTable, Scores};

/// What a missing key stands for: the defaults of the family's config class in transformers.
pub(super) struct Defaults {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_layers: usize,
    pub(super) num_heads: usize,
    /// As many as query heads where absent.
    pub(super) num_kv_heads: Option<usize>,
    /// `hidden_size / num_heads` where absent.
    pub(super) head_dim: Option<usize>,
    pub(super) max_context: usize,
    pub(super) norm_epsilon: f64,
    pub(super) tied_head: bool,
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
}

/// Of `LlamaConfig`.
pub(super) const LLAMA: Defaults = Defaults {
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 11_008,
    num_layers: 32,
    num_heads: 32,
    num_kv_heads: None,
    head_dim: None,
    max_context: 2048,
    norm_epsilon: 1e-6,
    tied_head: false,
    bos: Some(1),
    eos: Some(2),
};

/// A decoder of the usual build, all layers alike: RMS norms before each block, SwiGLU, no biases, nothing capped or
/// multiplied, and no positions yet.
pub(super) fn spec(config: &Config<'_>, defaults: &Defaults) -> Result<DecoderSpec, ArchitectureError> {
    refuse_others(config)?;
    spec_of(config, defaults)
}

/// The same where a family itself refuses what a spec cannot say.
pub(super) fn spec_of(config: &Config<'_>, defaults: &Defaults) -> Result<DecoderSpec, ArchitectureError> {
    spec_with(config, defaults, None)
}

/// The same where a family may have read `intermediate_size` itself.
pub(super) fn spec_with(
    config: &Config<'_>,
    defaults: &Defaults,
    intermediate_size: Option<usize>,
) -> Result<DecoderSpec, ArchitectureError> {
    let hidden_size = config.size("hidden_size", defaults.hidden_size)?;
    let num_heads = config.size("num_attention_heads", defaults.num_heads)?;
    let head_dim = config.size_or_zero("head_dim", defaults.head_dim.unwrap_or(hidden_size / num_heads))?;
    if head_dim == 0 || !head_dim.is_multiple_of(2) {
        return Err(config.unsupported("head_dim", &head_dim.to_string(), "even numbers"));
    }
    let num_kv_heads = match defaults.num_kv_heads {
        Some(n) if !config.has("num_key_value_heads") => n,
        _ => config.size("num_key_value_heads", num_heads)?,
    };
    let intermediate_size = match intermediate_size {
        Some(size) => size,
        None => config.size("intermediate_size", defaults.intermediate_size)?,
    };
    let attention = Attention::new(num_heads, num_kv_heads, head_dim);
    let mlp = Mlp::new(intermediate_size, Activation::Silu);
    let vocab_size = config.size("vocab_size", defaults.vocab_size)?;
    let max_context = config.size("max_position_embeddings", defaults.max_context)?;
    let norm = rms_norm(config, "rms_norm_eps", defaults.norm_epsilon)?;
    let layers = vec![LayerSpec::new(attention, mlp); config.layers("num_hidden_layers", defaults.num_layers)?];
    let mut spec = DecoderSpec::new(vocab_size, hidden_size, max_context, norm, layers);
    spec.tied_head = config.flag("tie_word_embeddings", defaults.tied_head)?;
    spec.eos_token_ids = config.token_ids("eos_token_id", defaults.eos)?;
    spec.bos_token_id = config.token_ids("bos_token_id", defaults.bos)?.first().copied();
    Ok(spec)
}

/// Refuses what the base class of all configs knows, and a spec cannot say.
pub(super) fn refuse_others(config: &Config<'_>) -> Result<(), ArchitectureError> {
    config.refuse_flag("use_bidirectional_attention")?;
    refuse_table(config, "per_layer_config")?;
    refuse_flags(config)
}

/// What of that no family reads.
pub(super) fn refuse_flags(config: &Config<'_>) -> Result<(), ArchitectureError> {
    for key in ["add_cross_attention", "scale_attn_by_inverse_layer_idx"] {
        config.refuse_flag(key)?;
    }
    if !config.flag("is_causal", true)? {
        return Err(config.unsupported("is_causal", "false", "true"));
    }
    refuse_table(config, "pruned_heads")
}

fn refuse_table(config: &Config<'_>, key: &str) -> Result<(), ArchitectureError> {
    match config.table(key)? {
        Some(_) => Err(config.unsupported(key, "a table", "none; layers that differ from the config are not supported")),
        None => Ok(()),
    }
}

/// The spec's norm as root mean square.
pub(super) fn rms_norm(config: &Config<'_>, key: &str, epsilon: f64) -> Result<Norm, ArchitectureError> {
    Ok(Norm { kind: NormKind::Rms, epsilon: config.number(key, epsilon)? as f32 })
}

/// The spec's norm as layer norm.
pub(super) fn layer_norm(config: &Config<'_>, key: &str, epsilon: f64) -> Result<Norm, ArchitectureError> {
    Ok(Norm { kind: NormKind::Layer, epsilon: config.number(key, epsilon)? as f32 })
}

/// Width of a head of a decoder whose layers are alike in that.
pub(super) fn head_dim(spec: &DecoderSpec) -> usize {
    spec.attentions().next().map_or(0, |a| a.head_dim)
}

/// The experts that a config names, with softmax scores: `num_experts` or `num_local_experts`, and `num_experts_per_tok`. Defaults are
/// those of the family's config class.
pub(super) fn experts(config: &Config<'_>, all: usize, active: usize) -> Result<Experts, ArchitectureError> {
    let all = config.size("num_local_experts", config.size("num_experts", all)?)?;
    let active = config.size("num_experts_per_tok", active)?;
    if active > all {
        return Err(config.unsupported(
            "num_experts_per_tok",
            &active.to_string(),
            &format!("up to {all}, the number of experts"),
        ));
    }
    Ok(Experts::new(all, active, Scores::Softmax))
}

/// Adds experts of that `width` that every token uses, which checkpoints have as one network of the width that the config names.
pub(super) fn share(
    config: &Config<'_>,
    experts: &mut Experts,
    width: usize,
    (key, default): (&str, usize),
    gated: bool,
) -> Result<(), ArchitectureError> {
    let together = config.size_or_none(key, default)?;
    if !together.is_multiple_of(width) {
        let supported = format!("multiples of {width}, the width of the other experts");
        return Err(config.unsupported(key, &together.to_string(), &supported));
    }
    experts.shared = together / width;
    experts.num_experts += experts.shared;
    experts.num_active += experts.shared;
    experts.shared_gate = gated && experts.shared > 0;
    Ok(())
}

/// Gives every feed-forward network the activation.
pub(super) fn set_activation(spec: &mut DecoderSpec, activation: Activation) {
    spec.mlps_mut().for_each(|m| m.activation = activation);
}

/// Gives biases to both projections of every attention, to those of every feed-forward network, or to neither.
pub(super) fn set_biases(spec: &mut DecoderSpec, attention: bool, mlp: bool) {
    spec.attentions_mut().for_each(|a| (a.qkv_bias, a.output_bias) = (attention, attention));
    spec.mlps_mut().for_each(|m| m.bias = mlp);
}

/// Gives every layer the config's one rope table.
pub(super) fn rotate_all(spec: &mut DecoderSpec, config: &Config<'_>, defaults: RopeDefaults) -> Result<(), ArchitectureError> {
    spec.ropes = vec![super::rope::table(config, head_dim(spec), defaults)?];
    spec.attentions_mut().for_each(|a| a.rope = Some(0));
    Ok(())
}

/// The same for a family that rotates neighbours. All dimensions of a head must turn: that is how its rows are reordered.
pub(super) fn rotate_all_neighbours(
    spec: &mut DecoderSpec,
    config: &Config<'_>,
    defaults: RopeDefaults,
) -> Result<(), ArchitectureError> {
    rotate_all(spec, config, defaults)?;
    let (rotated, head_dim) = (spec.ropes.first().map_or(0, |r| 2 * r.inv_freq.len()), head_dim(spec));
    if rotated == head_dim {
        return Ok(());
    }
    let found = format!("{rotated} of {head_dim} dimensions");
    Err(config.unsupported("partial_rotary_factor", &found, "all dimensions of a head"))
}

/// Takes rope from layers without a window.
pub(super) fn rotate_windows_alone(spec: &mut DecoderSpec) {
    spec.attentions_mut().for_each(|a| a.rope = a.rope.filter(|_| a.window.is_some()));
}

/// Gives layers without a window one rope table and layers with one another.
pub(super) fn rotate_by_window(spec: &mut DecoderSpec, full: RopeTable, sliding: RopeTable) {
    spec.ropes = if full == sliding { vec![full] } else { vec![full, sliding] };
    let last = spec.ropes.len() - 1;
    spec.attentions_mut().for_each(|a| a.rope = Some(if a.window.is_some() { last } else { 0 }));
}

/// Gives layers that are `sliding` the window.
pub(super) fn set_windows(spec: &mut DecoderSpec, window: Option<usize>, sliding: impl Fn(usize) -> bool) {
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        if let Some(attention) = layer.attention_mut() {
            attention.window = window.filter(|_| sliding(i));
        }
    }
}

/// Gives layers that are `sliding` the config's window, which must be there if one is.
pub(super) fn set_required_windows(
    spec: &mut DecoderSpec,
    config: &Config<'_>,
    default: usize,
    sliding: &[bool],
) -> Result<(), ArchitectureError> {
    let window = if config.has("sliding_window") { config.optional_size("sliding_window")? } else { Some(default) };
    if window.is_none() && sliding.contains(&true) {
        return Err(config.unsupported("sliding_window", "null", "a number, as there are layers with sliding_attention"));
    }
    set_windows(spec, window, |i| sliding[i]);
    Ok(())
}

/// Which layers slide: `layer_types`, or `otherwise` where a config has none.
pub(super) fn sliding_layers(
    config: &Config<'_>,
    layers: usize,
    otherwise: impl Fn(usize) -> bool,
) -> Result<Vec<bool>, ArchitectureError> {
    let kinds = layer_kinds(config, layers, &["full_attention", "sliding_attention"], |i| usize::from(otherwise(i)))?;
    Ok(kinds.iter().map(|kind| *kind == 1).collect())
}

/// Of what kind each layer is, as its number in `known`: `layer_types`, or `otherwise` where a config has none.
pub(super) fn layer_kinds(
    config: &Config<'_>,
    layers: usize,
    known: &[&str],
    otherwise: impl Fn(usize) -> usize,
) -> Result<Vec<usize>, ArchitectureError> {
    let Some(types) = config.texts("layer_types")? else { return Ok((0..layers).map(otherwise).collect()) };
    if types.len() != layers {
        let found = format!("{} entries", types.len());
        return Err(config.unsupported("layer_types", &found, &format!("{layers}, as num_hidden_layers says")));
    }
    types.iter().map(|name| layer_kind(config, "layer_types", name, known)).collect()
}

/// The number in `known` of a kind of layer, which the config names under `key`.
pub(super) fn layer_kind(config: &Config<'_>, key: &str, name: &str, known: &[&str]) -> Result<usize, ArchitectureError> {
    // The shorter names are those of configs before transformers 5.
    let today = match name {
        "attention" => "full_attention",
        "mamba" => "linear_attention",
        _ => name,
    };
    let known_as = known.iter().position(|k| *k == today);
    known_as.ok_or_else(|| config.unsupported(key, name, &known.join(", ")))
}
