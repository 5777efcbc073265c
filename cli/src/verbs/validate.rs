//! `haikuq validate`: a package against golden outputs.

use crate::BELOW_THRESHOLDS;
use crate::arguments::browser::BrowserArgs;
use crate::arguments::generation::{CacheArg, ComputeArgs};
use crate::model::{is_package, open, open_tokenizer, read_manifest};
use crate::output::Context;
use crate::output::progress::Progress;
use crate::scored::Scored;
use anyhow::bail;
use clap::Args;
use haikuq::golden::file::Golden;
use haikuq::model::LanguageModel;
use haikuq::runner::RunnerOptions;
use haikuq::validate::Outcome;
use haikuq::validate::report::{Ingredients, Report, write_report};
use haikuq::validate::thresholds::Thresholds;
use haikuq_format::manifest::MANIFEST_FILE;
use std::path::PathBuf;
use std::process::ExitCode;

/// Compare a package with golden outputs
///
/// Runs the package on the GPU over the golden windows and prompts, and reports how far it is from them: perplexity,
/// KL divergence, top-1 agreement, greedy continuations. Exits 3 below a threshold. With --browser, a page runs the package
/// in a browser instead, and the report is the same.
#[derive(Args, Debug)]
pub struct ValidateArgs {
    /// Folder of the package
    package: PathBuf,
    /// Golden file, as `haikuq golden` writes it
    #[arg(long, value_name = "FILE")]
    golden: PathBuf,
    /// Largest mean KL divergence, in nats
    #[arg(long, value_name = "X", help_heading = "Thresholds")]
    max_kl: Option<f64>,
    /// Largest increase of perplexity, in percent
    #[arg(long, value_name = "PCT", help_heading = "Thresholds")]
    max_perplexity_increase: Option<f64>,
    /// Smallest top-1 agreement, in percent
    #[arg(long, value_name = "PCT", help_heading = "Thresholds")]
    min_top1: Option<f64>,
    /// TOML file with thresholds for each recipe; the options above go before it
    #[arg(long, value_name = "FILE", help_heading = "Thresholds")]
    thresholds: Option<PathBuf>,
    /// Write report.json, report.md and report.html to this folder
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Only the first N golden windows
    #[arg(long, value_name = "N", value_parser = crate::arguments::positive)]
    windows: Option<usize>,
    /// Only the first N golden prompts
    #[arg(long, value_name = "N")]
    prompts: Option<usize>,
    /// Positions of each window that count; continuations are compared whole
    #[arg(long, value_enum, default_value_t)]
    scored: Scored,
    /// Precision of the key/value cache
    #[arg(long, value_enum, default_value_t, value_name = "PRECISION")]
    cache: CacheArg,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Run the package's weights through the f32 reference on the CPU, to tell quantization from kernels; proves
    /// nothing about the package on a GPU
    #[arg(long)]
    reference: bool,
    #[command(flatten)]
    browser: BrowserArgs,
    /// Print the whole report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub fn run(args: ValidateArgs, context: &Context) -> anyhow::Result<ExitCode> {
    if !is_package(&args.package) {
        bail!("{} is no package: it has no {MANIFEST_FILE}", args.package.display());
    }
    let manifest = read_manifest(&args.package)?;
    let mut golden = Golden::read(&args.golden)?;
    golden.outputs.truncate(args.windows.unwrap_or(usize::MAX));
    golden.generations.truncate(args.prompts.unwrap_or(usize::MAX));
    let first = args.scored.first_position(golden.outputs.context);
    let thresholds = args.thresholds(&manifest.provenance.recipe)?;
    let tokenizer = open_tokenizer(&args.package)?;
    let mut page = args.browser.start(&args.package, args.cache.into(), args.compute.numerics, context)?;
    let (outcome, adapter, numerics) = match &mut page {
        Some(page) => {
            let there = page.connect()?;
            context.note(format_args!("running on {}", there.adapter));
            let outcome = measure(page, &golden, first, context);
            // The page waits for a word, also for a bad one.
            (outcome.inspect_err(|error| page.finish(false, &format!("{error:#}")))?, there.adapter, there.numerics)
        }
        None => {
            let mut options = RunnerOptions::new(context.adapter.clone(), args.cache.into());
            args.compute.apply(&mut options);
            let mut opened = open(&args.package, false, args.reference, &options)?;
            context.warn(&opened.notes);
            (measure(opened.model.as_mut(), &golden, first, context)?, opened.adapter, Some(opened.numerics))
        }
    };
    let decode = |ids: &[u32]| tokenizer.decode(ids, false).unwrap_or_else(|_| format!("{ids:?}"));
    let report = Report::new(Ingredients {
        manifest: &manifest,
        golden: &golden,
        checks: thresholds.check(&outcome.measured.summary),
        outcome: &outcome,
        adapter,
        numerics,
        decode: &decode,
    });
    if let Some(page) = &mut page {
        page.finish(report.passed, &summary(&report));
    }
    if report.golden.same_checkpoint == Some(false) {
        context.note("warning: the golden outputs were recorded from other weights than the package was made from");
    }
    if let Some(folder) = &args.report {
        write_report(&report, folder)?;
        context.note(format_args!("report: {}", folder.join("report.html").display()));
    }
    if args.json {
        context.print_json(&report)?;
    } else {
        context.print(summary(&report))?;
    }
    for check in report.thresholds.iter().filter(|c| !c.passed) {
        context.note(format_args!("below threshold: {}, measured {}", check.demand(), check.measured));
    }
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::from(BELOW_THRESHOLDS) })
}

fn measure(model: &mut dyn LanguageModel, golden: &Golden, first: usize, context: &Context) -> anyhow::Result<Outcome> {
    let mut progress = Progress::new(context, golden.outputs.windows, "windows");
    Ok(haikuq::validate::compare(model, golden, first, &mut |done| progress.set(done))?)
}

impl ValidateArgs {
    fn thresholds(&self, recipe: &str) -> anyhow::Result<Thresholds> {
        let mut typed = Thresholds::default();
        typed.max_kl = self.max_kl;
        typed.max_perplexity_increase = self.max_perplexity_increase;
        typed.min_top1 = self.min_top1;
        Ok(match &self.thresholds {
            Some(path) => typed.or(Thresholds::read(path, recipe)?),
            None => typed,
        })
    }
}

fn summary(report: &Report) -> String {
    let s = &report.summary;
    let error = |e: Option<f64>, digits: usize| e.map_or(String::new(), |e| format!(" ± {e:.digits$}"));
    let same = report.continuations.iter().filter(|c| c.first_difference.is_none()).count();
    let verdict = match (report.thresholds.is_empty(), report.passed) {
        (true, _) => "no thresholds given",
        (_, true) => "passed",
        (_, false) => "below its thresholds",
    };
    [
        format!(
            "package        {}, {:.3} bits a weight, on {}",
            report.package.recipe, report.package.bits_per_weight, report.adapter
        ),
        format!(
            "perplexity     {:.4} (golden {:.4}), {:+.3} %{}",
            s.perplexity,
            s.golden_perplexity,
            s.perplexity_increase_percent,
            error(s.perplexity_increase_standard_error, 3)
        ),
        format!(
            "KL divergence  mean {:.3e}{}, median {:.1e}, 99 % {:.1e}, largest {:.1e}",
            s.mean_kl,
            s.mean_kl_standard_error.map_or(String::new(), |e| format!(" ± {e:.1e}")),
            s.median_kl,
            s.p99_kl,
            s.max_kl
        ),
        format!("top-1          {:.2} % ± {:.2}", s.top1_percent, s.top1_standard_error),
        format!("continuations  {same} of {} the same token for token", report.continuations.len()),
        format!(
            "speed          {:.0} tokens/s scored, {:.1} tokens/s generated",
            report.speed.score_tokens_per_second, report.speed.generate_tokens_per_second
        ),
        format!("result         {verdict}"),
    ]
    .join("\n")
}
