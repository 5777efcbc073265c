//! `haikuq merge`: the parts of a conversion become one package.

use crate::output::Context;
use crate::output::units::{counted, human_bytes};
use anyhow::Context as _;
use clap::Args;
use haikuq::convert;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// The first lines of the help.
const EXAMPLES: &str = "\
haikuq convert big -r q4-fast --part 1/2 --out part-1        on one machine
haikuq convert big -r q4-fast --part 2/2 --out part-2        on another
haikuq merge part-1 part-2 --out big.q4                      the package, as one run makes it";

/// Merge the parts of a conversion into one package
///
/// Every file is hashed. Parts on the same file system share their files with the package, others are copied; the folders of
/// the parts can be removed afterwards.
#[derive(Args, Debug)]
#[command(before_help = EXAMPLES)]
pub struct MergeArgs {
    /// Folders that `haikuq convert --part` made, in any order
    #[arg(required = true, value_name = "PART")]
    parts: Vec<PathBuf>,
    /// Folder of the package; it gets its name when it is complete
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Print what was made as JSON
    #[arg(long)]
    json: bool,
}

/// Merges them.
pub fn run(args: MergeArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let failed = || format!("cannot merge into {}", args.out.display());
    let manifest = convert::merge(&args.parts, &args.out).with_context(failed)?;
    context.warn(&convert::heavy_losses(&manifest));
    match args.json {
        true => context.print_json(&json!({
            "schema": "haikuq.merge/1",
            "package": args.out,
            "parts": args.parts.len(),
            "bytes": manifest.weight_bytes(),
            "bits_per_weight": manifest.bits_per_weight(),
            "shards": manifest.shards,
        }))?,
        false => context.print(format_args!(
            "{}: {} of {}, {}, {:.3} bits a weight",
            args.out.display(),
            counted(manifest.shards.len(), "shard"),
            counted(args.parts.len(), "part"),
            human_bytes(manifest.weight_bytes()),
            manifest.bits_per_weight()
        ))?,
    }
    Ok(ExitCode::SUCCESS)
}
