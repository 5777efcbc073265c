//! Calibrated conversion as a user types it: what it loses, that it gives the same every time, and that an interruption
//! costs nothing. It also gives the same however a checkpoint is scaled.

mod support;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{TinyCheckpoint, fail, read_json, succeed};

fn haiku(file: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("golden/haiku-7m").join(file)
}

/// Four bits and a half a weight in the body, eight in the embedding.
const BODY: &str = r#"
target_bits = 5.03
schemes = ["q3/32:e4m4 learned", "q4/32:e4m4 learned", "q8/64"]

[[override]]
pattern = '^embedding$'
scheme = "q8/64"
"#;

struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("body.toml"), BODY).unwrap();
        Self { dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A calibration of `checkpoint` on so many windows of 128 tokens of its own text.
    fn calibration(&self, checkpoint: &Path, windows: &str) -> PathBuf {
        let out = self.at("calibration.safetensors");
        let mut command = support::haikuq();
        command.arg("calibrate").arg(checkpoint).arg("--text").arg(haiku("calibration.jsonl")).arg("--out").arg(&out);
        succeed({
            command.args(["--windows", windows, "--window-tokens", "128", "--sensitivity-tokens", "512"]);
            command
        });
        out
    }

    fn convert(&self, checkpoint: &Path, calibration: &Path, out: &str, args: &[&str]) -> Command {
        let mut command = support::haikuq();
        command.arg("convert").arg(checkpoint).arg("--out").arg(self.at(out)).arg("--calibration").arg(calibration);
        command.arg("--recipe").arg(self.at("body.toml")).args(args);
        command
    }

    /// Mean KL divergence on the embedded checkpoint's evaluation text.
    fn kl(&self, package: &Path) -> f64 {
        let mut command = support::haikuq();
        command.arg("validate").arg(package).arg("--golden").arg(haiku("reference.safetensors"));
        let output = succeed({
            command.args(["--reference", "--json"]);
            command
        });
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        json["summary"]["mean_kl"].as_f64().unwrap_or_else(|| panic!("{json}"))
    }

    fn shards(&self, package: &str) -> serde_json::Value {
        read_json(&self.at(package).join("haikuq.json"))["shards"].clone()
    }
}

/// What belongs to the embedded checkpoint but for its weights, in a new folder.
fn without_weights(out: &Path) {
    std::fs::create_dir(out).unwrap();
    for file in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(haiku(file), out.join(file)).unwrap();
    }
}

/// The embedded checkpoint's first layers: for what does not depend on how well it writes.
fn shallow(out: &Path) {
    without_weights(out);
    let mut config = read_json(&out.join("config.json"));
    config["num_hidden_layers"] = LAYERS.into();
    support::write_json(&out.join("config.json"), &config);
    let bytes = std::fs::read(haiku("model.safetensors")).unwrap();
    let mut tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    let layer = |name: &str| name.strip_prefix("model.layers.")?.split('.').next()?.parse::<usize>().ok();
    tensors.retain(|(name, _)| layer(name).is_none_or(|layer| layer < LAYERS));
    safetensors::serialize_to_file(tensors, None, &out.join("model.safetensors")).unwrap();
}

/// Layers of [`shallow`]: with fewer, eight bits for the embedding would be more than [`BODY`] allows.
const LAYERS: usize = 3;

/// The embedded checkpoint with every input of its matrices rescaled by factors from 1/64 to 64 that norms, values and
/// the `up` half take back, and the norms' gains folded into the weights: the same function.
fn badly_scaled(out: &Path) {
    without_weights(out);
    let bytes = std::fs::read(haiku("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = file
        .iter()
        .map(|(name, view)| {
            assert_eq!(view.dtype(), Dtype::BF16, "{name}");
            let values = view.data().chunks_exact(2).map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16));
            (name.to_string(), (view.shape().to_vec(), values.collect()))
        })
        .collect();
    let config = read_json(&out.join("config.json"));
    let number = |key: &str| config[key].as_u64().unwrap() as usize;
    let (heads, kv_heads, hidden) = (number("num_attention_heads"), number("num_key_value_heads"), number("hidden_size"));
    let head_dim = config["head_dim"].as_u64().map_or(hidden / heads, |d| d as usize);
    // Powers of two, which change no mantissa.
    let factor = |i: usize| 2f32.powi((i * 7919 % 13) as i32 - 6);
    let mut scale = |name: String, rows: &dyn Fn(usize) -> f32, columns: &dyn Fn(usize) -> f32| {
        let (shape, values) = tensors.get_mut(&name).unwrap_or_else(|| panic!("{name}"));
        let width = shape.get(1).copied().unwrap_or(1);
        values.iter_mut().enumerate().for_each(|(i, w)| *w *= rows(i / width) * columns(i % width));
    };
    let one = |_: usize| 1.0;
    for layer in 0..number("num_hidden_layers") {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        for part in ["q_proj", "k_proj", "v_proj"] {
            scale(name(&format!("self_attn.{part}")), &one, &factor);
        }
        scale(name("input_layernorm"), &|r| 1.0 / factor(r), &one);
        scale(name("self_attn.v_proj"), &factor, &one);
        let value = |c: usize| c / head_dim / (heads / kv_heads) * head_dim + c % head_dim;
        scale(name("self_attn.o_proj"), &one, &|c| 1.0 / factor(value(c)));
        for part in ["gate_proj", "up_proj"] {
            scale(name(&format!("mlp.{part}")), &one, &factor);
        }
        scale(name("post_attention_layernorm"), &|r| 1.0 / factor(r), &one);
        scale(name("mlp.up_proj"), &factor, &one);
        scale(name("mlp.down_proj"), &one, &|c| 1.0 / factor(c));
    }
    let stored: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, (shape, values))| (name, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views = stored.iter().map(|(n, shape, b)| (n.as_str(), TensorView::new(Dtype::F32, shape.clone(), b).unwrap()));
    safetensors::serialize_to_file(views, None, &out.join("model.safetensors")).unwrap();
}

#[test]
fn calibrated_rounding_loses_little_however_the_checkpoint_is_scaled() {
    let world = World::new();
    let text = haiku("calibration.jsonl");
    succeed(world.convert(&haiku(""), &text, "a", &[]));
    let kl = world.kl(&world.at("a"));
    assert!(kl <= 0.040, "{kl}");
    badly_scaled(&world.at("scaled"));
    succeed(world.convert(&world.at("scaled"), &text, "b", &[]));
    let scaled = world.kl(&world.at("b"));
    assert!(scaled <= 0.042, "{scaled} badly scaled, {kl} as it was");
}

#[test]
fn any_number_of_threads_gives_the_same_bytes_and_a_killed_conversion_goes_on() {
    let world = World::new();
    let checkpoint = world.at("shallow");
    shallow(&checkpoint);
    let calibration = world.calibration(&checkpoint, "4");
    succeed(world.convert(&checkpoint, &calibration, "one", &["--jobs", "1"]));
    succeed(world.convert(&checkpoint, &calibration, "two", &["--jobs", "2", "--shard-size", "32MiB"]));
    assert_eq!(world.shards("one"), world.shards("two"));

    let mut command = world.convert(&checkpoint, &calibration, "three", &[]);
    let mut running = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let matrices = world.at("three.partial/matrices");
    let begin = Instant::now();
    while std::fs::read_dir(&matrices).map_or(0, |entries| entries.count()) < 5 {
        assert!(begin.elapsed() < Duration::from_secs(120), "no matrices in {}", matrices.display());
        assert!(running.try_wait().unwrap().is_none(), "finished before it could be stopped");
        std::thread::sleep(Duration::from_millis(5));
    }
    running.kill().unwrap();
    running.wait().unwrap();
    let unfinished = fail(world.convert(&checkpoint, &calibration, "three", &[]));
    assert!(unfinished.contains("--resume"), "{unfinished}");
    // A matrix that was cut off is made again.
    let first = std::fs::read_dir(&matrices).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&first, b"cut").unwrap();
    succeed(world.convert(&checkpoint, &calibration, "three", &["--resume"]));
    assert_eq!(world.shards("one"), world.shards("three"));
    assert!(!world.at("three.partial").exists());

    // So is a calibration that was measured before.
    let text = haiku("calibration.jsonl");
    let mut command = world.convert(&checkpoint, &text, "five", &[]);
    let mut running = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (begin, matrices) = (Instant::now(), world.at("five.partial/matrices"));
    while std::fs::read_dir(&matrices).map_or(0, |entries| entries.count()) < 1 {
        assert!(begin.elapsed() < Duration::from_secs(120), "no matrices in {}", matrices.display());
        assert!(running.try_wait().unwrap().is_none(), "finished before it could be stopped");
        std::thread::sleep(Duration::from_millis(5));
    }
    running.kill().unwrap();
    running.wait().unwrap();
    let told = String::from_utf8(succeed(world.convert(&checkpoint, &text, "five", &["--resume"])).stderr).unwrap();
    assert!(told.contains("the calibration of the interrupted run is taken up"), "{told}");
    assert!(!world.at("five.partial").exists());

    // The interrupted run kept the inputs of the second layer, so the resumed one does not compute the first layer again.
    let mut command = world.convert(&checkpoint, &calibration, "four", &["--save-interval", "0"]);
    let mut running = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let kept = world.at("four.partial/matrices/layer-1.stored");
    let begin = Instant::now();
    while !kept.exists() {
        assert!(begin.elapsed() < Duration::from_secs(120), "no {}", kept.display());
        assert!(running.try_wait().unwrap().is_none(), "finished before it could be stopped");
        std::thread::sleep(Duration::from_millis(5));
    }
    running.kill().unwrap();
    running.wait().unwrap();
    let output = succeed(world.convert(&checkpoint, &calibration, "four", &["--resume", "--json", "--timings"]));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let read: Vec<_> = json["timings"]["matrices"].as_array().unwrap().iter().filter(|m| m["step"] == "reading").collect();
    assert!(
        read.iter().any(|m| m["matrix"] == "layers.1.qkv") && !read.iter().any(|m| m["matrix"] == "layers.0.qkv"),
        "{read:?}"
    );
    assert_eq!(world.shards("one"), world.shards("four"));
    assert!(!world.at("four.partial").exists());
}

#[test]
fn what_each_matrix_costs_is_told_as_it_is_finished_unless_nothing_is_wanted() {
    let world = World::new();
    let checkpoint = world.at("shallow");
    shallow(&checkpoint);
    let calibration = world.calibration(&checkpoint, "2");
    let output = succeed(world.convert(&checkpoint, &calibration, "a", &["--json"]));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let costs = json["costs"].as_array().unwrap();
    assert_eq!(costs.len(), LAYERS * 4 + 1);
    let told = String::from_utf8(output.stderr).unwrap();
    let events = told.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
    let matrices: Vec<_> = events.filter(|e| e["event"] == "matrix").collect();
    for cost in costs {
        let (name, scheme) = (cost["name"].as_str().unwrap(), cost["scheme"].as_str().unwrap());
        let (bits, loss) = (cost["bits"].as_f64().unwrap(), cost["relative_loss"].as_f64().unwrap());
        assert!((3.0..10.0).contains(&bits) && loss > 0.0 && loss < 0.1 && cost["seconds"].as_f64() > Some(0.0), "{cost}");
        let event = matrices.iter().find(|e| e["name"] == name).unwrap_or_else(|| panic!("{name} in {told}"));
        assert_eq!((event["scheme"].as_str(), event["relative_loss"].as_f64()), (Some(scheme), Some(loss)));
    }
    assert_eq!(matrices.len(), costs.len());

    let output = succeed(world.convert(&checkpoint, &calibration, "c", &["--timings"]));
    let told = String::from_utf8(output.stderr).unwrap();
    for cost in costs {
        let (name, scheme) = (cost["name"].as_str().unwrap(), cost["scheme"].as_str().unwrap());
        let line = format!("{name}: {scheme}, {:.3} bits, loss ", cost["bits"].as_f64().unwrap());
        assert_eq!(told.lines().filter(|l| l.starts_with(&line) && l.ends_with(" s")).count(), 1, "{line} in {told}");
    }
    let table = String::from_utf8(output.stdout).unwrap();
    for step in ["choice of schemes", "forward", "moments", "correction", "factorization", "codes", "shards and hashes"] {
        assert!(table.lines().any(|l| l.starts_with(step)), "{step}: {table}");
    }

    let quiet = succeed(world.convert(&checkpoint, &calibration, "b", &["--quiet", "--device", "cpu"]));
    assert!(quiet.stderr.is_empty());
    let table = String::from_utf8(quiet.stdout).unwrap();
    for part in ["matrix", "mean loss", "qkv", "embedding"] {
        assert!(table.contains(part), "{part}: {table}");
    }
}

#[test]
fn a_gpu_makes_about_the_same_package_and_the_processor_goes_on_without_it() {
    let world = World::new();
    // Small, for the software adapter.
    let checkpoint = world.at("tiny");
    TinyCheckpoint::sized(64, 2, 4096).write(&checkpoint);
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(haiku(file), checkpoint.join(file)).unwrap();
    }
    let calibration = world.calibration(&checkpoint, "2");
    // All of it in a scheme that is rounded on the GPU; headers and tables weigh much in so small matrices.
    let recipe = "target_bits = 9.0\nschemes = [\"q4/32:e4m4 learned\"]\n";
    std::fs::write(world.at("body.toml"), recipe).unwrap();
    let convert = |out: &str, args: &[&str]| {
        let mut command = world.convert(&checkpoint, &calibration, out, args);
        // Where there is no GPU this is the software adapter, which counts as one only if it is named.
        command.args(["--adapter", "0"]);
        String::from_utf8(succeed(command).stderr).unwrap()
    };
    convert("cpu", &["--device", "cpu"]);
    convert("aimed", &["--device", "cpu", "--target-bits", "9.5"]);
    let text = read_json(&world.at("aimed/haikuq.json"))["provenance"]["recipe_text"].clone();
    assert!(text.as_str().unwrap().contains("target_bits = 9.5"), "a package says at which size it was aimed: {text}");
    let spill = world.at("spill");
    std::fs::create_dir(&spill).unwrap();
    convert("spilled", &["--device", "cpu", "--spill", &spill.display().to_string()]);
    assert_eq!(world.shards("spilled"), world.shards("cpu"), "wherever activations wait");
    assert_eq!(std::fs::read_dir(&spill).unwrap().count(), 0);
    let told = convert("gpu", &["--device", "gpu"]);
    assert!(told.contains(" computes, with up to "), "{told}");
    convert("again", &["--device", "gpu"]);
    assert_eq!(world.shards("gpu"), world.shards("again"), "an adapter always gives the same bytes");
    assert_ne!(world.shards("gpu"), world.shards("cpu"), "its sums run in another order");
    let errors = |package: &str| -> Vec<(String, f64)> {
        let tensors = read_json(&world.at(package).join("haikuq.json"))["tensors"].clone();
        let error = |t: &serde_json::Value| (t["name"].as_str().unwrap().to_string(), t["relative_error"].as_f64().unwrap());
        tensors.as_array().unwrap().iter().map(error).collect()
    };
    for ((name, cpu), (_, gpu)) in errors("cpu").into_iter().zip(errors("gpu")) {
        assert!((cpu - gpu).abs() <= 0.05 * cpu, "{name}: {cpu} on the processor, {gpu} on the GPU");
    }

    // Room for some windows at a time.
    let told = convert("parts", &["--device", "gpu", "--gpu-memory", "2400KiB"]);
    assert!(told.contains("has room for 1 of 2 windows at a time") && !told.contains("cannot go on"), "{told}");
    for ((name, all), (_, parts)) in errors("gpu").into_iter().zip(errors("parts")) {
        assert!((all - parts).abs() <= 0.02 * all, "{name}: {all} with all tokens at once, {parts} in parts");
    }

    // Less memory than one matrix takes.
    let told = convert("little", &["--device", "gpu", "--gpu-memory", "1MiB"]);
    assert!(told.contains("may use 1048576 bytes of memory and a layer takes "), "{told}");
    assert_eq!(world.shards("little"), world.shards("cpu"));
}

#[test]
fn targets_are_met_or_refused_with_numbers() {
    let world = World::new();
    let calibration = world.calibration(&haiku(""), "2");
    let plan = |args: &[&str]| {
        let mut command = world.convert(&haiku(""), &calibration, "x", &["--dry-run", "--json"]);
        command.args(args);
        command
    };
    let json = |args: &[&str]| -> serde_json::Value { serde_json::from_slice(&succeed(plan(args)).stdout).unwrap() };
    let (few, many) = (json(&["--target-bits", "4.6"]), json(&["--target-bits", "5.5"]));
    for (plan, bits) in [(&few, 4.6), (&many, 5.5)] {
        let planned = plan["bits_per_weight"].as_f64().unwrap();
        assert!(planned <= bits && planned > bits - 0.1, "{planned} for {bits}");
    }
    assert!(few["expected_kl"].as_f64() > many["expected_kl"].as_f64());
    let sized = json(&["--target-size", "4MiB"])["bytes"].as_u64().unwrap();
    assert!(sized <= 4 << 20 && sized > 3 << 20, "{sized}");

    let low = fail(plan(&["--target-bits", "3"]));
    assert!(low.contains("a target of 3 bits a weight cannot be met: the smallest schemes of all matrices need 3.9"), "{low}");
    let mut fixed = support::haikuq();
    fixed.arg("convert").arg(haiku("")).args(["--recipe", "q8", "--dry-run", "--target-bits", "4"]);
    let fixed = fail(fixed);
    assert!(fixed.contains("fixed scheme for each class"), "{fixed}");
    let mut useless = support::haikuq();
    useless.arg("convert").arg(haiku("")).args(["--recipe", "q4-fast", "--dry-run", "--calibration"]).arg(&calibration);
    let useless = fail(useless);
    assert!(useless.contains("rounds without calibration"), "{useless}");
}
