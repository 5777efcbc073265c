//! Gemma 3n (text): Gemma 3 without 1 in the gains of its norms and without a scale of attention, with several residual streams,
//! a learned residual layer beside attention, gates that are cut off in the first layers, last layers that see the keys and values of
//! earlier ones, and numbers of each token for each layer.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::gemma;
use super::gemma4;
use super::names::Names;
use super::{ArchitectureError, Mapping};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{AltUp, NormPlacement, QkNorm};

/// Of `Gemma3nTextConfig`.
const DEFAULTS: Defaults = Defaults {
    vocab_size: 262_400,
    hidden_size: 2048,
    intermediate_size: 16_384,
    num_layers: 35,
    num_heads: 8,
    num_kv_heads: Some(2),
    head_dim: Some(256),
    max_context: 32_768,
    tied_head: true,
    bos: Some(2),
    eos: Some(1),
    ..LLAMA
};

/// Layers whose gates are cut off where a config does not say.
const SPARSE_LAYERS: usize = 10;

/// Gains are used as they are.
const NAMES: Names = Names { gain_offset: 0.0, ..gemma::NAMES_2 };

pub(super) fn load(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    base::refuse_others(config)?;
    let sizes = if config.is_list("intermediate_size") { config.sizes("intermediate_size")? } else { None };
    let first = sizes.as_ref().and_then(|s| s.first().copied());
    let spec = base::spec_with(config, &DEFAULTS, first)?;
    let mut spec = gemma::scaled(config, spec, "hidden_activation")?;
    let layers = spec.num_layers();
    if let Some(sizes) = sizes {
        if sizes.len() != layers {
            let found = format!("{} entries", sizes.len());
            return Err(config.unsupported("intermediate_size", &found, &format!("{layers}, as num_hidden_layers says")));
        }
        spec.mlps_mut().zip(sizes).for_each(|(mlp, size)| mlp.intermediate_size = size);
    }
    let rank = config.size("laurel_rank", 64)?;
    spec.layers.iter_mut().for_each(|l| (l.norm_placement, l.laurel) = (NormPlacement::Both, Some(rank)));
    spec.attentions_mut().for_each(|a| (a.scale, a.qk_norm, a.value_norm) = (1.0, Some(QkNorm::PerHead), true));
    spec.logit_softcap = gemma::cap(config, "final_logit_softcapping", 30.0)?;
    let sliding = base::sliding_layers(config, layers, |i| !(i + 1).is_multiple_of(5))?;
    base::set_required_windows(&mut spec, config, 512, &sliding)?;
    gemma::rotate(config, &mut spec)?;
    cut_gates(config, &mut spec)?;
    let shared = config.size_or_none("num_kv_shared_layers", 15)?;
    let mut unread = gemma4::share(config, &mut spec, &sliding, shared, false)?;
    streams(config, &mut spec)?;
    if spec.altup.is_some_and(|a| !a.output_scale) {
        unread.extend((0..layers).map(|i| format!("model.layers.{i}.altup.correct_output_scale")));
    }
    let rows = config.size("vocab_size_per_layer_input", 262_144)?;
    if rows > spec.vocab_size {
        return Err(config.unsupported("vocab_size_per_layer_input", &rows.to_string(), "as many as vocab_size, or fewer"));
    }
    gemma4::set_per_layer(&mut spec, config.size("hidden_size_per_layer_input", 256)?);
    Ok(Mapping { unread, per_layer_rows: Some(rows), ..Mapping::new(spec, NAMES) })
}

/// The residual streams.
fn streams(config: &Config<'_>, spec: &mut DecoderSpec) -> Result<(), ArchitectureError> {
    let streams = config.size("altup_num_inputs", 4)?;
    if !(2..=AltUp::MAX_STREAMS).contains(&streams) {
        return Err(config.unsupported("altup_num_inputs", &streams.to_string(), &format!("2 to {}", AltUp::MAX_STREAMS)));
    }
    let mut altup = AltUp::new(streams);
    altup.active = config.size_or_none("altup_active_idx", 0)?;
    altup.output_scale = config.flag("altup_correct_scale", true)?;
    if altup.active >= streams {
        let found = altup.active.to_string();
        return Err(config.unsupported("altup_active_idx", &found, &format!("less than {streams}, as altup_num_inputs says")));
    }
    spec.altup = Some(altup);
    Ok(())
}

/// The share of gates that a layer cuts off as if they were of a normal distribution.
fn cut_gates(config: &Config<'_>, spec: &mut DecoderSpec) -> Result<(), ArchitectureError> {
    const KEY: &str = "activation_sparsity_pattern";
    let layers = spec.num_layers();
    let sparse = if layers > SPARSE_LAYERS { SPARSE_LAYERS } else { 0 };
    let pattern = config.numbers(KEY)?.unwrap_or_else(|| (0..layers).map(|i| if i < sparse { 0.95 } else { 0.0 }).collect());
    if pattern.len() != layers {
        let found = format!("{} entries", pattern.len());
        return Err(config.unsupported(KEY, &found, &format!("{layers}, as num_hidden_layers says")));
    }
    for (mlp, share) in spec.mlps_mut().zip(pattern) {
        // transformers calculates with an f32.
        let share = f64::from(share as f32);
        if share >= 1.0 {
            return Err(config.unsupported(KEY, &share.to_string(), "shares below 1"));
        }
        mlp.gate_cutoff = (share > 0.0).then(|| quantile(share) as f32);
    }
    Ok(())
}

/// The number that a standard normal variable is below with probability `p`.
fn quantile(p: f64) -> f64 {
    // Where density × (x + x³/3 + x⁵/15 + …) is p − 1/2, found by halving.
    let above_half = |x: f64| {
        let (mut term, mut sum) = (x, x);
        for odd in (3..400).step_by(2) {
            term *= x * x / f64::from(odd);
            sum += term;
        }
        sum * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
    };
    let (mut low, mut high) = (-8.0, 8.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if above_half(middle) < p - 0.5 { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quantiles_of_the_normal_distribution() {
        for (p, x) in
            [(0.5, 0.0), (0.95, 1.644_853_626_951_472_7), (0.3, -0.524_400_512_708_041), (0.9999, 3.719_016_485_455_709)]
        {
            assert!((quantile(p) - x).abs() < 1e-9, "{p}: {}", quantile(p));
        }
    }
}
