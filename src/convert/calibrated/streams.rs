//! [`Streams`]: both streams of activations on disk, so that an interrupted conversion goes on where it was.
//!
//! They lie beside the matrices, as `layer-N.original` and `layer-N.stored`: what goes into layer N, little-endian f32.

use super::super::{ConvertError, disk};
use haikuq_files::little_endian;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What goes into a layer.
pub(super) struct Activations {
    /// The layer.
    pub(super) layer: usize,
    /// `[tokens, hidden_size]`, after original weights.
    pub(super) original: Vec<f32>,
    /// The same after stored weights.
    pub(super) stored: Vec<f32>,
}

/// Keeps the last [`Activations`].
pub(super) struct Streams {
    folder: PathBuf,
    /// Numbers in each of both.
    length: usize,
    interval: Duration,
    last: Instant,
    /// The layer of those that are there.
    there: Option<usize>,
}

const ORIGINAL: &str = "original";
const STORED: &str = "stored";

impl Streams {
    /// In `folder`, where streams of `length` numbers are kept, at most one pair in each `interval`.
    pub(super) fn new(folder: PathBuf, length: usize, interval: Duration) -> Self {
        Self { folder, length, interval, last: Instant::now(), there: None }
    }

    /// Whether enough time has passed to keep them again.
    pub(super) fn is_due(&self) -> bool {
        self.last.elapsed() >= self.interval
    }

    /// Keeps what goes into a layer, in place of what was kept before.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(super) fn keep(&mut self, activations: &Activations) -> Result<(), ConvertError> {
        for (name, numbers) in [(ORIGINAL, &activations.original), (STORED, &activations.stored)] {
            let path = self.path(activations.layer, name);
            let new = path.with_extension(format!("{name}-unfinished"));
            disk::write_synced(&new, &little_endian(bytemuck::cast_slice(numbers)))?;
            disk::rename(&new, &path)?;
        }
        if let Some(before) = self.there.replace(activations.layer).filter(|l| *l != activations.layer) {
            self.remove(before)?;
        }
        self.last = Instant::now();
        Ok(())
    }

    /// The last ones that are there whole, of layer `limit` at most; all others go.
    ///
    /// # Errors
    /// If the folder cannot be read or cleaned.
    pub(super) fn take_up(&mut self, limit: usize) -> Result<Option<Activations>, ConvertError> {
        let mut layers: Vec<usize> = disk::entries(&self.folder)?.iter().filter_map(|path| layer(path)).collect();
        layers.sort_unstable();
        layers.dedup();
        let mut found = None;
        for layer in layers.into_iter().rev() {
            if found.is_none() && layer <= limit {
                let read = |name| numbers(&std::fs::read(self.path(layer, name)).ok()?, self.length);
                if let (Some(original), Some(stored)) = (read(ORIGINAL), read(STORED)) {
                    found = Some(Activations { layer, original, stored });
                    continue;
                }
            }
            self.remove(layer)?;
        }
        self.there = found.as_ref().map(|a| a.layer);
        Ok(found)
    }

    fn path(&self, layer: usize, name: &str) -> PathBuf {
        self.folder.join(format!("layer-{layer}.{name}"))
    }

    fn remove(&self, layer: usize) -> Result<(), ConvertError> {
        [ORIGINAL, STORED].iter().try_for_each(|name| disk::remove_file(&self.path(layer, name)))
    }
}

/// The layer that a file of one of both belongs to.
fn layer(path: &Path) -> Option<usize> {
    let name = path.file_name()?.to_str()?;
    let (layer, rest) = name.strip_prefix("layer-")?.split_once('.')?;
    [ORIGINAL, STORED].contains(&rest).then(|| layer.parse().ok())?
}

/// `None` unless there are `length` numbers.
fn numbers(bytes: &[u8], length: usize) -> Option<Vec<f32>> {
    let (numbers, rest) = bytes.as_chunks::<4>();
    (numbers.len() == length && rest.is_empty()).then(|| numbers.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activations(layer: usize) -> Activations {
        let numbers = |by: f32| (0..6).map(|i| (i + layer) as f32 * by).collect();
        Activations { layer, original: numbers(0.1), stored: numbers(f32::NAN) }
    }

    fn kept(folder: &Path) -> Vec<String> {
        let name = |p: &PathBuf| p.file_name().unwrap().to_string_lossy().into_owned();
        disk::entries(folder).unwrap().iter().map(name).collect()
    }

    #[test]
    fn the_last_whole_pair_is_taken_up() {
        let dir = tempfile::tempdir().unwrap();
        let streams = || Streams::new(dir.path().into(), 6, Duration::ZERO);
        let mut first = streams();
        assert!(first.is_due() && first.take_up(9).unwrap().is_none());
        first.keep(&activations(1)).unwrap();
        first.keep(&activations(4)).unwrap();
        assert_eq!(kept(dir.path()), ["layer-4.original", "layer-4.stored"]);
        // Stopped while the next pair was written.
        std::fs::write(dir.path().join("layer-5.original"), [0; 24]).unwrap();
        let found = streams().take_up(9).unwrap().unwrap();
        assert_eq!((found.layer, &found.original), (4, &activations(4).original));
        assert!(found.stored.iter().all(|x| x.is_nan()));
        assert_eq!(kept(dir.path()), ["layer-4.original", "layer-4.stored"]);
        // A matrix before it is not there: they are of no use.
        assert!(streams().take_up(3).unwrap().is_none());
        assert!(kept(dir.path()).is_empty());
    }

    #[test]
    fn a_file_that_was_cut_is_not_taken_up() {
        let dir = tempfile::tempdir().unwrap();
        Streams::new(dir.path().into(), 6, Duration::ZERO).keep(&activations(2)).unwrap();
        std::fs::write(dir.path().join("layer-2.stored"), [0; 20]).unwrap();
        assert!(Streams::new(dir.path().into(), 6, Duration::ZERO).take_up(9).unwrap().is_none());
    }
}
