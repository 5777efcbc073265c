//! Granite: Llama with multipliers on embedding, attention, residuals and logits. Granite 4 is the same with a fused feed-forward
//! network, in some sizes without rope, and in its hybrids with Mamba 2 mixers in most layers; its class also holds mixtures of
//! experts.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::names::{ExpertNames, Names, Up};
use super::rope::{self, RopeDefaults};
use super::{ArchitectureError, Mapping, mamba};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{GatedNorm, Mamba2};

/// What `GraniteMoeHybridConfig` has for the width of the experts that every token uses.
const SHARED: usize = 1024;

/// Of `GraniteSWAConfig`.
const DEFAULTS_SWA: Defaults = Defaults {
    vocab_size: 100_352,
    hidden_size: 2560,
    intermediate_size: 8192,
    num_layers: 24,
    num_heads: 20,
    num_kv_heads: Some(4),
    max_context: 8192,
    norm_epsilon: 1e-5,
    tied_head: true,
    bos: Some(100_257),
    eos: Some(100_257),
    ..LLAMA
};

/// Without other experts, those that every token uses are a network like any other.
const NAMES_4: Names = Names { up: Up::Fused("shared_mlp.input_linear"), down: "shared_mlp.output_linear", ..NAMES_EXPERTS };

const NAMES_EXPERTS: Names = Names {
    experts: ExpertNames {
        router: "block_sparse_moe.router",
        list: "block_sparse_moe.experts",
        shared_up: Up::Fused("shared_mlp.input_linear"),
        shared_down: "shared_mlp.output_linear",
        ..Names::LLAMA.experts
    },
    ..Names::LLAMA
};

pub(super) fn load(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &LLAMA)?;
    base::rotate_all(&mut spec, config, RopeDefaults::USUAL)?;
    multiply(&mut spec, config)?;
    base::set_biases(&mut spec, config.flag("attention_bias", false)?, config.flag("mlp_bias", false)?);
    Ok(Mapping::new(spec, Names::LLAMA))
}

/// Granite with experts.
pub(super) fn load_experts(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    with_experts(config, false)
}

/// The same with some that every token uses.
pub(super) fn load_shared(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    with_experts(config, true)
}

fn with_experts(config: &Config<'_>, shared: bool) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &LLAMA)?;
    base::rotate_all(&mut spec, config, RopeDefaults::USUAL)?;
    multiply(&mut spec, config)?;
    base::set_biases(&mut spec, config.flag("attention_bias", false)?, false);
    let mut experts = base::experts(config, 8, 2)?;
    experts.normalized = true;
    if shared {
        base::share(config, &mut experts, spec.max_intermediate_size(), ("shared_intermediate_size", 0), false)?;
    }
    spec.mlps_mut().for_each(|m| m.experts = Some(experts));
    Ok(Mapping::new(spec, NAMES_EXPERTS))
}

/// Granite with windows and attention sinks, and a rope base for each layer.
pub(super) fn load_swa(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &DEFAULTS_SWA)?;
    multiply(&mut spec, config)?;
    base::set_biases(&mut spec, config.flag("attention_bias", false)?, config.flag("mlp_bias", false)?);
    let sliding = base::sliding_layers(config, spec.num_layers(), |i| !i.is_multiple_of(4))?;
    base::set_required_windows(&mut spec, config, 128, &sliding)?;
    spec.attentions_mut().for_each(|a| a.sinks = true);
    let Some(thetas) = config.numbers("layer_rope_theta")? else {
        base::rotate_all(&mut spec, config, RopeDefaults::USUAL)?;
        return Ok(Mapping::new(spec, Names::LLAMA));
    };
    if thetas.len() != spec.num_layers() {
        let found = format!("{} entries", thetas.len());
        return Err(config.unsupported("layer_rope_theta", &found, &format!("{}, as num_hidden_layers says", spec.num_layers())));
    }
    let mut different: Vec<f64> = Vec::new();
    for (attention, theta) in spec.attentions_mut().zip(thetas) {
        // 0 stands for no rope.
        attention.rope = (theta != 0.0).then(|| {
            different.iter().position(|t| *t == theta).unwrap_or_else(|| {
                different.push(theta);
                different.len() - 1
            })
        });
    }
    let head_dim = base::head_dim(&spec);
    let tables = different.iter().map(|theta| rope::table_with_theta(config, head_dim, *theta));
    spec.ropes = tables.collect::<Result<_, _>>()?;
    Ok(Mapping::new(spec, Names::LLAMA))
}

pub(super) fn load_4(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &LLAMA)?;
    // The class has 8 experts where a config does not say how many.
    if config.size_or_none("num_local_experts", 8)? == 0 {
        let width = config.size("shared_intermediate_size", SHARED)?;
        spec.mlps_mut().for_each(|m| m.intermediate_size = width);
    } else {
        let mut experts = base::experts(config, 8, 2)?;
        experts.normalized = true;
        base::share(config, &mut experts, spec.max_intermediate_size(), ("shared_intermediate_size", SHARED), false)?;
        spec.mlps_mut().for_each(|m| m.experts = Some(experts));
    }
    let is_mamba = mamba_layers(config, spec.num_layers())?;
    if is_mamba.contains(&true) {
        let mixer = mamba_mixer(config, spec.hidden_size)?;
        let layers = spec.layers.iter_mut().zip(&is_mamba);
        layers.filter(|(_, is_mamba)| **is_mamba).for_each(|(layer, _)| layer.mixer = mixer.into());
    }
    // The class knows that name alone, and takes all others for none.
    if config.text("position_embedding_type")? == Some("rope") && is_mamba.contains(&false) {
        base::rotate_all(&mut spec, config, RopeDefaults::USUAL)?;
    }
    multiply(&mut spec, config)?;
    base::set_biases(&mut spec, config.flag("attention_bias", false)?, false);
    Ok(Mapping::new(spec, NAMES_4))
}

/// Which layers have a Mamba mixer; all of them where a config does not list them.
fn mamba_layers(config: &Config<'_>, layers: usize) -> Result<Vec<bool>, ArchitectureError> {
    let key = if config.has("layers_block_type") { "layers_block_type" } else { "layer_types" };
    let types = config.texts(key)?.unwrap_or_else(|| vec!["linear_attention"; layers]);
    if types.len() != layers {
        let found = format!("{} entries", types.len());
        return Err(config.unsupported(key, &found, &format!("{layers}, as num_hidden_layers says")));
    }
    let kind = |name: &&str| base::layer_kind(config, key, name, &["full_attention", "linear_attention"]);
    types.iter().map(|name| Ok(kind(name)? == 1)).collect()
}

fn mamba_mixer(config: &Config<'_>, hidden_size: usize) -> Result<Mamba2, ArchitectureError> {
    let mut mixer = mamba::mixer(config, config.size("mamba_expand", 2)? * hidden_size)?;
    mixer.norm = Some(GatedNorm::AfterGate);
    mixer.output_bias = mixer.input_bias;
    Ok(mixer)
}

/// The multipliers, and the activation.
fn multiply(spec: &mut DecoderSpec, config: &Config<'_>) -> Result<(), ArchitectureError> {
    base::set_activation(spec, config.activation("hidden_act", "silu")?);
    spec.embedding_multiplier = config.number("embedding_multiplier", 1.0)? as f32;
    spec.residual_multiplier = config.number("residual_multiplier", 1.0)? as f32;
    let scale = config.number("attention_multiplier", 1.0)? as f32;
    spec.attentions_mut().for_each(|a| a.scale = scale);
    spec.logit_multiplier = match config.number("logits_scaling", 1.0)? {
        0.0 => return Err(config.unsupported("logits_scaling", "0", "anything but 0, which logits are divided by")),
        scaling => (1.0 / scaling) as f32,
    };
    Ok(())
}
