//! A checkpoint on the command line: a path, or an id on the hub that becomes one.

use crate::output::Context;
use crate::output::hub_progress::HubProgress;
use anyhow::{Context as _, bail};
use clap::Args;
use haikuq::checkpoint::{COMPANION_FILES, Checkpoint, CheckpointError, tokenizer_files};
use haikuq_format::manifest::HubSource;
use haikuq_hub::{Companions, HubError, HubId, Settings};
use std::path::{Path, PathBuf};

/// Part of the help of every verb that takes a checkpoint: which ids it takes, and where downloads go.
pub const CHECKPOINT_HELP: &str = "\
A checkpoint is a folder with config.json and safetensors or an ONNX export, a .gguf or .onnx file, or a model on the Hugging \
Face hub: org/name, org/name@revision, org/name:model.gguf, or its address. Downloads go into the cache of Python's huggingface_hub; \
HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT and HF_HUB_OFFLINE count.";

/// Flags of every verb that takes a checkpoint.
#[derive(Args, Debug)]
pub struct HubArgs {
    /// Branch, tag or commit of a model on the hub [default: main]
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// Take a model on the hub from the cache alone
    #[arg(long)]
    offline: bool,
    /// Take the language model of a multimodal model, without what sees and hears
    #[arg(long)]
    pub text_only: bool,
}

/// A checkpoint or package on disk.
#[derive(Debug)]
pub struct Located {
    /// Folder or file.
    pub path: PathBuf,
    /// Where on the hub it comes from, if it does.
    pub hub: Option<HubSource>,
}

impl HubArgs {
    /// As if they were typed.
    pub fn of(revision: Option<String>, text_only: bool) -> Self {
        Self { revision, offline: false, text_only }
    }

    /// Finds what `typed` names: a path that exists, whatever it looks like; else a model on the hub, which is downloaded
    /// unless it is in the cache.
    ///
    /// # Errors
    /// If it is neither, or the model cannot be had.
    pub fn locate(&self, typed: &Path, context: &Context) -> anyhow::Result<Located> {
        if typed.exists() {
            if let Some(revision) = &self.revision {
                bail!("--revision {revision} is for models on the hub, and {} is on disk", typed.display());
            }
            return Ok(Located { path: typed.into(), hub: None });
        }
        let mut settings = Settings::from_env()?;
        settings.offline |= self.offline;
        let text = typed.to_str().unwrap_or_default();
        let id = HubId::parse(text, &settings.hosts());
        let id = id.and_then(|id| self.with_revision(id)).map_err(|error| match (HubId::is_marked(text), error) {
            (false, HubError::Id { why, .. }) => {
                anyhow::anyhow!("{}: not a folder or file, and no id of a model on the hub: {why}", typed.display())
            }
            (_, error) => error.into(),
        })?;
        let progress = HubProgress::new(context, &id.repo);
        let mut companions = Companions::default();
        companions.always.extend(COMPANION_FILES);
        companions.without_tokenizer.extend(tokenizer_files());
        let snapshot = haikuq_hub::fetch(&id, &companions, &settings, &|event| progress.take(event));
        progress.finish();
        let snapshot = snapshot.with_context(|| match HubId::is_marked(text) {
            true => format!("cannot get {text}"),
            false => format!("{text} is not on disk (looked in {}), and as a model on the hub it cannot be had", here()),
        })?;
        Ok(Located { path: snapshot.path, hub: Some(HubSource { repo: snapshot.repo, commit: snapshot.commit }) })
    }

    /// Opens what was located.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`].
    pub fn open(&self, path: &Path) -> Result<Checkpoint, CheckpointError> {
        let checkpoint = Checkpoint::open(path)?;
        Ok(if self.text_only { checkpoint.text_only() } else { checkpoint })
    }

    fn with_revision(&self, id: HubId) -> Result<HubId, HubError> {
        match (&self.revision, &id.revision) {
            (None, _) => Ok(id),
            (Some(flag), Some(named)) if flag != named => {
                Err(HubError::Id { text: id.repo, why: format!("it is asked for at {named} and with --revision {flag}") })
            }
            (Some(flag), _) => HubId { revision: Some(flag.clone()), ..id }.checked(),
        }
    }
}

/// The current folder, for messages.
fn here() -> String {
    std::env::current_dir().map_or_else(|_| ".".into(), |folder| folder.display().to_string())
}
