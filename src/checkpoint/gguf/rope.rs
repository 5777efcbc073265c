//! Rope settings as `rope_parameters`.

use super::super::CheckpointError;
use super::model::Model;
use serde_json::{Map, Value, json};

/// `rope_parameters` of a config with all its other keys.
pub(super) fn parameters(model: &Model<'_>, config: &Map<String, Value>, head_dim: usize) -> Result<Value, CheckpointError> {
    let m = model.metadata();
    let theta = m.number(&model.key("rope.freq_base"))?;
    let gemma = matches!(model.family.name, "gemma3" | "gemma3n");
    let default = if gemma { 1_000_000.0 } else { 10_000.0 };
    let mut parameters = scaling(model, config)?;
    parameters["rope_theta"] = json!(theta.unwrap_or(default));
    let rotated = m.size(&model.key("rope.dimension_count"))?.unwrap_or(head_dim);
    if rotated != head_dim {
        parameters["partial_rotary_factor"] = json!(share(rotated, head_dim));
    }
    if model.family.name == "mistral3" {
        let number = |name: &str| m.number(&model.key(name));
        parameters["llama_4_scaling_beta"] = json!(number("attention.temperature_scale")?);
        // llama.cpp divides the factor that YaRN's paper gives by the same with this in it.
        (parameters["mscale"], parameters["mscale_all_dim"]) = (json!(1.0), json!(number("rope.scaling.yarn_log_multiplier")?));
    }
    if model.family.name == "gemma4" {
        return gemma4(model, theta, head_dim);
    }
    if model.family.name == "gpt-oss" {
        // No key says it, and its class has nothing else.
        parameters["truncate"] = json!(false);
    }
    if let Some(factors) = model.vector("rope_freqs.weight")? {
        if parameters["rope_type"] != "default" {
            return Err(m.wrong(&model.key("rope.scaling.type"), "is set, and there is rope_freqs.weight beside it"));
        }
        factored(model, &mut parameters, &factors, rotated)?;
    }
    if !matches!(config["model_type"].as_str(), Some("gemma3_text" | "gemma3n_text" | "olmo3")) {
        return Ok(parameters);
    }
    // Layers with a window are never scaled.
    let local = if gemma { Some(10_000.0) } else { theta };
    let local = m.number(&model.key("rope.freq_base_swa"))?.or(local).unwrap_or(default);
    Ok(json!({"full_attention": parameters, "sliding_attention": {"rope_type": "default", "rope_theta": local}}))
}

/// Gemma 4's: a table for layers without a window, in which a frequency divided by a huge number is none, and one for those with one.
fn gemma4(model: &Model<'_>, theta: Option<f64>, head_dim: usize) -> Result<Value, CheckpointError> {
    const NONE: f32 = 1e20;
    let m = model.metadata();
    let factors = model.vector("rope_freqs.weight")?.unwrap_or_else(|| vec![1.0; head_dim / 2]);
    let turning = factors.iter().take_while(|f| **f == 1.0).count();
    if factors.len() != head_dim / 2 || !factors[turning..].iter().all(|f| *f >= NONE) {
        let (file, tensor) = (m.file.into(), "rope_freqs.weight".into());
        let why = format!("expected {} factors, ones and after them numbers of {NONE:e} or more", head_dim / 2);
        return Err(CheckpointError::Entry { file, tensor, why });
    }
    let sliding_dim = m.size(&model.key("attention.key_length_swa"))?.unwrap_or(head_dim);
    let rotated = m.size(&model.key("rope.dimension_count_swa"))?.unwrap_or(sliding_dim);
    let mut sliding =
        json!({"rope_type": "default", "rope_theta": m.number(&model.key("rope.freq_base_swa"))?.unwrap_or(10_000.0)});
    if rotated != sliding_dim {
        sliding["partial_rotary_factor"] = json!(share(rotated, sliding_dim));
    }
    let full = json!({
        "rope_type": "proportional", "rope_theta": theta.unwrap_or(1_000_000.0),
        "partial_rotary_factor": share(2 * turning, head_dim),
    });
    Ok(json!({"full_attention": full, "sliding_attention": sliding}))
}

/// Share of a head that rotates, such that rounding down gives `rotated` again.
fn share(rotated: usize, head_dim: usize) -> f64 {
    let share = rotated as f64 / head_dim as f64;
    if (head_dim as f64 * share) as usize == rotated { share } else { (rotated as f64 + 1e-6) / head_dim as f64 }
}

/// Scaling by `rope.scaling.type`.
fn scaling(model: &Model<'_>, config: &Map<String, Value>) -> Result<Value, CheckpointError> {
    let m = model.metadata();
    let number = |name: &str| m.number(&model.key(&format!("rope.scaling.{name}")));
    let factor = match number("factor")? {
        Some(factor) => Some(factor),
        None => m.number(&model.key("rope.scale_linear"))?,
    };
    let original = m.size(&model.key("rope.scaling.original_context_length"))?.filter(|n| *n > 0);
    let (long, short) = (model.vector("rope_factors_long.weight")?, model.vector("rope_factors_short.weight")?);
    if let (Some(long), Some(short)) = (long, short) {
        let original = json!(original.map_or_else(|| config["max_position_embeddings"].clone(), |n| json!(n)));
        return Ok(json!({
            "rope_type": "longrope", "long_factor": long, "short_factor": short,
            "attention_factor": number("attn_factor")?, "original_max_position_embeddings": original,
        }));
    }
    let kind = m.text(&model.key("rope.scaling.type"))?.unwrap_or(if factor.is_some() { "linear" } else { "none" });
    Ok(match kind {
        "none" => json!({"rope_type": "default"}),
        "linear" if factor.is_none_or(|f| f == 1.0 || f == 0.0) => json!({"rope_type": "default"}),
        "linear" => json!({"rope_type": "linear", "factor": factor}),
        "yarn" => {
            // llama.cpp multiplies its own factor by what YaRN's paper gives.
            let given = number("attn_factor")?.filter(|f| *f != 1.0);
            let paper = factor.filter(|f| *f > 1.0).map_or(1.0, |f| 0.1 * f.ln() + 1.0);
            json!({
                "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original,
                "attention_factor": given.map(|f| f * paper),
                "beta_fast": number("yarn_beta_fast")?, "beta_slow": number("yarn_beta_slow")?,
            })
        }
        // Refused by name when the architecture reads it, or read if it knows it.
        other => json!({"rope_type": other, "factor": factor, "original_max_position_embeddings": original}),
    })
}

/// Frequencies divided one by one, which is how Llama 3's scaling is stored. Where its formula with the numbers of
/// released models gives these factors, the config says that; otherwise it lists them.
fn factored(model: &Model<'_>, parameters: &mut Value, factors: &[f32], rotated: usize) -> Result<(), CheckpointError> {
    if factors.len() != rotated / 2 || !factors.iter().all(|f| f.is_finite() && *f > 0.0) {
        let (file, tensor) = (model.metadata().file.into(), "rope_freqs.weight".into());
        let why = format!("expected {} positive factors, one a pair of dimensions", rotated / 2);
        return Err(CheckpointError::Entry { file, tensor, why });
    }
    let theta = parameters["rope_theta"].as_f64().unwrap_or(10_000.0);
    let factor = factors.iter().copied().fold(1.0, f32::max);
    let originals = (4..=20).map(|n| 1u32 << n);
    let llama3 = originals.into_iter().find(|original| {
        let close = |(i, f): (usize, &f32)| {
            let wavelength = 2.0 * std::f64::consts::PI * theta.powf(2.0 * i as f64 / rotated as f64);
            let expected = llama3_factor(f64::from(factor), wavelength, f64::from(*original));
            (expected - f64::from(*f)).abs() <= 1e-5 * expected
        };
        factors.iter().enumerate().all(close)
    });
    if factor == 1.0 {
        return Ok(());
    }
    let more = match llama3 {
        Some(original) => json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": LOW, "high_freq_factor": HIGH,
            "original_max_position_embeddings": original,
        }),
        // Factors that do not depend on the length, one table for all lengths, are a longrope with both lists alike.
        None => json!({"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "attention_factor": 1.0}),
    };
    if let (Value::Object(parameters), Value::Object(more)) = (parameters, more) {
        parameters.extend(more);
    }
    Ok(())
}

/// `low_freq_factor` and `high_freq_factor` of every released model.
const LOW: f64 = 1.0;
const HIGH: f64 = 4.0;

/// What Llama 3's scaling divides a frequency by.
fn llama3_factor(factor: f64, wavelength: f64, original: f64) -> f64 {
    if wavelength < original / HIGH {
        1.0
    } else if wavelength > original / LOW {
        factor
    } else {
        let smooth = (original / wavelength - LOW) / (HIGH - LOW);
        1.0 / ((1.0 - smooth) / factor + smooth)
    }
}
