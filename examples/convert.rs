//! Converts a checkpoint: `cargo run --release --example convert -- CHECKPOINT OUT [RECIPE]`.

use haikuq::convert::{Conversion, Event};
use haikuq::quantize::Recipe;
use std::path::Path;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [checkpoint, out, rest @ ..] = arguments.as_slice() else { anyhow::bail!("usage: convert CHECKPOINT OUT [RECIPE]") };
    let recipe = Recipe::load(rest.first().map_or("q4", String::as_str))?;
    let converted = Conversion::new(checkpoint, recipe).run(Path::new(out), &|event| match event {
        Event::Warning(text) => eprintln!("warning: {text}"),
        Event::Planned(planned) => println!(
            "{} tensors in {} shards, {} bytes",
            planned.plan.tensors.len(),
            planned.plan.shards.len(),
            planned.plan.total_bytes()
        ),
        _ => {}
    })?;
    println!("{out}: {:.3} bits a weight", converted.manifest.bits_per_weight());
    Ok(())
}
