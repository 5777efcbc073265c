//! StableLM: Llama with layer norms and partial rotation; some with attention and feed-forward network side by side, or
//! norms for each head of queries and keys.

use super::base::{self, Defaults, LLAMA};
use super::config::Config;
use super::names::Names;
use super::rope::RopeDefaults;
use super::{ArchitectureError, Mapping};
use haikuq_format::spec::{NormKind, QkNorm, Residual};

/// Of `StableLmConfig`.
const DEFAULTS: Defaults = Defaults {
    vocab_size: 50_304,
    hidden_size: 2560,
    intermediate_size: 6912,
    num_kv_heads: Some(32),
    max_context: 4096,
    bos: Some(0),
    eos: Some(0),
    ..LLAMA
};

const NAMES: Names = Names { q_norm: "self_attn.q_layernorm", k_norm: "self_attn.k_layernorm", ..Names::LLAMA };

pub(super) fn load(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let mut spec = base::spec(config, &DEFAULTS)?;
    // `StableLMEpochConfig`, the class before transformers had one, has other names for two of them.
    let (partial, epsilon) = (config.number("rope_pct", 0.25)?, config.number("norm_eps", 1e-5)?);
    base::rotate_all(&mut spec, config, RopeDefaults { theta: 10_000.0, partial, ..RopeDefaults::USUAL })?;
    spec.norm = base::layer_norm(config, "layer_norm_eps", epsilon)?;
    base::set_activation(&mut spec, config.activation("hidden_act", "silu")?);
    let bias = config.flag("use_qkv_bias", false)?;
    spec.attentions_mut().for_each(|a| a.qkv_bias = bias);
    if config.flag("use_parallel_residual", false)? {
        spec.layers.iter_mut().for_each(|l| l.residual = Residual::ParallelShared);
    }
    if config.flag("qk_layernorm", false)? {
        let qk_norm = QkNorm::EachHead(NormKind::LayerNoBias);
        spec.attentions_mut().for_each(|a| a.qk_norm = Some(qk_norm));
    }
    Ok(Mapping::new(spec, NAMES))
}
