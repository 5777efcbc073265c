//! Rope variants as tables of inverse frequencies, computed in f32 in the order in which transformers computes them.

use super::ArchitectureError;
use super::config::Config;
use haikuq_format::spec::RopeTable;

const SUPPORTED: &str = "default, linear, llama3";

/// Reads the rope settings of a config in both styles: `rope_parameters` (transformers 5), or `rope_theta` with
/// `rope_scaling` (before it).
pub(super) fn table(config: &Config<'_>, head_dim: usize) -> Result<RopeTable, ArchitectureError> {
    let parameters = match config.table("rope_parameters")? {
        Some(table) => Some(table),
        None => config.table("rope_scaling")?,
    };
    let mut theta = config.number("rope_theta", 10_000.0)?;
    let mut rope_type = "default";
    if let Some(p) = &parameters {
        theta = p.number("rope_theta", theta)?;
        rope_type = p.text("rope_type")?.or(p.text("type")?).unwrap_or("default");
        let partial = p.number("partial_rotary_factor", 1.0)?;
        if partial != 1.0 {
            return Err(p.unsupported("partial_rotary_factor", &partial.to_string(), "1"));
        }
    }
    if theta <= 0.0 {
        return Err(config.unsupported("rope_theta", &theta.to_string(), "positive numbers"));
    }
    let plain = inverse_frequencies(theta, head_dim);
    let inv_freq = match (rope_type, &parameters) {
        ("default", _) => plain,
        ("linear", Some(p)) => {
            let factor = p.required_positive("factor")? as f32;
            plain.iter().map(|f| f / factor).collect()
        }
        ("llama3", Some(p)) => {
            let scaling = Llama3 {
                factor: p.required_positive("factor")?,
                low_freq_factor: p.required_positive("low_freq_factor")?,
                high_freq_factor: p.required_positive("high_freq_factor")?,
                original_context: p.required_positive("original_max_position_embeddings")?,
            };
            plain.iter().map(|&f| scaling.apply(f)).collect()
        }
        (other, p) => return Err(p.as_ref().unwrap_or(config).unsupported("rope_type", other, SUPPORTED)),
    };
    Ok(RopeTable { inv_freq, factor: 1.0 })
}

/// `1 / θ^(2i / d)`. The power is taken in f64 and rounded, which is what a correctly rounded f32 power gives.
fn inverse_frequencies(theta: f64, head_dim: usize) -> Vec<f32> {
    let base = f64::from(theta as f32);
    let power = |i: usize| base.powf(f64::from((2 * i) as f32 / head_dim as f32)) as f32;
    (0..head_dim / 2).map(|i| 1.0 / power(i)).collect()
}

/// Llama 3's scaling: low frequencies are divided by `factor`, high ones kept, those between interpolated.
struct Llama3 {
    factor: f64,
    low_freq_factor: f64,
    high_freq_factor: f64,
    original_context: f64,
}

impl Llama3 {
    fn apply(&self, inv_freq: f32) -> f32 {
        let wavelength = (2.0 * std::f64::consts::PI) as f32 / inv_freq;
        if wavelength < (self.original_context / self.high_freq_factor) as f32 {
            return inv_freq;
        }
        if wavelength > (self.original_context / self.low_freq_factor) as f32 {
            return inv_freq / self.factor as f32;
        }
        let band = (self.high_freq_factor - self.low_freq_factor) as f32;
        let smooth = (self.original_context as f32 / wavelength - self.low_freq_factor as f32) / band;
        (1.0 - smooth) * inv_freq / self.factor as f32 + smooth * inv_freq
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    fn of(config: serde_json::Value) -> Result<RopeTable, ArchitectureError> {
        table(&Config::new(Path::new("config.json"), &config, None), 8)
    }

    #[test]
    fn old_and_new_styles_say_the_same() {
        let old = json!({"rope_theta": 500000.0, "rope_scaling": {"type": "linear", "factor": 4.0}});
        let new = json!({"rope_parameters": {"rope_theta": 500000.0, "rope_type": "linear", "factor": 4.0}});
        assert_eq!(of(old).unwrap(), of(new).unwrap());
    }

    #[test]
    fn llama3_keeps_high_frequencies_and_divides_low_ones() {
        let plain = of(json!({"rope_theta": 500000.0})).unwrap().inv_freq;
        let scaled = of(json!({"rope_parameters": {
            "rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}))
        .unwrap()
        .inv_freq;
        assert_eq!(plain[0], 1.0);
        assert_eq!(scaled[0], plain[0], "a wavelength of 6 positions is under 64 / 4");
        assert_eq!(scaled[3], plain[3] / 8.0, "the slowest rotation is beyond 64 positions");
    }

    #[test]
    fn unknown_types_are_refused_with_what_there_is() {
        let error = of(json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}})).unwrap_err().to_string();
        assert_eq!(error, r#"config.json: rope_scaling.rope_type "yarn" is not supported (supported: default, linear, llama3)"#);
        assert!(
            of(json!({"rope_scaling": {"rope_type": "linear"}})).unwrap_err().to_string().contains("rope_scaling.factor is null")
        );
    }
}
