//! Rope variants as tables of inverse frequencies, computed in f32 in the order in which transformers computes them
//! (`modeling_rope_utils.py`).

use super::ArchitectureError;
use super::config::Config;
use haikuq_format::spec::{LongRope, RopeTable};

const SUPPORTED: &str = "default, linear, dynamic, llama3, yarn, longrope, proportional";

/// What a config without the keys means.
#[derive(Clone, Copy)]
pub(super) struct RopeDefaults {
    pub(super) theta: f64,
    /// Whether θ is that one even if the config has another.
    pub(super) fixed_theta: bool,
    /// Share of a head's dimensions that rotate.
    pub(super) partial: f64,
    /// For a class that scales by longrope alone, also under its former names `su` and `yarn`: the original context where a
    /// config does not say it.
    pub(super) long_only: Option<f64>,
    /// Whether `dynamic` scaling with an `alpha` stretches θ by it, whatever the length.
    pub(super) ntk_alpha: bool,
}

impl RopeDefaults {
    /// θ = 10,000, all dimensions: what most families have.
    pub(super) const USUAL: Self = Self { theta: 10_000.0, fixed_theta: false, partial: 1.0, long_only: None, ntk_alpha: false };
}

/// Reads the rope settings of a config in both styles: `rope_parameters` (transformers 5), or `rope_theta` with
/// `rope_scaling` (before it), which wins where a config has both.
pub(super) fn table(config: &Config<'_>, head_dim: usize, defaults: RopeDefaults) -> Result<RopeTable, ArchitectureError> {
    let parameters = parameters(config)?;
    let theta = config.number("rope_theta", defaults.theta)?;
    let partial = config.number("partial_rotary_factor", defaults.partial)?;
    table_of(config, parameters.as_ref(), head_dim, RopeDefaults { theta, partial, ..defaults })
}

/// As [`table`], with this θ whatever the config says.
pub(super) fn table_with_theta(config: &Config<'_>, head_dim: usize, theta: f64) -> Result<RopeTable, ArchitectureError> {
    let partial = config.number("partial_rotary_factor", 1.0)?;
    let defaults = RopeDefaults { theta, partial, fixed_theta: true, ..RopeDefaults::USUAL };
    table_of(config, parameters(config)?.as_ref(), head_dim, defaults)
}

/// The table that settings in the new style describe, if they do.
pub(super) fn of_settings(settings: &serde_json::Value, head_dim: usize) -> Option<RopeTable> {
    let config = Config::new(std::path::Path::new("config.json"), settings, None);
    table_of(&config, Some(&config), head_dim, RopeDefaults::USUAL).ok()
}

/// The config's table of settings, in either style; the older one wins, if it has entries.
pub(super) fn parameters<'a>(config: &Config<'a>) -> Result<Option<Config<'a>>, ArchitectureError> {
    match config.table("rope_scaling")? {
        Some(table) => Ok(Some(table)),
        None => config.table("rope_parameters"),
    }
}

/// The table that `parameters` (of the whole `config`, which knows the context) describe.
pub(super) fn table_of(
    config: &Config<'_>,
    parameters: Option<&Config<'_>>,
    head_dim: usize,
    defaults: RopeDefaults,
) -> Result<RopeTable, ArchitectureError> {
    let RopeDefaults { mut theta, fixed_theta, mut partial, long_only, ntk_alpha } = defaults;
    let mut rope_type = "default";
    if let Some(p) = parameters {
        p.refuse_nested()?;
        theta = if fixed_theta { theta } else { p.number("rope_theta", theta)? };
        partial = p.number("partial_rotary_factor", partial)?;
        rope_type = p.text("rope_type")?.or(p.text("type")?).unwrap_or("default");
    }
    if theta <= 0.0 {
        return Err(config.unsupported("rope_theta", &theta.to_string(), "positive numbers"));
    }
    let rotated = (head_dim as f64 * partial) as usize;
    if !(0.0..=1.0).contains(&partial) || rotated == 0 {
        return Err(config.unsupported("partial_rotary_factor", &partial.to_string(), "shares of a head up to 1"));
    }
    if rope_type == "proportional" {
        let factor = parameters.map_or(Ok(1.0), |p| p.number("factor", 1.0))?;
        return Ok(proportional(theta, partial, head_dim, factor));
    }
    let plain = inverse_frequencies(theta, rotated);
    let Some(p) = parameters else { return Ok(RopeTable::new(plain)) };
    let scaled = |inv_freq: Vec<f32>| Ok(RopeTable::new(inv_freq));
    if long_only.is_some() && !["default", "su", "yarn", "longrope"].contains(&rope_type) {
        return Err(p.unsupported("rope_type", rope_type, "default, longrope"));
    }
    match rope_type {
        "dynamic" if ntk_alpha && p.number("alpha", 0.0)? != 0.0 => {
            let d = head_dim as f64;
            scaled(inverse_frequencies(theta * p.required_positive("alpha")?.powf(d / (d - 2.0)), rotated))
        }
        // A dynamic table changes only beyond the context that the model was made for.
        "default" | "dynamic" => scaled(plain),
        "linear" => {
            let factor = p.required_positive("factor")? as f32;
            scaled(plain.iter().map(|f| f / factor).collect())
        }
        "llama3" => {
            let scaling = Llama3 {
                factor: p.required_positive("factor")?,
                low_freq_factor: p.required_positive("low_freq_factor")?,
                high_freq_factor: p.required_positive("high_freq_factor")?,
                original_context: original_context(config, p)?,
            };
            scaled(plain.iter().map(|&f| scaling.apply(f)).collect())
        }
        "su" | "yarn" | "longrope" if long_only.is_some() => longrope(config, p, &plain, long_only),
        "yarn" => yarn(config, p, theta, rotated),
        "longrope" | "su" => longrope(config, p, &plain, None),
        other => Err(p.unsupported("rope_type", other, SUPPORTED)),
    }
}

/// Positions that the model was trained on before its context was stretched.
pub(super) fn original_context(config: &Config<'_>, parameters: &Config<'_>) -> Result<f64, ArchitectureError> {
    const KEY: &str = "original_max_position_embeddings";
    match (config.optional_positive(KEY)?, parameters.optional_positive(KEY)?) {
        (Some(n), _) | (None, Some(n)) => Ok(n),
        (None, None) => config.required_positive("max_position_embeddings"),
    }
}

/// `1 / θ^(2i / d)` for the pairs of `d` dimensions. The power is taken in f64 and rounded, which is what a correctly
/// rounded f32 power gives. An odd `d` is rounded up to pairs.
pub(super) fn inverse_frequencies(theta: f64, dimensions: usize) -> Vec<f32> {
    powers(theta, dimensions).iter().map(|p| 1.0 / p).collect()
}

fn powers(theta: f64, dimensions: usize) -> Vec<f32> {
    let base = f64::from(theta as f32);
    let power = |i: usize| base.powf(f64::from((2 * i) as f32 / dimensions as f32)) as f32;
    (0..dimensions.div_ceil(2)).map(power).collect()
}

/// Frequencies of all of a head's pairs, of which those beyond a `partial` share stand still.
pub(super) fn proportional(theta: f64, partial: f64, head_dim: usize, factor: f64) -> RopeTable {
    let turning = (partial * head_dim as f64) as usize / 2;
    let mut inv_freq = inverse_frequencies(theta, head_dim);
    inv_freq.iter_mut().for_each(|f| *f /= factor as f32);
    inv_freq[turning..].fill(0.0);
    RopeTable::new(inv_freq)
}

/// YaRN (Peng et al. 2023): high frequencies stay, low ones are interpolated, with a ramp between.
fn yarn(config: &Config<'_>, p: &Config<'_>, theta: f64, dimensions: usize) -> Result<RopeTable, ArchitectureError> {
    let original = original_context(config, p)?;
    let factor = match p.optional_positive("factor")? {
        Some(factor) => factor,
        None => config.required_positive("max_position_embeddings")? / original,
    };
    let magnitude = |scale: f64, m: f64| if scale <= 1.0 { 1.0 } else { 0.1 * m * scale.ln() + 1.0 };
    let mscale = (p.number("mscale", 0.0)?, p.number("mscale_all_dim", 0.0)?);
    let attention = match (p.optional_number("attention_factor")?, mscale) {
        (Some(factor), _) => factor,
        (None, (m, all)) if m != 0.0 && all != 0.0 => magnitude(factor, m) / magnitude(factor, all),
        (None, _) => magnitude(factor, 1.0),
    };
    let beta = |key, default| p.optional_number(key).map(|b| b.filter(|b| *b != 0.0).unwrap_or(default));
    let (fast, slow) = (beta("beta_fast", 32.0)?, beta("beta_slow", 1.0)?);
    let d = dimensions as f64;
    let dimension = |rotations: f64| d * (original / (rotations * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln());
    let (mut low, mut high) = (dimension(fast), dimension(slow));
    if p.flag("truncate", true)? {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(d - 1.0));
    if low == high {
        high += 0.001;
    }
    let (low, span) = (low as f32, (high - low) as f32);
    let frequency = |(i, power): (usize, &f32)| {
        let kept = 1.0 - ((i as f32 - low) / span).clamp(0.0, 1.0);
        1.0 / (factor as f32 * power) * (1.0 - kept) + 1.0 / power * kept
    };
    let mut table = RopeTable::new(powers(theta, dimensions).iter().enumerate().map(frequency).collect());
    table.factor = attention as f32;
    Ok(table)
}

/// LongRoPE (Ding et al. 2024): factors of their own for each frequency, others for long sequences.
fn longrope(
    config: &Config<'_>,
    p: &Config<'_>,
    plain: &[f32],
    default_original: Option<f64>,
) -> Result<RopeTable, ArchitectureError> {
    let original = match default_original {
        // Its class looks at the top of the config alone, and has a default there.
        Some(default) => config.optional_positive("original_max_position_embeddings")?.unwrap_or(default),
        None => original_context(config, p)?,
    };
    let factor = match p.optional_positive("factor")? {
        Some(factor) => factor,
        None => config.required_positive("max_position_embeddings")? / original,
    };
    let attention = match p.optional_number("attention_factor")? {
        Some(factor) => factor,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + factor.ln() / original.ln()).sqrt(),
    };
    let divided = |key: &str| {
        let factors = p.numbers(key)?.unwrap_or_default();
        if factors.len() != plain.len() {
            return Err(p.unsupported(key, &format!("{} numbers", factors.len()), &format!("{}, one a pair", plain.len())));
        }
        Ok(plain.iter().zip(factors).map(|(f, by)| 1.0 / (by as f32 * (1.0 / f))).collect::<Vec<f32>>())
    };
    let (inv_freq, long) = (divided("short_factor")?, divided("long_factor")?);
    let mut table = RopeTable::new(inv_freq);
    table.factor = attention as f32;
    table.long = (long != table.inv_freq).then(|| LongRope::new(original as usize, long));
    Ok(table)
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
        table(&Config::new(Path::new("config.json"), &config, None), 8, RopeDefaults::USUAL)
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
    fn a_share_of_the_dimensions_rotates_and_an_odd_share_is_rounded_up_to_pairs() {
        let half = of(json!({"partial_rotary_factor": 0.5})).unwrap().inv_freq;
        assert_eq!(half, [1.0, 0.01]);
        let odd = of(json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.4}})).unwrap().inv_freq;
        assert_eq!(odd.len(), 2, "3 dimensions of 8");
    }

    #[test]
    fn longrope_keeps_both_tables_and_says_where_the_long_one_begins() {
        let scaling = json!({"type": "su", "short_factor": [1.0, 1.0, 2.0, 2.0], "long_factor": [1.0, 4.0, 4.0, 4.0]});
        let config = json!({"max_position_embeddings": 4096, "original_max_position_embeddings": 64, "rope_scaling": scaling});
        let table = of(config).unwrap();
        let long = table.long.unwrap();
        assert_eq!((long.beyond, table.inv_freq[0], long.inv_freq[0]), (64, 1.0, 1.0));
        assert!((table.inv_freq[3] / long.inv_freq[3] - 2.0).abs() < 1e-6);
        assert_eq!(table.factor, 2f32.sqrt(), "the context grew by 64, whose logarithm is that of 64");
    }

    #[test]
    fn unknown_types_are_refused_with_what_there_is() {
        let error = of(json!({"rope_scaling": {"rope_type": "mrope", "factor": 4.0}})).unwrap_err().to_string();
        assert_eq!(error, format!(r#"config.json: rope_scaling.rope_type "mrope" is not supported (supported: {SUPPORTED})"#));
        assert!(
            of(json!({"rope_scaling": {"rope_type": "linear"}})).unwrap_err().to_string().contains("rope_scaling.factor is null")
        );
    }
}
