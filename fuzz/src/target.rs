//! What the programs of this crate run.

use crate::mutate::Mutator;
use std::path::PathBuf;

/// How an input was answered: what was made of it, or why it was refused.
pub type Outcome = Result<String, String>;

/// Something that reads what strangers write.
pub struct Target {
    /// Name, which its program has too.
    pub name: &'static str,
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words of the format.
    pub dictionary: &'static [&'static str],
    /// Changes an input in ways of the format.
    pub mutate: fn(&mut Vec<u8>, &mut Mutator<'_>),
    /// Longest input.
    pub most_bytes: usize,
    /// Reads an input.
    pub run: fn(&[u8]) -> Outcome,
}

/// Names the folder that a process has for files that its target reads.
pub const FOLDER: &str = "HAIKUQ_FUZZ_FOLDER";

/// A folder for a process's own files: in memory where the system has such a place.
///
/// # Errors
/// If it cannot be made.
pub fn scratch() -> std::io::Result<PathBuf> {
    let memory = std::path::Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    let folder = place.join(format!("haikuq-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The folder of this process for files that its target reads.
///
/// # Panics
/// If it cannot be made.
pub fn folder() -> PathBuf {
    match std::env::var_os(FOLDER) {
        Some(folder) => folder.into(),
        None => scratch().expect("a folder for files of a run"),
    }
}
