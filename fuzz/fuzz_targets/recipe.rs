//! Recipes.

#![cfg_attr(fuzzing, no_main)]

use haikuq::quantize::Recipe;
use haikuq_fuzz::fixtures::{files, read, tiny_spec};
use haikuq_fuzz::fuzz_target;
use haikuq_fuzz::mutate::Mutator;
use haikuq_fuzz::target::{Outcome, Target};

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = files("configs", ".toml").iter().map(|f| read(f)).collect();
    let classes = "embedding = 'q8/32'\nattention = 'q4/32'\nmlp = 'q3/64+u4'\nhead = 'f16'\ncalibrate = true\n";
    seeds.push(format!("{classes}[[override]]\npattern = '^layers\\.0\\.'\nscheme = 'q8/128'\n").into_bytes());
    seeds.push(b"target_bits = 4.5\nschemes = [\"q3/32:e4m4 learned\", \"q4/32:e4m4 learned\", \"q8/64\"]\n".to_vec());
    seeds
}

fn run(input: &[u8]) -> Outcome {
    let text = std::str::from_utf8(input).map_err(|e| e.to_string())?;
    // The lines before the last show the recipe.
    let last = |said: String| said.lines().last().unwrap_or_default().to_owned();
    let recipe = Recipe::parse("fuzz", text).map_err(|e| last(e.to_string()))?;
    let spec = tiny_spec();
    let fixed = recipe.fixed_schemes(&spec.tensors()).map_err(|e| format!("parsed, {e}"))?;
    let changed = recipe.with_target(3.5).is_ok();
    Ok(format!("a recipe, {} schemes, {changed}", fixed.iter().flatten().count()))
}

fuzz_target!(Target {
    name: "recipe",
    seeds,
    dictionary: &[
        "embedding = ",
        "attention = ",
        "mlp = ",
        "head = ",
        "calibrate = true",
        "target_bits = ",
        "schemes = [",
        "[[override]]",
        "pattern = ",
        "scheme = ",
        "'q4/32'",
        "'q3/64+u4'",
        "'q8/64'",
        "'q3/32:e4m4 learned'",
        "'f16'",
        "'f32'",
        "q2/32",
        "/0",
        "/18446744073709551616",
        ":f16",
        ":e4m4",
        "+u4",
        " learned",
        "\n",
        "'''",
        "\"\"\"",
        "[",
        "]",
        "{",
        "}",
        "=",
        ".",
        "nan",
        "inf",
        "1e999",
        "0x",
        "2024-01-01T00:00:00Z",
        "\\u0000",
        "(?i)",
        "(a*)*",
        "x{1000}",
        "(x{1000}){1000}",
        "\\p{L}{999}",
        "[^a]",
        "(?P<n>a)",
        "\\b",
        "^layers",
        "$",
        "|",
        "(",
        ")",
    ],
    mutate: |input: &mut Vec<u8>, mutator: &mut Mutator<'_>| mutator.bytes(input),
    most_bytes: 4 << 10,
    run,
});
