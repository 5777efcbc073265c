//! The work folder `OUT.partial`: what is finished, and proof of it.
//!
//! ```text
//! OUT.partial/lock            held while a process works here
//! OUT.partial/journal.jsonl   plan and sources, then a line for each hashed source and each finished shard
//! OUT.partial/calibration-*   of a calibrated conversion: the calibration, so that it need not be measured again
//! OUT.partial/matrices/       likewise: what is quantized and not in a shard yet, and both streams of activations
//! OUT.partial/package/        becomes OUT
//! OUT.partial/replaced/       what was at OUT, from the moment of its replacement until it is removed
//! ```
//!
//! A shard gets its line once it is on disk under its name, so after an interruption the journal never promises more
//! than there is; a line that was cut off is ignored. Shards are finished in order. Wherever a conversion stops, the next
//! one finds a state that it knows: see [`super::place`] for the end.

use super::disk;
use super::files::SourceFile;
use super::journal::{FinishedShard, Journal, Line};
use super::{ConvertError, Options, PlannedShard, Progress, partial_folder};
use haikuq_format::manifest::FileEntry;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

const LOCK: &str = "lock";
const JOURNAL: &str = "journal.jsonl";
const NEW_JOURNAL: &str = "journal.new";
const MATRICES: &str = "matrices";
const PACKAGE: &str = "package";
const REPLACED: &str = "replaced";
/// Beginning of the name of a calibration.
pub(super) const CALIBRATION: &str = "calibration-";

/// A locked work folder.
pub(super) struct WorkFolder {
    root: PathBuf,
    journal: File,
    /// What the journal of the run before said.
    before: Journal,
    _lock: File,
    sources: Vec<SourceFile>,
    finished: Vec<FinishedShard>,
}

/// The work folder before it is known what becomes of it.
pub(super) struct Root {
    path: PathBuf,
    lock: Option<File>,
}

impl Root {
    /// Locks the work folder of `out`, if there is one.
    ///
    /// # Errors
    /// If something else has its name, or another process works there.
    pub(super) fn find(out: &Path) -> Result<Self, ConvertError> {
        let path = partial_folder(out);
        let Ok(there) = fs::symlink_metadata(&path) else { return Ok(Self { path, lock: None }) };
        // A run that was stopped within its first moments leaves a folder without a journal, and nothing to lose.
        let harmless = |entry: &PathBuf| {
            let name = entry.file_name().unwrap_or_default();
            [LOCK, NEW_JOURNAL].iter().any(|n| *n == name)
                || is_calibration(entry)
                || (name == PACKAGE && super::files::is_empty_folder(entry))
        };
        if !there.is_dir() || !(path.join(JOURNAL).is_file() || disk::entries(&path)?.iter().all(harmless)) {
            return Err(ConvertError::NoJournal { path });
        }
        let lock = Some(lock(&path)?);
        Ok(Self { path, lock })
    }

    /// Whether there was one.
    pub(super) fn exists(&self) -> bool {
        self.lock.is_some()
    }

    /// Where a package is while another takes its place.
    pub(super) fn replaced(&self) -> PathBuf {
        self.path.join(REPLACED)
    }

    /// Where the new package is made.
    pub(super) fn package(&self) -> PathBuf {
        self.path.join(PACKAGE)
    }

    /// Removes it and what conversions put there; other files stay. The package that was replaced must be gone.
    pub(super) fn clear(&self) -> Result<(), ConvertError> {
        clear(&self.path)
    }
}

impl WorkFolder {
    /// Makes the work folder, or takes up the one that is there, for `shards` that `digest` is of.
    ///
    /// # Errors
    /// If there is one and neither `--resume` nor `--force` was given, or it cannot be resumed.
    pub(super) fn open(
        root: Root,
        options: &Options,
        digest: String,
        sources: &[SourceFile],
        shards: &[PlannedShard],
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Self, ConvertError> {
        let (existed, package) = (root.exists(), root.package());
        let (root, lock) = match root {
            Root { path, lock: Some(lock) } => (path, lock),
            Root { path, lock: None } => {
                disk::create_folder(&path)?;
                let lock = lock(&path)?;
                (path, lock)
            }
        };
        let journal_path = root.join(JOURNAL);
        let journal = journal_path.is_file();
        let before = if journal { Journal::read(&journal_path)? } else { Journal::default() };
        let mut finished = Vec::new();
        if journal {
            let same_plan = before.digest.as_ref() == Some(&digest);
            match (options.resume, options.force) {
                (true, _) if !same_plan => {
                    let what = "plan (recipe, shard size, checkpoint or version)".into();
                    return Err(ConvertError::Differs { path: root, what });
                }
                (true, _) => {
                    before.check_sources(&root, sources)?;
                    finished = before.verified_shards(&package, shards);
                }
                (false, true) => {}
                (false, false) if same_plan => {
                    let (finished, shards) = (before.shards.len(), shards.len());
                    return Err(ConvertError::Unfinished { path: root, finished, shards });
                }
                (false, false) => return Err(ConvertError::Differs { path: root, what: "plan or checkpoint".into() }),
            }
        } else if existed {
            let from = root.display();
            progress(Progress::Repaired(&format!("{from} holds nothing that was finished: starting from the beginning")));
        }
        // Files that are begun anew go first: a full disk has room for the new journal then. The old one promises nothing that
        // is not looked at again.
        let before = if options.resume { before } else { Journal::default() };
        remove_unfinished(&package, &shards[..finished.len()])?;
        if !options.resume {
            disk::remove_flat(&root.join(MATRICES))?;
        }
        let mut lines = vec![Line::Plan { digest, sources: sources.to_vec() }];
        lines.extend(before.hash_lines());
        lines.extend(finished.iter().cloned().map(Line::Shard));
        // The journal starts anew with what was verified, so that a cut-off last line does no harm.
        let text: Vec<u8> = lines.iter().map(Line::to_json).collect::<Vec<_>>().concat();
        let new = root.join(NEW_JOURNAL);
        disk::write_synced(&new, &text)?;
        disk::rename(&new, &journal_path)?;
        disk::sync_folder(&root)?;
        disk::create_folder(&package)?;
        let journal = OpenOptions::new().append(true).open(&journal_path).map_err(ConvertError::io("write", &journal_path))?;
        Ok(Self { root, journal, before, _lock: lock, sources: sources.to_vec(), finished })
    }

    /// The folder that becomes the package.
    pub(super) fn package(&self) -> PathBuf {
        self.root.join(PACKAGE)
    }

    /// The folder of matrices that are quantized and not in a shard yet.
    pub(super) fn matrices(&self) -> PathBuf {
        self.root.join(MATRICES)
    }

    /// Where a package is while another takes its place.
    pub(super) fn replaced(&self) -> PathBuf {
        self.root.join(REPLACED)
    }

    /// The source files as they were when the checkpoint was opened.
    pub(super) fn sources(&self) -> &[SourceFile] {
        &self.sources
    }

    /// Number of finished shards.
    pub(super) fn finished(&self) -> usize {
        self.finished.len()
    }

    /// The finished shards, in order.
    pub(super) fn shards(&self) -> &[FinishedShard] {
        &self.finished
    }

    /// Notes the next shard, which lies on disk under its name.
    pub(super) fn add_shard(&mut self, shard: FinishedShard) -> Result<(), ConvertError> {
        append(&self.root, &mut self.journal, &Line::Shard(shard.clone()))?;
        self.finished.push(shard);
        Ok(())
    }

    /// Notes hashes of sources, from another thread.
    pub(super) fn source_notes(&self) -> Result<SourceNotes, ConvertError> {
        let journal = self.journal.try_clone().map_err(ConvertError::io("write", self.root.join(JOURNAL)))?;
        Ok(SourceNotes { root: self.root.clone(), journal })
    }

    /// Proves that everything came from the sources as they were when they were opened: they are the same files still, and
    /// `hashed`, their hashes, are those that an earlier run found.
    pub(super) fn check_sources(&self, hashed: &[FileEntry]) -> Result<(), ConvertError> {
        self.sources.iter().try_for_each(SourceFile::check)?;
        self.before.check_hashes(&self.sources, hashed)
    }

    /// Removes the folder and what conversions put there; other files stay.
    pub(super) fn clear(self) -> Result<(), ConvertError> {
        clear(&self.root)
    }
}

/// Takes the hashes of sources into the journal.
pub(super) struct SourceNotes {
    root: PathBuf,
    journal: File,
}

impl SourceNotes {
    /// The hash of source `index`.
    pub(super) fn add(&mut self, index: usize, sha256: &str) -> Result<(), ConvertError> {
        append(&self.root, &mut self.journal, &Line::Source { index, sha256: sha256.into() })
    }
}

fn append(root: &Path, journal: &mut File, line: &Line) -> Result<(), ConvertError> {
    let mut write = || disk::write(journal, &line.to_json()).and_then(|()| disk::sync(journal));
    write().map_err(|source| ConvertError::Write { path: root.join(JOURNAL), source })
}

/// Whether it is a file that [`super::kept_calibration`] names, or one on its way there.
fn is_calibration(entry: &Path) -> bool {
    let name = entry.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with(CALIBRATION) && fs::symlink_metadata(entry).is_ok_and(|m| !m.is_dir())
}

/// Removes the work folder: the journal, which says what it is, nearly last.
fn clear(root: &Path) -> Result<(), ConvertError> {
    disk::remove_flat(&root.join(MATRICES))?;
    disk::remove_flat(&root.join(PACKAGE))?;
    disk::entries(root)?.iter().filter(|entry| is_calibration(entry)).try_for_each(|entry| disk::remove_file(entry))?;
    for name in [NEW_JOURNAL, JOURNAL, LOCK] {
        disk::remove_file(&root.join(name))?;
    }
    disk::remove_empty(root).map(|_| ())
}

fn lock(root: &Path) -> Result<File, ConvertError> {
    let path = root.join(LOCK);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let open = || disk::reached(true).and_then(|()| options.open(&path));
    let file = open().map_err(ConvertError::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ConvertError::Busy { path: root.into() }),
        // A file system without locks (some network ones): two runs at once are the user's to avoid.
        Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(e)) => Err(ConvertError::io("lock", &path)(e)),
    }
}

/// Empties the package folder but for the shards that are kept.
fn remove_unfinished(package: &Path, keep: &[PlannedShard]) -> Result<(), ConvertError> {
    if fs::symlink_metadata(package).is_ok_and(|m| !m.is_dir()) {
        disk::remove_file(package)?;
    }
    for entry in disk::entries(package)? {
        if !keep.iter().any(|s| entry.file_name().is_some_and(|name| name == s.name.as_str())) {
            disk::remove_file(&entry)?;
        }
    }
    Ok(())
}
