//! What whole-program tests share: adapters, packages of the embedded checkpoint, the program itself.

#![allow(dead_code, reason = "no test program uses all of it")]

pub mod expected;

use haikuq::runner::{Runner, RunnerOptions};
use haikuq_runtime::decoder::{CachePrecision, DecoderOptions};
use haikuq_runtime::device::GpuOptions;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A GPU to run on, by the Vulkan driver file that finds it; the system's choice by default.
#[derive(Clone, Debug, Default)]
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
    /// The program with `arguments` on this adapter.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_haikuq"));
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

    /// Whether this is SwiftShader: right, but several times slower than lavapipe.
    pub fn is_swiftshader(&self) -> bool {
        self.driver.is_some()
    }

    /// Runs the program.
    pub fn haikuq(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the program starts")
    }
}

/// The default adapter and, where it is found, SwiftShader. Missing without being excused is a failure.
pub fn adapters() -> Vec<Adapter> {
    const SWIFTSHADER: &str = "/usr/lib/chromium/vk_swiftshader_icd.json";
    let mut adapters = vec![Adapter::default()];
    if Path::new(SWIFTSHADER).exists() {
        adapters.push(Adapter { driver: Some(SWIFTSHADER.into()) });
    } else {
        assert!(
            std::env::var_os("HAIKUQ_SKIP_SWIFTSHADER").is_some(),
            "no SwiftShader: install Debian's chromium, or set HAIKUQ_SKIP_SWIFTSHADER=1 to test without it"
        );
        eprintln!("SwiftShader is left out (HAIKUQ_SKIP_SWIFTSHADER)");
    }
    adapters
}

/// A file of the embedded checkpoint.
pub fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/haiku-7m").join(file)
}

/// A package of the embedded checkpoint, made once a recipe and test run.
pub fn convert(recipe: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("haiku-7m-{recipe}"));
    // Tests are processes of their own: the file lock keeps two from converting into one folder.
    let lock = std::fs::File::create(target.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let output = Adapter::default().haikuq(&[
        "convert",
        golden("").to_str().unwrap(),
        "--recipe",
        recipe,
        "--out",
        target.to_str().unwrap(),
        "--force",
        "--quiet",
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target
}

/// Runs the program, which must succeed, and parses what it prints.
pub fn haikuq_json(adapter: &Adapter, arguments: &[&str]) -> serde_json::Value {
    let output = adapter.haikuq(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{adapter}: haikuq {}: {:?}\n{stderr}", arguments.join(" "), output.status.code());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e} in what haikuq {} prints", arguments.join(" ")))
}

/// A package on a GPU, with an f32 cache: what is left to differ is the kernels'.
pub fn load(package: &Path, gpu: GpuOptions) -> Runner {
    let decoder = DecoderOptions { cache: CachePrecision::F32, ..DecoderOptions::default() };
    Runner::load(package, &RunnerOptions { gpu, decoder }, &mut |_| {}).unwrap()
}
