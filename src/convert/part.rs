//! A conversion in parts, on as many machines, and the package that they make together.
//!
//! A part makes some of the planned shards, whole ones, so that no byte depends on the number of parts. Each part opens the same
//! checkpoint and plans the same package. It leaves a folder with its shards and [`PART_FILE`], which holds the manifest as planned
//! and what the part adds to it. [`super::merge`] needs nothing else.

use super::ConvertError;
use super::files::SourceFile;
use super::journal::FinishedShard;
use super::package::{Contents, Options, Progress, threads};
use super::work::{Root, WorkFolder};
use super::{Plan, disk, files, pipeline, place};
use crate::quantize::{Equalized, Recipe};
use haikuq_files::read_at_most;
use haikuq_format::manifest::Manifest;
use haikuq_runtime::package::MAX_MANIFEST_BYTES;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

/// The file that says which part a folder is, and of what.
pub const PART_FILE: &str = "haikuq-part.json";

/// Its kind and version.
const SCHEMA: &str = "haikuq.part/1";

/// Which of how many parts; the first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Part {
    number: usize,
    of: usize,
}

impl Part {
    /// Part `number` of `of`; none where there is no such part.
    pub fn new(number: usize, of: usize) -> Option<Self> {
        (1..=of).contains(&number).then_some(Self { number, of })
    }

    /// Which one; the first is 1.
    pub fn number(self) -> usize {
        self.number
    }

    /// How many there are.
    pub fn of(self) -> usize {
        self.of
    }

    /// Its shards of a plan that has `shards`: as many as the others', but for one.
    ///
    /// # Errors
    /// If there are more parts than shards.
    pub fn shards(self, shards: usize) -> Result<Range<usize>, ConvertError> {
        if self.of > shards {
            return Err(ConvertError::TooManyParts { parts: self.of, shards });
        }
        Ok(shards * (self.number - 1) / self.of..shards * self.number / self.of)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        let part = numbers.and_then(|(number, of)| Self::new(number, of));
        part.ok_or_else(|| format!("{text:?} is no part: 2/8 is the second of eight"))
    }
}

/// A part that was made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConvertedPart {
    /// Which one.
    pub part: Part,
    /// Its shards.
    pub shards: Range<usize>,
    /// Shards of the package.
    pub of_shards: usize,
    /// Bytes of its shards.
    pub bytes: u64,
}

/// What a part's file says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PartFile {
    schema: String,
    pub(super) part: Part,
    /// Of the plan and all that decides the package's bytes but the weights.
    pub(super) plan: String,
    /// The manifest without errors and hashes of shards, which all parts have in common.
    pub(super) manifest: Manifest,
    /// The part's shards, in order.
    pub(super) shards: Vec<FinishedShard>,
}

impl PartFile {
    /// Reads the one in `folder`.
    ///
    /// # Errors
    /// If it cannot be read, or is none.
    pub(super) fn read(folder: &Path) -> Result<Self, ConvertError> {
        let path = folder.join(PART_FILE);
        let no_part = |why: String| ConvertError::NoPart { path: folder.into(), why };
        // Errors of all chunks come along.
        let bytes = read_at_most(&path, 2 * MAX_MANIFEST_BYTES).map_err(|e| no_part(format!("its {PART_FILE}: {e}")))?;
        let file: Self = serde_json::from_slice(&bytes).map_err(|e| no_part(format!("its {PART_FILE}: {e}")))?;
        if file.schema != SCHEMA {
            return Err(no_part(format!("its {PART_FILE} is a {:?}, and this version reads {SCHEMA:?}", file.schema)));
        }
        Ok(file)
    }
}

/// Refuses a target that a part cannot be put at, as far as that is known before it is planned.
///
/// # Errors
/// If something is there.
pub fn check_part_target(out: &Path, resume: bool) -> Result<(), ConvertError> {
    if resume && out.join(PART_FILE).is_file() {
        return Ok(());
    }
    place::check(out, false, &Default::default()).map_err(|error| match error {
        // A package may be replaced, a part may not.
        ConvertError::Exists { path } | ConvertError::NotOurs { path } => ConvertError::PartExists { path },
        other => other,
    })
}

/// Converts the shards of `part` by a recipe without calibration into the folder `options.out`.
///
/// # Errors
/// See [`ConvertError`]. Nothing incomplete lies under the final name; finished shards stay in `OUT.partial` for
/// [`Options::resume`].
pub(super) fn convert(
    weights: &Equalized<'_>,
    recipe: &Recipe,
    plan: &Plan,
    part: Part,
    options: &Options,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<ConvertedPart, ConvertError> {
    let range = part.shards(plan.shards.len())?;
    let shards = &plan.shards[range.clone()];
    let decoder = weights.decoder();
    let sources: Vec<SourceFile> = decoder.checkpoint().sources().into_iter().map(SourceFile::new).collect();
    let contents = Contents { decoder, recipe, plan, calibration: None, options, sources: &sources };
    // A manifest that readers would refuse is known before any work is done for it.
    contents.draft()?;
    let plan_digest = plan.digest(recipe, None, &sources);
    let bytes = shards.iter().map(|shard| shard.layout.file_bytes).sum();
    let converted = ConvertedPart { part, shards: range, of_shards: plan.shards.len(), bytes };
    let out = &options.out;
    let root = Root::find(out)?;
    if out.join(PART_FILE).is_file() {
        let there = PartFile::read(out)?;
        if !options.resume || there.part != part || there.plan != plan_digest {
            return Err(ConvertError::PartExists { path: out.clone() });
        }
        root.clear()?;
        progress(Progress::Repaired(&format!("{} is complete already", out.display())));
        return Ok(converted);
    }
    check_part_target(out, options.resume)?;
    let mut work = WorkFolder::open(root, options, format!("{plan_digest} {part}"), &sources, shards, progress)?;
    if work.finished() > 0 {
        let weights = shards[..work.finished()].iter().map(|s| plan.shard_weights(s)).sum();
        progress(Progress::Resumed { shards: work.finished(), weights });
    }
    let hashed = pipeline::run(&threads(options.jobs)?, weights, plan, shards, None, &mut work, progress)?;
    if part.number == 1 {
        files::write_companions(decoder.checkpoint().companions(), &work.package())?;
    }
    // Every weight is read by now.
    work.check_sources(&hashed)?;
    let manifest = contents.without_results(hashed);
    let shards = work.shards().to_vec();
    let file = PartFile { schema: SCHEMA.into(), part, plan: plan_digest, manifest, shards };
    // Plain data: no map with other keys than text, nothing that can fail.
    let json = serde_json::to_vec(&file).unwrap_or_default();
    disk::write_synced(&work.package().join(PART_FILE), &json)?;
    place::put(work, out)?;
    Ok(converted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_all_shards_once_and_none_is_empty() {
        for (of, shards) in [(1, 1), (3, 3), (3, 10), (7, 9), (8, 1000)] {
            let ranges: Vec<_> = (1..=of).map(|number| Part::new(number, of).unwrap().shards(shards).unwrap()).collect();
            assert!(ranges.iter().all(|r| !r.is_empty() && r.len().abs_diff(shards / of) <= 1));
            assert_eq!(ranges.into_iter().flatten().collect::<Vec<_>>(), (0..shards).collect::<Vec<_>>());
        }
        assert!(Part::new(1, 4).unwrap().shards(3).unwrap_err().to_string().contains("3 shards"));
    }

    #[test]
    fn parts_are_written_as_fractions() {
        let part: Part = "2/8".parse().unwrap();
        assert_eq!((part.number(), part.of(), part.to_string().as_str()), (2, 8, "2/8"));
        for wrong in ["", "2", "0/8", "9/8", "2/", "/8", "-1/8", "2/8/9"] {
            assert!(wrong.parse::<Part>().is_err(), "{wrong}");
        }
    }
}
