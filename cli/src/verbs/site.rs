//! `haikuq site`: the chat app and packages as a folder for a static host.

use crate::arguments::generation::NumericsArg;
use crate::output::Context;
use crate::output::units::human_bytes;
use clap::Args;
use haikuq_serve::export::export;
use haikuq_serve::{PageLoad, ServedPackage, Site};
use std::path::PathBuf;
use std::process::ExitCode;

/// Write the chat app and packages to a folder that any static host can serve
///
/// The folder has the app, the benchmark page, packages/index.json, which the app lists, and the packages' files (hard links
/// where the file system allows). Upload it to an https host as it is; it works under any path.
#[derive(Args, Debug)]
pub struct SiteArgs {
    /// Folder to write; it gets its name when it is complete
    #[arg(value_name = "DIR")]
    out: PathBuf,
    /// Folders of the packages; a folder's name is its package's name
    #[arg(value_name = "PACKAGE", required = true)]
    packages: Vec<PathBuf>,
    /// Replace a site that was written to DIR before
    #[arg(long)]
    force: bool,
    /// Folder of the built pages [default: those that come with the program]
    #[arg(long, value_name = "DIR")]
    site: Option<PathBuf>,
    /// Exact or fast arithmetic on the browser's GPU (packages in f32 are always exact)
    #[arg(long, value_enum, default_value_t, value_name = "NUMERICS")]
    numerics: NumericsArg,
}

/// Writes the folder.
pub fn run(args: SiteArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let packages = args.packages.iter().map(|folder| ServedPackage::open(folder)).collect::<Result<Vec<_>, _>>()?;
    let site = Site::find(args.site.as_deref())?;
    let load = PageLoad::new(args.numerics.name());
    let written = export(&site, packages, load, &args.out, args.force)?;
    let (largest, bytes) = &written.largest;
    context.note(format_args!(
        "{}: {} files, {}; the largest is {} with {}",
        args.out.display(),
        written.files,
        human_bytes(written.bytes),
        largest.display(),
        human_bytes(*bytes)
    ));
    Ok(ExitCode::SUCCESS)
}
