//! `haikuq calibrate` as a user types it, and whether what it measures predicts what errors cost.

mod support;

use haikuq::architecture::Decoder;
use haikuq::calibrate::file::CalibrationFile;
use haikuq::calibrate::text::checkpoint_files;
use haikuq::calibrate::{Calibration, CalibrationSource, CalibrationText, Options, measure};
use haikuq::checkpoint::Checkpoint;
use haikuq::golden::file::read_input_ids;
use haikuq::reference::Reference;
use haikuq_runtime::sampling::uniform;
use haikuq_runtime::text::Tokenizer;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{fail, succeed};

fn repository(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

fn haiku(file: &str) -> PathBuf {
    repository("golden/haiku-7m").join(file)
}

fn decoder(checkpoint: &Path) -> Decoder {
    Decoder::from_checkpoint(Checkpoint::open(checkpoint).unwrap()).unwrap()
}

/// `haikuq calibrate haiku-7m --text TEXT --out OUT ARGS`, of little text.
fn calibrate(text: &Path, out: &Path, args: &[&str]) -> Command {
    let mut command = support::haikuq();
    command.arg("calibrate").arg(haiku("")).arg("--text").arg(text).arg("--out").arg(out);
    command.args(["--windows", "6", "--window-tokens", "64", "--sensitivity-tokens", "128"]).args(args);
    command
}

#[test]
fn a_calibration_is_made_once_and_read_by_every_conversion_of_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("calibration.safetensors");
    let printed = succeed(calibrate(&haiku("calibration.jsonl"), &out, &["--json"])).stdout;
    let printed: serde_json::Value = serde_json::from_slice(&printed).unwrap();
    assert_eq!(printed["schema"], "haikuq.calibrate/1");
    assert_eq!((&printed["windows"], &printed["window_tokens"]), (&6.into(), &64.into()));
    assert_eq!(printed["sensitivity_tokens"], 128);
    assert_eq!(printed["text"][0]["name"], "calibration.jsonl");
    let matrices = printed["matrices"].as_array().unwrap();
    assert_eq!(matrices.len(), 1 + 8 * 4);
    let kl: Vec<f64> = matrices.iter().map(|m| m["kl"].as_f64().unwrap()).collect();
    assert!(kl.is_sorted_by(|a, b| a >= b) && kl.iter().all(|kl| *kl > 0.0), "{kl:?}");

    let file = CalibrationFile::read(&out).unwrap();
    assert_eq!(file.calibration.windows, read_input_ids(&out).unwrap(), "golden's readers know the ids too");
    assert_eq!(file.checkpoint.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["config.json", "model.safetensors"]);
    assert!(file.to_bytes().unwrap() == std::fs::read(&out).unwrap(), "reading a file and writing it again changes nothing");
    let decoder = decoder(&haiku(""));
    let no_tokenizer = || -> Result<Tokenizer, String> { panic!("a calibration file needs no tokenizer") };
    let source = CalibrationSource::from_path(&out);
    assert_eq!(source.load(&decoder, no_tokenizer, &Options::default(), None, &mut |_| {}).unwrap(), file.calibration);

    let again = dir.path().join("again.safetensors");
    let text = succeed(calibrate(&haiku("calibration.jsonl"), &again, &[])).stdout;
    assert!(std::fs::read(&out).unwrap() == std::fs::read(&again).unwrap(), "the same inputs give the same bytes");
    let text = String::from_utf8(text).unwrap();
    for part in
        ["class", "embedding", "attention", "mlp", "most sensitive", "6 windows of 64 tokens", "sensitivities of 128 tokens"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn texts_take_turns_and_the_built_in_one_stands_in_for_none() {
    let dir = tempfile::tempdir().unwrap();
    let (notes, out) = (dir.path().join("notes.txt"), dir.path().join("out.safetensors"));
    std::fs::write(&notes, "The sea was calm and the boats came home. ".repeat(20)).unwrap();
    let stderr = |command| String::from_utf8(succeed(command).stderr).unwrap();
    let mut both = calibrate(&notes, &out, &[]);
    both.arg("--text").arg(haiku("calibration.jsonl"));
    assert!(!stderr(both).contains("asked for"));
    let windows = |out| CalibrationFile::read(out).unwrap().calibration.windows;
    let mixed = windows(&out);
    let told = stderr(calibrate(&notes, &out, &[]));
    let alone = windows(&out);
    assert!(told.contains(&format!("notes.txt: {} windows of 64 tokens; 6 were asked for", alone.len())), "{told}");
    assert!(alone.len() > 1 && (&mixed[0], &mixed[2]) == (&alone[0], &alone[1]) && mixed[1] != alone[1]);

    let mut built_in = support::haikuq();
    built_in.arg("calibrate").arg(haiku("")).arg("--out").arg(&out).args(["--sensitivity-tokens", "64"]);
    assert!(!stderr(built_in).contains("asked for"), "there is enough of it");
    let calibration = CalibrationFile::read(&out).unwrap().calibration;
    assert_eq!((calibration.text[0].name.as_str(), calibration.windows.len()), ("built-in", 40));
}

#[test]
fn what_cannot_be_used_is_refused_with_names_and_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("short.txt"), "Too short.").unwrap();
    let told = fail(calibrate(&at("short.txt"), &at("out"), &[]));
    assert!(told.contains("short.txt has 4 tokens of text: not one window of 64 (at least 2)"), "{told}");
    let told = fail(calibrate(&at("missing.txt"), &at("out"), &[]));
    assert!(told.contains("missing.txt: No such file"), "{told}");
    std::fs::write(at("broken.jsonl"), "{\"text\": \"a\"}\n{\n").unwrap();
    let told = fail(calibrate(&at("broken.jsonl"), &at("out"), &[]));
    assert!(told.contains("broken.jsonl, line 2: "), "{told}");
    assert!(!at("out").exists());

    let path = at("calibration.safetensors");
    succeed(calibrate(&haiku("calibration.jsonl"), &path, &[]));
    let bytes = std::fs::read(&path).unwrap();
    let read = |bytes: &[u8]| CalibrationFile::from_bytes(bytes, Path::new("c")).unwrap_err().to_string();
    for n in [0, 7, 8, 1000, bytes.len() - 1] {
        assert!(read(&bytes[..n]).starts_with(&format!("c: {n} bytes that are no safetensors file, or not all of it: ")));
    }
    let told = CalibrationFile::read(&haiku("model.safetensors")).unwrap_err().to_string();
    assert!(told.ends_with("no calibration: a safetensors file, but not one that haikuq calibrate made"), "{told}");
    let replaced = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        read(&[&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat())
    };
    let told = replaced("haikuq.calibration/1", "haikuq.calibration/7");
    assert_eq!(told, "c: a calibration of format 7; this haikuq reads format 1");
    assert_eq!(
        replaced("\"layers.0.qkv.input\"", "\"layers.0.qkv.inpot\""),
        "c: layers.0.qkv.inpot: a tensor of no known meaning"
    );
    assert!(replaced("\"sensitivity_tokens\"", "\"sensitivity_takens\"").ends_with("\"sensitivity_tokens\": missing"));
    assert_eq!(
        replaced("\"input_ids\"", "\"ids.input\""),
        "c: ids.input: U16 of shape [6, 64] where F32 of one dimension is needed"
    );
}

#[test]
fn what_is_kept_of_layers_may_lie_on_disk_and_leaves_nothing_there() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let text = haiku("calibration.jsonl");
    let files = || std::fs::read_dir(at("spill")).unwrap().count();
    std::fs::create_dir(at("spill")).unwrap();
    succeed(calibrate(&text, &at("memory"), &[]));
    let spill = at("spill").display().to_string();
    succeed(calibrate(&text, &at("disk"), &["--spill", &spill]));
    assert!(std::fs::read(at("memory")).unwrap() == std::fs::read(at("disk")).unwrap(), "the same file");
    assert_eq!(files(), 0);

    // The same of a conversion that calibrates itself, and of one that fails.
    let mut plan = support::haikuq();
    plan.arg("convert").arg(haiku("")).args(["--dry-run", "--spill", &spill]).arg("--calibration").arg(&text);
    succeed(plan);
    assert_eq!(files(), 0);
    let mut broken = support::haikuq();
    std::fs::create_dir(at("broken")).unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(haiku(file), at("broken").join(file)).unwrap();
    }
    let mut weights = std::fs::read(haiku("model.safetensors")).unwrap();
    // The last layers' numbers become NaN.
    let half = weights.len() / 2 * 2 - 4096;
    weights[half..].fill(0xff);
    std::fs::write(at("broken/model.safetensors"), weights).unwrap();
    broken.arg("calibrate").arg(at("broken")).args(["--spill", &spill]).arg("--text").arg(&text).arg("--out").arg(at("out"));
    fail(broken);
    assert_eq!(files(), 0);

    let missing = at("missing").display().to_string();
    let told = fail(calibrate(&text, &at("out"), &["--spill", &missing]));
    assert!(told.contains("cannot keep activations in") && told.contains("missing: No such file"), "{told}");
}

#[test]
fn a_calibration_of_another_checkpoint_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("calibration.safetensors");
    succeed(calibrate(&haiku("calibration.jsonl"), &path, &[]));
    let load = |checkpoint: &Path| {
        let tokenizer = || Err::<Tokenizer, _>("not needed");
        let loaded =
            CalibrationSource::File(path.clone()).load(&decoder(checkpoint), tokenizer, &Options::default(), None, &mut |_| {});
        loaded.unwrap_err().to_string()
    };
    let told = load(&repository("tests/fixtures/architectures/llama"));
    assert!(told.contains("calibration.safetensors: made of another checkpoint: embedding.input has 256 numbers"), "{told}");

    // The same decoder with one weight changed.
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::copy(haiku("config.json"), other.join("config.json")).unwrap();
    let mut weights = std::fs::read(haiku("model.safetensors")).unwrap();
    let last = weights.len() - 2;
    weights[last] ^= 1;
    std::fs::write(other.join("model.safetensors"), weights).unwrap();
    let told = load(&other);
    assert!(told.contains("model.safetensors had 14696792 bytes and SHA-256 "), "{told}");

    // The same files may have other names.
    let file = CalibrationFile::read(&path).unwrap();
    let mut files = checkpoint_files(&decoder(&haiku(""))).unwrap();
    files.iter_mut().for_each(|f| f.name = format!("renamed-{}", f.name));
    file.check_checkpoint(&files, &path).unwrap();
}

/// Mean KL divergence in nats of the model with `changed` from the model without.
fn kl(decoder: &Decoder, windows: &[Vec<u32>], changed: &str, error: impl Fn(usize) -> f32) -> f64 {
    let logits = |change: bool| {
        let read = |name: &str| {
            let mut values = decoder.read(name)?;
            if change && name == changed {
                values.iter_mut().enumerate().for_each(|(i, w)| *w += error(i));
            }
            Ok::<_, haikuq::architecture::ArchitectureError>(values)
        };
        let (model, mut rows) = (Reference::load(&decoder.spec, read).unwrap(), Vec::new());
        for ids in windows {
            model.forward(ids, &mut model.new_cache(), |_, row| rows.push(log_softmax(row))).unwrap();
        }
        rows
    };
    let (before, after) = (logits(false), logits(true));
    let sum: f64 = before.iter().zip(&after).flat_map(|(p, q)| p.iter().zip(q).map(|(p, q)| p.exp() * (p - q))).sum();
    sum / before.len() as f64
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let sum = haikuq::logits::logsumexp(logits);
    logits.iter().map(|&l| f64::from(l) - sum).collect()
}

#[test]
fn sensitivities_predict_what_errors_of_a_matrix_cost() {
    let decoder = decoder(&haiku(""));
    let ids = read_input_ids(&haiku("reference.safetensors")).unwrap();
    let windows: Vec<Vec<u32>> = ids.iter().take(4).map(|w| w[..128].to_vec()).collect();
    let text = CalibrationText { sources: vec![], windows: windows.clone() };
    let Calibration { sensitivities, sensitivity_tokens, .. } =
        measure(&decoder, text, &Options::default(), &mut |_| {}).unwrap();
    assert_eq!(sensitivity_tokens, 512);
    for (seed, name) in
        ["layers.0.qkv", "layers.1.down", "layers.3.gate_up", "layers.5.attention_output", "layers.7.down", "embedding"]
            .into_iter()
            .enumerate()
    {
        let weights = decoder.read(name).unwrap();
        let size = (weights.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>() / weights.len() as f64).sqrt() * 0.05;
        // Uniform errors of root mean square `size`.
        let error = |i: usize| (size * 12f64.sqrt()) as f32 * (uniform(seed as u64, i as u64) - 0.5);
        let (expected, have) = (sensitivities[name].kl(size * size), kl(&decoder, &windows, name, error));
        println!("{name}: predicted {expected:.3e}, measured {have:.3e}, ratio {:.2}", have / expected);
        assert!((0.67..1.5).contains(&(have / expected)), "{name}: {have:e} where {expected:e} was predicted");
    }
}
