//! [`Card`]: the `README.md` of a published package, from its manifest and a validation's report.
//!
//! The front matter is what the Hugging Face hub reads: library, base model, licence. Of a card that exists our keys and the text
//! between our marks are written anew, and all else stays as it is.

use crate::validate::report::Report;
use haikuq_format::Manifest;
use haikuq_format::manifest::FileEntry;
use std::fmt::Write;

/// Begins the part of a card that is written anew.
const BEGIN: &str = "<!-- haikuq: written by haikuq publish, as far as the next mark -->";
/// Ends it.
const END: &str = "<!-- haikuq: end -->";

/// Where this project lives.
const HOME: &str = env!("CARGO_PKG_REPOSITORY");

/// What a card says.
pub struct Card<'a> {
    /// Id of the repository, `org/name`.
    pub repo: &'a str,
    /// The package's manifest.
    pub manifest: &'a Manifest,
    /// How far it is from its checkpoint.
    pub report: Option<&'a Report>,
    /// Id of the checkpoint on the hub.
    pub base_model: Option<&'a str>,
    /// `license`, and `license_name` and `license_link` where it has them; a card that exists keeps its own if this is empty.
    pub licence: &'a [(&'static str, String)],
}

impl Card<'_> {
    /// The card, in place of the one that the repository has.
    pub fn render(&self, existing: Option<&str>) -> String {
        let (front, body) = split(existing.unwrap_or_default());
        let mut front = Entries::of(front);
        front.set("library_name", "haikuq");
        if !self.licence.is_empty() {
            let gone = |key: &&&str| self.licence.iter().all(|(ours, _)| *ours != **key);
            ["license_name", "license_link"].iter().filter(gone).for_each(|key| front.remove(key));
            self.licence.iter().for_each(|(key, value)| front.set(key, value));
        }
        if let Some(base) = self.base_model {
            front.set("base_model", base);
            front.set("base_model_relation", "quantized");
        }
        front.add("pipeline_tag", "pipeline_tag: text-generation");
        front.add("tags", "tags:\n- haikuq\n- webgpu");
        let (before, after) = match (body.find(BEGIN), body.find(END)) {
            (Some(begin), Some(end)) if begin < end => (&body[..begin], &body[end + END.len()..]),
            _ if body.trim().is_empty() => ("\n", "\n"),
            _ => (body, "\n"),
        };
        let gap = if before.trim().is_empty() || before.ends_with("\n\n") { "" } else { "\n" };
        let alone = before.trim().is_empty() && after.trim().is_empty();
        let body = format!("{before}{gap}{BEGIN}\n\n{}\n{END}{after}", self.text(alone));
        format!("---\n{}---\n{body}", front.text())
    }

    /// Whether a card has a licence.
    pub fn has_licence(card: &str) -> bool {
        Entries::of(split(card).0).0.iter().any(|e| e.0 == "license")
    }

    fn text(&self, alone: bool) -> String {
        let name = self.repo.rsplit('/').next().unwrap_or(self.repo);
        let m = self.manifest;
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text, name, m, alone);
        text
    }

    fn write(&self, out: &mut String, name: &str, m: &Manifest, alone: bool) -> std::fmt::Result {
        if alone {
            writeln!(out, "# {}\n", cell(name))?;
        }
        let of = match self.base_model {
            Some(base) => format!("[{base}](https://huggingface.co/{base})"),
            None => "A decoder".into(),
        };
        let (bits, size) = (m.bits_per_weight(), mebibytes(m.weight_bytes()));
        let recipe = &m.provenance.recipe;
        writeln!(out, "{of} as a [haikuq]({HOME}) package: recipe `{}`, {bits:.3} bits a weight, {size}.", code(recipe))?;
        if let Some(report) = self.report {
            loss(out, report)?;
        }
        writeln!(out, "\n## Run it\n\n```sh\nhf download {} --local-dir {name}", self.repo)?;
        writeln!(out, "haikuq verify {name}\nhaikuq run {name} \"Once upon a time\"")?;
        writeln!(out, "haikuq serve {name}   # a chat in your browser, on WebGPU\n```\n")?;
        writeln!(out, "In a page of your own, with the package's files beside it:\n")?;
        writeln!(out, "```js\nimport {{ load }} from 'haikuq';\nconst model = await load('/packages/{name}/');\n```\n")?;
        writeln!(out, "## Where it comes from\n\n{} made it of these files:\n", cell(&m.provenance.tool))?;
        if let Some(hub) = &m.provenance.hub {
            writeln!(out, "Commit `{}` of `{}`.\n", code(&hub.commit), code(&hub.repo))?;
        }
        files(out, m.provenance.source.iter().chain(&m.provenance.calibration))?;
        writeln!(out, "\nThe package's own weights:\n")?;
        files(out, m.shards.iter())
    }
}

/// A report's figures as a table.
fn loss(out: &mut String, report: &Report) -> std::fmt::Result {
    let (s, g) = (&report.summary, &report.golden);
    writeln!(out, "\n## What it loses\n")?;
    let on = cell(&report.adapter);
    writeln!(out, "Measured on {on}, against {} windows of {} tokens that the checkpoint read in f32.\n", g.windows, g.context)?;
    writeln!(out, "| | |\n| --- | --- |")?;
    let error = s.mean_kl_standard_error.map_or(String::new(), |e| format!(" ± {e:.1e}"));
    writeln!(out, "| KL divergence, mean | {:.3e}{error} nats |", s.mean_kl)?;
    writeln!(out, "| KL divergence, median, 99 %, largest | {:.1e}, {:.1e}, {:.1e} nats |", s.median_kl, s.p99_kl, s.max_kl)?;
    let (own, golden, more) = (s.perplexity, s.golden_perplexity, s.perplexity_increase_percent);
    writeln!(out, "| perplexity | {own:.3} (checkpoint {golden:.3}, {more:+.2} %) |")?;
    writeln!(out, "| same likeliest token | {:.2} % ± {:.2} |", s.top1_percent, s.top1_standard_error)?;
    let same = report.continuations.iter().filter(|c| c.first_difference.is_none()).count();
    writeln!(out, "| greedy continuations, token for token | {same} of {} |", report.continuations.len())?;
    for check in &report.thresholds {
        let verdict = if check.passed { "passed" } else { "failed" };
        writeln!(out, "| demanded: {} | {verdict} |", cell(&check.demand()))?;
    }
    Ok(())
}

fn files<'f>(out: &mut String, files: impl Iterator<Item = &'f FileEntry>) -> std::fmt::Result {
    writeln!(out, "| file | bytes | SHA-256 |\n| --- | --- | --- |")?;
    for file in files {
        writeln!(out, "| {} | {} | `{}` |", cell(&file.name), file.bytes, file.sha256)?;
    }
    Ok(())
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Text for a cell of a table: names come from files.
fn cell(text: &str) -> String {
    let harmless = |c: char| if c.is_control() { ' ' } else { c };
    let mut out = String::new();
    for c in text.chars().map(harmless) {
        if matches!(c, '|' | '<' | '>' | '`' | '*' | '_' | '[' | ']' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Text between backquotes.
fn code(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && *c != '`').collect()
}

/// Front matter and the rest.
fn split(card: &str) -> (&str, &str) {
    let rest = card.strip_prefix('\u{feff}').unwrap_or(card);
    let Some(rest) = rest.strip_prefix("---\n").or_else(|| rest.strip_prefix("---\r\n")) else { return ("", rest) };
    if let Some(body) = rest.strip_prefix("---\n") {
        return ("", body);
    }
    match rest.find("\n---").map(|at| (at, &rest[at + 4..])) {
        Some((at, body)) if body.is_empty() || body.starts_with(['\n', '\r']) => {
            (&rest[..=at], body.trim_start_matches('\r').strip_prefix('\n').unwrap_or_default())
        }
        _ => ("", card),
    }
}

/// The top keys of a block of YAML, each with its lines as they stand. A key owns the lines after it as far as the next key.
struct Entries(Vec<(String, String)>);

impl Entries {
    fn of(text: &str) -> Self {
        let mut entries: Vec<(String, String)> = Vec::new();
        for line in text.lines() {
            let key = line.split_once(':').map(|(key, _)| key.trim_matches(['"', '\''])).filter(|key| {
                let plain = |c: char| c.is_alphanumeric() || "_-.".contains(c);
                !line.starts_with([' ', '\t', '-', '#']) && !key.is_empty() && key.chars().all(plain)
            });
            match (key, entries.last_mut()) {
                (Some(key), _) => entries.push((key.into(), format!("{line}\n"))),
                (None, Some(last)) => last.1 += &format!("{line}\n"),
                (None, None) => entries.push((String::new(), format!("{line}\n"))),
            }
        }
        Self(entries)
    }

    fn text(&self) -> String {
        self.0.iter().map(|e| e.1.as_str()).collect()
    }

    /// Puts a value in the place of the old one, or at the end.
    fn set(&mut self, key: &str, value: &str) {
        let line = format!("{key}: {}\n", scalar(value));
        match self.0.iter_mut().find(|e| e.0 == key) {
            Some(entry) => entry.1 = line,
            None => self.0.push((key.into(), line)),
        }
    }

    /// Adds lines if the key is not there.
    fn add(&mut self, key: &str, lines: &str) {
        if self.0.iter().all(|e| e.0 != key) {
            self.0.push((key.into(), format!("{lines}\n")));
        }
    }

    fn remove(&mut self, key: &str) {
        self.0.retain(|e| e.0 != key);
    }
}

/// A string of YAML: as it is where nothing else could be meant, else as JSON spells it.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let word = text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(plain);
    let other = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_ascii_lowercase().as_str());
    if word && !other { text.into() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn front(card: &str) -> Vec<(String, String)> {
        Entries::of(split(card).0).0
    }

    #[test]
    fn values_are_strings_of_yaml() {
        for (text, expected) in [
            ("apache-2.0", "apache-2.0"),
            ("org/name", "org/name"),
            ("no", "\"no\""),
            ("1.0", "\"1.0\""),
            ("a: b\"", "\"a: b\\\"\""),
        ] {
            assert_eq!(scalar(text), expected);
        }
        assert_eq!(front("---\na: 1\n---\nb: 2\n"), [("a".to_string(), "a: 1\n".to_string())]);
        assert!(front("a: 1\n").is_empty());
        assert_eq!(cell("a|b\n<c>"), "a\\|b \\<c\\>");
    }
}
