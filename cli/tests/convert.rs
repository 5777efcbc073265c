//! What `haikuq convert` promises: the same bytes whatever happens, nothing incomplete under the final name.

mod support;

use haikuq::architecture::Decoder;
use haikuq::checkpoint::Checkpoint;
use haikuq_format::layout::dequantize;
use haikuq_runtime::package::{FolderSource, Package};
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::{TinyCheckpoint, assert_same, convert, fail, haikuq, read_json, succeed};

const SMALL_SHARDS: &[&str] = &["--shard-size", "16KiB"];

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn the_package_does_not_depend_on_the_number_of_threads() {
    let dir = folder();
    TinyCheckpoint::new().write(&dir.path().join("tiny"));
    for jobs in ["1", "2", "7"] {
        let args = ["--shard-size", "16KiB", "--recipe", "q3-fast", "--jobs", jobs];
        succeed(convert(&dir.path().join("tiny"), &dir.path().join(jobs), &args));
    }
    assert_same(&dir.path().join("1"), &dir.path().join("2"));
    assert_same(&dir.path().join("1"), &dir.path().join("7"));
}

#[test]
fn one_file_and_shards_give_the_same_weights() {
    let dir = folder();
    TinyCheckpoint::new().write(&dir.path().join("one"));
    TinyCheckpoint::new().write_sharded(&dir.path().join("three"), 3);
    for name in ["one", "three"] {
        succeed(convert(&dir.path().join(name), &dir.path().join(format!("{name}.q4")), &[]));
    }
    let weights = |name: &str| read_json(&dir.path().join(name).join("haikuq.json"))["shards"].clone();
    assert_eq!(weights("one.q4"), weights("three.q4"));
}

#[test]
fn the_package_has_every_chat_template_of_the_checkpoint() {
    let dir = folder();
    let (checkpoint, package) = (dir.path().join("tiny"), dir.path().join("package"));
    TinyCheckpoint::new().write(&checkpoint);
    let fixture = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/fixtures/tokenizers/harmony");
    std::fs::create_dir(checkpoint.join("additional_chat_templates")).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "additional_chat_templates/rag.jinja"] {
        std::fs::copy(fixture.join(file), checkpoint.join(file)).unwrap();
    }
    succeed(convert(&checkpoint, &package, &[]));
    let package = pollster::block_on(Package::open(FolderSource::new(package))).unwrap();
    let tokenizer = pollster::block_on(package.tokenizer()).unwrap();
    assert_eq!(tokenizer.chat_template_names().collect::<Vec<_>>(), ["default", "rag"]);
    assert!(tokenizer.chat_template().unwrap().contains("namespace functions"));
}

#[test]
fn f32_is_exact_and_fused_rows_lie_where_the_format_says() {
    let dir = folder();
    let mut checkpoint = TinyCheckpoint::new();
    checkpoint.write(&dir.path().join("tiny"));
    succeed(convert(&dir.path().join("tiny"), &dir.path().join("f32"), &["--recipe", "f32", "--shard-size", "16KiB"]));
    let mut source = |name: &str| -> Vec<f32> {
        let bytes = checkpoint.tensor(name).bytes.clone();
        bytes.chunks(2).map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16)).collect()
    };
    let package = pollster::block_on(Package::open(FolderSource::new(dir.path().join("f32")))).unwrap();
    let read = |name: &str| -> Vec<f32> {
        let tensor = package.manifest().tensor(name).unwrap();
        assert_eq!(tensor.relative_error, Some(0.0));
        let chunk = |c: &haikuq_format::manifest::Chunk| {
            let plane = c.planes[0];
            let shard = pollster::block_on(package.read_shard(plane.shard)).unwrap();
            let bytes = &shard[plane.offset as usize..(plane.offset + plane.bytes) as usize];
            let words: Vec<u32> = bytes.chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
            dequantize(tensor.scheme, c.rows, tensor.columns(), &[(plane.kind, &words)])
        };
        tensor.chunks.iter().flat_map(chunk).collect()
    };
    let layer = "model.layers.1.";
    assert_eq!(read("embedding"), source("model.embed_tokens.weight"));
    assert_eq!(read("final_norm.gain"), source("model.norm.weight"));
    let stacked = ["q", "k", "v"].map(|n| source(&format!("{layer}self_attn.{n}_proj.weight"))).concat();
    assert_eq!(read("layers.1.qkv"), stacked);
    let (gate, up) = (source(&format!("{layer}mlp.gate_proj.weight")), source(&format!("{layer}mlp.up_proj.weight")));
    let interleaved: Vec<f32> = gate.chunks(96).zip(up.chunks(96)).flat_map(|(g, u)| [g, u].concat()).collect();
    assert_eq!(read("layers.1.gate_up"), interleaved);

    let decoder = Decoder::from_checkpoint(Checkpoint::open(dir.path().join("tiny")).unwrap()).unwrap();
    assert_eq!(decoder.read("layers.1.gate_up").unwrap(), interleaved, "the reference reads what the package stores");
    assert_eq!(decoder.spec, package.manifest().spec);
}

/// Large enough that a debug build takes a while, so that it can be stopped midway.
fn slow_checkpoint() -> TinyCheckpoint {
    TinyCheckpoint::sized(768, 6, 4000)
}

#[test]
fn killed_midway_it_leaves_no_package_and_resumes_to_the_same_bytes() {
    let dir = folder();
    let (source, out, whole) = (dir.path().join("slow"), dir.path().join("out"), dir.path().join("whole"));
    slow_checkpoint().write(&source);
    let args = ["--shard-size", "256KiB", "--jobs", "1"];
    let finished = |n: usize| {
        let journal = std::fs::read_to_string(dir.path().join("out.partial/journal.jsonl")).unwrap_or_default();
        journal.lines().filter(|l| l.starts_with(r#"{"shard""#)).count() >= n
    };
    // Killed twice, at different shards, each time from where the last run stopped.
    for (resume, shards) in [(false, 1), (true, 5)] {
        let mut command = convert(&source, &out, &args);
        command.args(resume.then_some("--resume")).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let start = Instant::now();
        while !finished(shards) {
            assert!(child.try_wait().unwrap().is_none(), "it was done before it could be killed");
            assert!(start.elapsed() < Duration::from_secs(120), "no shard within two minutes");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!out.exists(), "nothing lies under the final name");
    }
    let advice = fail(convert(&source, &out, &args));
    assert!(advice.contains("interrupted conversion of the same plan") && advice.contains("--resume"), "{advice}");
    let other = fail(convert(&source, &out, &["--resume", "--recipe", "q3-fast"]));
    assert!(other.contains("another plan"), "{other}");

    let mut resumed = convert(&source, &out, &args);
    resumed.arg("--resume");
    let talk = String::from_utf8(succeed(resumed).stderr).unwrap();
    assert!(talk.contains("going on after"), "{talk}");
    succeed(convert(&source, &whole, &args));
    assert_same(&out, &whole);
    assert!(!dir.path().join("out.partial").exists());
}

#[test]
fn an_existing_package_is_replaced_only_when_asked_and_only_if_it_is_one() {
    let dir = folder();
    let (source, out) = (dir.path().join("tiny"), dir.path().join("out"));
    TinyCheckpoint::new().write(&source);
    succeed(convert(&source, &out, &["--recipe", "q8"]));
    let said = fail(convert(&source, &out, &[]));
    assert!(said.contains("exists already") && said.contains("--force"), "{said}");
    succeed(convert(&source, &out, &["--force"]));
    assert_eq!(read_json(&out.join("haikuq.json"))["provenance"]["recipe"], "q4-fast");

    std::fs::create_dir(dir.path().join("mine")).unwrap();
    std::fs::write(dir.path().join("mine/diary.txt"), "dear diary").unwrap();
    let said = fail(convert(&source, &dir.path().join("mine"), &["--force"]));
    assert!(said.contains("is no haikuq package"), "{said}");
    assert!(dir.path().join("mine/diary.txt").exists());
}

#[test]
fn a_failed_conversion_keeps_the_package_that_was_to_be_replaced() {
    let dir = folder();
    let (source, out) = (dir.path().join("tiny"), dir.path().join("out"));
    let mut checkpoint = TinyCheckpoint::new();
    checkpoint.write(&source);
    succeed(convert(&source, &out, &[]));
    let before = support::contents(&out);
    checkpoint.put("model.layers.1.mlp.down_proj.weight", 5, f32::NAN);
    checkpoint.write(&source);
    fail(convert(&source, &out, &["--force"]));
    assert!(before == support::contents(&out));
}

#[test]
fn a_changed_checkpoint_is_not_resumed() {
    let dir = folder();
    let (source, out) = (dir.path().join("tiny"), dir.path().join("out"));
    let mut checkpoint = TinyCheckpoint::new();
    // The last tensor holds the error, so all shards before it are finished.
    checkpoint.put("model.norm.weight", 3, f32::INFINITY);
    checkpoint.write(&source);
    fail(convert(&source, &out, SMALL_SHARDS));
    checkpoint.put("model.norm.weight", 3, 1.0);
    checkpoint.write(&source);
    let said = fail(convert(&source, &out, &["--shard-size", "16KiB", "--resume"]));
    assert!(said.contains("another checkpoint"), "{said}");
    succeed(convert(&source, &out, &["--shard-size", "16KiB", "--force"]));
}

#[test]
fn a_dry_run_says_what_will_be_and_writes_nothing() {
    let dir = folder();
    let (source, out) = (dir.path().join("tiny"), dir.path().join("out"));
    TinyCheckpoint::new().write(&source);
    let plan = succeed(convert(&source, &out, &["--dry-run", "--json", "--shard-size", "16KiB"])).stdout;
    let plan: serde_json::Value = serde_json::from_slice(&plan).unwrap();
    assert!(!out.exists() && !dir.path().join("out.partial").exists());
    succeed(convert(&source, &out, SMALL_SHARDS));
    let manifest = read_json(&out.join("haikuq.json"));
    let sizes = |v: &serde_json::Value| -> Vec<(String, u64)> {
        let shards = v["shards"].as_array().unwrap();
        shards.iter().map(|s| (s["name"].as_str().unwrap().into(), s["bytes"].as_u64().unwrap())).collect()
    };
    assert_eq!(sizes(&plan), sizes(&manifest));
    assert!(sizes(&plan).len() > 3 && sizes(&plan).iter().all(|s| s.1 <= 16 << 10), "{:?}", sizes(&plan));
    let text = String::from_utf8(succeed(convert(&source, &out, &["--dry-run"])).stdout).unwrap();
    assert!(text.contains("layers.1.gate_up") && text.contains("bits a weight") && text.contains("of memory"), "{text}");
}

#[test]
fn a_recipe_file_decides_by_class_and_pattern() {
    let dir = folder();
    let (source, out) = (dir.path().join("tiny"), dir.path().join("out"));
    TinyCheckpoint::new().write(&source);
    let recipe = dir.path().join("mixed.toml");
    let text = "embedding = 'q8/128'\nattention = 'q4/64+u4'\nmlp = 'q3/32+f16'\nhead = 'f16'\n\
                [[override]]\npattern = '^layers\\.0\\.down$'\nscheme = 'f16'\n";
    std::fs::write(&recipe, text).unwrap();
    succeed(convert(&source, &out, &["--recipe", recipe.to_str().unwrap()]));
    let manifest = read_json(&out.join("haikuq.json"));
    assert_eq!(manifest["provenance"]["recipe_text"], text);
    let inspected = String::from_utf8(
        succeed({
            let mut c = haikuq();
            c.arg("inspect").arg(&out);
            c
        })
        .stdout,
    )
    .unwrap();
    for (tensor, scheme) in
        [("layers.0.down", "f16"), ("layers.1.down", "q3/32+f16"), ("layers.1.qkv", "q4/64+u4"), ("embedding", "q8/128")]
    {
        let line = inspected.lines().find(|l| l.starts_with(&format!("{tensor} "))).unwrap();
        assert!(line.contains(scheme), "{line}");
    }
}

/// A full disk is played by a small file system in memory, mounted in a namespace of the test's own, which takes root or
/// a system that lets anyone have one. Where neither is there `-E 'not test(small_disk)'` leaves this out; the next test
/// needs neither.
#[cfg(target_os = "linux")]
#[test]
fn a_full_small_disk_leaves_nothing_under_the_final_name() {
    let dir = folder();
    let (source, disk, whole) = (dir.path().join("slow"), dir.path().join("disk"), dir.path().join("whole"));
    slow_checkpoint().write(&source);
    std::fs::create_dir(&disk).unwrap();
    // Arguments: disk, checkpoint, where the package is copied to for comparison.
    let script = r#"
        convert() { "$HAIKUQ" convert "$2" --recipe q4-fast --shard-size 1MiB --out "$1/out" $3; }
        mount -t tmpfs -o size=4m tmpfs "$1" || exit 10
        convert "$1" "$2" && exit 11
        [ $? = 1 ] || exit 12
        [ -e "$1/out" ] && exit 13
        mount -o remount,size=64m "$1" || exit 14
        convert "$1" "$2" --resume || exit 15
        cp -r "$1/out" "$3"
    "#;
    let inside = |namespaces: &[&str], script: &str| {
        let mut command = std::process::Command::new("unshare");
        command.args(namespaces).args(["sh", "-c", script, "sh"]).args([&disk, &source, &dir.path().join("copy")]);
        command.env("HAIKUQ", haikuq().get_program()).output().expect("unshare, of util-linux")
    };
    let ways: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
    let mounts = |way: &&&[&str]| inside(way, "mount -t tmpfs tmpfs $1").status.success();
    let way = ways.iter().find(mounts).expect("root, or user namespaces, to mount a small file system");
    let output = inside(way, script);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("No space left") && said.contains("--resume"), "{said}");
    succeed(convert(&source, &whole, &["--shard-size", "1MiB"]));
    assert_same(&dir.path().join("copy"), &whole);
}

/// Here the system refuses to let a file grow, as quotas do.
#[cfg(unix)]
#[test]
fn a_file_that_may_not_grow_leaves_nothing_under_the_final_name() {
    let dir = folder();
    let (source, out, whole) = (dir.path().join("slow"), dir.path().join("out"), dir.path().join("whole"));
    slow_checkpoint().write(&source);
    let plan = convert(&source, &out, &["--shard-size", "1MiB", "--dry-run", "--json"]);
    let plan: serde_json::Value = serde_json::from_slice(&succeed(plan).stdout).unwrap();
    let shards: Vec<u64> = plan["shards"].as_array().unwrap().iter().map(|s| s["bytes"].as_u64().unwrap()).collect();
    assert!(shards[0] < *shards.iter().max().unwrap(), "the first shard fits, another does not: {shards:?}");
    let command = convert(&source, &out, &["--shard-size", "1MiB"]);
    let mut limited = std::process::Command::new("sh");
    // Blocks of 512 bytes. A signal that is ignored stays ignored in the program, whose writing then fails.
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", shards[0].div_ceil(512));
    limited.args(["-c", &script, "sh"]).arg(command.get_program()).args(command.get_args());
    let said = fail(limited);
    assert!(!out.exists());
    assert!(said.contains("cannot write") && said.contains("too large") && said.contains("--resume"), "{said}");
    let talk = succeed(convert(&source, &out, &["--shard-size", "1MiB", "--resume"])).stderr;
    let talk = String::from_utf8_lossy(&talk);
    assert!(talk.contains("going on after"), "{talk}");
    succeed(convert(&source, &whole, &["--shard-size", "1MiB"]));
    assert_same(&out, &whole);
}
