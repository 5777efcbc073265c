//! [`Recipe`]: which scheme each tensor gets, read from TOML.
//!
//! ```toml
//! embedding = "q8/64"     # every class has a scheme; see `Scheme` for how one is written
//! attention = "q4/32"
//! mlp = "q4/32"
//! head = "q8/64"          # an untied head; a tied one is the embedding
//!
//! [[override]]            # the first whose pattern matches decides
//! pattern = '^layers\.0\.'
//! scheme = "q8/32"
//! ```

use haikuq_format::scheme::{Codebook, Scheme};
use haikuq_format::spec::{TensorClass, TensorSpec};
use regex::Regex;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Which scheme each tensor gets.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// `q4`, or a file's name without its ending.
    pub name: String,
    /// The whole text, which a package's provenance keeps.
    pub text: String,
    embedding: Scheme,
    attention: Scheme,
    mlp: Scheme,
    head: Scheme,
    overrides: Vec<(Regex, Scheme)>,
}

/// What can be wrong with a recipe.
#[derive(Debug, thiserror::Error)]
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
const BUILT_IN: [(&str, &str); 5] = [
    ("q4", include_str!("../../configs/q4.toml")),
    ("q3", include_str!("../../configs/q3.toml")),
    ("q8", include_str!("../../configs/q8.toml")),
    ("f16", include_str!("../../configs/f16.toml")),
    ("f32", include_str!("../../configs/f32.toml")),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecipeToml {
    embedding: String,
    attention: String,
    mlp: String,
    head: String,
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
        let text = std::fs::read_to_string(path).map_err(|source| RecipeError::Io { path: path.into(), source })?;
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
        let scheme = |key: &str, text: &str| {
            let bad = |why| RecipeError::Scheme { name: name.into(), key: key.into(), why };
            match text.parse().map_err(bad)? {
                Scheme::Grouped(g) if g.codebook == Codebook::Learned => {
                    Err(bad("no algorithm here makes learned codebooks yet; leave out \"learned\"".into()))
                }
                scheme => Ok(scheme),
            }
        };
        let overrides = toml.overrides.iter().map(|o| {
            let regex = Regex::new(&o.pattern).map_err(|e| RecipeError::Pattern {
                name: name.into(),
                pattern: o.pattern.clone(),
                why: e.to_string(),
            })?;
            Ok((regex, scheme(&format!("override {:?}", o.pattern), &o.scheme)?))
        });
        Ok(Self {
            name: name.into(),
            text: text.into(),
            embedding: scheme("embedding", &toml.embedding)?,
            attention: scheme("attention", &toml.attention)?,
            mlp: scheme("mlp", &toml.mlp)?,
            head: scheme("head", &toml.head)?,
            overrides: overrides.collect::<Result<_, _>>()?,
        })
    }

    /// The scheme of each tensor, in order. Vectors are f32 whatever the recipe says.
    ///
    /// # Errors
    /// If an override matches no matrix.
    pub fn schemes(&self, tensors: &[TensorSpec]) -> Result<Vec<Scheme>, RecipeError> {
        let mut matched = vec![false; self.overrides.len()];
        let schemes = tensors
            .iter()
            .map(|t| {
                let of_class = match t.class {
                    TensorClass::Vector => return Scheme::F32,
                    TensorClass::Embedding => self.embedding,
                    TensorClass::Attention => self.attention,
                    TensorClass::Mlp => self.mlp,
                    TensorClass::Head => self.head,
                };
                let mut chosen = None;
                for ((pattern, scheme), matched) in self.overrides.iter().zip(&mut matched) {
                    if pattern.is_match(&t.name) {
                        *matched = true;
                        chosen = chosen.or(Some(*scheme));
                    }
                }
                chosen.unwrap_or(of_class)
            })
            .collect();
        match self.overrides.iter().zip(matched).find(|(_, matched)| !matched) {
            Some(((pattern, _), _)) => Err(RecipeError::NoMatch { name: self.name.clone(), pattern: pattern.as_str().into() }),
            None => Ok(schemes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSES: &str = "embedding = 'q8/32'\nattention = 'q4/32'\nmlp = 'q3/64+u4'\nhead = 'f16'\n";

    fn matrix(name: &str, class: TensorClass) -> TensorSpec {
        TensorSpec { name: name.into(), class, shape: vec![8, 32] }
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
            TensorSpec { name: "layers.0.mlp_norm.gain".into(), class: TensorClass::Vector, shape: vec![32] },
        ];
        let schemes = Recipe::parse("mine", &text).unwrap().schemes(&tensors).unwrap();
        assert_eq!(schemes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["q8/128", "f16", "q3/64+u4", "f32"]);
    }

    #[test]
    fn slips_are_named() {
        let error = |text: String| Recipe::parse("mine", &text).unwrap_err().to_string();
        assert!(error(format!("{CLASSES}emb = 'q4/32'\n")).contains("unknown field `emb`"));
        assert!(error(CLASSES.replace("mlp", "#")).contains("missing field `mlp`"));
        assert!(error(CLASSES.replace("q4/32", "q5/32")).contains("attention: no scheme has 5 bits"));
        assert!(error(CLASSES.replace("q4/32", "q4/32 learned")).contains("learned codebooks"));
        assert!(error(format!("{CLASSES}[[override]]\npattern = '('\nscheme = 'f16'\n")).contains("unclosed group"));
        let recipe = Recipe::parse("mine", &format!("{CLASSES}[[override]]\npattern = 'qvk'\nscheme = 'f16'\n")).unwrap();
        let error = recipe.schemes(&[matrix("layers.0.qkv", TensorClass::Attention)]).unwrap_err();
        assert!(error.to_string().contains(r#""qvk" matches no matrix"#));
        assert!(Recipe::load("q5").unwrap_err().to_string().contains("recipes are q4, q3, q8, f16, f32"));
    }
}
