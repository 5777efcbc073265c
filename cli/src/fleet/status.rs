//! Records of many machines as one table and one page.

use super::job::{FOLDER_ENDING, Record, State};
use super::list::List;
use crate::output::table::Table;
use crate::output::units::{duration, human_bytes};
use anyhow::{Context as _, bail};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, context};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// All records, by the names of their jobs.
pub struct Status {
    records: BTreeMap<String, Record>,
}

/// Jobs by where they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// All of them.
    pub jobs: usize,
    /// Those that are there and good.
    pub done: usize,
    /// Those below their thresholds.
    pub below_thresholds: usize,
    /// Those that failed.
    pub failed: usize,
    /// Those that are under way, or were stopped.
    pub begun: usize,
    /// Those that no machine has begun.
    pub missing: usize,
}

impl Counts {
    /// Counts of records.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut counts = Self::default();
        for record in records {
            counts.jobs += 1;
            *match record.state {
                State::Done => &mut counts.done,
                State::BelowThresholds => &mut counts.below_thresholds,
                State::Failed => &mut counts.failed,
                State::Begun => &mut counts.begun,
                State::Missing => &mut counts.missing,
            } += 1;
        }
        counts
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} done", self.done, self.jobs)?;
        let others = [
            (self.below_thresholds, "below thresholds"),
            (self.failed, "failed"),
            (self.begun, "begun"),
            (self.missing, "not begun"),
        ];
        others.iter().filter(|(n, _)| *n > 0).try_for_each(|(n, what)| write!(f, ", {n} {what}"))
    }
}

impl Status {
    /// Reads the records in `folders`. Of records of one job, the best counts: a machine that took over may have done what another
    /// left.
    ///
    /// # Errors
    /// If a folder cannot be read, or there are none.
    pub fn read(folders: &[PathBuf]) -> anyhow::Result<Self> {
        let mut records: BTreeMap<String, Record> = BTreeMap::new();
        for folder in folders {
            for record in records_in(folder)? {
                let best = records.get(&record.name).map(|there| rank(there.state));
                if best.is_none_or(|best| rank(record.state) < best) {
                    records.insert(record.name.clone(), record);
                }
            }
        }
        Ok(Self { records })
    }

    /// Adds the jobs of a list that no machine has begun.
    pub fn expect(&mut self, list: &List) {
        for job in &list.jobs {
            self.records.entry(job.name.clone()).or_insert_with(|| Record::missing(job));
        }
    }

    /// All records, by name.
    pub fn records(&self) -> Vec<&Record> {
        self.records.values().collect()
    }

    /// Jobs by where they stand.
    pub fn counts(&self) -> Counts {
        Counts::of(self.records.values())
    }

    /// The records as a table, and the failures beneath it.
    pub fn text(&self) -> String {
        let mut table = Table::new(&["model", "recipe", "state", ">size", ">bits", ">KL", ">perplexity", ">top-1", ">time"]);
        for row in self.rows() {
            table.row(row.cells());
        }
        let failures = self.records.values().filter_map(|r| Some(format!("\n{}: {}", r.name, r.error.as_ref()?)));
        format!("{table}\n\n{}{}", self.counts(), failures.collect::<String>())
    }

    /// The records as one page without any reference to the outside.
    ///
    /// # Errors
    /// If the template fails.
    pub fn page(&self) -> anyhow::Result<String> {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        let counts = self.counts().to_string();
        let rows: Vec<Row> = self.rows().collect();
        Ok(environment.render_str(
            include_str!("status.html.jinja"),
            context! { counts, rows => Serde(rows), tool => haikuq::convert::tool() },
        )?)
    }

    fn rows(&self) -> impl Iterator<Item = Row> {
        self.records.values().map(Row::new)
    }
}

fn rank(state: State) -> usize {
    let best_first = [State::Done, State::BelowThresholds, State::Begun, State::Failed, State::Missing];
    best_first.iter().position(|s| *s == state).unwrap_or(best_first.len())
}

fn records_in(folder: &Path) -> anyhow::Result<Vec<Record>> {
    let failed = || format!("cannot read {}", folder.display());
    let mut records = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        let ours = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with(FOLDER_ENDING));
        if ours && path.join(super::job::RECORD_FILE).is_file() {
            records.push(Record::read(&path)?);
        }
    }
    if records.is_empty() {
        bail!("{} has no results of a fleet: they are folders that end in {FOLDER_ENDING}", folder.display());
    }
    Ok(records)
}

/// A record in words.
#[derive(Serialize)]
struct Row {
    model: String,
    recipe: String,
    state: &'static str,
    size: String,
    bits: String,
    kl: String,
    perplexity: String,
    top1: String,
    time: String,
    error: Option<String>,
}

impl Row {
    fn new(record: &Record) -> Self {
        let result = &record.result;
        let number = |number: Option<f64>, format: &dyn Fn(f64) -> String| number.map_or(String::new(), format);
        Self {
            model: record.model.clone(),
            recipe: record.recipe.clone(),
            state: match record.state {
                State::Done => "done",
                State::BelowThresholds => "below thresholds",
                State::Failed => "failed",
                State::Begun => "begun",
                State::Missing => "not begun",
            },
            size: result.bytes.map_or(String::new(), human_bytes),
            bits: number(result.bits_per_weight, &|bits| format!("{bits:.3}")),
            kl: number(result.mean_kl, &|kl| if kl < 1e-3 { format!("{kl:.1e}") } else { format!("{kl:.4}") }),
            perplexity: number(result.perplexity_increase_percent, &|percent| format!("{percent:+.2} %")),
            top1: number(result.top1_percent, &|percent| format!("{percent:.2} %")),
            time: number(result.seconds, &duration),
            error: record.error.clone(),
        }
    }

    fn cells(self) -> [String; 9] {
        let Self { model, recipe, state, size, bits, kl, perplexity, top1, time, .. } = self;
        [model, recipe, state.into(), size, bits, kl, perplexity, top1, time]
    }
}
