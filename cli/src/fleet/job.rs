//! One job: a model by a recipe, and its record.
//!
//! ```text
//! OUT/NAME.RECIPE/        the package
//! OUT/NAME.RECIPE.fleet/  job.json, log.txt, report/ and, where the list names a text, golden.safetensors
//! ```

use super::list::{CheckpointAt, Job, Proof};
use crate::BELOW_THRESHOLDS;
use crate::arguments::checkpoint::HubArgs;
use crate::model::{read_manifest, read_report};
use crate::output::Context;
use anyhow::Context as _;
use haikuq::checkpoint::Checkpoint;
use haikuq::convert::{partial_folder, tool};
use haikuq_files::{hash_file, hex, read_at_most, write_atomically};
use haikuq_format::manifest::MANIFEST_FILE;
use haikuq_hub::HubId;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The kind and version of a record.
pub const SCHEMA: &str = "haikuq.fleet-job/1";

/// The file of a record.
pub const RECORD_FILE: &str = "job.json";

/// End of the name of a job's folder.
pub const FOLDER_ENDING: &str = ".fleet";

/// Largest record or log that is read.
const MAX_BYTES: u64 = 64 << 20;

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Everything is there and good.
    Done,
    /// The package is there, and below its thresholds.
    BelowThresholds,
    /// It failed; the record says how.
    Failed,
    /// It is under way, or its machine was stopped.
    Begun,
    /// No machine has begun it.
    Missing,
}

/// What is known of a job; `job.json`, documented in docs/schemas/fleet.md.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: String,
    /// `MODEL.RECIPE`.
    pub name: String,
    /// The model.
    pub model: String,
    /// The recipe.
    pub recipe: String,
    /// SHA-256 of all that decides the result.
    pub key: String,
    /// Where it stands.
    pub state: State,
    /// Tool that did it.
    pub tool: String,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What is known of the result.
    #[serde(flatten)]
    pub result: Results,
}

/// What is known of a package.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Results {
    /// Seconds that it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Bytes of its shards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Bits a weight, everything counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits_per_weight: Option<f64>,
    /// SHA-256 of its manifest, and so of all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest_sha256: Option<String>,
    /// Mean KL divergence from the golden outputs, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_kl: Option<f64>,
    /// How much larger its perplexity is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity_increase_percent: Option<f64>,
    /// Share of positions whose likeliest token is the golden one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1_percent: Option<f64>,
    /// What it was validated on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
}

impl Record {
    /// Of a job that nobody has begun.
    pub fn missing(job: &Job) -> Self {
        Self::new(job, String::new(), State::Missing)
    }

    fn new(job: &Job, key: String, state: State) -> Self {
        Self {
            schema: SCHEMA.into(),
            name: job.name.clone(),
            model: job.model.clone(),
            recipe: job.recipe.name.clone(),
            key,
            state,
            tool: tool(),
            error: None,
            result: Results::default(),
        }
    }

    /// Reads the record in a job's folder.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(RECORD_FILE);
        let read = || anyhow::Ok(serde_json::from_slice::<Self>(&read_at_most(&path, MAX_BYTES)?)?);
        let record = read().with_context(|| format!("cannot read {}", path.display()))?;
        anyhow::ensure!(record.schema == SCHEMA, "{} is a {:?}, and not a {SCHEMA:?}", path.display(), record.schema);
        Ok(record)
    }

    fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join(RECORD_FILE);
        let json = serde_json::to_vec_pretty(self)?;
        write_atomically(&path, &json).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// A job at its place.
pub struct Work<'a> {
    job: &'a Job,
    package: PathBuf,
    folder: PathBuf,
    context: &'a Context,
}

impl<'a> Work<'a> {
    /// `job` with its results in the folder `out`.
    pub fn new(job: &'a Job, out: &Path, context: &'a Context) -> Self {
        let folder = out.join(format!("{}{FOLDER_ENDING}", job.name));
        Self { job, package: out.join(&job.name), folder, context }
    }

    /// Does it, unless an earlier run did. A failure is in the record; an error is one of the records' disk.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn run(&self) -> anyhow::Result<Record> {
        fs::create_dir_all(&self.folder).with_context(|| format!("cannot create {}", self.folder.display()))?;
        let before = Record::read(&self.folder).ok();
        let begin = Instant::now();
        let mut record = match self.run_unless_done(before.as_ref()) {
            Ok(Outcome::WasDone(record)) => return Ok(record),
            Ok(Outcome::Ran { key, state, result }) => Record { result, ..Record::new(self.job, key, state) },
            Err(error) => {
                let key = Record::read(&self.folder).map_or(String::new(), |record| record.key);
                Record { error: Some(format!("{error:#}")), ..Record::new(self.job, key, State::Failed) }
            }
        };
        record.result.seconds = Some(begin.elapsed().as_secs_f64());
        record.write(&self.folder)?;
        Ok(record)
    }

    fn run_unless_done(&self, before: Option<&Record>) -> anyhow::Result<Outcome> {
        let done = |key: &str| before.filter(|record| record.key == key && self.is_good(record)).cloned();
        // A commit on the hub needs no look at the hub.
        if let Some(identity) = self.pinned()?
            && let Some(record) = done(&self.key(&identity)?)
        {
            return Ok(Outcome::WasDone(record));
        }
        let (checkpoint, identity) = self.checkpoint()?;
        let key = self.key(&identity)?;
        if let Some(record) = done(&key) {
            return Ok(Outcome::WasDone(record));
        }
        let goes_on = before.is_some_and(|record| record.key == key);
        Record::new(self.job, key.clone(), State::Begun).write(&self.folder)?;
        // The log is that of one run.
        File::create(self.log()).with_context(|| format!("cannot write {}", self.log().display()))?;
        let golden = self.golden(&checkpoint, goes_on)?;
        self.convert(&checkpoint, goes_on)?;
        let state = self.prove(golden.as_deref())?;
        let result = self.results(golden.is_some())?;
        Ok(Outcome::Ran { key, state, result })
    }

    /// Whether a record's package is still the one that it tells of.
    fn is_good(&self, record: &Record) -> bool {
        matches!(record.state, State::Done | State::BelowThresholds)
            && hash_file(&self.package.join(MANIFEST_FILE)).is_ok_and(|file| Some(file.sha256) == record.result.manifest_sha256)
            && read_manifest(&self.package).is_ok_and(|manifest| {
                let mut files = manifest.shards.iter().chain(&manifest.files);
                files.all(|f| fs::metadata(self.package.join(&f.name)).is_ok_and(|m| m.len() == f.bytes))
            })
    }

    /// What a checkpoint on the hub is known by before anything is downloaded: if its revision is a commit.
    fn pinned(&self) -> anyhow::Result<Option<String>> {
        let CheckpointAt::Hub { id, revision } = &self.job.checkpoint else { return Ok(None) };
        let parsed = HubId::parse(id, &haikuq_hub::Settings::from_env()?.hosts())?;
        let commit = revision.clone().or(parsed.revision).filter(|r| r.len() == 40 && r.bytes().all(|b| b.is_ascii_hexdigit()));
        Ok(commit.map(|commit| hub_identity(&parsed.repo, &commit, id)))
    }

    /// The checkpoint as an argument, and what it is known by. A model on the hub is named by its commit: a branch that moves meanwhile
    /// does not give the steps of one job different models.
    fn checkpoint(&self) -> anyhow::Result<(PathBuf, String)> {
        match &self.job.checkpoint {
            CheckpointAt::Hub { id, revision } => {
                let hub = HubArgs::of(revision.clone(), self.job.text_only);
                let located = hub.locate(Path::new(id), self.context)?;
                let source = located.hub.with_context(|| format!("{id} is on disk"))?;
                let identity = hub_identity(&source.repo, &source.commit, id);
                let file = HubId::parse(id, &haikuq_hub::Settings::from_env()?.hosts())?.file;
                let file = file.map_or(String::new(), |file| format!(":{file}"));
                Ok((format!("hf:{}@{}{file}", source.repo, source.commit).into(), identity))
            }
            CheckpointAt::Path(path) => {
                let sources = Checkpoint::open(path)?.sources();
                let hashes = sources.par_iter().map(|source| hash_file(&source.path)).collect::<Result<Vec<_>, _>>()?;
                let identity = hashes.iter().map(|file| format!("{} {}", file.name, file.sha256)).collect::<Vec<_>>();
                Ok((path.clone(), identity.join("\n")))
            }
        }
    }

    /// A hash of all that decides the result.
    fn key(&self, checkpoint: &str) -> anyhow::Result<String> {
        let Job { recipe, proof, calibration, thresholds, windows, text_only, .. } = self.job;
        let proof = proof.as_ref().map(|proof| match proof {
            Proof::Golden(path) | Proof::Evaluation(path) => path,
        });
        let mut hash = Sha256::new();
        let mut part = |name: &str, content: &str| hash.update(format!("{name} {}\n{content}\n", content.len()));
        part("tool", &tool());
        part("recipe", &recipe.text);
        part("checkpoint", checkpoint);
        part("text_only", &text_only.to_string());
        part("windows", &windows.map_or(String::new(), |n| n.to_string()));
        for (name, path) in [("proof", proof), ("calibration", calibration.as_ref()), ("thresholds", thresholds.as_ref())] {
            part(name, &path.map_or(Ok(String::new()), |path| hash_file(path).map(|file| file.sha256))?);
        }
        Ok(hex(&hash.finalize()))
    }

    /// Golden outputs to compare with, recorded where the list names a text.
    fn golden(&self, checkpoint: &Path, goes_on: bool) -> anyhow::Result<Option<PathBuf>> {
        match &self.job.proof {
            None => Ok(None),
            Some(Proof::Golden(path)) => Ok(Some(path.clone())),
            Some(Proof::Evaluation(text)) => {
                let golden = self.folder.join("golden.safetensors");
                // It got its name when it was complete.
                if !(goes_on && golden.is_file()) {
                    let mut command = self.command("golden", checkpoint);
                    command.arg("--text").arg(text).arg("--out").arg(&golden);
                    self.run_command(self.with_windows(&mut command), "recording")?;
                }
                Ok(Some(golden))
            }
        }
    }

    fn convert(&self, checkpoint: &Path, goes_on: bool) -> anyhow::Result<()> {
        let mut command = self.command("convert", checkpoint);
        command.args(["--recipe", &self.job.recipe_argument, "--force", "--out"]).arg(&self.package);
        if let Some(calibration) = &self.job.calibration {
            command.arg("--calibration").arg(calibration);
        }
        if goes_on && partial_folder(&self.package).exists() {
            command.arg("--resume");
        }
        self.run_command(&mut command, "converting").map(drop)
    }

    /// Real inference against golden outputs, or hashes alone where there are none.
    fn prove(&self, golden: Option<&Path>) -> anyhow::Result<State> {
        let Some(golden) = golden else {
            let mut command = self.program("verify");
            return self.run_command(command.arg(&self.package), "checking").map(|_| State::Done);
        };
        let mut command = self.program("validate");
        command.arg(&self.package).arg("--golden").arg(golden).arg("--report").arg(self.report());
        if let Some(thresholds) = &self.job.thresholds {
            command.arg("--thresholds").arg(thresholds);
        }
        let code = self.run_command(self.with_windows(&mut command), "validating")?;
        Ok(if code == i32::from(BELOW_THRESHOLDS) { State::BelowThresholds } else { State::Done })
    }

    fn results(&self, validated: bool) -> anyhow::Result<Results> {
        let manifest = read_manifest(&self.package)?;
        let mut results = Results {
            bytes: Some(manifest.weight_bytes()),
            bits_per_weight: Some(manifest.bits_per_weight()),
            manifest_sha256: Some(hash_file(&self.package.join(MANIFEST_FILE))?.sha256),
            ..Results::default()
        };
        if validated {
            let report = read_report(&self.report(), &manifest)?;
            results.mean_kl = Some(report.summary.mean_kl);
            results.perplexity_increase_percent = Some(report.summary.perplexity_increase_percent);
            results.top1_percent = Some(report.summary.top1_percent);
            results.adapter = Some(report.adapter);
        }
        Ok(results)
    }

    fn report(&self) -> PathBuf {
        self.folder.join("report")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log.txt")
    }

    fn with_windows<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        if let Some(windows) = self.job.windows {
            command.arg("--windows").arg(windows.to_string());
        }
        command
    }

    /// A verb of this program.
    fn program(&self, verb: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "haikuq".into()));
        command.arg(verb);
        if let Some(adapter) = &self.context.adapter {
            command.arg("--adapter").arg(adapter);
        }
        command
    }

    /// A verb that takes the checkpoint.
    fn command(&self, verb: &str, checkpoint: &Path) -> Command {
        let mut command = self.program(verb);
        command.arg(checkpoint);
        if self.job.text_only {
            command.arg("--text-only");
        }
        command
    }

    /// Runs a step, which talks to the log; returns its exit code, which is 0 or that of a package below its thresholds.
    fn run_command(&self, command: &mut Command, step: &str) -> anyhow::Result<i32> {
        self.context.note(format_args!("{}: {step}", self.job.name));
        let log = self.log();
        let begin = log.metadata().map_or(0, |m| m.len());
        let open = || File::options().append(true).open(&log).with_context(|| format!("cannot write {}", log.display()));
        command.stdin(Stdio::null()).stdout(open()?).stderr(open()?);
        let status = command.status().with_context(|| format!("cannot run {}", command.get_program().display()))?;
        match status.code() {
            Some(code) if code == 0 || code == i32::from(BELOW_THRESHOLDS) => Ok(code),
            _ => anyhow::bail!("{step}: {}", self.last_error(begin).unwrap_or_else(|| format!("it ended with {status}"))),
        }
    }

    /// The last error that was written to the log from byte `begin` on.
    fn last_error(&self, begin: u64) -> Option<String> {
        let log = read_at_most(&self.log(), MAX_BYTES).ok()?;
        let log = String::from_utf8_lossy(log.get(usize::try_from(begin).ok()?..)?).into_owned();
        log.lines().rev().find_map(|line| line.strip_prefix("haikuq: error: ")).map(str::to_owned)
    }
}

/// What became of a job.
enum Outcome {
    /// An earlier run did it.
    WasDone(Record),
    /// It was done now.
    Ran { key: String, state: State, result: Results },
}

/// What a model on the hub is known by: the repository, the commit, and the id as it was written, which may name a file.
fn hub_identity(repo: &str, commit: &str, id: &str) -> String {
    format!("{repo} {commit} {id}")
}
