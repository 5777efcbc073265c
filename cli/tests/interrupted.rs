//! A conversion that is stopped at each change that it makes to the disk: by a kill, and by a disk that is full. Whatever it
//! leaves, nothing half lies under the final name, and `--resume` and `--force` each lead to the whole package.

// Release builds have no place to be stopped at.
#![cfg(debug_assertions)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Output;
use support::{TinyCheckpoint, assert_same, assert_says, contents, convert, fail, read_json, succeed};

const ARGS: [&str; 4] = ["--recipe", "q8", "--shard-size", "16KiB"];

/// A checkpoint that becomes two shards, what it becomes, and an older package with a file that is not its own.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap() };
        TinyCheckpoint::sized(32, 1, 64).write(&world.at("tiny"));
        succeed(convert(&world.at("tiny"), &world.at("whole"), &ARGS));
        assert_eq!(read_json(&world.at("whole/haikuq.json"))["shards"].as_array().unwrap().len(), 2);
        succeed(convert(&world.at("tiny"), &world.at("old"), &["--recipe", "q3-fast"]));
        std::fs::write(world.at("old/notes.txt"), "mine").unwrap();
        world
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Converts to `FOLDER/out`, stopped as `disk` says.
    fn run(&self, folder: &Path, more: &[&str], disk: Option<&str>) -> Output {
        let mut command = convert(&self.at("tiny"), &folder.join("out"), &[&ARGS, more].concat());
        command.envs(disk.map(|disk| ("HAIKUQ_DISK", disk)));
        command.output().unwrap()
    }

    /// Asserts that the final name holds a whole package or nothing.
    fn check_out(&self, out: &Path, at: &str) {
        if !out.exists() {
            return;
        }
        let without_notes =
            |folder: &Path| contents(folder).into_iter().filter(|f| f.0.to_str() != Some("notes.txt")).collect::<Vec<_>>();
        let is = without_notes(out);
        assert!([self.at("whole"), self.at("old")].iter().any(|known| is == without_notes(known)), "half a package at {at}");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

/// Stops at the first change, the second, and so on, until a run comes to its end.
fn at_every_change(how: &str, replaces: bool) {
    let world = World::new();
    for n in 1.. {
        let (at, folder) = (format!("{how}:{n}"), world.at(&format!("stopped-{n}")));
        std::fs::create_dir(&folder).unwrap();
        if replaces {
            copy(&world.at("old"), &folder.join("out"));
        }
        let flags: &[&str] = if replaces { &["--force"] } else { &[] };
        let stopped = world.run(&folder, flags, Some(&at));
        let said = String::from_utf8_lossy(&stopped.stderr);
        match stopped.status.code() {
            Some(0) => {
                assert!(n > 30, "{n} changes are too few: some go past the counter");
                return;
            }
            Some(77) => assert_eq!(how, "stop"),
            code => {
                assert_eq!((how, code), ("full", Some(1)), "{at}: {said}");
                assert!(said.contains("no storage space") && !said.contains("panicked"), "{at}: {said}");
            }
        }
        world.check_out(&folder.join("out"), &at);
        for way in ["--resume", "--force"] {
            let end = world.at(&format!("ended-{n}{way}"));
            copy(&folder, &end);
            let mut ended = world.run(&end, &[way], None);
            let mut said = String::from_utf8_lossy(&ended.stderr).into_owned();
            if replaces && way == "--resume" && !ended.status.success() {
                // The old package still has its name. The program gives it up only if `--force` says so.
                assert_says(&said, &["exists already", "--force", "--resume"]);
                ended = world.run(&end, &["--resume", "--force"], None);
                said = String::from_utf8_lossy(&ended.stderr).into_owned();
            }
            assert!(ended.status.success(), "{at}, then {way}: {said}");
            assert!(!end.join("out.partial").exists(), "{at}, then {way}: something is left");
            if replaces {
                let notes = end.join("out/notes.txt");
                assert_eq!(std::fs::read_to_string(&notes).unwrap(), "mine", "{at}, then {way}");
                std::fs::remove_file(notes).unwrap();
            }
            assert_same(&end.join("out"), &world.at("whole"));
            std::fs::remove_dir_all(end).unwrap();
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn a_kill_at_any_change_leads_to_the_whole_package() {
    at_every_change("stop", false);
}

#[test]
fn a_kill_at_any_change_of_a_replacement_leads_to_the_whole_package() {
    at_every_change("stop", true);
}

#[test]
fn a_full_disk_at_any_change_leads_to_the_whole_package() {
    at_every_change("full", false);
}

#[test]
fn a_full_disk_at_any_change_of_a_replacement_leads_to_the_whole_package() {
    at_every_change("full", true);
}

/// A conversion that was stopped after its first shard, in `out`.
fn after_a_shard(world: &World) -> PathBuf {
    let out = world.at("out");
    for n in 1.. {
        assert_eq!(world.run(world.dir.path(), &[], Some(&format!("stop:{n}"))).status.code(), Some(77), "{n}");
        let journal = std::fs::read_to_string(world.at("out.partial/journal.jsonl")).unwrap_or_default();
        if journal.contains(r#"{"shard""#) {
            break;
        }
        // Before the first change there is none.
        let _ = std::fs::remove_dir_all(world.at("out.partial"));
    }
    out
}

#[test]
fn a_source_that_changed_in_between_is_refused_by_name_although_size_and_time_are_the_same() {
    let world = World::new();
    let out = after_a_shard(&world);
    let weights = world.at("tiny/model.safetensors");
    let (stamp, bytes) = (std::fs::metadata(&weights).unwrap().modified().unwrap(), std::fs::read(&weights).unwrap());
    let mut other = bytes.clone();
    *other.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, other).unwrap();
    std::fs::File::options().write(true).open(&weights).unwrap().set_modified(stamp).unwrap();
    let said = fail(convert(&world.at("tiny"), &out, &[&ARGS[..], &["--resume"]].concat()));
    assert_says(&said, &["another checkpoint", "model.safetensors has changed since", "--force"]);
    assert!(!out.exists());

    // The same bytes again: another file by all that the file system says, and the hash tells that it is the same.
    std::fs::write(&weights, bytes).unwrap();
    let journal = std::fs::read_to_string(world.at("out.partial/journal.jsonl")).unwrap();
    let resumed = world.run(world.dir.path(), &["--resume"], None);
    if journal.contains(r#"{"source":{"index":1"#) {
        assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
        assert_same(&out, &world.at("whole"));
    }
    succeed(convert(&world.at("tiny"), &out, &[&ARGS[..], &["--force"]].concat()));
    assert_same(&out, &world.at("whole"));
}

#[test]
fn a_finished_shard_that_was_damaged_is_made_again() {
    let world = World::new();
    let out = after_a_shard(&world);
    let shard = std::fs::read_dir(world.at("out.partial/package")).unwrap().map(|e| e.unwrap().path()).min().unwrap();
    let mut bytes = std::fs::read(&shard).unwrap();
    let last = bytes.len() - 300;
    bytes[last] ^= 1;
    std::fs::write(&shard, bytes).unwrap();
    succeed(convert(&world.at("tiny"), &out, &[&ARGS[..], &["--resume"]].concat()));
    assert_same(&out, &world.at("whole"));
}

/// Converts a checkpoint that takes a while, and does something to its weights meanwhile.
#[cfg(unix)]
fn meanwhile(change: impl Fn(&Path)) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    TinyCheckpoint::sized(768, 4, 4000).write(&dir.path().join("slow"));
    let mut command = convert(&dir.path().join("slow"), &dir.path().join("out"), &["--shard-size", "256KiB", "--jobs", "1"]);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let start = std::time::Instant::now();
    while !std::fs::read_to_string(dir.path().join("out.partial/journal.jsonl")).unwrap_or_default().contains(r#"{"shard""#) {
        assert!(child.try_wait().unwrap().is_none(), "it was done before anything could happen");
        assert!(start.elapsed().as_secs() < 120, "no shard within two minutes");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    change(&dir.path().join("slow/model.safetensors"));
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!dir.path().join("out").exists());
    (dir, said)
}

#[test]
#[cfg(unix)]
fn a_source_that_is_overwritten_cut_short_or_replaced_meanwhile_is_refused_by_name() {
    let weights = |path: &Path| std::fs::File::options().write(true).open(path).unwrap();
    let (_dir, said) = meanwhile(|path| {
        let stamp = std::fs::metadata(path).unwrap().modified().unwrap();
        // One bit of a tensor that was read already.
        use std::os::unix::fs::FileExt;
        weights(path).write_all_at(&[1], 20_000).unwrap();
        weights(path).set_modified(stamp).unwrap();
    });
    assert_says(&said, &["model.safetensors changed while it was converted", "--force"]);
    let (_dir, said) = meanwhile(|path| weights(path).set_len(20_000).unwrap());
    assert_says(&said, &["model.safetensors changed while it was"]);
    let (_dir, said) = meanwhile(|path| {
        let copy = path.with_extension("copy");
        std::fs::copy(path, &copy).unwrap();
        std::fs::rename(copy, path).unwrap();
    });
    assert_says(&said, &["model.safetensors changed while it was"]);
}

#[test]
#[cfg(unix)]
fn force_removes_what_the_old_manifest_names_and_follows_no_link() {
    use std::os::unix::fs::symlink;
    let world = World::new();
    let (out, outside) = (world.at("out"), world.at("outside"));
    std::fs::write(&outside, "not ours").unwrap();
    copy(&world.at("old"), &out);
    std::fs::create_dir(out.join("folder")).unwrap();
    std::fs::write(out.join("folder/diary.txt"), "dear diary").unwrap();
    symlink(&outside, out.join("link")).unwrap();
    std::fs::remove_file(out.join("tokenizer.json")).unwrap();
    symlink(&outside, out.join("tokenizer.json")).unwrap();
    let mut manifest = read_json(&out.join("haikuq.json"));
    manifest["files"][0]["name"] = "tokenizer.json".into();
    manifest["files"].as_array_mut().unwrap().push(serde_json::json!({"name": "../outside"}));
    support::write_json(&out.join("haikuq.json"), &manifest);
    assert!(world.run(world.dir.path(), &["--force"], None).status.success());
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "not ours");
    assert_eq!(std::fs::read_to_string(out.join("folder/diary.txt")).unwrap(), "dear diary");
    assert_eq!(std::fs::read_to_string(out.join("notes.txt")).unwrap(), "mine");
    assert_eq!(std::fs::read_link(out.join("link")).unwrap(), outside);
    assert_eq!(std::fs::read(out.join("tokenizer.json")).unwrap(), std::fs::read(world.at("tiny/tokenizer.json")).unwrap());

    // A file of the user's that has the name of one to come: known before any work.
    std::fs::remove_dir_all(out.join("folder")).unwrap();
    let shard = read_json(&world.at("whole/haikuq.json"))["shards"][1]["name"].as_str().unwrap().to_owned();
    std::fs::remove_dir_all(&out).unwrap();
    copy(&world.at("old"), &out);
    std::fs::write(out.join(&shard), "mine too").unwrap();
    let said = fail(convert(&world.at("tiny"), &out, &[&ARGS[..], &["--force"]].concat()));
    assert_says(&said, &[&shard, "is no part of the package there", "move it"]);
    assert!(!world.at("out.partial").exists());

    let link = world.at("link");
    symlink(world.at("old"), &link).unwrap();
    let said = fail(convert(&world.at("tiny"), &link, &[&ARGS[..], &["--force"]].concat()));
    assert_says(&said, &["is a link, which is not followed"]);
}

#[test]
fn what_conversions_did_not_make_is_not_taken_for_a_work_folder() {
    let world = World::new();
    std::fs::create_dir_all(world.at("out.partial/package")).unwrap();
    std::fs::write(world.at("out.partial/package/diary.txt"), "dear diary").unwrap();
    for flag in ["--resume", "--force"] {
        let said = fail(convert(&world.at("tiny"), &world.at("out"), &[&ARGS[..], &[flag]].concat()));
        assert_says(&said, &["out.partial is in the way", "move it"]);
    }
    assert!(world.at("out.partial/package/diary.txt").exists());
}

#[test]
fn what_readers_would_refuse_is_refused_before_any_work() {
    let world = World::new();
    for (key, value) in [("rms_norm_eps", "1e39"), ("rope_theta", "1e400"), ("rms_norm_eps", "NaN")] {
        let mut config = std::fs::read_to_string(world.at("tiny/config.json")).unwrap();
        let at = config.find(key).unwrap();
        let end = at + config[at..].find([',', '\n']).unwrap();
        config.replace_range(at..end, &format!("{key}\": {value}"));
        let folder = world.at("odd");
        copy(&world.at("tiny"), &folder);
        std::fs::write(folder.join("config.json"), config).unwrap();
        let said = fail(convert(&folder, &world.at("out"), &ARGS));
        assert_says(&said, &["config.json", key]);
        assert!(!world.at("out").exists() && !world.at("out.partial").exists(), "{key}");
    }
    // A template that packages cannot name.
    let templates = world.at("tiny/additional_chat_templates");
    std::fs::create_dir(&templates).unwrap();
    std::fs::write(templates.join("a b.jinja"), "x").unwrap();
    let said = fail(convert(&world.at("tiny"), &world.at("out"), &ARGS));
    assert_says(&said, &["chat_template.a b.jinja", "not a plain file name"]);
    assert!(!world.at("out.partial").exists());
}
