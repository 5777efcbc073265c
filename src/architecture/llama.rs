//! Llama and everything saved as `LlamaForCausalLM`: grouped-query attention, RMSNorm, SwiGLU, rope, tied or untied head.

use super::config::Config;
use super::{ArchitectureError, Mapping, Source, rope};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{Biases, LayerSpec, Norm, NormKind, NormPlacement, Residual};
use std::collections::BTreeMap;

/// Reads a Llama config; what is missing has the default of transformers' `LlamaConfig`.
pub(super) fn load(config: &Config<'_>) -> Result<Mapping, ArchitectureError> {
    let hidden_size = config.size("hidden_size", 4096)?;
    let num_heads = config.size("num_attention_heads", 32)?;
    let head_dim = config.size("head_dim", hidden_size / num_heads)?;
    if head_dim == 0 || !head_dim.is_multiple_of(2) {
        return Err(config.unsupported("head_dim", &head_dim.to_string(), "even numbers"));
    }
    let num_layers = config.layers("num_hidden_layers", 32)?;
    let tied_head = config.flag("tie_word_embeddings", false)?;
    let attention_bias = config.flag("attention_bias", false)?;
    let mlp_bias = config.flag("mlp_bias", false)?;
    let spec = DecoderSpec {
        vocab_size: config.size("vocab_size", 32_000)?,
        hidden_size,
        intermediate_size: config.size("intermediate_size", 11_008)?,
        num_heads,
        num_kv_heads: config.size("num_key_value_heads", num_heads)?,
        head_dim,
        max_context: config.size("max_position_embeddings", 2048)?,
        norm: Norm { kind: NormKind::Rms, epsilon: config.number("rms_norm_eps", 1e-6)? as f32 },
        activation: config.activation("hidden_act", "silu")?,
        gated_mlp: true,
        attention_scale: (1.0 / (head_dim as f64).sqrt()) as f32,
        layers: vec![LayerSpec { window: None, rope: Some(0) }; num_layers],
        ropes: vec![rope::table(config, head_dim)?],
        tied_head,
        qk_norm: None,
        biases: Biases { qkv: attention_bias, attention_output: attention_bias, mlp: mlp_bias, head: false },
        residual: Residual::Sequential,
        norm_placement: NormPlacement::Pre,
        learned_positions: false,
        attention_softcap: None,
        logit_softcap: None,
        embedding_multiplier: 1.0,
        residual_multiplier: 1.0,
        logit_multiplier: 1.0,
        eos_token_ids: config.token_ids("eos_token_id", Some(2))?,
        bos_token_id: config.token_ids("bos_token_id", Some(1))?.first().copied(),
    };
    let sources = sources(num_layers, tied_head, attention_bias, mlp_bias);
    Ok(Mapping { spec, sources, may_ignore: if tied_head { ignored_when_tied } else { ignored } })
}

/// Canonical names with the checkpoint tensors that they are made of.
fn sources(layers: usize, tied_head: bool, attention_bias: bool, mlp_bias: bool) -> BTreeMap<String, Source> {
    let mut map = BTreeMap::new();
    let mut one = |canonical: String, name: String| map.insert(canonical, Source::Stacked(vec![name]));
    one("embedding".into(), "model.embed_tokens.weight".into());
    one("final_norm.gain".into(), "model.norm.weight".into());
    if !tied_head {
        one("head".into(), "lm_head.weight".into());
    }
    for i in 0..layers {
        let (to, from) = (format!("layers.{i}"), format!("model.layers.{i}"));
        let many = |names: [&str; 2], kind: &str| names.map(|n| format!("{from}.{n}_proj.{kind}")).to_vec();
        map.insert(format!("{to}.attention_norm.gain"), Source::Stacked(vec![format!("{from}.input_layernorm.weight")]));
        map.insert(format!("{to}.mlp_norm.gain"), Source::Stacked(vec![format!("{from}.post_attention_layernorm.weight")]));
        for (kind, end, attention, mlp) in [("weight", "", true, true), ("bias", ".bias", attention_bias, mlp_bias)] {
            if attention {
                let mut qkv = many(["self_attn.q", "self_attn.k"], kind);
                qkv.push(format!("{from}.self_attn.v_proj.{kind}"));
                map.insert(format!("{to}.qkv{end}"), Source::Stacked(qkv));
                let output = format!("{from}.self_attn.o_proj.{kind}");
                map.insert(format!("{to}.attention_output{end}"), Source::Stacked(vec![output]));
            }
            if mlp {
                map.insert(format!("{to}.gate_up{end}"), Source::Interleaved(many(["mlp.gate", "mlp.up"], kind)));
                map.insert(format!("{to}.down{end}"), Source::Stacked(vec![format!("{from}.mlp.down_proj.{kind}")]));
            }
        }
    }
    map
}

/// Old checkpoints stored the rope table, which follows from the config.
fn ignored(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
}

/// A tied head is the embedding, whatever a file says beside it.
fn ignored_when_tied(name: &str) -> bool {
    ignored(name) || name == "lm_head.weight"
}
