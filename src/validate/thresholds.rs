//! What a package must reach, and whether it does.

use super::metrics::Summary;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Largest file of thresholds that is read.
const MAX_BYTES: u64 = 1 << 20;

/// Limits; those that are absent are not checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Thresholds {
    /// Largest mean KL divergence, in nats.
    pub max_kl: Option<f64>,
    /// Largest increase of perplexity, in percent.
    pub max_perplexity_increase: Option<f64>,
    /// Smallest top-1 agreement, in percent.
    pub min_top1: Option<f64>,
}

/// One limit and what was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// `max_kl`, `max_perplexity_increase` or `min_top1`.
    pub name: String,
    /// The limit.
    pub limit: f64,
    /// What was measured, in the limit's unit.
    pub measured: f64,
    /// Whether the limit is kept; a measurement equal to it is.
    pub passed: bool,
}

/// What can be wrong with a file of thresholds.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ThresholdError {
    /// Reading failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not TOML, an unknown limit, or a limit that is no number.
    #[error("{}: {source}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        source: Box<toml::de::Error>,
    },
    /// No section for the package's recipe.
    #[error("{}: no section for recipe {recipe:?} (there are: {sections}); add one, or give limits on the command line", path.display())]
    Recipe {
        /// The file.
        path: PathBuf,
        /// The recipe that the package was made with.
        recipe: String,
        /// Sections of the file.
        sections: String,
    },
}

impl Thresholds {
    /// Reads the section named after `recipe` from a TOML file of one section a recipe.
    ///
    /// # Errors
    /// If the file cannot be read or understood, or has no such section.
    pub fn read(path: &Path, recipe: &str) -> Result<Self, ThresholdError> {
        let text = haikuq_files::read_text(path, MAX_BYTES).map_err(|source| ThresholdError::Io { path: path.into(), source })?;
        let mut sections: BTreeMap<String, Self> =
            toml::from_str(&text).map_err(|source| ThresholdError::Toml { path: path.into(), source: source.into() })?;
        sections.remove(recipe).ok_or_else(|| ThresholdError::Recipe {
            path: path.into(),
            recipe: recipe.into(),
            sections: sections.into_keys().collect::<Vec<_>>().join(", "),
        })
    }

    /// These limits, and `other`'s where they are absent.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            max_kl: self.max_kl.or(other.max_kl),
            max_perplexity_increase: self.max_perplexity_increase.or(other.max_perplexity_increase),
            min_top1: self.min_top1.or(other.min_top1),
        }
    }

    /// Holds `summary` against every limit that there is. A measurement that is no number keeps none.
    pub fn check(&self, summary: &Summary) -> Vec<Check> {
        let at_most = |name: &str, limit: Option<f64>, measured: f64| {
            limit.map(|limit| Check { name: name.into(), limit, measured, passed: measured <= limit })
        };
        let top1 = |limit| {
            let measured = summary.top1_percent;
            Check { name: "min_top1".into(), limit, measured, passed: measured >= limit }
        };
        [
            at_most("max_kl", self.max_kl, summary.mean_kl),
            at_most("max_perplexity_increase", self.max_perplexity_increase, summary.perplexity_increase_percent),
            self.min_top1.map(top1),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl Check {
    /// The limit in words, such as `mean KL at most 0.075`.
    pub fn demand(&self) -> String {
        match self.name.as_str() {
            "max_kl" => format!("mean KL at most {}", self.limit),
            "max_perplexity_increase" => format!("perplexity increase at most {} %", self.limit),
            _ => format!("top-1 agreement at least {} %", self.limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(mean_kl: f64, top1_percent: f64) -> Summary {
        Summary {
            positions: 10,
            first_position: 0,
            golden_perplexity: 9.0,
            perplexity: 9.1,
            perplexity_increase_percent: 1.1,
            perplexity_increase_standard_error: None,
            mean_kl,
            mean_kl_standard_error: None,
            median_kl: 0.0,
            p99_kl: 0.0,
            max_kl: 0.0,
            top1_percent,
            top1_standard_error: 0.0,
        }
    }

    #[test]
    fn each_limit_is_checked_by_itself_and_absent_ones_are_not() {
        let limits = Thresholds { max_kl: Some(0.01), max_perplexity_increase: None, min_top1: Some(95.0) };
        let passed = |s: &Summary| limits.check(s).iter().map(|c| (c.name.clone(), c.passed)).collect::<Vec<_>>();
        let named = |a, b| vec![("max_kl".to_owned(), a), ("min_top1".to_owned(), b)];
        assert_eq!(passed(&summary(0.01, 95.0)), named(true, true));
        assert_eq!(passed(&summary(0.02, 96.0)), named(false, true));
        assert_eq!(passed(&summary(0.001, 94.9)), named(true, false));
        assert_eq!(passed(&summary(f64::NAN, f64::NAN)), named(false, false));
    }

    #[test]
    fn the_section_of_the_recipe_counts_and_the_command_line_wins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.toml");
        std::fs::write(&path, "[q4]\nmax_kl = 0.075\nmin_top1 = 90\n[q8]\nmax_kl = 0.001\n").unwrap();
        let q4 = Thresholds::read(&path, "q4").unwrap();
        assert_eq!(q4, Thresholds { max_kl: Some(0.075), max_perplexity_increase: None, min_top1: Some(90.0) });
        let typed = Thresholds { max_kl: Some(0.5), ..Thresholds::default() };
        assert_eq!(typed.or(q4).max_kl, Some(0.5));
        assert_eq!(typed.or(q4).min_top1, Some(90.0));
        let error = Thresholds::read(&path, "q2").unwrap_err().to_string();
        assert!(error.contains("\"q2\"") && error.contains("q4, q8"), "{error}");
        std::fs::write(&path, "[q4]\nmax_lk = 1\n").unwrap();
        assert!(matches!(Thresholds::read(&path, "q4"), Err(ThresholdError::Toml { .. })));
    }
}
