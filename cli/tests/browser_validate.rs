//! `haikuq validate --browser`, with a page played by this test: it speaks the page's side of `docs/schemas/browser.md` and
//! lets the f32 reference be the model, so that no browser and no GPU is needed.

use assert_cmd::cargo::CommandCargoExt as _;
use haikuq::model::LanguageModel;
use haikuq::reference::Reference;
use haikuq::reference::stored::StoredWeights;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use ureq::http::Request;

const CHROME: &str = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36";

fn haikuq(args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("haikuq").unwrap();
    command.args(args).env_remove("HAIKUQ_ADAPTER").env_remove("HAIKUQ_LOG");
    command
}

fn succeed(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// A q4 package of haiku-7m, small golden outputs of it, and a site.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        let haiku = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("golden/haiku-7m");
        let haiku = |file: &str| haiku.join(file).into_os_string().into_string().unwrap();
        succeed(haikuq(&["convert", &haiku(""), "--recipe", "q4-fast", "--out", &files.at("q4")]));
        std::fs::write(files.at("prompts.txt"), "Tell me a story about a hope at home.\n").unwrap();
        let golden = ["golden", &haiku(""), "--text", &haiku("evaluation.jsonl"), "--out", &files.at("golden.safetensors")];
        let small = ["--windows", "3", "--context", "32", "--max-new", "8", "--prompts", &files.at("prompts.txt")];
        succeed(haikuq(&[&golden[..], &small].concat()));
        std::fs::create_dir_all(files.at("site/validate")).unwrap();
        std::fs::write(files.at("site/index.html"), "the app").unwrap();
        std::fs::write(files.at("site/validate/index.html"), "the page").unwrap();
        files
    }

    fn at(&self, path: &str) -> String {
        self.0.path().join(path).into_os_string().into_string().unwrap()
    }

    fn model(&self) -> Reference {
        let weights = StoredWeights::open(Path::new(&self.at("q4"))).unwrap();
        Reference::load(&weights.manifest.spec, |name| weights.read(name)).unwrap()
    }

    /// `haikuq validate q4 ARGS`, not yet run.
    fn validate(&self, args: &[&str]) -> Command {
        haikuq(&[&["validate", &self.at("q4"), "--golden", &self.at("golden.safetensors")], args].concat())
    }

    /// Starts `haikuq validate q4 --browser ARGS` and opens its page.
    fn validate_in_browser(&self, args: &[&str]) -> (Validation, Page) {
        let (site, file) = (self.at("site"), self.at("url"));
        // An earlier run's, which leads nowhere.
        let _ = std::fs::remove_file(&file);
        let mut command = self.validate(&["--browser", "--no-open", "--port", "0", "--site", &site, "--url-file", &file]);
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let url = loop {
            if let Ok(url) = std::fs::read_to_string(&file) {
                break url;
            }
            if let Some(status) = child.try_wait().unwrap() {
                let output = child.wait_with_output().unwrap();
                panic!("{status}: {}", String::from_utf8_lossy(&output.stderr));
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        (Validation(Some(child)), Page::open(url.strip_suffix('\n').unwrap()))
    }
}

/// The running command; it ends with the test.
struct Validation(Option<Child>);

impl Validation {
    /// Exit code, stdout and stderr.
    fn end(mut self) -> (i32, String, String) {
        let output = self.0.take().unwrap().wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }
}

impl Drop for Validation {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What the page in the browser does.
struct Page {
    agent: ureq::Agent,
    server: String,
    token: String,
}

impl Page {
    fn open(url: &str) -> Self {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let (server, token) = url.split_once("validate/?token=").unwrap();
        assert_eq!(agent.get(url).call().unwrap().body_mut().read_to_string().unwrap(), "the page");
        Self { agent, server: server.into(), token: token.into() }
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: Vec<u8>) -> (u16, String) {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.server));
        let request = request.header("x-haikuq-token", &self.token).header("content-type", kind);
        let mut response = self.agent.run(request.body(body).unwrap()).unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    }

    fn get(&self, path: &str) -> (u16, String) {
        let request = Request::builder().uri(format!("{}{path}", self.server)).header("x-haikuq-token", &self.token);
        let mut response = self.agent.run(request.body(()).unwrap()).unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    }

    fn post(&self, path: &str, body: &Value) -> (u16, String) {
        self.send("POST", path, "application/json", body.to_string().into_bytes())
    }

    fn hello(&self) -> (u16, String) {
        let job: Value = serde_json::from_str(&self.get("work/job").1).unwrap();
        self.post(
            "work/hello",
            &json!({"adapter": "Fake GPU", "userAgent": CHROME, "package": job["package"], "numerics": "exact"}),
        )
    }

    fn next(&self) -> Value {
        loop {
            match self.get("work/next") {
                (200, body) => return serde_json::from_str(&body).unwrap(),
                (204, _) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn rows(&self, id: &Value, first: usize, logits: &[f32]) -> (u16, String) {
        let bytes = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.send("POST", &format!("work/rows?id={id}&first={first}"), "application/octet-stream", bytes)
    }

    /// Does all work with `model`, a few rows a request, and returns what it is told at the end.
    fn work(&self, model: &mut dyn LanguageModel) -> Value {
        const TAKEN: (u16, String) = (204, String::new());
        let ids = |list: &Value| serde_json::from_value::<Vec<u32>>(list.clone()).unwrap();
        loop {
            let job = self.next();
            let id = &job["id"];
            match job["kind"].as_str().unwrap() {
                "score" => {
                    let mut rows = Vec::new();
                    model.score_window(&ids(&job["ids"]), &mut |_, row| rows.push(row.to_vec())).unwrap();
                    for (i, part) in rows.chunks(5).enumerate() {
                        assert_eq!(self.rows(id, i * 5, &part.concat()), TAKEN);
                    }
                    assert_eq!(self.send("POST", &format!("work/finish?id={id}"), "text/plain", vec![]), TAKEN);
                }
                "greedy" => {
                    let max_new = job["maxNew"].as_u64().unwrap() as usize;
                    let ids = model.generate_greedy(&ids(&job["prompt"]), max_new).unwrap();
                    assert_eq!(self.post(&format!("work/greedy?id={id}"), &json!({"ids": ids})), TAKEN);
                }
                _ => return job,
            }
        }
    }
}

#[test]
fn the_report_is_the_one_of_the_same_model_outside_the_browser() {
    let files = Files::new();
    let (validation, page) =
        files.validate_in_browser(&["--json", "--cache", "f32", "--numerics", "exact", "--report", &files.at("report")]);
    assert_eq!(page.get("work/job"), (200, r#"{"package":"packages/q4/","kvCache":"f32","numerics":"exact"}"#.into()));
    let (status, manifest) = page.get("packages/q4/haikuq.json");
    assert!(status == 200 && manifest == std::fs::read_to_string(files.at("q4/haikuq.json")).unwrap());
    assert_eq!(page.hello(), (204, String::new()));
    let told = page.work(&mut files.model());
    let (code, stdout, stderr) = validation.end();

    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("open http://127.0.0.1:") && stderr.contains("running on Fake GPU"), "{stderr}");
    assert_eq!(told["passed"], true);
    assert!(told["summary"].as_str().unwrap().contains("no thresholds given"), "{told}");
    let mut here: Value = serde_json::from_slice(&succeed(files.validate(&["--reference", "--json"])).stdout).unwrap();
    let mut there: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&std::fs::read(files.at("report/report.json")).unwrap()).unwrap(), there);
    assert_eq!(there["adapter"], "Fake GPU (browser: Chrome 156)");
    assert_eq!(there["speed"]["scored_tokens"], 96);
    assert_eq!(there["speed"]["generated_tokens"], here["speed"]["generated_tokens"]);
    for report in [&mut here, &mut there] {
        let report = report.as_object_mut().unwrap();
        // What it ran on, and how fast.
        report.remove("adapter").unwrap();
        report.remove("speed").unwrap();
    }
    assert_eq!(here, there);
}

#[test]
fn a_package_below_its_thresholds_exits_3_and_the_page_is_told() {
    let files = Files::new();
    let (validation, page) = files.validate_in_browser(&["--windows", "1", "--prompts", "0", "--min-top1", "100"]);
    page.hello();
    let told = page.work(&mut files.model());
    let (code, stdout, stderr) = validation.end();
    assert_eq!((code, &told["passed"]), (3, &Value::from(false)), "{stderr}");
    assert!(told["summary"].as_str().unwrap().contains("below its thresholds"), "{told}");
    assert!(stdout.contains("on Fake GPU (browser: Chrome 156)") && stderr.contains("below threshold: "), "{stdout}{stderr}");
}

#[test]
fn an_error_of_the_page_is_the_validations() {
    let files = Files::new();
    let (validation, page) = files.validate_in_browser(&[]);
    let error = json!({"code": "webgpu-unavailable", "message": "this browser has no WebGPU"});
    assert_eq!(page.post("work/error", &error).0, 204);
    let (code, stdout, stderr) = validation.end();
    assert_eq!((code, &*stdout), (1, ""));
    assert!(stderr.contains("the page says: this browser has no WebGPU (webgpu-unavailable)"), "{stderr}");

    let (validation, page) = files.validate_in_browser(&[]);
    page.hello();
    let id = page.next()["id"].clone();
    page.post("work/error", &json!({"id": id, "code": "device-lost", "message": "lost for good"}));
    let (code, _, stderr) = validation.end();
    assert!(code == 1 && stderr.contains("window 0: the page says: lost for good (device-lost)"), "{stderr}");
}

#[test]
fn a_page_that_goes_away_is_missed() {
    let files = Files::new();
    let (validation, page) = files.validate_in_browser(&["--page-timeout", "1"]);
    page.hello();
    page.next();
    let (code, _, stderr) = validation.end();
    assert_eq!(code, 1);
    assert!(stderr.contains("the page went away while it scored a window: no request for 1 s"), "{stderr}");
}

#[test]
fn answers_that_make_no_sense_end_the_validation_with_their_numbers() {
    let files = Files::new();
    let (validation, page) = files.validate_in_browser(&[]);
    page.hello();
    let (status, said) = page.rows(&page.next()["id"], 3, &vec![0.0; 4096]);
    assert_eq!((status, &*said), (400, "1 rows from position 3 on, where 0 of 32 had arrived\n"));
    let (code, _, stderr) = validation.end();
    assert!(code == 1 && stderr.contains("broke the protocol: 1 rows from position 3 on"), "{stderr}");

    let (validation, page) = files.validate_in_browser(&["--windows", "1"]);
    page.hello();
    let id = page.next()["id"].clone();
    assert_eq!(page.rows(&id, 0, &vec![f32::NAN; 4096 * 32]).0, 204);
    page.send("POST", &format!("work/finish?id={id}"), "text/plain", vec![]);
    let told = page.next();
    assert_eq!((&told["kind"], &told["passed"]), (&"done".into(), &false.into()));
    let (code, _, stderr) = validation.end();
    assert!(code == 1 && stderr.contains("not finite"), "{stderr}");
    assert!(told["summary"].as_str().unwrap().contains("not finite"), "{told}");
}

#[test]
fn only_the_page_that_was_opened_gets_work_and_only_one() {
    let files = Files::new();
    let (validation, mut page) = files.validate_in_browser(&[]);
    assert_eq!(page.get("work/next"), (409, "work comes after /work/hello\n".into()));
    assert_eq!(page.hello().0, 204);
    let (status, said) = page.hello();
    assert!(status == 409 && said.contains("another page does this validation already"), "{said}");
    assert_eq!(page.next()["kind"], "score", "the first page is not disturbed");

    let token = std::mem::replace(&mut page.token, "0".repeat(32));
    assert_eq!((token.len(), page.get("work/next").0), (32, 403));
    page.token.clear();
    for path in ["work/job", "work/next"] {
        assert_eq!(page.get(path).0, 403, "{path}");
    }
    assert_eq!(page.post("work/error", &json!({"code": "x", "message": "y"})).0, 403);
    page.token = token;
    page.post("work/error", &json!({"code": "x", "message": "enough"}));
    assert!(validation.end().2.contains("enough"));
}

#[test]
fn what_cannot_work_is_refused_at_once() {
    let files = Files::new();
    let refused = |args: &[&str], code: i32| {
        let output = files.validate(args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        stderr
    };
    assert!(refused(&["--no-open"], 2).contains("--browser"));
    assert!(refused(&["--browser", "--reference"], 2).contains("--reference"));
    std::fs::remove_file(files.at("site/validate/index.html")).unwrap();
    let said = refused(&["--browser", "--no-open", "--site", &files.at("site")], 1);
    assert!(said.contains("site has no validate/index.html") && said.contains("make web"), "{said}");
}
