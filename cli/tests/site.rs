//! `haikuq site`: a folder for a static host, whole or not there.

mod support;

use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{TinyCheckpoint, assert_says, contents, convert, fail, haikuq, read_json, succeed};
use tempfile::TempDir;

/// Pages and a package in a temporary folder.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        TinyCheckpoint::new().write(&files.at("checkpoint"));
        succeed(convert(&files.at("checkpoint"), &files.at("my model"), &["--shard-size", "16KiB"]));
        files.write("pages/index.html", "<!doctype html><title>haikuq</title>");
        files.write("pages/assets/app-1a2b.js", "export {};");
        files.write("pages/.git/config", "secret");
        files.write("my model/notes.txt", "not for everyone");
        files
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        std::fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        std::fs::write(self.at(path), text).unwrap();
    }

    /// `haikuq site out "my model" ARGS`, not yet run.
    fn site(&self, args: &[&str]) -> Command {
        let mut command = haikuq();
        command.arg("site").arg(self.at("out")).arg(self.at("my model")).arg("--site").arg(self.at("pages")).args(args);
        command
    }

    /// Nothing but what the test made: no folder of a site that was not finished.
    fn leaves_nothing_behind(&self) {
        let names = std::fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let hidden: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with('.')).collect();
        assert!(hidden.is_empty(), "{hidden:?}");
    }
}

/// Every file below `folder`, in order, with slashes.
fn paths(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, below: &str, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = format!("{below}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() { walk(&entry.path(), &format!("{path}/"), found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(folder, "", &mut found);
    found.sort();
    found
}

#[test]
fn the_folder_has_the_pages_the_packages_and_their_list() {
    let files = Files::new();
    succeed(files.site(&["--numerics", "exact"]));
    let manifest = read_json(&files.at("my model/haikuq.json"));
    let listed = ["shards", "files"].into_iter().flat_map(|kind| manifest[kind].as_array().unwrap());
    let mut expected: Vec<String> = listed.map(|file| format!("packages/my model/{}", file["name"].as_str().unwrap())).collect();
    let others =
        [".nojekyll", "_headers", "assets/app-1a2b.js", "index.html", "packages/index.json", "packages/my model/haikuq.json"];
    expected.extend(others.map(str::to_owned));
    expected.sort();
    assert_eq!(paths(&files.at("out")), expected);
    for (path, bytes) in contents(&files.at("out/packages/my model")) {
        assert_eq!(std::fs::read(files.at("my model").join(&path)).unwrap(), bytes, "{}", path.display());
    }
    let index = read_json(&files.at("out/packages/index.json"));
    assert_eq!(index["load"], json!({"numerics": "exact"}));
    assert_eq!(index["packages"][0]["url"], "packages/my%20model/");
    assert_eq!(index["packages"][0]["recipe"], manifest["provenance"]["recipe"]);
    assert!(
        std::fs::read_to_string(files.at("out/_headers"))
            .unwrap()
            .contains("/assets/*\n  Cache-Control: public, max-age=31536000, immutable")
    );
    files.leaves_nothing_behind();
}

#[test]
fn a_folder_with_other_things_is_left_alone() {
    let files = Files::new();
    files.write("out/thesis.txt", "years of work");
    for args in [&[][..], &["--force"]] {
        assert_says(&fail(files.site(args)), &["out", "other things"]);
    }
    assert_eq!(paths(&files.at("out")), ["thesis.txt"]);
    files.leaves_nothing_behind();
}

#[test]
fn an_empty_folder_is_filled_and_an_earlier_site_replaced_if_forced() {
    let files = Files::new();
    std::fs::create_dir(files.at("out")).unwrap();
    succeed(files.site(&[]));
    files.write("out/assets/old-0000.js", "old");
    assert_says(&fail(files.site(&[])), &["out", "--force"]);
    assert!(files.at("out/assets/old-0000.js").is_file());
    succeed(files.site(&["--force"]));
    assert!(!files.at("out/assets/old-0000.js").exists());
    assert!(files.at("out/packages/my model/haikuq.json").is_file());
    files.leaves_nothing_behind();
}

#[test]
fn nothing_is_written_where_something_is_missing() {
    let files = Files::new();
    std::fs::create_dir_all(files.at("elsewhere/my model")).unwrap();
    for (path, bytes) in contents(&files.at("my model")) {
        std::fs::write(files.at("elsewhere/my model").join(path), bytes).unwrap();
    }
    let mut twice = files.site(&[]);
    twice.arg(files.at("elsewhere/my model"));
    assert_says(&fail(twice), &["my model", "rename"]);
    let mut without_pages = haikuq();
    without_pages.arg("site").arg(files.at("out")).arg(files.at("my model")).arg("--site").arg(files.at("checkpoint"));
    assert_says(&fail(without_pages), &["no site"]);
    let shard = read_json(&files.at("my model/haikuq.json"))["shards"][0]["name"].as_str().unwrap().to_owned();
    std::fs::remove_file(files.at("my model").join(&shard)).unwrap();
    assert_says(&fail(files.site(&[])), &[&shard]);
    assert!(!files.at("out").exists());
    files.leaves_nothing_behind();
}

#[test]
fn a_package_called_like_the_list_of_packages_is_refused() {
    let files = Files::new();
    std::fs::rename(files.at("my model"), files.at("index.json")).unwrap();
    let mut command = haikuq();
    command.arg("site").arg(files.at("out")).arg(files.at("index.json")).arg("--site").arg(files.at("pages"));
    assert_says(&fail(command), &["packages/index.json"]);
    assert!(!files.at("out").exists());
}
