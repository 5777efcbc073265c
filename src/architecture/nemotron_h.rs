//! Nemotron-H: layers of one block each, a Mamba 2 mixer, attention without rope, or a feed-forward network with squared ReLU. A
//! mixer and the feed-forward network after it are one layer here.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::names::{Blocks, MambaNames, Names, Qkv, Up};
use super::{ArchitectureError, Mapping, mamba};
use haikuq_format::spec::{Attention, GatedNorm, LayerSpec, Mamba2, Mixer, Mlp};

/// Of `NemotronHConfig`.
const DEFAULTS: Defaults = Defaults {
    vocab_size: 131_072,
    intermediate_size: 21_504,
    num_kv_heads: Some(8),
    head_dim: Some(128),
    max_context: 4096,
    ..LLAMA
};

const NAMES: Names = Names {
    base: "backbone.",
    embedding: "embeddings",
    mixer_norm: "norm",
    qkv: Qkv::Separate(["mixer.q_proj", "mixer.k_proj", "mixer.v_proj"]),
    attention_output: "mixer.o_proj",
    mamba2: MambaNames {
        input: "mixer.in_proj",
        kernel: "mixer.conv1d",
        log_decay: "mixer.A_log",
        step_bias: "mixer.dt_bias",
        skip: "mixer.D",
        norm: "mixer.norm",
        output: "mixer.out_proj",
    },
    mlp_norm: "norm",
    up: Up::Alone("mixer.up_proj"),
    down: "mixer.down_proj",
    final_norm: "norm_f",
    ..Names::LLAMA
};

/// What a layer of the checkpoint can be.
const KINDS: [&str; 3] = ["linear_attention", "full_attention", "mlp"];
const MLP: usize = 2;

pub(super) fn load(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &DEFAULTS)?;
    spec.norm = base::rms_norm(config, "layer_norm_epsilon", 1e-5)?;
    let (Some(attention), Some(mut mlp)) = (spec.attentions().next().copied(), spec.mlps().next().copied()) else {
        return Err(config.unsupported("num_hidden_layers", "0", "1 or more"));
    };
    mlp.activation = config.activation("mlp_hidden_act", "relu2")?;
    (mlp.gated, mlp.bias) = (false, config.flag("mlp_bias", false)?);
    let mamba = mixer(config)?;
    let (layers, blocks) = layers(config, attention, mamba, mlp)?;
    spec.layers = layers;
    // Checkpoints have layers that guess later tokens.
    Ok(Mapping { blocks: Some(blocks), beside: &["mtp"], ..Mapping::new(spec, NAMES) })
}

fn mixer(config: &Config<'_>) -> Result<Mamba2, ArchitectureError> {
    mamba::require_silu(config, "mamba_hidden_act")?;
    // Older names come first, as in the class.
    let key = |old: &'static str, new| if config.has(old) { old } else { new };
    let size = |key: &str, default| config.size(key, default);
    let mut mamba = Mamba2::new(
        size("mamba_num_heads", 128)?,
        size("mamba_head_dim", 64)?,
        size(key("mamba_n_groups", "n_groups"), 8)?,
        size("ssm_state_size", 128)?,
        size(key("mamba_d_conv", "conv_kernel"), 4)?,
    );
    mamba.norm = Some(GatedNorm::AfterGate);
    mamba.conv_bias = config.flag(key("mamba_conv_bias", "use_conv_bias"), true)?;
    let bias = config.flag("use_bias", false)?;
    (mamba.input_bias, mamba.output_bias) = (bias, bias);
    // The class has no upper limit, whatever else a config says.
    mamba.min_step = config.number(key("mamba_dt_min", "time_step_min"), 0.001)? as f32;
    Ok(mamba)
}

/// Layers with their blocks' numbers in the checkpoint.
fn layers(
    config: &Config<'_>,
    attention: Attention,
    mamba: Mamba2,
    mlp: Mlp,
) -> Result<(Vec<LayerSpec>, Blocks), ArchitectureError> {
    let (mut layers, mut blocks): (Vec<LayerSpec>, Blocks) = Default::default();
    let (key, kinds) = kinds(config)?;
    for (block, kind) in kinds.into_iter().enumerate() {
        if kind != MLP {
            let mixer: Mixer = if KINDS[kind] == "full_attention" { attention.into() } else { mamba.into() };
            layers.push(LayerSpec::new(mixer, None));
            blocks.push([block; 2]);
            continue;
        }
        match (layers.last_mut(), blocks.last_mut()) {
            (Some(layer), Some(numbers)) if layer.mlp.is_none() => (layer.mlp, numbers[1]) = (Some(mlp), block),
            _ => {
                let found = format!("a feed-forward network as layer {block}, after no mixer");
                return Err(config.unsupported(key, &found, "such that follow a mixer"));
            }
        }
    }
    Ok((layers, blocks))
}

/// What each layer of the checkpoint is, as its number in [`KINDS`], and the key that says so.
fn kinds(config: &Config<'_>) -> Result<(&'static str, Vec<usize>), ArchitectureError> {
    let experts = |key: &str, found: &str| {
        let supported = format!("{}; mixture-of-experts models are not", KINDS.join(", "));
        config.unsupported(key, found, &supported)
    };
    for key in ["layers_block_type", "layer_types"] {
        if let Some(types) = config.texts(key)? {
            if let Some(found) = types.iter().find(|name| **name == "moe") {
                return Err(experts(key, found));
            }
            let kinds = types.iter().map(|name| base::layer_kind(config, key, name, &KINDS));
            return Ok((key, kinds.collect::<Result<_, _>>()?));
        }
    }
    let key = "hybrid_override_pattern";
    let Some(pattern) = config.text(key)? else {
        // The class has experts where a config does not say what its layers are.
        return Err(experts("layers_block_type", "nothing"));
    };
    let kind = |letter: char| match letter {
        'M' => Ok(0),
        '*' => Ok(1),
        '-' => Ok(MLP),
        'E' => Err(experts(key, pattern)),
        _ => Err(config.unsupported(key, pattern, "letters M, * and -")),
    };
    Ok((key, pattern.chars().map(kind).collect::<Result<_, _>>()?))
}
