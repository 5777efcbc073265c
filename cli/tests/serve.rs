//! `haikuq serve` as a browser sees it: over HTTP, from the real program.

mod support;

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use support::{TinyCheckpoint, convert, fail, haikuq, read_json, succeed, write_json};
use tempfile::TempDir;
use ureq::http::{HeaderMap, Method, Request};

const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// A site and a package in a temporary folder.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        TinyCheckpoint::new().write(&files.at("checkpoint"));
        succeed(convert(&files.at("checkpoint"), &files.at("tiny"), &["--shard-size", "16KiB"]));
        for folder in ["site/assets", "site/bench/assets", "site/.git"] {
            std::fs::create_dir_all(files.at(folder)).unwrap();
        }
        files.write("site/index.html", "<!doctype html><title>haikuq</title>");
        files.write("site/bench/index.html", "<!doctype html><title>bench</title>");
        files.write("site/assets/app-1a2b.js", &"export const a = 1;\n".repeat(500));
        files.write("site/bench/assets/runtime-3c4d.wasm", &"\0asm".repeat(500));
        files.write("site/app.webmanifest", "{}");
        files.write("site/icon.svg", "<svg xmlns='http://www.w3.org/2000/svg'/>");
        files.write("site/.git/config", "secret");
        files.write("tiny/notes.txt", "not for everyone");
        files
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        std::fs::write(self.at(path), text).unwrap();
    }

    fn manifest(&self) -> Value {
        read_json(&self.at("tiny/haikuq.json"))
    }

    /// `haikuq serve tiny ARGS`, not yet run.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = haikuq();
        command.arg("serve").arg(self.at("tiny")).arg("--site").arg(self.at("site")).arg("--no-open").args(args);
        command
    }

    fn serve(&self, args: &[&str]) -> Server {
        Server::start(self.command(&[&["--port", "0", "--json"], args].concat()))
    }
}

/// A running server; it ends with the test.
struct Server {
    child: Child,
    url: String,
    said: Value,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Server {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line:?}"));
        Self { child, url: said["url"].as_str().unwrap().into(), said }
    }

    fn request(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0).build().into();
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = agent.run(request.body(()).unwrap()).unwrap();
        let (parts, mut body) = response.into_parts();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body: body.read_to_vec().unwrap() }
    }

    fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, &[])
    }

    fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.request(Method::GET, path, headers)
    }
}

#[test]
fn every_file_has_its_type_and_hashed_files_are_cached_for_good() {
    let files = Files::new();
    let server = files.serve(&[]);
    for (path, kind, cache) in [
        ("", "text/html; charset=utf-8", "no-cache"),
        ("bench/", "text/html; charset=utf-8", "no-cache"),
        ("assets/app-1a2b.js", "text/javascript; charset=utf-8", IMMUTABLE),
        ("bench/assets/runtime-3c4d.wasm", "application/wasm", IMMUTABLE),
        ("app.webmanifest", "application/manifest+json", "no-cache"),
        ("icon.svg", "image/svg+xml", "no-cache"),
        ("packages/index.json", "application/json", "no-cache"),
        ("packages/tiny/haikuq.json", "application/json", "no-cache"),
        ("packages/tiny/tokenizer.json", "application/json", "no-cache"),
    ] {
        let answer = server.get(path);
        assert_eq!((answer.status, answer.header("content-type"), answer.header("cache-control")), (200, kind, cache), "{path}");
    }
    assert_eq!(server.get("").text(), "<!doctype html><title>haikuq</title>");
    let moved = server.get("bench");
    assert_eq!((moved.status, moved.header("location")), (307, "/bench/"));
}

#[test]
fn a_shard_is_cached_for_good_under_the_hash_that_the_manifest_says_and_no_other() {
    let files = Files::new();
    let server = files.serve(&[]);
    for shard in files.manifest()["shards"].as_array().unwrap() {
        let (name, hash) = (shard["name"].as_str().unwrap(), shard["sha256"].as_str().unwrap());
        let answer = server.get(&format!("packages/tiny/{name}?sha256={hash}"));
        assert!(answer.body == std::fs::read(files.at("tiny").join(name)).unwrap(), "{name}");
        assert_eq!((answer.header("cache-control"), answer.header("content-type")), (IMMUTABLE, "application/octet-stream"));
        assert_eq!(answer.header("content-length"), shard["bytes"].to_string());
        let other = "0".repeat(64);
        for query in [String::new(), format!("?sha256={other}"), "?sha256=".into(), "?v=1".into()] {
            let answer = server.get(&format!("packages/tiny/{name}{query}"));
            assert_eq!((answer.status, answer.header("cache-control")), (200, "no-cache"), "{query}");
        }
    }
}

#[test]
fn the_index_and_the_line_of_json_name_the_packages() {
    let files = Files::new();
    std::fs::create_dir(files.at("b")).unwrap();
    let spaced = files.at("b/tiny ü");
    std::fs::rename(files.at("tiny"), &spaced).unwrap();
    succeed(convert(&files.at("checkpoint"), &files.at("tiny"), &["--recipe", "q8"]));
    let server = files.serve(&[spaced.to_str().unwrap()]);

    let index: Value = serde_json::from_slice(&server.get("packages/index.json").body).unwrap();
    let packages = index["packages"].as_array().unwrap();
    let named: Vec<_> = packages.iter().map(|p| (&p["name"], &p["url"], &p["recipe"])).collect();
    let (a, b) = (("tiny", "packages/tiny/", "q8"), ("tiny ü", "packages/tiny%20%C3%BC/", "q4-fast"));
    assert_eq!(format!("{named:?}"), format!("{:?}", [a, b].map(|(n, u, r)| (Value::from(n), Value::from(u), Value::from(r)))));
    let bytes = |p: &Value| p["weightBytes"].as_u64().unwrap();
    let shards = files.manifest()["shards"].as_array().unwrap().iter().map(|s| s["bytes"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(bytes(&packages[0]), shards);
    assert!(bytes(&packages[0]) > bytes(&packages[1]));
    let bits = packages[0]["bitsPerWeight"].as_f64().unwrap();
    assert!(bits > 8.0 && bits < 9.5, "{bits}");
    // Embedding and final norm, and in each of two layers attention, MLP and two norms: see TinyCheckpoint.
    let parameters = 333 * 96 + 96 + 2 * (160 * 96 + 96 * 96 + 3 * 232 * 96 + 2 * 96);
    assert_eq!(packages[0]["parameters"], parameters);
    for package in packages {
        assert_eq!(server.get(&format!("{}haikuq.json", package["url"].as_str().unwrap())).status, 200);
    }
    assert_eq!(index["load"], serde_json::json!({"numerics": "auto"}));
    assert_eq!(server.said["schema"], "haikuq.serve/1");
    assert_eq!(server.said["packages"][0]["url"], format!("{}packages/tiny/", server.url));
}

#[test]
fn the_index_says_how_pages_compute() {
    let files = Files::new();
    for asked in ["exact", "fast"] {
        let server = files.serve(&["--numerics", asked]);
        let index: Value = serde_json::from_slice(&server.get("packages/index.json").body).unwrap();
        assert_eq!(index["load"]["numerics"], asked);
    }
    let refused = files.command(&["--numerics", "f64"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn every_answer_has_the_security_headers_and_connect_adds_origins() {
    let files = Files::new();
    let server = files.serve(&["--connect", "https://proxy.example", "--connect", "http://localhost:8080/"]);
    let csp = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data: blob:; \
               connect-src 'self' https://proxy.example http://localhost:8080; worker-src 'self' blob:; object-src 'none'; \
               base-uri 'none'; frame-ancestors 'none'; form-action 'none'";
    for path in ["", "bench", "missing", "packages/index.json", "packages/tiny/haikuq.json", "packages/tiny/missing"] {
        let answer = server.get(path);
        for (name, value) in [
            ("content-security-policy", csp),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), value, "{path}");
        }
    }
    let refused = files.command(&["--connect", "https://proxy.example/v1"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("it has a path; an origin is like"));
}

#[test]
fn a_range_is_answered_with_just_that_range() {
    let files = Files::new();
    let server = files.serve(&[]);
    let name = files.manifest()["shards"][0]["name"].as_str().unwrap().to_owned();
    let bytes = std::fs::read(files.at("tiny").join(&name)).unwrap();
    let (path, n) = (format!("packages/tiny/{name}"), bytes.len());
    let range = |range: &str| server.get_with(&path, &[("range", range), ("accept-encoding", "gzip, br")]);

    for (asked, start, end) in [
        ("bytes=0-0".to_owned(), 0, 1),
        ("bytes=100-4999".into(), 100, 5000),
        ("bytes=5000-".into(), 5000, n),
        ("bytes=-7".into(), n - 7, n),
        (format!("bytes=9-{}", n + 1000), 9, n),
        (format!("bytes=-{}", n + 1000), 0, n),
        ("bytes=-99999999999999999999999".into(), 0, n),
        ("bytes=9-99999999999999999999999".into(), 9, n),
        ("Bytes=0-0".into(), 0, 1),
    ] {
        let answer = range(&asked);
        assert_eq!((answer.status, answer.header("content-range")), (206, &*format!("bytes {start}-{}/{n}", end - 1)), "{asked}");
        assert!(answer.body == bytes[start..end], "{asked}");
    }
    for asked in [format!("bytes={n}-"), "bytes=7-3".into(), "bytes=-0".into(), "bytes=99999999999999999999-".into()] {
        let answer = range(&asked);
        assert_eq!((answer.status, answer.header("content-range")), (416, &*format!("bytes */{n}")), "{asked}");
    }
    // A range that the server does not understand counts as absent.
    for asked in ["lines=0-1", "bytes", "bytes=a-b", "bytes=-", "0-1"] {
        let answer = range(asked);
        assert!(answer.status == 200 && answer.body == bytes, "{asked}");
    }
    // An empty file has no bytes to ask for.
    std::fs::write(files.at("site/empty.txt"), "").unwrap();
    for asked in ["bytes=0-0", "bytes=0-", "bytes=-1", "bytes=5-"] {
        let answer = server.get_with("empty.txt", &[("range", asked)]);
        assert_eq!((answer.status, answer.header("content-range"), answer.body.len()), (416, "bytes */0", 0), "{asked}");
    }
    let head = server.request(Method::HEAD, &path, &[("range", "bytes=0-0")]);
    assert_eq!((head.status, head.header("content-length")), (200, &*n.to_string()));
    // Several ranges at once may be answered with everything, which every client must understand.
    let several = range("bytes=0-1,5-6");
    assert!(several.status == 200 && several.body == bytes);
}

#[test]
fn a_download_goes_on_only_if_the_file_is_still_the_same() {
    let files = Files::new();
    let server = files.serve(&[]);
    let name = files.manifest()["shards"][0]["name"].as_str().unwrap().to_owned();
    let path = format!("packages/tiny/{name}");
    let whole = server.get(&path);
    let (tag, date) = (whole.header("etag"), whole.header("last-modified"));
    assert!(tag.starts_with('"') && !date.is_empty());
    let resume = |validator: &str| server.get_with(&path, &[("range", "bytes=10-"), ("if-range", validator)]);

    for same in [tag, date] {
        let rest = resume(same);
        assert!(rest.status == 206 && rest.body == whole.body[10..], "{same}");
    }
    for other in ["\"other\"", &format!("W/{tag}"), "Thu, 01 Jan 1970 00:00:00 GMT"] {
        let again = resume(other);
        assert!(again.status == 200 && again.body == whole.body, "{other}");
    }
    let beyond = format!("bytes={}-", whole.body.len());
    let again = server.get_with(&path, &[("range", &beyond), ("if-range", "\"other\"")]);
    assert!(again.status == 200 && again.body == whole.body, "a range beyond another file's end is no error");
}

#[test]
fn what_a_client_has_already_is_not_sent_again() {
    let files = Files::new();
    let server = files.serve(&[]);
    for path in ["", "assets/app-1a2b.js", "packages/tiny/haikuq.json"] {
        for encoding in ["identity", "gzip"] {
            let first = server.get_with(path, &[("accept-encoding", encoding)]);
            let again = [("accept-encoding", encoding), ("if-none-match", first.header("etag"))];
            let again = server.get_with(path, &again);
            assert_eq!((again.status, again.body.len()), (304, 0), "{path} {encoding}");
            assert_eq!(again.header("cache-control"), first.header("cache-control"));
            let other = server.get_with(path, &[("if-none-match", "\"other\"")]);
            assert_eq!(other.status, 200, "{path}");
        }
    }
}

#[test]
fn head_says_what_get_would_and_nothing_writes() {
    let files = Files::new();
    let server = files.serve(&[]);
    let shard = format!("packages/tiny/{}", files.manifest()["shards"][0]["name"].as_str().unwrap());
    for path in ["", "assets/app-1a2b.js", "packages/tiny/haikuq.json", &shard] {
        let (head, get) = (server.request(Method::HEAD, path, &[]), server.get(path));
        assert_eq!((head.status, head.body.len()), (200, 0));
        for name in ["content-length", "content-type", "etag", "cache-control", "accept-ranges"] {
            assert_eq!(head.header(name), get.header(name), "{path}: {name}");
        }
        for method in [Method::POST, Method::PUT, Method::DELETE] {
            // ureq sends no body with DELETE and an empty one with the others.
            assert_eq!(server.request(method.clone(), path, &[("content-length", "0")]).status, 405, "{method} {path}");
        }
    }
    assert_eq!(server.request(Method::HEAD, "packages/tiny/missing", &[]).status, 404);
}

#[test]
fn text_code_and_wasm_are_compressed_and_weights_are_not() {
    let files = Files::new();
    let server = files.serve(&[]);
    let shard = format!("packages/tiny/{}", files.manifest()["shards"][0]["name"].as_str().unwrap());
    for path in ["assets/app-1a2b.js", "bench/assets/runtime-3c4d.wasm", "packages/tiny/haikuq.json"] {
        let plain = server.get(path);
        assert_eq!((plain.header("content-encoding"), plain.header("vary")), ("", "accept-encoding"), "{path}");
        let gzip = server.get_with(path, &[("accept-encoding", "gzip")]);
        assert_eq!(gzip.header("content-encoding"), "gzip");
        assert!(gzip.header("etag").starts_with("W/\""), "other bytes than the plain file's: {}", gzip.header("etag"));
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&gzip.body[..]).read_to_end(&mut unpacked).unwrap();
        assert!(unpacked == plain.body && gzip.body.len() < plain.body.len() / 2, "{path}");
        let br = server.get_with(path, &[("accept-encoding", "gzip, deflate, br, zstd")]);
        assert_eq!(br.header("content-encoding"), "br", "{path}");
        let mut unpacked = Vec::new();
        brotli::BrotliDecompress(&mut &br.body[..], &mut unpacked).unwrap();
        assert!(unpacked == plain.body, "{path}");
    }
    let weights = server.get_with(&shard, &[("accept-encoding", "gzip, br")]);
    assert_eq!((weights.header("content-encoding"), weights.header("accept-ranges")), ("", "bytes"));
}

#[test]
fn files_that_were_compressed_when_the_site_was_built_are_sent_as_they_are() {
    let files = Files::new();
    files.write("site/assets/app-1a2b.js.br", "stands for brotli");
    files.write("site/assets/app-1a2b.js.gz", "stands for gzip");
    let server = files.serve(&[]);
    for (accepted, encoding, text) in [("gzip, br", "br", "stands for brotli"), ("gzip", "gzip", "stands for gzip")] {
        let answer = server.get_with("assets/app-1a2b.js", &[("accept-encoding", accepted)]);
        assert_eq!((answer.header("content-encoding"), answer.text()), (encoding, text));
        assert_eq!(
            (answer.header("content-type"), answer.header("cache-control")),
            ("text/javascript; charset=utf-8", IMMUTABLE)
        );
    }
    assert!(server.get("assets/app-1a2b.js").text().starts_with("export"));
}

#[test]
fn nothing_is_served_but_pages_and_what_manifests_list() {
    let files = Files::new();
    files.write("secret.txt", "secret");
    let server = files.serve(&[]);
    for path in [
        "packages/tiny/notes.txt",
        "packages/tiny/..%2fsecret.txt",
        "packages/tiny/../../secret.txt",
        "packages/tiny/%2e%2e/%2e%2e/secret.txt",
        "packages/tiny/",
        "packages/tiny",
        "packages/other/haikuq.json",
        "packages/..%2ftiny/haikuq.json",
        "packages/",
        "../secret.txt",
        "%2e%2e/secret.txt",
        "..%2fsecret.txt",
        "assets/..%2f..%2fsecret.txt",
        "assets%5c..%5c..%5csecret.txt",
        ".git/config",
        "%2egit/config",
        "assets/",
        "assets/app-1a2b.js/x",
        "missing.html",
        "%00",
        "packages/tiny/%00",
        &"x".repeat(300),
        &"x/".repeat(5000),
        &format!("packages/tiny/{}", "x".repeat(300)),
        &format!("packages/{}/haikuq.json", "x".repeat(5000)),
    ] {
        let answer = server.get(path);
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
        assert!(!answer.text().contains("secret\n") && answer.text() != "secret", "{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
    }
    assert_eq!(server.get("%ff").status, 400);
}

#[test]
fn other_sites_names_that_point_here_are_refused() {
    let files = Files::new();
    let server = files.serve(&[]);
    let ask = |host: &str| server.get_with("packages/index.json", &[("host", host)]);
    for local in ["localhost", "localhost:4173", "app.localhost:1", "127.0.0.1", "[::1]:80", "LOCALHOST"] {
        assert_eq!(ask(local).status, 200, "{local}");
    }
    for other in ["evil.example", "evil.example:4173", "localhost.evil.example", "192.168.0.1", "127.0.0.1.evil.example"] {
        let answer = ask(other);
        assert_eq!(answer.status, 403, "{other}");
        assert!(answer.text().contains("only for localhost"), "{}", answer.text());
    }
}

#[test]
fn a_package_that_is_converted_again_is_served_anew() {
    let files = Files::new();
    let server = files.serve(&[]);
    let recipe = || -> Value {
        let index: Value = serde_json::from_slice(&server.get("packages/index.json").body).unwrap();
        index["packages"][0]["recipe"].clone()
    };
    let shard = |manifest: &Value| {
        let (name, hash) = (manifest["shards"][0]["name"].as_str().unwrap(), manifest["shards"][0]["sha256"].as_str().unwrap());
        server.get(&format!("packages/tiny/{name}?sha256={hash}")).header("cache-control").to_owned()
    };
    let old = files.manifest();
    assert_eq!((recipe(), shard(&old)), ("q4-fast".into(), IMMUTABLE.into()));
    succeed(convert(&files.at("checkpoint"), &files.at("tiny"), &["--recipe", "q8", "--shard-size", "16KiB", "--force"]));
    let new = files.manifest();
    assert_eq!((recipe(), shard(&new)), ("q8".into(), IMMUTABLE.into()));

    let mut broken = new;
    broken["spec"]["hidden_size"] = 97.into();
    write_json(&files.at("tiny/haikuq.json"), &broken);
    let answer = server.get("packages/tiny/tokenizer.json");
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("haikuq.json: "), "{}", answer.text());
    assert_eq!(recipe(), "q8", "the index keeps what it knew");
}

#[test]
fn what_cannot_be_served_is_refused_by_name() {
    let files = Files::new();
    let refused = |package: &str, args: &[&str]| {
        let mut command = haikuq();
        command.arg("serve").arg(files.at(package)).args(["--port", "0", "--no-open"]).args(args);
        fail(command)
    };
    let site = files.at("site");
    let site = ["--site", site.to_str().unwrap()];

    assert!(refused("nowhere", &site).contains("nowhere: No such file"));
    assert!(refused("checkpoint", &site).contains("checkpoint is no package: it has no haikuq.json"));
    std::fs::create_dir(files.at("copies")).unwrap();
    succeed(convert(&files.at("checkpoint"), &files.at("copies/tiny"), &[]));
    let twice = refused("tiny", &[&site[..], &[files.at("copies/tiny").to_str().unwrap()]].concat());
    assert!(twice.contains("are both called \"tiny\"") && twice.contains("copies"), "{twice}");
    let said = refused("tiny", &["--site", files.at("copies").to_str().unwrap()]);
    assert!(said.contains("there is no site at") && said.contains("make web") && said.contains("--site"), "{said}");

    let shard = files.manifest()["shards"][1].clone();
    let path = files.at("tiny").join(shard["name"].as_str().unwrap());
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..100]).unwrap();
    let said = refused("tiny", &site);
    assert!(said.contains(path.file_name().unwrap().to_str().unwrap()), "{said}");
    assert!(said.contains(&format!("has 100 bytes, but haikuq.json says {}", bytes.len())), "{said}");
    std::fs::remove_file(&path).unwrap();
    assert!(refused("tiny", &site).contains(path.file_name().unwrap().to_str().unwrap()));
    files.write("tiny/haikuq.json", "{}");
    assert!(refused("tiny", &site).contains("haikuq.json: the manifest's format is"));
}

#[test]
fn a_port_that_is_asked_for_is_kept_or_refused_and_the_usual_one_gives_way() {
    let files = Files::new();
    // Whoever has the usual port, this test or another program, the server has to take another one.
    let _taken = std::net::TcpListener::bind("127.0.0.1:4173");
    let usual = Server::start(files.command(&["--json"]));
    let port: u16 = usual.url.trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap();
    assert!((4174..4273).contains(&port), "{port}");
    assert_eq!(usual.get("").status, 200);
    let said = fail(files.command(&["--port", &port.to_string()]));
    assert!(said.contains(&format!("cannot listen at 127.0.0.1:{port}")), "{said}");
    let local = files.serve(&["--host", "localhost"]);
    assert!(local.url.starts_with("http://127.0.0.1:"), "{}", local.url);
}

#[test]
fn listening_beyond_this_machine_is_warned_of() {
    let files = Files::new();
    let mut command = files.command(&["--port", "0", "--host", "0.0.0.0", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let said: Value = serde_json::from_str(&line).unwrap();
    assert!(said["url"].as_str().unwrap().starts_with("http://127.0.0.1:"), "a URL that this machine's browser can open");
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("warning: listening at 0.0.0.0") && stderr.contains("WebGPU"), "{stderr}");
}

#[test]
#[cfg(unix)]
fn an_interrupt_ends_the_server_well_even_with_connections_open() {
    let files = Files::new();
    let mut server = files.serve(&[]);
    let address = server.url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let _idle = std::net::TcpStream::connect(&address).unwrap();
    // An answer shows that the server is up and so watches for interrupts.
    assert_eq!(server.get("").status, 200);
    let sent = Command::new("kill").args(["-INT", &server.child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert!(std::net::TcpStream::connect(&address).is_err(), "nobody listens any more");
}

/// What the server says to bytes as they are.
fn raw(server: &Server, request: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address(server)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn address(server: &Server) -> String {
    server.url.trim_start_matches("http://").trim_end_matches('/').to_owned()
}

#[test]
fn a_request_has_one_host() {
    let files = Files::new();
    let server = files.serve(&[]);
    for (hosts, status) in [
        ("host: localhost\r\n", "200 OK"),
        ("", "400 Bad Request"),
        ("host: localhost\r\nhost: localhost\r\n", "400 Bad Request"),
        ("host: localhost\r\nhost: evil.example\r\n", "400 Bad Request"),
        ("host: evil.example@localhost\r\n", "400 Bad Request"),
        ("host: a b\r\n", "400 Bad Request"),
        ("host: evil.example\r\n", "403 Forbidden"),
    ] {
        let said = raw(&server, &format!("GET / HTTP/1.1\r\n{hosts}connection: close\r\n\r\n"));
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{hosts:?}: {said}");
    }
}

/// Reads one answer of a connection that stays open.
fn read_answer(stream: &mut BufReader<std::net::TcpStream>) -> (String, Vec<u8>) {
    let (mut status, mut line, mut length) = (String::new(), String::new(), 0);
    stream.read_line(&mut status).unwrap();
    loop {
        line.clear();
        stream.read_line(&mut line).unwrap();
        let header = line.trim().to_ascii_lowercase();
        if let Some(n) = header.strip_prefix("content-length:") {
            length = n.trim().parse().unwrap();
        }
        if header.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (status, body)
}

#[test]
fn ten_thousand_requests_over_five_hundred_connections_lose_nothing() {
    const CONNECTIONS: usize = 500;
    const REQUESTS: usize = 20;
    // This process has as many files open.
    #[cfg(unix)]
    // SAFETY: both calls get a structure of their own, which lives as long as they take.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = limit.rlim_max.min(4096);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
    let files = Files::new();
    let server = files.serve(&[]);
    let shard = files.manifest()["shards"][0]["name"].as_str().unwrap().to_owned();
    let expected = std::fs::read(files.at("tiny").join(&shard)).unwrap();
    let idle: Vec<_> = (0..200).map(|_| std::net::TcpStream::connect(address(&server)).unwrap()).collect();
    let answered = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            let (server, shard, expected, answered) = (&server, &shard, &expected, &answered);
            let client = move || {
                let mut stream = BufReader::new(std::net::TcpStream::connect(address(server)).unwrap());
                for i in 0..REQUESTS {
                    let path = if i % 2 == 0 { format!("/packages/tiny/{shard}") } else { "/".into() };
                    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
                    stream.get_mut().write_all(request.as_bytes()).unwrap();
                    let (status, body) = read_answer(&mut stream);
                    assert!(status.starts_with("HTTP/1.1 200"), "{status}");
                    assert!(i % 2 == 1 || body == *expected, "{path}");
                    answered.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            };
            std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, client).unwrap();
        }
    });
    assert_eq!(answered.into_inner(), CONNECTIONS * REQUESTS);
    drop(idle);
}

#[test]
#[cfg(unix)]
fn idle_connections_give_way_where_the_system_allows_few() {
    let files = Files::new();
    let serve = files.command(&["--port", "0", "--json"]);
    let mut limited = Command::new("sh");
    // Files, of which each connection may take two.
    limited.args(["-c", "ulimit -n 128; exec \"$@\"", "sh"]).arg(serve.get_program()).args(serve.get_args());
    let server = Server::start(limited);
    let idle: Vec<_> = (0..100).map(|_| std::net::TcpStream::connect(address(&server)).unwrap()).collect();
    for _ in 0..3 {
        assert_eq!(server.get("packages/index.json").status, 200);
    }
    drop(idle);
}

#[test]
#[cfg(target_os = "linux")]
fn what_is_no_file_stops_nothing_but_itself() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let files = Files::new();
    succeed(convert(&files.at("checkpoint"), &files.at("other"), &[]));
    let mut server = files.serve(&[files.at("other").to_str().unwrap()]);
    let pipe = |path: &str| {
        let _ = std::fs::remove_file(files.at(path));
        mknodat(CWD, files.at(path), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    };
    let manifest = files.manifest();
    let shard = |i: usize| manifest["shards"][i]["name"].as_str().unwrap();
    pipe(&format!("tiny/{}", shard(0)));
    pipe("site/pipe");
    // A link to a file that is not the package's.
    files.write("secret.txt", "secret");
    std::fs::remove_file(files.at("tiny").join(shard(1))).unwrap();
    std::os::unix::fs::symlink(files.at("secret.txt"), files.at("tiny").join(shard(1))).unwrap();
    let answer = server.get(&format!("packages/tiny/{}", shard(0)));
    assert!(answer.status == 503 && answer.text().contains("a pipe"), "{}: {}", answer.status, answer.text());
    let answer = server.get(&format!("packages/tiny/{}", shard(1)));
    assert!(answer.status == 503 && answer.text().contains("leads out"), "{}: {}", answer.status, answer.text());
    assert_eq!(server.get("pipe").status, 404);
    pipe("tiny/haikuq.json");
    let answer = server.get(&format!("packages/tiny/{}", shard(2)));
    assert!(answer.status == 503 && answer.text().contains("a pipe"), "{}: {}", answer.status, answer.text());
    assert_eq!(server.get("packages/index.json").status, 200);
    assert_eq!(server.get("packages/other/haikuq.json").status, 200);
    assert!(Command::new("kill").args(["-INT", &server.child.id().to_string()]).status().unwrap().success());
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}
