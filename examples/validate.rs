//! Compares a package with golden outputs: `cargo run --release --example validate -- PACKAGE GOLDEN`.

use haikuq::golden::file::Golden;
use haikuq::runner::{Runner, RunnerOptions};
use haikuq::validate::compare;
use std::path::Path;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [package, golden] = arguments.as_slice() else { anyhow::bail!("usage: validate PACKAGE GOLDEN") };
    let golden = Golden::read(Path::new(golden))?;
    let mut runner = Runner::load(Path::new(package), &RunnerOptions::default(), &mut |_| ())?;
    let windows = golden.outputs.windows;
    let outcome = compare(&mut runner, &golden, 0, &mut |done| eprintln!("{done} of {windows} windows"))?;
    let summary = outcome.measured.summary;
    println!(
        "mean KL divergence {:.4} nats, perplexity {:.3}, top-1 {:.1} %",
        summary.mean_kl, summary.perplexity, summary.top1_percent
    );
    Ok(())
}
