//! The work folder `OUT.partial`: what is finished, and proof of it.
//!
//! ```text
//! OUT.partial/lock            held while a process works here
//! OUT.partial/journal.jsonl   plan and sources, then a line for each finished shard
//! OUT.partial/matrices/       of a calibrated conversion: what is quantized and not in a shard yet
//! OUT.partial/package/        becomes OUT
//! ```
//!
//! A shard gets its line once it is on disk under its name, so after an interruption the journal never promises more
//! than there is; a line that was cut off is ignored. Shards are finished in order.

use super::files::{SourceFile, sync_folder, write_synced};
use super::{ConvertError, Options, Plan, PlannedShard, partial_folder};
use crate::files::hash_file;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A locked work folder.
pub(super) struct WorkFolder {
    root: PathBuf,
    package: PathBuf,
    journal: File,
    _lock: File,
    sources: Vec<SourceFile>,
    finished: Vec<FinishedShard>,
}

/// What the journal says of one shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct FinishedShard {
    pub(super) sha256: String,
    /// Squared error and squared norm of each of its chunks, as bits: decimal text would have to be parsed exactly.
    errors: Vec<(u64, u64)>,
}

impl FinishedShard {
    pub(super) fn new(sha256: String, errors: &[(f64, f64)]) -> Self {
        Self { sha256, errors: errors.iter().map(|(e, n)| (e.to_bits(), n.to_bits())).collect() }
    }
}

/// One line of the journal.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Plan { digest: String, sources: Vec<SourceFile> },
    Shard(FinishedShard),
}

impl WorkFolder {
    /// Makes the work folder, or takes up the one that is there.
    ///
    /// # Errors
    /// If there is one and neither `--resume` nor `--force` was given, or it cannot be resumed.
    pub(super) fn open(options: &Options, digest: String, sources: &[SourceFile], plan: &Plan) -> Result<Self, ConvertError> {
        let root = partial_folder(&options.out);
        let journal_path = root.join("journal.jsonl");
        let existed = fs::symlink_metadata(&root).is_ok();
        // A run that was stopped within its first moments leaves a folder without a journal, and nothing to lose.
        let empty = existed && fs::read_dir(&root).is_ok_and(|mut e| e.all(|e| e.is_ok_and(|e| e.file_name() == "lock")));
        if existed && !empty && !journal_path.is_file() {
            return Err(ConvertError::NoJournal { path: root });
        }
        let package = root.join("package");
        fs::create_dir_all(&root).map_err(ConvertError::io("create", &root))?;
        let lock = lock(&root)?;
        let old = if journal_path.is_file() { Journal::read(&journal_path)? } else { Journal::default() };
        let mut finished = Vec::new();
        if existed && !empty {
            let same_plan = old.digest.as_ref() == Some(&digest);
            match (options.resume, options.force) {
                (true, _) if !same_plan => {
                    return Err(ConvertError::Differs { path: root, what: "plan (recipe, shard size, checkpoint or version)" });
                }
                (true, _) => {
                    old.check_sources(&root, sources)?;
                    finished = old.verified_shards(&package, plan);
                }
                (false, true) => {}
                (false, false) if same_plan => {
                    let (finished, shards) = (old.shards.len(), plan.shards.len());
                    return Err(ConvertError::Unfinished { path: root, finished, shards });
                }
                (false, false) => return Err(ConvertError::Differs { path: root, what: "plan or checkpoint" }),
            }
        }
        remove_unfinished(&package, &plan.shards[..finished.len()])?;
        if !options.resume {
            remove_matrices(&root.join("matrices"))?;
        }
        // The journal starts anew with what was verified, so that a cut-off last line does no harm.
        let mut lines = vec![Line::Plan { digest, sources: sources.to_vec() }];
        lines.extend(finished.iter().cloned().map(Line::Shard));
        let text: Vec<u8> = lines.iter().map(to_json).collect::<Vec<_>>().concat();
        let new = root.join("journal.new");
        write_synced(&new, &text)?;
        fs::rename(&new, &journal_path).map_err(ConvertError::io("write", &journal_path))?;
        sync_folder(&root)?;
        let journal = OpenOptions::new().append(true).open(&journal_path).map_err(ConvertError::io("write", &journal_path))?;
        Ok(Self { root, package, journal, _lock: lock, sources: sources.to_vec(), finished })
    }

    /// The folder that becomes the package.
    pub(super) fn package(&self) -> &Path {
        &self.package
    }

    /// The folder of matrices that are quantized and not in a shard yet.
    pub(super) fn matrices(&self) -> PathBuf {
        self.root.join("matrices")
    }

    /// The source files as they were when the conversion began.
    pub(super) fn sources(&self) -> &[SourceFile] {
        &self.sources
    }

    /// Number of finished shards.
    pub(super) fn finished(&self) -> usize {
        self.finished.len()
    }

    /// Hashes of the finished shards, in order.
    pub(super) fn hashes(&self) -> impl Iterator<Item = &str> {
        self.finished.iter().map(|s| s.sha256.as_str())
    }

    /// Squared error and norm of every finished chunk, in file order.
    pub(super) fn errors(&self) -> impl Iterator<Item = (f64, f64)> {
        self.finished.iter().flat_map(|s| &s.errors).map(|&(e, n)| (f64::from_bits(e), f64::from_bits(n)))
    }

    /// Notes the next shard, which lies on disk under its name.
    pub(super) fn add_shard(&mut self, shard: FinishedShard) -> Result<(), ConvertError> {
        self.append(&Line::Shard(shard.clone()))?;
        self.finished.push(shard);
        Ok(())
    }

    fn append(&mut self, line: &Line) -> Result<(), ConvertError> {
        let path = self.root.join("journal.jsonl");
        let mut write = || self.journal.write_all(&to_json(line)).and_then(|()| self.journal.sync_data());
        write().map_err(|source| ConvertError::Write { path, source })
    }

    /// Puts the complete package under its name and removes the work folder. A package that it replaces is moved
    /// aside in between, so that there is no moment with half of either.
    pub(super) fn finish(self, out: &Path) -> Result<(), ConvertError> {
        sync_folder(&self.package)?;
        let replaced = self.root.join("replaced");
        if out.join(haikuq_format::manifest::MANIFEST_FILE).is_file() {
            fs::rename(out, &replaced).map_err(ConvertError::io("replace", out))?;
        }
        fs::rename(&self.package, out).map_err(ConvertError::io("create", out))?;
        if let Some(parent) = out.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_folder(parent)?;
        }
        fs::remove_dir_all(&self.root).map_err(ConvertError::io("remove", &self.root))
    }
}

/// What a journal says.
#[derive(Default)]
struct Journal {
    digest: Option<String>,
    sources: Vec<SourceFile>,
    shards: Vec<FinishedShard>,
}

impl Journal {
    fn read(path: &Path) -> Result<Self, ConvertError> {
        let text = fs::read(path).map_err(ConvertError::io("read", path))?;
        let mut journal = Self::default();
        // Up to the first line that cannot be read: nothing after it was promised.
        for line in text.split_inclusive(|&b| b == b'\n').map_while(|l| serde_json::from_slice(l).ok()) {
            match line {
                Line::Plan { digest, sources } => (journal.digest, journal.sources) = (Some(digest), sources),
                Line::Shard(shard) => journal.shards.push(shard),
            }
        }
        Ok(journal)
    }

    /// The sources must be unchanged by name, size and time, as build tools judge it: hashing them first would make
    /// every resumption wait for all of a large checkpoint.
    fn check_sources(&self, root: &Path, sources: &[SourceFile]) -> Result<(), ConvertError> {
        let same = self.sources.len() == sources.len() && self.sources.iter().zip(sources).all(|(a, b)| a.same(b));
        if same { Ok(()) } else { Err(ConvertError::Differs { path: root.into(), what: "checkpoint (its files have changed)" }) }
    }

    /// Finished shards from the first on that are on disk with the size and hash that they had.
    fn verified_shards(&self, package: &Path, plan: &Plan) -> Vec<FinishedShard> {
        let good = |(shard, planned): &(&FinishedShard, &PlannedShard)| {
            let same = |file| file == planned.entry(&shard.sha256);
            shard.errors.len() == planned.chunks.len() && hash_file(&package.join(&planned.name)).is_ok_and(same)
        };
        self.shards.iter().zip(&plan.shards).take_while(good).map(|(shard, _)| shard.clone()).collect()
    }
}

fn to_json(line: &Line) -> Vec<u8> {
    // Plain data: no map with other keys than text, nothing that can fail.
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn lock(root: &Path) -> Result<File, ConvertError> {
    let path = root.join("lock");
    let file = File::create(&path).map_err(ConvertError::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ConvertError::Busy { path: root.into() }),
        // A file system without locks (some network ones): two runs at once are the user's to avoid.
        Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(e)) => Err(ConvertError::io("lock", &path)(e)),
    }
}

/// Removes the matrices of a conversion that is begun anew.
fn remove_matrices(folder: &Path) -> Result<(), ConvertError> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(ConvertError::io("remove", folder)(e)),
        _ => Ok(()),
    }
}

/// Empties the package folder but for the shards that are kept.
fn remove_unfinished(package: &Path, keep: &[PlannedShard]) -> Result<(), ConvertError> {
    fs::create_dir_all(package).map_err(ConvertError::io("create", package))?;
    for entry in fs::read_dir(package).map_err(ConvertError::io("read", package))? {
        let entry = entry.map_err(ConvertError::io("read", package))?;
        if !keep.iter().any(|s| entry.file_name() == s.name.as_str()) {
            fs::remove_file(entry.path()).map_err(ConvertError::io("remove", entry.path()))?;
        }
    }
    Ok(())
}
