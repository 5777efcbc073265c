//! What a hub answers, from one in this process. The first byte of an input says which answer the rest is: 0 the list of files,
//! 1 the headers that describe a file, 2 the index of shards that is downloaded.

#![cfg_attr(fuzzing, no_main)]

use haikuq_fuzz::fuzz_target;
use haikuq_fuzz::mutate::Mutator;
use haikuq_fuzz::target::{Outcome, Target, folder};
use haikuq_hub::{Companions, HubId, Settings, fetch};
use haikuq_runtime::package::sha256_hex;
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

/// What every file holds, where the list is made up.
const CONTENT: &[u8] = b"123456789";

/// What the hub is to answer.
static ANSWER: Mutex<(u8, Vec<u8>)> = Mutex::new((0, Vec::new()));

static SETTINGS: LazyLock<Settings> = LazyLock::new(|| {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client may open another while it keeps one.
            std::thread::spawn(move || serve(stream));
        }
    });
    let mut settings = Settings::new(&endpoint, folder().join("hub")).expect("an address");
    settings.retry.attempts = 1;
    settings.retry.first_wait = Duration::ZERO;
    settings.retry.timeout = Duration::from_secs(1);
    settings
});

/// Answers the requests of a connection, one after the other.
fn serve(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    // Closed ports are free at once: there are more inputs than ports.
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the structure and its size are those of the option.
    unsafe {
        let size = size_of_val(&linger) as libc::socklen_t;
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), size);
    }
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let request = line.clone();
        while line.trim() != "" {
            line.clear();
            reader.read_line(&mut line)?;
        }
        let (kind, input) = ANSWER.lock().map(|a| a.clone()).unwrap_or_default();
        let (commit, sha) = ("c".repeat(40), "a".repeat(64));
        let listed = |names: &[&str]| {
            let files: Vec<_> = names.iter().map(|name| json!({"rfilename": name})).collect();
            json!({"sha": commit, "siblings": files}).to_string().into_bytes()
        };
        let answer = match (kind, request.starts_with("HEAD"), request.contains("/api/models/")) {
            (0, _, true) => with_body(&input),
            (1, _, true) => with_body(&listed(&["config.json", "model.safetensors", "tokenizer.json"])),
            (_, _, true) => with_body(&listed(&["config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"])),
            (1, true, _) => [b"HTTP/1.1 200 OK\r\n", &input[..], b"\r\n\r\n"].concat(),
            (2, true, _) if request.contains("index.json") => {
                format!("HTTP/1.1 200 OK\r\nETag: \"x\"\r\nContent-Length: {}\r\n\r\n", input.len()).into_bytes()
            }
            (2, false, _) if request.contains("index.json") => with_body(&input),
            (_, true, _) => format!("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/x\r\nX-Linked-ETag: \"{sha}\"\r\nX-Linked-Size: 9\r\nContent-Length: 0\r\n\r\n").into_bytes(),
            (0, false, _) => with_body(CONTENT),
            _ => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
        };
        reader.get_mut().write_all(&answer)?;
        // A body without a header has no end that the client knows: the end of the connection is one.
        if kind == 1 && request.starts_with("HEAD") {
            let mut rest = [0; 64];
            reader.get_mut().shutdown(std::net::Shutdown::Write)?;
            while reader.read(&mut rest)? > 0 {}
            return Ok(());
        }
    }
}

fn with_body(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn seeds() -> Vec<Vec<u8>> {
    let (commit, sha) = ("c".repeat(40), "a".repeat(64));
    let file = |name: &str, size: u64| json!({"rfilename": name, "size": size, "blobId": commit});
    let large =
        |name: &str| json!({"rfilename": name, "size": 9, "blobId": commit, "lfs": {"sha256": sha, "size": 9, "pointerSize": 1}});
    let good = |name: &str| json!({"rfilename": name, "lfs": {"sha256": sha256_hex(CONTENT), "size": CONTENT.len()}});
    let lists = [
        vec![good("config.json"), good("model.safetensors"), good("tokenizer.json")],
        vec![good("model-q4-00001-of-00002.gguf"), good("model-q4-00002-of-00002.gguf")],
        vec![file("config.json", 3), large("model.safetensors"), file("tokenizer.json", 5), file("README.md", 1)],
        vec![file("config.json", 3), file("model.safetensors.index.json", 3), large("model-00001-of-00002.safetensors")],
        vec![file("config.json", 3), large("model-00001-of-00001.safetensors")],
        vec![large("model-q4-00001-of-00002.gguf"), large("model-q4-00002-of-00002.gguf")],
        vec![file("config.json", 3), large("onnx/model.onnx"), large("onnx/model.onnx_data"), large("onnx/model_q4.onnx")],
        vec![file("adapter_model.safetensors", 3), file("consolidated.00.pth", 3), file("pytorch_model.bin", 3)],
        vec![json!({"rfilename": "../../evil"}), json!({"rfilename": "config.json", "size": u64::MAX, "blobId": commit})],
    ];
    let mut seeds: Vec<Vec<u8>> =
        lists.iter().map(|l| [&[0], json!({"sha": commit, "siblings": l}).to_string().as_bytes()].concat()).collect();
    for headers in [
        "ETag: \"abc\"\r\nContent-Length: 5".to_owned(),
        format!("ETag: W/\"{sha}\"\r\nContent-Length: 5"),
        format!("X-Linked-ETag: \"{sha}\"\r\nX-Linked-Size: 18446744073709551615\r\nETag: \"y\"\r\nContent-Length: 0"),
        "ETag: \"../x\"\r\nContent-Length: 5".to_owned(),
        "Location: /other\r\nContent-Length: 99999999999999999999".to_owned(),
    ] {
        seeds.push([&[1], headers.as_bytes()].concat());
    }
    for map in [json!({"a": "model-00001-of-00002.safetensors"}), json!({"a": "../x", "b": 1}), json!({})] {
        seeds.push([&[2], json!({"metadata": {}, "weight_map": map}).to_string().as_bytes()].concat());
    }
    seeds
}

fn mutate(input: &mut Vec<u8>, mutator: &mut Mutator<'_>) {
    let kind = input.first().copied().unwrap_or(0);
    let mut rest = input.get(1..).unwrap_or_default().to_vec();
    if mutator.random.one_in(3) || !mutator.json(&mut rest) {
        mutator.bytes(&mut rest);
    }
    *input = [vec![kind], rest].concat();
    input.truncate(mutator.most_bytes);
}

fn run(input: &[u8]) -> Outcome {
    let (kind, answer) = input.split_first().unwrap_or((&0, &[]));
    if let Ok(mut place) = ANSWER.lock() {
        *place = (*kind, answer.to_vec());
    }
    let settings = &*SETTINGS;
    let _ = std::fs::remove_dir_all(&settings.cache);
    std::fs::create_dir_all(&settings.cache).map_err(|e| e.to_string())?;
    let id = HubId { repo: "org/name".into(), revision: None, file: None };
    let before = std::fs::read_dir(folder()).map_err(|e| e.to_string())?.count();
    let fetched = fetch(&id, &companions(), settings, &|_| {});
    let after = std::fs::read_dir(folder()).map_err(|e| e.to_string())?.count();
    assert_eq!(before, after, "nothing is written outside of the cache");
    // Another run has another port and other times: the answer leaves both out.
    fetched.map(|snapshot| format!("a snapshot, {}", snapshot.commit)).map_err(|e| e.to_string())
}

fuzz_target!(Target {
    name: "hub",
    seeds,
    dictionary: &[
        "sha",
        "siblings",
        "rfilename",
        "size",
        "blobId",
        "lfs",
        "sha256",
        "oid",
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00001-of-99999.safetensors",
        "model.gguf",
        "mmproj.gguf",
        "onnx/model.onnx",
        "tokenizer.json",
        "adapter_model.safetensors",
        "..",
        "/",
        "a/../b",
        "ETag: ",
        "Content-Length: ",
        "X-Linked-ETag: ",
        "X-Linked-Size: ",
        "Location: ",
        "Transfer-Encoding: chunked",
        "\r\n",
        "W/",
        "\"",
        "weight_map",
        "18446744073709551615",
        "Content-Encoding: gzip",
        "Connection: close",
    ],
    mutate,
    most_bytes: 4 << 10,
    run,
});

/// Those that conversions ask for.
fn companions() -> Companions<'static> {
    let mut companions = Companions::default();
    companions.always.extend(haikuq::checkpoint::COMPANION_FILES);
    companions.without_tokenizer.extend(haikuq::checkpoint::tokenizer_files());
    companions
}
