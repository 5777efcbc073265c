//! [`Recipe`]: which scheme each tensor gets, read from TOML.
//!
//! Either every class of tensors has a scheme:
//!
//! ```toml
//! embedding = "q8/64"     # see `Scheme` for how one is written
//! attention = "q4/32"
//! mlp = "q4/32"
//! head = "q8/64"          # an untied head; a tied one is the embedding
//! calibrate = true        # rounding that a calibration text guides; without it, scales by search alone
//!
//! [[override]]            # the first whose pattern matches decides
//! pattern = '^layers\.0\.'
//! scheme = "q8/32"
//! ```
//!
//! or each tensor gets the one of some schemes with which all together lose least at a size:
//!
//! ```toml
//! target_bits = 4.5       # a weight, over all matrices, with everything that is stored for them
//! schemes = ["q3/32:e4m4 learned", "q4/32:e4m4 learned", "q8/64"]
//! ```
//!
//! Such a recipe is always calibrated. Overrides hold for it too.

use haikuq_format::scheme::{Bits, Codebook, Grouped, Scheme};
use haikuq_format::spec::{PerLayerEmbedding, TensorClass, TensorSpec};
use regex::Regex;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Largest recipe that is read.
const MAX_BYTES: u64 = 1 << 20;

/// Which scheme each tensor gets.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// `q4`, or a file's name without its ending.
    pub name: String,
    /// The whole text, which a package's provenance keeps.
    pub text: String,
    /// How tensors get their schemes.
    pub choice: Choice,
    /// Whether a calibration text guides the rounding.
    pub calibrate: bool,
    overrides: Vec<(Regex, Scheme)>,
}

/// How tensors get their schemes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Choice {
    /// By their class.
    Classes {
        /// Of the embedding, and of a tied head.
        embedding: Scheme,
        /// Of attention's matrices.
        attention: Scheme,
        /// Of the feed-forward network's.
        mlp: Scheme,
        /// Of an untied head.
        head: Scheme,
    },
    /// By what they lose with each of some schemes.
    Target {
        /// Bits a weight over all matrices, at most.
        bits: f64,
        /// What there is to choose from.
        schemes: Vec<Scheme>,
    },
}

/// What can be wrong with a recipe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// Neither a recipe of ours nor a file.
    #[error("there is no recipe {name:?}; recipes are {}, or give the path of a .toml file", Recipe::names().collect::<Vec<_>>().join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The file cannot be read.
    #[error("cannot read recipe {path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Not TOML, or a key that recipes do not have, or one that is missing.
    #[error("recipe {name}: {why}")]
    Text {
        /// The recipe.
        name: String,
        /// Line, key and reason.
        why: String,
    },
    /// A scheme that does not exist or that nothing here can choose codes for.
    #[error("recipe {name}: {key}: {why}")]
    Scheme {
        /// The recipe.
        name: String,
        /// Class, or the override's pattern.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// A pattern that is no regular expression.
    #[error("recipe {name}: override pattern {pattern:?}: {why}")]
    Pattern {
        /// The recipe.
        name: String,
        /// The pattern.
        pattern: String,
        /// Why not.
        why: String,
    },
    /// A pattern that matches nothing, which is most likely a slip.
    #[error(
        "recipe {name}: override pattern {pattern:?} matches no matrix; names are such as layers.0.qkv (see `haikuq inspect`)"
    )]
    NoMatch {
        /// The recipe.
        name: String,
        /// The pattern.
        pattern: String,
    },
}

/// The recipes of `configs/`, the default first.
const BUILT_IN: [(&str, &str); 10] = [
    ("q4", include_str!("../../configs/q4.toml")),
    ("q4-small", include_str!("../../configs/q4-small.toml")),
    ("q3", include_str!("../../configs/q3.toml")),
    ("q3-small", include_str!("../../configs/q3-small.toml")),
    ("q4-fast", include_str!("../../configs/q4-fast.toml")),
    ("q3-fast", include_str!("../../configs/q3-fast.toml")),
    ("q4-uniform", include_str!("../../configs/q4-uniform.toml")),
    ("q8", include_str!("../../configs/q8.toml")),
    ("f16", include_str!("../../configs/f16.toml")),
    ("f32", include_str!("../../configs/f32.toml")),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecipeToml {
    embedding: Option<String>,
    attention: Option<String>,
    mlp: Option<String>,
    head: Option<String>,
    target_bits: Option<f64>,
    schemes: Option<Vec<String>>,
    calibrate: Option<bool>,
    #[serde(default, rename = "override")]
    overrides: Vec<OverrideToml>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OverrideToml {
    pattern: String,
    scheme: String,
}

impl Recipe {
    /// Names of the recipes that come with the tool, the default first.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|r| r.0)
    }

    /// A recipe by its name, or from a `.toml` file.
    ///
    /// # Errors
    /// See [`RecipeError`].
    pub fn load(name_or_path: &str) -> Result<Self, RecipeError> {
        if let Some((name, text)) = BUILT_IN.iter().find(|r| r.0 == name_or_path) {
            return Self::parse(name, text);
        }
        let path = Path::new(name_or_path);
        if path.extension().is_none_or(|e| e != "toml") {
            return Err(RecipeError::Unknown { name: name_or_path.into() });
        }
        let text = haikuq_files::read_text(path, MAX_BYTES).map_err(|source| RecipeError::Io { path: path.into(), source })?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&name, &text)
    }

    /// A recipe from its text.
    ///
    /// # Errors
    /// See [`RecipeError`].
    pub fn parse(name: &str, text: &str) -> Result<Self, RecipeError> {
        let toml: RecipeToml =
            toml::from_str(text).map_err(|e| RecipeError::Text { name: name.into(), why: e.to_string().trim_end().into() })?;
        let scheme = |key: &str, text: &str| -> Result<Scheme, RecipeError> {
            text.parse().map_err(|why| RecipeError::Scheme { name: name.into(), key: key.into(), why })
        };
        let wrong = |why: String| RecipeError::Text { name: name.into(), why };
        let overrides = toml.overrides.iter().map(|o| {
            let regex = Regex::new(&o.pattern).map_err(|e| RecipeError::Pattern {
                name: name.into(),
                pattern: o.pattern.clone(),
                why: e.to_string(),
            })?;
            Ok((regex, scheme(&format!("override {:?}", o.pattern), &o.scheme)?))
        });
        let overrides = overrides.collect::<Result<Vec<_>, RecipeError>>()?;
        let classes = [("embedding", toml.embedding), ("attention", toml.attention), ("mlp", toml.mlp), ("head", toml.head)];
        let (choice, calibrate) = match (toml.target_bits, toml.schemes) {
            (Some(bits), Some(schemes)) => {
                if let Some((class, _)) = classes.iter().find(|c| c.1.is_some()) {
                    return Err(wrong(format!("{class} has no scheme of its own where target_bits is given; use an override")));
                }
                if toml.calibrate == Some(false) {
                    return Err(wrong("target_bits needs calibrate = true: sensitivities are measured on a text".into()));
                }
                check_bits(bits).map_err(wrong)?;
                if schemes.is_empty() {
                    return Err(wrong("schemes: nothing to choose from".into()));
                }
                let schemes = schemes.iter().map(|s| scheme("schemes", s)).collect::<Result<_, _>>()?;
                (Choice::Target { bits, schemes }, true)
            }
            (Some(_), None) => return Err(wrong("target_bits needs schemes, a list to choose from".into())),
            (None, Some(_)) => return Err(wrong("schemes needs target_bits".into())),
            (None, None) => {
                let [embedding, attention, mlp, head] =
                    classes.map(|(class, text)| scheme(class, &text.ok_or_else(|| wrong(format!("missing field `{class}`")))?));
                let choice = Choice::Classes { embedding: embedding?, attention: attention?, mlp: mlp?, head: head? };
                (choice, toml.calibrate.unwrap_or(false))
            }
        };
        let recipe = Self { name: name.into(), text: text.into(), choice, calibrate, overrides };
        recipe.check_learned()?;
        Ok(recipe)
    }

    /// Learned codebooks come from calibrated quantization alone.
    fn check_learned(&self) -> Result<(), RecipeError> {
        let of_choice: Vec<(String, Scheme)> = match &self.choice {
            Choice::Classes { embedding, attention, mlp, head } => {
                [("embedding", embedding), ("attention", attention), ("mlp", mlp), ("head", head)]
                    .map(|(class, scheme)| (class.to_string(), *scheme))
                    .to_vec()
            }
            Choice::Target { schemes, .. } => schemes.iter().map(|s| ("schemes".to_string(), *s)).collect(),
        };
        let of_overrides = self.overrides.iter().map(|(regex, s)| (format!("override {:?}", regex.as_str()), *s));
        for (key, scheme) in of_choice.into_iter().chain(of_overrides) {
            if let Scheme::Grouped(g) = scheme
                && g.codebook == Codebook::Learned
                && !self.calibrate
            {
                let why = "learned codebooks need calibrate = true".into();
                return Err(RecipeError::Scheme { name: self.name.clone(), key, why });
            }
        }
        Ok(())
    }

    /// The same recipe with another target.
    ///
    /// # Errors
    /// If its schemes are fixed, or `bits` is no sensible number.
    pub fn with_target(mut self, target: f64) -> Result<Self, RecipeError> {
        let wrong = |why| RecipeError::Text { name: self.name.clone(), why };
        let Choice::Target { bits, .. } = &mut self.choice else {
            return Err(wrong(
                "has a fixed scheme for each class of tensors, so it cannot be given a target; q4 and q3 can".into(),
            ));
        };
        check_bits(target).map_err(wrong)?;
        *bits = target;
        self.text += &format!("\n# Converted with target_bits = {target}.\n");
        Ok(self)
    }

    /// The scheme of each tensor, in order, where it is decided without looking at weights: by class or an override.
    /// Vectors and routers are f32 whatever the recipe says.
    ///
    /// # Errors
    /// If an override matches no matrix.
    pub fn fixed_schemes(&self, tensors: &[TensorSpec]) -> Result<Vec<Option<Scheme>>, RecipeError> {
        let mut matched = vec![false; self.overrides.len()];
        let schemes = tensors
            .iter()
            .map(|t| {
                let of_class = match (&self.choice, t.class) {
                    (_, TensorClass::Router | TensorClass::Vector) => return Some(Scheme::F32),
                    (choice, _) if t.name == PerLayerEmbedding::TABLE => Some(of_table(choice)),
                    (Choice::Classes { embedding, .. }, TensorClass::Embedding) => Some(*embedding),
                    (Choice::Classes { attention, .. }, TensorClass::Attention) => Some(*attention),
                    (Choice::Classes { mlp, .. }, TensorClass::Mlp) => Some(*mlp),
                    (Choice::Classes { head, .. }, TensorClass::Head) => Some(*head),
                    (Choice::Target { .. }, _) => None,
                };
                let mut chosen = None;
                for ((pattern, scheme), matched) in self.overrides.iter().zip(&mut matched) {
                    if pattern.is_match(&t.name) {
                        *matched = true;
                        chosen = chosen.or(Some(*scheme));
                    }
                }
                chosen.or(of_class)
            })
            .collect();
        match self.overrides.iter().zip(matched).find(|(_, matched)| !matched) {
            Some(((pattern, _), _)) => Err(RecipeError::NoMatch { name: self.name.clone(), pattern: pattern.as_str().into() }),
            None => Ok(schemes),
        }
    }
}

/// The scheme of the table of all layers' numbers, which is larger than all the rest and is not weighed against it: that of
/// feed-forward networks, or the one that comes closest to the target.
fn of_table(choice: &Choice) -> Scheme {
    let grouped = |bits| Scheme::Grouped(Grouped::new(bits, 32));
    match choice {
        Choice::Classes { mlp, .. } => *mlp,
        Choice::Target { bits, .. } if *bits < 4.0 => grouped(Bits::B3),
        Choice::Target { bits, .. } if *bits < 6.5 => grouped(Bits::B4),
        Choice::Target { bits, .. } if *bits < 12.0 => grouped(Bits::B8),
        Choice::Target { .. } => Scheme::F16,
    }
}

/// A target that some scheme can meet.
fn check_bits(bits: f64) -> Result<(), String> {
    if (2.0..=32.0).contains(&bits) { Ok(()) } else { Err(format!("a target of {bits} bits a weight (2 to 32 make sense)")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSES: &str = "embedding = 'q8/32'\nattention = 'q4/32'\nmlp = 'q3/64+u4'\nhead = 'f16'\n";

    fn matrix(name: &str, class: TensorClass) -> TensorSpec {
        TensorSpec::new(name, class, vec![8, 32])
    }

    #[test]
    fn the_recipes_of_the_tool_are_valid() {
        for name in Recipe::names() {
            assert_eq!(Recipe::load(name).unwrap().name, name);
        }
    }

    #[test]
    fn classes_decide_and_the_first_matching_override_wins() {
        let text = format!(
            "{CLASSES}[[override]]\npattern = '^layers\\.0\\.'\nscheme = 'q8/128'\n[[override]]\npattern = 'qkv'\nscheme = 'f16'\n"
        );
        let tensors = [
            matrix("layers.0.qkv", TensorClass::Attention),
            matrix("layers.1.qkv", TensorClass::Attention),
            matrix("layers.1.down", TensorClass::Mlp),
            TensorSpec::new("layers.0.mlp_norm.gain", TensorClass::Vector, vec![32]),
        ];
        let schemes = Recipe::parse("mine", &text).unwrap().fixed_schemes(&tensors).unwrap();
        assert_eq!(schemes.iter().map(|s| s.unwrap().to_string()).collect::<Vec<_>>(), ["q8/128", "f16", "q3/64+u4", "f32"]);
    }

    #[test]
    fn slips_are_named() {
        let error = |text: String| Recipe::parse("mine", &text).unwrap_err().to_string();
        assert!(error(format!("{CLASSES}emb = 'q4/32'\n")).contains("unknown field `emb`"));
        assert!(error(CLASSES.replace("mlp", "#")).contains("missing field `mlp`"));
        assert!(error(CLASSES.replace("q4/32", "q6/32")).contains("attention: no scheme has 6 bits"));
        assert!(error(CLASSES.replace("q4/32", "q4/32 learned")).contains("learned codebooks need calibrate"));
        assert!(error(format!("{CLASSES}[[override]]\npattern = '('\nscheme = 'f16'\n")).contains("unclosed group"));
        let recipe = Recipe::parse("mine", &format!("{CLASSES}[[override]]\npattern = 'qvk'\nscheme = 'f16'\n")).unwrap();
        let error = recipe.fixed_schemes(&[matrix("layers.0.qkv", TensorClass::Attention)]).unwrap_err();
        assert!(error.to_string().contains(r#""qvk" matches no matrix"#));
        assert!(
            Recipe::load("q5")
                .unwrap_err()
                .to_string()
                .contains("recipes are q4, q4-small, q3, q3-small, q4-fast, q3-fast, q4-uniform, q8, f16, f32")
        );
    }
}
