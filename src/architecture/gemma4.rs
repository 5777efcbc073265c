//! Gemma 4 (text): Gemma 3 without 1 in the gains of its norms, with wider heads where attention sees everything, keys that may be the
//! values too, last layers that see the keys and values of earlier ones, numbers of each token for each layer, and a factor for
//! each layer.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::gemma;
use super::names::Names;
use super::rope::{self, RopeDefaults};
use super::{ArchitectureError, Mapping};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{NormPlacement, PerLayerEmbedding, QkNorm};

/// Of `Gemma4TextConfig`.
const DEFAULTS: Defaults = Defaults {
    vocab_size: 262_144,
    hidden_size: 2304,
    intermediate_size: 9216,
    num_layers: 30,
    num_heads: 8,
    num_kv_heads: Some(4),
    head_dim: Some(256),
    max_context: 131_072,
    tied_head: true,
    bos: Some(2),
    eos: Some(1),
    ..LLAMA
};

/// Gains are used as they are.
const NAMES: Names = Names { gain_offset: 0.0, ..gemma::NAMES_2 };

pub(super) fn load(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    if config.flag("enable_moe_block", false)? {
        return Err(config.unsupported("enable_moe_block", "true", "false; mixtures of experts (26B-A4B) are not"));
    }
    // Images alone see what follows them.
    if let Some(who) = config.text("use_bidirectional_attention")?.filter(|who| *who != "vision") {
        return Err(config.unsupported("use_bidirectional_attention", who, "null, vision"));
    }
    base::refuse_flags(config)?;
    let mut spec = gemma::scaled(config, base::spec_of(config, &DEFAULTS)?, "hidden_activation")?;
    spec.layers.iter_mut().for_each(|l| (l.norm_placement, l.output_scale) = (NormPlacement::Both, true));
    spec.logit_softcap = config.optional_positive("final_logit_softcapping")?.map(|c| c as f32);
    let mut sliding = base::sliding_layers(config, spec.num_layers(), |i| !(i + 1).is_multiple_of(6))?;
    // As transformers has it, whatever a config says.
    if let Some(last) = sliding.last_mut() {
        *last = false;
    }
    base::set_required_windows(&mut spec, config, 512, &sliding)?;
    heads(config, &mut spec)?;
    ropes(config, &mut spec)?;
    let shared = config.size_or_zero("num_kv_shared_layers", 0)?;
    let wide = config.flag("use_double_wide_mlp", false)?;
    let unread = share(config, &mut spec, &sliding, shared, wide)?;
    per_layer(config, &mut spec)?;
    Ok(Mapping { unread, ..Mapping::new(spec, NAMES) })
}

/// Heads of layers that see everything, their norms, and whether their keys are the values too.
fn heads(config: &Config<'_>, spec: &mut DecoderSpec) -> Result<(), ArchitectureError> {
    let k_eq_v = config.flag("attention_k_eq_v", false)?;
    let head_dim = config.size("global_head_dim", 512)?;
    let kv_heads = config.optional_size("num_global_key_value_heads")?.filter(|_| k_eq_v);
    // A table says it all, even one without entries.
    let (said, by_layer) = (config.has("per_layer_config"), config.table("per_layer_config")?);
    // transformers writes all numbers as long as the longest.
    let names = |i: usize| [format!("{i}"), format!("{i:02}"), format!("{i:03}")];
    if let Some(by_layer) = &by_layer {
        let known: Vec<String> = (0..spec.num_layers()).flat_map(names).collect();
        by_layer.only(&known.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    for (i, attention) in spec.layers.iter_mut().enumerate().filter_map(|(i, l)| Some((i, l.attention_mut()?))) {
        let full = attention.window.is_none();
        if full && !said {
            attention.head_dim = head_dim;
            attention.num_kv_heads = kv_heads.unwrap_or(attention.num_kv_heads);
        }
        for own in by_layer.iter().flat_map(|t| names(i).map(|name| t.table(&name))) {
            let Some(own) = own? else { continue };
            own.only(&["head_dim", "num_key_value_heads"])?;
            attention.head_dim = own.size("head_dim", attention.head_dim)?;
            attention.num_kv_heads = own.size("num_key_value_heads", attention.num_kv_heads)?;
        }
        (attention.scale, attention.qk_norm, attention.value_norm) = (1.0, Some(QkNorm::PerHead), true);
        attention.values_are_keys = k_eq_v && full;
    }
    Ok(())
}

/// A table for layers with windows, and one for those without.
fn ropes(config: &Config<'_>, spec: &mut DecoderSpec) -> Result<(), ArchitectureError> {
    let nested = config.table("rope_parameters")?;
    let table = |kind: &str, full: bool| {
        let dim = spec.attentions().find(|a| a.window.is_none() == full).map_or(2, |a| a.head_dim);
        match nested.as_ref().map(|t| t.table(kind)).transpose()?.flatten() {
            Some(table) => rope::table_of(config, Some(&table), dim, RopeDefaults::USUAL),
            None if nested.is_some() => {
                Err(config.unsupported("rope_parameters", "a table", "one with a table for each kind of layer"))
            }
            None if full => Ok(rope::proportional(1e6, 0.25, dim, 1.0)),
            None => rope::table_of(config, None, dim, RopeDefaults::USUAL),
        }
    };
    let has = |full: bool| spec.attentions().any(|a| a.window.is_none() == full);
    let full = table("full_attention", true)?;
    let sliding = if has(false) { table("sliding_attention", false)? } else { full.clone() };
    base::rotate_by_window(spec, full, sliding);
    Ok(())
}

/// The `shared` last layers see the keys and values of the last layer of their kind before them. Returns the beginnings of the names of tensors that
/// checkpoints have nevertheless. Their feed-forward networks may be twice as `wide`.
pub(super) fn share(
    config: &Config<'_>,
    spec: &mut DecoderSpec,
    sliding: &[bool],
    shared: usize,
    wide: bool,
) -> Result<Vec<String>, ArchitectureError> {
    let layers = spec.num_layers();
    let own = layers.saturating_sub(shared);
    let mut unread = Vec::new();
    for i in own..layers {
        let Some(from) = sliding[..own].iter().rposition(|kind| *kind == sliding[i]) else {
            let supported = "a number that leaves a layer of each kind with keys and values of its own";
            return Err(config.unsupported("num_kv_shared_layers", &shared.to_string(), supported));
        };
        let layer = &mut spec.layers[i];
        if let Some(mlp) = layer.mlp.as_mut().filter(|_| wide) {
            mlp.intermediate_size *= 2;
        }
        if let Some(attention) = layer.attention_mut() {
            (attention.kv_from, attention.values_are_keys, attention.value_norm) = (Some(from), false, false);
        }
        unread.extend(["k_proj", "v_proj", "k_norm", "v_norm"].map(|part| format!("model.layers.{i}.self_attn.{part}.")));
    }
    Ok(unread)
}

/// Numbers of each token for each layer.
fn per_layer(config: &Config<'_>, spec: &mut DecoderSpec) -> Result<(), ArchitectureError> {
    const KEY: &str = "hidden_size_per_layer_input";
    let size = config.size_or_none(KEY, 256)?;
    if size == 0 {
        return Ok(());
    }
    let rows = config.size("vocab_size_per_layer_input", 262_144)?;
    if rows != spec.vocab_size {
        return Err(config.unsupported("vocab_size_per_layer_input", &rows.to_string(), "as many as vocab_size"));
    }
    set_per_layer(spec, size);
    Ok(())
}

/// `size` numbers of each token for each layer.
pub(super) fn set_per_layer(spec: &mut DecoderSpec, size: usize) {
    let activation = spec.mlps().next().map_or(haikuq_format::spec::Activation::GeluTanh, |m| m.activation);
    let mut per_layer = PerLayerEmbedding::new(size, activation);
    per_layer.table_multiplier = (size as f64).sqrt() as f32;
    per_layer.projection_multiplier = (spec.hidden_size as f64).powf(-0.5) as f32;
    per_layer.multiplier = 0.5f64.sqrt() as f32;
    spec.per_layer_embedding = Some(per_layer);
}
