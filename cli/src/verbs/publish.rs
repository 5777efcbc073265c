//! `haikuq publish`: a package as a model on the Hugging Face hub.

use crate::model::{read_manifest, read_report};
use crate::output::Context;
use crate::output::table::Table;
use crate::output::units::{counted, human_bytes};
use crate::output::upload_progress::UploadProgress;
use anyhow::{Context as _, bail, ensure};
use clap::Args;
use haikuq::card::Card;
use haikuq_format::Manifest;
use haikuq_format::manifest::MANIFEST_FILE;
use haikuq_hub::{Action, Change, HubError, HubId, Licence, LocalFile, Plan, Published, Remote, Settings};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The page of a repository.
const CARD: &str = "README.md";

/// The first lines of the help.
const EXAMPLES: &str = "\
haikuq publish smollm2.q4 me/smollm2-q4 --dry-run          what would change, and nothing else
haikuq publish smollm2.q4 me/smollm2-q4 --report report    with the losses that validate measured
haikuq publish mine.q4 me/mine-q4 --private --license mit  of a checkpoint that is not on the hub";

/// Publish a package as a model on the Hugging Face hub
///
/// Files that the hub has by their hash are not sent. All changes are one commit, which is refused if somebody else's came in
/// between. The model card is made of the manifest and a validation's report; of a card that is there, only the marked part is
/// written anew. HF_TOKEN or `hf auth login` says who publishes.
#[derive(Args, Debug)]
#[command(before_help = EXAMPLES)]
pub struct PublishArgs {
    /// Folder of the package
    package: PathBuf,
    /// Model on the hub, org/name; it is made if it is not there
    #[arg(value_name = "ORG/NAME")]
    repo: String,
    /// Branch; it begins at main if it is not there [default: main]
    #[arg(long, value_name = "BRANCH")]
    revision: Option<String>,
    /// Make a new repository one that only its owners see; an existing public one is refused
    #[arg(long)]
    private: bool,
    /// Say what would change; nothing is written
    #[arg(long)]
    dry_run: bool,
    /// Licence, by the hub's name for it (apache-2.0, mit, other, …) [default: the card's, or the base model's]
    #[arg(long, alias = "licence", value_name = "ID")]
    license: Option<String>,
    /// Checkpoint on the hub that the package was made of [default: as the package says]
    #[arg(long, value_name = "ORG/NAME")]
    base_model: Option<String>,
    /// Folder or report.json that `haikuq validate --report` wrote, for the card
    #[arg(long, value_name = "PATH")]
    report: Option<PathBuf>,
    /// First line of the commit
    #[arg(long, value_name = "TEXT", default_value = "Publish with haikuq")]
    message: String,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

/// Compares, and publishes unless that was all that was asked for.
pub fn run(args: PublishArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let settings = Settings::from_env()?;
    let id = args.id(&settings)?;
    let (manifest, mut files) = read_package(&args.package)?;
    let report = args.report.as_deref().map(|path| read_report(path, &manifest)).transpose()?;
    let progress = UploadProgress::new(context);
    let on_event = |event: haikuq_hub::UploadEvent| progress.take(event);
    let remote = Remote::look(&id, &settings, &on_event)?;
    let there = remote.read(CARD, &on_event)?.map(String::from_utf8).transpose().context("the hub's README.md is not UTF-8")?;
    let base_model = args.base_model.clone().or_else(|| manifest.provenance.hub.as_ref().map(|hub| hub.repo.clone()));
    let licence = args.licence(&manifest, base_model.as_deref(), there.as_deref(), &settings, &on_event)?;
    let card = Card {
        repo: &id.repo,
        manifest: &manifest,
        report: report.as_ref(),
        base_model: base_model.as_deref(),
        licence: &licence,
    };
    // Shards first and the manifest last: a reader that finds the manifest finds the rest.
    files.insert(files.len() - 1, LocalFile::made(CARD, card.render(there.as_deref()).into_bytes()));
    let stale = stale(remote.read(MANIFEST_FILE, &on_event)?.as_deref());
    let plan = Plan::new(remote, files, stale, &on_event)?;
    let (exists, parent) = (plan.remote().exists(), plan.remote().commit().map(str::to_string));
    let changes = plan.changes().to_vec();
    if !args.json {
        context.print(table(&changes))?;
    }
    let published = match args.dry_run {
        true => None,
        false => Some(plan.publish(&args.message, args.private, &on_event)),
    };
    progress.finish();
    let published = published.transpose().with_context(|| format!("cannot publish {} to {}", args.package.display(), id.repo))?;
    let revision = id.revision.as_deref().unwrap_or("main");
    let written = || changes.iter().filter(|c| matches!(c.action, Action::Add | Action::Replace));
    let (count, bytes) = (written().count(), written().map(|c| c.bytes).sum::<u64>());
    let url = format!("{}/{}/tree/{revision}", settings.endpoint, id.repo);
    if args.json {
        let file = |c: &Change| json!({"path": c.path, "action": name(c.action), "bytes": c.bytes});
        context.print_json(&json!({
            "schema": "haikuq.publish/1",
            "repo": id.repo,
            "revision": revision,
            "url": url,
            "dry_run": args.dry_run,
            "exists": exists,
            "parent": parent,
            "files": changes.iter().map(file).collect::<Vec<_>>(),
            "bytes": bytes,
            "commit": published.as_ref().map(|p| &p.commit),
            "changed": published.as_ref().is_some_and(|p| p.changed),
            "sent_bytes": published.as_ref().map_or(0, |p| p.sent),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let what = format!("{} with {}", counted(count, "file"), human_bytes(bytes));
    context.print(match published {
        None if exists => format!("{} at {revision}: {what} would change; nothing was written", id.repo),
        None => format!("{} would be made, with {what}; nothing was written", id.repo),
        Some(Published { changed: false, commit, .. }) => format!("{url}: commit {commit} has everything already"),
        Some(Published { commit, sent, .. }) => format!("{url}: commit {commit}, {what}, {} sent beside it", human_bytes(sent)),
    })?;
    Ok(ExitCode::SUCCESS)
}

impl PublishArgs {
    fn id(&self, settings: &Settings) -> Result<HubId, HubError> {
        let id = HubId::parse(&self.repo, &settings.hosts())?;
        let fail = |why: &str| Err(HubError::Id { text: self.repo.clone(), why: why.into() });
        match (&self.revision, &id.revision, &id.file) {
            (_, _, Some(file)) => fail(&format!("a package is published to a repository, and {file} is a file in one")),
            (Some(flag), Some(named), _) if flag != named => fail(&format!("--revision says {flag}")),
            (None, ..) => Ok(id),
            (Some(flag), ..) => HubId { revision: Some(flag.clone()), ..id }.checked(),
        }
    }

    /// What the card says of the licence; nothing where the card that is there says it.
    fn licence(
        &self,
        manifest: &Manifest,
        base: Option<&str>,
        card: Option<&str>,
        settings: &Settings,
        on_event: &dyn Fn(haikuq_hub::UploadEvent),
    ) -> anyhow::Result<Vec<(&'static str, String)>> {
        if let Some(id) = &self.license {
            return Ok(vec![("license", id.clone())]);
        }
        if card.is_some_and(Card::has_licence) {
            return Ok(Vec::new());
        }
        const ASK: &str = "name the licence that the package is published under: --license apache-2.0, for example";
        let Some(base) = base else {
            bail!("neither the package nor a card on the hub tells of a licence; {ASK}");
        };
        let base_id = HubId::parse(&format!("hf:{base}"), &settings.hosts())?;
        let commit = manifest.provenance.hub.as_ref().filter(|hub| hub.repo == base).map(|hub| hub.commit.clone());
        let base_id = HubId { revision: commit, ..base_id };
        let Licence { id, name, link } =
            Licence::of(&base_id, settings, on_event).with_context(|| format!("cannot ask for the licence of {base}; {ASK}"))?;
        let Some(id) = id else { bail!("the card of {base} names no licence; {ASK}") };
        let more = [("license_name", name), ("license_link", link)];
        Ok(std::iter::once(("license", id)).chain(more.into_iter().filter_map(|(key, value)| Some((key, value?)))).collect())
    }
}

/// The manifest, and the package's files, hashed: shards, other files, the manifest.
fn read_package(folder: &Path) -> anyhow::Result<(Manifest, Vec<LocalFile>)> {
    let manifest = read_manifest(folder)?;
    let mut files = Vec::new();
    for entry in manifest.shards.iter().chain(&manifest.files) {
        ensure!(!entry.name.eq_ignore_ascii_case(CARD), "the package has a file {CARD}, where the model card belongs");
        let file = LocalFile::read(&entry.name, folder.join(&entry.name))?;
        ensure!(
            file.sha256 == entry.sha256,
            "{}: its SHA-256 is {}, and the manifest says {}; nothing was published",
            folder.join(&entry.name).display(),
            file.sha256,
            entry.sha256
        );
        files.push(file);
    }
    files.push(LocalFile::read(MANIFEST_FILE, folder.join(MANIFEST_FILE))?);
    Ok((manifest, files))
}

/// The files of the package that the hub has, by its manifest. Any other file in the repository is nobody's to remove.
fn stale(manifest: Option<&[u8]>) -> Vec<String> {
    let Some(manifest) = manifest.and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok()) else { return Vec::new() };
    let list = |key: &str| manifest.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let names = list("shards").into_iter().chain(list("files"));
    names.filter_map(|file| Some(file.get("name")?.as_str()?.to_string())).filter(|name| name != CARD).collect()
}

fn name(action: Action) -> &'static str {
    match action {
        Action::Add => "add",
        Action::Replace => "replace",
        Action::Keep => "keep",
        Action::Remove => "remove",
    }
}

fn table(changes: &[Change]) -> String {
    let mut table = Table::new(&["", "file", ">size"]);
    for change in changes {
        let size = if change.action == Action::Remove { String::new() } else { human_bytes(change.bytes) };
        table.row([name(change.action).into(), change.path.clone(), size]);
    }
    table.to_string()
}
