//! A conversion in parts makes the bytes of a single run, and nothing else is taken for that.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use support::{TinyCheckpoint, assert_same, assert_says, convert, fail, haikuq, read_json, succeed, write_json};

const RECIPE: [&str; 4] = ["--recipe", "q4-fast", "--shard-size", "16KiB"];

/// A checkpoint, its package, and a folder for parts.
struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let case = Self { dir: tempfile::tempdir().unwrap() };
        TinyCheckpoint::new().write(&case.path("checkpoint"));
        succeed(convert(&case.path("checkpoint"), &case.path("whole"), &RECIPE));
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, part: &str, more: &[&str]) -> Command {
        let out = self.path(&format!("part-{}", part.replace('/', "-")));
        convert(&self.path("checkpoint"), &out, &[&RECIPE[..], &["--part", part], more].concat())
    }

    /// Converts parts, and gives their folders.
    fn parts(&self, of: usize) -> Vec<PathBuf> {
        let part = |number: usize| {
            succeed(self.command(&format!("{number}/{of}"), &[]));
            self.path(&format!("part-{number}-{of}"))
        };
        (1..=of).map(part).collect()
    }

    fn merge(&self, parts: &[PathBuf]) -> Command {
        let mut command = haikuq();
        command.arg("merge").args(parts).arg("--out").arg(self.path("merged"));
        command
    }

    fn refusal(&self, parts: &[PathBuf]) -> String {
        let said = fail(self.merge(parts));
        assert!(!self.path("merged").exists());
        assert!(std::fs::read_dir(self.dir.path()).unwrap().all(|e| !e.unwrap().file_name().to_str().unwrap().starts_with('.')));
        said
    }
}

fn shards(package: &Path) -> usize {
    read_json(&package.join("haikuq.json"))["shards"].as_array().unwrap().len()
}

#[test]
fn parts_in_any_order_make_the_package_of_one_run() {
    let case = Case::new();
    let shards = shards(&case.path("whole"));
    assert!(shards > 4, "{shards}");
    for of in [1, 3, shards] {
        let mut parts = case.parts(of);
        parts.reverse();
        let merged = succeed(case.merge(&parts));
        let said = String::from_utf8(merged.stdout).unwrap();
        assert_says(&said, &[&format!("{shards} shards"), "bits a weight"]);
        assert_same(&case.path("whole"), &case.path("merged"));
        succeed({
            let mut command = haikuq();
            command.arg("verify").arg(case.path("merged"));
            command
        });
        std::fs::remove_dir_all(case.path("merged")).unwrap();
    }
    assert_says(
        &fail(case.command(&format!("1/{}", shards + 1), &[])),
        &[&format!("the package has {shards} shards"), "--shard-size"],
    );
}

#[test]
fn a_part_that_was_stopped_goes_on() {
    let case = Case::new();
    let mut stopped = case.command("2/2", &[]);
    stopped.env("HAIKUQ_DISK", "stop:20");
    assert_eq!(stopped.output().unwrap().status.code(), Some(77));
    assert!(case.path("part-2-2.partial").exists() && !case.path("part-2-2").exists());
    // Another part is no going on.
    let out = case.path("part-2-2");
    let other = convert(&case.path("checkpoint"), &out, &[&RECIPE[..], &["--part", "1/2", "--resume"]].concat());
    assert_says(&fail(other), &["part-2-2.partial"]);
    let said = succeed(case.command("2/2", &["--resume"]));
    assert_says(&String::from_utf8(said.stderr).unwrap(), &["shard"]);
    succeed(case.command("1/2", &[]));
    succeed(case.merge(&[case.path("part-1-2"), case.path("part-2-2")]));
    assert_same(&case.path("whole"), &case.path("merged"));
    // A complete part is left alone, and without --resume nothing is taken for one.
    assert_says(&String::from_utf8(succeed(case.command("2/2", &["--resume"])).stderr).unwrap(), &["is complete already"]);
    assert_says(&fail(case.command("2/2", &[])), &["part-2-2 exists already", "--resume"]);
}

#[test]
fn other_parts_than_all_of_one_conversion_are_refused() {
    let case = Case::new();
    let parts = case.parts(4);
    assert_says(&case.refusal(&[parts[0].clone(), parts[3].clone()]), &["of 4 parts, numbers 2, 3 are not there"]);
    assert_says(&case.refusal(&parts[..3]), &["of 4 parts, number 4 is not there"]);
    let twice = [&parts[..], &parts[1..2]].concat();
    assert_says(&case.refusal(&twice), &["part-2-4", "both", "part 2/4"]);
    assert_says(&case.refusal(&[&parts[..3], &case.parts(3)[2..]].concat()), &["part-3-3", "it is part 3/3"]);
    assert_says(&case.refusal(&[case.path("whole")]), &["whole is no part of a conversion", "haikuq-part.json"]);
    // Other weights in a file of the same size.
    let tensor = "model.layers.0.mlp.down_proj.weight";
    let mut other = TinyCheckpoint::new();
    other.put(tensor, 0, 0.5);
    other.write(&case.path("checkpoint"));
    std::fs::remove_dir_all(&parts[1]).unwrap();
    succeed(case.command("2/4", &[]));
    assert_says(&case.refusal(&parts), &["part-2-4 does not go with the other parts", "other files of the same size"]);
    // Another recipe.
    std::fs::remove_dir_all(&parts[1]).unwrap();
    TinyCheckpoint::new().write(&case.path("checkpoint"));
    succeed(convert(&case.path("checkpoint"), &parts[1], &["--recipe", "q3-fast", "--shard-size", "16KiB", "--part", "2/4"]));
    assert_says(&case.refusal(&parts), &["part-2-4 does not go with the other parts", "recipe"]);
}

#[test]
fn damaged_parts_are_refused() {
    let case = Case::new();
    let parts = case.parts(2);
    let shard = std::fs::read_dir(&parts[1]).unwrap().map(|e| e.unwrap().path());
    let shard = shard.filter(|p| p.extension().is_some_and(|e| e == "safetensors")).min().unwrap();
    let bytes = std::fs::read(&shard).unwrap();
    let mut damaged = bytes.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&shard, damaged).unwrap();
    assert_says(&case.refusal(&parts), &["part-2-2", "convert this part again"]);
    std::fs::remove_file(&shard).unwrap();
    assert_says(&case.refusal(&parts), &["part-2-2", "is not there"]);
    std::fs::write(&shard, bytes).unwrap();
    let file = parts[1].join("haikuq-part.json");
    let told = read_json(&file);
    let change = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut changed = told.clone();
        change(&mut changed);
        write_json(&file, &changed);
        case.refusal(&parts)
    };
    assert_says(&change(&|f| f["schema"] = "haikuq.part/9".into()), &["haikuq.part/9"]);
    assert_says(&change(&|f| f["shards"].as_array_mut().unwrap().truncate(1)), &["does not tell of its"]);
    assert_says(&change(&|f| drop(f["shards"][0]["errors"].as_array_mut().unwrap().pop())), &["does not tell of its"]);
    assert_says(&change(&|f| f["manifest"]["spec"]["vocab_size"] = 7.into()), &["its manifest is not that of"]);
    std::fs::write(&file, "{").unwrap();
    assert_says(&case.refusal(&parts), &["haikuq-part.json"]);
}

#[test]
fn calibrated_recipes_have_no_parts() {
    let case = Case::new();
    let calibrated = convert(&case.path("checkpoint"), &case.path("part"), &["--recipe", "q4", "--part", "1/2"]);
    assert_says(&fail(calibrated), &["recipe q4 is calibrated", "q4-fast"]);
    assert!(!case.path("part").exists() && !case.path("part.partial").exists());
}
