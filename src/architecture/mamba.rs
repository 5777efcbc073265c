//! Mamba 2 mixers by the keys that Granite 4 and Falcon-H1 share.

use super::ArchitectureError;
use super::config::Config;
use haikuq_format::spec::Mamba2;

/// A mixer whose heads have `inner` numbers together, without norm and output bias.
pub(super) fn mixer(config: &Config<'_>, inner: usize) -> Result<Mamba2, ArchitectureError> {
    // The convolution uses the feed-forward network's activation.
    require_silu(config, "hidden_act")?;
    let heads = config.size("mamba_n_heads", 128)?;
    let head_dim = config.size_or_auto("mamba_d_head")?.unwrap_or(inner / heads);
    if heads.checked_mul(head_dim) != Some(inner) {
        let found = format!("{head_dim} for {heads} heads");
        return Err(config.unsupported("mamba_d_head", &found, &format!("heads that have {inner} numbers together")));
    }
    let (groups, state_size) = (config.size("mamba_n_groups", 1)?, config.size("mamba_d_state", 256)?);
    let mut mamba = Mamba2::new(heads, head_dim, groups, state_size, config.size("mamba_d_conv", 4)?);
    mamba.conv_bias = config.flag("mamba_conv_bias", true)?;
    mamba.input_bias = config.flag("mamba_proj_bias", false)?;
    let (least, largest) = config.limits("time_step_limit")?;
    (mamba.min_step, mamba.max_step) = (least as f32, largest.map(|n| n as f32));
    Ok(mamba)
}

/// Refuses another activation in convolutions.
pub(super) fn require_silu(config: &Config<'_>, key: &str) -> Result<(), ArchitectureError> {
    match config.text(key)? {
        Some(other) if !matches!(other, "silu" | "swish") => Err(config.unsupported(key, other, "silu")),
        _ => Ok(()),
    }
}
