//! What whole-program tests share: adapters, packages of the embedded checkpoint, the program itself.

#![allow(dead_code, reason = "no test program uses all of it")]

pub mod expected;

use haikuq::runner::{Runner, RunnerOptions};
use haikuq_runtime::decoder::CachePrecision;
use haikuq_runtime::device::GpuOptions;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The program.
const HAIKUQ: &str = env!("CARGO_BIN_EXE_haikuq");

/// A GPU to run on, by the Vulkan driver file that finds it; the system's choice by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adapter {
    driver: Option<PathBuf>,
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.driver {
            Some(driver) => write!(f, "{}", driver.display()),
            None => write!(f, "the default adapter"),
        }
    }
}

impl Adapter {
    /// SwiftShader, which is right, several times slower than lavapipe, and has neither f16 nor wide subgroups. Tests
    /// that use it say so in their names, by which they can be left out where it cannot be had.
    pub fn swiftshader() -> Self {
        const DRIVER: &str = "/usr/lib/chromium/vk_swiftshader_icd.json";
        assert!(
            Path::new(DRIVER).exists(),
            "no SwiftShader in {DRIVER}: install Debian's chromium, or leave out the tests that need it: \
             cargo nextest run -E 'not test(swiftshader)'"
        );
        Self { driver: Some(DRIVER.into()) }
    }

    /// The program with `arguments` on this adapter.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(HAIKUQ);
        command.args(arguments);
        self.show_alone(&mut command);
        command
    }

    /// Lets a program find this adapter and no other.
    pub fn show_alone(&self, command: &mut Command) {
        if let Some(driver) = &self.driver {
            command.env("VK_DRIVER_FILES", driver).env_remove("HAIKUQ_ADAPTER");
        }
    }

    /// Runs the program.
    pub fn haikuq(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the program starts")
    }
}

/// A file of the embedded checkpoint.
pub fn golden(file: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("golden/haiku-7m").join(file)
}

/// A package of the embedded checkpoint, by a recipe that rounds without calibration.
pub fn convert(recipe: &str) -> PathBuf {
    let checkpoint = golden("");
    made_once(&format!("haiku-7m-{recipe}"), &["convert", path(&checkpoint), "--recipe", recipe, "--force"])
}

/// A package of the embedded checkpoint, calibrated on the text that `thresholds.toml` names.
pub fn convert_calibrated(recipe: &str) -> PathBuf {
    let (checkpoint, text) = (golden(""), golden("calibration.jsonl"));
    let calibration = made_once("haiku-7m-calibration.safetensors", &["calibrate", path(&checkpoint), "--text", path(&text)]);
    let arguments = ["convert", path(&checkpoint), "--recipe", recipe, "--calibration", path(&calibration), "--force"];
    made_once(&format!("haiku-7m-{recipe}"), &arguments)
}

fn path(path: &Path) -> &str {
    path.to_str().expect("paths of this repository are UTF-8")
}

/// What the program puts into `CARGO_TARGET_TMPDIR/NAME`. Whichever test comes first makes it; after the next build of
/// the program it is made anew. `scripts/test.sh` hands the packages on to the tests in a browser.
fn made_once(name: &str, arguments: &[&str]) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // Tests are processes of their own: of several that want it at once, one makes it and the others wait. The locked
    // file says what it was made of.
    let mut options = File::options();
    let mut lock = options.read(true).write(true).create(true).truncate(false).open(target.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let sources = [PathBuf::from(HAIKUQ), golden("model.safetensors"), golden("calibration.jsonl")].map(|file| state(&file));
    let (sources, mut made_of) = (sources.concat(), String::new());
    lock.read_to_string(&mut made_of).unwrap();
    if made_of != sources || !target.exists() {
        lock.set_len(0).unwrap();
        let output = Command::new(HAIKUQ).args(arguments).arg("--out").arg(&target).arg("--quiet").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        lock.rewind().unwrap();
        lock.write_all(sources.as_bytes()).unwrap();
    }
    target
}

/// A file as build tools judge whether it changed: by size and time.
fn state(file: &Path) -> String {
    let metadata = std::fs::metadata(file).unwrap();
    format!("{} {} {:?}\n", file.display(), metadata.len(), metadata.modified().unwrap())
}

/// Runs the program, which must succeed, and parses what it prints.
pub fn haikuq_json(adapter: &Adapter, arguments: &[&str]) -> serde_json::Value {
    let output = adapter.haikuq(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{adapter}: haikuq {}: {:?}\n{stderr}", arguments.join(" "), output.status.code());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e} in what haikuq {} prints", arguments.join(" ")))
}

/// A package on a GPU, with an f32 cache: all differences left are the kernels'.
pub fn load(package: &Path, gpu: GpuOptions) -> Runner {
    let mut options = RunnerOptions::new(None, CachePrecision::F32);
    options.gpu = gpu;
    Runner::load(package, &options, &mut |_| {}).unwrap()
}

/// What every device has, and nothing else.
pub fn poor() -> GpuOptions {
    let mut poor = GpuOptions::default();
    (poor.without_f16, poor.without_subgroups, poor.default_limits) = (true, true, true);
    poor
}
