//! `haikuq verify`: does a package hold what its manifest promises?

use crate::output::Context;
use crate::output::units::human_bytes;
use clap::Args;
use haikuq_format::manifest::Manifest;
use haikuq_runtime::package::{FolderSource, Package, PackageError};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Check a package's structure and every hash
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// Folder of the package
    package: PathBuf,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// Lists every problem; exit code 1 if there is one. A manifest that cannot be trusted ends the search, since it is
/// what all else is checked against.
pub fn run(args: VerifyArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let (manifest, problems) = match pollster::block_on(Package::open(FolderSource::new(&args.package))) {
        Ok(package) => (Some(package.manifest().clone()), pollster::block_on(problems(&package))),
        Err(error) => (None, vec![error]),
    };
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let checked = manifest.as_ref().map_or(0, files);
    if args.json {
        context
            .print_json(&json!({"package": args.package, "ok": problems.is_empty(), "files": checked, "problems": problems}))?;
    } else {
        for problem in &problems {
            context.print(format_args!("{}: {problem}", args.package.display()))?;
        }
        if let (Some(manifest), true) = (&manifest, problems.is_empty()) {
            let size = human_bytes(manifest.weight_bytes());
            context.print(format_args!("{}: good: {checked} files, {size} of weights", args.package.display()))?;
        }
    }
    match problems.len() {
        0 => Ok(ExitCode::SUCCESS),
        1 => anyhow::bail!("{} is not good: {}", args.package.display(), problems[0]),
        n => anyhow::bail!("{} is not good: {n} problems", args.package.display()),
    }
}

fn files(manifest: &Manifest) -> usize {
    manifest.shards.len() + manifest.files.len()
}

/// Reads every file of the package, one at a time.
async fn problems(package: &Package) -> Vec<PackageError> {
    let mut found = Vec::new();
    for shard in 0..package.manifest().shards.len() {
        found.extend(package.read_shard(shard).await.err());
    }
    for file in &package.manifest().files {
        found.extend(package.read_file(&file.name).await.err());
    }
    found
}
