//! `models.toml`: which models become packages by which recipes.

use crate::output::units::parse_bytes;
use anyhow::{Context as _, bail};
use haikuq::quantize::Recipe;
use haikuq_format::manifest::is_plain_name;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Largest list that is read.
const MAX_BYTES: u64 = 16 << 20;

/// A list as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListToml {
    out: PathBuf,
    #[serde(default)]
    defaults: Defaults,
    models: Vec<ModelToml>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelToml {
    checkpoint: String,
    name: Option<String>,
    revision: Option<String>,
    weights: Option<String>,
    // serde cannot flatten a table and refuse unknown members.
    recipes: Option<Vec<String>>,
    golden: Option<PathBuf>,
    evaluation: Option<PathBuf>,
    calibration: Option<PathBuf>,
    thresholds: Option<PathBuf>,
    windows: Option<usize>,
    text_only: Option<bool>,
}

/// Members that `[defaults]` says for all models.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Defaults {
    recipes: Option<Vec<String>>,
    golden: Option<PathBuf>,
    evaluation: Option<PathBuf>,
    calibration: Option<PathBuf>,
    thresholds: Option<PathBuf>,
    windows: Option<usize>,
    text_only: Option<bool>,
}

/// Where a checkpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointAt {
    /// On disk.
    Path(PathBuf),
    /// On the hub: an id as `haikuq convert` takes it, and a revision that is not part of it.
    Hub {
        /// The id.
        id: String,
        /// Branch, tag or commit.
        revision: Option<String>,
    },
}

/// What a package is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Recorded outputs.
    Golden(PathBuf),
    /// A text, on which the checkpoint's outputs are recorded first.
    Evaluation(PathBuf),
}

/// A model by a recipe.
#[derive(Clone, Debug)]
pub struct Job {
    /// `MODEL.RECIPE`, the name of its folder.
    pub name: String,
    /// The model's name.
    pub model: String,
    /// The checkpoint.
    pub checkpoint: CheckpointAt,
    /// The recipe, and how `haikuq convert` finds it.
    pub recipe: Recipe,
    /// The same as an argument.
    pub recipe_argument: String,
    /// Without it, hashes alone are checked.
    pub proof: Option<Proof>,
    /// Text or calibration.
    pub calibration: Option<PathBuf>,
    /// Thresholds by recipe.
    pub thresholds: Option<PathBuf>,
    /// Windows of text to record and compare at most.
    pub windows: Option<usize>,
    /// Take the language model of a multimodal one.
    pub text_only: bool,
    /// Bytes of the checkpoint's weights; none where the list does not tell and they are not on disk.
    pub bytes: Option<u64>,
}

/// A list of jobs.
#[derive(Debug)]
pub struct List {
    /// Folder of the results.
    pub out: PathBuf,
    /// All jobs, in the list's order.
    pub jobs: Vec<Job>,
}

impl List {
    /// Reads a list. Its paths are relative to its folder.
    ///
    /// # Errors
    /// What is wrong, with the model's name.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = haikuq_files::read_text(path, MAX_BYTES).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text, path.parent().unwrap_or(Path::new(""))).with_context(|| path.display().to_string())
    }

    fn parse(text: &str, folder: &Path) -> anyhow::Result<Self> {
        let list: ListToml = toml::from_str(text).map_err(|e| anyhow::anyhow!("{}", e.to_string().trim_end()))?;
        if list.models.is_empty() {
            bail!("it names no models: each is a table [[models]] with a checkpoint");
        }
        let mut jobs: Vec<Job> = Vec::new();
        for model in list.models {
            let checkpoint = model.checkpoint.clone();
            jobs.extend(model.jobs(&list.defaults, folder).with_context(|| format!("model {checkpoint:?}"))?);
        }
        let mut names = BTreeSet::new();
        // Some file systems do not tell letters from capitals.
        if let Some(twice) = jobs.iter().find(|job| !names.insert(job.name.to_lowercase())) {
            bail!("two jobs are called {}: give one of the models another name", twice.name);
        }
        Ok(Self { out: folder.join(list.out), jobs })
    }
}

impl ModelToml {
    fn jobs(self, defaults: &Defaults, folder: &Path) -> anyhow::Result<Vec<Job>> {
        let here = folder.join(&self.checkpoint);
        let on_disk = here.exists();
        if on_disk && self.revision.is_some() {
            bail!("revision is for models on the hub, and {} is on disk", here.display());
        }
        let model = self.name.unwrap_or_else(|| name_of(&self.checkpoint));
        if !is_plain_name(&model) {
            bail!("{model:?} is no name for a folder: give the model another by name = \"…\"");
        }
        let told = self.weights.as_deref().map(parse_bytes).transpose().map_err(|why| anyhow::anyhow!("weights: {why}"))?;
        let bytes = told.or_else(|| on_disk.then(|| weight_bytes(&here)));
        let checkpoint = match on_disk {
            true => CheckpointAt::Path(here),
            false => CheckpointAt::Hub { id: self.checkpoint, revision: self.revision },
        };
        let file = |own: Option<PathBuf>, default: &Option<PathBuf>| -> anyhow::Result<Option<PathBuf>> {
            let Some(path) = own.or_else(|| default.clone()).map(|path| folder.join(path)) else { return Ok(None) };
            if !path.is_file() {
                bail!("{} is not there", path.display());
            }
            Ok(Some(path))
        };
        // A model's own word goes before the default of the other kind.
        let own = self.golden.is_some() || self.evaluation.is_some();
        let default = if own { &Defaults::default() } else { defaults };
        let proof = match (file(self.golden, &default.golden)?, file(self.evaluation, &default.evaluation)?) {
            (Some(_), Some(_)) => bail!("it has golden outputs and a text for evaluation: one of them is enough"),
            (Some(golden), None) => Some(Proof::Golden(golden)),
            (None, text) => text.map(Proof::Evaluation),
        };
        let calibration = file(self.calibration, &defaults.calibration)?;
        let thresholds = file(self.thresholds, &defaults.thresholds)?;
        let windows = self.windows.or(defaults.windows);
        if windows == Some(0) {
            bail!("windows = 0 compares nothing: leave it out, or name a number from 1 on");
        }
        let text_only = self.text_only.or(defaults.text_only).unwrap_or(false);
        let recipes = self.recipes.or_else(|| defaults.recipes.clone()).unwrap_or_else(|| vec!["q4".into()]);
        if recipes.is_empty() {
            bail!("it has no recipes");
        }
        let job = |recipe: String| {
            let argument = match recipe.ends_with(".toml") {
                true => folder.join(&recipe).display().to_string(),
                false => recipe,
            };
            let recipe = Recipe::load(&argument)?;
            if calibration.is_some() && !recipe.calibrate {
                bail!("recipe {} rounds without calibration, so that calibration has no use", recipe.name);
            }
            Ok(Job {
                name: format!("{model}.{}", recipe.name),
                model: model.clone(),
                checkpoint: checkpoint.clone(),
                recipe,
                recipe_argument: argument,
                proof: proof.clone(),
                calibration: calibration.clone(),
                thresholds: thresholds.clone(),
                windows,
                text_only,
                bytes,
            })
        };
        recipes.into_iter().map(job).collect()
    }
}

/// The last part of a path or id, without revision, file's ending and capitals.
fn name_of(checkpoint: &str) -> String {
    let path = checkpoint.trim_end_matches('/');
    let last = path.rsplit('/').next().unwrap_or(path);
    let last = last.split(['@', ':']).next().unwrap_or(last);
    last.strip_suffix(".gguf").or_else(|| last.strip_suffix(".onnx")).unwrap_or(last).to_lowercase()
}

/// Bytes of the weights in a folder or file: they tell which conversions take longest, and need not be exact.
fn weight_bytes(path: &Path) -> u64 {
    let size = |path: &Path| path.metadata().map_or(0, |m| m.len());
    if path.is_file() {
        return size(path);
    }
    let files = std::fs::read_dir(path).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let is_weights = |path: &PathBuf| {
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        ["safetensors", "gguf", "onnx", "onnx_data", "data"].contains(&ending)
    };
    files.filter(is_weights).map(|path| size(&path)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<List, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("local")).unwrap();
        std::fs::write(folder.path().join("local/model.safetensors"), [0; 40]).unwrap();
        std::fs::write(folder.path().join("text.jsonl"), "").unwrap();
        List::parse(text, folder.path()).map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn models_times_recipes_are_jobs() {
        let list = parse(
            r#"
            out = "packages"
            [defaults]
            recipes = ["q4", "q3-fast"]
            evaluation = "text.jsonl"
            [[models]]
            checkpoint = "local"
            [[models]]
            checkpoint = "HuggingFaceTB/SmolLM2-135M@main"
            weights = "270MB"
            recipes = ["q8"]
            [[models]]
            checkpoint = "org/big"
            revision = "abc"
            name = "other"
            recipes = ["q8"]
            "#,
        )
        .unwrap();
        let names: Vec<_> = list.jobs.iter().map(|job| job.name.as_str()).collect();
        assert_eq!(names, ["local.q4", "local.q3-fast", "smollm2-135m.q8", "other.q8"]);
        assert_eq!(list.jobs.iter().map(|job| job.bytes).collect::<Vec<_>>(), [Some(40), Some(40), Some(270_000_000), None]);
        assert!(list.jobs.iter().all(|job| matches!(job.proof, Some(Proof::Evaluation(_)))));
        assert_eq!(list.jobs[3].checkpoint, CheckpointAt::Hub { id: "org/big".into(), revision: Some("abc".into()) });
    }

    #[test]
    fn a_wrong_list_is_refused_in_words() {
        for (text, says) in [
            ("out = 'o'\nmodels = []", "names no models"),
            ("out = 'o'\nmodel = []", "unknown field `model`"),
            ("out = 'o'\n[[models]]\ncheckpoint = 'org/a'\nrecipies = ['q4']", "unknown field `recipies`"),
            ("out = 'o'\n[[models]]\ncheckpoint = 'org/a'\nrecipes = ['q5']", "q5"),
            ("out = 'o'\n[[models]]\ncheckpoint = 'org/a'\nrecipes = []", "no recipes"),
            ("out = 'o'\n[[models]]\ncheckpoint = 'org/a'\nweights = 'much'", "weights: "),
            ("out = 'o'\n[[models]]\ncheckpoint = 'org/a'\nwindows = 0", "compares nothing"),
            ("out = 'o'\n[[models]]\ncheckpoint = 'org/a'\nname = '../a'", "no name for a folder"),
            ("out = 'o'\n[[models]]\ncheckpoint = 'local'\nrevision = 'main'", "is on disk"),
            ("out = 'o'\n[[models]]\ncheckpoint = 'org/a'\ngolden = 'none'", "none is not there"),
            ("out = 'o'\n[[models]]\ncheckpoint = 'org/a'\ngolden = 'text.jsonl'\nevaluation = 'text.jsonl'", "one of them"),
            ("out = 'o'\n[[models]]\ncheckpoint = 'org/a'\nrecipes = ['q8']\ncalibration = 'text.jsonl'", "no use"),
            ("out = 'o'\n[[models]]\ncheckpoint = 'org/a'\n[[models]]\ncheckpoint = 'other/A'", "two jobs are called a.q4"),
        ] {
            let said = parse(text).unwrap_err();
            assert!(said.contains(says), "{says:?} is not in: {said}");
        }
    }
}
