//! Falcon-H1: attention and a Mamba 2 mixer side by side in every layer, and multipliers everywhere, which go into weights.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::names::{Names, Up};
use super::rope::RopeDefaults;
use super::{ArchitectureError, Mapping, mamba};
use haikuq_format::spec::GatedNorm;

/// Of `FalconH1Config`.
const DEFAULTS: Defaults = Defaults {
    vocab_size: 128_000,
    intermediate_size: 14_336,
    num_kv_heads: Some(8),
    max_context: 8192,
    norm_epsilon: 1e-5,
    ..LLAMA
};

const NAMES: Names = Names {
    mlp_norm: "pre_ff_layernorm",
    up: Up::Separate(["feed_forward.gate_proj", "feed_forward.up_proj"]),
    down: "feed_forward.down_proj",
    final_norm: "final_layernorm",
    ..Names::LLAMA
};

pub(super) fn load(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &DEFAULTS)?;
    base::set_activation(&mut spec, config.activation("hidden_act", "silu")?);
    base::rotate_all(&mut spec, config, RopeDefaults::USUAL)?;
    base::set_biases(&mut spec, config.flag("attention_bias", false)?, config.flag("mlp_bias", false)?);
    if !config.flag("mamba_use_mlp", true)? {
        return Err(config.unsupported("mamba_use_mlp", "false", "true"));
    }
    let expanded = config.size("mamba_expand", 2)? * spec.hidden_size;
    let inner = match config.optional_size("mamba_d_ssm")? {
        Some(inner) => inner,
        // The class has a width of its own where the key is absent, and that of `mamba_expand` where it is null.
        None if config.has("mamba_d_ssm") => expanded,
        None => 1024,
    };
    let mut mixer = mamba::mixer(config, inner)?;
    mixer.output_bias = config.flag("projectors_bias", false)?;
    let order = if config.flag("mamba_norm_before_gate", true)? { GatedNorm::BeforeGate } else { GatedNorm::AfterGate };
    mixer.norm = config.flag("mamba_rms_norm", false)?.then_some(order);
    spec.layers.iter_mut().for_each(|layer| layer.beside = Some(mixer.into()));

    let one = |key: &str| config.number(key, 1.0);
    spec.embedding_multiplier = one("embedding_multiplier")? as f32;
    spec.logit_multiplier = one("lm_head_multiplier")? as f32;
    let by_keys = one("key_multiplier")? as f32;
    spec.attentions_mut().for_each(|attention| attention.scale *= by_keys);
    let [gate, down] = factors(config, "mlp_multipliers")?;
    let rows: [f64; 5] = factors(config, "ssm_multipliers")?;
    let (into_attention, into_mamba) = (one("attention_in_multiplier")?, one("ssm_in_multiplier")?);
    let (of_attention, of_mamba) = (one("attention_out_multiplier")?, one("ssm_out_multiplier")?);
    // A bias of a first matrix is added after its input was multiplied, and before its output is.
    let scales = vec![
        ("qkv", vec![into_attention; 3]),
        ("attention_output", vec![of_attention]),
        ("attention_output.bias", vec![of_attention]),
        ("mamba_in", rows.map(|by| by * into_mamba).to_vec()),
        ("mamba_in.bias", rows.to_vec()),
        ("mamba_out", vec![of_mamba]),
        ("mamba_out.bias", vec![of_mamba]),
        ("gate_up", vec![gate, 1.0]),
        ("gate_up.bias", vec![gate, 1.0]),
        ("down", vec![down]),
        ("down.bias", vec![down]),
    ];
    Ok(Mapping { scales, ..Mapping::new(spec, NAMES) })
}

/// So many factors, or ones.
fn factors<const N: usize>(config: &Config<'_>, key: &str) -> Result<[f64; N], ArchitectureError> {
    let Some(numbers) = config.numbers(key)? else { return Ok([1.0; N]) };
    let found = format!("{} numbers", numbers.len());
    numbers.try_into().map_err(|_| config.unsupported(key, &found, &format!("{N} numbers")))
}
