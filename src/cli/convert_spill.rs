//! Where `haikuq convert` keeps activations that are not needed yet: in memory, or on disk where that is short.

use super::Context;
use super::units::human_bytes;
use crate::convert::memory;
use std::path::{Path, PathBuf};

/// The choice between memory and disk.
pub struct Spill<'a> {
    /// The folder that the user names.
    pub named: Option<&'a Path>,
    /// The package to be, if one is made.
    pub out: Option<&'a Path>,
    /// For telling.
    pub context: &'a Context,
}

impl Spill<'_> {
    /// A folder for a part of the work that takes `all` bytes of memory, or `less` with the folder. Says why.
    pub fn folder(&self, part: &str, all: u64, less: u64) -> Option<PathBuf> {
        if let Some(named) = self.named {
            return Some(named.into());
        }
        let (out, free) = (self.out?, memory::available()?);
        if all <= free {
            return None;
        }
        // The package's own folders may not be there yet.
        let folder = out.ancestors().skip(1).find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
        let enough = if less <= free { "" } else { ", which may still be too much: fewer windows (--calibration) take less" };
        let [all, less, free] = [all, less, free].map(human_bytes);
        self.context.note(format_args!(
            "{free} of memory are free and {part} would take up to {all}: activations wait on disk, in {}; that leaves up to \
             {less}{enough}",
            folder.display()
        ));
        Some(folder.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_taken_where_memory_is_short() {
        let (dir, context) = (tempfile::tempdir().unwrap(), Context::new(None, 0, true));
        let out = dir.path().join("not/there/yet");
        let spill = |named| Spill { named, out: Some(&out), context: &context };
        assert_eq!(spill(None).folder("rounding", 0, 0), None);
        assert_eq!(spill(None).folder("rounding", u64::MAX, 1), Some(dir.path().into()));
        let named = Path::new("elsewhere");
        assert_eq!(spill(Some(named)).folder("rounding", 0, 0), Some(named.into()));
        assert_eq!(Spill { named: None, out: None, context: &context }.folder("rounding", u64::MAX, 1), None);
    }
}
