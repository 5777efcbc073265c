//! `haikuq convert --timings`: what each step took, as a table and as JSON.

use crate::output::table::Table;
use haikuq::convert::{Converted, Speeds};
use haikuq::timings::{Spent, Step, Timings};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Steps, and the kinds of matrices within each.
pub fn timings_text(converted: &Converted) -> String {
    let Converted { timings, jobs, .. } = converted;
    let Speeds { products: peak, rounding, .. } = speeds(*jobs);
    let mut table = Table::new(&["step", ">seconds", ">share", ">threads", ">TFLOP", ">GFLOP/s", ">of peak"]);
    let total: f64 = timings.by_step().iter().map(|(_, spent)| spent.seconds).sum();
    let mut row = |name: String, step: Step, spent: &Spent| {
        let speed = spent.flop / spent.seconds.max(1e-9);
        let of_products = |text: String| if spent.flop > 0.0 { text } else { String::new() };
        table.row([
            name,
            format!("{:.2}", spent.seconds),
            format!("{:.1} %", 100.0 * spent.seconds / total.max(1e-9)),
            format!("{:.1}", spent.cpu_seconds / spent.seconds.max(1e-9)),
            of_products(format!("{:.2}", spent.flop / 1e12)),
            of_products(format!("{:.0}", speed / 1e9)),
            of_products(format!("{:.0} %", 100.0 * speed / peak.of(step))),
        ]);
    };
    let kinds = by_kind(timings);
    for (step, spent) in timings.by_step() {
        row(step.name().to_string(), step, &spent);
        let of_step: Vec<_> = kinds.iter().filter(|((of, kind), _)| *of == step && !kind.is_empty()).collect();
        if of_step.len() > 1 {
            of_step.iter().for_each(|((_, kind), spent)| row(format!("  {kind}"), step, spent));
        }
    }
    format!(
        "{table}\n\n{total:.1} s in these steps; {jobs} threads multiply at {:.0} GFLOP/s in f32, at {:.0} in integers \
         (sensitivities, forward, moments, correction), and round {:.1} M weights/s\n",
        peak.floats / 1e9,
        peak.integers / 1e9,
        rounding / 1e6
    )
}

/// All of it, matrix by matrix.
pub fn timings_json(converted: &Converted) -> Value {
    let Converted { timings, jobs, .. } = converted;
    let speeds = speeds(*jobs);
    let matrix = |(step, matrix, spent): (Step, String, Spent)| json!({"step": step, "matrix": matrix, "spent": spent});
    json!({
        "threads": jobs,
        "peak_flops": speeds.products.floats,
        "peak_flops_in_integers": speeds.products.integers,
        "rounding_weights": speeds.rounding,
        "steps": timings.by_step().iter().map(|(step, spent)| json!({"step": step, "spent": spent})).collect::<Vec<_>>(),
        "matrices": timings.by_matrix().into_iter().filter(|m| !m.1.is_empty()).map(matrix).collect::<Vec<_>>(),
    })
}

/// Of so many threads, without a GPU.
fn speeds(jobs: usize) -> Speeds {
    let measure = || Speeds::measure(None);
    match rayon::ThreadPoolBuilder::new().num_threads(jobs).build() {
        Ok(threads) => threads.install(measure),
        Err(_) => measure(),
    }
}

/// Steps of matrices of one kind, all layers together.
fn by_kind(timings: &Timings) -> BTreeMap<(Step, String), Spent> {
    let mut sums = BTreeMap::<(Step, String), Spent>::new();
    for (step, matrix, spent) in timings.by_matrix() {
        let kind = matrix.rsplit('.').next().unwrap_or(&matrix).to_string();
        sums.entry((step, kind)).or_default().add(spent);
    }
    sums
}
